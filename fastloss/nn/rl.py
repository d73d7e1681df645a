"""Modules of :mod:`fastloss.rl`; the functions have the formulas and describe every argument.

Hyper-parameters go to the constructor, tensors, mask and normalizer to the call.
"""

from __future__ import annotations

from torch import Tensor

from fastloss import rl
from fastloss.core.metrics import Terms
from fastloss.nn.base import FunctionLoss

__all__ = [
    "CURLLoss",
    "IQNLoss",
    "PPOClipLoss",
    "PPOLoss",
    "QuantileHuberLoss",
    "TemporalContrastiveLoss",
    "ValueClipLoss",
]


class PPOClipLoss(FunctionLoss):
    """Clipped surrogate of proximal policy optimisation, the Module of :func:`fastloss.rl.ppo_clip_loss`."""

    function = staticmethod(rl.ppo_clip_loss)
    __constants__ = [
        "clip",
        "clip_high",
        "dual_clip",
        "log_ratio_clamp",
        "aggregation",
        "return_terms",
    ]

    def __init__(
        self,
        *,
        clip: float = 0.2,
        clip_high: float | None = None,
        dual_clip: float | None = None,
        log_ratio_clamp: float = 20.0,
        aggregation: str = "token-mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.clip_high = clip_high
        self.dual_clip = dual_clip
        self.log_ratio_clamp = log_ratio_clamp
        self.aggregation = aggregation
        self.return_terms = return_terms

    def forward(
        self,
        logp: Tensor,
        old_logp: Tensor,
        advantages: Tensor | float,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(logp, old_logp, advantages, mask=mask, normalizer=normalizer)


class ValueClipLoss(FunctionLoss):
    """Squared error of values that are clipped near their old ones, the Module of
    :func:`fastloss.rl.value_clip_loss`."""

    function = staticmethod(rl.value_clip_loss)
    __constants__ = ["clip", "aggregation", "return_terms"]

    def __init__(self, *, clip: float = 0.2, aggregation: str = "token-mean", return_terms: bool = False) -> None:
        super().__init__()
        self.clip = clip
        self.aggregation = aggregation
        self.return_terms = return_terms

    def forward(
        self,
        values: Tensor,
        old_values: Tensor,
        returns: Tensor | float,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(values, old_values, returns, mask=mask, normalizer=normalizer)


class PPOLoss(FunctionLoss):
    """Policy, value and entropy losses of proximal policy optimisation, the Module of :func:`fastloss.rl.ppo_loss`."""

    function = staticmethod(rl.ppo_loss)
    __constants__ = [
        "value_coefficient",
        "entropy_coefficient",
        "clip",
        "clip_high",
        "dual_clip",
        "value_clip",
        "log_ratio_clamp",
        "aggregation",
        "return_terms",
    ]

    def __init__(
        self,
        *,
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.0,
        clip: float = 0.2,
        clip_high: float | None = None,
        dual_clip: float | None = None,
        value_clip: float = 0.2,
        log_ratio_clamp: float = 20.0,
        aggregation: str = "token-mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__()
        self.value_coefficient = value_coefficient
        self.entropy_coefficient = entropy_coefficient
        self.clip = clip
        self.clip_high = clip_high
        self.dual_clip = dual_clip
        self.value_clip = value_clip
        self.log_ratio_clamp = log_ratio_clamp
        self.aggregation = aggregation
        self.return_terms = return_terms

    def forward(
        self,
        logp: Tensor,
        old_logp: Tensor,
        advantages: Tensor | float,
        values: Tensor,
        returns: Tensor | float,
        entropy: Tensor | None = None,
        old_values: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(
            logp, old_logp, advantages, values, returns, entropy, old_values, mask=mask, normalizer=normalizer
        )


class CURLLoss(FunctionLoss):
    """Each query is to find its key by a bilinear similarity, the Module of :func:`fastloss.rl.curl_loss`."""

    function = staticmethod(rl.curl_loss)
    __constants__ = ["reduction", "temperature"]

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.temperature = temperature

    def forward(self, query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        return self.call(query, key, weight)


class TemporalContrastiveLoss(FunctionLoss):
    """Each state is to find a later one, the Module of :func:`fastloss.rl.temporal_contrastive_loss`."""

    function = staticmethod(rl.temporal_contrastive_loss)
    __constants__ = ["reduction", "offset", "temperature", "normalize", "time_dim"]

    def __init__(
        self,
        *,
        offset: int = 1,
        temperature: float = 0.1,
        normalize: bool = True,
        time_dim: int = 0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.offset = offset
        self.temperature = temperature
        self.normalize = normalize
        self.time_dim = time_dim

    def forward(self, states: Tensor, predictions: Tensor | None = None, *, episodes: Tensor | None = None) -> Tensor:
        return self.call(states, predictions, episodes=episodes)


class QuantileHuberLoss(FunctionLoss):
    """Quantile Huber loss of QR-DQN, the Module of :func:`fastloss.rl.quantile_huber_loss`."""

    function = staticmethod(rl.quantile_huber_loss)
    __constants__ = ["kappa", "reduction"]

    def __init__(self, *, kappa: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.kappa = kappa

    def forward(
        self,
        quantiles: Tensor,
        target_quantiles: Tensor,
        tau: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(quantiles, target_quantiles, tau, weights=weights, mask=mask, normalizer=normalizer)


class IQNLoss(FunctionLoss):
    """Loss of implicit quantile networks, the Module of :func:`fastloss.rl.iqn_loss`."""

    function = staticmethod(rl.iqn_loss)
    __constants__ = ["kappa", "reduction"]

    def __init__(self, *, kappa: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.kappa = kappa

    def forward(
        self,
        quantiles: Tensor,
        target_quantiles: Tensor,
        tau: Tensor,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(quantiles, target_quantiles, tau, weights=weights, mask=mask, normalizer=normalizer)
