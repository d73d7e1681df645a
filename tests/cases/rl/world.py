"""World models; the oracles are torch's distributions and distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from cases.case import MASKED, Arguments, Case, Shape, normal


def _dynamics(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("input", "target")}
    return {**made, **{name: normal(generator, *shape[:-1]) for name in ("predicted_rewards", "rewards")}}


def _latents(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape, scale=1.5) for name in ("post", "prior")}


def _world(generator: torch.Generator, shape: Shape) -> Arguments:
    steps = shape[:-2]
    made = {name: normal(generator, *steps, 5) for name in ("recon", "target")}
    made |= {name: normal(generator, *steps) for name in ("predicted_rewards", "rewards", "continues")}
    made["terminated"] = torch.rand(steps, generator=generator) < 0.4
    return {**made, **_latents(generator, shape)}


def _directions(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("input", "target")}


def _kl(post: Tensor, prior: Tensor, dyn: float = 1.0, rep: float = 0.1, free_nats: float = 1.0) -> Tensor:
    def divergence(q: Tensor, p: Tensor) -> Tensor:
        return kl_divergence(Categorical(logits=q), Categorical(logits=p)).sum(-1)

    free = torch.tensor(free_nats, dtype=post.dtype)
    of_prior = torch.maximum(divergence(post.detach(), prior), free)
    return dyn * of_prior + rep * torch.maximum(divergence(post, prior.detach()), free)


def _rssm(recon, target, predicted_rewards, rewards, continues, terminated, post, prior, kl_coefficient) -> Tensor:
    ends = F.binary_cross_entropy(continues.sigmoid(), (~terminated).double(), reduction="none")
    squares = ((recon - target) ** 2).sum(-1) + (predicted_rewards - rewards) ** 2
    return squares + ends + kl_coefficient * _kl(post, prior)


def _dynamics_oracle(input, target, predicted_rewards, rewards, reward_coefficient):
    return (input - target).norm(dim=-1) ** 2 + reward_coefficient * (predicted_rewards - rewards) ** 2


CASES = [
    Case(
        "rl.dynamics_loss", _dynamics, (3, 4, 5), ("input", "predicted_rewards"), oracle=_dynamics_oracle,
        options={"reward_coefficient": 0.5}, optional=MASKED, magnitude=16.0,
    ),
    # the gradients are those of two divergences with a constant each, and no derivative of their sum
    Case(
        "rl.kl_balance", _latents, (3, 4, 2, 5), ("post", "prior"), oracle=_kl, options={"free_nats": 0.5},
        optional=MASKED, magnitude=16.0, derivative=False,
    ),
    Case(
        "rl.rssm_loss", _world, (3, 4, 2, 5), ("recon", "predicted_rewards", "continues", "post", "prior"),
        oracle=_rssm, options={"kl_coefficient": 0.5}, optional=MASKED, magnitude=24.0, derivative=False,
    ),
    Case(
        "rl.spr_loss", _directions, (3, 4, 5), ("input",), optional=MASKED, magnitude=4.0,
        oracle=lambda input, target: 2 - 2 * F.cosine_similarity(input, target, dim=-1),
    ),
]  # fmt: skip
