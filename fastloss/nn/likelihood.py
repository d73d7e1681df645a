"""Modules of :mod:`fastloss.losses.likelihood`."""

import torch

from fastloss.losses import likelihood as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["GaussianNLLLoss", "KLDivLoss", "LaplaceNLLLoss", "PoissonNLLLoss"]


class GaussianNLLLoss(FunctionLoss, torch.nn.GaussianNLLLoss, of=losses.gaussian_nll_loss):
    """Negative log-likelihood of normal distributions."""


class LaplaceNLLLoss(FunctionLoss, of=losses.laplace_nll_loss):
    """Negative log-likelihood of Laplace distributions."""


class PoissonNLLLoss(FunctionLoss, torch.nn.PoissonNLLLoss, of=losses.poisson_nll_loss):
    """Negative log-likelihood of counts."""


class KLDivLoss(FunctionLoss, torch.nn.KLDivLoss, of=losses.kl_div):
    """Kullback-Leibler divergence."""
