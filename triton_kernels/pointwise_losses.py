"""The pointwise losses as Triton sees them, in families: the files pointwise_<family>.py.

Each loss is one device function, chosen by name, and an entry in the LOSSES of its file:

    loss, derivatives, metrics = huber_loss(x, p)

x: the K operands, a tile each, in the accumulator dtype A (float64 or float32); an operand that is a number is such a
tile as well. p: the constants that the entry makes of the hyper-parameters, scalars of A; None is a constant that is
switched off. derivatives: K tiles, 0.0 where the loss is never differentiated (a Triton function cannot return None in
a tuple). metrics: a tile for each kind that the entry lists. The formulas are those of csrc/losses. A loss with a
domain has a second function, which says where x is inside.

The choice is a constexpr string that each family's function looks at: function-valued constexprs break Dynamo, and
closures the interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import pointwise_binary, pointwise_likelihood, pointwise_policy, pointwise_preference, pointwise_regression
from .pointwise_binary import binary, binary_domain
from .pointwise_description import PointwiseLoss
from .pointwise_likelihood import likelihood, likelihood_domain
from .pointwise_policy import policy
from .pointwise_preference import preference
from .pointwise_regression import regression, regression_domain

FAMILIES: dict[str, dict[str, PointwiseLoss]] = {
    "regression": pointwise_regression.LOSSES,
    "binary": pointwise_binary.LOSSES,
    "likelihood": pointwise_likelihood.LOSSES,
    "policy": pointwise_policy.LOSSES,
    "preference": pointwise_preference.LOSSES,
}


@triton.jit
def pointwise_loss(FAMILY: tl.constexpr, LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if FAMILY == "regression":
        return regression(LOSS, x, p)
    elif FAMILY == "binary":
        return binary(LOSS, x, p)
    elif FAMILY == "likelihood":
        return likelihood(LOSS, x, p)
    elif FAMILY == "policy":
        return policy(LOSS, x, p)
    elif FAMILY == "preference":
        return preference(LOSS, x, p)
    else:
        tl.static_assert(False, "no such family")


@triton.jit
def pointwise_domain(FAMILY: tl.constexpr, LOSS: tl.constexpr, x, p):
    """Where x lies in the loss's domain; only of losses whose entry has a requirement."""
    if FAMILY == "regression":
        return regression_domain(LOSS, x, p)
    elif FAMILY == "binary":
        return binary_domain(LOSS, x, p)
    elif FAMILY == "likelihood":
        return likelihood_domain(LOSS, x, p)
    else:
        tl.static_assert(False, "no loss of this family has a domain")
