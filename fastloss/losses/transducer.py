"""Sequences of labels for longer sequences of frames, aligned by a network that reads its own labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype, check_range, readable
from fastloss.core.composite import composite, elements
from fastloss.core.dtypes import in_float32
from fastloss.core.reductions import check_fit
from fastloss.losses.log_prob import selective_log_softmax

__all__ = ["rnnt_loss"]

# Stands for the log-probability of what is impossible: the log-sum-exp of -inf alone has a NaN for a gradient. Beside
# it every log-probability that is possible vanishes.
_IMPOSSIBLE = -1e30


def _skewed(lattice: Tensor) -> Tensor:
    """(B, T, U) as (B, T + U - 1, U): at n and u what is at t = n - u and u; 0 where there is no such t.

    Rows that are padded to T + U and read as if they had T + U - 1 are shifted by one more each.
    """
    batch, frames, places = lattice.shape
    padded = F.pad(lattice.transpose(1, 2), (0, places))
    flat = padded.reshape(batch, places * (frames + places))[:, : places * (frames + places - 1)]
    return flat.reshape(batch, places, frames + places - 1).transpose(1, 2)


def _log_likelihood(blank: Tensor, label: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """(B,), of all alignments: blank and label (B, T, U + 1) are the log-probabilities at each node of the lattice.

    A node's log alpha is the log-sum-exp of two nodes of the anti-diagonal before it, so a step is one of T + U
    anti-diagonals, for all samples and all their nodes at once.
    """
    batch, _, places = blank.shape
    never = blank.new_full((batch, 1), _IMPOSSIBLE)
    alpha = torch.cat([blank.new_zeros(batch, 1), never.expand(batch, places - 1)], 1)
    diagonals = [alpha]
    # unbound once: the backward of a slice each would write a lattice each
    steps = zip(_skewed(blank).unbind(1), _skewed(label).unbind(1), strict=True)
    for of_blank, of_label in list(steps)[:-1]:
        emitted = torch.cat([never, (alpha + of_label)[:, :-1]], 1)
        # not logaddexp, whose second derivative is NaN where its operands are far apart
        alpha = torch.stack([alpha + of_blank, emitted]).logsumexp(0)
        diagonals.append(alpha)
    # the last blank leaves from the last frame and the last label
    node = torch.stack(diagonals, 1)[torch.arange(batch, device=blank.device), frames + labels - 1, labels]
    return node + blank[torch.arange(batch, device=blank.device), frames - 1, labels]


def _check(logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, blank: int) -> None:
    if logits.dim() != 4 or not logits.is_floating_point() or 0 in logits.shape[1:]:
        raise ValueError(f"logits must be floating-point (B, T, U + 1, C), got {tuple(logits.shape)} of {logits.dtype}")
    batch, frames, places, classes = logits.shape
    if targets.shape != (batch, places - 1):
        raise ValueError(f"targets must be (B, U) = {(batch, places - 1)}, got {tuple(targets.shape)}")
    for name, lengths, low, high in (
        ("logit_lengths", logit_lengths, 1, frames),
        ("target_lengths", target_lengths, 0, places - 1),
    ):
        if lengths.shape != (batch,):
            raise ValueError(f"{name} must be (B,) = ({batch},), got {tuple(lengths.shape)}")
        if readable(lengths) and ((lengths < low) | (lengths > high)).any():
            raise ValueError(f"{name} must be between {low} and {high} beside these logits, got {lengths.tolist()}")
    for name, integers in (("targets", targets), ("logit_lengths", logit_lengths), ("target_lengths", target_lengths)):
        if integers.is_floating_point() or integers.is_complex():
            raise ValueError(f"{name} must be integers, got {integers.dtype}")
    if not -classes <= blank < classes:
        raise ValueError(f"blank must be one of the {classes} classes, got {blank}")


@composite(calls_model=True)  # halves are not widened: the fused part reads the logits as they are
def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = -1,
    fused_log_softmax: bool = True,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the log-likelihood of labels under a transducer, over all alignments with the frames.

    At frame t and after u labels the model emits the next label :math:`y_{u+1}`, and stays at the frame, or a blank,
    and goes on to the next frame. With the log-probabilities :math:`\phi_{tu}` of the blank and :math:`\lambda_{tu}`
    of that label,

    .. math::
        \alpha_{tu} = \log\bigl(e^{\alpha_{t-1,u} + \phi_{t-1,u}} + e^{\alpha_{t,u-1} + \lambda_{t,u-1}}\bigr), \qquad
        \ell = -(\alpha_{T-1,U} + \phi_{T-1,U}), \qquad \alpha_{00} = 0.

    The logits are read once, by :func:`fastloss.selective_log_softmax` of the two classes that count at each node; no
    probabilities are stored. What is behind a sample's lengths is not read, whatever it holds. Names and defaults are
    torchaudio's, whose ``clamp`` of the gradient is not there.

    Args:
        logits: of the joint network.
        targets: classes; what is behind a sample's length may be anything.
        logit_lengths: T, how many frames a sample has, at least 1.
        target_lengths: U, how many labels; 0: blanks only.
        blank: the class of the blank; of a negative one, from the end.
        fused_log_softmax: False: ``logits`` are log-probabilities already.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        mask: broadcasts to the losses; 0 takes a sample out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor; the number of
            labels, ``target_lengths.sum()``, for one.

    Shape:
        - logits: (B, T, U + 1, C), for the longest sample or longer ones
        - targets: (B, U)
        - logit_lengths, target_lengths: (B,)
        - output: (B,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the logits (float32 under autocast). Labels that are impossible, by logits of -inf,
        have the loss inf, and a gradient of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit, a blank that is no class, lengths that the logits do not have (on
            a CPU; indexing on a GPU traps).
        IndexError: for a label that is no class (on a CPU; a GPU's kernel traps).

    Source:
        Graves 2012, "Sequence transduction with recurrent neural networks", arXiv:1211.3711.

    Example:
        >>> logits, one = torch.zeros(1, 1, 2, 2), torch.tensor([1])  # a label, then a blank: 1/2 each
        >>> rnnt_loss(logits, torch.tensor([[0]]), one, one).item()
        1.3862...
    """
    _check(logits, targets, logit_lengths, target_lengths, blank)
    batch, longest, places, classes = logits.shape
    check_fit(logits.shape[:1], logits.device, normalizer, mask=mask)
    blank = blank % classes
    frames, labels = logit_lengths.long(), target_lengths.long()
    place = torch.arange(places, device=logits.device)
    there = torch.arange(longest, device=logits.device) < frames[:, None]  # (B, T)
    nodes = there[:, :, None] & (place <= labels[:, None])[:, None]  # (B, T, U + 1)
    if mask is not None:
        nodes = nodes & (mask != 0).expand(batch)[:, None, None]
    follows = place < labels[:, None]  # (B, U + 1): is there a label to be emitted?
    label = torch.where(follows, F.pad(targets.long(), (0, 1)), blank)
    check_range(label, classes, blank)
    chosen = torch.stack([torch.full_like(label, blank), label], -1)[:, None].expand(batch, longest, places, 2)
    if fused_log_softmax:
        found = selective_log_softmax(logits, chosen, mask=nodes).log_prob
        assert found is not None
    else:
        found = torch.where(nodes[..., None], in_float32(logits.gather(3, chosen)), 0)
    # in float64, small beside the logits: of sums over hundreds of steps a posterior's differences are to be exact
    of_blank, of_label = found.double().clamp(min=_IMPOSSIBLE).unbind(-1)
    losses = -_log_likelihood(of_blank, of_label, frames, labels).to(accumulator_dtype(logits.dtype))
    return elements(torch.where(losses > -_IMPOSSIBLE / 2, math.inf, losses))
