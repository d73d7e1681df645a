"""Triton backend, installed as fastloss.triton_kernels: losses/F.py has the math of a family, kernels/S.py the loops of
a skeleton, operators/S.py its launchers, with the names of fastloss/losses and fastloss/operators.

It imports torch, triton, what fastloss/core says of dtypes and of the losses (its registry), and what
fastloss/operators says of shapes. Nothing of fastloss imports it before the first call of a launcher: importing Triton
takes a second.
"""
