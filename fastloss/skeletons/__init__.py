"""The skeletons: each lowers the arguments of its losses to operators, and has their autograd.

For a skeleton x, ``x.py`` has the class that :func:`fastloss.dispatch.fused` takes, ``x_operators.py`` the schemas of
its operators with their shapes and vmap rules, ``x_autograd.py`` the autograd Functions around them. The kernels are in
csrc/cpu, csrc/cuda and triton_kernels under the same names.

``linear_row`` is no skeleton of kernels but a composition: matrix products, and the row operators on chunks of logits.
"""
