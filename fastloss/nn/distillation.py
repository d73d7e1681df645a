"""Modules of :mod:`fastloss.losses.distillation`."""

from fastloss.losses import distillation as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["CategoricalEntropy", "CategoricalKL", "DistillationLoss", "GeneralizedJSDLoss", "TopKDistillationLoss"]


class CategoricalEntropy(FunctionLoss, of=losses.categorical_entropy):
    """Entropy of categorical distributions."""


class CategoricalKL(FunctionLoss, of=losses.categorical_kl):
    """KL divergence between categorical distributions."""


class DistillationLoss(FunctionLoss, of=losses.distillation_loss):
    """Divergence between a student and a teacher, with hard labels or without."""


class GeneralizedJSDLoss(FunctionLoss, of=losses.generalized_jsd_loss):
    """Generalised Jensen-Shannon divergence between a student and a teacher."""


class TopKDistillationLoss(FunctionLoss, of=losses.topk_distillation_loss):
    """Divergence from the K most likely classes of a teacher."""
