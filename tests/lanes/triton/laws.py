"""Which laws run on Triton's interpreter, as `-k` has it. tools/mutants runs the same, and reads them here: nothing but
constants, because it must not import the tests that its lanes are to import from another tree."""

from __future__ import annotations

# What the lanes have not tested themselves; the rest of the laws takes minutes in the interpreter.
POINTWISE_LAWS = "triton and (test_terms or broadcasting)"
PAIRS_LAWS = (
    "triton and ((agree and (two or shared)) or special or mixed or (sizes and not 1025 and not 1030 and not 70-2) or "
    "(two and (not_there or layouts)))"
)
# One case of each path of the launchers; the whole table takes minutes.
PAIRWISE_PATHS = (
    "triton and (kernels_agree and (labels or queue or supcon_loss-triton or siglip or clip_loss-triton or "
    "(decoupled and not target and not supcon)) or layouts and (clip_loss or info_nce))"
)
# Of the numbers that a call hands over: hyper-parameters, normalizers, dtypes.
NUMBER_LAWS = (
    "(edges_of_a_parameter and float32) or (normalizer_is_one and (huber or ppo_clip)) or dtypes_that_do_not_fit"
)
