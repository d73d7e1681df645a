"""Learning from preferences without a reward model."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import REWARD_METRICS, Batch, Metrics, counted, detached
from fastloss.core.reductions import check_fit
from fastloss.core.registry import LOSSES
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["cpo_loss", "dpo_loss", "kto_loss", "orpo_loss", "simpo_loss"]

_POSITIVE = 1e-30  # the least beta that the kernels take
_DPO_FORMULAS = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sppo_hard", "bco_pair",
    "discopop", "sft",
)  # fmt: skip
BY_LENGTH = {"sigmoid_norm": "sigmoid", "ipo_norm": "ipo"}  # these of scores that are divided by lengths
OF_THE_BATCH = ("aot", "aot_unpaired")  # "sigmoid" of other pairs, which the batch decides
_DPO_TYPES = (*_DPO_FORMULAS, *BY_LENGTH, *OF_THE_BATCH)
_OF_SCORES = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", *BY_LENGTH)  # which may be of any divergence
_DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
_LARGEST_EXPONENT = 80.0  # of a score, so that it is a number in float32
_SIMPO_TYPES = ("sigmoid", "hinge")
_CPO_TYPES = ("sigmoid", "hinge", "ipo")
_KTO_TYPES = ("kto", "apo_zero_unpaired")
_LARGEST_SMOOTHING = {"exo_pair": 1.0, "robust": 0.5}  # these exclusive
_LARGEST_SMOOTHING |= dict.fromkeys(("sigmoid", "sigmoid_norm", *OF_THE_BATCH), 1.0)
_EXO_SMOOTHING = 1e-3  # what 0 stands for: its logarithm is a part of the loss
_ODDS_BOUND = 1e-7  # a log-prob of 0 has infinite odds


def _check_type(loss_type: str, types: tuple[str, ...]) -> None:
    if loss_type not in types:
        raise ValueError(f"{loss_type!r} is not a valid loss_type; choose one of {', '.join(types)}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def _smoothing(loss_type: str, label_smoothing: float) -> float:
    """The label smoothing that the formula of this type takes."""
    largest = _LARGEST_SMOOTHING.get(loss_type)
    if largest is None:
        if label_smoothing:
            raise ValueError(f"loss_type {loss_type!r} has no label smoothing, got {label_smoothing}")
        return 0.0
    if not 0 <= label_smoothing <= largest or (label_smoothing == largest and loss_type in ("exo_pair", "robust")):
        raise ValueError(f"label_smoothing {label_smoothing} is out of range for loss_type {loss_type!r}")
    return label_smoothing or (_EXO_SMOOTHING if loss_type == "exo_pair" else 0.0)


def _with_smoothing(arguments: dict[str, Any]) -> dict[str, Any]:
    """The kernels take the label smoothing of the formula."""
    loss_type = arguments.get("loss_type", "sigmoid")
    if "label_smoothing" not in arguments and loss_type != "exo_pair":
        return arguments
    return {**arguments, "label_smoothing": _smoothing(loss_type, arguments.get("label_smoothing", 0.0))}


def _score(log_ratio: Tensor, divergence: str, alpha: float) -> Tensor:
    """f'(t) - f'(1) of a divergence sum q f(p / q), of t = exp(log_ratio)."""
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "js":
        return math.log(2) + F.logsigmoid(log_ratio)
    slope = -1.0 if divergence == "forward_kl" else alpha - 1
    return torch.expm1((slope * log_ratio).clamp(max=_LARGEST_EXPONENT)) / slope


def _average_score(now: Any, then: Any, length: Any, divergence: str, alpha: float, mask: Tensor | None) -> Tensor:
    now, then = counted(mask, now, detached(then))
    score = _score(now - then, divergence, alpha)
    if length is None:
        return score
    return score / (length.detach().clamp(min=1) if isinstance(length, Tensor) else max(length, 1))


def _order(keys: Tensor, mask: Tensor | None) -> Tensor:
    """(pairs): from the least key to the largest; what the mask takes out is at the end."""
    return (keys if mask is None else torch.where(mask != 0, keys, math.inf)).detach().flatten().argsort()


def _sorted_pairs(loss_type: str, logps: list[Any], mask: Tensor | None) -> tuple[list[Any], Tensor | None]:
    """The log-probabilities in new pairs: the ranks of the policy's log-ratios meet those of the reference ("aot"), or
    the ranks of the chosen sequences those of the rejected ones ("aot_unpaired"). The mask goes with the first."""
    whole = torch.broadcast_tensors(*(x if isinstance(x, Tensor) else logps[0].new_full((), x) for x in logps))
    now_chosen, now_rejected, then_chosen, then_rejected = counted(mask, *whole)
    pairs = [(now_chosen, now_rejected), (then_chosen, then_rejected)]
    if loss_type == "aot_unpaired":
        pairs = [(now_chosen, then_chosen), (now_rejected, then_rejected)]
    orders = [_order(a - b, mask) for a, b in pairs]
    (a, b), (c, d) = (
        [x.flatten().gather(0, order).view(x.shape) for x in pair] for pair, order in zip(pairs, orders, strict=True)
    )
    if mask is not None:
        mask = mask.expand(a.shape).flatten().gather(0, orders[0]).view(a.shape)
    return ([a, b, c, d] if loss_type == "aot" else [a, c, b, d]), mask


_DPO_LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
LENGTHS = ("chosen_lengths", "rejected_lengths")


def _dpo_settled(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments in the terms of the kernels, which know formulas of log-ratios alone: scores of other divergences,
    averages over tokens and new pairs are log-probabilities in their place."""
    known = {**LOSSES["dpo_loss"].signature.defaults, **arguments}
    loss_type, divergence, alpha, mask = (known[name] for name in ("loss_type", "f_divergence", "f_alpha", "mask"))
    _check_type(loss_type, _DPO_TYPES)
    if divergence not in _DIVERGENCES:
        raise ValueError(f"{divergence!r} is not a valid f_divergence; choose one of {', '.join(_DIVERGENCES)}")
    if divergence == "alpha" and alpha == 1:
        divergence = "reverse_kl"
    if divergence != "reverse_kl" and loss_type not in _OF_SCORES:
        raise ValueError(f"f_divergence must be 'reverse_kl' with loss_type {loss_type!r}, got {divergence!r}")
    lengths = [known[name] for name in LENGTHS]
    if any((x is None) == (loss_type in BY_LENGTH) for x in lengths):
        raise ValueError(f"both lengths must be given with {' and '.join(BY_LENGTH)}, and with no other loss_type")
    settled = {
        **arguments,
        "label_smoothing": _smoothing(loss_type, known["label_smoothing"]),
        "loss_type": BY_LENGTH.get(loss_type, "sigmoid" if loss_type in OF_THE_BATCH else loss_type),
        "f_divergence": "reverse_kl",
        **dict.fromkeys(LENGTHS),
    }
    logps: list[Any] = [known.get(name) for name in _DPO_LOGPS]
    if (divergence == "reverse_kl" and loss_type in _DPO_FORMULAS) or any(x is None for x in logps):
        return settled
    shape = torch.broadcast_shapes(*(x.shape for x in logps if isinstance(x, Tensor)))
    beside = {name: x for name, x in zip(LENGTHS, lengths, strict=True) if isinstance(x, Tensor)}
    check_fit(shape, logps[0].device, None, mask=mask, **beside)
    if loss_type in OF_THE_BATCH:
        logps, settled["mask"] = _sorted_pairs(loss_type, logps, mask)
    else:
        scores = [
            _average_score(now, then, length, divergence, alpha, mask)
            for now, then, length in zip(logps[:2], logps[2:], lengths, strict=True)
        ]
        logps = [*scores, 0.0, 0.0]
    return {**settled, **dict(zip(_DPO_LOGPS, logps, strict=True))}


def _sigmoid_losses(margin: Tensor, smoothing: float) -> Tensor:
    losses = -F.logsigmoid(margin)
    return losses if smoothing == 0 else (1 - smoothing) * losses - smoothing * F.logsigmoid(-margin)


def _robust_losses(margin: Tensor, smoothing: float) -> Tensor:
    """`_sigmoid_losses`, corrected so that flipped labels leave the expectation unchanged."""
    if smoothing == 0:
        return _sigmoid_losses(margin, smoothing)
    flipped = smoothing * F.logsigmoid(-margin)
    return (flipped - (1 - smoothing) * F.logsigmoid(margin)) / (1 - 2 * smoothing)


def _discopop_losses(margin: Tensor, tau: float) -> Tensor:
    """exp(-m) by itself overflows where its weight is 0."""
    exponential = (F.logsigmoid(margin / tau) - margin).exp()
    return exponential - F.logsigmoid(margin) * (-margin / tau).sigmoid()


def _dpo_losses(
    loss_type: str, chosen: Tensor, rejected: Tensor, beta: float, smoothing: float, discopop_tau: float = 1.0
) -> Tensor:
    """From the rewards of the pair."""
    margin = chosen - rejected
    if loss_type == "sigmoid":
        return _sigmoid_losses(margin, smoothing)
    if loss_type == "robust":
        return _robust_losses(margin, smoothing)
    if loss_type == "hinge":
        return F.relu(1 - margin)
    if loss_type == "ipo":
        return ((margin - 0.5) / beta).square()
    if loss_type == "bco_pair":
        return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)
    if loss_type == "discopop":
        return _discopop_losses(margin, discopop_tau)
    if loss_type == "exo_pair":
        right = margin.sigmoid() * (F.logsigmoid(margin) - math.log1p(-smoothing))
        return right + (-margin).sigmoid() * (F.logsigmoid(-margin) - math.log(smoothing))
    if loss_type == "nca_pair":
        return -F.logsigmoid(chosen) - 0.5 * (F.logsigmoid(-chosen) + F.logsigmoid(-rejected))
    if loss_type == "apo_zero":
        return (-chosen).sigmoid() + rejected.sigmoid()
    if loss_type == "apo_down":
        return chosen.sigmoid() + (-margin).sigmoid()
    return ((chosen - 0.5) / beta).square() + ((rejected + 0.5) / beta).square()  # sppo_hard


@fused(
    Pointwise(
        operands=_DPO_LOGPS,
        parameters={
            "beta": Hyper(low=_POSITIVE),
            "label_smoothing": Hyper(high=1.0),
            "discopop_tau": Hyper(low=_POSITIVE),
        },
        differentiable=("policy_chosen_logps", "policy_rejected_logps"),
        metrics=REWARD_METRICS,
        variant=("loss_type", _DPO_FORMULAS),
        prepare=_dpo_settled,
    )
)
def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | float,
    reference_rejected_logps: Tensor | float,
    chosen_lengths: Tensor | float | None = None,
    rejected_lengths: Tensor | float | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
    discopop_tau: float = 0.05,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Direct preference optimisation, and its relatives, from log-probabilities of pairs of sequences.

    With the rewards :math:`c = \beta\,s(\log\pi - \log\pi_{ref})` of the chosen sequence, r of the rejected one, their
    margin m = c - r, and :math:`\epsilon` = ``label_smoothing``; s(d) = d, unless ``f_divergence`` says otherwise:

    ==============  =============================================================================================
    ``loss_type``   loss
    ==============  =============================================================================================
    "sigmoid"       :math:`-(1-\epsilon)\log\sigma(m) - \epsilon\log\sigma(-m)` (DPO; conservative DPO with smoothing)
    "robust"        :math:`(-(1-\epsilon)\log\sigma(m) + \epsilon\log\sigma(-m)) / (1 - 2\epsilon)`
    "hinge"         :math:`\max(0, 1 - m)`
    "ipo"           :math:`(m/\beta - 1/(2\beta))^2`
    "ipo_norm"      "ipo", of scores divided by the lengths of the sequences, as its authors meant it
    "sigmoid_norm"  "sigmoid", of scores divided by the lengths
    "discopop"      :math:`-\log\sigma(m)(1-g) + e^{-m}g`, :math:`g = \sigma(m/\mathrm{discopop\_tau})`
    "bco_pair"      :math:`-\log\sigma(c) - \log\sigma(-r)`
    "aot"           "sigmoid", of log-ratios sorted by themselves: policy's and reference's
    "aot_unpaired"  "sigmoid", of rewards sorted by themselves: the chosen sequences' and the rejected ones'
    "sft"           :math:`-\log\pi` of the chosen sequence
    "exo_pair"      :math:`\mathrm{KL}((\sigma(m), \sigma(-m)) \,\|\, (1-\epsilon, \epsilon))`; 0 stands for 1e-3
    "nca_pair"      :math:`-\log\sigma(c) - \tfrac12\log\sigma(-c) - \tfrac12\log\sigma(-r)`
    "apo_zero"      :math:`1 - \sigma(c) + \sigma(r)`
    "apo_down"      :math:`\sigma(c) + 1 - \sigma(m)`
    "sppo_hard"     :math:`(c/\beta - 1/(2\beta))^2 + (r/\beta + 1/(2\beta))^2`
    ==============  =============================================================================================

    With t = exp(d) and a = ``f_alpha``, the types "sigmoid", "sigmoid_norm", "hinge", "ipo", "ipo_norm", "robust",
    "exo_pair" and "discopop" may be of another divergence from the reference:

    ================  =================================  =======================================
    ``f_divergence``  s(d)                               divergence
    ================  =================================  =======================================
    "reverse_kl"      d                                  KL(policy || reference), the default
    "forward_kl"      :math:`1 - 1/t`                    KL(reference || policy)
    "js"              :math:`\log(2t / (1 + t))`         Jensen-Shannon
    "alpha"           :math:`(t^{a-1} - 1) / (a - 1)`    a: 1 is the reverse KL, 0 the forward one
    ================  =================================  =======================================

    Exponents are at most 80. The log-probabilities of the reference are constants: no gradient flows into them. The
    kernels have the formulas; other divergences, averages and sorting are torch's, before them.

    Args:
        policy_chosen_logps, policy_rejected_logps: log-probabilities of the sequences under the policy.
        reference_chosen_logps, reference_rejected_logps: the same under the reference; numbers (0, say) are taken too.
        chosen_lengths, rejected_lengths: tokens of the sequences (0 counts as 1), for "ipo_norm" and "sigmoid_norm".
        beta: positive; how strongly the policy is held to the reference.
        label_smoothing: probability that a label is wrong: in [0, 1] for "sigmoid", "sigmoid_norm", "aot" and
            "aot_unpaired", [0, 0.5) for "robust", [0, 1) for "exo_pair"; the other types have none.
        loss_type: which loss of this family.
        f_divergence: ``"reverse_kl"``, ``"forward_kl"``, ``"js"`` or ``"alpha"``.
        f_alpha: any number, for "alpha".
        discopop_tau: positive; temperature of "discopop".
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes a pair out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean instead of what the mask counts: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, usually (N), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are detached 0-d tensors, means over what the mask
        counts: ``chosen_reward``, ``rejected_reward``, ``margin`` and ``accuracy`` (share of the pairs with m > 0), of
        the scores and pairs of the loss. With "aot" and "aot_unpaired", ``"none"`` returns the losses in their order.

    Raises:
        ValueError: an unknown name, a hyper-parameter out of range, lengths that are missing or have no meaning, a
            divergence that the type does not have.

    Source:
        DPO: Rafailov et al. 2023, arXiv:2305.18290. Robust: Chowdhury et al. 2024, arXiv:2403.00409. Hinge: Zhao et al.
        2023, arXiv:2305.10425. IPO: Azar et al. 2023, arXiv:2310.12036. EXO: Ji et al. 2024, arXiv:2402.00856. NCA:
        Chen et al. 2024, arXiv:2402.05369. APO: D'Oosterlinck et al. 2024, arXiv:2408.06266. SPPO: Wu et al. 2024,
        arXiv:2405.00675. DiscoPOP: Lu et al. 2024, arXiv:2406.08414. BCO: Jung et al. 2024, arXiv:2404.04656. AOT:
        Melnyk et al. 2024, arXiv:2406.05882. Divergences: Wang et al. 2023, arXiv:2309.16240. "sigmoid_norm": Lambert
        et al. 2024, arXiv:2411.15124.

    Example:
        >>> dpo_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([-2.0]), torch.tensor([-2.0])).item()
        0.5981388092041016
    """
    _check_positive("beta", beta)
    _check_positive("discopop_tau", discopop_tau)
    dtype = result_dtype(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    settled = _dpo_settled(
        {
            "policy_chosen_logps": policy_chosen_logps,
            "policy_rejected_logps": policy_rejected_logps,
            "reference_chosen_logps": reference_chosen_logps,
            "reference_rejected_logps": reference_rejected_logps,
            "chosen_lengths": chosen_lengths,
            "rejected_lengths": rejected_lengths,
            "loss_type": loss_type,
            "label_smoothing": label_smoothing,
            "f_divergence": f_divergence,
            "f_alpha": f_alpha,
            "mask": mask,
        }
    )
    mask = settled["mask"]
    policy_chosen, policy_rejected = counted(mask, *(settled[name] for name in _DPO_LOGPS[:2]))
    reference_chosen, reference_rejected = counted(mask, *(detached(settled[name]) for name in _DPO_LOGPS[2:]))
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    if settled["loss_type"] == "sft":
        losses = -policy_chosen.expand(torch.broadcast_shapes(chosen.shape, rejected.shape))
    else:
        losses = _dpo_losses(settled["loss_type"], chosen, rejected, beta, settled["label_smoothing"], discopop_tau)
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    return (batch.loss(), batch.rewards(chosen, rejected)) if return_terms else batch.loss()


@fused(
    Pointwise(
        operands=("chosen_avg_logps", "rejected_avg_logps"),
        parameters={
            "beta": Hyper(low=_POSITIVE),
            "gamma": Hyper(low=-math.inf),
            "label_smoothing": Hyper(high=1.0),
        },
        metrics=REWARD_METRICS,
        variant=("loss_type", _SIMPO_TYPES),
        prepare=_with_smoothing,
    )
)
def simpo_loss(
    chosen_avg_logps: Tensor,
    rejected_avg_logps: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Simple preference optimisation: no reference, log-probabilities averaged over the tokens, a target margin.

    With the rewards :math:`c = \beta\log\pi / |y|` of the chosen sequence, r of the rejected one, and
    :math:`m = c - r - \gamma`:

    .. math::
        \ell = -(1-\epsilon)\log\sigma(m) - \epsilon\log\sigma(-m)
        \quad\text{("sigmoid")}, \qquad \ell = \max(0, 1 - m) \quad\text{("hinge")}.

    Args:
        chosen_avg_logps, rejected_avg_logps: mean log-probability of a token of each sequence.
        beta: positive; scales the rewards.
        gamma: by how much the chosen reward is to be larger. The paper takes 0.3 to 1.6 with ``beta`` from 2 to 2.5.
        label_smoothing: in [0, 1], for "sigmoid"; probability that a label is wrong.
        loss_type: ``"sigmoid"`` or ``"hinge"``.
        reduction, mask, normalizer: as in :func:`dpo_loss`.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, usually (N), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``; the terms are those of :func:`dpo_loss`, without ``gamma``.

    Raises:
        ValueError: an unknown ``loss_type`` or ``reduction``, a ``beta`` or ``label_smoothing`` out of range.

    Source:
        Meng et al. 2024, arXiv:2405.14734.

    Example:
        >>> simpo_loss(torch.tensor([-1.0]), torch.tensor([-1.5])).item()
        0.6931471824645996
    """
    _check_type(loss_type, _SIMPO_TYPES)
    _check_positive("beta", beta)
    smoothing = _smoothing(loss_type, label_smoothing)
    dtype = result_dtype(chosen_avg_logps, rejected_avg_logps)
    chosen, rejected = counted(mask, chosen_avg_logps, rejected_avg_logps)
    margin = beta * (chosen - rejected) - gamma
    losses = F.relu(1 - margin) if loss_type == "hinge" else _sigmoid_losses(margin, smoothing)
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    return (batch.loss(), batch.rewards(beta * chosen, beta * rejected)) if return_terms else batch.loss()


@fused(
    Pointwise(
        operands=("chosen_logps", "rejected_logps"),
        parameters={
            "beta": Hyper(low=_POSITIVE),
            "label_smoothing": Hyper(high=1.0),
            "alpha": Hyper(low=-math.inf),
        },
        metrics={**REWARD_METRICS, "preference_loss": "part", "nll_loss": "part"},
        variant=("loss_type", _CPO_TYPES),
        prepare=_with_smoothing,
    )
)
def cpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Contrastive preference optimisation: direct preference optimisation with a uniform reference, plus imitation.

    With the log-probabilities c of the chosen sequence and r of the rejected one, and :math:`m = \beta(c - r)`:

    .. math::
        \ell = -(1-\epsilon)\log\sigma(m) - \epsilon\log\sigma(-m) - \alpha\,c \quad\text{("sigmoid")},

    where the first two terms are :math:`\max(0, 1 - m)` for "hinge" and :math:`(m/\beta - 1/(2\beta))^2` for "ipo".
    At ``alpha=0`` the last term is not there, for those who have it (a cross-entropy of the chosen tokens) already.

    Args:
        chosen_logps, rejected_logps: log-probabilities of the sequences; for "ipo" averaged over their tokens.
        beta: positive; scales the rewards.
        alpha: any number; weight of the chosen sequence's negative log-likelihood.
        label_smoothing: in [0, 1], for "sigmoid"; probability that a label is wrong.
        loss_type: ``"sigmoid"``, ``"hinge"`` or ``"ipo"``.
        reduction, mask, normalizer: as in :func:`dpo_loss`.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, usually (N), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are those of :func:`dpo_loss` with the rewards
        :math:`\beta c` and :math:`\beta r`, and ``preference_loss`` and ``nll_loss`` (-c): the parts of the loss, the
        second without its weight, reduced as the loss is (summed for ``"none"``).

    Raises:
        ValueError: an unknown ``loss_type`` or ``reduction``, a ``beta`` or ``label_smoothing`` out of range.

    Source:
        Xu et al. 2024, arXiv:2401.08417. Hinge: Zhao et al. 2023, arXiv:2305.10425. IPO: Azar et al. 2023,
        arXiv:2310.12036.

    Example:
        >>> cpo_loss(torch.tensor([-1.0]), torch.tensor([-1.0])).item()
        1.6931471824645996
    """
    _check_type(loss_type, _CPO_TYPES)
    _check_positive("beta", beta)
    smoothing = _smoothing(loss_type, label_smoothing)
    dtype = result_dtype(chosen_logps, rejected_logps)
    chosen, rejected = counted(mask, chosen_logps, rejected_logps)
    preference = _dpo_losses(loss_type, beta * (chosen - rejected), torch.zeros_like(chosen), beta, smoothing)
    losses = preference - alpha * chosen if alpha else preference
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    return batch.loss(), {
        **batch.rewards(beta * chosen, beta * rejected),
        "preference_loss": batch.part(preference),
        "nll_loss": batch.part(-chosen),
    }


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)). One formula is enough: where exp rounds 1 - p to 1, it loses less than an ulp of log p."""
    logp = logp.clamp(max=-_ODDS_BOUND)
    return logp - torch.log(-torch.expm1(logp))


@fused(
    Pointwise(
        operands=("chosen_avg_logps", "rejected_avg_logps"),
        parameters={"beta": Hyper(low=_POSITIVE), "sft_coefficient": Hyper(low=-math.inf)},
        metrics={**REWARD_METRICS, "log_odds": "mean", "odds_loss": "part", "sft_loss": "part"},
    )
)
def orpo_loss(
    chosen_avg_logps: Tensor,
    rejected_avg_logps: Tensor,
    *,
    beta: float = 0.1,
    sft_coefficient: float = 0.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Odds-ratio preference optimisation: no reference, log-probabilities averaged over the tokens.

    With the mean log-probabilities c of the chosen sequence and r of the rejected one,

    .. math::
        \ell = -\beta\,\log\sigma\bigl(\omega(c) - \omega(r)\bigr) - \mathrm{sft\_coefficient}\cdot c, \qquad
        \omega(y) = \log\frac{e^y}{1 - e^y} = y - \log(1 - e^y).

    The paper's loss is the one with ``sft_coefficient=1``; at the default of 0 this is its second part, for those who
    have the first (the cross-entropy of the chosen sequences, usually a mean over all tokens) already.

    Args:
        chosen_avg_logps, rejected_avg_logps: mean log-probability of a token of each sequence, below 0. The odds treat
            one above -1e-7 as -1e-7, and give it no gradient.
        beta: positive; weight of the odds ratio.
        sft_coefficient: any number; weight of the chosen sequence's own likelihood.
        reduction, mask, normalizer: as in :func:`dpo_loss`.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, usually (N), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are those of :func:`dpo_loss` with the rewards
        :math:`\beta c` and :math:`\beta r`; ``log_odds`` (the difference above, averaged); ``odds_loss`` and
        ``sft_loss`` (-c): the parts of the loss, the second without its coefficient, reduced as the loss is (summed for
        ``"none"``).

    Raises:
        ValueError: an unknown ``reduction``, a ``beta`` that is not positive.

    Source:
        Hong et al. 2024, arXiv:2403.07691.

    Example:
        >>> orpo_loss(torch.tensor([-0.5]), torch.tensor([-0.5])).item()
        0.06931471824645996
    """
    _check_positive("beta", beta)
    dtype = result_dtype(chosen_avg_logps, rejected_avg_logps)
    chosen, rejected = counted(mask, chosen_avg_logps, rejected_avg_logps)
    log_odds = _log_odds(chosen) - _log_odds(rejected)
    odds_losses = -beta * F.logsigmoid(log_odds)
    losses = odds_losses - sft_coefficient * chosen
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    return batch.loss(), {
        **batch.rewards(beta * chosen, beta * rejected),
        "log_odds": batch.mean(log_odds),
        "odds_loss": batch.part(odds_losses),
        "sft_loss": batch.part(-chosen),
    }


@fused(
    Pointwise(
        operands=("policy_logps", "reference_logps", "desirable", "kl"),
        fill={"kl": 0.0},
        parameters={
            "beta": Hyper(low=_POSITIVE),
            "desirable_weight": Hyper(),
            "undesirable_weight": Hyper(),
        },
        differentiable=("policy_logps",),
        metrics={"desirable_reward": "mean", "undesirable_reward": "mean", "desirable_fraction": "mean"},
        variant=("loss_type", _KTO_TYPES),
    )
)
def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor | float,
    desirable: Tensor,
    kl: Tensor | float | None = None,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Kahneman-Tversky optimisation, from single sequences that are desirable or not.

    With :math:`d = \log\pi - \log\pi_{ref}`, the weight w of the sequence's kind, and :math:`z = \max(0, \mathrm{kl})`
    ("kto") or z = 0 ("apo_zero_unpaired"):

    .. math::
        \ell = w\,\bigl(1 - \sigma(\beta(d - z))\bigr)\ \text{if desirable, else}\quad
        \ell = w\,\bigl(1 - \sigma(\beta(z - d))\bigr).

    ``reference_logps`` and ``kl`` are constants: no gradient flows into them. A batch may have one kind alone.

    Args:
        policy_logps, reference_logps: log-probabilities of the sequences.
        desirable: bool, or 0 for undesirable.
        kl: estimate of KL(policy || reference) over the batch: usually the mean of the log-ratios of mismatched pairs
            of prompt and answer, over all devices. A tensor, a number, or None for 0.
        beta: positive; how strongly the policy is held to the reference.
        desirable_weight, undesirable_weight: at least 0; balance the two kinds.
        loss_type: ``"kto"`` or ``"apo_zero_unpaired"``.
        reduction, mask, normalizer: as in :func:`dpo_loss`.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, usually (N) and kl (), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are detached 0-d tensors, means over what the mask
        counts, so that they may be averaged over batches: ``desirable_reward`` (:math:`\beta d` of the desirable, 0 of
        the others), ``undesirable_reward`` (the reverse) and ``desirable_fraction``. A reward averaged over its kind is
        its quotient with that fraction, or with 1 minus it.

    Raises:
        ValueError: an unknown ``loss_type`` or ``reduction``, a hyper-parameter out of range.

    Source:
        Ethayarajh et al. 2024, arXiv:2402.01306. "apo_zero_unpaired": D'Oosterlinck et al. 2024, arXiv:2408.06266.

    Example:
        >>> kto_loss(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]), torch.tensor([True, False])).item()
        0.5
    """
    _check_type(loss_type, _KTO_TYPES)
    _check_positive("beta", beta)
    if not (desirable_weight >= 0 and undesirable_weight >= 0):
        raise ValueError(f"weights must not be negative, got {desirable_weight} and {undesirable_weight}")
    dtype = result_dtype(policy_logps, reference_logps, desirable, kl)
    policy, reference, desirable, kl = counted(mask, policy_logps, detached(reference_logps), desirable, detached(kl))
    log_ratio = policy - reference
    value = beta * log_ratio
    if loss_type == "kto" and kl is not None:
        floor = kl.clamp(min=0) if isinstance(kl, Tensor) else max(kl, 0.0)
        value = beta * (log_ratio - floor)
    wanted = desirable != 0
    losses = torch.where(wanted, desirable_weight * (-value).sigmoid(), undesirable_weight * value.sigmoid())
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    reward = beta * log_ratio
    return batch.loss(), {
        "desirable_reward": batch.mean(torch.where(wanted, reward, 0)),
        "undesirable_reward": batch.mean(torch.where(wanted, 0, reward)),
        "desirable_fraction": batch.mean(wanted),
    }
