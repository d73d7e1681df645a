"""Preference losses against TRL's trainer, whose model has the log-probabilities of the tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles.peers import functions
from support import BACKENDS, generator
from torch import Tensor

import fastloss
from fastloss.alignment import dpo_loss

PAIRS, TOKENS = 9, 8
NAMES = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
TRL_NAMES = {"ipo_norm": "ipo", "js": "js_divergence", "alpha": "alpha_divergence"}


def trl(tokens: Tensor, reference: Tensor, mask: Tensor, loss_type: str, divergence: str, **options: float) -> Tensor:
    """tokens, mask: (2 PAIRS, TOKENS), the chosen sequences first; reference: their sums."""
    trainer = functions(
        "trl", "trainer/dpo_trainer.py", ("_compute_loss",), torch=torch, F=F, math=math
    )  # fmt: skip
    of_logits = torch.zeros_like(tokens)
    outputs = SimpleNamespace(log_probs=tokens, entropy=of_logits, mean_logits=of_logits, is_top1=of_logits > 0)
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True), ld_alpha=None, precompute_ref_logps=True, aux_loss_enabled=False,
        use_weighting=False, f_divergence_type=TRL_NAMES.get(divergence, divergence), f_alpha_divergence_coef=0.7,
        loss_types=[TRL_NAMES.get(loss_type, loss_type)], loss_weights=[1.0], beta=options["beta"], _tp_size=1,
        label_smoothing=options.get("label_smoothing", 0.0), _total_train_tokens=0,
        args=SimpleNamespace(discopop_tau=options.get("discopop_tau", 0.05)),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    prompt = torch.zeros(2 * PAIRS, 1, dtype=torch.int64)
    inputs = {
        "completion_mask": torch.cat([prompt, mask.long()], 1), "attention_mask": mask,
        "input_ids": torch.zeros(2 * PAIRS, TOKENS + 1, dtype=torch.int64),
        "ref_chosen_logps": reference[:PAIRS], "ref_rejected_logps": reference[PAIRS:],
    }  # fmt: skip
    return trainer["_compute_loss"](stub, lambda **_: outputs, inputs, False)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    *[(name, "reverse_kl", {}) for name in ("sigmoid", "hinge", "nca_pair", "sppo_hard", "apo_zero", "apo_down")],
    *[(name, "reverse_kl", {}) for name in ("bco_pair", "aot", "aot_unpaired", "sigmoid_norm", "ipo_norm", "sft")],
    ("aot", "reverse_kl", {"label_smoothing": 0.2}),
    ("exo_pair", "reverse_kl", {"label_smoothing": 0.05}),
    ("robust", "reverse_kl", {"label_smoothing": 0.1}),
    ("discopop", "reverse_kl", {"discopop_tau": 0.1}),
    *[(name, kind, {}) for name in ("sigmoid", "ipo_norm", "hinge") for kind in ("forward_kl", "js", "alpha")],
]


@pytest.mark.parametrize("backend", ["reference", *(name for name, device in BACKENDS if device == "cpu")])
@pytest.mark.parametrize(("loss_type", "divergence", "options"), CASES, ids=str)
def test_trl_preferences(backend, loss_type, divergence, options):
    random = generator(f"{loss_type} {divergence}")
    dtype = torch.float32 if divergence == "alpha" else torch.float64  # of which theirs has no float64
    lengths = torch.randint(1, TOKENS + 1, (2 * PAIRS,), generator=random)
    mask = (torch.arange(TOKENS) < lengths[:, None]).to(dtype)
    tokens = -torch.rand(2 * PAIRS, TOKENS, generator=random, dtype=torch.float64).to(dtype) * mask
    reference = tokens.sum(1) + 0.5 * torch.randn(2 * PAIRS, generator=random, dtype=torch.float64).to(dtype)
    ours, theirs = (tokens.clone().requires_grad_() for _ in range(2))
    sums = ours.sum(1)
    logps = dict(zip(NAMES, (sums[:PAIRS], sums[PAIRS:], reference[:PAIRS], reference[PAIRS:]), strict=True))
    if loss_type.endswith("norm"):
        logps |= {"chosen_lengths": lengths[:PAIRS], "rejected_lengths": lengths[PAIRS:]}
    more = {"normalizer": lengths[:PAIRS].sum()} if loss_type == "sft" else {}
    with fastloss.backend(backend):
        value = dpo_loss(
            **logps, loss_type=loss_type, f_divergence=divergence, f_alpha=0.7, beta=0.3, **options, **more
        )
        (gradient,) = torch.autograd.grad(value, ours)
    expected = trl(theirs, reference, mask, loss_type, divergence, beta=0.3, **options)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    if "exo" in loss_type:
        tolerance = 1e-7  # their logarithm of the smoothing is of float32
    torch.testing.assert_close(value, expected.detach(), rtol=tolerance, atol=tolerance)
    wanted = torch.autograd.grad(expected, theirs)[0] * mask  # of "sft" theirs looks at the tokens that count alone
    torch.testing.assert_close(gradient * mask, wanted, rtol=tolerance, atol=tolerance)
