"""The one table of all public losses. A law is a test that is written once and runs over it:

    from cases import FUSED
    from support import BACKENDS, each_backend, generator

    @each_backend                                                   # (backend, device), all that run here
    @pytest.mark.parametrize("case", FUSED, ids=str)                # losses that have kernels, with all their options
    def test_zero_upstream_gives_zero_gradients(case, backend, device):
        arguments = case.make(generator(str(case)), dtype=torch.float32, device=device)   # fresh numbers, by name
        leaves = {name: arguments[name].requires_grad_() for name in case.differentiable}
        with fastloss.backend(backend):
            value = case.call({**arguments, **leaves}, case.reduced)
        for gradient in torch.autograd.grad(value, list(leaves.values()), torch.zeros_like(value)):
            assert (gradient == 0).all()

A case is one loss with one set of options; `str(case)` is its only name, `case.name` the loss's. Other sizes:
`case.make(random, case.with_batch(n))`, where `case.batched`. Optional tensors that fit: `case.make_optional("mask",
random, arguments)`, for the names in `case.optional`. `support.compute` and `support.expected` give the value and all
gradients, of a backend and of the reference in float64.

CASES has everything, FUSED what has kernels, ONE_OF_EACH the first case of every loss. A family's cases are in the file
that has the name of its bodies in fastloss/losses, of its functors in csrc/losses and of its helpers in
triton_kernels/losses; what fastloss only hands on from torch is in unfused.py.
"""

from __future__ import annotations

from cases import (
    binary,
    classification,
    contrastive,
    likelihood,
    metric,
    regression,
    self_supervised,
    unfused,
)
from cases.alignment import preference, reward
from cases.case import Case
from cases.rl import distributional, model, policy, value

_FILES = (
    regression, binary, classification, likelihood, contrastive, metric, self_supervised, policy, value,
    distributional, model, preference, reward, unfused,
)  # fmt: skip
TABLES: dict[str, list[Case]] = {file.__name__.removeprefix("cases."): file.CASES for file in _FILES}  # by family
CASES = [case for table in TABLES.values() for case in table]
FUSED = [case for case in CASES if case.skeleton is not None and case.fuses]


def one_of_each(cases: list[Case]) -> list[Case]:
    """The first case of every loss."""
    return list({case.name: case for case in reversed(cases)}.values())[::-1]


ONE_OF_EACH = one_of_each(CASES)
