"""How a loss of log-probabilities becomes one of logits, and one of hidden states: what such losses share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastloss.core.derived import derived, parameter
from fastloss.core.reductions import check_fit
from fastloss.losses.linear_losses import TOKENS, linear_loss
from fastloss.losses.log_prob import LogSoftmaxOutputs, selective_log_softmax

__all__: list[str] = []

_HOW = [
    parameter("temperature", "float", 1.0, keyword=True),
    parameter("softcap", "float | None", None, keyword=True),
    parameter("logit_scale", "float", 1.0, keyword=True),
]
_HIDDEN = [parameter("hidden", "Tensor"), parameter("weight", "Tensor")]
BIAS = parameter("bias", "Tensor | None", None, keyword=True)
_DESCRIBED = {
    "weight": "output matrix; logits = hidden @ weight.T + bias.",
    "bias": "of the logits.",
    "temperature": "positive; the logits are divided by it.",
    "softcap": "bound of the logits; None: none.",
    "logit_scale": "positive; the logits are multiplied by it.",
    "chunk_size": "how many rows have logits at a time; None: some 32 MiB of them on a CPU.",
}


def is_used(coefficient: float | Tensor) -> bool:
    """Whether a coefficient is not known to be 0: looking at a tensor's value would wait for its device."""
    return isinstance(coefficient, Tensor) or bool(coefficient)


class Entering(NamedTuple):
    """The arguments from which log-probabilities are made, and what the docstrings say of them."""

    from_logits: list[inspect.Parameter]
    linear: list[inspect.Parameter]
    described: dict[str, str]


def entering(classes: str, does: str, more: Sequence[inspect.Parameter] = (), **described: str) -> Entering:
    """
    Args:
        classes: the name of the argument that has the classes.
        does: what the logits at t do: "predict the label at t".
        more: keyword-only arguments of both forms.
        described: what the docstrings say of `classes` and `more`.
    """
    chosen = parameter(classes, "Tensor")
    said = {
        "logits": f"floating-point; those at t {does}.",
        "hidden": f"hidden states; those at t {does}.",
        **_DESCRIBED,
        **described,
    }
    chunk = parameter("chunk_size", "int | None", None, keyword=True)
    from_logits = [parameter("logits", "Tensor"), chosen, *more, *_HOW]
    return Entering(from_logits, [*_HIDDEN, chosen, BIAS, *more, *_HOW, chunk], said)


_TOKENS = entering(
    "index",
    "chose the token (or action) at t",
    index="the tokens (or actions) that were chosen.",
    mask="of the shape of ``index``, or broadcasts to it; where it is 0 a token is not there, and costs nothing.",
)


def token_losses(
    loss: Callable[..., Any],
    module: str,
    room: str,
    needs_entropy: Callable[[dict[str, Any]], bool],
    more: str,
    together: Callable[[dict[str, Any]], str | None] = lambda given: TOKENS,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(the loss of logits, the loss of hidden states) of a loss whose first operand is ``logp``.

    Args:
        needs_entropy: whether a call, whose arguments are given, has a use for the entropy of each distribution.
        more: what the examples pass after the first operand.
        together: what a call has to know for the gradient by a log-probability: see
            :mod:`fastloss.losses.linear_losses`.
    """
    of = loss.__name__
    has_entropy = "entropy" in inspect.signature(loss).parameters
    dropped = ("logp", "entropy") if has_entropy else ("logp",)

    def of_numbers(found: LogSoftmaxOutputs, **for_loss: Any) -> Any:
        entropy = {} if found.entropy is None else {"entropy": found.entropy}
        return loss(logp=found.log_prob, **entropy, **for_loss)

    def asked(index: Tensor, for_loss: dict[str, Any]) -> dict[str, Any]:
        mask: Tensor | None = for_loss.get("mask")
        check_fit(index.shape, index.device, for_loss.get("normalizer"), mask=mask)
        outputs = ("log_prob", "entropy") if has_entropy and needs_entropy(for_loss) else ("log_prob",)
        return {"outputs": outputs, "mask": mask}

    def from_logits(own: dict[str, Any], for_loss: dict[str, Any]) -> Any:
        return of_numbers(selective_log_softmax(**own, **asked(own["index"], for_loss)), **for_loss)

    def linear(own: dict[str, Any], for_loss: dict[str, Any]) -> Any:
        return linear_loss(of_numbers, for_loss, together(for_loss), **own, **asked(own["index"], for_loss))

    rest = "- index, mask and the rest: (B, T), or what broadcasts to it\n- output: () unless it is not reduced"
    first = derived(
        f"{of}_from_logits", module, loss, _TOKENS.from_logits, dropped, _TOKENS.described,
        f""":func:`fastloss.{room}.{of}` from the logits of the tokens.

.. math:: \\log\\pi = \\log p_y, \\qquad p = \\mathrm{{softmax}}(z),

and the loss of that; its formula is there. The logits are read once forward, for log-probability and entropy, and once
backward, which writes their gradient: see :func:`fastloss.selective_log_softmax`.""",
        f"- logits: (B, T, C)\n{rest}",
        f">>> index = torch.zeros(1, 1, dtype=torch.int64)\n"
        f">>> {of}_from_logits(torch.zeros(1, 1, 2), index{more}).shape\ntorch.Size([])",
        from_logits,
    )  # fmt: skip
    second = derived(
        f"linear_{of}", module, loss, _TOKENS.linear, dropped, _TOKENS.described,
        f""":func:`fastloss.{room}.{of}` from hidden states, without storing the logits of all tokens.

.. math:: \\log\\pi = \\log p_y, \\qquad p = \\mathrm{{softmax}}(W h + b),

and the loss of that; its formula is there. See :func:`fastloss.linear_selective_log_softmax`.""",
        f"- hidden: (B, T, H)\n- weight: (C, H)\n- bias: (C,)\n{rest}",
        f">>> index, hidden = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 3)\n"
        f">>> linear_{of}(hidden, torch.zeros(2, 3), index{more}).shape\ntorch.Size([])",
        linear,
    )  # fmt: skip
    return first, second
