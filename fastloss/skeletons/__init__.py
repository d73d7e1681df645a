"""The skeletons: each lowers the arguments of its losses to operators, and has their autograd.

For a skeleton S, ``skeletons/S.py`` has the class that :func:`fastloss.core.dispatch.fused` takes, ``operators/S.py``
the schemas of its operators with their shapes and vmap rules. The kernels are in csrc/cpu, csrc/cuda and triton_kernels
under the same names.
"""
