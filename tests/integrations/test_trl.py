"""TRL's functions, its head and its trainer, as without us, and by our operators."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from integrations.watching import Watching
from support import SEED
from torch import Tensor

import fastloss
from fastloss.integrations.rebinding import VersionError

pytest.importorskip("trl", reason="TRL is not installed; it brings pandas and pyarrow")
utils = pytest.importorskip("trl.trainer.utils")
hooks = pytest.importorskip("fastloss.integrations.trl")
if fastloss.core.dispatch.unavailable("cpu", "cpu"):
    pytest.skip("no C++ kernels", allow_module_level=True)

NAMES = (
    "selective_log_softmax",
    "entropy_from_logits",
    "selective_log_softmax_and_entropy",
    "_ChunkedLogProbFunction",
)


def names() -> list[Any]:
    return [getattr(utils, name) for name in NAMES]


LOGITS = torch.randn(4, 30, 61, generator=torch.Generator().manual_seed(SEED))
INDEX = torch.arange(120).view(4, 30) % 61
MASK = INDEX % 3 != 0
CALLS = {
    "one": lambda x: utils.selective_log_softmax(x, INDEX),
    "several": lambda x: utils.selective_log_softmax(x, torch.stack([INDEX, INDEX.flip(0)], -1), 0.7),
    "several, masked": lambda x: utils.selective_log_softmax(
        x, torch.stack([INDEX, INDEX.flip(0)], -1), row_mask=torch.stack([MASK, ~MASK], -1)
    ),
    "masked": lambda x: utils.selective_log_softmax(x, INDEX, row_mask=MASK),
    "entropy": lambda x: utils.entropy_from_logits(x),
    "both": lambda x: torch.stack(utils.selective_log_softmax_and_entropy(x, INDEX, True, 1.3, MASK)),
    "both, of one the gradient": lambda x: torch.stack(utils.selective_log_softmax_and_entropy(x, INDEX, False)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_functions_of_trl(call: str, dtype: torch.dtype) -> None:
    found = []
    for applied in (False, True):
        logits = LOGITS.to(dtype, copy=True).requires_grad_()
        with hooks.apply() if applied else contextlib.nullcontext(), Watching() as watching:
            value = CALLS[call](logits)
        (gradient,) = torch.autograd.grad(value.square().sum(), logits)
        found.append((value.detach(), gradient))
    assert watching.ours
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert found[1][0].dtype == torch.float32  # of halves, too, as TRL's Triton kernel
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance, check_dtype=False)


def llama(**more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(SEED)
    config = transformers.AutoConfig.for_model(
        more.pop("kind", "llama"), vocab_size=97, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **more,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize(
    "more", [{}, {"kind": "gemma2", "final_logit_softcapping": 3.0}, {"kind": "cohere", "logit_scale": 0.25}]
)
def test_curve_of_the_head_that_its_trainers_go_through(more: dict[str, Any]) -> None:
    ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(SEED))
    labels = torch.where(ids % 4 == 0, -100, ids)
    everything = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    curves: list[list[Tensor]] = []
    for applied in (False, True):
        model, curve = llama(**more), []
        utils.add_fused_lm_head(model, temperature=0.9, outputs=everything)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        with hooks.apply() if applied else contextlib.nullcontext(), Watching() as watching:
            for _ in range(3):
                output = model(input_ids=ids, labels=labels, fused_lm_head=True)
                loss = output.loss + 0.01 * output.entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                curve += [loss.detach(), *(getattr(output, name).detach().float() for name in everything)]
        curves.append(curve)
    assert watching.ours
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-5)


def test_apply_and_remove_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    with hooks.apply():
        assert not any(new is old for new, old in zip(names(), before, strict=True))
        hooks.apply().remove()
    assert names() == before
    monkeypatch.setattr(utils, "entropy_from_logits", lambda logits, base=2: logits)
    with pytest.raises(VersionError, match="base=2"):
        hooks.apply()
    assert utils.selective_log_softmax is before[0]
