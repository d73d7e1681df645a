"""Reinforcement learning besides its losses: noise on target actions, scales, what a visit is worth."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.dtypes import result_dtype

__all__ = [
    "RunningMeanStd",
    "count_bonus",
    "disagreement_bonus",
    "pseudo_count",
    "smoothed_actions",
    "symexp",
    "symlog",
]


def smoothed_actions(
    actions: Tensor,
    *,
    deviation: float = 0.2,
    bound: float = 0.5,
    low: float | Tensor = -1.0,
    high: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The target policy's actions with clipped normal noise, so that a critic is smooth where actions are alike (TD3,
    Fujimoto et al. 2018, arXiv:1802.09477).

    Args:
        actions: of the target policy.
        deviation: standard deviation of the noise.
        bound: the noise is clipped at -bound and bound.
        low, high: bounds of the actions; numbers, or one of each dimension.
        generator: of the noise.

    Returns:
        The actions, without a gradient.

    Example:
        >>> smoothed_actions(torch.tensor([2.0, -3.0]), deviation=0.0)
        tensor([ 1., -1.])
    """
    actions = actions.detach()
    noise = torch.empty_like(actions).normal_(generator=generator)
    smoothed = actions + (deviation * noise).clamp(-bound, bound)
    ends = (torch.as_tensor(x, dtype=actions.dtype, device=actions.device) for x in (low, high))
    return smoothed.clamp(*ends)


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): rewards and observations of any size in one scale (Hafner et al. 2023, arXiv:2301.04104).

    Example:
        >>> symlog(torch.tensor([-1.0, 0.0, 100.0]))
        tensor([-0.6931,  0.0000,  4.6151])
    """
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of :func:`symlog`.

    Example:
        >>> symexp(symlog(torch.tensor([-3.0, 0.0, 5.0])))
        tensor([-3.,  0.,  5.])
    """
    return x.sign() * x.abs().expm1()


def count_bonus(counts: Tensor, *, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Intrinsic reward of a state that was seen N times: scale / sqrt(N + offset) (Strehl and Littman 2008; with an
    offset of 0.01 Bellemare et al. 2016, arXiv:1606.01868, of pseudo-counts).

    Args:
        counts: N, integers or pseudo-counts, the visit itself among them; 0 without an offset is worth infinitely much.

    Example:
        >>> count_bonus(torch.tensor([1, 4, 100]))
        tensor([1.0000, 0.5000, 0.1000])
    """
    return scale * (counts + offset).rsqrt()


def pseudo_count(logp: Tensor, recoding_logp: Tensor) -> Tensor:
    r"""How often a state was seen, as a density model has it that generalises over states.

    .. math:: \hat N = \frac{\rho\,(1 - \rho')}{\rho' - \rho}, \qquad \rho = e^{\mathrm{logp}},\;
              \rho' = e^{\mathrm{recoding\_logp}}

    The number of visits after which a model that counts would move as this one does; of such a model it is the count.

    Args:
        logp: the logarithm of the probability that the model gave to the state; a density makes no counts.
        recoding_logp: of that which it gives after it was trained once on the state.

    Shape:
        - logp, recoding_logp: any, broadcast together
        - output: the broadcast shape

    Returns:
        The pseudo-counts, without a gradient; :func:`count_bonus` makes rewards of them. Where the probability has not
        risen, infinity, so that a state that cannot be learned from is worth nothing. What two log-probabilities differ
        by is rounded as they are: where they are far below -1 (images), hand over those of float64.

    Source:
        Bellemare et al. 2016, arXiv:1606.01868, equation 2; a gain that is not positive counts as none as in Ostrovski
        et al. 2017, arXiv:1703.01310.

    Example:
        >>> logp, recoding_logp = torch.tensor([3 / 10, 0.0]).log(), torch.tensor([4 / 11, 1 / 11]).log()
        >>> pseudo_count(logp, recoding_logp)  # 3 of 10 visits, then 4 of 11; never, then once
        tensor([3., 0.])
    """
    dtype = result_dtype(logp, recoding_logp)
    before, after = (x.detach().to(accumulator_dtype(dtype)) for x in (logp, recoding_logp))
    count = -torch.expm1(after) / torch.expm1(after - before)
    return torch.where(after <= before, torch.inf, count).to(dtype)


def disagreement_bonus(predictions: Tensor, *, dim: int = 0) -> Tensor:
    r"""Intrinsic reward of a state whose next one the models of an ensemble predict differently.

    .. math:: r = \frac1D \sum_d \frac1K \sum_k (\hat s_{kd} - \bar s_d)^2, \qquad
              \bar s = \frac1K \sum_k \hat s_k

    Noise is predicted alike, by its mean, once there is enough of it: unlike an error of prediction the bonus of what
    cannot be predicted vanishes. The members have to differ by their initial weights, or by the data that they saw.

    Args:
        predictions: of the K models, of the next state or of features of it.
        dim: the dimension of the models.

    Shape:
        - predictions: (K, ..., D), or the models at ``dim``
        - output: (...)

    Returns:
        The bonus, in the dtype of the predictions (of integers in torch's default dtype). It has a gradient, by which a
        policy may be optimised directly through the models; ``.detach()`` for a reward.

    Raises:
        ValueError: no dimension of features, fewer than two models.

    Source:
        Pathak et al. 2019, arXiv:1906.04161; the mean over the features is the authors' code's. Plan2Explore (Sekar et
        al. 2020, arXiv:2005.05960) divides by K - 1.

    Example:
        >>> disagreement_bonus(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))  # variances of 1 and 0
        tensor([0.5000])
    """
    if predictions.dim() < 2 or dim % predictions.dim() == predictions.dim() - 1:
        raise ValueError(f"predictions must be (K, ..., D), got {tuple(predictions.shape)} with the models at {dim}")
    if predictions.shape[dim] < 2:
        raise ValueError(f"an ensemble has two models at least, got {predictions.shape[dim]}")
    wide = predictions.to(accumulator_dtype(predictions.dtype))
    return wide.var(dim, correction=0).mean(-1).to(result_dtype(predictions))


class RunningMeanStd(torch.nn.Module):
    r"""Scales observations or returns by the mean and the variance of all that was seen so far.

    .. math:: y = \mathrm{clamp}\Bigl(\frac{x - \mu}{\sqrt{\sigma^2 + \mathrm{eps}}},\, -\mathrm{clip},\,
              \mathrm{clip}\Bigr)

    Only :meth:`update` and :meth:`merge` change the statistics: call ``update`` once with what was collected, before it
    is scaled. They are constants (no gradient flows into them), and before the first update 0 and 1. With a batch of
    weight n beside N before, and s = n / (N + n),

    .. math:: \mu \leftarrow \mu + s\,\delta, \qquad
              \sigma^2 \leftarrow (1 - s)\,\sigma^2 + s\,\sigma_n^2 + s\,(1 - s)\,\delta^2, \qquad
              \delta = \mu_n - \mu,

    which does not cancel, however far the mean is from 0.

    Args:
        shape: of one observation; () of returns and rewards.
        clip: bound of the result; None: none. 5 in random network distillation, 10 in stable-baselines3.
        center: subtract the mean. Without, only the scale changes, and the sign of a reward or a bonus stays.
        eps: keeps the division finite.

    Attributes:
        mean, var: of ``shape``, float64 buffers: they are saved with the model, and move with it.
        count: 0-d, float64: the sum of what was seen, or of the masks.

    Shape:
        - input: (\*, shape)
        - output: as input

    Call:
        input: what is scaled. Gradients flow to it, none where it is clipped. The result is in its dtype (of
            integers in torch's default dtype).

    Raises:
        ValueError: a ``clip`` or ``eps`` out of range, an input that does not end in ``shape``, statistics that were
            cast to a half, in which a count would stop at 256 or 2048.

    Source:
        Chan, Golub and LeVeque 1983, Algorithms for computing the sample variance; the population variance, as
        gymnasium's and stable-baselines3's ``RunningMeanStd``. Of observations and intrinsic rewards: Burda et al.
        2019, arXiv:1810.12894.

    Example:
        >>> scale = RunningMeanStd((2,), clip=5.0)
        >>> observations = torch.tensor([[0.0, 100.0], [2.0, 300.0]])
        >>> scale.update(observations)
        >>> scale(observations)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(
        self,
        shape: int | tuple[int, ...] = (),
        *,
        clip: float | None = None,
        center: bool = True,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        if not eps >= 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.clip, self.center, self.eps = clip, center, eps
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def extra_repr(self) -> str:
        return f"shape={self.shape}, clip={self.clip}, center={self.center}, eps={self.eps}"

    @torch.no_grad()
    def update(self, input: Tensor, *, mask: Tensor | None = None) -> None:
        """Adds a batch to the statistics.

        Args:
            input: (\\*, shape)
            mask: broadcasts to (\\*); 0 takes an observation out, whatever it holds. Other values weight it.

        Raises:
            ValueError: shapes that do not fit, statistics in a half.
        """
        self._refuse_halves()
        leading = self._leading(input)
        x = input.detach().to(self.mean.dtype).reshape(-1, *self.shape)
        if mask is None:
            count = self.count.new_full((), x.shape[0])
            weight = self.count.new_ones(1)
        else:
            pairs = zip(mask.shape[::-1], leading[::-1], strict=False)
            if mask.dim() > len(leading) or any(n not in (1, m) for n, m in pairs):
                raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to {tuple(leading)}")
            weight = mask.detach().to(x).expand(leading).reshape(-1)
            count = weight.sum()
        weight = weight.reshape(-1, *[1] * len(self.shape))
        x = torch.where(weight != 0, x, 0)
        total = count.clamp(min=torch.finfo(count.dtype).tiny)
        mean = (weight * x).sum(0) / total
        self._add(mean, (weight * (x - mean).square()).sum(0) / total, count)

    @torch.no_grad()
    def merge(self, other: RunningMeanStd) -> None:
        """Adds what another one has seen, such as that of another worker: as its batches would, up to rounding.

        Raises:
            ValueError: another ``shape``, statistics in a half.
        """
        self._refuse_halves()
        if other.shape != self.shape:
            raise ValueError(f"statistics of {other.shape} do not fit those of {self.shape}")
        self._add(*(x.to(self.mean) for x in (other.mean, other.var, other.count)))

    def _add(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """In place, so that captured graphs and shared memory see it."""
        self.count += count
        share = count / self.count.clamp(min=torch.finfo(count.dtype).tiny)
        delta = mean - self.mean
        self.mean += share * delta
        self.var += share * (var - self.var + (1 - share) * delta.square())

    def _refuse_halves(self) -> None:
        """
        Raises:
            ValueError: statistics in a half.
        """
        if self.mean.dtype.itemsize < 4:
            raise ValueError(f"statistics in {self.mean.dtype} stop counting: keep the buffers in float32 or float64")

    def _leading(self, input: Tensor) -> torch.Size:
        """
        Raises:
            ValueError: an input that does not end in the shape.
        """
        count = input.dim() - len(self.shape)
        if count < 0 or tuple(input.shape[count:]) != self.shape:
            raise ValueError(f"input {tuple(input.shape)} does not end in {self.shape}")
        return input.shape[:count]

    def forward(self, input: Tensor) -> Tensor:
        self._leading(input)
        x = input.to(self.mean.dtype)
        if self.center:
            x = x - self.mean
        x = x * (self.var + self.eps).rsqrt()
        return (x if self.clip is None else x.clamp(-self.clip, self.clip)).to(_floating(input))

    def inverse(self, input: Tensor) -> Tensor:
        """What was scaled, in its old scale: values that a critic learned of scaled returns. Without ``clip``."""
        self._leading(input)
        x = input.to(self.mean.dtype) * (self.var + self.eps).sqrt()
        return (x + self.mean if self.center else x).to(_floating(input))


def _floating(input: Tensor) -> torch.dtype:
    return input.dtype if input.is_floating_point() else torch.get_default_dtype()
