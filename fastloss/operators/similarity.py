"""The operators over all pairs of two sets of vectors: schemas, shapes without data (meta), vmap rules.

``query`` (N, D), ``key`` (M, D), ``own`` (N, D) and the 0-d ``scale`` and ``bias`` have one dtype, float32 or float64.
z[i, j] = scale <query_i, key_j>, and z[i, M] = scale <query_i, own_i> if there is ``own``.

``similarity_softmax``: loss_i = log(sum_j exp(z[i, j])) - z[i, target_i], and 0 if target_i is -100. Not in the sum:
column dropped_i; every key j with labels_i = key_labels_j. The target is in the sum. Without ``key`` (and
``key_labels``), the keys are the queries, and the pair (i, i) is not in the sum.
``similarity_two_way``: (loss_i by rows + loss_i by columns) / 2 with target_i = i.
``similarity_sigmoid``: loss_i = sum_j softplus(-+(z[i, j] + bias)), - on the diagonal; M >= N.

``wanted``: bit k is set if the gradient by argument k is wanted. ``loss``: (N,) losses, or, if any gradient is wanted,
their sum, 0-d. ``gradients``: those of sum_i upstream_i loss_i (1 without ``upstream``), in the arguments' order.

``hardest_pairs``: for each of the vectors, the index of the farthest one with its label and of the nearest one with
another label, -1 where there is none.
``similarity_semi_hard``: loss_i = sum of max(0, d(i, p) - d(i, n) + margin) over the positives p of i, where n is the
nearest vector with another label that is farther than p, or else the farthest with another label; see
fastloss/skeletons/triplets.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastloss.operators.batch import one_by_one

_HOW = "Tensor? upstream, int wanted"
SCHEMAS = {
    "similarity_softmax": "(Tensor query, Tensor? key, Tensor? own, Tensor scale, Tensor target, Tensor? dropped, "
    f"Tensor? labels, Tensor? key_labels, {_HOW}) -> (Tensor loss, Tensor[] gradients)",
    "similarity_two_way": f"(Tensor query, Tensor key, Tensor scale, {_HOW}) -> (Tensor loss, Tensor[] gradients)",
    "similarity_sigmoid": f"(Tensor query, Tensor key, Tensor scale, Tensor bias, {_HOW}) -> "
    "(Tensor loss, Tensor[] gradients)",
    "hardest_pairs": "(Tensor vectors, Tensor labels) -> (Tensor positive, Tensor negative)",
    "similarity_semi_hard": f"(Tensor vectors, Tensor labels, float margin, bool squared, {_HOW}) -> "
    "(Tensor loss, Tensor[] gradients)",
}
DIFFERENTIABLE = {
    "similarity_softmax": (0, 1, 2, 3),
    "similarity_two_way": (0, 1, 2),
    "similarity_sigmoid": (0, 1, 2, 3),
    "similarity_semi_hard": (0,),
}
"""The places of the arguments that can have gradients."""


# ------------------------------------------------------------------------------------------ shapes without data


def _meta(name: str) -> Callable[..., Any]:
    def meta(*arguments: Any) -> tuple[Tensor, list[Tensor]]:
        query, wanted = arguments[0], arguments[-1]
        loss = query.new_empty(() if wanted else query.shape[:1])
        places = [k for k in DIFFERENTIABLE[name] if wanted >> k & 1]
        return loss, [torch.empty_like(arguments[k], memory_format=torch.contiguous_format) for k in places]

    return meta


def _meta_hardest_pairs(vectors, labels):
    return tuple(vectors.new_empty(vectors.shape[:1], dtype=torch.int64) for _ in range(2))


META: dict[str, Any] = {
    **{name: _meta(name) for name in DIFFERENTIABLE},
    "hardest_pairs": _meta_hardest_pairs,
}


# ------------------------------------------------------------------------------------------ vmap


def vmap_rules(ops: Any) -> dict[str, Any]:
    return {name: functools.partial(one_by_one, getattr(ops, name)) for name in SCHEMAS}
