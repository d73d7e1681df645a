"""Reinforcement learning and alignment against what others publish, and against definitions: rlax's vectors, Liger's
losses, exact expectations, loops over tokens; and the edges at which such losses break."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import BACKENDS, generator
from torch import Tensor

import fastloss
from fastloss import alignment, rl
from fastloss.nn import alignment as alignment_modules
from fastloss.nn import rl as rl_modules

backends = pytest.mark.parametrize(
    ("backend", "device"), [("reference", "cpu"), *BACKENDS], ids=lambda value: str(value)
)
DPO_TYPES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sppo_hard",
    "bco_pair", "discopop",
)  # fmt: skip


def normal(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64).to(dtype)


def gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves)


# ------------------------------------------------------------------------------------------ other implementations


@backends
@pytest.mark.parametrize(("sign", "expected"), [(1.0, -0.17117467), (-1.0, 0.19333333)])
def test_rlax_clipped_surrogate(backend, device, sign, expected):
    """The vectors of rlax's policy_gradients_test.py, which compares to 1e-4; the first is 3e-6 off."""
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]], device=device)
    old_logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-3.0, -2.0, -1.0]], device=device)
    actions = torch.tensor([[0], [1], [2]], device=device)
    logp, old_logp = (x.log_softmax(-1).gather(1, actions).squeeze(1) for x in (logits, old_logits))
    advantages = sign * torch.tensor([0.3, 0.2, 0.1], device=device)
    with fastloss.backend(backend):
        assert rl.ppo_clip_loss(logp, old_logp, advantages).item() == pytest.approx(expected, abs=1e-5)


def liger(module: str, name: str) -> Any:
    pytest.importorskip("liger_kernel", reason="liger-kernel, of the test extra, is not installed")
    loss = pytest.importorskip(f"liger_kernel.chunked_loss.{module}", reason="Liger does not run here")
    return getattr(loss, name).preference_loss_fn


@backends
@pytest.mark.parametrize("loss_type", [name for name in DPO_TYPES if name != "ipo"])
def test_liger_dpo(backend, device, loss_type):
    theirs = liger("dpo_loss", "LigerFusedLinearDPOFunction")
    smoothing = 0.1 if loss_type in ("robust", "exo_pair") else 0.0
    logps = [(20 * normal(f"{loss_type} {k}", 33) - 60).to(device).requires_grad_() for k in range(4)]
    value, chosen, rejected = theirs(
        *logps[:2], logps[0].new_empty(66), *logps[2:], beta=0.2, loss_type=loss_type, label_smoothing=smoothing
    )
    with fastloss.backend(backend):
        loss, terms = alignment.dpo_loss(
            *logps, beta=0.2, loss_type=loss_type, label_smoothing=smoothing, return_terms=True
        )
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradients(loss, *logps[:2]), gradients(value, *logps[:2]))
    expected = {
        "chosen_reward": chosen.mean(),
        "rejected_reward": rejected.mean(),
        "margin": (chosen - rejected).mean(),
        "accuracy": (chosen > rejected).double().mean(),
    }
    torch.testing.assert_close(terms, {name: value.detach() for name, value in expected.items()})


@backends
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_liger_simpo(backend, device, smoothing):
    theirs = liger("simpo_loss", "LigerFusedLinearSimPOFunction")
    logps = [(-normal(f"simpo {k}", 33).abs()).to(device).requires_grad_() for k in range(2)]
    value, _, _ = theirs(*logps, logps[0].new_empty(66), beta=2.5, gamma=0.7, label_smoothing=smoothing)
    with fastloss.backend(backend):
        loss = alignment.simpo_loss(*logps, beta=2.5, gamma=0.7, label_smoothing=smoothing)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradients(loss, *logps), gradients(value, *logps))


@backends
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_liger_cpo(backend, device, smoothing):
    theirs = liger("cpo_loss", "LigerFusedLinearCPOFunction")
    logps = [(-20 * normal(f"cpo {k}", 33).abs()).to(device).requires_grad_() for k in range(2)]
    preference, chosen, rejected = theirs(*logps, logps[0].new_empty(66), beta=0.3, label_smoothing=smoothing)
    value = preference - 0.7 * logps[0].mean()
    with fastloss.backend(backend):
        loss, terms = alignment.cpo_loss(*logps, beta=0.3, alpha=0.7, label_smoothing=smoothing, return_terms=True)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradients(loss, *logps), gradients(value, *logps))
    torch.testing.assert_close(terms["preference_loss"], preference.detach())
    torch.testing.assert_close(terms["nll_loss"], -logps[0].detach().mean())
    torch.testing.assert_close(terms["margin"], (chosen - rejected).detach().mean())


@backends
def test_liger_orpo(backend, device):
    theirs = liger("orpo_loss", "LigerFusedLinearORPOFunction")
    logps = [(-normal(f"orpo {k}", 33).abs() - 0.01).to(device).requires_grad_() for k in range(2)]
    value, chosen, _, log_odds_ratio, log_odds = theirs(*logps, logps[0].new_empty(66), beta=0.3)
    with fastloss.backend(backend):
        loss, terms = alignment.orpo_loss(*logps, beta=0.3, return_terms=True)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradients(loss, *logps), gradients(value, *logps))
    torch.testing.assert_close(terms["log_odds"], log_odds.detach())
    torch.testing.assert_close(terms["odds_loss"], -0.3 * log_odds_ratio.detach())
    torch.testing.assert_close(terms["chosen_reward"], chosen.detach().mean())
    torch.testing.assert_close(terms["sft_loss"], -logps[0].detach().mean())


@backends
@pytest.mark.parametrize("kl", [None, 0.7])
def test_liger_kto(backend, device, kl):
    theirs = liger("kto_loss", "LigerFusedLinearKTOFunction")
    policy, reference = ((20 * normal(f"kto {k}", 33) - 60).to(device).requires_grad_() for k in range(2))
    desirable = (normal("kto labels", 33) > 0).to(device)
    kl = None if kl is None else torch.tensor(kl, dtype=torch.float64, device=device)
    value, good, bad = theirs(policy, desirable, policy.new_empty(33), reference, beta=0.2, kl=kl)
    with fastloss.backend(backend):
        loss, terms = alignment.kto_loss(policy, reference, desirable, kl, beta=0.2, return_terms=True)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradients(loss, policy), gradients(value, policy))
    torch.testing.assert_close(terms["desirable_reward"] * 33, good.detach())
    torch.testing.assert_close(terms["undesirable_reward"] * 33, bad.detach())
    assert terms["desirable_fraction"].item() == pytest.approx(desirable.double().mean().item())


@backends
def test_orpo_keeps_its_digits_in_float32(backend, device):
    """log1p(-exp(y)) is -inf, or has lost all digits, where a sequence is nearly certain."""
    logps = torch.tensor([-1e-6, -1e-4, -0.1, -3.0, -30.0, -90.0], device=device)
    chosen, rejected = (x.flatten().requires_grad_() for x in torch.meshgrid(logps, logps, indexing="ij"))
    with fastloss.backend(backend):
        loss = alignment.orpo_loss(chosen, rejected, reduction="none")
        found = gradients(loss.sum(), chosen, rejected)
        exact = alignment.orpo_loss(chosen.double(), rejected.double(), reduction="none")
        expected = gradients(exact.sum(), chosen, rejected)
    torch.testing.assert_close(loss.double(), exact, rtol=3e-5, atol=1e-7)
    torch.testing.assert_close(found, expected, rtol=3e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------ exact expectations


def expected_gradient(kind: str, logits: Tensor, ref_logp: Tensor) -> Tensor:
    """Over all outcomes, each weighted with its probability: the mask is the measure."""
    logp = logits.log_softmax(-1)
    loss = alignment.kl_penalty(logp, ref_logp, kind=kind, mask=logp.exp().detach(), aggregation="token-sum")
    return gradients(loss, logits)[0]


@backends
def test_gradients_of_penalties_in_expectation(backend, device):
    logits = normal("policy", 11).to(device).requires_grad_()
    ref_logp = normal("reference", 11).to(device).log_softmax(-1)
    logp = logits.log_softmax(-1)
    reverse = (logp.exp() * (logp - ref_logp)).sum()
    forward = (ref_logp.exp() * (ref_logp - logp)).sum()
    variation = (logp.exp() - ref_logp.exp()).abs().sum()
    of_reverse, of_forward, of_variation = (
        torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (reverse, forward, variation)
    )
    with fastloss.backend(backend):
        torch.testing.assert_close(expected_gradient("k1", logits, ref_logp), torch.zeros_like(logits))
        torch.testing.assert_close(expected_gradient("k2", logits, ref_logp), of_reverse)
        torch.testing.assert_close(expected_gradient("k3", logits, ref_logp), of_forward)
        torch.testing.assert_close(expected_gradient("abs", logits, ref_logp), of_variation)
        for kind in ("k1", "k3"):  # the unbiased estimates
            value = alignment.kl_penalty(logp, ref_logp, kind=kind, mask=logp.exp().detach(), aggregation="token-sum")
            torch.testing.assert_close(value, reverse)


# ------------------------------------------------------------------------------------------ aggregations and masks


def by_loops(losses: Tensor, how: str, mask: Tensor) -> float:
    """losses, mask: (sequences, tokens)"""
    total, tokens, sequences = 0.0, 0.0, 0
    for sequence, weights in zip(losses.tolist(), mask.tolist(), strict=True):
        summed, count = 0.0, 0.0
        for loss, weight in zip(sequence, weights, strict=True):
            if weight != 0:
                summed, count = summed + weight * loss, count + weight
        if how == "seq-mean-token-mean":
            summed = summed / count if count else 0.0
        elif how == "seq-mean-token-sum-norm":
            summed /= len(sequence)
        total, tokens, sequences = total + summed, tokens + count, sequences + (count > 0)
    return total / {"token-mean": tokens, "token-sum": 1.0}.get(how, sequences)


@backends
@pytest.mark.parametrize("hidden", ["none", "ends", "random", "weights"])
@pytest.mark.parametrize(
    "how", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
)
def test_aggregations_are_loops(backend, device, how, hidden):
    """The last sequence of a mask is empty; advantages are one a sequence."""
    shape = (5, 13)
    logp = -normal("logp", *shape).abs().to(device)
    old_logp = logp + 0.3 * normal("old", *shape).to(device)
    advantages = normal("advantages", 5, 1).to(device) - 1.0
    mask = torch.ones(shape, dtype=torch.float64)
    if hidden == "ends":
        mask = (torch.arange(13) < torch.tensor([[13], [9], [1], [4], [0]])).double()
    elif hidden != "none":
        mask = (torch.rand(shape, generator=generator("mask")) < 0.7).double()
        mask[4] = 0
        mask *= 0.5 if hidden == "weights" else 1.0
    leaf = logp.requires_grad_()
    with fastloss.backend(backend):
        losses = rl.ppo_clip_loss(leaf, old_logp, advantages, aggregation="none")
        given = None if hidden == "none" else mask.to(device)
        loss = rl.ppo_clip_loss(leaf, old_logp, advantages, mask=given, aggregation=how)
    assert loss.item() == pytest.approx(by_loops(losses, how, mask), rel=1e-12)
    (gradient,) = gradients(loss, leaf)
    (elementwise,) = gradients(losses.sum(), leaf)
    for s, t in [(0, 0), (1, 8), (2, 0), (3, 5), (4, 12)]:  # the loss is linear in the losses: one of them at a time
        one = torch.zeros(shape, dtype=torch.float64)
        one[s, t] = 1.0
        share = by_loops(one, how, mask)
        assert gradient[s, t].item() == pytest.approx(share * elementwise[s, t].item(), rel=1e-12)


@backends
def test_parts_of_a_batch_add_up_with_a_normalizer(backend, device):
    """Gradient accumulation: every part is divided by the tokens of the whole."""
    logp, ref_logp = (-normal(f"accumulated {k}", 8, 9).abs().to(device) for k in range(2))
    mask = (torch.rand(8, 9, generator=generator("accumulated")) < 0.6).double().to(device)
    with fastloss.backend(backend):
        whole = alignment.kl_penalty(logp, ref_logp, kind="k3", mask=mask)
        for normalizer in (mask.sum(), mask.sum().item()):
            parts = [
                alignment.kl_penalty(logp[k : k + 2], ref_logp[k : k + 2], kind="k3", mask=mask[k : k + 2],
                                     normalizer=normalizer)
                for k in range(0, 8, 2)
            ]  # fmt: skip
            torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_distances_keep_their_digits(backend, device, dtype):
    """exp(-d) - 1 + d by its series: the difference has no digit left where d is below the root of eps."""
    d = torch.logspace(-8, -1, 50, dtype=torch.float64).to(dtype)
    d = torch.cat([d, -d])
    exact = sum((-d.double()) ** k / math.factorial(k) for k in range(2, 16))
    logp, ref_logp = d[:, None].to(device), torch.zeros_like(d)[:, None].to(device)
    with fastloss.backend(backend):
        k3 = alignment.kl_penalty(logp, ref_logp, kind="k3", aggregation="none")
        approximate = torch.stack(
            [rl.ppo_clip_loss(x, torch.zeros_like(x), x, return_terms=True)[1]["approx_kl"] for x in -logp]
        )
    for found in (k3[:, 0], approximate):
        torch.testing.assert_close(found.double().cpu(), exact, rtol=8 * torch.finfo(dtype).eps, atol=0)


def calls(dtype: torch.dtype, device: str) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Every loss with log-probs, rewards or values of (4, 6), and options."""

    def x(name: str) -> Tensor:
        return (-normal(name, 4, 6, dtype=dtype).abs() - 0.1).to(device)

    policy = {"logp": x("logp"), "old_logp": x("old"), "advantages": x("advantages")}
    critic = {"values": x("values"), "old_values": x("old values"), "returns": x("returns")}
    pairs = {
        f"{who}_{which}_logps": x(who + which) for who in ("policy", "reference") for which in ("chosen", "rejected")
    }
    lengths = {name: (x(name) * -9).long() for name in ("chosen_lengths", "rejected_lengths")}
    averages = {"chosen_avg_logps": x("chosen"), "rejected_avg_logps": x("rejected")}
    sequences = {"chosen_logps": x("chosen"), "rejected_logps": x("rejected")}
    rewards = {"chosen_rewards": x("chosen"), "rejected_rewards": x("rejected"), "margin": x("margin")}
    unpaired = {"policy_logps": x("policy"), "reference_logps": x("reference"), "desirable": x("desirable") > -0.8}
    kl = {"logp": x("logp"), "ref_logp": x("reference")}
    return {
        "ppo_clip_loss": (rl.ppo_clip_loss, policy, {}),
        "dual clip": (rl.ppo_clip_loss, policy, {"dual_clip": 3.0}),
        "value_clip_loss": (rl.value_clip_loss, critic, {}),
        "ppo_loss": (rl.ppo_loss, {**policy, **critic, "entropy": x("entropy")}, {"entropy_coefficient": 0.01}),
        **{f"kl {kind}": (alignment.kl_penalty, kl, {"kind": kind}) for kind in ("k1", "k2", "k3", "abs")},
        **{
            f"dpo {name}": (alignment.dpo_loss, pairs, {"loss_type": name})
            for name in (*DPO_TYPES, "aot", "aot_unpaired")
        },
        "dpo ipo_norm": (alignment.dpo_loss, {**pairs, **lengths}, {"loss_type": "ipo_norm"}),
        "dpo js": (alignment.dpo_loss, pairs, {"f_divergence": "js"}),
        "dpo forward_kl": (alignment.dpo_loss, pairs, {"f_divergence": "forward_kl"}),
        **{
            f"grpo {name}": (alignment.grpo_loss, policy, {"loss_type": name})
            for name in ("grpo", "gspo", "gmpo", "vespo")
        },
        "grpo dppo_kl": (alignment.grpo_loss, policy, {"loss_type": "dppo_kl", "clip": 0.05}),
        "grpo kl_cov": (alignment.grpo_loss, policy, {"loss_type": "kl_cov", "cov_fraction": 0.2}),
        "grpo quantile": (alignment.grpo_loss, {**policy, "entropy": x("entropy")}, {"top_entropy_quantile": 0.4}),
        "simpo": (alignment.simpo_loss, averages, {}),
        "simpo hinge": (alignment.simpo_loss, averages, {"loss_type": "hinge"}),
        **{f"cpo {kind}": (alignment.cpo_loss, sequences, {"loss_type": kind}) for kind in ("sigmoid", "hinge", "ipo")},
        "orpo": (alignment.orpo_loss, averages, {"sft_coefficient": 1.0}),
        "reward_model": (alignment.reward_model_loss, rewards, {"center_coefficient": 0.01}),
        "kto": (alignment.kto_loss, {**unpaired, "kl": x("kl")}, {}),
        "kto apo": (alignment.kto_loss, unpaired, {"loss_type": "apo_zero_unpaired"}),
    }


NAMES = list(calls(torch.float32, "cpu"))
every_loss = pytest.mark.parametrize("name", NAMES)


def leaves_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.detach().requires_grad_(x.is_floating_point()) for key, x in tensors.items()}


def all_gradients(value: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
    floating = {key: x for key, x in tensors.items() if x.requires_grad}
    return dict(zip(floating, torch.autograd.grad(value, list(floating.values()), allow_unused=True), strict=True))


@backends
@every_loss
def test_masked_out_altogether(backend, device, name):
    loss, tensors, options = calls(torch.float32, device)[name]
    tensors = leaves_of(
        {key: torch.full_like(x, math.nan) if x.is_floating_point() else x for key, x in tensors.items()}
    )
    for mask in (torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 1), torch.zeros(6)):
        with fastloss.backend(backend):
            value = loss(**tensors, **options, mask=mask.to(device))
            assert value.item() == 0
            for gradient in all_gradients(value, tensors).values():
                assert gradient is None or (gradient == 0).all()


@backends
@every_loss
def test_what_is_behind_the_mask_does_not_matter(backend, device, name):
    loss, tensors, options = calls(torch.float32, device)[name]
    mask = (torch.rand(4, 6, generator=generator("mask")) < 0.5).to(device)
    mask[0, 0], mask[0, 1] = True, False
    results = []
    for hidden in (0.0, math.nan, math.inf, -math.inf):
        filled = {key: torch.where(mask, x, hidden) if x.is_floating_point() else x for key, x in tensors.items()}
        filled = leaves_of(filled)
        with fastloss.backend(backend):
            value = loss(**filled, **options, mask=mask)
            results.append((value.detach(), all_gradients(value, filled)))
    for value, found in results:
        assert torch.equal(value, results[0][0])
        assert value.isfinite()
        for key, gradient in found.items():
            if gradient is not None:
                assert torch.equal(gradient, results[0][1][key]), key
                assert (gradient[~mask] == 0).all()


@backends
@every_loss
def test_constants_of_the_theory_get_no_gradient(backend, device, name):
    loss, tensors, options = calls(torch.float64, device)[name]
    tensors = leaves_of(tensors)
    with fastloss.backend(backend):
        found = all_gradients(loss(**tensors, **options), tensors)
    constant = {"old_logp", "advantages", "old_values", "returns", "ref_logp", "reference_logps", "margin", "kl"}
    constant |= {"reference_chosen_logps", "reference_rejected_logps"}
    for key, gradient in found.items():
        assert (gradient is None) == (key in constant), key


# ------------------------------------------------------------------------------------------ edges


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_extreme_log_ratios_are_finite(backend, device, dtype):
    far = torch.tensor([-1e4, -500.0, -90.0, -1.0, 0.0], device=device, dtype=dtype)
    first, second = (x.flatten() for x in torch.meshgrid(far, far, indexing="ij"))
    first = first.detach().requires_grad_()
    with fastloss.backend(backend):
        values = [rl.ppo_clip_loss(first, second, sign, aggregation="none") for sign in (1.0, -1.0)]
        values += [alignment.kl_penalty(first, second, kind=k, aggregation="none") for k in ("k1", "k2", "k3", "abs")]
        values += [alignment.dpo_loss(first, second, 0.0, 0.0, loss_type=k, reduction="none") for k in DPO_TYPES]
        values += [alignment.simpo_loss(first, second, loss_type=k, reduction="none") for k in ("sigmoid", "hinge")]
        values += [alignment.orpo_loss(first, second, reduction="none"), alignment.orpo_loss(second, first)]
        values += [alignment.reward_model_loss(first, second, reduction="none")]
        labels = second < -50
        values += [alignment.kto_loss(first, second, labels, loss_type=k) for k in ("kto", "apo_zero_unpaired")]
        for value in values:
            assert value.isfinite().all()
            assert gradients(value.sum(), first)[0].isfinite().all()


@backends
def test_gradient_stops_at_active_clips(backend, device):
    log_ratio = torch.tensor([-0.5, -0.1, 0.0, 0.1, 0.5], dtype=torch.float64, device=device)
    logp = log_ratio.clone().requires_grad_()
    old_logp = torch.zeros_like(logp)
    with fastloss.backend(backend):
        (better,) = gradients(rl.ppo_clip_loss(logp, old_logp, 2.0, aggregation="token-sum"), logp)
        (worse,) = gradients(rl.ppo_clip_loss(logp, old_logp, -2.0, aggregation="token-sum"), logp)
        (dual,) = gradients(rl.ppo_clip_loss(logp, old_logp, -2.0, dual_clip=1.4, aggregation="token-sum"), logp)
        (clamped,) = gradients(
            rl.ppo_clip_loss(logp, old_logp, -2.0, log_ratio_clamp=0.2, aggregation="token-sum"), logp
        )
    ratio = log_ratio.exp()
    torch.testing.assert_close(better, -2 * ratio * torch.tensor([1.0, 1, 1, 1, 0], device=device))
    torch.testing.assert_close(worse, 2 * ratio * torch.tensor([0.0, 1, 1, 1, 1], device=device))
    torch.testing.assert_close(dual, 2 * ratio * torch.tensor([0.0, 1, 1, 1, 0], device=device))
    torch.testing.assert_close(clamped, 2 * ratio * torch.tensor([0.0, 1, 1, 1, 0], device=device))


@backends
def test_terms_of_ppo_add_up(backend, device):
    """Its parts are the losses themselves, and the whole is their sum."""
    _, tensors, _ = calls(torch.float64, device)["ppo_loss"]
    policy = {key: tensors[key] for key in ("logp", "old_logp", "advantages")}
    critic = {key: tensors[key] for key in ("values", "old_values", "returns")}
    mask = (torch.rand(4, 6, generator=generator("mask")) < 0.5).double().to(device)
    for how in ("token-mean", "token-sum", "seq-mean-token-mean"):
        options = {"mask": mask, "aggregation": how, "return_terms": True}
        with fastloss.backend(backend):
            loss, terms = rl.ppo_loss(**tensors, value_coefficient=0.7, entropy_coefficient=0.1, **options)
            policy_loss, policy_terms = rl.ppo_clip_loss(**policy, **options)
            value_loss, value_terms = rl.value_clip_loss(**critic, **options)
        torch.testing.assert_close(terms["policy_loss"], policy_loss)
        torch.testing.assert_close(terms["value_loss"], value_loss)
        torch.testing.assert_close(loss, policy_loss + 0.7 * value_loss - 0.1 * terms["entropy"])
        torch.testing.assert_close(terms["value_clip_fraction"], value_terms["clip_fraction"])
        for name in ("clip_fraction", "approx_kl", "ratio_min", "ratio_max"):
            torch.testing.assert_close(terms[name], policy_terms[name])


@backends
def test_terms_of_a_batch_that_is_masked_out(backend, device):
    _, tensors, _ = calls(torch.float64, device)["ppo_clip_loss"]
    with fastloss.backend(backend):
        loss, terms = rl.ppo_clip_loss(**tensors, mask=torch.zeros(4, 6, device=device), return_terms=True)
    assert loss == 0
    assert (terms.pop("ratio_min"), terms.pop("ratio_max")) == (math.inf, -math.inf)
    assert all(term == 0 for term in terms.values())


@backends
@pytest.mark.parametrize("kind", [True, False], ids=["desirable", "undesirable"])
def test_kto_with_one_kind_alone(backend, device, kind):
    policy = (5 * normal("kto", 9)).to(device).requires_grad_()
    reference = torch.zeros_like(policy)
    desirable = torch.full((9,), kind, device=device)
    with fastloss.backend(backend):
        loss, terms = alignment.kto_loss(policy, reference, desirable, 0.5, beta=0.3, return_terms=True)
        torch.testing.assert_close(loss, (0.3 * (0.5 - policy) * (1 if kind else -1)).sigmoid().mean())
        (gradient,) = gradients(loss, policy)
    assert (gradient < 0).all() if kind else (gradient > 0).all()
    reward = 0.3 * policy.detach().mean()
    torch.testing.assert_close(terms["desirable_reward"], reward if kind else 0 * reward)
    torch.testing.assert_close(terms["undesirable_reward"], 0 * reward if kind else reward)
    assert terms["desirable_fraction"] == float(kind)


@backends
def test_kto_takes_no_negative_divergence(backend, device):
    _, tensors, _ = calls(torch.float64, device)["kto"]
    del tensors["kl"]
    with fastloss.backend(backend):
        values = [alignment.kto_loss(**tensors, kl=kl) for kl in (None, 0.0, -3.0, torch.tensor(-3.0, device=device))]
        larger = alignment.kto_loss(**tensors, kl=torch.tensor([2.0], dtype=torch.float64, device=device))
    assert len({value.item() for value in values}) == 1
    assert larger != values[0]


@backends
def test_numbers_stand_for_tensors(backend, device):
    loss, tensors, _ = calls(torch.float64, device)["dpo sigmoid"]
    zeros = {key: torch.zeros_like(x) if "reference" in key else x for key, x in tensors.items()}
    numbers = {key: 0.0 if "reference" in key else x for key, x in tensors.items()}
    with fastloss.backend(backend):
        torch.testing.assert_close(loss(**numbers), loss(**zeros))
        _, tensors, _ = calls(torch.float64, device)["reward_model"]
        tensor = alignment.reward_model_loss(**{**tensors, "margin": torch.full_like(tensors["margin"], 0.5)})
        torch.testing.assert_close(alignment.reward_model_loss(**{**tensors, "margin": 0.5}), tensor)


def test_exo_without_smoothing_is_exo_with_little():
    loss, tensors, _ = calls(torch.float64, "cpu")["dpo exo_pair"]
    for backend in ("reference", "auto"):
        with fastloss.backend(backend):
            little = loss(**tensors, loss_type="exo_pair", label_smoothing=1e-3)
            torch.testing.assert_close(loss(**tensors, loss_type="exo_pair"), little)


INVALID = [
    ("ppo_clip_loss", {"clip": -0.1}),
    ("ppo_clip_loss", {"clip_high": -0.1}),
    ("ppo_clip_loss", {"dual_clip": 0.5}),
    ("ppo_clip_loss", {"log_ratio_clamp": 0.0}),
    ("ppo_clip_loss", {"aggregation": "seq-mean"}),
    ("ppo_clip_loss", {"aggregation": "token-sum", "normalizer": 3.0}),
    ("value_clip_loss", {"clip": math.nan}),
    ("ppo_loss", {"value_clip": -1.0}),
    ("kl k1", {"kind": "k4"}),
    ("kl k3", {"log_ratio_clamp": -1.0}),
    ("dpo sigmoid", {"beta": 0.0}),
    ("dpo sigmoid", {"loss_type": "sigmoids"}),
    ("dpo sigmoid", {"label_smoothing": 1.1}),
    ("dpo robust", {"label_smoothing": 0.5}),
    ("dpo exo_pair", {"label_smoothing": 1.0}),
    ("dpo hinge", {"label_smoothing": 0.1}),
    ("dpo sigmoid", {"f_divergence": "kl"}),
    ("dpo nca_pair", {"f_divergence": "js"}),
    ("dpo sigmoid", {"chosen_lengths": 3.0}),
    ("dpo sigmoid", {"loss_type": "sigmoid_norm"}),
    ("dpo js", {"loss_type": "ipo_norm", "chosen_lengths": torch.ones(7, 1, 1), "rejected_lengths": 1.0}),
    ("dpo discopop", {"discopop_tau": 0.0}),
    ("dpo ipo", {"reduction": "average"}),
    ("simpo", {"loss_type": "ipo"}),
    ("simpo hinge", {"label_smoothing": 0.1}),
    ("cpo sigmoid", {"beta": 0.0}),
    ("cpo hinge", {"label_smoothing": 0.1}),
    ("cpo ipo", {"loss_type": "robust"}),
    ("orpo", {"beta": -1.0}),
    ("reward_model", {"reduction": "average"}),
    ("kto", {"desirable_weight": -1.0}),
    ("kto", {"loss_type": "bco"}),
]


@pytest.mark.parametrize(("name", "wrong"), INVALID, ids=str)
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_errors_of_rl_and_alignment(backend, name, wrong):
    loss, tensors, options = calls(torch.float32, "cpu")[name]
    complaint = "must|does not broadcast|not a valid|not a kind|no label smoothing|out of range|no meaning"
    with fastloss.backend(backend), pytest.raises(ValueError, match=complaint):
        loss(**tensors, **{**options, **wrong})


MODULES = {
    "ppo_clip_loss": (rl_modules.PPOClipLoss, {"clip": 0.1, "clip_high": 0.3, "aggregation": "seq-mean-token-sum"}),
    "value_clip_loss": (rl_modules.ValueClipLoss, {"clip": 0.3}),
    "ppo_loss": (rl_modules.PPOLoss, {"value_clip": 0.1, "entropy_coefficient": 0.1, "value_coefficient": 2.0}),
    "kl k2": (alignment_modules.KLPenalty, {"kind": "k2", "aggregation": "token-sum"}),
    "dpo robust": (alignment_modules.DPOLoss, {"loss_type": "robust", "label_smoothing": 0.1, "beta": 0.3}),
    "simpo": (alignment_modules.SimPOLoss, {"gamma": 0.2, "label_smoothing": 0.1}),
    "cpo sigmoid": (alignment_modules.CPOLoss, {"beta": 0.4, "alpha": 0.5, "label_smoothing": 0.1}),
    "orpo": (alignment_modules.ORPOLoss, {"beta": 0.4, "sft_coefficient": 1.0}),
    "reward_model": (alignment_modules.RewardModelLoss, {"center_coefficient": 0.1, "reduction": "sum"}),
    "kto": (alignment_modules.KTOLoss, {"desirable_weight": 1.3, "reduction": "none"}),
}


@pytest.mark.parametrize("name", list(MODULES))
def test_modules_are_the_functions(name):
    module, options = MODULES[name]
    loss, tensors, _ = calls(torch.float32, "cpu")[name]
    mask = torch.rand(4, 6, generator=generator("mask")) < 0.8
    torch.testing.assert_close(module(**options)(**tensors, mask=mask), loss(**tensors, **options, mask=mask))
    torch.testing.assert_close(module()(**tensors), loss(**tensors))
    if name != "kl k2":
        value, terms = module(**options, return_terms=True)(**tensors)
        torch.testing.assert_close(value, loss(**tensors, **options))
        assert all(term.dim() == 0 and not term.requires_grad for term in terms.values())
