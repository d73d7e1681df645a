"""Modules of :mod:`fastloss.losses.probabilistic`."""

from fastloss.losses import probabilistic as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "CRPS",
    "BetaNLLLoss",
    "ELBOLoss",
    "EnergyScore",
    "GaussianKL",
    "IWAELoss",
    "MDNLoss",
    "NegativeBinomialNLLLoss",
    "StudentTNLLLoss",
]


class BetaNLLLoss(FunctionLoss, of=losses.beta_nll_loss):
    """Normal likelihood in which a large variance does not silence the error."""


class CRPS(FunctionLoss, of=losses.crps):
    """Continuous ranked probability score."""


class ELBOLoss(FunctionLoss, of=losses.elbo_loss):
    """Minus the evidence lower bound."""


class EnergyScore(FunctionLoss, of=losses.energy_score):
    """Energy score of an ensemble of vectors."""


class GaussianKL(FunctionLoss, of=losses.gaussian_kl):
    """Divergence of normal distributions with diagonal covariances."""


class IWAELoss(FunctionLoss, of=losses.iwae_loss):
    """Minus the importance-weighted bound."""


class MDNLoss(FunctionLoss, of=losses.mdn_loss):
    """Minus the log-likelihood of a mixture of normal distributions."""


class NegativeBinomialNLLLoss(FunctionLoss, of=losses.negative_binomial_nll_loss):
    """Minus the log-likelihood of counts that vary more than Poisson's."""


class StudentTNLLLoss(FunctionLoss, of=losses.student_t_nll_loss):
    """Minus the log-likelihood of Student's t-distribution."""
