"""Logits that are not computed unless someone looks at them: the last layer of a language model and its loss in one.

:class:`FusedHead`, an ``nn.Linear``, returns :class:`DeferredLogits` in training. Cross-entropy of them is
:func:`fastloss.linear_cross_entropy` of the hidden states, which never stores the logits whole. What models do on the
way there is noted down: a scale, a soft cap, ``float()``, another view of the rows, a part of them. Any other operation
computes the logits, once, and goes on with them.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastloss.core.autograd import pure
from fastloss.core.dtypes import without_autocast
from fastloss.functional import linear_cross_entropy

__all__ = ["DeferredLogits", "FusedHead"]


class _Product(NamedTuple):
    """hidden @ weight.T + bias, computed in a dtype, and what was done to it since."""

    hidden: Tensor  # (..., H)
    weight: Tensor  # (C, H)
    bias: Tensor | None  # (C,)
    dtype: torch.dtype
    divisor: float = 1.0  # x / divisor; with a cap: tanh(x / divisor) * factor
    factor: float | None = None

    def logits(self) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.dtype)
        with without_autocast(self.hidden):
            return F.linear(self.hidden.to(self.dtype), self.weight.to(self.dtype), bias)

    def scaled(self, by: float) -> _Product:
        if self.factor is None:
            return self._replace(divisor=self.divisor / by)
        return self._replace(factor=self.factor * by)


class DeferredLogits(Tensor):
    """Logits of a product that is not computed, with their shape, dtype and device; in every use as if it were."""

    _product: _Product
    _compute: Callable[[], Tensor]
    _source: DeferredLogits | None
    _value: Tensor | None
    _versions: tuple[int, int]

    @staticmethod
    def __new__(
        cls, product: _Product, dtype: torch.dtype, compute: Callable[[], Tensor], base: DeferredLogits | None = None
    ) -> DeferredLogits:
        """
        Args:
            compute: the logits, as torch would have computed them.
            base: what these are made from; what is written into one of the two is then seen in the other, as in torch.
        """
        shape = (*product.hidden.shape[:-1], len(product.weight))
        self: DeferredLogits = Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=product.hidden.device, requires_grad=True
        )
        self._product, self._compute, self._source, self._value = product, compute, base, None
        self._versions = _versions(product) if base is None else base._versions
        with torch._C.DisableTorchFunctionSubclass():
            self.register_hook(_lost)
        return self

    def _known(self) -> bool:
        return self._value is not None or (self._source is not None and self._source._known())

    def _check(self) -> None:
        if self._source is not None:
            self._source._check()
        elif self._versions != _versions(self._product):
            raise RuntimeError(
                "logits that were not computed yet are wanted after their weights or hidden states have changed "
                "(optimizer.step()): look at them before, or apply with fused_head=False"
            )

    def materialized(self) -> Tensor:
        """The logits. With their gradient, also where it is not wanted now: it may be later."""
        if self._value is None:
            if not self._known():
                self._check()
            with torch.enable_grad():
                self._value = self._compute()
        return self._value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of an attribute
            name = getattr(func.__self__, "__name__", "")
        if name in _OF_THE_WRAPPER:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        first = args[0] if args else None
        ours = getattr(func, "__module__", None) or ""  # fastloss.cross_entropy has more arguments than torch's
        noted = None if ours.startswith("fastloss") else _NOTED.get(name)
        if (
            noted is not None
            and torch.is_grad_enabled()
            and isinstance(first, DeferredLogits)
            and not first._known()
            and _takes(noted, args, kwargs)
        ):
            with torch._C.DisableTorchFunctionSubclass():
                found = noted(first, *args[1:], **kwargs)
            if isinstance(found, _Step):
                of, step = first, found

                def compute() -> Tensor:
                    result: Tensor = func(of.materialized(), *args[1:], **kwargs)
                    return result

                return DeferredLogits(step.product, step.dtype, compute, of)
            if found is not None:
                return found
        args, kwargs = tree_map_only(DeferredLogits, DeferredLogits.materialized, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What comes here by another way than torch's functions: values, without a way back for a gradient."""
        args, kwargs = tree_map_only(DeferredLogits, lambda x: x.materialized().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _takes(noted: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these arguments are among those that are noted down; torch's functions have more."""
    try:
        inspect.signature(noted).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _versions(product: _Product) -> tuple[int, int]:
    return product.hidden._version, product.weight._version


def _lost(gradient: Tensor) -> None:
    raise RuntimeError(
        "a gradient of logits that fastloss did not compute: they were given to an autograd Function, which does not "
        "say so to a tensor subclass; apply with fused_head=False"
    )


# What asks no values. `grad_fn` is None and `is_leaf` True: the logits are no part of the graph.
_OF_THE_WRAPPER = {
    "shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "grad_fn", "layout", "is_cuda", "is_cpu",
    "is_meta", "is_sparse", "is_quantized", "is_nested", "size", "dim", "ndimension", "numel", "nelement",
    "is_floating_point", "is_complex", "get_device", "element_size", "__len__",
}  # fmt: skip


class _Step(NamedTuple):
    """What an operation makes of a product, and its dtype."""

    product: _Product
    dtype: torch.dtype


# ------------------------------------------------------------------------------------------ what is noted down
#
# Each takes the arguments of torch's function. It returns a step, a tensor that is the result, or None: the logits are
# needed.


def _times(logits: DeferredLogits, other: Any) -> _Step | None:
    if type(other) not in (int, float) or not 0 < other < math.inf:
        return None
    return _Step(logits._product.scaled(other), logits.dtype)


def _over(logits: DeferredLogits, other: Any) -> _Step | None:
    if type(other) not in (int, float) or not 0 < other < math.inf:
        return None
    product = logits._product
    if product.factor is None:  # not times 1 / other: a cap of 30 is to be 30
        return _Step(product._replace(divisor=product.divisor * other), logits.dtype)
    return _Step(product._replace(factor=product.factor / other), logits.dtype)


def _tanh(logits: DeferredLogits) -> _Step | None:
    if logits._product.factor is not None:
        return None
    return _Step(logits._product._replace(factor=1.0), logits.dtype)


def _float(logits: DeferredLogits) -> _Step | Tensor | None:
    if logits.dtype == torch.float32:
        return logits
    return None if logits.dtype == torch.float64 else _Step(logits._product, torch.float32)


def _to(logits: DeferredLogits, other: Any) -> _Step | Tensor | None:
    if other == logits.device or other == logits.dtype:
        return logits
    return _float(logits) if other is torch.float32 else None


def _contiguous(logits: DeferredLogits) -> Tensor:
    return logits


def _view(logits: DeferredLogits, *shape: Any) -> _Step | None:
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if not isinstance(sizes, (tuple, list)) or not sizes or sizes[-1] != logits.shape[-1]:
        return None
    product = logits._product
    hidden = product.hidden.reshape(*sizes[:-1], product.hidden.shape[-1])
    return _Step(product._replace(hidden=hidden), logits.dtype)


def _part(logits: DeferredLogits, index: Any) -> _Step | None:
    """Some of the rows: slices and numbers, or a mask."""
    product = logits._product
    if isinstance(index, Tensor):
        if index.dtype is not torch.bool or index.dim() >= logits.dim():
            return None
    else:
        index = index if isinstance(index, tuple) else (index,)
        if not index or not all(isinstance(i, slice) or i is ... or type(i) is int for i in index):
            return None
        classes = index[-1] is not ... and (... in index or len(index) == logits.dim())
        if classes and index[-1] != slice(None):
            return None
    return _Step(product._replace(hidden=product.hidden[index]), logits.dtype)


def _cross_entropy(
    logits: DeferredLogits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    if logits.dim() != 2 or size_average is not None or reduce is not None or target.is_floating_point():
        return None
    logits._check()
    product = logits._product
    softcap = None if product.factor is None else product.divisor
    temperature = product.divisor if product.factor is None else product.divisor / product.factor
    hidden, matrix, bias = product.hidden, product.weight, product.bias
    halves = product.dtype != logits.dtype  # a product in them, and a loss in float32: what autocast is
    if halves:
        hidden = hidden.float()
    elif not torch.is_autocast_enabled(hidden.device.type):
        hidden, matrix = hidden.to(product.dtype), matrix.to(product.dtype)
        bias = None if bias is None else bias.to(product.dtype)
    in_halves = torch.autocast(hidden.device.type, dtype=product.dtype) if halves else contextlib.nullcontext()
    with in_halves:
        return linear_cross_entropy(
            hidden, matrix, target, linear_bias=bias, weight=weight, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing, softcap=softcap, temperature=temperature,
        )  # fmt: skip


_NOTED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "multiply"), _times),
    **dict.fromkeys(("div", "__truediv__", "true_divide", "divide"), _over),
    "tanh": _tanh,
    "float": _float,
    "to": _to,
    "contiguous": _contiguous,
    **dict.fromkeys(("view", "reshape"), _view),
    "__getitem__": _part,
    "cross_entropy": _cross_entropy,
}


class FusedHead(nn.Linear):
    """An ``nn.Linear`` whose output is deferred in training, where that can be right.

    A layer becomes one by its ``__class__``, so that copies, pickles and replicas of a model have one of their own.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not torch.is_grad_enabled() or pure() or self._weights_come_and_go():
            return super().forward(input)
        if type(input) is not Tensor or not (input.requires_grad or self.weight.requires_grad):
            return super().forward(input)
        device = input.device.type
        dtype = input.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        elif self.weight.dtype != dtype:
            return super().forward(input)  # torch's error
        product = _Product(input, self.weight, self.bias, dtype)
        return DeferredLogits(product, dtype, product.logits)

    def _weights_come_and_go(self) -> bool:
        """FSDP2 and ZeRO-3 hand the weights out for the forward of a layer alone, by hooks on it, or by its class;
        other hooks see gradients; tensor parallelism changes what comes out; a replica of DataParallel has its output
        gathered by C++."""
        plain = type(self.weight) in (Tensor, nn.Parameter) and type(self) is FusedHead
        hooks = (self._forward_hooks, self._backward_hooks, self._backward_pre_hooks)
        return not plain or any(hooks) or getattr(self, "_is_replica", False)
