"""Log-probabilities over a vocabulary of which every rank holds a slice of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.core.arguments import Refused, check_range
from fastloss.core.autograd import differentiate, gradient_wanted
from fastloss.core.dispatch import by_operators, namespace_for
from fastloss.core.registry import LOSSES
from fastloss.distributed.collectives import Ranks
from fastloss.distributed.vocabulary import VocabularyProblem, own_classes, rows_of
from fastloss.losses.log_prob import OUTPUTS, LogSoftmaxOutputs
from fastloss.operators.row import COMMON_STATISTICS, LOG_SUM, MAX, TARGET
from fastloss.skeletons.row_outputs import LEFT_OUT

_PLACES = {name: OUTPUTS.index(name) for name in ("log_prob", "entropy", "logsumexp", "is_top1")}


@by_operators
def vocab_parallel_log_probs(
    logits_local: Tensor,
    index: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    vocab_range: tuple[int, int] | None = None,
    vocab_size: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    outputs: Sequence[str] = ("log_prob",),
    mask: Tensor | None = None,
) -> LogSoftmaxOutputs:
    r"""Log-probabilities of chosen classes, where every rank holds some of the classes of the logits.

    What :func:`fastloss.selective_log_softmax` finds of the ranks' logits side by side, on every rank the same bits:
    what policy-gradient and preference losses take as ``logp``. One all-gather of three floats a row, four with the
    entropy; backward has no collective.

    Args:
        logits_local: this rank's logits. Its columns are neighbouring classes; a rank may have none.
        index: class indices among those of all ranks, the same on every rank.
        group, vocab_range, vocab_size: as in :func:`vocab_parallel_cross_entropy`.
        temperature, softcap, logit_scale: as in :func:`fastloss.selective_log_softmax`.
        outputs: what to return, of "log_prob", "entropy", "logsumexp", which have gradients, and "is_top1".
        mask: of bool, one for each row; a row where it is False is not read, and has outputs and gradients of 0.

    Shape:
        - logits_local: (..., C_local)
        - index: (...)
        - mask: broadcasts to (...)
        - output: a named tuple of (...)

    Returns:
        A named tuple of what was asked for, None for the rest; float32 (float64 of float64), and bool.

    Raises:
        ValueError: arguments that do not fit; IndexError: an index out of range; NotImplementedError: from a second
        backward through the gradient.

    Source:
        Shoeybi et al. 2019 (Megatron-LM), arXiv:1909.08053.
    """
    if not isinstance(logits_local, Tensor) or logits_local.dim() < 1 or not logits_local.is_floating_point():
        raise ValueError("logits_local must be a floating-point tensor of shape (..., C_local)")
    unknown = set(outputs) - _PLACES.keys()
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; choose from {', '.join(_PLACES)}")
    shape = logits_local.shape[:-1]
    if index.is_floating_point() or index.shape != shape:
        raise ValueError(f"index {tuple(index.shape)} does not fit logits {tuple(logits_local.shape)}")
    kernel = "log_softmax_and_entropy" if "entropy" in outputs else "log_softmax_of_index"
    extras = {"temperature": temperature, "softcap": softcap or 0.0, "logit_scale": logit_scale}
    parameters = LOSSES[kernel].signature.parameter_values(extras)
    if isinstance(parameters, Refused):
        raise ValueError(parameters.reason)
    ranks = Ranks.of(group)
    first, valid, classes = own_classes(logits_local.shape[-1], ranks, vocab_range, vocab_size)

    logits = rows_of(logits_local, valid)
    target = index.long()
    if mask is not None:
        target = torch.where(mask.expand(shape) != 0, target, LEFT_OUT)
    target = target.reshape(-1).contiguous()
    check_range(target, classes, LEFT_OUT)
    sent = (MAX, LOG_SUM, TARGET, *[COMMON_STATISTICS] * ("entropy" in outputs))
    problem = VocabularyProblem(
        kernel, tuple(parameters), LEFT_OUT, first, classes, sent, ranks, (0,) if gradient_wanted(logits) else ()
    )
    found = differentiate(problem, namespace_for(logits), [logits, target])  # (9, rows)
    named = {name: found[_PLACES[name]].reshape(shape) for name in outputs}
    if "is_top1" in named:
        named["is_top1"] = named["is_top1"].detach() != 0
    return LogSoftmaxOutputs(**named)
