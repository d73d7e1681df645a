"""What the tests share: backends and devices of this machine, tolerances, seeds, a comparison."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fastloss
from fastloss.core import dispatch
from fastloss.core.arguments import accumulator_dtype

if TYPE_CHECKING:
    from cases import Case

SEED = int(os.environ.get("FASTLOSS_TEST_SEED") or torch.randint(2**31, ()).item())
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
BACKENDS = [
    (name, device)
    for device in DEVICES
    for name in ("cpu", "cuda", "triton")
    if dispatch.unavailable(name, device) is None
]
"""(backend, device) pairs of fused kernels that run in this process."""
each_backend = pytest.mark.parametrize(
    ("backend", "device"), BACKENDS or [pytest.param("none", "cpu", marks=pytest.mark.skip("no kernels here"))]
)


def generator(name: str) -> torch.Generator:
    """Fresh random numbers in every run of the suite; FASTLOSS_TEST_SEED repeats one."""
    return torch.Generator().manual_seed(SEED ^ zlib.crc32(name.encode()))


def tolerance(dtype: torch.dtype) -> float:
    """Relative to the largest magnitude of the compared tensor: rounding of the stored result (half an eps, doubled for
    the reciprocal and scale factors that are applied to it), and a few dozen roundings of the accumulator."""
    return torch.finfo(dtype).eps + 32 * torch.finfo(accumulator_dtype(dtype)).eps


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str = "value", terms: float = 0.0) -> None:
    """`actual`, computed in `dtype`, against a float64 `expected`; NaN and infinities must be at the same places.

    `terms`: magnitude of the terms that the values are differences of, where they may all cancel: the gradient p - 1
    of a confident row has the rounding of 1, in torch too.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    finite = expected.isfinite()
    if not finite.all():
        torch.testing.assert_close(
            actual[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True, msg=f"{what}: nonfinite"
        )
        actual, expected = actual[finite], expected[finite]
    if not expected.numel():
        return
    magnitude = expected.abs()
    scale = max(magnitude.max().item(), torch.finfo(dtype).tiny, terms)
    bound = tolerance(dtype) * (magnitude + scale)
    if not ((actual - expected).abs() <= bound).all():  # 10 us; what words it takes 200
        torch.testing.assert_close(
            actual,
            expected,
            rtol=tolerance(dtype),
            atol=tolerance(dtype) * scale,
            msg=lambda text: f"{what} (seed {SEED}): {text}",
        )


def gradient_terms(logits: Tensor, reduction: str, upstream: float = 1.0) -> float:
    """The magnitude of p and q in the gradient of a row loss."""
    rows = logits.numel() // max(1, logits.shape[min(1, logits.dim() - 1)])
    return upstream / max(1, rows) if reduction == "mean" else upstream


def to(value: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """Tensors of a nested argument, floating ones in another dtype."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if dtype and value.is_floating_point() else value.dtype)
    if isinstance(value, dict):
        return {key: to(item, device, dtype) for key, item in value.items()}
    return tuple(to(item, device, dtype) for item in value) if isinstance(value, tuple) else value


def value_and_grad(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], upstream: Tensor | None = None):
    """Value and gradient for the first argument; `upstream` is the gradient of the value (default: ones)."""
    leaf = args[0].detach().requires_grad_()
    value = function(leaf, *args[1:], **kwargs)
    (grad,) = torch.autograd.grad(value, leaf, torch.ones_like(value) if upstream is None else upstream.to(value))
    return value.detach(), grad


# ------------------------------------------------------------------------------------------ of cases, see tests/cases

Arguments = dict[str, Any]


def compute(
    case: Case, arguments: Arguments, reduction: str, upstream: Tensor | None = None, loss: Any = None, **more: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """A case's loss and its gradients by the differentiable arguments; `upstream` is the gradient of the value."""
    leaves = {name: arguments[name].detach().requires_grad_() for name in case.differentiable if name in arguments}
    value = (loss or case.loss)(**{**arguments, **leaves}, **{**case.how(reduction), **more})
    if isinstance(value, tuple):
        value = value[0]
    ones = torch.ones_like(value) if upstream is None else upstream.to(value)
    gradients = torch.autograd.grad(value, list(leaves.values()), ones) if leaves else ()
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def expected(
    case: Case, arguments: Arguments, reduction: str, upstream: Tensor | None = None, **more: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same by the reference body, of the same numbers in float64 on the CPU."""
    arguments, more = to(arguments, "cpu", torch.float64), to(more, "cpu", torch.float64)
    upstream = None if upstream is None else upstream.cpu()
    with fastloss.backend("reference"):
        return compute(case, arguments, reduction, upstream, **more)


def elements(arguments: Arguments) -> torch.Size:
    """The shape to which the tensors of a pointwise loss broadcast."""
    return torch.broadcast_shapes(*(x.shape for x in arguments.values() if isinstance(x, Tensor)))


def magnitudes(
    case: Case,
    arguments: Arguments,
    reduction: str,
    upstream: Tensor,
    dtype: torch.dtype,
    exact: tuple[Tensor, dict[str, Tensor]] | None = None,
    **more: Any,
) -> tuple[float, dict[str, float]]:
    """Of a loss and of each gradient: the size of the terms behind an entry, which may cancel, in torch too.

    `exact`: what :func:`expected` says of them, if it is known already.
    """
    value64, gradients64 = exact or expected(case, arguments, reduction, upstream, **more)
    size = upstream.abs().max().item() if upstream.numel() else 0.0
    mean = "mean" in reduction
    least = 4 * torch.finfo(dtype).tiny  # small halves are coarse
    if case.skeleton == "pointwise":  # the gradient of a broadcast operand is a sum of rounded terms
        shape = elements(arguments)
        names = [name for name in case.differentiable if name in arguments]
        whole = {name: x.expand(shape) if name in names else x for name, x in arguments.items()}
        of_elements = gradients64
        if any(arguments[name].shape != shape for name in names):
            _, of_elements = expected(case, whole, reduction, upstream, **more)
        sums = {name: of_elements[name].abs().sum_to_size(arguments[name].shape).max().item() for name in names}
        return 0.0, {name: max(least, x) for name, x in sums.items()}
    if case.skeleton == "row":  # p and q, and the log-sum
        logits = arguments["input"]
        return gradient_terms(logits, reduction), {"input": gradient_terms(logits, reduction, size)}
    if case.skeleton == "outer":  # the mean of pulls of at most kappa each
        kappa = case.options.get("kappa", 1.0)
        largest = sum(float(arguments[name].double().abs().max()) for name in ("quantiles", "target_quantiles"))
        limit = 1.0 if kappa == 0 else min(kappa, largest) / (kappa if case.name == "rl.iqn_loss" else 1.0)
        rows = max(1, arguments["quantiles"].shape[:-1].numel()) if mean else 1
        return 0.0, {"quantiles": max(least, limit / rows)}
    if case.skeleton == "similarity":  # the pull of a key, and that of the others
        rows = arguments[case.differentiable[0]].shape[0]
        scale = {"none": len(arguments), "sum": rows**0.5}.get(reduction, 1.0)
        return case.magnitude * scale, dict.fromkeys(gradients64, size * case.magnitude / (rows if mean else 1))
    # halves: the logits of a linear head are rounded, as torch's are, which is some units of their size in every value
    factor = case.magnitude if dtype.itemsize == 2 else 1.0
    largest_gradient = {name: factor * float(g.abs().max()) if g.numel() else 0.0 for name, g in gradients64.items()}
    return (factor * float(value64.abs().max()) if factor > 1 else 0.0), largest_gradient


def a_mask(case: Case, shape: torch.Size) -> Tensor:
    """True for about 0.6; the first entry counts and the second does not."""
    mask = torch.rand(shape, generator=generator(f"mask {case}")) < 0.6
    if mask.numel() > 1:
        mask.view(-1)[0], mask.view(-1)[1] = True, False
    return mask


def assert_as_reference(
    case: Case, arguments: Arguments, backend: str, reduction: str, dtype: torch.dtype, **more: Any
) -> None:
    """Value, value without gradients, and gradients by the kernels, for a random upstream gradient."""
    device = arguments[case.differentiable[0]].device
    random = generator(f"upstream {case} {reduction}")
    shape = expected(case, arguments, reduction, **more)[0].shape if reduction == "none" else ()
    upstream = (torch.randn(shape, generator=random, dtype=torch.float64) + 0.5).to(dtype).double()
    value64, gradients64 = exact = expected(case, arguments, reduction, upstream, **more)
    of_value, terms = magnitudes(case, arguments, reduction, upstream, dtype, exact, **more)
    with fastloss.backend(backend):
        value, gradients = compute(case, arguments, reduction, upstream.to(device), **more)
        with torch.no_grad():
            forward_only = case.call(arguments, reduction, **more)
    forward_only = forward_only[0] if isinstance(forward_only, tuple) else forward_only
    assert value.dtype == dtype, reduction
    assert_close(value, value64, dtype, f"{reduction} value", of_value)
    assert_close(forward_only, value64, dtype, f"{reduction} value without gradients", of_value)
    for name, gradient in gradients.items():
        assert gradient.dtype == arguments[name].dtype, reduction
        assert_close(gradient, gradients64[name], dtype, f"{reduction} gradient of {name}", terms[name])
