"""The table of policy losses against TRL's and verl's own code, and against closed forms of what is between the
formulas: statistics of sequences, selections of tokens, masks."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases.alignment.grpo import objective
from oracles.peers import functions
from support import BACKENDS, generator
from torch import Tensor

import fastloss
from fastloss.alignment import grpo_loss

backends = pytest.mark.parametrize(
    ("backend", "device"), [("reference", "cpu"), *BACKENDS], ids=lambda value: str(value)
)
SHAPE = (5, 11)


def tokens(name: str, device: str = "cpu", spread: float = 0.5) -> dict[str, Tensor]:
    """Log-probabilities and what goes with them; sequences of all lengths, with a hole in one."""
    random = generator(name)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    logp = -0.05 - 2 * torch.rand(SHAPE, generator=random, dtype=torch.float64)
    old_logp = (logp + spread * normal(*SHAPE)).clamp(max=-1e-3)
    mask = (torch.arange(SHAPE[1]) < torch.tensor([[11], [7], [1], [4], [10]])).double()
    mask[0, 3] = 0
    made = {
        "logp": logp,
        "old_logp": old_logp,
        "ref_logp": logp + 0.5 * normal(*SHAPE),
        "advantages": torch.tensor([[1.3], [-0.7], [0.4], [-2.0], [0.9]], dtype=torch.float64),
        "sampling_weights": (0.3 * normal(*SHAPE)).exp(),
        "entropy": normal(*SHAPE).abs(),
        "mask": mask,
    }
    return {key: x.to(device) for key, x in made.items()}


def assert_equal(backend: str, made: dict[str, Tensor], theirs: Any, tolerance: float = 1e-12, **options: Any) -> None:
    """Values and gradients by logp."""
    leaf, other = (made["logp"].clone().requires_grad_() for _ in range(2))
    with fastloss.backend(backend):
        value = grpo_loss(**{**made, "logp": leaf}, **options)
        (gradient,) = torch.autograd.grad(value, leaf)
    right = theirs({**made, "logp": other})
    torch.testing.assert_close(value, right.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, torch.autograd.grad(right, other)[0], rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------ TRL

SAPO = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.0625}  # their temperatures are of float32
VESPO = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}


def trl(made: dict[str, Tensor], loss_type: str, level: str, weighted: bool, **options: Any) -> Tensor:
    """The loss of its trainer, whose model has these log-probabilities."""
    trainer = functions(
        "trl", "trainer/grpo_trainer.py", ("_compute_loss", "get_gamma_weights", "get_high_entropy_mask"),
        torch=torch, math=math, nanmin=lambda x: x.min(), nanmax=lambda x: x.max(),
    )  # fmt: skip
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=False,
        pad_across_processes=lambda x, dim, pad_index: x,
    )  # fmt: skip
    settings = SimpleNamespace(
        delta=options.get("delta"), use_bias_correction_kl=options.get("kl_bias_correction", False),
        steps_per_generation=1, **SAPO, **VESPO,
    )  # fmt: skip
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **more: (made["logp"], made["entropy"], None),
        get_gamma_weights=torch.no_grad()(trainer["get_gamma_weights"]), aux_loss_enabled=False,
        off_policy_mask_threshold=None, top_entropy_quantile=options.get("top_entropy_quantile", 1.0),
        importance_sampling_level=level,
        beta=options.get("beta", 0.0), args=settings, loss_type=loss_type, epsilon_low=options["clip"],
        epsilon_high=options["clip_high"], use_vllm=weighted, vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1, max_completion_length=SHAPE[1],
        accelerator=accelerator, _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    stub.get_high_entropy_mask = lambda *args: trainer["get_high_entropy_mask"](stub, *args)
    mask = made["mask"]
    ids = torch.zeros(SHAPE, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask,
        "advantages": made["advantages"][:, 0], "old_per_token_logps": made["old_logp"],
        "ref_per_token_logps": made["ref_logp"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if weighted:
        inputs["importance_sampling_ratio"] = made["sampling_weights"] * mask + (1 - mask)
    return trainer["_compute_loss"](stub, None, inputs)


CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")


@backends
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(
    ("loss_type", "options"),
    [
        *[(name, {}) for name in (*CLIPPED, "cispo", "sapo", "vespo")],
        *[(name, {"importance_sampling_level": level}) for name in CLIPPED for level in ("token", "sequence")],
        ("dapo", {"delta": 1.5}),
        ("grpo", {"beta": 0.3}),
        ("dapo", {"beta": 0.3, "kl_bias_correction": True}),
        ("luspo", {"beta": 0.3, "kl_bias_correction": True}),
        ("sapo", {"beta": 0.3}),
        ("dapo", {"top_entropy_quantile": 0.4}),
    ],
    ids=str,
)
def test_trl_policy_losses(backend, device, loss_type, options, weighted):
    if device != "cpu":
        pytest.skip("on the CPU")
    made = tokens(f"trl {loss_type}")
    bounds = {"clip": 0.2, "clip_high": 1.2 if loss_type == "cispo" else 0.28}
    level = options.get("importance_sampling_level", "sequence" if loss_type == "luspo" else "token")
    given = {key: x for key, x in made.items() if weighted or key != "sampling_weights"}
    assert_equal(
        backend, given,
        lambda arguments: trl({**made, **arguments}, loss_type, level, weighted, **bounds, **options),
        loss_type={"cispo": "cispo_absolute"}.get(loss_type, loss_type), **SAPO, **bounds, **options,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ verl


class ActorConfig(SimpleNamespace):
    def get(self, name: str, default: Any) -> Any:
        return getattr(self, name, default)


def masked_functions() -> SimpleNamespace:
    names = ("masked_sum", "masked_mean", "masked_var", "masked_whiten")
    return SimpleNamespace(**functions("verl", "utils/torch_functional.py", names, torch=torch))


def verl(made: dict[str, Tensor], name: str, how: str, weighted: bool, **options: Any) -> Tensor:
    ours = f"compute_policy_loss_{name}"
    module = functions(
        "verl", "trainer/ppo/core_algos.py", (ours, "agg_loss"), torch=torch, verl_F=masked_functions(),
        ActorConfig=ActorConfig, AlgoConfig=int,
    )  # fmt: skip
    policy_loss = SimpleNamespace(
        clip_cov_ratio=options.get("cov_fraction"), clip_cov_lb=options.get("cov_low"),
        clip_cov_ub=options.get("cov_high"),
        kl_cov_ratio=options.get("cov_fraction"), ppo_kl_coef=options.get("kl_cov_coefficient"),
        dro_beta=options.get("dro_beta"),
    )  # fmt: skip
    config = ActorConfig(
        clip_ratio=options["clip"], clip_ratio_low=options["clip"], clip_ratio_high=options["clip_high"],
        clip_ratio_c=options.get("delta", 1e30), tau_pos=1.0, tau_neg=1.0625, policy_loss=policy_loss,
        global_batch_info={},
    )  # fmt: skip
    value, _ = module[ours](
        made["old_logp"], made["logp"], made["advantages"].expand(SHAPE).clone(), made["mask"], loss_agg_mode=how,
        config=config, rollout_is_weights=made["sampling_weights"] if weighted else None,
    )  # fmt: skip
    return value


@backends
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(
    ("name", "loss_type", "options"),
    [
        ("vanilla", "grpo", {"delta": 1.5}),
        ("gspo", "gspo_token", {"clip": 0.05, "clip_high": 0.08}),
        ("sapo", "sapo", SAPO),
        ("gpg", "gpg", {}),
        ("cispo", "cispo", {}),
        ("geo_mean", "gmpo", {"clip": 0.1, "clip_high": 0.3}),
        ("dro", "dro", {"dro_beta": 0.3}),
        ("dppo_tv", "dppo_tv", {"clip": 0.1, "clip_high": 0.05, "delta": 1.3}),
        ("dppo_kl", "dppo_kl", {"clip": 0.01, "clip_high": 0.02, "delta": 1.3}),
        ("clip_cov", "clip_cov", {"cov_fraction": 1.0, "cov_low": 0.1, "cov_high": 2.0}),
        ("kl_cov", "kl_cov", {"cov_fraction": 0.2, "kl_cov_coefficient": 0.7}),
    ],
    ids=str,
)
def test_verl_policy_losses(backend, device, name, loss_type, options, weighted):
    if device != "cpu":
        pytest.skip("on the CPU")
    made = tokens(f"verl {loss_type}")
    for key in ("ref_logp", "entropy"):
        del made[key]
    given = {key: x for key, x in made.items() if weighted or key != "sampling_weights"}
    options = {"clip": 0.2, "clip_high": 0.28, **options}
    # Of these two verl has one aggregation alone. It divides by a number of tokens + 1e-8.
    hows = {"sapo": ["seq-mean-token-mean"], "geo_mean": ["seq-mean-token-mean"]}
    for how in hows.get(name, ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]):
        assert_equal(
            backend, given, lambda arguments, how=how: verl({**made, **arguments}, name, how, weighted, **options),
            tolerance=3e-8, loss_type=loss_type, aggregation=how, **options,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------ closed forms


@backends
@pytest.mark.parametrize("loss_type", ["gspo", "gspo_token", "luspo", "gmpo", "vespo", "dr_grpo"])
def test_statistics_of_sequences_are_of_what_the_mask_counts(backend, device, loss_type):
    """What is behind the mask may be NaN; a mask of weights weights the statistic, too."""
    made = tokens(loss_type, device)
    for mask in (made["mask"], 0.5 * made["mask"]):
        hidden = {
            key: torch.where(mask != 0, x, math.nan) for key, x in made.items() if key not in ("mask", "advantages")
        }
        for key in ("ref_logp", "entropy"):
            del hidden[key]
        rest = {"advantages": made["advantages"], "mask": mask}
        leaf, other = (x.requires_grad_() for x in (hidden["logp"].clone(), made["logp"].clone()))
        with fastloss.backend(backend):
            value = grpo_loss(**{**hidden, "logp": leaf}, **rest, loss_type=loss_type, aggregation="token-sum")
            (gradient,) = torch.autograd.grad(value, leaf)
        same = {**{key: made[key] for key in hidden}, "logp": other}
        right = (objective(**same, **rest, loss_type=loss_type) * mask).sum()
        torch.testing.assert_close(value, right.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(right, other)[0], rtol=1e-12, atol=1e-12)


@backends
def test_a_given_statistic_is_differentiated(backend, device):
    """As of packed sequences: two in a row, whose means the caller computes."""
    made = tokens("packed", device)
    logp, old_logp = made["logp"].clone().requires_grad_(), made["old_logp"]
    place = torch.tensor([0] * 4 + [1] * 7, device=device).expand(SHAPE)
    difference = logp - old_logp
    sums = torch.zeros(SHAPE[0], 2, dtype=torch.float64, device=device).scatter_add(1, place, difference)
    mean = (sums / torch.tensor([4.0, 7.0], device=device)).gather(1, place)
    with fastloss.backend(backend):
        packed = grpo_loss(
            logp, old_logp, made["advantages"], sequence_log_ratio=mean, loss_type="gspo", aggregation="token-sum"
        )
        parts = [
            grpo_loss(logp[:, a:b], old_logp[:, a:b], made["advantages"], loss_type="gspo", aggregation="token-sum")
            for a, b in ((0, 4), (4, 11))
        ]
    torch.testing.assert_close(packed, sum(parts), rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(x, logp, retain_graph=True)[0] for x in (packed, sum(parts))]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@backends
def test_the_policy_itself_has_the_ratio_1_and_its_gradient(backend, device):
    made = tokens("on policy", device)
    leaf = made["logp"].clone().requires_grad_()
    for loss_type in ("grpo", "gspo", "cispo", "gpg"):
        with fastloss.backend(backend):
            value, terms = grpo_loss(
                leaf, None, made["advantages"], loss_type=loss_type, aggregation="token-sum", return_terms=True
            )
            (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(gradient, -made["advantages"].expand(SHAPE))
        assert terms["ratio_min"] == terms["ratio_max"] == 1 and terms["clip_fraction"] == 0


@backends
def test_the_share_of_high_entropies_is_torchs_quantile(backend, device):
    made = tokens("entropies", device)
    counted = made["mask"] != 0
    for share in (0.2, 0.5, 0.99):
        threshold = torch.quantile(made["entropy"][counted], 1 - share)
        kept = made["entropy"] >= threshold
        given = {key: made[key] for key in ("logp", "old_logp", "advantages", "entropy", "mask")}
        with fastloss.backend(backend):
            value = grpo_loss(**given, top_entropy_quantile=share, aggregation="token-sum")
            losses = grpo_loss(**given, aggregation="none")
        torch.testing.assert_close(value, losses[kept & counted].sum())


@backends
def test_clip_cov_leaves_out_so_many_at_random(backend, device):
    """Of the eligible tokens, and not always the same ones."""
    made = tokens("covariances", device)
    given = {key: made[key] for key in ("logp", "old_logp", "advantages", "mask")}
    options = {"loss_type": "clip_cov", "cov_low": -100.0, "cov_high": 100.0, "aggregation": "none", "clip": 50.0}
    with fastloss.backend(backend):
        whole = grpo_loss(**given, **{**options, "loss_type": "grpo"})
        seen = {
            tuple(((grpo_loss(**given, cov_fraction=0.3, **options) == 0) & (whole != 0)).nonzero().flatten().tolist())
            for _ in range(8)
        }
        every = grpo_loss(**given, cov_fraction=1.0, **options)
    assert {len(places) // 2 for places in seen} == {int(0.3 * made["mask"].sum().item())}
    assert len(seen) > 1
    assert (every == 0).all()


@backends
def test_terms_of_policy_losses(backend, device):
    """A batch of which it is known which ratios are too small or too large."""
    log_ratio = torch.tensor([[-0.5, -0.1, 0.0, 0.1, 0.5]], dtype=torch.float64, device=device)
    logp = torch.full_like(log_ratio, -1.0)
    shares = {
        ("grpo", 1.0): (0.2, 0.0, 0.2), ("grpo", -1.0): (0.4, 0.2, 0.2), ("cispo", 1.0): (0.4, 0.2, 0.2),
        ("cispo_absolute", 1.0): (0.2, 0.0, 0.2), ("sapo", 1.0): (0.0, 0.0, 0.0), ("gmpo", -1.0): (0.2, 0.2, 0.0),
        ("dppo_tv", 1.0): (0.2, 0.0, 0.2), ("dppo_tv", -1.0): (0.2, 0.2, 0.0), ("gpg", 1.0): (0.0, 0.0, 0.0),
    }  # fmt: skip
    for (loss_type, advantage), wanted in shares.items():
        bounds = {"delta": 1.3} if loss_type == "grpo" else {"clip_high": 1.2} if loss_type == "cispo_absolute" else {}
        bounds |= {"clip": 0.1} if loss_type == "dppo_tv" else {}
        with fastloss.backend(backend):
            leaf = logp.clone().requires_grad_()
            _, terms = grpo_loss(
                leaf, logp - log_ratio, advantage, logp - 0.5, loss_type=loss_type, beta=2.0, kl_kind="k2",
                return_terms=True, **bounds,
            )  # fmt: skip
        found = tuple(terms[f"clip_fraction{side}"].item() for side in ("", "_low", "_high"))
        assert found == pytest.approx(wanted), (loss_type, advantage)
        assert terms["kl"].item() == pytest.approx(0.125)
        if loss_type != "gmpo":
            assert terms["ratio_max"].item() == pytest.approx(math.exp(0.5))
            assert terms["approx_kl_k1"].item() == pytest.approx(0.0)


@pytest.mark.parametrize(
    "options",
    [
        *[{"loss_type": name} for name in ("gspo", "gmpo", "vespo", "kl_cov")],
        {"top_entropy_quantile": 0.5},
        {"loss_type": "clip_cov", "cov_low": -9.0, "cov_fraction": 1.0},
    ],
    ids=str,
)
def test_what_is_before_the_kernel_compiles(options):
    """Without a graph break, and to the same numbers."""
    torch._dynamo.reset()
    made = tokens("compiled")
    leaf = made["logp"].clone().requires_grad_()

    def f(logp: Tensor) -> Tensor:
        return grpo_loss(**{**made, "logp": logp}, **options)

    values = [torch.compile(f, fullgraph=True, backend="aot_eager")(leaf), f(leaf)]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(x, leaf)[0] for x in values), rtol=1e-12, atol=1e-12)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ratios_far_apart_are_finite(backend, device, dtype):
    far = torch.tensor([-1e4, -90.0, -1.0, 0.0], device=device, dtype=dtype)
    first, second = (x.contiguous() for x in torch.meshgrid(far, far, indexing="ij"))
    for loss_type in ("grpo", "gspo", "gmpo", "cispo", "sapo", "vespo", "dppo_tv", "dppo_kl", "gpg", "dro", "kl_cov"):
        for advantage in (1.0, -1.0, 0.0):
            leaf = first.clone().requires_grad_()
            with fastloss.backend(backend):
                value = grpo_loss(leaf, second, advantage, second, loss_type=loss_type, beta=0.1, aggregation="none")
                (gradient,) = torch.autograd.grad(value.float().sum(), leaf)
            assert value.dtype == dtype and value.isfinite().all() and gradient.isfinite().all(), loss_type


@backends
def test_unselected_tokens_of_zero_probability_count_for_nothing_more(backend, device):
    """kl_cov adds |logp - old_logp| where a token is selected: not 0 * inf elsewhere."""
    logp = torch.tensor([[-1.0, -math.inf, -0.5, -0.1]], device=device, requires_grad=True)
    old_logp = torch.tensor([[-1.0, -1.0, -0.7, -3.0]], device=device)
    selected = torch.tensor([[True, False, False, True]], device=device)
    with fastloss.backend(backend):
        value = grpo_loss(logp, old_logp, 1.0, loss_type="kl_cov", selected=selected, aggregation="none")
        (gradient,) = torch.autograd.grad(value.sum(), logp)
    assert value.isfinite().all() and gradient.isfinite().all(), (value, gradient)


WRONG = [
    {"loss_type": "ppo"},
    {"loss_type": "cispo", "importance_sampling_level": "sequence"},
    {"importance_sampling_level": "batch"},
    {"sequence_log_ratio": torch.zeros(5, 1)},
    {"selected": torch.zeros(5, 1)},
    {"beta": 0.1},
    {"entropy_coefficient": 0.1},
    {"top_entropy_quantile": 0.5},
    {"loss_type": "kl_cov", "cov_fraction": 0.0},
    {"clip": -0.1},
    {"delta": 0.0},
    {"log_ratio_clamp": 0.0},
    {"kl_kind": "k4"},
    {"loss_type": "sapo", "sapo_temperature_neg": 0.0},
    {"loss_type": "vespo", "vespo_lambda_pos": 0.0},
    {"loss_type": "dro", "dro_beta": -1.0},
    {"aggregation": "seq-mean"},
    {"loss_type": "gspo", "mask": torch.ones(7, 11)},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: ",".join(value))
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_errors_of_policy_losses(backend, wrong):
    made = tokens("errors")
    with fastloss.backend(backend), pytest.raises(ValueError, match=r"must|valid|not a kind|does not broadcast"):
        grpo_loss(made["logp"], made["old_logp"], made["advantages"], **wrong)
