"""Modules of :mod:`fastloss.alignment`; the functions have the formulas and describe every argument.

Hyper-parameters go to the constructor, tensors, mask and normalizer to the call.
"""

from __future__ import annotations

from torch import Tensor

from fastloss import alignment
from fastloss.core.metrics import Terms
from fastloss.nn.base import FunctionLoss

__all__ = ["CPOLoss", "DPOLoss", "KLPenalty", "KTOLoss", "ORPOLoss", "RewardModelLoss", "SimPOLoss"]


class KLPenalty(FunctionLoss):
    """Estimates of the KL divergence to a reference policy, the Module of :func:`fastloss.alignment.kl_penalty`."""

    function = staticmethod(alignment.kl_penalty)
    __constants__ = ["kind", "log_ratio_clamp", "aggregation"]

    def __init__(self, *, kind: str = "k1", log_ratio_clamp: float = 20.0, aggregation: str = "token-mean") -> None:
        super().__init__()
        self.kind = kind
        self.log_ratio_clamp = log_ratio_clamp
        self.aggregation = aggregation

    def forward(
        self,
        logp: Tensor,
        ref_logp: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(logp, ref_logp, mask=mask, normalizer=normalizer)


class RewardModelLoss(FunctionLoss):
    """Bradley-Terry loss of a reward model, the Module of :func:`fastloss.alignment.reward_model_loss`."""

    function = staticmethod(alignment.reward_model_loss)
    __constants__ = ["center_coefficient", "reduction", "return_terms"]

    def __init__(self, *, center_coefficient: float = 0.0, reduction: str = "mean", return_terms: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.center_coefficient = center_coefficient
        self.return_terms = return_terms

    def forward(
        self,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        margin: Tensor | float | None = None,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(chosen_rewards, rejected_rewards, margin, mask=mask, normalizer=normalizer)


class DPOLoss(FunctionLoss):
    """Direct preference optimisation and its relatives, the Module of :func:`fastloss.alignment.dpo_loss`."""

    function = staticmethod(alignment.dpo_loss)
    __constants__ = ["beta", "label_smoothing", "loss_type", "reduction", "return_terms"]

    def __init__(
        self,
        *,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        loss_type: str = "sigmoid",
        reduction: str = "mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.loss_type = loss_type
        self.return_terms = return_terms

    def forward(
        self,
        policy_chosen_logps: Tensor,
        policy_rejected_logps: Tensor,
        reference_chosen_logps: Tensor | float,
        reference_rejected_logps: Tensor | float,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(
            policy_chosen_logps,
            policy_rejected_logps,
            reference_chosen_logps,
            reference_rejected_logps,
            mask=mask,
            normalizer=normalizer,
        )


class _AveragedPairs(FunctionLoss):
    def forward(
        self,
        chosen_avg_logps: Tensor,
        rejected_avg_logps: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(chosen_avg_logps, rejected_avg_logps, mask=mask, normalizer=normalizer)


class SimPOLoss(_AveragedPairs):
    """Simple preference optimisation, the Module of :func:`fastloss.alignment.simpo_loss`."""

    function = staticmethod(alignment.simpo_loss)
    __constants__ = [
        "beta",
        "gamma",
        "label_smoothing",
        "loss_type",
        "reduction",
        "return_terms",
    ]

    def __init__(
        self,
        *,
        beta: float = 2.0,
        gamma: float = 1.0,
        label_smoothing: float = 0.0,
        loss_type: str = "sigmoid",
        reduction: str = "mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.loss_type = loss_type
        self.return_terms = return_terms


class CPOLoss(FunctionLoss):
    """Contrastive preference optimisation, the Module of :func:`fastloss.alignment.cpo_loss`."""

    function = staticmethod(alignment.cpo_loss)
    __constants__ = [
        "beta",
        "alpha",
        "label_smoothing",
        "loss_type",
        "reduction",
        "return_terms",
    ]

    def __init__(
        self,
        *,
        beta: float = 0.1,
        alpha: float = 1.0,
        label_smoothing: float = 0.0,
        loss_type: str = "sigmoid",
        reduction: str = "mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.loss_type = loss_type
        self.return_terms = return_terms

    def forward(
        self,
        chosen_logps: Tensor,
        rejected_logps: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(chosen_logps, rejected_logps, mask=mask, normalizer=normalizer)


class ORPOLoss(_AveragedPairs):
    """Odds-ratio preference optimisation, the Module of :func:`fastloss.alignment.orpo_loss`."""

    function = staticmethod(alignment.orpo_loss)
    __constants__ = ["beta", "sft_coefficient", "reduction", "return_terms"]

    def __init__(
        self,
        *,
        beta: float = 0.1,
        sft_coefficient: float = 0.0,
        reduction: str = "mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta
        self.sft_coefficient = sft_coefficient
        self.return_terms = return_terms


class KTOLoss(FunctionLoss):
    """Kahneman-Tversky optimisation, the Module of :func:`fastloss.alignment.kto_loss`."""

    function = staticmethod(alignment.kto_loss)
    __constants__ = [
        "beta",
        "desirable_weight",
        "undesirable_weight",
        "loss_type",
        "reduction",
        "return_terms",
    ]

    def __init__(
        self,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        loss_type: str = "kto",
        reduction: str = "mean",
        return_terms: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta
        self.desirable_weight = desirable_weight
        self.undesirable_weight = undesirable_weight
        self.loss_type = loss_type
        self.return_terms = return_terms

    def forward(
        self,
        policy_logps: Tensor,
        reference_logps: Tensor | float,
        desirable: Tensor,
        kl: Tensor | float | None = None,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Terms]:
        return self.call(policy_logps, reference_logps, desirable, kl, mask=mask, normalizer=normalizer)
