"""What keeps the state of continual learning, and predictions with dropout left on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastloss.skeletons.parameters import alike, weighted_squares

__all__ = ["EWC", "SynapticIntelligence", "fisher_diagonal", "mc_dropout"]


def fisher_diagonal(
    model: torch.nn.Module,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""The diagonal of a classifier's Fisher information, from the gradients of single samples.

    .. math:: F_i = \frac1N \sum_n \Bigl(\frac{\partial \log p(y_n \mid x_n)}{\partial \theta_i}\Bigr)^2

    Squares of a batch's mean gradient would be something else, and too small. The model is called in evaluation mode.

    Args:
        model: from samples (N, ...) to logits (N, C).
        inputs: x.
        targets: y (N,), labels: the empirical Fisher information. None: drawn from the model's own answers, by which it
            is the Fisher information.
        chunk_size: how many samples' gradients are held at once. None: all.
        generator: of the drawn labels.

    Returns:
        A tensor for each parameter that requires a gradient, by its name.

    Source:
        Kunstner et al. 2019, arXiv:1905.12558.

    Example:
        >>> layer = torch.nn.Linear(1, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(layer.weight)
        >>> fisher_diagonal(layer, torch.tensor([[2.0]]), torch.tensor([0]))["weight"].flatten().tolist()
        [1.0, 1.0]
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def log_likelihood(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (x[None],))[0]
        return logits.log_softmax(-1).gather(-1, y[None]).squeeze(-1)

    with _modes(model, lambda module: False):
        if targets is None:
            with torch.no_grad():
                p = model(inputs).float().softmax(-1)
            targets = torch.multinomial(p, 1, generator=generator)[:, 0]
        per_sample = torch.func.vmap(torch.func.grad(log_likelihood), (None, 0, 0), randomness="error")
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        size = inputs.shape[0]
        step = chunk_size or max(1, size)
        for first in range(0, size, step):
            rows = slice(first, first + step)
            for name, g in per_sample(parameters, inputs[rows], targets[rows]).items():
                total[name] += g.square().sum(0)
    return {name: x / max(1, size) for name, x in total.items()}


class EWC:
    """Elastic weight consolidation: anchors and Fisher information of the tasks so far, as one running sum.

    Args:
        model: whose parameters are held.
        decay: in [0, 1], what is left of the earlier tasks' information when another one comes (online EWC).

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> ewc = EWC(model)
        >>> ewc.consolidate(torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1]))
        >>> ewc.penalty().item()
        0.0
    """

    def __init__(self, model: torch.nn.Module, *, decay: float = 1.0) -> None:
        self.model, self.decay = model, decay
        self.anchors: dict[str, Tensor] = {}
        self.importance: dict[str, Tensor] = {}

    def consolidate(self, inputs: Tensor, targets: Tensor | None = None, *, chunk_size: int | None = None) -> None:
        """After a task: anchors are the parameters now, and the information of these samples is added."""
        fisher = fisher_diagonal(self.model, inputs, targets, chunk_size=chunk_size)
        self.importance = {
            name: f + self.decay * self.importance[name] if name in self.importance else f for name, f in fisher.items()
        }
        self.anchors = {name: p.detach().clone() for name, p in self.model.named_parameters() if name in fisher}

    def penalty(self) -> Tensor:
        """:func:`fastloss.regularization.ewc_loss` at the parameters now; 0 before the first task."""
        parameters = dict(self.model.named_parameters())
        held = {name: parameters[name] for name in self.anchors}
        return weighted_squares(*alike(held, anchors=self.anchors, importance=self.importance)) / 2

    def state_dict(self) -> dict[str, Any]:
        return {"anchors": dict(self.anchors), "importance": dict(self.importance)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.anchors, self.importance = dict(state["anchors"]), dict(state["importance"])


class SynapticIntelligence:
    r"""The importances of synaptic intelligence: what each parameter gained along the path of training.

    :math:`\omega_i = -\sum_t g_i\, \Delta\theta_i` over the steps of a task, and at its end :math:`\Omega_i` grows by
    :math:`\max(0, \omega_i) / ((\theta_i - \theta^*_i)^2 + \xi)`.

    Args:
        model: whose parameters are held.
        damping: xi, positive.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> si = SynapticIntelligence(model)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> model(torch.ones(1, 1)).square().sum().backward()
        >>> optimizer.step()
        >>> si.update()
        >>> si.consolidate()
        >>> si.penalty().item()
        0.0
    """

    def __init__(self, model: torch.nn.Module, *, damping: float = 0.1) -> None:
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        self.damping = damping
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.before = [p.detach().clone() for p in self.parameters]
        self.anchors = [p.detach().clone() for p in self.parameters]
        self.path = [torch.zeros_like(p) for p in self.parameters]
        self.importance = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """After each step of the optimizer, while the gradients that it went by are still there."""
        moved = [k for k, p in enumerate(self.parameters) if p.grad is not None]
        if moved:
            now, before, path = ([of[k] for k in moved] for of in (self.parameters, self.before, self.path))
            gradients: Any = [self.parameters[k].grad for k in moved]
            gains: Any = torch._foreach_mul(torch._foreach_sub(now, before), gradients)
            torch._foreach_sub_(path, gains)
        torch._foreach_copy_(self.before, self.parameters)

    @torch.no_grad()
    def consolidate(self) -> None:
        """After a task: its importances are added, and the next path begins."""
        moves = torch._foreach_sub(self.parameters, self.anchors)
        denominators = torch._foreach_add(torch._foreach_mul(moves, moves), self.damping)
        gains = torch._foreach_div(torch._foreach_clamp_min(self.path, 0.0), denominators)
        torch._foreach_add_(self.importance, gains)
        torch._foreach_zero_(self.path)
        torch._foreach_copy_(self.anchors, self.parameters)
        torch._foreach_copy_(self.before, self.parameters)

    def penalty(self) -> Tensor:
        """:func:`fastloss.regularization.synaptic_intelligence` at the parameters now."""
        return weighted_squares(self.parameters, self.anchors, self.importance)


_DROPOUT = torch.nn.modules.dropout._DropoutNd


@contextlib.contextmanager
def _modes(model: torch.nn.Module, training: Callable[[torch.nn.Module], bool]) -> Iterator[None]:
    """Which modules are in training mode, inside."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = training(module)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def mc_dropout(model: torch.nn.Module, input: Tensor, *, samples: int = 20) -> tuple[Tensor, Tensor]:
    """Mean and variance of predictions with dropout left on, which says how uncertain the model is.

    All samples are one batch, so the masks differ; everything but dropout is in evaluation mode.

    Args:
        model: from (N, ...) to (N, ...).
        input: (N, ...)
        samples: how many predictions, at least 2.

    Returns:
        (mean, variance with samples - 1), as one prediction.

    Source:
        Gal and Ghahramani 2016, arXiv:1506.02142.

    Example:
        >>> mean, variance = mc_dropout(torch.nn.Dropout(0.0), torch.ones(3, 2))
        >>> mean[0].tolist(), variance[0].tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    if samples < 2:
        raise ValueError(f"a variance is of 2 samples at least, got {samples}")
    with _modes(model, lambda module: isinstance(module, _DROPOUT)):
        output = model(input.repeat(samples, *[1] * (input.dim() - 1)))
    each = output.reshape(samples, input.shape[0], *output.shape[1:])
    return each.mean(0), each.var(0)
