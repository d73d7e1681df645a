"""Which laws run on Triton's interpreter: files, and what `-k` takes of them. tools/mutants runs the same, and reads
them here: nothing but constants, as it must not import the tests that its lanes are to import from another tree."""

from __future__ import annotations

# What the lanes have not tested themselves; the rest of the laws takes minutes in the interpreter.
POINTWISE_FILES = ("laws/test_metrics.py", "laws/test_layouts.py")
POINTWISE_LAWS = "triton and skeleton_pointwise and (test_terms or broadcasting)"
OUTER_FILES = ("laws/test_values.py", "laws/test_layouts.py", "laws/test_masks.py", "skeletons/test_outer.py")
OUTER_LAWS = (
    "triton and (skeleton_outer and (kernels_agree and (two or shared) or two and (masks or layouts)) or "
    "special_values or mixed_dtypes or (sizes and not 1025 and not 1030 and not 70-2))"
)
SCAN_FILES = ("skeletons/test_scan.py",)
SCAN_LAWS = (
    "triton and (sizes or packed or nothing_passes) or (loops_over_time and float32 and (everything or forward))"
)
# One case of each path of the launchers; the whole table takes minutes.
SIMILARITY_FILES = ("laws/test_values.py", "laws/test_layouts.py", "skeletons/test_similarity.py")
SIMILARITY_PATHS = (
    "triton and more_keys_than_queries or "
    "triton and skeleton_similarity and not float16 and (kernels_agree and (labels or queue or supcon_loss-torch or "
    "siglip or clip_loss-torch or (decoupled and not target and not supcon)) or "
    "layouts and float64 and (clip_loss or info_nce))"
)
SIMILARITY_CORNERS = ("laws/test_values.py", "skeletons/test_similarity.py")
# Autograd, transforms, dispatch on one shape with edges and one with a class stride; kernels have lanes of their own,
# for every dtype.
ROW_FILES = (
    "laws/test_values.py", "laws/test_gradients.py", "laws/test_transforms.py", "skeletons/test_cross_entropy.py",
    "skeletons/test_linear.py", "skeletons/test_row_outputs.py",
)  # fmt: skip
ROW_LAWS = (
    "triton and not 4500 and not 5003 and not 204 and (skeleton_row and (7x37 or 2x5x21) and "
    "((kernels_agree and (float32 or bfloat16)) or gradcheck or backward_again or transforms) or "
    "inplace or special_values or no_bias or masked_rows_may or (numbers_of_rows and float32))"
)
# Of the numbers that a call hands over: hyper-parameters, normalizers, dtypes.
NUMBER_FILES = ("laws/test_parameters.py", "laws/test_masks_fit.py", "laws/test_arguments.py")
NUMBER_LAWS = (
    "(edges_of_a_parameter and float32) or (normalizer_is_one and (huber or ppo_clip)) or dtypes_that_do_not_fit"
)
