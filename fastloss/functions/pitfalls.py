"""Mistakes that show in the arguments of a loss: :func:`checked`, which warns of them with the remedy, if asked.

What is said is the data of :mod:`fastloss.functions.problems`; here is how each mistake is recognised.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from fastloss.core.arguments import leaves
from fastloss.core.autograd import pure
from fastloss.functions import problems
from fastloss.functions.compose import CompositeLoss, TermMonitor
from fastloss.functions.problems import Pitfall

__all__ = ["PitfallWarning", "checked"]

FEW = 0.01  # of what there could be: nats of a dimension of a code, of a policy's entropy, triplets with a loss


class PitfallWarning(UserWarning):
    """What :func:`checked` warns of; the filters of the standard library make errors of it, or silence.

    Example:
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", PitfallWarning)
        ...     loss = checked(torch.nn.functional.mse_loss)(torch.rand(2), torch.tensor([0.0, 1.0]))
    """


Arguments = Mapping[str, Any]


class _Check(NamedTuple):
    pitfall: Pitfall
    seen: Callable[[Arguments], bool]
    lasting: bool = False
    """Is it a mistake only if it stays? A code says nothing before it is trained, either."""


def _squares_of_classes(arguments: Arguments) -> bool:
    """Probabilities beside labels, both of which occur."""
    input, target = arguments["input"], arguments["target"]
    labels = ((target == 0) | (target == 1)).all() and target.any() and not target.all()
    return bool(labels) and bool(((input >= 0) & (input <= 1)).all())


def _no_triplet(arguments: Arguments) -> bool:
    """No anchor has both another one of its class and one of another class."""
    _, counts = arguments["labels"].unique(return_counts=True)
    return len(counts) < 2 or bool((counts < 2).all())


def _easy_triplets(arguments: Arguments) -> bool:
    anchor, how = arguments["anchor"], {"p": arguments["p"], "eps": arguments["eps"]}
    near = F.pairwise_distance(anchor, arguments["positive"], **how)
    far = F.pairwise_distance(anchor, arguments["negative"], **how)
    return bool((far < near + arguments["margin"]).double().mean() < FEW)


def _collapsed_code(arguments: Arguments) -> bool:
    """No dimension of the code is far from the prior, on the mean over the batch."""
    mu, logvar = arguments["mu"], arguments["logvar"]
    divergence = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return bool(divergence.reshape(-1, mu.shape[-1]).mean(0).amax() < FEW)


def _sure_policy(arguments: Arguments) -> bool:
    logits = arguments["input"] if "input" in arguments else arguments["logits"]
    log_p = logits.log_softmax(-1)
    entropy = -torch.where(log_p.isinf(), 0, log_p.exp() * log_p).sum(-1)  # -inf: an action that is not there
    if arguments.get("mask") is not None:
        entropy = entropy[(arguments["mask"] != 0).expand(entropy.shape)]
    return bool(entropy.mean() < FEW * math.log(max(2, logits.shape[-1])))


def _no_kl(arguments: Arguments) -> bool:
    return bool(arguments["beta"] == 0)


_TRIPLETS = (_Check(problems.NO_TRIPLETS, _no_triplet),)
_KL = (_Check(problems.NO_KL, _no_kl),)
_ENTROPY = (_Check(problems.NO_ENTROPY, _sure_policy, lasting=True),)
_CHECKS: dict[str, tuple[_Check, ...]] = {
    "mse_loss": (_Check(problems.SQUARES_OF_CLASSES, _squares_of_classes),),
    "batch_hard_triplet_loss": _TRIPLETS,
    "semi_hard_triplet_loss": _TRIPLETS,
    "triplet_margin_loss": (_Check(problems.EASY_TRIPLETS, _easy_triplets, lasting=True),),
    "elbo_loss": (_Check(problems.COLLAPSED_CODE, _collapsed_code, lasting=True),),
    "grpo_loss": _KL,
    "rlhf_loss": _KL,
    "policy_gradient_loss": _ENTROPY,
    "entropy_loss": _ENTROPY,
    "entropy": _ENTROPY,
    "ppo_clip_loss_from_logits": _ENTROPY,
    "ppo_loss_from_logits": _ENTROPY,
}
"""By the names of losses."""


def checked(loss: Callable[..., Any], *, patience: int = 100) -> Callable[..., Any]:
    """A loss that warns, with the remedy, where its arguments show a mistake that is often made.

    * ``mse_loss``: probabilities beside labels.
    * ``batch_hard_triplet_loss``, ``semi_hard_triplet_loss``: a batch without a triplet.
    * ``triplet_margin_loss``: triplets of which less than 1% have a loss.
    * ``elbo_loss``: a code that says nothing in any dimension (posterior collapse).
    * ``alignment.grpo_loss``, ``alignment.rlhf_loss``: no divergence from a reference policy.
    * ``rl.policy_gradient_loss``, ``rl.ppo_clip_loss_from_logits``, ``rl.ppo_loss_from_logits``, ``rl.entropy_loss``,
      ``regularization.entropy``: logits of a policy whose entropy is below 1% of the largest.
    * a :class:`fastloss.compose.CompositeLoss`: terms of different size, by :class:`fastloss.compose.TermMonitor`.

    The numbers are read back, for which a GPU is waited for: take it for a while, not for good. Under torch.compile and
    torch.func nothing is looked at.

    Args:
        loss: one of these, or torch's function of the name, or our Module.
        patience: in how many calls in a row a mistake is to be seen that is none at the beginning of a training (easy
            triplets, a code without content, a sure policy, terms of different size). The others are told at once.

    Returns:
        A function that takes what the loss takes and returns what it returns. Its warnings are
        :class:`fastloss.PitfallWarning`.

    Raises:
        ValueError: for a loss without a check.

    Example:
        >>> mse = checked(torch.nn.functional.mse_loss)
        >>> with warnings.catch_warnings(record=True) as told:
        ...     loss = mse(torch.tensor([0.2, 0.9]), torch.tensor([0.0, 1.0]))
        >>> print(str(told[0].message).partition("Remedy: ")[2])
        cross-entropy of the logits (fastloss.cross_entropy)
    """
    if isinstance(loss, CompositeLoss):
        return _monitored(loss, TermMonitor(patience=patience))
    bind = getattr(loss, "bind", lambda *args, **kwargs: (loss, args, kwargs))  # of our Modules: what they call
    name = getattr(getattr(loss, "function", loss), "__name__", "")
    if name not in _CHECKS:
        raise ValueError(
            f"checked: there is no check for {name or type(loss).__name__}; there are for {', '.join(_CHECKS)}"
        )
    counts = dict.fromkeys(_CHECKS[name], 0)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = loss(*args, **kwargs)
        if not _has_values():
            return result
        function, args, kwargs = bind(*args, **kwargs)
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        for check in counts:
            with torch.no_grad():
                counts[check] = counts[check] + 1 if check.seen(bound.arguments) else 0
            if counts[check] and (not check.lasting or counts[check] == patience):
                warnings.warn(_told(check.pitfall), PitfallWarning, stacklevel=2)
        return result

    return call


def _told(pitfall: Pitfall) -> str:
    return f"{pitfall.mistake}: {pitfall.consequence}. Remedy: {pitfall.remedy} (fastloss.{pitfall.function})"


def _has_values() -> bool:
    return not pure() and not leaves() and not torch._C._len_torch_dispatch_stack()


def _monitored(loss: CompositeLoss, monitor: TermMonitor) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        total, terms = loss(*args, **kwargs)
        if _has_values():
            monitor.update({name: loss.weight(name) * value for name, value in terms.items()})
            if monitor.count % monitor.patience == 0:
                for line in monitor.report():
                    warnings.warn(line, PitfallWarning, stacklevel=2)
        return total, terms

    return call
