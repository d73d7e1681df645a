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

CASES has everything, FUSED what has kernels, COMPOSED what is made of fused losses and torch's operations (those that
differentiate a model given to them have tests of their own in oracles/), ONE_OF_EACH the first case of every loss.
What is no loss, for there is nothing to reduce, is in RETURNS, and its laws are in skeletons/test_scan.py. A
family's cases are in the file that has the name of its bodies in fastloss/losses, of its functors in csrc/losses and
of its helpers in triton_kernels/losses; what fastloss only hands on from torch is in unfused.py.
"""

from __future__ import annotations

from cases import (
    binary,
    boxes,
    classification,
    contrastive,
    distillation,
    embedding,
    language,
    likelihood,
    margin,
    metric,
    multilabel,
    probabilistic,
    regression,
    robust,
    segmentation,
    self_supervised,
    transducer,
    unfused,
)
from cases.alignment import grpo, preference, reward, sequences
from cases.alignment import tokens as of_tokens
from cases.case import Case
from cases.diffusion import denoising, flow, score
from cases.games import diversity, populations
from cases.gan import adversarial, penalty
from cases.quality_diversity import descriptors
from cases.regularization import continual, parameters, predictions
from cases.rl import (
    actions,
    actor_critic,
    categorical,
    distributional,
    ensembles,
    exploration,
    imitation,
    model,
    off_policy,
    policy,
    policy_gradient,
    returns,
    temporal,
    tokens,
    value,
    world,
)
from fastloss.losses.alignment import advantages

_FILES = (
    regression, binary, classification, distillation, language, margin, likelihood, contrastive, metric,
    self_supervised, policy, policy_gradient, tokens, value, temporal, actor_critic, categorical, distributional, model,
    exploration, world, ensembles, off_policy, actions, imitation,
    grpo, preference, reward, sequences,
    of_tokens,
    adversarial, penalty,
    denoising, flow, score, segmentation, multilabel, robust, boxes, parameters, predictions, continual,
    probabilistic, descriptors, populations, diversity, embedding, transducer, unfused,
)  # fmt: skip
TABLES: dict[str, list[Case]] = {file.__name__.removeprefix("cases."): file.CASES for file in _FILES}  # by family
# Public, but no loss: (k, rows) numbers of rows or sequences, whose laws are in skeletons/test_row_outputs.py; and
# advantages and assignments, which have no gradient (oracles/test_advantages.py, oracles/test_self_supervised.py).
NO_LOSSES = {
    "linear_selective_log_softmax", "selective_log_softmax", "sinkhorn", "alignment.linear_sequence_logps",
    "alignment.sequence_logps", "rl.categorical_projection", "rl.two_hot",
    *(f"alignment.{name}" for name in advantages.__all__),
}  # fmt: skip
CASES = [case for table in TABLES.values() for case in table]
RETURNS: list[Case] = returns.CASES  # of trajectories: tensors of their shape, and no losses to be reduced
TABLES["rl.returns"] = RETURNS
FUSED = [case for case in CASES if case.skeleton is not None and case.fuses]
COMPOSED = [case for case in CASES if case.composed and case.differentiable]


def one_of_each(cases: list[Case]) -> list[Case]:
    """The first case of every loss."""
    return list({case.name: case for case in reversed(cases)}.values())[::-1]


ONE_OF_EACH = one_of_each(CASES)
