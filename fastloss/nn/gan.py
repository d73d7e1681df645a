"""Modules of :mod:`fastloss.losses.gan`."""

from fastloss.losses import gan as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "GAILLoss",
    "GANDiscriminatorLoss",
    "GANGeneratorLoss",
    "GradientPenalty",
    "PathLengthPenalty",
    "R1Penalty",
    "R2Penalty",
]


class GANDiscriminatorLoss(FunctionLoss, of=losses.gan_d_loss):
    """What the discriminator of an adversarial game minimises."""


class GANGeneratorLoss(FunctionLoss, of=losses.gan_g_loss):
    """What the generator of an adversarial game minimises."""


class GAILLoss(FunctionLoss, of=losses.gail_loss):
    """Loss of the discriminator of generative adversarial imitation."""


class GradientPenalty(FunctionLoss, of=losses.gradient_penalty):
    """Penalty on the norm of a critic's gradient between real and fake samples."""


class R1Penalty(FunctionLoss, of=losses.r1_penalty):
    """Zero-centred penalty on a discriminator's gradient at real samples."""


class R2Penalty(FunctionLoss, of=losses.r2_penalty):
    """Zero-centred penalty on a discriminator's gradient at fake samples."""


class PathLengthPenalty(FunctionLoss, of=losses.path_length_penalty):
    """Penalty on how much the length of a generator's Jacobian differs from its running mean."""
