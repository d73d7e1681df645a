"""What token-level losses are made of: numbers of rows of logits, and of sequences, from logits and hidden states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import DTYPES, assert_close, each_backend, generator
from torch import Tensor

import fastloss
from fastloss.losses.log_prob import LogSoftmaxOutputs

OUTPUTS = LogSoftmaxOutputs._fields
DIFFERENTIABLE = ("log_prob", "entropy", "logsumexp", "mean_logit")
OPTIONS: list[dict[str, Any]] = [{}, {"temperature": 0.7, "softcap": 5.0, "logit_scale": 1.3}]
ROWS, CLASSES, FEATURES = (3, 7), 37, 11


def made(name: str, candidates: bool, linear: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(leaves, index, mask)"""
    random = generator(name)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    index = torch.randint(CLASSES, (*ROWS, 3) if candidates else ROWS, generator=random)
    mask = torch.rand(ROWS, generator=random) < 0.7
    if linear:
        weights = {"weight": normal(CLASSES, FEATURES), "bias": normal(CLASSES)}
        return {"hidden": normal(*ROWS, FEATURES), **weights}, index, mask
    return {"logits": normal(*ROWS, CLASSES) * 3}, index, mask


def call(leaves: dict[str, Tensor], index: Tensor, **how: Any) -> LogSoftmaxOutputs:
    if "logits" in leaves:
        return fastloss.selective_log_softmax(leaves["logits"], index, **how)
    return fastloss.linear_selective_log_softmax(leaves["hidden"], leaves["weight"], index, leaves["bias"], **how)


def by_torch(leaves: dict[str, Tensor], index: Tensor, mask: Tensor | None, **how: float) -> dict[str, Tensor]:
    """Through torch.distributions, and sorting."""
    if "logits" in leaves:
        x = leaves["logits"]
    else:
        x = leaves["hidden"] @ leaves["weight"].T + leaves["bias"]
    z = x * how.get("logit_scale", 1.0)
    if how.get("softcap"):
        z = how["softcap"] * (z / how["softcap"]).tanh()
    z = z / how.get("temperature", 1.0)
    categorical = torch.distributions.Categorical(logits=z)
    several = index if index.dim() == z.dim() else index[..., None]
    of_index = z.gather(-1, several)
    found = {
        "log_prob": (of_index - z.exp().sum(-1, keepdim=True).log()).reshape(index.shape),
        "entropy": categorical.entropy(),
        "logsumexp": z.exp().sum(-1).log(),
        "mean_logit": z.mean(-1),
        "log_sum_sq_prob": categorical.probs.square().sum(-1).log(),
        "is_top1": (of_index == z.amax(-1, keepdim=True)).reshape(index.shape),
        "rank": (z[..., None] > of_index[..., None, :]).sum(-2).reshape(index.shape),
    }
    if mask is not None:
        for name, value in found.items():
            counted = mask if value.dim() == mask.dim() else mask[..., None]
            found[name] = torch.where(counted, value, torch.zeros_like(value))
    return found


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "mask"])
@pytest.mark.parametrize("candidates", [False, True], ids=["one index", "candidates"])
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_the_numbers_of_rows_and_their_gradients(linear, candidates, masked, dtype, backend, device):
    if linear and dtype.itemsize == 2:
        pytest.skip("the products of halves are rounded; test_halves_of_hidden_states")
    for how in OPTIONS:
        exact, index, mask = made(f"{linear} {candidates} {how}", candidates, linear)
        exact = {name: x.to(dtype).double().requires_grad_() for name, x in exact.items()}
        leaves = {name: x.detach().to(device, dtype).requires_grad_() for name, x in exact.items()}
        mask = mask if masked else None
        wanted = by_torch(exact, index, mask, **how)
        with fastloss.backend(backend):
            there = None if mask is None else mask.to(device)
            found = call(leaves, index.to(device), outputs=OUTPUTS, mask=there, **how)._asdict()
        wide = torch.promote_types(dtype, torch.float32)
        for name in OUTPUTS:
            assert found[name].shape == wanted[name].shape, name
            if name in ("is_top1", "rank"):
                assert torch.equal(found[name].cpu(), wanted[name]), name
            else:
                assert found[name].dtype == wide
                assert_close(found[name], wanted[name], wide, name, 30.0)
        weights = {name: torch.linspace(0.5, 1.5, wanted[name].numel()).double() for name in DIFFERENTIABLE}
        totals = [
            sum((of[name].flatten() * weights[name].to(of[name])).sum() for name in DIFFERENTIABLE)
            for of in (found, wanted)
        ]
        gradients = torch.autograd.grad(totals[0], list(leaves.values()))
        for name, actual, right in zip(
            leaves, gradients, torch.autograd.grad(totals[1], list(exact.values())), strict=True
        ):
            assert_close(actual, right, dtype, f"gradient of {name}", 30.0)
            if masked and name in ("logits", "hidden"):
                assert (actual[~mask.to(device)] == 0).all()


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", OPTIONS, ids=["plain", "options"])
def test_equal_logits_have_one_rank(how, dtype, backend, device):
    """The index's logit enters the softmax as those of the other classes do, to the bit."""
    values = torch.randn(500, 1, generator=generator("equal logits"), dtype=torch.float64) * 4
    logits = torch.cat([values, values.flip(0).clamp(max=-20)], 1).repeat_interleave(21, 1).to(device, dtype)
    index = torch.arange(500, device=device) % 21
    with fastloss.backend(backend):
        found = fastloss.selective_log_softmax(logits, index, outputs=("is_top1", "rank"), **how)
    assert found.is_top1.all()
    assert (found.rank == 0).all()


@each_backend
def test_halves_of_hidden_states(backend, device):
    exact, index, mask = made("halves", False, True)
    leaves = {name: x.to(device, torch.bfloat16).requires_grad_() for name, x in exact.items()}
    with fastloss.backend(backend):
        found = call(leaves, index.to(device), outputs=("log_prob", "entropy"), mask=mask.to(device))
    wanted = by_torch({name: x.detach().cpu().double() for name, x in leaves.items()}, index, mask)
    assert found.log_prob.dtype == torch.float32
    assert_close(found.log_prob, wanted["log_prob"], torch.bfloat16, "log_prob", 30.0)
    gradients = torch.autograd.grad((found.log_prob + found.entropy).sum(), list(leaves.values()))
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in gradients)


@each_backend
def test_masked_rows_may_hold_anything(backend, device):
    exact, index, mask = made("anything", False, False)
    logits = torch.where(mask[..., None], exact["logits"], torch.nan).float().to(device).requires_grad_()
    index = torch.where(mask, index, -7).to(device)
    with fastloss.backend(backend):
        found = fastloss.selective_log_softmax(logits, index, mask=mask.to(device), outputs=OUTPUTS)
    for value in found:
        assert (value[~mask.to(device)] == 0).all() and value.float().isfinite().all()
    (gradient,) = torch.autograd.grad(found.log_prob.sum() + found.entropy.sum(), logits)
    assert gradient.isfinite().all() and (gradient[~mask.to(device)] == 0).all()


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batch_invariance(dtype, backend, device):
    """A row has the same bits alone, in a batch, for one thread, without a gradient, and whatever else is asked."""
    random = generator("batch invariance")
    logits = (torch.randn(6, 4099, generator=random) * 3).to(device, dtype)
    index = torch.randint(4099, (6,), generator=random).to(device)

    def numbers(rows: slice, grad: bool, outputs: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
        x = logits[rows].clone().requires_grad_(grad)
        with fastloss.backend(backend):
            found = fastloss.selective_log_softmax(x, index[rows], outputs=outputs)
        upstream = torch.linspace(0.5, 1.5, 6, device=device)[rows]
        return found.log_prob.detach(), torch.autograd.grad(found.log_prob, x, upstream)[0] if grad else None

    whole, gradient = numbers(slice(None), True, ("log_prob",))
    for outputs in (("log_prob",), ("log_prob", "entropy"), OUTPUTS):
        assert torch.equal(numbers(slice(None), False, outputs)[0], whole), outputs
    for row in range(6):
        alone, of_alone = numbers(slice(row, row + 1), True, ("log_prob",))
        assert torch.equal(alone, whole[row : row + 1])
        assert torch.equal(of_alone, gradient[row : row + 1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(numbers(slice(None), True, ("log_prob",))[1], gradient)
    finally:
        torch.set_num_threads(threads)


@each_backend
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_second_derivatives_of_the_numbers(linear, backend, device):
    exact, index, mask = made("twice", False, linear)
    leaves = [x.to(device).requires_grad_() for x in exact.values()]

    def total(*some: Tensor) -> Tensor:
        with fastloss.backend(backend):
            found = call(dict(zip(exact, some, strict=True)), index.to(device), outputs=OUTPUTS, mask=mask.to(device))
        return (found.log_prob * found.entropy + found.logsumexp.sin() * found.mean_logit).sum()

    def by_formula(*some: Tensor) -> Tensor:
        found = by_torch(dict(zip(exact, some, strict=True)), index.to(device), mask.to(device))
        return (found["log_prob"] * found["entropy"] + found["logsumexp"].sin() * found["mean_logit"]).sum()

    results = []
    for f in (total, by_formula):
        first = torch.autograd.grad(f(*leaves), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for actual, right in zip(*results, strict=True):
        assert_close(actual, right, torch.float64, "second derivative", 1e4)


@each_backend
def test_the_numbers_under_transforms(backend, device):
    exact, index, _ = made("transforms", False, False)
    logits, index = exact["logits"].to(device), index.to(device)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with fastloss.backend(backend):
            found = fastloss.selective_log_softmax(x, y, outputs=("log_prob", "entropy"))
        return found.log_prob.sum() + found.entropy.square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(logits, index)
    x = logits.clone().requires_grad_()
    (plain,) = torch.autograd.grad(sum(loss(a, b) for a, b in zip(x, index, strict=True)), x)
    assert_close(mapped, plain, torch.float64, "vmap of grad", 10.0)


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_the_numbers_compile(linear):
    exact, index, mask = made("compile", False, linear)
    leaves = {name: x.float().requires_grad_() for name, x in exact.items()}

    def total(some: dict[str, Tensor]) -> Tensor:
        found = call(some, index, outputs=("log_prob", "entropy"), mask=mask)
        return (found.log_prob + found.entropy).sum()

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(leaves), list(leaves.values()))
    for one, right in zip(actual, torch.autograd.grad(total(leaves), list(leaves.values())), strict=True):
        assert_close(one, right.double(), torch.float32, "gradient", 30.0)


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_refusals_of_the_numbers(linear):
    exact, index, _ = made("refusals", False, linear)
    with pytest.raises(ValueError, match="unknown outputs"):
        call(exact, index, outputs=("log_probs",))
    with pytest.raises(ValueError, match="temperature"):
        call(exact, index, temperature=0.0)
    with pytest.raises(ValueError, match="does not fit"):
        call(exact, index[0])
    for backend in ("reference", "cpu"):
        with fastloss.backend(backend), pytest.raises(IndexError, match="out of bounds"):
            call(exact, torch.full_like(index, CLASSES))
        for wrong in (CLASSES, -1):  # of candidates, of which none is taken from the other end
            candidates = index[..., None].repeat(1, 1, 2)
            candidates[0, 0, 1] = wrong
            with fastloss.backend(backend), pytest.raises(IndexError, match="out of bounds"):
                call(exact, candidates)


@each_backend
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_sequence_logps_padded_and_packed(linear, average, backend, device):
    """Packed sequences of 4, 0 and 5 tokens are the padded ones."""
    exact, index, mask = made("sequences", False, linear)
    lengths = [4, 0, 5]
    index[:, 0] = -100
    counted = mask.clone()
    for row, length in enumerate(lengths):
        counted[row, length:] = False
    x = exact["hidden"] if linear else exact["logits"]
    packed = torch.cat([x[row, :n] for row, n in enumerate(lengths)])
    labels, of_mask = (torch.cat([y[row, :n] for row, n in enumerate(lengths)]) for y in (index, mask))
    ends = torch.tensor([0, 4, 4, 9], device=device)

    def logps(x: Tensor, labels: Tensor, mask: Tensor, **more: Any) -> Tensor:
        x, labels, mask = x.to(device), labels.to(device), mask.to(device)
        with fastloss.backend(backend):
            if linear:
                weights = exact["weight"].to(device), labels, mask, exact["bias"].to(device)
                return fastloss.alignment.linear_sequence_logps(x, *weights, average=average, **more)
            return fastloss.alignment.sequence_logps(x, labels, mask, average=average, **more)

    wanted = by_torch(exact, index.clamp(min=0), counted & (index != -100))["log_prob"].sum(-1)
    if average:
        wanted = wanted / (counted & (index != -100)).sum(-1).clamp(min=1)
    assert_close(logps(x, index, counted), wanted, torch.float64, "padded", 30.0)
    assert_close(logps(packed, labels, of_mask, cu_seqlens=ends), wanted, torch.float64, "packed", 30.0)
