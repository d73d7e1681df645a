"""Policy losses of group-relative optimisation and its relatives: one table over log-ratios, advantages and masks."""

# A loss of the table is a formula of one token (_FORMULAS, a kernel each), which may see a statistic of its sequence,
# and a way of counting tokens and sequences (_TYPES). What all formulas share is written once around them: the weights
# of the sampler, the distance to the reference, the entropy.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype, widened
from fastloss.core.metrics import Batch, Metrics, counted, detached
from fastloss.core.reductions import check_fit
from fastloss.core.registry import LOSSES
from fastloss.losses.alignment.reward import kl_estimate
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["grpo_loss"]

_POSITIVE = 1e-30  # the least that the kernels take of what must be positive
_LEAST_RATE = 1e-4  # of VESPO's weighting, so that it falls for large ratios
_LEAST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT = math.log(1e-8), 20.0  # of a sequence, in VESPO
_ABSOLUTE_CLIP = 5.0  # of "cispo_absolute", unless one is given
_TINY = 1e-30  # a probability of 1 leaves nothing, whose logarithm is not needed
_KL_KINDS = ("k1", "k2", "k3", "abs", "k1+", "k2+", "k3+", "abs+")

# ------------------------------------------------------------------------------------------ formulas of a token


class _Token(NamedTuple):
    """What a formula sees. All of these broadcast together, and all but `logp` and the ratio are constants."""

    logp: Tensor
    old_logp: Tensor
    advantages: Tensor
    ratio: Tensor  # of the token, or of its sequence
    sequence: Any  # statistic of the sequence; 0.0 for formulas without one
    selected: Any  # is the token one of those that the formula treats differently?


class _Options(NamedTuple):
    """The hyper-parameters of the formulas, under their public names."""

    clip: float
    clip_high: float
    delta: float
    sapo_temperature_pos: float
    sapo_temperature_neg: float
    vespo_k_pos: float
    vespo_lambda_pos: float
    vespo_k_neg: float
    vespo_lambda_neg: float
    dro_beta: float
    kl_cov_coefficient: float


class _Policy(NamedTuple):
    losses: Tensor
    low: Tensor  # where a bound acts: on ratios that have fallen
    high: Tensor  # on ratios that have risen
    acts: Tensor  # where the formula holds the policy back at all


def _free(losses: Tensor) -> _Policy:
    """Of a formula without bounds."""
    nowhere = torch.zeros_like(losses, dtype=torch.bool)
    return _Policy(losses, nowhere, nowhere, nowhere)


def _clipped(token: _Token, options: _Options) -> _Policy:
    """-min(min(r, delta) A, clamp(r, 1 - clip, 1 + clip_high) A)"""
    ratio, advantages = token.ratio, token.advantages
    free = -advantages * (ratio if options.delta == math.inf else ratio.clamp(max=options.delta))
    bound = -advantages * ratio.clamp(1 - options.clip, 1 + options.clip_high)
    low = (advantages < 0) & (ratio < 1 - options.clip)
    high = ((advantages > 0) & (ratio > 1 + options.clip_high)) | ((advantages < 0) & (ratio > options.delta))
    return _Policy(torch.maximum(free, bound), low, high, low | high)


def _geometric(token: _Token, options: _Options) -> _Policy:
    """-r A, with the geometric mean r of the sequence's clipped ratios"""
    log_ratio = token.logp.detach() - token.old_logp
    low = (token.advantages < 0) & (log_ratio < -options.clip)
    high = (token.advantages > 0) & (log_ratio > options.clip_high)
    return _Policy(-token.advantages * token.ratio, low, high, low | high)


def _weighted(token: _Token, low: float, high: float) -> _Policy:
    """-clamp(r, low, high) A log pi, whose first factors are constants"""
    ratio = token.ratio.detach()
    below, above = ratio < low, ratio > high
    return _Policy(-ratio.clamp(low, high) * token.advantages * token.logp, below, above, below | above)


def _cispo(token: _Token, options: _Options) -> _Policy:
    return _weighted(token, 1 - options.clip, 1 + options.clip_high)


def _cispo_absolute(token: _Token, options: _Options) -> _Policy:
    return _weighted(token, -math.inf, options.clip_high)


def _sapo(token: _Token, options: _Options) -> _Policy:
    """-(4 / t) sigmoid(t (r - 1)) A, with a temperature t by the sign of A"""
    positive, negative = options.sapo_temperature_pos, options.sapo_temperature_neg
    moved, rising = token.ratio - 1, token.advantages > 0
    gate = torch.where(
        rising, (positive * moved).sigmoid() * (4 / positive), (negative * moved).sigmoid() * (4 / negative)
    )
    return _free(-token.advantages * gate)


def _vespo(token: _Token, options: _Options) -> _Policy:
    """-phi(w) A log pi, with phi(w) = w^k exp(lambda (1 - w)) of the sequence's weight w, a constant"""
    log_weight = token.sequence.clamp(_LEAST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT)
    not_worse, beyond = token.advantages >= 0, -torch.expm1(log_weight)
    of_better = options.vespo_k_pos * log_weight + options.vespo_lambda_pos * beyond
    of_worse = options.vespo_k_neg * log_weight + options.vespo_lambda_neg * beyond
    return _free(-torch.where(not_worse, of_better, of_worse).exp() * token.advantages * token.logp)


def _inside(token: _Token, options: _Options, inside: Tensor) -> _Policy:
    """-min(r, delta) A log pi where the policy is inside its trust region; the first factors are constants"""
    weight = token.ratio.detach().clamp(max=options.delta) * inside
    outside = ~inside
    low, high = outside & (token.advantages <= 0), outside & (token.advantages > 0)
    return _Policy(-weight * token.advantages * token.logp, low, high, outside)


def _inside_total_variation(token: _Token, options: _Options) -> _Policy:
    """By how much the token's own probability has moved."""
    moved = token.logp.detach().exp() - token.old_logp.exp()
    inside = torch.where(token.advantages > 0, moved <= options.clip_high, moved >= -options.clip)
    return _inside(token, options, inside)


def _inside_divergence(token: _Token, options: _Options) -> _Policy:
    """By the divergence of two outcomes: this token, or any other."""
    logp, old_logp = token.logp.detach(), token.old_logp
    probability, old = logp.exp(), old_logp.exp()
    rest, old_rest = ((-torch.expm1(x)).clamp(min=0) for x in (logp, old_logp))
    divergence = old * (old_logp - logp) + old_rest * ((old_rest + _TINY).log() - (rest + _TINY).log())
    rose = (divergence <= options.clip_high) | (probability <= old)
    fell = (divergence <= options.clip) | (probability >= old)
    return _inside(token, options, torch.where(token.advantages > 0, rose, fell))


def _likelihood(token: _Token, options: _Options) -> _Policy:
    """-A log pi"""
    return _free(-token.advantages * token.logp)


def _squared(token: _Token, options: _Options) -> _Policy:
    """-A log pi + beta/2 (log r)^2"""
    penalty = 0.5 * options.dro_beta * (token.logp - token.old_logp).square()
    return _free(-token.advantages * token.logp + penalty)


def _without_selected(token: _Token, options: _Options) -> _Policy:
    """The clipped surrogate, and nothing of the tokens that were selected."""
    policy, selected = _clipped(token, options), token.selected != 0
    return policy._replace(losses=torch.where(selected, 0, policy.losses), acts=policy.acts | selected)


def _held_where_selected(token: _Token, options: _Options) -> _Policy:
    """-r A, and c |log r| more at the tokens that were selected"""
    selected, losses = token.selected != 0, -token.advantages * token.ratio
    penalty = options.kl_cov_coefficient * (token.logp - token.old_logp).abs()
    nowhere = torch.zeros_like(losses, dtype=torch.bool)
    return _Policy(losses + torch.where(selected, penalty, 0), nowhere, nowhere, nowhere | selected)


_FORMULAS: dict[str, Callable[[_Token, _Options], _Policy]] = {
    "grpo": _clipped,
    "gspo": _clipped,
    "gmpo": _geometric,
    "cispo": _cispo,
    "cispo_absolute": _cispo_absolute,
    "sapo": _sapo,
    "vespo": _vespo,
    "dppo_tv": _inside_total_variation,
    "dppo_kl": _inside_divergence,
    "gpg": _likelihood,
    "dro": _squared,
    "clip_cov": _without_selected,
    "kl_cov": _held_where_selected,
}
"""By the name of its kernel. The kernels know these types alone; the others are one of them, counted otherwise."""

_RATIO_OF_SEQUENCE = ("gspo", "gmpo")
_WITH_STATISTIC = (*_RATIO_OF_SEQUENCE, "vespo")
_WITH_SELECTION = ("clip_cov", "kl_cov")


class _Type(NamedTuple):
    formula: str
    aggregation: str


_TYPES = {
    **{name: _Type(name, "token-mean") for name in _FORMULAS},
    "grpo": _Type("grpo", "seq-mean-token-mean"),
    "bnpo": _Type("grpo", "token-mean"),
    "dr_grpo": _Type("grpo", "seq-mean-token-sum-norm"),
    "dapo": _Type("grpo", "token-mean"),
    "gspo": _Type("gspo", "seq-mean-token-mean"),
    "gspo_token": _Type("gspo", "seq-mean-token-mean"),
    "luspo": _Type("gspo", "seq-mean-token-sum"),
    "gmpo": _Type("gmpo", "seq-mean-token-mean"),
    "sapo": _Type("sapo", "seq-mean-token-mean"),
}
_LEVELS = {"token": "grpo", "sequence": "gspo"}  # whose ratio the clipped surrogate is of


def is_of_sequences(given: dict[str, Any]) -> bool:
    """Whether the gradient by a log-probability depends on the other tokens of its sequence."""
    kind = _TYPES.get(given["loss_type"])
    return kind is not None and _LEVELS.get(given["importance_sampling_level"], kind.formula) in _WITH_STATISTIC


def is_of_the_batch(given: dict[str, Any]) -> bool:
    """Whether it depends on all tokens, by which some are selected."""
    kind = _TYPES.get(given["loss_type"])
    return given["top_entropy_quantile"] != 1 or (kind is not None and kind.formula in _WITH_SELECTION)


# ------------------------------------------------------------------------------------------ statistics of sequences


def _sum_of_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """(..., T) -> (..., 1), of values that are 0 where the mask is"""
    if mask is not None and mask.dtype is not torch.bool:
        values = values * mask.to(values.dtype)
    return values.sum(-1, keepdim=True)


def _mean_of_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """(..., T) -> (..., 1); 0 where nothing is counted"""
    if mask is None:
        return _sum_of_tokens(values, None) / max(1, values.shape[-1] if values.dim() else 1)
    count = mask.expand(values.shape).sum(-1, keepdim=True, dtype=values.dtype)
    return _sum_of_tokens(values, mask) / torch.where(count == 0, 1, count)


def _clipped_mean(log_ratio: Tensor, advantages: Tensor, mask: Tensor | None, clip: float, clip_high: float) -> Tensor:
    """Of the logarithms of ratios, each clipped on the side to which its advantage pulls it."""
    falling = torch.where(advantages < 0, log_ratio.clamp(min=-clip), log_ratio)
    return _mean_of_tokens(torch.where(advantages > 0, log_ratio.clamp(max=clip_high), falling), mask)


def _log_of_weights(sampling_weights: Tensor, mask: Tensor | None) -> Tensor:
    """0 where the mask is."""
    weights = sampling_weights if mask is None else torch.where(mask != 0, sampling_weights, 1)
    return weights.log().clamp(_LEAST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT)


def _log_weight_of_sequence(
    log_ratio: Tensor, sampling_weights: Tensor | None, of_sequence: bool, mask: Tensor | None
) -> Tensor:
    """`of_sequence`: the sampler's weights are one for a sequence, which counts once."""
    total = _sum_of_tokens(log_ratio.detach(), mask)
    if sampling_weights is None:
        return total
    of_sampler = _log_of_weights(sampling_weights, mask)
    return total + (_mean_of_tokens if of_sequence else _sum_of_tokens)(of_sampler, mask)


# ------------------------------------------------------------------------------------------ selections of tokens


def _entry(ordered: Tensor, place: Tensor) -> Tensor:
    """The entry at a 0-d place, clamped to those there are, without reading the place back from a device."""
    return ordered.gather(0, place.long().clamp(0, ordered.shape[0] - 1).reshape(1)).reshape(())


def _of_high_entropy(entropy: Tensor, share: float, mask: Tensor | None) -> Tensor:
    """Is the entropy among the `share` largest of those that the mask counts? The quantile is interpolated."""
    if not entropy.numel():
        return entropy != 0
    there = torch.ones_like(entropy, dtype=torch.bool) if mask is None else (mask != 0).expand_as(entropy)
    ordered = torch.where(there, entropy, math.inf).flatten().sort().values
    place = (1 - share) * (there.sum().double() - 1).clamp(min=0)
    below, above = _entry(ordered, place.floor()), _entry(ordered, place.ceil())
    return entropy >= torch.lerp(below, above, (place - place.floor()).to(below.dtype))


def _covariances(logp: Tensor, advantages: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each token's log-probability with its advantage, and which tokens count."""
    logp, advantages = torch.broadcast_tensors(logp.detach(), advantages)
    there = torch.ones_like(logp, dtype=torch.bool) if mask is None else (mask != 0).expand_as(logp)
    count = there.sum().clamp(min=1)
    centred = [x - torch.where(there, x, 0).sum() / count for x in (logp, advantages)]
    return centred[0] * centred[1], there


def _largest(keys: Tensor, share: float, there: Tensor) -> Tensor:
    """Where the keys are among the share of largest ones, of which there is at least one."""
    if not keys.numel():
        return there
    count = (there.sum().double() * share).floor().clamp(min=1)
    return keys >= _entry(keys.flatten().sort(descending=True).values, count - 1)


def _selection(
    formula: str,
    logp: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    clip: float,
    clip_high: float,
    share: float,
    low: float,
    high: float,
) -> Tensor:
    """Which tokens "clip_cov" leaves out, at random among those of a covariance in (low, high), or "kl_cov" holds."""
    covariances, there = _covariances(logp, advantages, mask)
    if formula == "kl_cov":
        return there & _largest(torch.where(there, covariances, -math.inf), share, there)
    clipped = ((advantages < 0) & (ratio < 1 - clip)) | ((advantages > 0) & (ratio > 1 + clip_high))
    eligible = there & ~clipped & (covariances > low) & (covariances < high)
    return eligible & _largest(torch.where(eligible, torch.rand_like(covariances), -1.0), share, there)


# ------------------------------------------------------------------------------------------ from a type to its formula


class _Settled(NamedTuple):
    """Arguments in the terms of the kernels, by their names. To settle them again changes nothing."""

    loss_type: str
    aggregation: str
    clip_high: float | None
    old_logp: Any
    sampling_weights: Any
    sequence_log_ratio: Any
    selected: Any
    importance_sampling_level: None = None
    top_entropy_quantile: float = 1.0


def _settle(
    logp: Tensor,
    old_logp: Any,
    advantages: Any,
    ref_logp: Any,
    entropy: Any,
    sampling_weights: Any,
    sequence_log_ratio: Any,
    selected: Any,
    mask: Tensor | None,
    *,
    loss_type: str,
    aggregation: str | None,
    importance_sampling_level: str | None,
    clip: Any,
    clip_high: Any,
    log_ratio_clamp: Any,
    beta: Any,
    entropy_coefficient: Any,
    top_entropy_quantile: float,
    cov_fraction: float,
    cov_low: float,
    cov_high: float,
) -> _Settled:
    """
    Raises:
        ValueError: for an unknown name, and for an option that the type does not have, or of which a tensor is missing.
    """
    kind = _TYPES.get(loss_type)
    if kind is None:
        raise ValueError(f"{loss_type!r} is not a valid loss_type; choose one of {', '.join(_TYPES)}")
    formula = kind.formula
    if importance_sampling_level is not None:
        if formula not in _LEVELS.values() or importance_sampling_level not in _LEVELS:
            raise ValueError(
                f"{importance_sampling_level!r} is not a valid importance_sampling_level of loss_type {loss_type!r}; "
                "the types of the clipped surrogate have 'token' and 'sequence'"
            )
        formula = _LEVELS[importance_sampling_level]
    if sequence_log_ratio is not None and formula not in _WITH_STATISTIC:
        raise ValueError(f"loss_type {loss_type!r} must not have a sequence_log_ratio: its ratio is of the token")
    if selected is not None and formula not in _WITH_SELECTION:
        raise ValueError(f"loss_type {loss_type!r} must not have selected tokens: it treats all alike")
    if ref_logp is None and _is_used(beta):
        raise ValueError(f"with beta {beta} there must be a ref_logp")
    if entropy is None and (_is_used(entropy_coefficient) or top_entropy_quantile != 1):
        raise ValueError("the entropy must be given where there is an entropy_coefficient or a top_entropy_quantile")
    if not (0 < top_entropy_quantile <= 1 and 0 < cov_fraction <= 1):
        raise ValueError(
            f"top_entropy_quantile and cov_fraction must be in (0, 1], got {top_entropy_quantile} and {cov_fraction}"
        )
    if clip_high is None and formula == "cispo_absolute":
        clip_high = _ABSOLUTE_CLIP
    high = clip if clip_high is None else clip_high
    old_logp = logp.detach() if old_logp is None else old_logp
    settled = _Settled(
        formula, aggregation or kind.aggregation, clip_high, old_logp, sampling_weights, sequence_log_ratio, selected
    )
    lacks_statistic = formula in _WITH_STATISTIC and sequence_log_ratio is None
    lacks_selection = formula in _WITH_SELECTION and selected is None
    if not (lacks_statistic or lacks_selection or top_entropy_quantile != 1):
        return settled

    operands = (logp, old_logp, advantages, ref_logp, entropy, sampling_weights)
    shape = torch.broadcast_shapes(*(x.shape for x in operands if isinstance(x, Tensor)))
    check_fit(shape, logp.device, None, mask=mask)
    now, old, better, entropies, weights = widened(
        logp, *map(detached, (old_logp, _tensor(advantages, logp), entropy, sampling_weights))
    )
    if lacks_statistic or lacks_selection:
        (log_ratio,) = counted(mask, now - old)
    if lacks_statistic:
        if formula == "gspo":
            statistic = _mean_of_tokens(log_ratio, mask)
            if loss_type == "gspo_token" and importance_sampling_level is None:
                statistic = statistic.detach() + now - now.detach()
        elif formula == "gmpo":
            statistic = _clipped_mean(log_ratio, better, mask, clip, high)
            if weights is not None:
                weights = _mean_of_tokens(_log_of_weights(weights, mask), mask).exp()
                settled = settled._replace(sampling_weights=weights)
        else:
            one_each = sampling_weights is not None and sampling_weights.shape[-1:] == (1,)
            clamped = log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)
            statistic = _log_weight_of_sequence(clamped, weights, one_each, mask)
            settled = settled._replace(sampling_weights=None)  # they are in the statistic
        settled = settled._replace(sequence_log_ratio=statistic)
    if lacks_selection:
        ratio = log_ratio.detach().exp()
        now, better = counted(mask, now.detach(), better)
        chosen = _selection(formula, now, ratio, better, mask, clip, high, cov_fraction, cov_low, cov_high)
        settled = settled._replace(selected=chosen)
    if top_entropy_quantile != 1:
        (entropies,) = counted(mask, entropies)
        kept = _of_high_entropy(entropies, top_entropy_quantile, mask).to(logp.dtype)
        weights = settled.sampling_weights
        settled = settled._replace(sampling_weights=kept if weights is None else kept * detached(weights))
    return settled


def _tensor(value: Tensor | float, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else like.new_full((), value)


def _is_used(coefficient: Any) -> bool:
    """Of a tensor nobody knows without waiting for its device."""
    return isinstance(coefficient, Tensor) or coefficient != 0


_SETTLING = (
    "logp", "old_logp", "advantages", "ref_logp", "entropy", "sampling_weights", "sequence_log_ratio", "selected",
    "mask", "loss_type", "aggregation", "importance_sampling_level", "clip", "clip_high", "log_ratio_clamp", "beta",
    "entropy_coefficient", "top_entropy_quantile", "cov_fraction", "cov_low", "cov_high",
)  # fmt: skip


def _prepare(arguments: dict[str, Any]) -> dict[str, Any]:
    known = {**LOSSES["grpo_loss"].signature.defaults, **arguments}
    if not isinstance(known.get("logp"), Tensor) or not {"old_logp", "advantages"} <= known.keys():
        return arguments  # an error that is the body's
    _check(known["clip"], known["clip_high"], known["log_ratio_clamp"])
    return {**arguments, **_settle(**{name: known[name] for name in _SETTLING})._asdict()}


def _check(clip: Any, clip_high: Any, log_ratio_clamp: Any) -> None:
    if not (clip >= 0 and (clip_high is None or clip_high >= 0)):
        raise ValueError(f"clip and clip_high must not be negative, got {clip} and {clip_high}")
    if not log_ratio_clamp > 0:
        raise ValueError(f"log_ratio_clamp must be positive, got {log_ratio_clamp}")


def _estimate(difference: Tensor, kind: str, log_ratio_clamp: float) -> Tensor:
    """Of the divergence from the reference; a "+" takes the gradient of k2."""
    estimate = kl_estimate(difference, kind.removesuffix("+"), log_ratio_clamp)
    if not kind.endswith("+"):
        return estimate
    square = kl_estimate(difference, "k2", log_ratio_clamp)
    return square - square.detach() + estimate.detach()


# ------------------------------------------------------------------------------------------ the loss


@fused(
    Pointwise(
        operands=(
            "logp",
            "old_logp",
            "advantages",
            "ref_logp",
            "entropy",
            "sampling_weights",
            "sequence_log_ratio",
            "selected",
        ),
        fill={"ref_logp": 0.0, "entropy": 0.0, "sampling_weights": 1.0, "sequence_log_ratio": 0.0, "selected": 0.0},
        parameters={
            "clip": Hyper(),
            "clip_high": Hyper(none="clip"),
            "delta": Hyper(low=_POSITIVE, none=math.inf),
            "log_ratio_clamp": Hyper(low=_POSITIVE),
            "beta": Hyper(low=-math.inf),
            "kl_kind": Hyper(choices=_KL_KINDS),
            "kl_bias_correction": Hyper(),
            "entropy_coefficient": Hyper(low=-math.inf),
            "sapo_temperature_pos": Hyper(low=_POSITIVE),
            "sapo_temperature_neg": Hyper(low=_POSITIVE),
            "vespo_k_pos": Hyper(),
            "vespo_lambda_pos": Hyper(low=_LEAST_RATE),
            "vespo_k_neg": Hyper(),
            "vespo_lambda_neg": Hyper(low=_LEAST_RATE),
            "dro_beta": Hyper(),
            "kl_cov_coefficient": Hyper(),
        },
        differentiable=("logp", "entropy", "sequence_log_ratio"),
        metrics={
            "policy_loss": "part",
            "kl": "mean",
            "entropy": "mean",
            "clip_fraction": "mean",
            "clip_fraction_low": "mean",
            "clip_fraction_high": "mean",
            "approx_kl": "mean",
            "approx_kl_k1": "mean",
            "ratio_mean": "mean",
            "ratio_min": "min",
            "ratio_max": "max",
        },
        variant=("loss_type", tuple(_FORMULAS)),
        prepare=_prepare,
    )
)
def grpo_loss(
    logp: Tensor,
    old_logp: Tensor | float | None,
    advantages: Tensor | float,
    ref_logp: Tensor | None = None,
    entropy: Tensor | None = None,
    sampling_weights: Tensor | None = None,
    sequence_log_ratio: Tensor | None = None,
    selected: Tensor | None = None,
    *,
    loss_type: str = "grpo",
    importance_sampling_level: str | None = None,
    clip: float = 0.2,
    clip_high: float | None = None,
    delta: float | None = None,
    log_ratio_clamp: float = 20.0,
    beta: float = 0.0,
    kl_kind: str = "k3",
    kl_bias_correction: bool = False,
    entropy_coefficient: float = 0.0,
    top_entropy_quantile: float = 1.0,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
    dro_beta: float = 0.1,
    cov_fraction: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    kl_cov_coefficient: float = 1.0,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    aggregation: str | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Group-relative policy optimisation and its relatives, from log-probabilities of the tokens of sequences.

    With :math:`d = \log\pi - \log\pi_{old}`, the ratio :math:`r = \exp(\mathrm{clamp}(d, -c, c))`, c =
    ``log_ratio_clamp``, the advantage A, the weight w of the sampler, and the bounds l = ``clip``, h = ``clip_high``:

    .. math::
        \ell = w\,\ell_{policy} + \mathrm{beta}\cdot\mathrm{KL} - \mathrm{entropy\_coefficient}\cdot\mathrm{entropy}.

    ================  ===============================================================================================
    ``loss_type``     policy loss of a token
    ================  ===============================================================================================
    "grpo"            :math:`-\min(\min(r,\mathrm{delta})A,\,\mathrm{clamp}(r,1-l,1+h)A)`
    "bnpo", "dapo"    the same
    "dr_grpo"         the same
    "gspo"            the same, of the ratio of the sequence, :math:`r = e^{\mathrm{mean}\,d}`
    "gspo_token"      the same value; its gradient is that of its own token's d
    "luspo"           as "gspo"
    "gmpo"            :math:`-rA`, :math:`r = e^{\mathrm{mean}\,d'}`; d' is d, at most h (A > 0), at least -l (A < 0)
    "cispo"           :math:`-\lfloor\mathrm{clamp}(r,1-l,1+h)\rfloor A\log\pi`
    "cispo_absolute"  :math:`-\lfloor\min(r,h)\rfloor A\log\pi`; h is 5 unless given
    "sapo"            :math:`-\tfrac4t\,\sigma(t(r-1))A`; t by the sign of A
    "vespo"           :math:`-\lfloor v^k e^{\lambda(1-v)}\rfloor A\log\pi`; :math:`v = e^{\sum(d+\log w)}`
    "dppo_tv"         :math:`-\lfloor\min(r,\mathrm{delta})\rfloor A\log\pi`, or 0: see below
    "dppo_kl"         the same
    "gpg"             :math:`-A\log\pi`
    "dro"             :math:`-A\log\pi + \tfrac12\mathrm{dro\_beta}\,d^2`
    "clip_cov"        as "grpo"; 0 at the selected tokens
    "kl_cov"          :math:`-rA`; :math:`\mathrm{kl\_cov\_coefficient}\cdot|d|` more where selected
    ================  ===============================================================================================

    k and :math:`\lambda` of "vespo" are by the sign of A, v is of the sequence. "dppo_tv" is 0 where A > 0 and
    :math:`\pi - \pi_{old} > h`, and elsewhere where it is below -l; "dppo_kl" where :math:`\mathrm{KL}(\pi_{old}\|\pi)`
    of the two outcomes, this token or any other, is above h (l) and the probability has risen (fallen) already.

    The aggregation, unless one is given: "seq-mean-token-mean" of "grpo", "gspo", "gspo_token", "gmpo" and "sapo",
    "seq-mean-token-sum" of "luspo", "seq-mean-token-sum-norm" of "dr_grpo", "token-mean" of the others.

    What stands in :math:`\lfloor\,\rfloor` is a constant of the differentiation. Where a bound is the loss, and beyond
    the clamp, the gradient is 0. ``old_logp``, ``advantages``, ``ref_logp``, ``sampling_weights`` and ``selected`` are
    constants. The ratio is one kernel's for each formula; what a formula sees of a sequence is computed before it,
    in torch, and differentiated through. docs/ambiguous-names.md says where one of these names is two losses.

    Args:
        logp: log-probabilities of the tokens under the policy that is trained.
        old_logp: the same under the policy that acted; a number, or None where it is the policy itself: the ratio is 1,
            with its gradient.
        advantages: one for each sequence as (..., 1), one for each token, or a number.
        ref_logp: the same log-probabilities under the reference. Needed where ``beta`` is not 0.
        entropy: of the policy at each token. Needed for ``entropy_coefficient`` and ``top_entropy_quantile``.
        sampling_weights: importance weights of the trainer's old policy against the sampler, (..., T) or (..., 1),
            truncated as wished; they multiply the policy loss, not the penalties. "vespo" has them in its v instead,
            "gmpo" their geometric mean over the sequence.
        sequence_log_ratio: what "gspo", "luspo", "gmpo" and "vespo" see of a sequence: mean d, mean d', or log v, (...,
            1) or (..., T). None: computed over the last dimension. Give it where a sequence is something else (packed
            batches, sequences that are divided among devices). It is differentiated, except in "vespo".
        selected: which tokens "clip_cov" leaves out and "kl_cov" holds. None: by the covariance of log-probability and
            advantage over the tokens that the mask counts. "clip_cov": at random (``torch.rand``), a share of
            ``cov_fraction``, among the tokens of a covariance between ``cov_low`` and ``cov_high`` that are not
            clipped. "kl_cov": the share of largest covariances. One token at least.
        loss_type: a name of the table.
        importance_sampling_level: ``"token"`` or ``"sequence"``: whose ratio the types of the clipped surrogate
            ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "luspo") take. None: as in the table.
        clip: at least 0; how far the ratio may fall below 1. In "gmpo" how far its logarithm below 0, in "dppo_tv" and
            "dppo_kl" how far the probability, or the divergence, may move.
        clip_high: the same above. None: as ``clip``.
        delta: positive; upper bound of the ratio where the advantage is negative (two-sided clip), and of the weight in
            "dppo_tv" and "dppo_kl". None: no bound.
        log_ratio_clamp: positive; bounds the logarithm of a ratio, so that its exponential is a number.
        beta: any number; weight of the penalty for leaving the reference.
        kl_kind: ``"k1"``, ``"k2"``, ``"k3"`` or ``"abs"``, the estimates of :func:`kl_penalty`; with a ``"+"``
            (``"k3+"``) their value and the gradient of "k2", which is that of the reverse KL in expectation.
        kl_bias_correction: multiplies the estimate by the ratio, for samples of the old policy.
        entropy_coefficient: any number; weight of the entropy, which is aggregated as the loss is.
        top_entropy_quantile: in (0, 1]; the share of tokens, those of the largest entropy, that has a policy loss.
        sapo_temperature_pos, sapo_temperature_neg: positive; temperatures of "sapo" where A > 0, and elsewhere.
        vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg: exponents (at least 0) and rates (at least 1e-4)
            of "vespo" where A is not negative, and elsewhere.
        dro_beta: at least 0; weight of the square in "dro".
        cov_fraction: in (0, 1]; see ``selected``.
        cov_low, cov_high: see ``selected``.
        kl_cov_coefficient: at least 0; weight of the penalty in "kl_cov".
        mask: broadcasts to the losses; 0 takes a token out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean, instead of the number of tokens (or sequences) that the mask counts:
            a number or a 0-d tensor, for accumulation over batches or devices ("dapo" over a global batch; "dr_grpo"
            with sequences times their longest possible length, by ``aggregation="token-mean"``).
        aggregation: ``"token-mean"``, ``"token-sum"``, ``"seq-mean-token-sum"``, ``"seq-mean-token-mean"``,
            ``"seq-mean-token-sum-norm"`` or ``"none"``; the last dimension is the sequence. None: that of the type.
        return_terms: also return what is usually logged.

    Shape:
        - logp, old_logp, advantages and the other tensors: (..., T), broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are detached 0-d tensors: ``policy_loss`` (reduced
        as the loss is; summed for ``"none"``); means over what the mask counts of ``kl`` (the estimate in the loss, 0
        without ``beta``), ``entropy``, ``clip_fraction`` (share of the tokens where the formula holds the policy back:
        by a clip, a trust region or a selection), ``clip_fraction_low`` and ``clip_fraction_high`` (of ratios that are
        too small, and too large), ``approx_kl`` (r - 1 - log r), ``approx_kl_k1`` (-log r), ``ratio_mean``;
        ``ratio_min`` and ``ratio_max``. r is the ratio of the table.

    Raises:
        ValueError: an unknown name, a hyper-parameter out of range, an option that the type does not have, a tensor
            that an option needs.

    Source:
        GRPO: Shao et al. 2024, arXiv:2402.03300. Dr. GRPO: Liu et al. 2025, arXiv:2503.20783. DAPO: Yu et al. 2025,
        arXiv:2503.14476. GSPO: Zheng et al. 2025, arXiv:2507.18071. LUSPO: Liu et al. 2026, arXiv:2602.05261. GMPO:
        Zhao et al. 2025, arXiv:2507.20673. CISPO: MiniMax 2025, arXiv:2506.13585; its absolute form: Khatri et al.
        2025, arXiv:2510.13786. SAPO: Gao et al. 2025, arXiv:2511.20347. VESPO: Shen et al. 2026, arXiv:2602.10693.
        DPPO: Qi et al. 2026, arXiv:2602.04879. GPG: Chu et al. 2025, arXiv:2504.02546. DRO: Richemond et al. 2024,
        arXiv:2405.19107. Clip-Cov, KL-Cov: Cui et al. 2025, arXiv:2505.22617. Two-sided clip: Prime Intellect 2025,
        arXiv:2505.07291. Entropy quantile: Wang et al. 2025, arXiv:2506.01939. Corrected KL: DeepSeek-AI 2025,
        arXiv:2512.02556.

    Example:
        >>> logp, old_logp = torch.tensor([[-0.5, -1.0]]), torch.tensor([[-0.9, -1.0]])
        >>> grpo_loss(logp, old_logp, torch.tensor([[1.0]])).item()
        -1.100000023841858
    """
    _check(clip, clip_high, log_ratio_clamp)
    _check_numbers(
        kl_kind, delta, (sapo_temperature_pos, sapo_temperature_neg), (vespo_k_pos, vespo_k_neg),
        (vespo_lambda_pos, vespo_lambda_neg), dro_beta, kl_cov_coefficient,
    )  # fmt: skip
    settled = _settle(
        logp, old_logp, advantages, ref_logp, entropy, sampling_weights, sequence_log_ratio, selected, mask,
        loss_type=loss_type, aggregation=aggregation, importance_sampling_level=importance_sampling_level, clip=clip,
        clip_high=clip_high, log_ratio_clamp=log_ratio_clamp, beta=beta, entropy_coefficient=entropy_coefficient,
        top_entropy_quantile=top_entropy_quantile, cov_fraction=cov_fraction, cov_low=cov_low, cov_high=cov_high,
    )  # fmt: skip
    dtype = result_dtype(logp, old_logp, advantages, ref_logp, entropy, sampling_weights, sequence_log_ratio, selected)
    of_sequence = settled.loss_type in _RATIO_OF_SEQUENCE
    statistic = settled.sequence_log_ratio if of_sequence else detached(settled.sequence_log_ratio)
    logp, entropy, statistic = counted(mask, logp, entropy, statistic)
    old, better, ref_logp, weights, selected = counted(
        mask,
        detached(_tensor(settled.old_logp, logp)),
        detached(_tensor(advantages, logp)),
        detached(ref_logp),
        detached(settled.sampling_weights),
        detached(settled.selected),
    )
    tensors = (logp, old, better, ref_logp, entropy, weights, statistic, selected)
    shape = torch.broadcast_shapes(*(x.shape for x in tensors if isinstance(x, Tensor)))
    log_ratio = (statistic if of_sequence else logp - old).clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    policy = _FORMULAS[settled.loss_type](
        _Token(logp, old, better, ratio, statistic, selected),
        _Options(
            clip,
            clip if settled.clip_high is None else settled.clip_high,
            math.inf if delta is None else delta,
            sapo_temperature_pos,
            sapo_temperature_neg,
            vespo_k_pos,
            vespo_lambda_pos,
            vespo_k_neg,
            vespo_lambda_neg,
            dro_beta,
            kl_cov_coefficient,
        ),
    )
    policy_losses = policy.losses if weights is None else weights * policy.losses
    losses, kl = policy_losses, torch.zeros_like(policy_losses)
    if _is_used(beta):
        kl = _estimate(logp - ref_logp, kl_kind, log_ratio_clamp)
        kl = kl * ratio if kl_bias_correction else kl
        losses = losses + beta * kl
    if entropy is not None:
        losses = losses - entropy_coefficient * entropy
    batch = Batch(losses.expand(shape), settled.aggregation, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    return batch.loss(), {
        "policy_loss": batch.part(policy_losses),
        "kl": batch.mean(kl),
        "entropy": batch.mean(torch.zeros_like(losses) if entropy is None else entropy),
        "clip_fraction": batch.mean(policy.acts),
        "clip_fraction_low": batch.mean(policy.low),
        "clip_fraction_high": batch.mean(policy.high),
        "approx_kl": batch.mean(torch.expm1(log_ratio) - log_ratio),
        "approx_kl_k1": batch.mean(-log_ratio),
        "ratio_mean": batch.mean(ratio),
        "ratio_min": batch.least(ratio),
        "ratio_max": batch.greatest(ratio),
    }


def _check_numbers(
    kl_kind: str,
    delta: float | None,
    temperatures: tuple[float, float],
    exponents: tuple[float, float],
    rates: tuple[float, float],
    *weights: float,
) -> None:
    if kl_kind not in _KL_KINDS:
        raise ValueError(f"{kl_kind!r} is not a kind of penalty; choose one of {', '.join(_KL_KINDS)}")
    if delta is not None and not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    if not all(x > 0 for x in temperatures):
        raise ValueError(f"the temperatures of sapo must be positive, got {temperatures}")
    if not (all(x >= 0 for x in exponents) and all(x >= _LEAST_RATE for x in rates)):
        raise ValueError(f"exponents and rates of vespo must be at least 0 and {_LEAST_RATE}, got {exponents}, {rates}")
    if not all(x >= 0 for x in weights):
        raise ValueError(f"dro_beta and kl_cov_coefficient must not be negative, got {weights}")
