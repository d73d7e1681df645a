"""From logits, and from hidden states, to log-probabilities of sequences, and to the losses of preferences of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.composite import explained
from fastloss.core.derived import derived, parameter
from fastloss.core.reductions import check_fit
from fastloss.losses.alignment.preference import (
    BY_LENGTH,
    LENGTHS,
    OF_THE_BATCH,
    cpo_loss,
    dpo_loss,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from fastloss.losses.alignment.reward import reward_model_loss
from fastloss.losses.linear_losses import PAIRS, SEQUENCES, linear_loss
from fastloss.losses.log_prob import LogSoftmaxOutputs, linear_selective_log_softmax, selective_log_softmax
from fastloss.losses.token_losses import BIAS, entering

__all__ = [
    "cpo_loss_from_logits",
    "dpo_loss_from_logits",
    "kto_loss_from_logits",
    "linear_cpo_loss",
    "linear_dpo_loss",
    "linear_kto_loss",
    "linear_orpo_loss",
    "linear_reward_model_loss",
    "linear_sequence_logps",
    "linear_simpo_loss",
    "orpo_loss_from_logits",
    "sequence_logps",
    "simpo_loss_from_logits",
]

IGNORED = -100


def _counted(labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(labels, which of them count)"""
    counted = labels != IGNORED
    if mask is not None:
        counted = counted & (mask != 0)
    return torch.where(counted, labels, 0), counted


def _by_sequence(logps: Tensor, counted: Tensor, average: bool, cu_seqlens: Tensor | None) -> Tensor:
    """Log-probabilities of tokens (..., T), 0 where they do not count, summed: (...), or (B,) of packed ones."""
    if cu_seqlens is None:
        sums, lengths = logps.sum(-1), counted.sum(-1)
    else:
        # differences of running sums, in float64: the same bits on every device, which a scattered sum has not
        ends = cu_seqlens.long()
        sums, lengths = (
            F.pad(x.to(dtype).cumsum(0), (1, 0)).index_select(0, ends).diff()
            for x, dtype in ((logps, torch.float64), (counted, torch.int64))
        )
        sums = sums.to(logps.dtype)
    return sums / lengths.clamp(min=1) if average else sums


@explained
def sequence_logps(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    average: bool = False,
    cu_seqlens: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    r"""Log-probability of each sequence, from logits.

    .. math:: \log\pi(y) = \sum_t m_t \log p_t(y_t), \qquad p_t = \mathrm{softmax}(z_t),

    m_t being 1 where a token counts. The logits at t predict the label at t: leave the logits whole, which needs no
    copy, and shift the labels, with -100 at the end. Forward reads the logits once; backward reads them once and writes
    the gradient; no one-hot vectors and no probabilities are stored. Tokens that do not count cost nothing.

    Args:
        logits: floating-point.
        labels: classes; -100 does not count.
        mask: 0 where a token does not count.
        average: divide by the number of tokens that count (0 for a sequence without any).
        cu_seqlens: of packed sequences: where each begins, and the end of the last.
        temperature, softcap, logit_scale: how logits enter the softmax, see :func:`fastloss.selective_log_softmax`.

    Shape:
        - logits: (B, T, C), or (T, C) with ``cu_seqlens``
        - labels, mask: (B, T), or (T,)
        - cu_seqlens: (B + 1,), of integers
        - output: (B,)

    Returns:
        The log-probabilities; float32 (float64 of float64).

    Raises:
        ValueError: for shapes that do not fit.
        IndexError: for a label that is no class (on a CPU; a GPU's kernel traps).

    Source:
        Rafailov et al. 2023 (DPO), arXiv:2305.18290, appendix B.

    Example:
        >>> sequence_logps(torch.zeros(1, 3, 2), torch.tensor([[0, 1, -100]])).exp()
        tensor([0.2500])
    """
    labels, counted = _counted(labels, mask)
    how: dict[str, Any] = {"temperature": temperature, "softcap": softcap, "logit_scale": logit_scale}
    logps = selective_log_softmax(logits, labels, mask=counted, **how).log_prob
    assert logps is not None
    return _by_sequence(logps, counted, average, cu_seqlens)


@explained
def linear_sequence_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    average: bool = False,
    cu_seqlens: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    r""":func:`sequence_logps` of logits = hidden @ weight.T + bias, which are never stored whole.

    .. math:: \log\pi(y) = \sum_t m_t \log p_t(y_t), \qquad p_t = \mathrm{softmax}(W h_t + b)

    Args:
        hidden: hidden states.
        weight: output matrix.
        labels: classes; -100 does not count.
        mask: 0 where a token does not count.
        bias: of the logits.
        average, cu_seqlens, temperature, softcap, logit_scale: as there.
        chunk_size: how many rows have logits at a time; None: some 32 MiB of them on a CPU.

    Shape:
        - hidden: (B, T, H), or (T, H) with ``cu_seqlens``
        - weight: (C, H)
        - labels, mask: (B, T), or (T,)
        - bias: (C,)
        - cu_seqlens: (B + 1,), of integers
        - output: (B,)

    Returns:
        The log-probabilities; float32 (float64 of float64).

    Raises:
        ValueError: for shapes that do not fit.
        IndexError: for a label that is no class (on a CPU; a GPU's kernel traps).

    Source:
        Rafailov et al. 2023 (DPO), arXiv:2305.18290, appendix B.

    Example:
        >>> linear_sequence_logps(torch.ones(1, 2, 3), torch.zeros(4, 3), torch.tensor([[0, -100]])).exp()
        tensor([0.2500])
    """
    labels, counted = _counted(labels, mask)
    how: dict[str, Any] = {"temperature": temperature, "softcap": softcap, "logit_scale": logit_scale}
    found = linear_selective_log_softmax(hidden, weight, labels, bias, mask=counted, chunk_size=chunk_size, **how)
    assert found.log_prob is not None
    return _by_sequence(found.log_prob, counted, average, cu_seqlens)


# ------------------------------------------------------------------------------------------ losses of sequences


def _of_sequences(token_mask: Tensor | None, labels: Tensor, for_loss: dict[str, Any], halves: int) -> Tensor | None:
    """The mask of tokens, without those of sequences or pairs that the mask of the losses leaves out."""
    mask: Tensor | None = for_loss.get("mask")
    if mask is None:
        return token_mask
    losses = torch.Size((labels.shape[0] // halves, *labels.shape[1:-1]))
    check_fit(losses, labels.device, for_loss.get("normalizer"), mask=mask)
    there = torch.cat([(mask != 0).expand(losses)] * halves)[..., None]
    return there.expand(labels.shape) if token_mask is None else there & (token_mask != 0)


_SEQUENCES = entering(
    "labels",
    "predict the label at t",
    [parameter("token_mask", "Tensor | None", None, keyword=True)],
    labels="classes of the tokens; -100 (the prompt, padding) does not count.",
    token_mask="0 where a token does not count.",
)


def _both(loss: Callable[..., Any], *, pairs: bool, average: bool, dropped: tuple[str, ...], more: str) -> tuple:
    """(the loss of logits, the loss of hidden states)"""
    of, batch = loss.__name__, "2 B" if pairs else "B"
    which = " The first half of the batch is chosen, the second rejected." if pairs else ""
    has_lengths = set(LENGTHS) <= inspect.signature(loss).parameters.keys()  # which the labels say
    without = (*dropped, *LENGTHS) if has_lengths else dropped
    together = PAIRS if pairs else SEQUENCES
    kind = "averaged over the tokens that count" if average else "summed over the tokens that count"

    def of_logps(logps: Tensor, labels: Tensor, counted: Tensor, for_loss: dict[str, Any]) -> Any:
        sequences = logps.chunk(2) if pairs else (logps,)
        given = dict(zip(dropped, sequences, strict=True))
        if has_lengths and for_loss["loss_type"] in BY_LENGTH:
            given |= dict(zip(LENGTHS, counted.sum(-1).chunk(2), strict=True))
        return loss(**given, **for_loss)

    def counted_of(labels: Tensor, mask: Tensor | None, for_loss: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(labels, which of them count)"""
        if pairs and len(labels) % 2:
            raise ValueError(f"{len(labels)} sequences are no pairs of a chosen and a rejected one")
        halves = 2 if pairs else 1
        losses = torch.Size((len(labels) // halves, *labels.shape[1:-1]))
        normalizer = for_loss.get("normalizer")
        given = {name: x for name, x in for_loss.items() if isinstance(x, Tensor) and x.dim() and x is not normalizer}
        check_fit(losses, labels.device, normalizer, **given)
        return _counted(labels, _of_sequences(mask, labels, for_loss, halves))

    def from_logits(own: dict[str, Any], for_loss: dict[str, Any]) -> Any:
        logits, labels, mask = own.pop("logits"), own.pop("labels"), own.pop("token_mask")
        labels, counted = counted_of(labels, mask, for_loss)
        return of_logps(sequence_logps(logits, labels, counted, average=average, **own), labels, counted, for_loss)

    def linear(own: dict[str, Any], for_loss: dict[str, Any]) -> Any:
        labels, counted = counted_of(own.pop("labels"), own.pop("token_mask"), for_loss)

        def of_numbers(found: LogSoftmaxOutputs, **given: Any) -> Any:
            assert found.log_prob is not None
            return of_logps(_by_sequence(found.log_prob, counted, average, None), labels, counted, given)

        how: dict[str, Any] = {"index": labels, "outputs": ("log_prob",), "mask": counted}
        apart = for_loss.get("loss_type") not in OF_THE_BATCH
        return linear_loss(of_numbers, for_loss, together if apart else None, **own, **how)

    tensors = f"- the rest: one number for each {'pair' if pairs else 'sequence'}, (B,)"
    count = 2 if pairs else 1
    result = '- output: (B,) for ``"none"``, else ()'
    setup = f"labels = torch.zeros({count}, 1, dtype=torch.int64)"
    first = derived(
        f"{of}_from_logits", __name__, loss, _SEQUENCES.from_logits, without, _SEQUENCES.described,
        f""":func:`fastloss.alignment.{of}` of sequences, from the logits of their tokens.

.. math:: \\log\\pi(y) = \\sum_t \\log p_t(y_t), \\qquad p_t = \\mathrm{{softmax}}(z_t),

{kind}, and the loss of that.{which} See :func:`fastloss.alignment.sequence_logps`: the logits are read once forward,
and once backward, which writes their gradient.""",
        f"- logits: ({batch}, T, C)\n- labels, token_mask: ({batch}, T)\n{tensors}\n{result}",
        f">>> {setup}\n"
        f">>> {of}_from_logits(torch.zeros({count}, 1, 2), labels{more}).shape\ntorch.Size([])",
        from_logits,
    )  # fmt: skip
    second = derived(
        f"linear_{of}", __name__, loss, _SEQUENCES.linear, without, _SEQUENCES.described,
        f""":func:`fastloss.alignment.{of}` of sequences, from hidden states, without storing their logits.

.. math:: \\log\\pi(y) = \\sum_t \\log p_t(y_t), \\qquad p_t = \\mathrm{{softmax}}(W h_t + b),

{kind}, and the loss of that.{which} See :func:`fastloss.alignment.linear_sequence_logps`.""",
        f"- hidden: ({batch}, T, H)\n- weight: (C, H)\n- bias: (C,)\n- labels, token_mask: ({batch}, T)\n"
        f"{tensors}\n{result}",
        f">>> {setup}\n>>> hidden, weight = torch.zeros({count}, 1, 3), torch.zeros(2, 3)\n"
        f">>> linear_{of}(hidden, weight, labels{more}).shape\ntorch.Size([])",
        linear,
    )  # fmt: skip
    return first, second


_OF_DPO = ("policy_chosen_logps", "policy_rejected_logps")
_AVERAGED = ("chosen_avg_logps", "rejected_avg_logps")
_ZERO = "torch.zeros(1)"

dpo_loss_from_logits, linear_dpo_loss = _both(
    dpo_loss, pairs=True, average=False, dropped=_OF_DPO, more=f", {_ZERO}, {_ZERO}"
)
simpo_loss_from_logits, linear_simpo_loss = _both(simpo_loss, pairs=True, average=True, dropped=_AVERAGED, more="")
cpo_loss_from_logits, linear_cpo_loss = _both(
    cpo_loss, pairs=True, average=False, dropped=("chosen_logps", "rejected_logps"), more=""
)
orpo_loss_from_logits, linear_orpo_loss = _both(orpo_loss, pairs=True, average=True, dropped=_AVERAGED, more="")
kto_loss_from_logits, linear_kto_loss = _both(
    kto_loss, pairs=False, average=False, dropped=("policy_logps",), more=f", {_ZERO}, torch.ones(1, dtype=torch.bool)"
)


def _rewarded(own: dict[str, Any], for_loss: dict[str, Any]) -> Any:
    bias = own["bias"]
    if not own["hidden"].dim() or len(own["hidden"]) % 2:
        raise ValueError(f"hidden {tuple(own['hidden'].shape)} is no batch of pairs of a chosen and a rejected one")
    rewards = own["hidden"] @ own["weight"].reshape(-1)
    chosen, rejected = (rewards if bias is None else rewards + bias.reshape(())).chunk(2)
    return reward_model_loss(chosen, rejected, **for_loss)


linear_reward_model_loss = derived(
    "linear_reward_model_loss",
    __name__,
    reward_model_loss,
    [parameter("hidden", "Tensor"), parameter("weight", "Tensor"), BIAS],
    ("chosen_rewards", "rejected_rewards"),
    {
        "hidden": "hidden states of the last tokens; the first half of the batch is chosen, the second rejected.",
        "weight": "of the head.",
        "bias": "of the head.",
    },
    r""":func:`fastloss.alignment.reward_model_loss` with the rewards of a linear head, :math:`r = w^\top h + b`.""",
    "- hidden: (2 B, H)\n- weight: (1, H) or (H,)\n- bias: (1,) or ()\n- margin, mask: (B,)\n"
    '- output: (B,) for ``"none"``, else ()',
    ">>> linear_reward_model_loss(torch.zeros(2, 3), torch.zeros(1, 3)).shape\ntorch.Size([])",
    _rewarded,
)
