"""Triton backend: one file a skeleton (row.py), what they share in common.py. Installed as fastloss.triton_kernels.

This package imports torch and triton and nothing of fastloss, so that fastloss can decide when to import it.
"""
