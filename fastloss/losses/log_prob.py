"""What token-level losses are made of: log-probabilities of chosen classes, and what comes out of the same reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import Hyper, accumulator_dtype, autocast_applies, check_range, readable
from fastloss.core.autograd import pure
from fastloss.core.composite import explained
from fastloss.core.dispatch import fused
from fastloss.skeletons.linear_outputs import Head, LinearOutputs
from fastloss.skeletons.row_outputs import LEFT_OUT, RowOutputs

__all__ = ["linear_selective_log_softmax", "selective_log_softmax"]


class LogSoftmaxOutputs(NamedTuple):
    """What :func:`selective_log_softmax` was asked for; None for what it was not."""

    log_prob: Tensor | None = None
    entropy: Tensor | None = None
    logsumexp: Tensor | None = None
    mean_logit: Tensor | None = None
    log_sum_sq_prob: Tensor | None = None
    is_top1: Tensor | None = None
    rank: Tensor | None = None


_PLACES = ("is_top1", "rank")  # of the index among the classes
_DIFFERENTIABLE = ("log_prob", "entropy", "logsumexp", "mean_logit")
OUTPUTS = (*LogSoftmaxOutputs._fields, "max", "log_sum")  # in the order of the kernels


NUMBERS = len(OUTPUTS)  # of a row


def _entering(logits: Tensor, temperature: float, softcap: float, logit_scale: float) -> tuple[Tensor, Tensor]:
    """(the logits as they enter the softmax, their derivative by the logits); a softcap of 0 is none"""
    slope = logit_scale / temperature
    if not softcap:
        return logits * slope, torch.full_like(logits, slope)
    capped = torch.tanh(logits * (logit_scale / softcap))
    return capped * (softcap / temperature), (1 - capped * capped) * slope


def _outputs(
    logits: Tensor,
    target: Tensor | None,
    candidates: Tensor | None,
    temperature: float,
    softcap: float,
    logit_scale: float,
    asked: Sequence[str],
) -> Tensor:
    """(9 + K, rows): 0 for what was not asked for, and where a row does not count."""
    z = logits.to(accumulator_dtype(logits.dtype))
    index, counted = z.new_zeros(z.shape[:1], dtype=torch.int64), torch.ones_like(z[:, 0], dtype=torch.bool)
    if target is not None:
        counted = target != LEFT_OUT
        check_range(target, z.shape[1], LEFT_OUT)
        index = torch.where(counted, target, 0).long()
        z = torch.where(counted[:, None], z, 0)
    z, _ = _entering(z, temperature, softcap, logit_scale)
    of_index, log_p, top = z.gather(1, index[:, None]), z.log_softmax(1), z.detach().amax(1)
    p = log_p.exp()
    logsumexp = z.logsumexp(1)
    found = {"log_prob": log_p.gather(1, index[:, None])[:, 0], "logsumexp": logsumexp, "max": top}
    found["is_top1"] = of_index[:, 0] >= top
    found["log_sum"] = (z - top[:, None]).exp().sum(1).log()
    found["entropy"] = -torch.where(p == 0, 0, p * torch.where(p == 0, 0, log_p)).sum(1)
    found["mean_logit"] = z.mean(1)
    found["log_sum_sq_prob"] = (2 * log_p.detach()).logsumexp(1)
    found["rank"] = (z > of_index).sum(1)
    none = torch.zeros_like(top)
    rows = [found[name].to(none.dtype) if name in asked else none for name in OUTPUTS]
    if candidates is not None:
        rows += z.gather(1, candidates).unbind(1)
    return torch.where(counted, torch.stack(rows), 0)


_PARAMETERS = {"temperature": Hyper(low=1e-30), "softcap": Hyper(), "logit_scale": Hyper(low=1e-30)}
_ALWAYS = ("log_prob", "logsumexp", "is_top1", "max", "log_sum")


def _row_function(kernel: str, sums: int, asked: Sequence[str]) -> Callable[..., Tensor]:
    """Logits (rows, C) -> (9 + K, rows), as `OUTPUTS` and the candidates: what is asked for, 0 for the rest."""

    def body(
        logits: Tensor,
        target: Tensor | None = None,
        second: None = None,
        candidates: Tensor | None = None,
        *,
        temperature: float = 1.0,
        softcap: float = 0.0,
        logit_scale: float = 1.0,
    ) -> Tensor:
        return _outputs(logits, target, candidates, temperature, softcap, logit_scale, asked)

    body.__name__ = kernel
    return fused(RowOutputs(parameters=_PARAMETERS, outputs=9, sums=sums, entering=_entering))(body)


_ROWS = (  # what needs no sum but that of the softmax; with the entropy; all
    _row_function("log_softmax_of_index", 0, _ALWAYS),
    _row_function("log_softmax_and_entropy", 1, (*_ALWAYS, "entropy")),
    _row_function("log_softmax_and_more", 4, OUTPUTS),
)


def _linear(row: Callable[..., Tensor]) -> Callable[..., Any]:
    """The function of rows of input @ matrix.T + bias."""

    @fused(LinearOutputs(row.__name__))
    def linear(
        input: Tensor,
        matrix: Tensor,
        target: Tensor,
        bias: Tensor | None = None,
        *,
        temperature: float = 1.0,
        softcap: float = 0.0,
        logit_scale: float = 1.0,
        chunk: int = 0,
        head: Head | None = None,
    ) -> Any:
        how = {"temperature": temperature, "softcap": softcap, "logit_scale": logit_scale}
        outputs = row(F.linear(input, matrix, bias), target, **how)
        return outputs if head is None else (head.loss(outputs, head.others), outputs.detach())

    return linear


LINEAR = tuple(_linear(row) for row in _ROWS)


def fewest(outputs: Sequence[str]) -> int:
    """The place of the function that has these outputs and the fewest others."""
    if set(outputs) <= set(_ALWAYS):
        return 0
    return 1 if set(outputs) <= {*_ALWAYS, "entropy"} else 2


def _checked(
    index: Tensor,
    shape: torch.Size,
    classes: int,
    outputs: Sequence[str],
    mask: Tensor | None,
    temperature: float,
    softcap: float | None,
    logit_scale: float,
) -> tuple[Tensor | None, Tensor | None, dict[str, float]]:
    """(target of each row, candidates of each row, hyper-parameters) for rows of this shape; None: all rows count."""
    unknown = set(outputs) - set(LogSoftmaxOutputs._fields)
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; choose from {', '.join(LogSoftmaxOutputs._fields)}")
    if not temperature > 0 or not logit_scale > 0 or not (softcap is None or softcap >= 0):
        raise ValueError("temperature and logit_scale must be positive, softcap not negative")
    several = index.dim() == len(shape) + 1
    if index.is_floating_point() or index.shape[: len(shape)] != shape or index.dim() > len(shape) + 1:
        raise ValueError(f"index {tuple(index.shape)} does not fit rows {tuple(shape)}")
    first = index.new_zeros(shape, dtype=torch.int64) if several else index.long()
    target = None if several else first
    if mask is not None:
        target = torch.where(mask.expand(shape) != 0, first, LEFT_OUT)
    candidates = None
    if several:
        candidates = index.long().reshape(shape.numel(), index.shape[-1])
        if target is not None:
            candidates = torch.where((target == LEFT_OUT).reshape(-1, 1), 0, candidates)
        check_range(candidates, classes, LEFT_OUT)
    how = {"temperature": temperature, "softcap": softcap or 0.0, "logit_scale": logit_scale}
    return None if target is None else target.reshape(-1), candidates, how


@explained
def selective_log_softmax(
    logits: Tensor,
    index: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    outputs: Sequence[str] = ("log_prob",),
    mask: Tensor | None = None,
) -> LogSoftmaxOutputs:
    r"""Log-probabilities of chosen classes, with entropy and other numbers of the same row, from one reading.

    With :math:`z = \mathrm{softcap} \tanh(\mathrm{logit\_scale}\, x / \mathrm{softcap}) / \mathrm{temperature}` (or
    :math:`\mathrm{logit\_scale}\, x / \mathrm{temperature}` without a softcap), :math:`p = \mathrm{softmax}(z)` and the
    index y:

    ===================  ==========================================  ==================
    in ``outputs``       what it is                                  has a gradient
    ===================  ==========================================  ==================
    "log_prob"           :math:`\log p_y`                            yes
    "entropy"            :math:`-\sum_j p_j \log p_j`                yes
    "logsumexp"          :math:`\log \sum_j e^{z_j}`                 yes
    "mean_logit"         :math:`\sum_j z_j / C`                      yes
    "log_sum_sq_prob"    :math:`\log \sum_j p_j^2`                   no
    "is_top1"            is :math:`z_y` the largest? bool            no
    "rank"               how many logits are larger; int64           no
    ===================  ==========================================  ==================

    Nothing of the size of the logits is kept but they themselves: forward reads them once, backward reads them once
    and writes the gradient. The numbers are batch-invariant: a row has the same bits in every batch, at every place in
    it, for any number of threads, and whether or not a gradient is wanted.

    Args:
        logits: floating-point.
        index: integers in [0, C): one for each row of logits, or several candidates with one more dimension. The
            gradients of candidates of a row that are the same class are added in no certain order on a GPU.
        temperature: positive.
        softcap: not negative; None and 0: none.
        logit_scale: positive.
        outputs: what to return.
        mask: of bool, one for each row; a row where it is False is not read, and has outputs and gradients of 0.

    Shape:
        - logits: (..., C)
        - index: (...), or (..., K) for K candidates
        - mask: broadcasts to (...)
        - output: a named tuple of (...); "log_prob", "is_top1" and "rank" have the shape of ``index``

    Returns:
        A named tuple of what was asked for, None for the rest; float32 (float64 of float64).

    Raises:
        ValueError: for an unknown output, shapes that do not fit, a hyper-parameter out of range.
        IndexError: for an index outside [0, C) (on a CPU; a GPU's kernel traps).

    Source:
        The log-probability of chosen tokens is what policy-gradient losses of language models start from: Schulman et
        al. 2017, arXiv:1707.06347. Softcap: Gemma 2, arXiv:2408.00118.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> found = selective_log_softmax(logits, torch.tensor([0, 1]), outputs=("log_prob", "entropy"))
        >>> torch.allclose(found.log_prob, -found.entropy)
        True
    """
    if not isinstance(logits, Tensor) or logits.dim() == 0 or not logits.is_floating_point():
        raise ValueError("logits must be floating-point, with the classes in the last dimension")
    shape = logits.shape[:-1]
    target, candidates, how = _checked(index, shape, logits.shape[-1], outputs, mask, temperature, softcap, logit_scale)
    rows = logits.reshape(-1, logits.shape[-1])
    if candidates is None:
        return named(_ROWS[fewest(outputs)](rows, target, **how), outputs, index.shape)
    stacked = _ROWS[fewest(_of_rows(outputs))](rows, target, None, candidates, **how)
    found = _of_candidates(stacked[: len(OUTPUTS)], stacked[len(OUTPUTS) :].t(), target)
    found |= _places(outputs, lambda row, of_one: row(rows.detach(), of_one, **how), _ROWS, target, candidates)
    return _as_asked(found, outputs, index.shape, shape)


@explained
def linear_selective_log_softmax(
    hidden: Tensor,
    weight: Tensor,
    index: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    outputs: Sequence[str] = ("log_prob",),
    mask: Tensor | None = None,
    chunk_size: int | None = None,
) -> LogSoftmaxOutputs:
    r"""The numbers of :func:`selective_log_softmax` of logits that are never stored whole.

    .. math:: x = W h + b

    Chunk by chunk: forward computes the logits of some rows, and keeps their outputs and statistics; backward computes
    them again, and from them the gradients of hidden states, weight and bias. On a CPU, rows that ``mask`` leaves out
    cost nothing at all. The bits of a row may depend on the rows of its chunk, as those of a matrix product do. Inside
    torch.compile and torch.func the logits are stored.

    Args:
        hidden: hidden states.
        weight: output matrix.
        index: integers in [0, C): one for each row, or several candidates with one more dimension.
        bias: of the logits.
        temperature, softcap, logit_scale, outputs: as there.
        mask: of bool, one for each row; where it is False outputs and gradients are 0.
        chunk_size: how many rows have logits at a time; None: some 32 MiB of them on a CPU.

    Shape:
        - hidden: (..., H)
        - weight: (C, H)
        - bias: (C,)
        - index: (...), or (..., K) for K candidates
        - mask: broadcasts to (...)
        - output: a named tuple of (...); "log_prob", "is_top1" and "rank" have the shape of ``index``

    Returns:
        A named tuple of what was asked for, None for the rest; float32 (float64 of float64).

    Raises:
        ValueError: for an unknown output, shapes that do not fit, a hyper-parameter out of range.
        IndexError: for an index outside [0, C) (on a CPU; a GPU's kernel traps).

    Source:
        Losses of chunks of logits: Wijmans et al. 2024, "Cut your losses", arXiv:2411.09009.

    Example:
        >>> hidden, weight = torch.ones(2, 3), torch.zeros(4, 3)
        >>> found = linear_selective_log_softmax(hidden, weight, torch.tensor([0, 1]))
        >>> torch.allclose(found.log_prob.exp(), torch.tensor([0.25, 0.25]))
        True
    """
    how: dict[str, Any] = {"temperature": temperature, "softcap": softcap, "logit_scale": logit_scale}
    if pure():  # traced or transformed by torch, which would look into the walk over chunks
        return stored(hidden, weight, index, bias, outputs=outputs, mask=mask, **how)
    r = linear_rows(hidden, weight, index, bias, outputs, mask, **how)
    chunk = rows_of_a_chunk(chunk_size)
    needed = outputs if r.candidates is None else _of_rows(outputs)
    stacked = LINEAR[fewest(needed)](*r.operands, **r.how, chunk=chunk)
    if r.candidates is None:
        return named(in_places(stacked, r.places, index.numel()), outputs, index.shape)
    rows, weight, target, bias = r.operands
    # embedding, not indexing, which takes -1 for the last class
    z = (rows[:, None] * F.embedding(r.candidates, weight)).sum(-1, dtype=stacked.dtype)  # (rows, K)
    if bias is not None:
        z = z + F.embedding(r.candidates, bias[:, None])[..., 0]
    z = torch.where((target == LEFT_OUT)[:, None], 0, _entering(z, **r.how)[0])
    found = _of_candidates(stacked, z, target)
    constants = rows.detach(), weight.detach()
    of_bias = None if bias is None else bias.detach()

    def call(row: Callable[..., Tensor], of_one: Tensor) -> Tensor:
        return row(*constants, of_one, of_bias, **r.how, chunk=chunk)

    found |= _places(outputs, call, LINEAR, target, r.candidates)
    shape = index.shape[:-1]
    if r.places is not None:
        found = {
            name: values.new_zeros(shape.numel(), *values.shape[1:]).index_copy(0, r.places, values)
            for name, values in found.items()
        }
    return _as_asked(found, outputs, index.shape, shape)


class LinearRows(NamedTuple):
    """Rows whose logits are hidden @ weight.T + bias, as LINEAR takes them."""

    operands: tuple[Tensor, Tensor, Tensor, Tensor | None]  # features (n, H), weight, target (n,), bias
    candidates: Tensor | None  # (n, K)
    places: Tensor | None  # (n,): which of all rows they are; None: these
    how: dict[str, float]


def stored(hidden: Tensor, weight: Tensor, index: Tensor, bias: Tensor | None, **options: Any) -> LogSoftmaxOutputs:
    """:func:`linear_selective_log_softmax` of logits that are stored."""
    return selective_log_softmax(F.linear(hidden, weight, bias), index, **options)


def linear_rows(
    hidden: Tensor,
    weight: Tensor,
    index: Tensor,
    bias: Tensor | None,
    outputs: Sequence[str],
    mask: Tensor | None,
    order: Tensor | None = None,
    **how: float | None,
) -> LinearRows:
    """
    Args:
        order: a permutation (N,) of all rows, in which they come; None: as they are.

    Raises:
        ValueError, IndexError: as :func:`linear_selective_log_softmax`.
    """
    if hidden.dim() == 0 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit")
    shape = hidden.shape[:-1]
    target, candidates, numbers = _checked(index, shape, len(weight), outputs, mask, **how)  # type: ignore[arg-type]
    if autocast_applies(hidden):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    places = order
    if target is None:
        target = torch.zeros(shape.numel(), dtype=torch.int64, device=hidden.device)
    elif mask is not None and readable(target):
        counted = target != LEFT_OUT
        places = counted.nonzero()[:, 0] if order is None else order[counted[order]]
    elif mask is not None:  # 0 * NaN would be NaN in the weights' gradient
        hidden = torch.where((target != LEFT_OUT).view(*shape, 1), hidden, 0)
    rows = hidden.reshape(-1, hidden.shape[-1])
    if places is not None:
        rows, target = rows[places], target[places]
        candidates = None if candidates is None else candidates[places]
    return LinearRows((rows, weight, target, bias), candidates, places, numbers)


def rows_of_a_chunk(chunk_size: int | None) -> int:
    """As LINEAR takes them, 0 for None.

    Raises:
        ValueError: if there is none.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    return chunk_size or 0


def in_places(values: Tensor, places: Tensor | None, count: int) -> Tensor:
    """Numbers (k, n) of some rows as those of all, (k, count): 0 elsewhere."""
    return values if places is None else values.new_zeros(len(values), count).index_copy(1, places, values)


def _of_candidates(stacked: Tensor, z: Tensor, target: Tensor | None) -> dict[str, Tensor]:
    """The outputs of rows (rows,), those of the candidates, whose logits are z, (rows, K)."""
    found = dict(zip(OUTPUTS, stacked.unbind(), strict=True))
    top = found["max"].detach()[:, None]
    found["log_prob"] = (z - top) - found["log_sum"][:, None]
    if target is not None:
        found["log_prob"] = torch.where((target != LEFT_OUT)[:, None], found["log_prob"], 0)
    return found


def _of_rows(outputs: Sequence[str]) -> list[str]:
    """Those that do not need a reading for each candidate."""
    return [name for name in outputs if name not in _PLACES]


def _places(
    outputs: Sequence[str],
    call: Callable[[Callable[..., Tensor], Tensor], Tensor],
    functions: Sequence[Callable[..., Tensor]],
    target: Tensor | None,
    candidates: Tensor,
) -> dict[str, Tensor]:
    """Where each candidate stands among the classes, (rows, K): a reading for each, by the kernel's own comparison."""
    names = [name for name in outputs if name in _PLACES]
    if not names:
        return {}
    readings = []
    for of_one in candidates.unbind(1):
        index = of_one if target is None else torch.where(target == LEFT_OUT, LEFT_OUT, of_one)
        readings.append(call(functions[fewest(names)], index))
    return {name: torch.stack([x[OUTPUTS.index(name)] for x in readings], 1) for name in names}


def named(stacked: Tensor, outputs: Sequence[str], shape: torch.Size) -> LogSoftmaxOutputs:
    """The numbers (9, N) of rows with an index each."""
    return _as_asked(dict(zip(OUTPUTS, stacked.unbind(), strict=True)), outputs, shape, shape)


def _as_asked(
    found: dict[str, Tensor], outputs: Sequence[str], of_index: torch.Size, shape: torch.Size
) -> LogSoftmaxOutputs:
    result = {}
    for name in outputs:
        values = found[name] if name in _DIFFERENTIABLE else found[name].detach()
        if name == "is_top1":
            values = values != 0
        elif name == "rank":
            values = values.to(torch.int64)
        result[name] = values.reshape(of_index if name in ("log_prob", "is_top1", "rank") else shape)
    return LogSoftmaxOutputs(**result)
