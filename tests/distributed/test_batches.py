"""Two processes that share out a batch or a sequence: counts, labels, gathered rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import on_ranks
from support import SEED
from torch import Tensor

import fastloss
from fastloss.distributed import all_gather_with_grad, global_count, normalize_advantages, shift_labels

SIZES = (3, 5)  # rows of each rank


def mine(x: Tensor, rank: int) -> Tensor:
    return x.split(SIZES)[rank]


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def labels() -> Tensor:
    return torch.tensor([0, -100, 2, -100, 1, 1, -100, 0])


def gathered_gradient(rank: int, grad: str) -> tuple[Tensor, Tensor]:
    x = mine(data(8, 2), rank).clone().requires_grad_()
    every = all_gather_with_grad(x, grad=grad, sizes=SIZES)
    ((rank + 1) * every.square()).sum().backward()
    return every.detach(), x.grad


def averaged_gradient(rank: int) -> Tensor:
    """Of a linear classifier under DDP, whose ranks have batches of different sizes, and labels that do not count."""
    model = torch.nn.Linear(4, 3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    own = mine(labels(), rank)
    count = global_count(own) / 2
    loss = fastloss.cross_entropy(wrapped(mine(data(8, 4), rank)), own, reduction="sum") / count
    loss.backward()
    return model.weight.grad


CONTRASTIVE: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "info_nce": ("info_nce", {"temperature": 0.3}, ()),
    "info_nce, decoupled": ("info_nce", {"decoupled": True, "normalize": False, "temperature": 2.0}, ()),
    "info_nce, sum": ("info_nce", {"label_smoothing": 0.1, "reduction": "sum"}, ()),
    "clip_loss": ("clip_loss", {}, (3.0,)),
    "clip_loss, smoothed": ("clip_loss", {"label_smoothing": 0.1, "normalize": False}, (1.5,)),
    "clip_loss, none": ("clip_loss", {"reduction": "none"}, (3.0,)),
    "siglip_loss": ("siglip_loss", {}, (3.0, -2.0)),
    "siglip_loss, none": ("siglip_loss", {"reduction": "none"}, (3.0, -2.0)),
}
"""By name: the loss, its options, and its parameters, which are learned (the same on every rank)."""
HOW = [
    (name, sizes, backend)
    for name in CONTRASTIVE
    for sizes in ((60, 80), (0, 8))  # the first: more pairs than torch would get by itself
    for backend in ("auto", "reference")
]


def compared(name: str, functions: Any, x: Tensor, y: Tensor, **more: Any) -> dict[str, Tensor]:
    """Loss and gradients of a contrastive loss, the parameters' behind those of the vectors."""
    loss, options, values = CONTRASTIVE[name]
    leaves = [v.detach().clone().requires_grad_() for v in (x, y, *(x.new_tensor(value) for value in values))]
    value = getattr(functions, loss)(*leaves, **options, **more)
    value.sum().backward()
    return {"loss": value.detach(), "gradients": [v.grad for v in leaves]}


def contrastive(name: str, sizes: tuple[int, int], backend: str, rank: int) -> dict[str, Tensor]:
    x, y = data(2, sum(sizes), 6)
    with fastloss.backend(backend):
        x, y = x.split(sizes)[rank], y.split(sizes)[rank]
        return compared(name, fastloss.distributed, x, y, sizes=sizes, scale="sum")


def normalized(rank: int) -> dict[str, Tensor]:
    """Far from 0; masked, where what is masked out is NaN; on a rank that has none."""
    x, there = data(8) + 1e6, labels() >= 0
    holes = torch.where(there, x, torch.nan)
    return {
        "plain": normalize_advantages(mine(x, rank)),
        "masked": normalize_advantages(mine(holes, rank), mask=mine(there, rank)),
        "none": normalize_advantages(x if rank else x[:0]),
        "float32": normalize_advantages(mine(data(8).float(), rank)),
    }


def straddling_groups(rank: int) -> Tensor:
    """GRPO's advantages of groups of four sequences, of which the first rank has three, the second five."""
    rewards = all_gather_with_grad(mine(data(8), rank), sizes=SIZES)
    return mine(fastloss.alignment.grpo_advantages(rewards, 4), rank)


def compiled_clip(rank: int) -> tuple[Tensor, Tensor]:
    x, y = data(2, 160, 6)[:, rank * 80 :][:, :80].clone().requires_grad_().unbind()
    calls = (
        fastloss.distributed.clip_loss,
        torch.compile(fastloss.distributed.clip_loss, fullgraph=True, backend="aot_eager"),
    )
    losses = [call(x, y) for call in calls]
    gradients = [torch.autograd.grad(loss, x)[0] for loss in losses]
    return torch.stack(losses).detach(), torch.stack(gradients)


def averaged_clip(rank: int) -> dict[str, Tensor]:
    x, y = data(2, 8, 6)
    return compared("clip_loss", fastloss.distributed, x[rank * 4 :][:4], y[rank * 4 :][:4])


def work(rank: int) -> dict[str, Any]:
    if rank == 0:  # sends nothing, or it would wait for the other one
        fastloss.explain(fastloss.distributed.siglip_loss, data(80, 6), data(80, 6))
    sequence = torch.arange(16).view(2, 8)
    short = data(2, 2).requires_grad_()
    even = all_gather_with_grad(short)
    (even * torch.arange(4)[:, None]).sum().backward()
    return {
        "labels": global_count(mine(labels(), rank)),
        "mask": global_count(mine(labels(), rank) > 0),
        "weights": global_count(mine(torch.full((8,), 0.5), rank)),
        "nothing": global_count(labels()[:0], ignore_index=-1),
        "shifted": shift_labels(sequence[:, :3] if rank == 0 else sequence[:, 3:]),
        "sum": gathered_gradient(rank, "sum"),
        "local": gathered_gradient(rank, "local"),
        "even": (even.detach(), short.grad),
        "averaged": averaged_gradient(rank),
        "contrastive": {how: contrastive(*how, rank) for how in HOW},
        "normalized": normalized(rank),
        "straddling": straddling_groups(rank),
        "compiled clip": compiled_clip(rank),
        "averaged clip": averaged_clip(rank),
    }


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_ranks(2, work)


def test_counts_are_of_all_ranks(found) -> None:
    for of_rank in found:
        assert [of_rank[name].item() for name in ("labels", "mask", "weights", "nothing")] == [5, 3, 4.0, 0]


def test_the_label_of_the_last_position_comes_from_the_next_rank(found) -> None:
    shifted = torch.cat([of_rank["shifted"] for of_rank in found], 1)
    assert shifted.tolist() == [[1, 2, 3, 4, 5, 6, 7, -100], [9, 10, 11, 12, 13, 14, 15, -100]]


@pytest.mark.parametrize(("grad", "factors"), [("sum", (3, 3)), ("local", (1, 2))])
def test_gathered_rows_have_the_gradient_of_what_was_asked(found, grad: str, factors) -> None:
    x = data(8, 2)
    for rank, of_rank in enumerate(found):
        every, gradient = of_rank[grad]
        assert torch.equal(every, x)
        torch.testing.assert_close(gradient, factors[rank] * 2 * mine(x, rank))


def test_gathered_rows_as_many_of_each_rank(found) -> None:
    x = data(2, 2)
    for rank, of_rank in enumerate(found):
        assert torch.equal(of_rank["even"][0], torch.cat([x, x]))
        expected = 2 * (torch.arange(2, dtype=x.dtype) + 2 * rank)
        torch.testing.assert_close(of_rank["even"][1], expected[:, None].expand(2, 2))


def test_uneven_batches_under_ddp_have_the_gradient_of_one_process(found) -> None:
    weight, bias = (torch.linspace(-1, 1, n, dtype=torch.float32) for n in (12, 3))
    weight = weight.double().view(3, 4).requires_grad_()
    loss = fastloss.cross_entropy(data(8, 4) @ weight.t() + bias.double(), labels())
    loss.backward()
    for of_rank in found:
        torch.testing.assert_close(of_rank["averaged"], weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "sizes", "backend"), HOW)
def test_contrastive_losses_of_two_ranks_are_those_of_one_process(found, name, sizes, backend) -> None:
    with fastloss.backend("reference"):
        whole = compared(name, fastloss, *data(2, sum(sizes), 6))
    ranks = [of_rank["contrastive"][name, sizes, backend] for of_rank in found]
    losses = [rank["loss"] for rank in ranks]
    loss = torch.cat(losses) if losses[0].dim() else sum(losses)
    torch.testing.assert_close(loss, whole["loss"], rtol=1e-12, atol=1e-12)
    for k, expected in enumerate(whole["gradients"]):
        parts = [rank["gradients"][k] for rank in ranks]
        actual = torch.cat(parts) if expected.dim() else sum(parts)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_mean_of_the_ranks_losses_is_that_of_the_batch(found) -> None:
    with fastloss.backend("reference"):
        whole = compared("clip_loss", fastloss, *data(2, 8, 6))
    ranks = [of_rank["averaged clip"] for of_rank in found]
    torch.testing.assert_close(sum(rank["loss"] for rank in ranks) / 2, whole["loss"])
    for k, expected in enumerate(whole["gradients"]):
        parts = [rank["gradients"][k] / 2 for rank in ranks]
        torch.testing.assert_close(torch.cat(parts) if expected.dim() else sum(parts), expected)


def test_advantages_are_normalized_over_all_ranks(found) -> None:
    x, there = data(8) + 1e6, labels() >= 0
    expected = {"plain": (x, torch.ones_like(there)), "masked": (x, there), "none": (x, torch.ones_like(there))}
    for name, (values, counted) in expected.items():
        chosen = values[counted]
        wanted = torch.where(counted, (values - chosen.mean()) / chosen.std(), 0)
        actual = torch.cat([of_rank["normalized"][name] for of_rank in found])
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-7)
    actual = torch.cat([of_rank["normalized"]["float32"] for of_rank in found])
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, ((data(8) - data(8).mean()) / data(8).std()).float())


def test_groups_that_straddle_ranks(found) -> None:
    expected = fastloss.alignment.grpo_advantages(data(8), 4)
    assert torch.equal(torch.cat([of_rank["straddling"] for of_rank in found]), expected)


def test_a_gathered_loss_compiled_whole(found) -> None:
    for of_rank in found:
        for eager, compiled in of_rank["compiled clip"]:
            torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="T at least 1"):
        shift_labels(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="valid value for grad"):
        all_gather_with_grad(torch.zeros(2, 2), grad="all")
    with pytest.raises(ValueError, match="has not been initialized"):
        global_count(torch.zeros(2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="sizes"):
            all_gather_with_grad(torch.zeros(2, 2), sizes=(3,))
        alone = torch.randn(3, 4, dtype=torch.float64)
        target = torch.tensor([1, 0, 3])
        loss = fastloss.distributed.vocab_parallel_cross_entropy(alone, target)
        torch.testing.assert_close(loss, fastloss.cross_entropy(alone, target), rtol=1e-14, atol=1e-14)
    finally:
        dist.destroy_process_group()
