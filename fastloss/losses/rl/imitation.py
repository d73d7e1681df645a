"""Policies that are to be like others: distillation."""

from __future__ import annotations

from torch import Tensor

from fastloss.core.composite import composite
from fastloss.losses.distillation import categorical_kl
from fastloss.losses.probabilistic import gaussian_kl
from fastloss.losses.rl.actions import of_dimensions
from fastloss.losses.rl.transitions import same_shape

__all__ = ["gaussian_policy_distillation_loss", "policy_distillation_loss"]


@composite(calls_model=True)
def policy_distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Divergence of a categorical policy from its teacher's.

    .. math:: \ell = \mathrm{KL}(p \,\|\, \pi), \qquad p = \mathrm{softmax}(t / T), \quad \pi = \mathrm{softmax}(x)

    The teacher is a constant. Fused where the logits have a gradient.

    Args:
        logits: x, of all actions.
        teacher_logits: t, or the values q(s, .) of a teacher that has no policy.
        temperature: T, positive, of the teacher alone: below 1 it is more certain. The paper has 0.01, for values.
        reverse: KL(pi || p) instead, which keeps to one of several ways of the teacher.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logits, teacher_logits: (..., A)
        - output: (...) for ``"none"``, else ()

    Returns:
        The divergence in nats, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, a temperature that is not positive.

    Source:
        Rusu et al. 2015, Policy distillation, arXiv:1511.06295, equation 3. Both directions: Czarnecki et al. 2019,
        arXiv:1902.02186.

    Example:
        >>> round(policy_distillation_loss(torch.zeros(1, 2), torch.tensor([[5.0, 1.0]]), temperature=0.01).item(), 4)
        0.6931
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    same_shape(logits.shape, teacher_logits=teacher_logits)
    teacher = teacher_logits.detach()
    if temperature != 1:  # halves would lose digits of the quotient
        teacher = (teacher if teacher.dtype.itemsize > 2 else teacher.float()) / temperature
    pair = (logits, teacher) if reverse else (teacher, logits)
    return categorical_kl(*pair, reduction=reduction, mask=mask, normalizer=normalizer)


@composite()
def gaussian_policy_distillation_loss(
    mean: Tensor,
    log_std: Tensor,
    teacher_mean: Tensor,
    teacher_log_std: Tensor,
    *,
    reverse: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Divergence of a Gaussian policy from its teacher's.

    .. math::
        \ell = \mathrm{KL}(p \,\|\, \pi) = \sum_d \log \frac{\sigma_d}{\sigma'_d}
               + \frac{\sigma'^2_d + (\mu'_d - \mu_d)^2}{2 \sigma_d^2} - \frac12

    of the policy :math:`\pi = N(\mu, \sigma^2)` and its teacher :math:`p = N(\mu', \sigma'^2)`, a constant. As tanh is
    the same in both, it is that of tanh-Gaussian policies, too.

    Args:
        mean, log_std: of the policy; log sigma may be the same in all states.
        teacher_mean, teacher_log_std: of its teacher.
        reverse: KL(pi || p) instead, which keeps to one of several ways of the teacher.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - mean, teacher_mean: (..., D)
        - log_std, teacher_log_std: (..., D) or (D,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The divergence in nats, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Rusu et al. 2015, Policy distillation, arXiv:1511.06295; Czarnecki et al. 2019, arXiv:1902.02186.

    Example:
        >>> zero = torch.zeros(1, 2)
        >>> gaussian_policy_distillation_loss(zero, zero, zero + 1, zero).item()
        1.0
    """
    log_std, teacher_log_std = (of_dimensions(x, mean, name) for name, x in
                                (("log_std", log_std), ("teacher_log_std", teacher_log_std.detach())))  # fmt: skip
    same_shape(mean.shape, teacher_mean=teacher_mean)
    teacher = (teacher_mean.detach(), 2 * teacher_log_std)
    how = {"reverse": reverse, "reduction": reduction, "mask": mask, "normalizer": normalizer}
    return gaussian_kl(*teacher, mean, 2 * log_std, **how)  # type: ignore[arg-type]
