"""The losses that language models are trained with: next tokens, and masked tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.composite import composite
from fastloss.core.metrics import Metrics
from fastloss.losses.classification import cross_entropy, linear_cross_entropy
from fastloss.losses.log_prob import linear_selective_log_softmax, selective_log_softmax

__all__ = ["lm_loss", "mlm_loss"]


def _shifted(labels: Tensor, cu_seqlens: Tensor | None, ignore_index: int) -> Tensor:
    """(..., T): at t the label of t + 1; at the end, and at the end of every packed sequence, none."""
    next_labels = torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], ignore_index)], -1)
    if cu_seqlens is None:
        return next_labels
    position = torch.arange(labels.shape[-1], device=labels.device)
    return torch.where(torch.isin(position, cu_seqlens[1:].to(position.dtype) - 1), ignore_index, next_labels)


@composite(calls_model=True)
def lm_loss(
    logits_or_hidden: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    shift: bool = True,
    shift_labels: Tensor | None = None,
    num_items_in_batch: float | Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Cross-entropy of the next token: what a causal language model is trained with.

    .. math:: \ell = -\frac1n \sum_t \log\mathrm{softmax}(x_t)_{y_{t+1}}

    over the n positions whose next label counts. Nothing of the size of the logits is copied: the labels are shifted,
    not the logits. With ``weight``, the first argument are hidden states, and the logits, hidden @ weight.T + bias, are
    never stored whole (:func:`fastloss.linear_cross_entropy`).

    Args:
        logits_or_hidden: logits; with ``weight`` hidden states.
        labels: the tokens; -100 (``ignore_index``) where nothing is to be predicted.
        weight: output matrix.
        bias: of the logits.
        shift: whether the label of a position is the next one's; False: its own, the labels are shifted already.
        shift_labels: labels that are shifted already, instead of ``labels`` (context parallelism hands them out).
        num_items_in_batch: the denominator of the mean, where gradients are accumulated over several batches, or
            devices: how many labels count in all of them.
        cu_seqlens: of packed sequences: where each begins, and the end of the last. Nothing is predicted across.
        ignore_index: the label that does not count.
        label_smoothing, z_loss, softcap, temperature: as in :func:`fastloss.cross_entropy`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over tokens.
        return_terms: also return the accuracy, which costs another reading of the logits.

    Shape:
        - logits_or_hidden: (..., T, C) or (..., T, H)
        - labels, shift_labels: (..., T)
        - weight: (C, H)
        - bias: (C,)
        - cu_seqlens: (B + 1,), for (T, C) or (1, T, C)
        - output: (..., T) for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``: ``accuracy``, the share of the labels that count whose logit
        is the largest, and ``tokens``, how many count.

    Raises:
        ValueError: for shapes that do not fit.
        IndexError: for a label that is no class (on a CPU; a GPU's kernel traps).

    Source:
        Radford et al. 2018, "Improving language understanding by generative pre-training".

    Example:
        >>> lm_loss(torch.zeros(1, 3, 2), torch.tensor([[0, 1, 0]])).item()
        0.6931...
    """
    if labels.is_floating_point():
        raise ValueError(f"labels are class indices, got {labels.dtype}")
    labels = labels if shift_labels is None else shift_labels
    if labels.shape != logits_or_hidden.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit {tuple(logits_or_hidden.shape)}")
    if shift and shift_labels is None:
        labels = _shifted(labels, cu_seqlens, ignore_index)
    flat, target = logits_or_hidden.reshape(-1, logits_or_hidden.shape[-1]), labels.reshape(-1)
    how = "sum" if num_items_in_batch is not None and reduction == "mean" else reduction
    options: dict[str, Any] = {
        "ignore_index": ignore_index, "reduction": how, "label_smoothing": label_smoothing, "z_loss": z_loss,
        "softcap": softcap, "temperature": temperature,
    }  # fmt: skip
    if weight is not None and torch._C._are_functorch_transforms_active():  # which the walk over chunks has no rule for
        flat, weight, bias = F.linear(flat, weight, bias), None, None
    if weight is None:
        loss = cross_entropy(flat, target, **options)
    else:
        loss = linear_cross_entropy(flat, weight, target, linear_bias=bias, **options)
    if num_items_in_batch is not None and reduction == "mean":
        loss = loss / num_items_in_batch
    if reduction == "none":
        loss = loss.reshape(labels.shape)
    return loss, _accuracy(flat, weight, bias, target, ignore_index) if return_terms else {}


@torch.no_grad()
def _accuracy(x: Tensor, weight: Tensor | None, bias: Tensor | None, target: Tensor, ignore_index: int) -> Metrics:
    counted = target != ignore_index
    index = torch.where(counted, target, 0)
    outputs = ("is_top1",)
    if weight is None:
        found = selective_log_softmax(x, index, outputs=outputs, mask=counted)
    else:
        found = linear_selective_log_softmax(x, weight, index, bias, outputs=outputs, mask=counted)
    assert found.is_top1 is not None
    tokens = counted.sum()
    return {"accuracy": found.is_top1.sum() / tokens.clamp(min=1), "tokens": tokens.float()}


@composite(calls_model=True)
def mlm_loss(
    logits_or_hidden: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_items_in_batch: float | Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Cross-entropy of the masked tokens: what a masked language model is trained with.

    .. math:: \ell = -\frac1n \sum_{t \in M} \log\mathrm{softmax}(x_t)_{y_t}

    over the n positions M whose label is not -100. :func:`lm_loss` without a shift.

    Args:
        logits_or_hidden: logits; with ``weight`` hidden states.
        labels: the tokens that were masked; -100 (``ignore_index``) everywhere else.
        weight: output matrix.
        bias: of the logits.
        num_items_in_batch: the denominator of the mean, where gradients are accumulated over several batches.
        ignore_index: the label that does not count.
        label_smoothing, z_loss, softcap, temperature: as in :func:`fastloss.cross_entropy`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over tokens.
        return_terms: also return the accuracy, which costs another reading of the logits.

    Shape:
        - logits_or_hidden: (..., T, C) or (..., T, H)
        - labels: (..., T)
        - weight: (C, H)
        - bias: (C,)
        - output: (..., T) for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``: ``accuracy`` and ``tokens``, as :func:`lm_loss`.

    Raises:
        ValueError: for shapes that do not fit.
        IndexError: for a label that is no class (on a CPU; a GPU's kernel traps).

    Source:
        Devlin et al. 2018 (BERT), arXiv:1810.04805.

    Example:
        >>> mlm_loss(torch.zeros(1, 3, 2), torch.tensor([[-100, 1, -100]])).item()
        0.6931...
    """
    result: Any = lm_loss(
        logits_or_hidden, labels, weight, bias, shift=False, num_items_in_batch=num_items_in_batch,
        ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap,
        temperature=temperature, reduction=reduction, return_terms=return_terms,
    )  # fmt: skip
    return result if return_terms else (result, {})
