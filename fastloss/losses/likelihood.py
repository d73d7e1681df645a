"""Negative log-likelihoods and the Kullback-Leibler divergence, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastloss.core import torch_losses
from fastloss.core.arguments import Domain, Empty, Hyper, Invalid, Refused, readable, valueless, warn
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype, widened
from fastloss.core.metrics import counted
from fastloss.core.reductions import aggregate
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["gaussian_nll_loss", "kl_div", "laplace_nll_loss", "poisson_nll_loss"]

_SWITCH = Hyper(high=1.0)
_SCALES = Domain("scale has negative entry/entries")


def _with_variance(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    """The variance as torch's rules see it: the shape of the input, or one dimension short, or one of size 1."""
    input, target, var = (arguments.get(name) for name in ("input", "target", "var"))
    if not isinstance(input, Tensor) or not isinstance(target, Tensor) or not isinstance(var, (float, Tensor)):
        return Invalid("input, target or var has a type that torch does not take")
    if not input.is_floating_point() or target.dtype == torch.bool:
        return Invalid("input or target has a dtype that torch does not take")
    if isinstance(var, float):
        return Invalid("var is negative") if var < 0 else arguments
    if not var.is_floating_point():
        return Invalid("var is not floating-point")
    if var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            arguments["var"] = var.unsqueeze(-1)
        elif input.dim() != var.dim() or sum(v for i, v in zip(input.shape, var.shape, strict=True) if i != v) != 1:
            return Invalid("var is of incorrect size")
    return arguments


@fused(
    Pointwise(
        operands=("input", "target", "var"),
        parameters={"full": _SWITCH, "eps": Hyper()},
        domain=Domain("var has negative entry/entries"),
        autocast=("cuda", "xpu"),  # where it makes torch's logarithm one of float32
        prepare=_with_variance,
    )
)
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of normal distributions whose variance is predicted, too.

    A drop-in for :func:`torch.nn.functional.gaussian_nll_loss`. Elementwise, with :math:`v = \max(\mathrm{var},
    \epsilon)`,

    .. math::
        \ell = \tfrac12 \Bigl(\log v + \frac{(x - t)^2}{v}\Bigr) + \tfrac12 \log 2\pi
        \quad\text{(the last term if full)}.

    The gradient of the variance passes through the bound. On a GPU, nothing waits for the check of the variance.

    Args:
        input: means x, any real number.
        target: samples t; differentiated as well.
        var: variances, at least 0, or one positive number; differentiated as well.
        full: add the constant.
        eps: positive; lower bound of the variance.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input: any
        - target: broadcasts with ``input``
        - var: the shape of ``input``, the same without the last dimension, or with one dimension of size 1
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast on a GPU).

    Raises:
        ValueError: a negative variance (on a GPU: a device-side trap), one of a wrong shape, an unknown reduction.

    Source:
        Nix and Weigend 1994, Estimating the mean and variance of the target probability distribution.

    Example:
        >>> gaussian_nll_loss(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([1.0])).item()
        2.0
    """
    if isinstance(var, Tensor) and valueless(var) and eps > 0 and reduction in ("none", "mean", "sum"):
        arguments = _with_variance({"input": input, "target": target, "var": var})
        if isinstance(arguments, dict):
            return _without_look(input, target, arguments["var"], full, eps, reduction)
    return torch_losses.gaussian_nll_loss(input, target, var, full, eps, reduction)


def _without_look(input: Tensor, target: Tensor, var: Tensor, full: bool, eps: float, reduction: str) -> Tensor:
    """Where torch's own, whose check of the variance decides by its values, raises or leaves the graph."""
    if torch.compiler.is_compiling():
        torch._assert_async((var >= 0).all(), "var has negative entry/entries")
    bounded = torch.where(var < eps, var + (eps - var).detach(), var)  # with the gradient of the variance
    losses = 0.5 * (bounded.log() + (input - target).square() / bounded)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _with_scale(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    scale = arguments.get("scale")
    if isinstance(scale, (int, float)) and not scale >= 0:
        return Invalid("scale is negative")
    input, target = arguments.get("input"), arguments.get("target")
    if isinstance(input, Tensor) and isinstance(scale, Tensor) and not _broadcasts(scale, input):
        return Invalid("scale does not broadcast to input")
    if isinstance(input, Tensor) and isinstance(target, Tensor) and input.shape != target.shape:
        return Invalid("input and target differ in shape")
    return arguments


def _broadcasts(scale: Tensor, input: Tensor) -> bool:
    sizes = zip(reversed(scale.shape), reversed(input.shape), strict=False)
    return scale.dim() <= input.dim() and all(s in (1, i) for s, i in sizes)


@fused(
    Pointwise(
        operands=("input", "target", "scale"),
        parameters={"full": _SWITCH, "eps": Hyper()},
        shapes="equal",
        domain=_SCALES,
        prepare=_with_scale,
    )
)
def laplace_nll_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    *,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of Laplace distributions whose scale is predicted, too.

    Elementwise, with :math:`b = \max(\mathrm{scale}, \epsilon)`,

    .. math::
        \ell = \log b + \frac{|x - t|}{b} + \log 2 \quad\text{(the last term if full)}.

    The gradient at a tie is 0; that of the scale passes through the bound, as in :func:`gaussian_nll_loss`.

    Args:
        input: locations x, any real number.
        target: samples t; differentiated as well.
        scale: scales b, at least 0, or one number; differentiated as well.
        full: add the constant.
        eps: at least 0; lower bound of the scale.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: any, and the same
        - scale: broadcasts to ``input``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: a negative scale (in a tensor on a GPU: a device-side trap), shapes that do not fit, a negative
            ``eps``, an unknown reduction.

    Source:
        Laplace 1774, Memoire sur la probabilite des causes par les evenements.

    Example:
        >>> laplace_nll_loss(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([1.0])).item()
        2.0
    """
    if input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    dtype = result_dtype(input, target, scale)
    scales = scale if isinstance(scale, Tensor) else torch.full((), scale, dtype=dtype, device=input.device)
    if not _broadcasts(scales, input):
        raise ValueError(f"scale {tuple(scales.shape)} does not broadcast to input {tuple(input.shape)}")
    input, target, scales = counted(mask, *widened(input, target, scales))
    if readable(scales) and bool((scales < 0).any()):
        raise _SCALES.error(_SCALES.requirement)
    bounded = torch.where(scales < eps, scales + (eps - scales).detach(), scales)  # with the gradient of the scale
    losses = bounded.log() + (input - target).abs() / bounded
    if full:
        losses = losses + math.log(2)
    return aggregate(losses, reduction, mask, normalizer).to(dtype)


def _of_counts(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    input = arguments.get("input")
    if isinstance(input, Tensor) and not input.is_floating_point():
        return Invalid("the input is not floating-point")
    return arguments


@fused(
    Pointwise(
        operands=("input", "target"),
        parameters={"log_input": Hyper(high=1.0), "full": _SWITCH, "eps": Hyper()},
        drop_in=True,
        prepare=_of_counts,
    )
)
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of counts that are Poisson-distributed.

    A drop-in for :func:`torch.nn.functional.poisson_nll_loss`. Elementwise

    .. math::
        \ell = \begin{cases} e^x - t x & \text{log\_input} \\ x - t \log(x + \epsilon) & \text{else,} \end{cases}

    and, if ``full`` and t > 1, Stirling's approximation of log t!: :math:`t \log t - t + \tfrac12 \log(2\pi t)`. As in
    torch, the gradient of a target at 0 is then NaN.

    Args:
        input: logarithms of the expected counts, or the counts themselves, x.
        target: counts t, at least 0; differentiated as well.
        log_input: is ``input`` a logarithm?
        full: add Stirling's approximation.
        size_average, reduce: deprecated, as in torch.
        eps: added to the expected count inside the logarithm, if ``log_input`` is false.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input, target: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for shapes that do not broadcast, ``ValueError`` for an unknown reduction.

    Source:
        Poisson 1837; Nelder and Wedderburn 1972, Generalized linear models.

    Example:
        >>> poisson_nll_loss(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 3.0])).item()
        1.0
    """
    return torch_losses.poisson_nll_loss(input, target, log_input, full, size_average, eps, reduce, reduction)


def _of_divergence(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    for x in (arguments.get("input"), arguments.get("target")):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return Invalid("input or target is no floating-point tensor")
        if not x.numel():
            return Empty()
    modern = arguments.get("size_average") is None and arguments.get("reduce") is None
    reduction = arguments.get("reduction", "mean")
    if reduction == "batchmean" and not modern:
        return Invalid("batchmean along with a deprecated argument")
    if reduction == "mean" and modern:
        warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. "
            "'batchmean' divides only by the batch size, and is the divergence as mathematics defines it.",
            stacklevel=5,
        )
    return arguments


@fused(
    Pointwise(
        operands=("input", "target"),
        parameters={"log_target": _SWITCH},
        batchmean=True,
        drop_in=True,
        prepare=_of_divergence,
    )
)
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence of the distribution ``exp(input)`` from the distribution ``target``.

    A drop-in for :func:`torch.nn.functional.kl_div`. Elementwise

    .. math::
        \ell = \begin{cases} t\,(\log t - x) & \text{else} \\ e^t (t - x) & \text{log\_target,} \end{cases}

    with :math:`0 \log 0 = 0`. Its sum over the support is KL(target || exp(input)), so ``"batchmean"`` is the mean of
    that over the batch; ``"mean"`` also divides by the size of the support, and warns, as in torch. The gradient of a
    target at 0 is NaN, as in torch.

    Args:
        input: log-probabilities x.
        target: probabilities t, or log-probabilities; differentiated as well.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"batchmean"``, ``"sum"`` or ``"mean"``.
        log_target: is ``target`` a logarithm?

    Shape:
        - input, target: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for shapes that do not broadcast or integers, ``ValueError`` for an unknown
        reduction.

    Source:
        Kullback and Leibler 1951, On information and sufficiency.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]]).log()
        >>> kl_div(x, torch.tensor([[1.0, 0.0]]), reduction="batchmean").item() > 0.6931
        True
    """
    return torch_losses.kl_div(input, target, size_average, reduce, reduction, log_target)
