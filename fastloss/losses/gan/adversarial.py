"""What the two players of an adversarial game minimise, from the logits (or scores) of the discriminator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite
from fastloss.core.elementary import softplus
from fastloss.core.metrics import Metrics
from fastloss.losses.binary import binary_cross_entropy_with_logits, hinge_loss
from fastloss.losses.regression import mse_loss

__all__ = ["gail_loss", "gan_d_loss", "gan_g_loss"]

KINDS = ("minimax", "non_saturating", "lsgan", "wasserstein", "hinge", "relativistic", "relativistic_average")


def _mean(total: Tensor, of: Tensor) -> Tensor:
    return total / max(1, math.prod(of.shape))


def _towards(x: Tensor, label: float) -> Tensor:
    """The mean cross-entropy of logits whose label is 1 or 0, which is softplus(-x) or softplus(x)."""
    return _mean(binary_cross_entropy_with_logits(x, torch.full_like(x, label), reduction="sum"), x)


def _near(x: Tensor, value: float) -> Tensor:
    """Half the mean squared distance to a number."""
    return _mean(mse_loss(x, torch.full_like(x, value), reduction="sum"), x) / 2


def _beyond(x: Tensor, side: float) -> Tensor:
    return _mean(hinge_loss(x, torch.full_like(x, side), reduction="sum"), x)


def _average(x: Tensor) -> Tensor:
    return _mean(x.sum(), x)


def _pairs(real: Tensor | None, fake: Tensor, kind: str) -> Tensor:
    """The scores of the real samples of a relativistic loss."""
    if real is None:
        raise ValueError(f"{kind} compares the fakes with real samples: give real")
    if kind == "relativistic" and real.shape != fake.shape:
        raise ValueError(f"relativistic compares pairs; real {tuple(real.shape)}, fake {tuple(fake.shape)}")
    return real


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of adversarial loss; choose one of {', '.join(KINDS)}")


@composite()
def gan_d_loss(
    real: Tensor, fake: Tensor, *, kind: str = "non_saturating", return_terms: bool = False
) -> Tensor | tuple[Tensor, Metrics]:
    r"""What the discriminator (or critic) of an adversarial game minimises.

    With r, the scores of real samples, f, those of fakes, and :math:`\mathrm{sp}(x) = \log(1 + e^x)`,

    .. math::
        \ell = \begin{cases}
        E\,\mathrm{sp}(-r) + E\,\mathrm{sp}(f) & \text{minimax, non\_saturating} \\
        \tfrac12 E(r - 1)^2 + \tfrac12 E f^2 & \text{lsgan} \\
        E f - E r & \text{wasserstein} \\
        E\max(0, 1 - r) + E\max(0, 1 + f) & \text{hinge} \\
        E\,\mathrm{sp}(f - r) & \text{relativistic, of pairs} \\
        E\,\mathrm{sp}(E f - r) + E\,\mathrm{sp}(f - E r) & \text{relativistic\_average}
        \end{cases}

    A Wasserstein critic needs a Lipschitz constraint besides: :func:`fastloss.gan.gradient_penalty` or spectral
    normalisation.

    Args:
        real: scores of real samples, logits: no sigmoid before.
        fake: scores of generated samples, of which the generator's graph should be detached.
        kind: which of the formulas.
        return_terms: also return what is usually logged.

    Shape:
        - real, fake: any, of one score a sample or many (patches); the same for ``"relativistic"``
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``real``, ``fake`` (the two parts; for ``"relativistic"`` there is one, ``real``), and the mean
        scores ``real_score`` and ``fake_score``. The mean over no scores is 0.

    Raises:
        ValueError: an unknown ``kind``, pairs whose shapes differ.

    Source:
        Goodfellow et al. 2014, arXiv:1406.2661; Mao et al. 2017 (LSGAN), arXiv:1611.04076; Arjovsky et al. 2017
        (WGAN), arXiv:1701.07875; Lim and Ye 2017 (hinge), arXiv:1705.02894; Jolicoeur-Martineau 2018 (relativistic),
        arXiv:1807.00734.

    Example:
        >>> gan_d_loss(torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 0.0]), kind="hinge").item()
        0.75
    """
    _check_kind(kind)
    if kind in ("minimax", "non_saturating"):
        parts = _towards(real, 1.0), _towards(fake, 0.0)
    elif kind == "lsgan":
        parts = _near(real, 1.0), _near(fake, 0.0)
    elif kind == "wasserstein":
        parts = -_average(real), _average(fake)
    elif kind == "hinge":
        parts = _beyond(real, 1.0), _beyond(fake, -1.0)
    elif kind == "relativistic":
        parts = _towards(_pairs(real, fake, kind) - fake, 1.0), real.new_zeros(())
    else:
        parts = _towards(real - _average(fake), 1.0), _towards(fake - _average(real), 0.0)
    scores = {"real_score": _average(real.detach()), "fake_score": _average(fake.detach())}
    return parts[0] + parts[1], {"real": parts[0], "fake": parts[1], **scores}


@composite()
def gan_g_loss(fake: Tensor, real: Tensor | None = None, *, kind: str = "non_saturating") -> Tensor:
    r"""What the generator of an adversarial game minimises.

    With f, the scores of fakes, r, those of real samples, and :math:`\mathrm{sp}(x) = \log(1 + e^x)`,

    .. math::
        \ell = \begin{cases}
        -E\,\mathrm{sp}(f) & \text{minimax} \\
        E\,\mathrm{sp}(-f) & \text{non\_saturating} \\
        \tfrac12 E(f - 1)^2 & \text{lsgan} \\
        -E f & \text{wasserstein, hinge} \\
        E\,\mathrm{sp}(r - f) & \text{relativistic, of pairs} \\
        E\,\mathrm{sp}(E r - f) + E\,\mathrm{sp}(r - E f) & \text{relativistic\_average}
        \end{cases}

    Args:
        fake: scores of generated samples, logits: no sigmoid before.
        real: scores of real samples, which only the relativistic kinds look at, as constants.
        kind: which of the formulas; that of the discriminator's loss.

    Shape:
        - fake, real: any; the same for ``"relativistic"``
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast). The mean over no scores
        is 0.

    Raises:
        ValueError: an unknown ``kind``, a relativistic one without ``real`` or with pairs whose shapes differ.

    Source:
        As of :func:`fastloss.gan.gan_d_loss`.

    Example:
        >>> round(gan_g_loss(torch.tensor([0.0, 0.0])).item(), 4)
        0.6931
    """
    _check_kind(kind)
    if kind.startswith("relativistic"):
        real = _pairs(real, fake, kind).detach()
        if kind == "relativistic":
            return _towards(fake - real, 1.0)
        return _towards(fake - _average(real), 1.0) + _towards(real - _average(fake), 0.0)
    if kind == "minimax":
        return -_towards(fake, 0.0)
    if kind == "non_saturating":
        return _towards(fake, 1.0)
    return _near(fake, 1.0) if kind == "lsgan" else -_average(fake)


@composite()
def gail_loss(
    expert: Tensor, policy: Tensor, *, entropy_coefficient: float = 0.0, return_terms: bool = False
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of the discriminator of generative adversarial imitation: which actions are the expert's?

    With e, the logits at the expert's states and actions, p, those at the policy's, :math:`\mathrm{sp}(x) = \log(1 +
    e^x)` and H, the entropy of the discriminator's answers at all of them,

    .. math::
        \ell = E\,\mathrm{sp}(-e) + E\,\mathrm{sp}(p) - \mathrm{entropy\_coefficient}\cdot E\,H.

    A large logit says "expert". The policy's reward is then :math:`-\log(1 - D) = \mathrm{sp}(p)`, or p itself (AIRL).

    Args:
        expert: logits at the expert's states and actions.
        policy: logits at those of the policy.
        entropy_coefficient: any number; 0.001 in the authors' code.
        return_terms: also return what is usually logged.

    Shape:
        - expert, policy: any
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``expert``, ``policy`` (the two parts), ``entropy``, and the shares of logits on the right side,
        ``expert_accuracy`` and ``policy_accuracy``. The mean over no logits is 0.

    Raises:
        Nothing of its own.

    Source:
        Ho and Ermon 2016, arXiv:1606.03476.

    Example:
        >>> round(gail_loss(torch.zeros(3), torch.zeros(5)).item(), 4)  # 2 log 2
        1.3863
    """
    parts = _towards(expert, 1.0), _towards(policy, 0.0)
    everything = torch.cat([expert.reshape(-1), policy.reshape(-1)])
    # H = softplus(x) - x sigmoid(x), and the logit's side does not matter; of |x| nothing cancels but the exponential
    size = everything.abs()
    entropy = _average(softplus(-size) + size * torch.sigmoid(-size))
    return parts[0] + parts[1] - entropy_coefficient * entropy, {
        "expert": parts[0],
        "policy": parts[1],
        "entropy": entropy,
        "expert_accuracy": _average((expert > 0).to(expert.dtype)),
        "policy_accuracy": _average((policy < 0).to(policy.dtype)),
    }
