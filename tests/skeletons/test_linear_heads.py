"""Losses of hidden states: gradients made in forward, chunk by chunk, are those of stored logits; how many products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import generator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastloss import alignment, rl

SEQUENCES, TOKENS, FEATURES, CLASSES = 4, 6, 8, 13
GRPO = (
    "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "gpg", "dro", "dppo_tv", "dppo_kl",
    "gspo", "gspo_token", "luspo", "gmpo", "vespo",
)  # fmt: skip
DPO = ("sigmoid", "hinge", "ipo", "robust", "bco_pair", "sppo_hard", "sigmoid_norm", "discopop", "sft")
OF_THE_BATCH = ("grpo kl_cov", "grpo top entropy", "dpo aot", "dpo aot_unpaired")
CASES = (
    *(f"grpo {name}" for name in GRPO), "grpo of sequences",
    *(f"dpo {name}" for name in DPO),
    "simpo", "cpo", "orpo", "kto", "ppo", *OF_THE_BATCH,
)  # fmt: skip
Loss = Callable[..., Any]


def _pair(case: str, draw: torch.Generator) -> tuple[Loss, Loss, dict[str, Tensor]]:
    """(the loss of hidden, weight and bias, that of logits, leaves beside those)"""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    of, _, kind = case.partition(" ")
    tokens = (SEQUENCES, TOKENS)
    given: dict[str, Any] = {}
    leaves: dict[str, Tensor] = {}
    if of in ("grpo", "ppo"):
        given = {"old_logp": -normal(*tokens).abs(), "advantages": normal(SEQUENCES, 1), "entropy_coefficient": 0.1}
    if of == "ppo":
        leaves["values"], given["returns"] = normal(*tokens), normal(*tokens)
    elif of == "grpo":
        given |= {"beta": 0.1, "ref_logp": -normal(*tokens).abs()}
        special = {
            "top entropy": {"top_entropy_quantile": 0.5},
            "of sequences": {"importance_sampling_level": "sequence"},
        }
        given |= special.get(kind, {"loss_type": kind})
    elif of == "dpo":
        names = ("reference_chosen_logps", "reference_rejected_logps")
        given = {"loss_type": kind, **{name: normal(SEQUENCES // 2) for name in names}}
    elif of == "kto":
        given = {"reference_logps": normal(SEQUENCES), "desirable": torch.tensor([True, False, True, True])}
    room = rl if of == "ppo" else alignment
    linear, stored = getattr(room, f"linear_{of}_loss"), getattr(room, f"{of}_loss_from_logits")
    index = torch.randint(CLASSES, tokens, generator=draw)
    masked = "mask" if of in ("grpo", "ppo") else "token_mask"

    def of_hidden(hidden: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, chunk: int, **more: Any) -> Any:
        return linear(hidden, weight, index, bias=bias, chunk_size=chunk, **given, **{masked: mask}, **more)

    def of_logits(hidden: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, **more: Any) -> Any:
        return stored(hidden @ weight.T + bias, index, **given, **{masked: mask}, **more)

    shapes = {"hidden": (*tokens, FEATURES), "weight": (CLASSES, FEATURES), "bias": (CLASSES,)}
    return of_hidden, of_logits, {**{name: normal(*shape) for name, shape in shapes.items()}, **leaves}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_chunks_of_any_size_have_the_gradients_of_stored_logits(case: str, masked: bool) -> None:
    draw = generator(f"{case} {masked}")
    of_hidden, of_logits, leaves = _pair(case, draw)
    mask = torch.rand(SEQUENCES, TOKENS, generator=draw) > 0.3 if masked else None
    if mask is not None:
        mask[1] = mask[3] = False  # a pair, or the last sequence, that does not count at all
    for x in leaves.values():
        x.requires_grad_()
    expected = of_logits(**leaves, mask=mask)
    gradients = torch.autograd.grad(3 * expected, list(leaves.values()))
    for chunk in (1, 5, 2 * TOKENS, 100):
        loss = of_hidden(**leaves, mask=mask, chunk=chunk)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad(3 * loss, list(leaves.values()))
        torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)


class _Products(TorchDispatchMode):
    """Counts the multiply-adds of matrix products, in units of N H C."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            first, second = args[-2:]
            self.count += first.shape[0] * first.shape[1] * second.shape[1]
        return result


@pytest.mark.parametrize("case", CASES)
def test_products(case: str) -> None:
    """3, and 4 where a token's gradient depends on the whole batch."""
    of_hidden, _, leaves = _pair(case, generator(case))
    for x in leaves.values():
        x.requires_grad_()
    with _Products() as products:
        of_hidden(**leaves, mask=None, chunk=7).backward()
    unit = SEQUENCES * TOKENS * FEATURES * CLASSES
    assert products.count == unit * (4 if case in OF_THE_BATCH else 3)


@pytest.mark.parametrize("case", ["grpo gspo", "dpo sigmoid", "ppo"])
def test_terms_metrics_and_second_derivatives(case: str) -> None:
    of_hidden, of_logits, leaves = _pair(case, generator(case))
    for x in leaves.values():
        x.requires_grad_()
    terms = of_hidden(**leaves, mask=None, chunk=7, return_terms=True)[1]
    expected = of_logits(**leaves, mask=None, return_terms=True)[1]
    torch.testing.assert_close(terms, expected)
    assert not any(x.requires_grad for x in terms.values())

    def squared(of: Loss, **how: Any) -> list[Tensor]:
        found = torch.autograd.grad(of(**leaves, mask=None, **how), list(leaves.values()), create_graph=True)
        return list(torch.autograd.grad(sum(x.square().sum() for x in found), list(leaves.values())))

    torch.testing.assert_close(squared(of_hidden, chunk=7), squared(of_logits))


def test_saved_elsewhere_the_bits_are_the_same() -> None:
    """Hooks of saved tensors, as of activation checkpointing: forward makes no gradients, backward makes them."""
    of_hidden, _, leaves = _pair("grpo grpo", generator("hooks"))
    for x in leaves.values():
        x.requires_grad_()
    first = torch.autograd.grad(of_hidden(**leaves, mask=None, chunk=7), list(leaves.values()))
    with torch.autograd.graph.save_on_cpu():
        loss = of_hidden(**leaves, mask=None, chunk=7)
    second = torch.autograd.grad(loss, list(leaves.values()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_pairs_and_chunks_that_do_not_fit() -> None:
    hidden, weight, labels = torch.randn(4, 3, 8), torch.randn(7, 8), torch.zeros(4, 3, dtype=torch.int64)
    column = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="does not broadcast"):  # (2, 1) beside 2 losses would make 2 x 2 of them
        alignment.linear_dpo_loss(hidden, weight, labels, column, column)
    with pytest.raises(ValueError, match="does not broadcast"):
        alignment.kto_loss_from_logits(hidden, labels, torch.zeros(4), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="no pairs"):
        alignment.linear_simpo_loss(hidden[:3], weight, labels[:3])
    with pytest.raises(ValueError, match="pairs"):
        alignment.linear_reward_model_loss(hidden[:3, 0], torch.randn(1, 8))
    for size in (0, -1):
        with pytest.raises(ValueError, match="chunk_size"):
            alignment.linear_simpo_loss(hidden.requires_grad_(), weight, labels, chunk_size=size)
