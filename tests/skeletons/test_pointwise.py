"""What only the pointwise skeleton has: tiles and shares of threads, terms that are switched off, its operators."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import FUSED, one_of_each
from support import assert_close, each_backend, generator, to

import fastloss
from fastloss.core.arguments import Refused

ONE_OF_EACH = [case for case in one_of_each(FUSED) if case.skeleton == "pointwise"]

LARGE = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "one row": lambda x: x[:, :1],
    "one column": lambda x: x[..., :1],
    "every other": lambda x: torch.stack([x, -x], -1)[..., 0],
}


LARGE_DTYPES = {
    "float32": (torch.float32,) * 3,
    "bfloat16": (torch.bfloat16,) * 3,
    "float64": (torch.float64,) * 3,
    "mixed": (torch.bfloat16, torch.float64, torch.float32),
}


@each_backend
@pytest.mark.parametrize("dtypes", LARGE_DTYPES.values(), ids=LARGE_DTYPES)
@pytest.mark.parametrize("layout", LARGE)
def test_several_tiles_and_tasks(layout, dtypes, backend, device):
    """The CPU's kernels take 1024 elements at a time, and 32768 on a thread: one more here than two such shares."""
    random = generator(f"{layout} {dtypes}")
    shape = (37, 51, 41)
    made = {
        name: torch.randn(shape, generator=random).to(device, dtype)
        for name, dtype in zip(("values", "old_values", "returns"), dtypes, strict=True)
    }
    tensors = {**made, "returns": LARGE[layout](made["returns"])}
    mask = torch.rand(shape, generator=random).to(device) < 0.6
    upstream = torch.randn(shape, generator=random).to(device, torch.bfloat16)

    def run(tensors, mask, upstream):
        leaf = {"values": tensors["values"].clone().requires_grad_()}
        mean, terms = fastloss.rl.value_clip_loss(**{**tensors, **leaf}, clip=0.4, mask=mask, return_terms=True)
        elements = fastloss.rl.value_clip_loss(**{**tensors, **leaf}, clip=0.4, aggregation="none")
        wanted = ((mean, None), (elements, upstream.to(elements.dtype)))
        gradients = [torch.autograd.grad(x, leaf["values"], g)[0] for x, g in wanted]
        return [mean, *terms.values(), elements, *gradients]

    with fastloss.backend("reference"):
        exact = run(to(tensors, "cpu", torch.float64), mask.cpu(), upstream.cpu())
    with fastloss.backend(backend):
        found = run(tensors, mask, upstream)
    for value, value64 in zip(found, exact, strict=True):
        assert_close(value, value64, value.dtype)


ENDS = (-math.inf, -1.0, 0.5, math.inf)
PAIR = {"policy_chosen_logps": ENDS, "policy_rejected_logps": ENDS, "reference_chosen_logps": (0.0,),
        "reference_rejected_logps": (0.0,)}  # fmt: skip
ADVANTAGE = {"logp": (-1.0,), "old_logp": (-1.2,), "advantages": (0.7,)}
SWITCHED_OFF = {
    "dpo": (fastloss.alignment.dpo_loss, PAIR, {}),
    "dpo robust": (fastloss.alignment.dpo_loss, PAIR, {"loss_type": "robust"}),
    "simpo": (fastloss.alignment.simpo_loss, {"chosen_avg_logps": ENDS, "rejected_avg_logps": ENDS}, {"gamma": 0.0}),
    "orpo": (fastloss.alignment.orpo_loss, {"chosen_avg_logps": ENDS[:2], "rejected_avg_logps": ENDS[:2]}, {}),
    "reward model": (fastloss.alignment.reward_model_loss, {"chosen_rewards": ENDS, "rejected_rewards": ENDS}, {}),
    "ppo, entropy": (fastloss.rl.ppo_loss, {**ADVANTAGE, "values": (1.0,), "returns": (0.5,), "entropy": ENDS}, {}),
    "ppo, value": (fastloss.rl.ppo_loss, {**ADVANTAGE, "values": ENDS, "returns": (0.5,)}, {"value_coefficient": 0.0}),
    "focal, alpha": (fastloss.sigmoid_focal_loss, {"inputs": ENDS, "targets": (0.0, 0.3, 1.0)}, {"alpha": -1.0}),
    "focal, gamma": (fastloss.sigmoid_focal_loss, {"inputs": ENDS, "targets": (0.0, 0.3, 1.0)}, {"gamma": 0.0}),
}


@each_backend
@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_term_with_the_coefficient_0(name, backend, device):
    """0 * inf is NaN: if a term that is switched off is left out, or if it is not, then in body and kernels alike."""
    loss, ends, options = SWITCHED_OFF[name]
    columns = zip(*itertools.product(*ends.values()), strict=True)
    operands = {
        name: torch.tensor(column, device=device, requires_grad=True)
        for name, column in zip(ends, columns, strict=True)
    }
    how = {"aggregation" if loss is fastloss.rl.ppo_loss else "reduction": "none"}
    results = {}
    for chosen in ("reference", backend):
        with fastloss.backend(chosen):
            losses = loss(**operands, **options, **how)
        gradients = torch.autograd.grad(losses.sum(), list(operands.values()), allow_unused=True)
        results[chosen] = (losses.detach(), [g for g in gradients if g is not None])
    (losses, gradients), (expected, expected_gradients) = results[backend], results["reference"]
    torch.testing.assert_close(losses, expected, equal_nan=True)
    for gradient, right in zip(gradients, expected_gradients, strict=True):
        known = ~right.isnan()  # autograd makes more of them
        torch.testing.assert_close(gradient[known], right[known])
    if name in ("dpo", "dpo robust"):
        assert expected[-1].isnan()  # inf - inf
        assert expected.isfinite().sum() == 9  # with the five margins of inf


@each_backend
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_pointwise_operators_pass_opcheck(case, backend, device):
    tensors = case.make(generator(str(case)), dtype=torch.float32, device=device)
    leaves = {name: tensors[name].requires_grad_() for name in case.differentiable}
    with fastloss.backend(backend):
        _, call = case.loss.resolve((), {**tensors, **leaves, **case.how(case.reduced)})
    assert not isinstance(call, Refused), call
    namespace = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss")
    problem = call.plan.problem
    operands, *description = problem.operands([x.detach() for x in call.tensors], problem.wanted_operands)
    checks = ("test_schema", "test_faketensor")
    for once in (problem.reduced, False):
        arguments = (operands, *description, once, problem.measure, problem.dtype)
        torch.library.opcheck(namespace.pointwise, arguments, test_utils=checks)
    upstream = torch.randn(torch.broadcast_shapes(*(x.shape for x in operands)), device=device)
    torch.library.opcheck(namespace.pointwise_backward, (upstream, operands, *description), test_utils=checks)
