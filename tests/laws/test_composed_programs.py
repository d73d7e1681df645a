"""Laws of losses that are made of others, in programs: they run where their parts run.

Shapes alone (meta and fake tensors, which `explain` uses), torch.jit.trace, and torch.compile of small calls, which
"auto" leaves to the bodies. Those of the fused ones are in test_programs.py.
"""

from __future__ import annotations

import pytest
import torch
from cases import COMPOSED, one_of_each
from programs import PROGRAMS, Call, Together, described
from torch import Tensor

import fastloss

ONCE = one_of_each(COMPOSED)
OF_FAMILIES = list({case.family: case for case in ONCE}.values())  # torch.export takes a second for each
NAMED = ("beta_nll_loss",)  # whose part looks at its data where it can


def together(case) -> Together:
    """The case with its terms, optional tensors among them where they have a meaning."""
    optional = [name for name, kind in case.optional.items() if kind != "number" or "mean" in case.reduced]
    return Together([Call(case, case.reduced, optional, case.return_terms)])


@pytest.mark.parametrize(
    ("case", "program"),
    [
        pytest.param(case, program, id=f"{case}-{program}")
        for case in ONCE
        for program in ("meta", "FakeTensor", "jit.trace", "func.grad", "export")
        if program != "export" or case in OF_FAMILIES
    ],
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_loss_of_parts_runs_where_its_parts_run(case, program):
    calls = together(case)
    right = calls.named(calls.with_gradients(*calls.make("run")))
    found = PROGRAMS[program](calls)
    if program in ("meta", "FakeTensor"):
        right = described(right)
    assert found.keys() == right.keys()
    for name, expected in right.items():
        if isinstance(expected, Tensor):
            magnitude = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
            torch.testing.assert_close(
                found[name], expected, rtol=1e-4, atol=1e-5 * max(magnitude, case.magnitude), equal_nan=True, msg=name
            )
        else:
            assert found[name] == expected, name


@pytest.mark.parametrize("case", [case for case in ONCE if case.name in NAMED], ids=str)
def test_a_small_call_is_one_graph(case):
    torch._dynamo.reset()
    calls = together(case)
    found = calls.train(torch.compile(calls, fullgraph=True, backend="aot_eager"))
    for name, expected in calls.train(calls).items():
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("case", ONCE, ids=str)
def test_explain_answers_for_what_runs(case):
    call = together(case).calls[0]
    arguments = call.arguments("run", call.shape)
    case.loss(**arguments, **call.options)
    assert isinstance(fastloss.explain(case.loss, **arguments, **call.options), fastloss.Explanation)
