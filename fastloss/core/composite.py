"""The decorator of losses without kernels of their own: fused losses and torch's operations, put together.

What all of them have in common is here, so that a body is its formula: halves are computed in float32, autocast is
off, the result has the dtype of the operands, what is logged is detached, losses of elements are masked and reduced as
everywhere (:mod:`fastloss.core.reductions`), and `explain` says which fused parts a call has and who answers each.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastloss.core.arguments import autocast_applies
from fastloss.core.backends import COMPOSITE, Explanation
from fastloss.core.dispatch import listening
from fastloss.core.dtypes import in_float32, result_dtype, widened, without_autocast
from fastloss.core.metrics import Batch, Metrics
from fastloss.core.reductions import check_fit

Loss = TypeVar("Loss", bound=Callable[..., Any])
_BESIDE = {"mask", "normalizer", "weight"}  # no operands, wherever they are among the arguments


class _Elements(NamedTuple):
    losses: Tensor
    terms: Mapping[str, Tensor]
    beside: Tensor | None


def elements(losses: Tensor, terms: Mapping[str, Tensor] | None = None, beside: Tensor | None = None) -> Any:
    """What a body returns whose losses are still to be masked and reduced, by the arguments of the call.

    Args:
        terms: parts of the losses, of their shape or one that broadcasts to it.
        beside: what is returned beside the loss and is not reduced, such as the errors that make priorities.
    """
    return _Elements(losses, terms or {}, beside)


def present(losses: torch.Size, mask: Tensor | None, normalizer: float | Tensor | None, *operands: Tensor) -> Any:
    """The operands, 0 where the mask has taken a loss out, whatever was there: 0 * NaN would be a NaN gradient.

    Args:
        losses: the shape of the losses, which a mask and a normalizer have to fit.
        operands: of that shape, with further dimensions behind it or not.
    """
    check_fit(losses, operands[0].device, normalizer, mask=mask)
    operands = widened(*operands)
    if mask is None:
        return operands
    there = (mask != 0).expand(losses)
    return tuple(torch.where(there.reshape(*losses, *[1] * (x.dim() - len(losses))), x, 0) for x in operands)


def composite(*, calls_model: bool = False) -> Callable[[Loss], Loss]:
    """Makes a loss of a body of fused parts and torch's operations.

    The operands are the arguments that are not keyword-only, but a mask, a normalizer and a weight: tensors,
    collections of them, modules; their dtypes decide that of the result. The body gets every tensor of halves in
    float32, and returns

    * the loss, already reduced; or, if ``return_terms`` is an argument of it, always ``(loss, terms)``, with terms of
      no dimension, detached or not; or
    * :func:`elements`, which are reduced by the arguments ``reduction`` (or ``aggregation``), ``mask``,
      ``normalizer`` of the call, and the terms as parts of the loss.

    Args:
        calls_model: the body calls the user's model, which gets the tensors as they were given, under the autocast of
            the caller; the body widens what comes back.
    """

    def decorate(body: Loss) -> Loss:
        parameters = inspect.signature(body).parameters
        operands = {name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY} - _BESIDE
        how = next((name for name in ("reduction", "aggregation") if name in parameters), None)
        default = parameters[how].default if how else "mean"
        has_terms = "return_terms" in parameters

        @functools.wraps(body)
        def loss(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_kept(x) for x in args)
            kwargs = {name: _kept(x) for name, x in kwargs.items()}
            named = {**dict(zip(parameters, args, strict=False)), **kwargs}
            tensors = _tensors([x for name, x in named.items() if name in operands])
            context: Any = contextlib.nullcontext()
            dtype = result_dtype(*tensors) if tensors else torch.get_default_dtype()
            if tensors:
                if dtype != torch.float64 and autocast_applies(tensors[0]):
                    dtype = torch.float32
                if not calls_model:
                    context = without_autocast(tensors[0])
                    args, kwargs = _each(in_float32, args), _each(in_float32, kwargs)
            with context:
                result = body(*args, **kwargs)
            if isinstance(result, _Elements):
                reduction = kwargs.get(how, default) if how else default
                batch = Batch(result.losses, reduction, named.get("mask"), named.get("normalizer"), dtype)
                value, terms = batch.loss(), result.terms
                if result.beside is not None:
                    return value, result.beside.detach().to(dtype)
                if kwargs.get("return_terms"):
                    return value, {name: batch.part(term) for name, term in terms.items()}
                return value
            if not has_terms:
                return result.to(dtype)
            value, terms = result
            return (value.to(dtype), _logged(terms, dtype)) if kwargs.get("return_terms") else value.to(dtype)

        return explained(loss)  # type: ignore[return-value]

    return decorate


def _kept(argument: Any) -> Any:
    """An iterator, such as model.parameters(), as the list that can be gone through twice."""
    return list(argument) if isinstance(argument, Iterator) else argument


def explained(function: Loss) -> Loss:
    """Lets `fastloss.explain` say which fused parts a call of the function has, and who answers each."""

    def parts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        return _described(_parts(function, args, kwargs))

    function.parts = parts  # type: ignore[attr-defined]
    return function


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Those among the arguments, and in the collections and modules among them."""
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, (list, tuple)):
            found += _tensors(argument)
        elif isinstance(argument, dict):
            found += _tensors(argument.values())
        elif isinstance(argument, torch.nn.Module):
            found += argument.parameters()
    return found


def _each(change: Callable[[Any], Any], argument: Any) -> Any:
    """The argument with every tensor in it changed."""
    if isinstance(argument, (list, tuple)):
        return type(argument)([_each(change, x) for x in argument])
    if isinstance(argument, dict):
        return {name: _each(change, x) for name, x in argument.items()}
    return change(argument)


def _logged(terms: Mapping[str, Tensor], dtype: torch.dtype) -> Metrics:
    return {name: term.detach().to(dtype) for name, term in terms.items()}


def _parts(loss: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Explanation]]:
    """The fused losses that a call makes, and who answers each: from a call on tensors without numbers in them."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes long to import

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, listening() as heard:

        def fake(x: Any) -> Any:
            return mode.from_tensor(x) if isinstance(x, Tensor) else x

        loss(*_each(fake, args), **_each(fake, kwargs))
    return heard


def _described(heard: list[tuple[str, Explanation]]) -> Explanation:
    if not heard:
        return Explanation("reference", "torch's operations; no part of it is a fused loss")
    counts = Counter(f"{name} by {explanation.backend} ({explanation.reason})" for name, explanation in heard)
    calls = (f"{text}, {count} times" if count > 1 else text for text, count in counts.items())
    return Explanation(COMPOSITE, f"{'; '.join(calls)}; the rest is torch's operations")
