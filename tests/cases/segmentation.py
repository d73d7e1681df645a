"""Regions; the oracles count position by position, on one-hot targets, and sum over sets of wrong positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal, uniform


def _indexed(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return {"input": normal(generator, *shape), "target": target}


def _ignoring(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _indexed(generator, shape)
    made["target"].view(-1)[::3] = -100
    return {**made, "position_mask": torch.rand(made["target"].shape, generator=generator) < 0.8}


def _weighted(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _indexed(generator, shape)
    return {**made, "position_mask": uniform(generator, 0.1, 2.0, *made["target"].shape)}


def _multilabel(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": uniform(generator, 0.0, 1.0, *shape)}


def _binary(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": torch.randint(2, shape, generator=generator)}


def _binary_ignoring(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _binary(generator, shape)
    made["target"].view(-1)[::3] = -100
    return {**made, "position_mask": torch.rand(shape, generator=generator) < 0.8}


def _sums(input, target, position_mask, squared=False, batch=False):
    """(sum of p t, of p, of t), (N, C)"""
    if target.shape == input.shape:
        p, t = torch.sigmoid(input), target
        weight = torch.ones_like(p[:, :1])
    else:
        p = torch.exp(input) / torch.exp(input).sum(1, keepdim=True)
        weight = (target != -100).double()[:, None]
        t = F.one_hot(target.clamp(min=0), input.shape[1]).double().movedim(-1, 1)
    if position_mask is not None:
        weight = weight * position_mask.double()[:, None]
    dims = tuple(range(2, input.dim()))
    power = 2 if squared else 1
    sums = [(weight * x).sum(dims) for x in (p * t, p**power, t**power)]
    return [x.sum(0, keepdim=True) for x in sums] if batch else sums


def _dice(input, target, position_mask=None, squared=False, batch=False) -> Tensor:
    both, p, t = _sums(input, target, position_mask, squared, batch)
    return 1 - (2 * both + 1e-5) / (p + t + 1e-5)


def _tversky(input, target, position_mask=None, alpha=0.5, beta=0.5, batch=False) -> Tensor:
    both, p, t = _sums(input, target, position_mask, batch=batch)
    return 1 - (both + 1e-5) / (both + alpha * (p - both) + beta * (t - both) + 1e-5)


def _focal_tversky(input, target, position_mask=None, gamma=0.75) -> Tensor:
    return _tversky(input, target, position_mask, 0.3, 0.7) ** gamma


def _extension(errors: Tensor, true: Tensor) -> Tensor:
    """sum over the positions, largest error first, of the error times what its being wrong adds to 1 - Jaccard."""
    total, before, wrong = errors.new_zeros(()), 0.0, torch.zeros_like(true)
    for place in errors.detach().argsort(descending=True):
        wrong[place] = True
        found = (true & ~wrong) | (~true & wrong)  # what is predicted
        union = (found | true).sum()
        after = 1 - float((found & true).sum()) / float(union) if union else 0.0
        total = total + errors[place] * (after - before)
        before = after
    return total


def _there(target, position_mask) -> Tensor:
    there = target != -100
    return there if position_mask is None else there & position_mask


def _lovasz_softmax(input, target, position_mask=None, classes="present", batch=True) -> Tensor:
    there, p = _there(target, position_mask), torch.softmax(input, 1)
    groups = [slice(None)] if batch else [slice(n, n + 1) for n in range(len(input))]
    losses = []
    for group in groups:
        keep, labels = there[group], target[group]
        of_classes = []
        for c in range(input.shape[1]):
            true = (labels == c)[keep]
            if true.any() or classes == "all":
                q = p[group, c][keep]
                of_classes.append(_extension(torch.where(true, 1 - q, q), true))
        losses.append(torch.stack(of_classes).mean())
    return torch.stack(losses)


def _lovasz_hinge(input, target, position_mask=None, batch=True) -> Tensor:
    there = _there(target, position_mask)
    groups = [slice(None)] if batch else [slice(n, n + 1) for n in range(len(input))]
    losses = []
    for group in groups:
        true, x = (target[group] == 1)[there[group]], input[group][there[group]]
        losses.append(_extension(torch.relu(1 - torch.where(true, x, -x)), true))
    return torch.stack(losses)


_SHAPE = (3, 4, 3, 2)


def _case(name: str, build, oracle, variant: str = "", **options) -> Case:
    indices = () if build is _multilabel else ("target",)
    return Case(
        name, build, _SHAPE if "hinge" not in name else (3, 3, 2), ("input",), variant=variant, options=options,
        indices=indices, oracle=oracle, twice="lovasz" not in name,
        batched=not options.get("batch", "lovasz" in name),  # one sum over it
        # half and single round the errors, which may order them otherwise
        dtypes=(torch.float64,) if "lovasz" in name else (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    )  # fmt: skip


CASES = [
    _case("dice_loss", _indexed, _dice),
    _case("dice_loss", _ignoring, _dice, "ignored", squared=True),
    _case("dice_loss", _weighted, _dice, "batch", batch=True),
    _case("dice_loss", _multilabel, _dice, "multi-label"),
    _case("tversky_loss", _indexed, _tversky),
    _case("tversky_loss", _ignoring, _tversky, "ignored", alpha=0.2, beta=0.9, batch=True),
    _case("focal_tversky_loss", _indexed, _focal_tversky),
    _case("focal_tversky_loss", _ignoring, _focal_tversky, "ignored", gamma=2.0),
    _case("lovasz_softmax_loss", _indexed, _lovasz_softmax),
    _case("lovasz_softmax_loss", _ignoring, _lovasz_softmax, "ignored", classes="all", batch=False),
    _case("lovasz_hinge_loss", _binary, _lovasz_hinge),
    _case("lovasz_hinge_loss", _binary_ignoring, _lovasz_hinge, "ignored", batch=False),
]
