"""Kernels made of torch's matrix products and our operators."""
