"""Several losses as one: weighted, annealed, balanced, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastloss.core.reductions import aggregate, check_fit

__all__ = [
    "CompositeLoss",
    "GradNorm",
    "PCGrad",
    "TermMonitor",
    "UncertaintyWeighting",
    "agg_loss",
    "group_means",
    "log_terms",
    "masked_mean",
    "stop_gradient",
]

Weight = float | Callable[[int], float]
Terms = Mapping[str, Tensor]


def agg_loss(
    losses: Tensor,
    mask: Tensor | None = None,
    *,
    aggregation: str = "token-mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """The losses of tokens as one number.

    Args:
        losses: (..., T), with T tokens a sequence.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        aggregation: ``"token-mean"``, ``"token-sum"``, ``"seq-mean-token-sum"``, ``"seq-mean-token-mean"``,
            ``"seq-mean-token-sum-norm"`` or ``"none"``.
        normalizer: the denominator of a mean: a number or a 0-d tensor.

    Returns:
        0-d, or (..., T) for ``"none"``.

    Example:
        >>> agg_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1, 0]])).item()
        1.0
    """
    check_fit(losses.shape, losses.device, normalizer, mask=mask)
    if mask is not None:
        losses = torch.where(mask != 0, losses, 0)
    return aggregate(losses, aggregation, mask, normalizer)


def masked_mean(values: Tensor, mask: Tensor | None = None, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The mean of what a mask counts; 0, with zero gradients, of nothing.

    Args:
        values: any shape.
        mask: broadcasts to the values; 0 takes one out, whatever it holds. Other values weight it.
        dim: the dimensions that are averaged. None: all.

    Returns:
        The values without these dimensions.

    Example:
        >>> masked_mean(torch.tensor([1.0, float("nan")]), torch.tensor([True, False])).item()
        1.0
    """
    check_fit(values.shape, values.device, None, mask=mask)
    dims = tuple(range(values.dim())) if dim is None else dim
    wide = values.float() if values.dtype.itemsize == 2 else values
    weight = torch.ones_like(wide) if mask is None else mask.to(wide.dtype).expand(wide.shape)
    total = torch.where(weight != 0, torch.where(weight != 0, wide, 0) * weight, 0).sum(dims)
    count = weight.sum(dims)
    return (total / torch.where(count == 0, 1, count)).to(values.dtype)


def stop_gradient(value: Any) -> Any:
    """The value, a tensor or a collection of them, as a constant.

    Example:
        >>> stop_gradient((torch.ones(1, requires_grad=True), 2))[0].requires_grad
        False
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: stop_gradient(x) for name, x in value.items()}
    return type(value)(stop_gradient(x) for x in value) if isinstance(value, (list, tuple)) else value


def group_means(losses: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean loss of each group (domain, task, environment), in one pass.

    Args:
        losses: of samples, any shape.
        groups: the group of each, integers from 0 to ``count`` - 1, of the losses' shape.
        count: how many groups there are.

    Returns:
        (means, numbers of samples), both (count,); the mean of an empty group is 0.

    Example:
        >>> means, sizes = group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
        >>> means.tolist(), sizes.tolist()
        ([2.0, 0.0, 5.0], [2.0, 0.0, 1.0])
    """
    if losses.shape != groups.shape:
        raise ValueError(f"losses {tuple(losses.shape)} and groups {tuple(groups.shape)} differ in shape")
    wide = losses.float() if losses.dtype.itemsize == 2 else losses
    place = groups.flatten().long()
    # index_put, because a GPU's index_add adds in no order
    nothing = torch.zeros(count, dtype=wide.dtype, device=wide.device)
    sums = nothing.index_put((place,), wide.flatten(), accumulate=True)
    sizes = nothing.index_put((place,), torch.ones_like(wide).flatten().detach(), accumulate=True)
    return (sums / sizes.clamp(min=1)).to(losses.dtype), sizes.detach()


def log_terms(
    logger: Callable[..., Any], terms: Terms, step: int, *, prefix: str = "loss/", by_name: bool = True
) -> None:
    """Hands the terms to a logger. It reads them, so on a GPU it waits for them.

    Args:
        logger: ``SummaryWriter.add_scalar`` of TensorBoard, called with (name, value, step) for each term; or, with
            ``by_name=False``, ``wandb.log``, called with ({name: value}, step=step) once.
        terms: 0-d tensors by name.
        step: of the training.
        prefix: before each name.
        by_name: a call for each term.

    Example:
        >>> log_terms(print, {"kl": torch.tensor(2.0)}, 7)
        loss/kl 2.0 7
    """
    values = {prefix + name: float(term) for name, term in terms.items()}
    if not by_name:
        logger(values, step=step)
        return
    for name, value in values.items():
        logger(name, value, step)


class CompositeLoss(torch.nn.Module):
    r"""A sum of losses, each with a weight or a schedule of one.

    .. math:: \ell = \sum_k w_k(\mathrm{step})\, \ell_k

    Args:
        terms: by name, (loss, weight): the loss a function or a Module, the weight a number or a callable from the step
            to a number, such as those of :mod:`fastloss.compose.schedules`.

    Call:
        by the names of the terms, their arguments: a tuple, or a dictionary of keywords. A term that is not named is
        left out. Returns (loss, terms), the terms detached and without their weights.

    Example:
        >>> loss = CompositeLoss({"error": (torch.nn.functional.mse_loss, 1.0), "size": (torch.Tensor.abs, 0.5)})
        >>> total, terms = loss(error=(torch.ones(2), torch.zeros(2)), size=(torch.tensor(-4.0),))
        >>> total.item(), terms["size"].item()
        (3.0, 4.0)
    """

    def __init__(self, terms: Mapping[str, tuple[Callable[..., Any], Weight]]) -> None:
        super().__init__()
        self.functions = {name: function for name, (function, _) in terms.items()}
        self.weights = {name: weight for name, (_, weight) in terms.items()}
        self.modules_of_terms = torch.nn.ModuleDict(
            {name: f for name, f in self.functions.items() if isinstance(f, torch.nn.Module)}
        )
        self.steps = 0

    def weight(self, name: str) -> float:
        """The weight of a term now."""
        weight = self.weights[name]
        return weight(self.steps) if callable(weight) else weight

    def step(self) -> None:
        """After each step of the optimizer: schedules go on."""
        self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def forward(self, **arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        unknown = arguments.keys() - self.functions.keys()
        if unknown or not arguments:
            raise ValueError(f"the terms are {', '.join(self.functions)}, got {', '.join(sorted(unknown)) or 'none'}")
        values = {}
        for name, given in arguments.items():
            function = self.functions[name]
            value = function(**given) if isinstance(given, Mapping) else function(*given)
            values[name] = value[0] if isinstance(value, tuple) else value
        total = sum(self.weight(name) * value for name, value in values.items())
        assert isinstance(total, Tensor)
        return total, {name: value.detach() for name, value in values.items()}


class UncertaintyWeighting(torch.nn.Module):
    r"""Weights of several losses that are learned with the model, as the noise of each task.

    .. math:: \ell = \sum_k \tfrac12 e^{-s_k}\, \ell_k + \tfrac12 s_k

    with s, the logarithms of the variances, parameters of this Module: give them to the optimizer.

    Args:
        names: of the terms.

    Source:
        Kendall et al. 2018, arXiv:1705.07115.

    Example:
        >>> weighting = UncertaintyWeighting(["depth", "labels"])
        >>> weighting({"depth": torch.tensor(2.0), "labels": torch.tensor(4.0)}).item()
        3.0
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.log_variance = torch.nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, terms: Terms) -> Tensor:
        values = torch.stack([terms[name] for name in self.names])
        s = self.log_variance
        return 0.5 * (torch.exp(-s) * values + s).sum()


class GradNorm(torch.nn.Module):
    r"""Weights of several losses by which they train the shared parameters at one pace.

    With :math:`G_k = w_k \|\nabla_W \ell_k\|` and the pace :math:`r_k`, the loss over its first value, relative to the
    mean of these, the weights' own loss is :math:`\sum_k |G_k - \bar G\, r_k^\alpha|`, the target a constant.

    Args:
        names: of the terms.
        alpha: how strongly slow tasks are pushed.

    Source:
        Chen et al. 2018, arXiv:1711.02257.

    Example:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> balance = GradNorm(["a", "b"])
        >>> terms = {"a": 3 * w.sum(), "b": w.sum()}
        >>> balance(terms).item(), balance.loss(terms, [w]).item()  # |3 - 2| + |1 - 2|
        (4.0, 2.0)
    """

    first: Tensor
    started: Tensor

    def __init__(self, names: Iterable[str], *, alpha: float = 1.5) -> None:
        super().__init__()
        self.names, self.alpha = list(names), alpha
        self.weights = torch.nn.Parameter(torch.ones(len(self.names)))
        self.register_buffer("first", torch.ones(len(self.names)))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def _values(self, terms: Terms) -> Tensor:
        return torch.stack([terms[name] for name in self.names])

    def forward(self, terms: Terms) -> Tensor:
        """The weighted sum, for the model: the weights are constants in it."""
        return (self.weights.detach() * self._values(terms)).sum()

    def loss(self, terms: Terms, shared: Iterable[Tensor]) -> Tensor:
        """The loss of the weights. The graph of the terms is kept: call this before their backward."""
        parameters = list(shared)
        norms = []
        for name in self.names:
            found = torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True)
            squares = [g.square().sum() for g in found if g is not None]
            norms.append(torch.stack(squares).sum().sqrt() if squares else terms[name].new_zeros(()))
        values = self._values(terms).detach()
        self.first = torch.where(self.started, self.first, values)
        self.started = torch.ones_like(self.started)
        ratio = values / torch.where(self.first == 0, 1, self.first)
        pace = ratio / ratio.mean().clamp(min=torch.finfo(ratio.dtype).tiny)
        sizes = self.weights * torch.stack(norms).detach()
        target = (sizes.mean() * pace**self.alpha).detach()
        return (sizes - target).abs().sum()

    @torch.no_grad()
    def renormalize(self) -> None:
        """After each step of the weights' optimizer: none is negative, and they add up to their number."""
        self.weights.clamp_(min=1e-6)
        self.weights.mul_(len(self.names) / self.weights.sum())


class PCGrad:
    """Gradients of several losses of which none undoes another's: what points against another is projected out.

    Args:
        parameters: of the model.
        generator: of the order in which each gradient meets the others.

    Source:
        Yu et al. 2020, arXiv:2001.06782.

    Example:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> PCGrad([w]).backward([w[0], w[1] - w[0]])
        >>> w.grad.tolist()  # (1, 0) and (-1, 1) conflict: (1/2, 1/2) and (0, 1) are left
        [0.5, 1.5]
    """

    def __init__(self, parameters: Iterable[Tensor], *, generator: torch.Generator | None = None) -> None:
        self.parameters, self.generator = [p for p in parameters if p.requires_grad], generator

    def backward(self, losses: Iterable[Tensor]) -> None:
        """In the place of ``sum(losses).backward()``: adds to ``grad`` of the parameters."""
        rows = []
        for loss in losses:
            found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            whole = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]
            rows.append(torch.cat([g.flatten() for g in whole]))
        total = self.projected(torch.stack(rows)).sum(0)
        for part, p in zip(total.split([p.numel() for p in self.parameters]), self.parameters, strict=True):
            part = part.reshape(p.shape).to(p.dtype)
            p.grad = part.clone() if p.grad is None else p.grad + part

    def projected(self, gradients: Tensor) -> Tensor:
        """(T, P): each row without what points against another one, in random order."""
        squares = gradients.square().sum(1)
        rows = []
        for i, row in enumerate(gradients):
            for j in torch.randperm(len(gradients), generator=self.generator).tolist():
                if i != j:
                    against = (row @ gradients[j]).clamp(max=0)
                    row = row - against / torch.where(squares[j] == 0, 1, squares[j]) * gradients[j]
            rows.append(row)
        return torch.stack(rows)


class TermMonitor:
    """Watches the terms of a loss: which is dead, which dominates, whose scales are far apart.

    Args:
        decay: of the running means of the terms' sizes.
        dead: a share of the largest term below which one does nothing.
        dominating: a share of the sum above which the others do nothing.
        imbalance: the quotient of the largest and the smallest living term from which on their scales are told.
        patience: how many updates before anything is said.

    Example:
        >>> monitor = TermMonitor(patience=1)
        >>> monitor.update({"recon": torch.tensor(100.0), "kl": torch.tensor(1e-9)})
        >>> for line in monitor.report():
        ...     print(line)
        kl is dead: its size is 1.0e-11 of recon's; a weight, a schedule or free bits may be wrong
        recon dominates: it is 100.0% of the loss; scale it down, or the others up
    """

    def __init__(
        self,
        *,
        decay: float = 0.99,
        dead: float = 1e-6,
        dominating: float = 0.99,
        imbalance: float = 1e3,
        patience: int = 100,
    ) -> None:
        self.decay, self.dead, self.dominating, self.imbalance = decay, dead, dominating, imbalance
        self.patience, self.count = patience, 0
        self.sizes: dict[str, Tensor] = {}

    def update(self, terms: Terms) -> None:
        """Of one step; reads nothing back from a device. Give the terms with their weights."""
        self.count += 1
        for name, term in terms.items():
            size = term.detach().abs()
            before = self.sizes.get(name)
            self.sizes[name] = size if before is None else torch.lerp(size, before.to(size), self.decay)

    def report(self) -> list[str]:
        """What is wrong, a line each; empty: nothing, or too early to tell."""
        if self.count < self.patience or len(self.sizes) < 2:
            return []
        sizes = {name: float(x) for name, x in self.sizes.items()}
        largest = max(sizes, key=lambda name: sizes[name])
        lines = [f"{name} is not finite" for name, x in sizes.items() if x != x or x == float("inf")]
        if lines:
            return lines
        living = {name: x for name, x in sizes.items() if x > self.dead * sizes[largest]}
        for name, x in sizes.items():
            if name not in living:
                share = x / sizes[largest] if sizes[largest] else 0.0
                lines.append(
                    f"{name} is dead: its size is {share:.1e} of {largest}'s; a weight, a schedule or free bits may be "
                    "wrong"
                )
        total = sum(sizes.values())
        if total and sizes[largest] > self.dominating * total:
            lines.append(
                f"{largest} dominates: it is {sizes[largest] / total:.1%} of the loss; scale it down, or the others up"
            )
        elif living and max(living.values()) > self.imbalance * min(living.values()):
            least = min(living, key=lambda name: living[name])
            lines.append(f"{largest} is {living[largest] / living[least]:.0f} times {least}: bring them to one scale")
        return lines
