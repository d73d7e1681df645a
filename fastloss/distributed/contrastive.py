"""Contrastive losses of a batch that is shared out over ranks: each compares its own rows with those of all.

The rows are gathered once, with a gradient; the similarities are computed in tiles and never stored: a rank takes
O(N D) memory for N rows in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.core.composite import explained
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.distributed.collectives import Ranks, all_gather_with_grad
from fastloss.losses import contrastive
from fastloss.skeletons.comparisons import (
    SigmoidComparison,
    SoftmaxComparison,
    check_matrix,
    check_reduction,
    multiplier,
    one_precision,
    unit,
)
from fastloss.skeletons.similarity import Similarity

# ------------------------------------------------------------------------------------------ one rank's rows, all keys


def _own_softmax(
    query: Tensor, key: Tensor, logit_scale: float | Tensor, first: int, normalize: bool, label_smoothing: float
) -> SoftmaxComparison:
    query, key = (unit(x, normalize) for x in one_precision(query=query, key=key))
    target = torch.arange(query.shape[0], device=query.device) + first
    scale = multiplier(logit_scale, query, "logit_scale")
    return SoftmaxComparison(query, key, scale, target=target, label_smoothing=label_smoothing)


@fused(Similarity(_own_softmax, "query"))
def _softmax_of_own(
    query: Tensor,
    key: Tensor,
    logit_scale: float | Tensor,
    first: int,
    normalize: bool,
    label_smoothing: float,
    *,
    reduction: str,
) -> Tensor:
    """Query i is to find key first + i among all."""
    comparison = _own_softmax(query, key, logit_scale, first, normalize, label_smoothing)
    return comparison.reference(reduction).to(result_dtype(query))


def _own_sigmoid(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, logit_bias: float | Tensor, normalize: bool
) -> SigmoidComparison:
    image, text = (unit(x, normalize) for x in one_precision(image=image, text=text))
    scale, bias = multiplier(logit_scale, image, "logit_scale"), multiplier(logit_bias, image, "logit_bias")
    return SigmoidComparison(image, text, scale, bias)


@fused(Similarity(_own_sigmoid, "image"))
def _sigmoid_of_own(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, logit_bias: float | Tensor, normalize: bool, *,
    reduction: str,
) -> Tensor:  # fmt: skip
    """Image i and text i are a pair; the texts beyond the images belong to none."""
    comparison = _own_sigmoid(image, text, logit_scale, logit_bias, normalize)
    return comparison.reference(reduction).to(result_dtype(image))


class _Batch:
    """The batch of all ranks, and the part of the loss that this rank returns."""

    def __init__(
        self, own: int, group: dist.ProcessGroup | None, sizes: Sequence[int] | None, reduction: str, scale: str
    ) -> None:
        check_reduction(reduction)
        if scale not in ("mean", "sum"):
            raise ValueError(f"{scale!r} is not a valid value for scale; choose mean or sum")
        ranks = Ranks.of(group)
        self.own, self.group, self.sizes = own, group, sizes
        sizes = [own] * ranks.size if sizes is None else sizes
        self.first, self.total = sum(sizes[: ranks.rank]), sum(sizes)
        self.reduction, self.factor = reduction, ranks.size if scale == "mean" else 1
        self.local = "none" if reduction == "none" else "mean"  # a sum might not fit a half

    def gathered(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all ranks of both, (N, D), in one all-gather."""
        both = all_gather_with_grad(torch.cat([x, y], 1), self.group, sizes=self.sizes)
        return both[:, : x.shape[1]], both[:, x.shape[1] :]

    def own_first(self, rows: Tensor) -> Tensor:
        """(N, D), those of this rank at the beginning."""
        end = self.first + self.own
        return torch.cat([rows[self.first : end], rows[: self.first], rows[end:]])

    def part(self, loss: Tensor) -> Tensor:
        if self.reduction == "none":
            return loss
        share = self.own if self.reduction == "sum" else self.own / max(1, self.total)
        return loss * (share * self.factor)


# ------------------------------------------------------------------------------------------ the losses


@explained
def info_nce(
    query: Tensor,
    positive: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    decoupled: bool = False,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    scale: str = "mean",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    r""":func:`fastloss.info_nce` of the batch of all ranks: each query is to find its positive among the keys of all.

    One all-gather of the keys in forward, one reduce-scatter of their gradient in backward. Queries stay where they
    are.

    Args:
        query: this rank's queries.
        positive: the positive key of each; all other keys, those of the other ranks too, are its negatives.
        group: the ranks among which the batch is shared out; None: the default group.
        temperature, normalize, decoupled, label_smoothing: as in :func:`fastloss.info_nce`.
        reduction: ``"none"``, ``"mean"`` (over the queries of all ranks) or ``"sum"``.
        scale: what the wrapper does with the gradients of the ranks. ``"mean"``, as DDP and FSDP: the mean of the
            ranks' losses is the loss of the whole batch; ``"sum"``: their sum is.
        sizes: the number of rows of each rank, where they differ.

    Shape:
        - query, positive: (n, D), of which n may differ between the ranks
        - output: (n,) for ``"none"``, else ()

    Returns:
        This rank's part of the loss, in the dtype of ``query``. Its gradients are those of all ranks' parts together.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        van den Oord et al. 2018, arXiv:1807.03748.
    """
    check_matrix(query, "query")
    check_matrix(positive, "positive", query.shape[1], query.shape[0])
    batch = _Batch(query.shape[0], group, sizes, reduction, scale)
    keys = all_gather_with_grad(positive, group, sizes=sizes)
    loss = contrastive.info_nce(
        query,
        keys,
        temperature=temperature,
        normalize=normalize,
        target=torch.arange(batch.own, device=query.device) + batch.first,
        decoupled=decoupled,
        label_smoothing=label_smoothing,
        reduction=batch.local,
    )
    return batch.part(loss)


@explained
def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor = 1 / 0.07,
    group: dist.ProcessGroup | None = None,
    *,
    normalize: bool = True,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    scale: str = "mean",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    r""":func:`fastloss.clip_loss` of the batch of all ranks: each rank's images find their texts among those of all.

    One all-gather of images and texts in forward, one reduce-scatter of their gradients in backward. A rank computes
    two blocks of n x N similarities, in tiles.

    Args:
        image, text: the embeddings of this rank's pairs.
        logit_scale: as in :func:`fastloss.clip_loss`; the same on every rank.
        group, reduction, scale, sizes: as in :func:`info_nce`.
        normalize, label_smoothing: as in :func:`fastloss.clip_loss`.

    Shape:
        - image, text: (n, D), of which n may differ between the ranks
        - output: (n,) for ``"none"``, else ()

    Returns:
        This rank's part of the loss, in the dtype of ``image``, as in :func:`info_nce`. So is the gradient of
        ``logit_scale``, which the wrapper adds up or averages like any other.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        Radford et al. 2021, arXiv:2103.00020.
    """
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    batch = _Batch(image.shape[0], group, sizes, reduction, scale)
    images, texts = batch.gathered(image, text)
    to_text = _softmax_of_own(image, texts, logit_scale, batch.first, normalize, label_smoothing, reduction=batch.local)
    to_image = _softmax_of_own(
        text, images, logit_scale, batch.first, normalize, label_smoothing, reduction=batch.local
    )
    return batch.part((to_text + to_image) / 2)


@explained
def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    group: dist.ProcessGroup | None = None,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    scale: str = "mean",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    r""":func:`fastloss.siglip_loss` of the batch of all ranks: each rank's images beside the texts of all.

    One all-gather of the texts in forward, one reduce-scatter of their gradient in backward. Images stay where they
    are.

    Args:
        image, text: the embeddings of this rank's pairs.
        logit_scale, logit_bias: as in :func:`fastloss.siglip_loss`; the same on every rank.
        group, reduction, scale, sizes: as in :func:`info_nce`.
        normalize: divide every vector by its norm.

    Shape:
        - image, text: (n, D), of which n may differ between the ranks
        - output: (n,) for ``"none"``, else ()

    Returns:
        This rank's part of the loss, in the dtype of ``image``, as in :func:`info_nce`. So are the gradients of
        ``logit_scale`` and ``logit_bias``.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Zhai et al. 2023, arXiv:2303.15343.
    """
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    batch = _Batch(image.shape[0], group, sizes, reduction, scale)
    texts = batch.own_first(all_gather_with_grad(text, group, sizes=sizes))
    return batch.part(_sigmoid_of_own(image, texts, logit_scale, logit_bias, normalize, reduction=batch.local))
