"""pytorch-metric-learning: its losses, under its names and with its arguments, on our kernels.

Subclasses of its own: reducers, regularizers, ``CrossBatchMemory`` and ``DistributedLossWrapper`` take them. A call
that our functions have no form for is its own: with pairs of a miner, with reference embeddings, with another distance
than the cosine, with statistics to be collected.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

import fastloss
from fastloss.integrations.rebinding import check_signature

__all__ = ["ArcFaceLoss", "CosFaceLoss", "SupConLoss"]


def _ours(loss: Any, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor) -> bool:
    distance = loss.distance
    cosine = type(distance) is CosineSimilarity and (distance.p, distance.power) == (2, 1)
    alone = labels is not None and indices_tuple is None and ref_emb is embeddings
    return cosine and distance.normalize_embeddings and alone and not loss.collect_stats


def _elements(values: Tensor) -> dict[str, Any]:
    """Losses (N,), one for each embedding, as its reducers take them."""
    indices = torch.arange(len(values), device=values.device)
    return {"loss": {"losses": values, "indices": indices, "reduction_type": "element"}}


class SupConLoss(losses.SupConLoss):
    """:func:`fastloss.supcon_loss` for the matrix of all pairs, which is not stored."""

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        if labels is None or not _ours(self, embeddings, labels, indices_tuple, ref_emb):
            theirs: dict[str, Any] = super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
            return theirs
        if not len(labels):
            nothing: dict[str, Any] = self.zero_losses()
            return nothing
        values = fastloss.supcon_loss(embeddings, labels, temperature=self.temperature, reduction="none")
        # It has no loss without a negative.
        return _elements(torch.where((labels != labels[0]).any(), values, 0))


class _MarginSoftmax:
    """What ArcFace and CosFace share: cosines with a margin at the target, softmax and gradient in one kernel."""

    margin_name: str

    def compute_loss(
        self: Any, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        if labels is None or not _ours(self, embeddings, labels, indices_tuple, ref_emb):
            theirs: dict[str, Any] = super().compute_loss(  # type: ignore[misc]
                embeddings, labels, indices_tuple, ref_emb, ref_labels
            )
            return theirs
        self.cast_types(embeddings.dtype, embeddings.device)
        margin: dict[str, Any] = {self.margin_name: float(self.margin)}
        weight = self.W.t()  # (C, D)
        found = _elements(
            fastloss.margin_softmax_loss(embeddings, weight, labels, s=self.scale, reduction="none", **margin)
        )
        self.add_weight_regularization_to_loss_dict(found, weight)
        return found


class ArcFaceLoss(_MarginSoftmax, losses.ArcFaceLoss):
    """:func:`fastloss.arcface_loss`, with its margin in degrees and its own weights, ``W`` (D, C)."""

    margin_name = "m2"


class CosFaceLoss(_MarginSoftmax, losses.CosFaceLoss):
    """:func:`fastloss.cosface_loss`, with its own weights, ``W`` (D, C)."""

    margin_name = "m3"


for _loss in (SupConLoss, ArcFaceLoss, CosFaceLoss):
    check_signature(getattr(losses, _loss.__name__), "compute_loss", _loss.compute_loss)
