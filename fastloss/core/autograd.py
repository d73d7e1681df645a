"""Autograd of every fused loss: one pass where that is possible, two where it is not; double backward; transforms.

A skeleton lowers a call to a :class:`Problem`, a description without tensors, and the tensors that it is about.
:func:`differentiate` does the rest:

* The gradients are made in forward where they are known up to a factor (`Problem.early`: a scalar loss). Backward hands
  those buffers on, scaled in place unless the upstream gradient is 1: what was read once is not read again. A buffer
  that was given away cannot be used again, so a second backward (``retain_graph=True``) computes anew.
* Otherwise forward leaves the tensors and a small state (the statistics of rows), and backward computes the gradients
  from the upstream gradient. So it does for float16, where a gradient that was rounded before the loss scale arrives is
  lost, and where somebody saves tensors in a way of his own (torch.utils.checkpoint, offloading): a gradient that was
  made early would be held from forward to backward, behind his back.
* Everything that backward may read goes through ``save_for_backward``, and nothing of it is kept elsewhere: torch
  checks that it was not overwritten, hands it to hooks, and lets go of it after backward.
* Derivatives beyond the first are torch's own, of the reference body.

There are two sets of Functions: eager mode has `_Eager` and `_InPlace`, whose backward may keep state on ``ctx`` and
give buffers away; :mod:`torch.func` and torch.compile want purity, and every tensor among the arguments: `_Pure` and
`_Twice`. Forward-mode differentiation never comes here; it is left to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from fastloss.core.arguments import differentiation_refused, leaves
from fastloss.core.dtypes import in_float32

Gradients = Sequence[Tensor]  # of the wanted tensors, in their order


class Problem(Protocol):
    """A call of a loss without its tensors: a NamedTuple of numbers, strings and tuples of these.

    ``tensors`` below are those that the call is about; places are places among them.
    """

    @property
    def wanted(self) -> tuple[int, ...]:
        """Places of the tensors whose gradients are wanted."""

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Places of the tensors by which the reference may be differentiated twice."""

    @property
    def early(self) -> bool:
        """Whether the gradients may be made in forward."""

    @property
    def outputs(self) -> int:
        """1: the loss; 2: the loss and its metrics."""

    @property
    def reduced(self) -> bool:
        """Whether the loss is a scalar, and gradients that are made early are known up to the upstream gradient."""

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor, ...], Gradients]:
        """(outputs, what backward needs besides the tensors: the gradients if `early`, else a state)"""

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        """The gradients, from the state of `forward`: of a loss whose gradients are not made early, or not reduced.

        If a loss that is not reduced makes them early (for upstream gradients of 1), they are the state; an empty one
        where an earlier backward has used them up.
        """

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        """The loss by the reference body, differentiable."""


# ------------------------------------------------------------------------------------------ what is asked of torch


def pure() -> bool:
    """Whether this call is traced by torch.compile, or transformed by torch.func."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def gradient_wanted(tensor: Tensor) -> bool:
    """Whether somebody differentiates by this tensor. Under torch.func it may be a wrapper of the one that knows."""
    if not torch.is_grad_enabled():
        return False
    if tensor.requires_grad or torch.compiler.is_compiling():
        return tensor.requires_grad
    while not tensor.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def differentiated(tensor: Tensor) -> bool:
    """Whether somebody may differentiate by this tensor: in forward mode too, of which no tensor knows, or in a program
    that is recorded now and trained later."""
    return gradient_wanted(tensor) or leaves() or differentiation_refused() is not None


def _saved_elsewhere() -> bool:
    """Whether there are hooks that take what is saved for backward (torch.utils.checkpoint, save_on_cpu)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def transformed(upstream: Tensor) -> bool:
    """Whether somebody differentiates or batches the backward that runs now: it then consists of torch's operations.

    create_graph=True does the one, is_grads_batched=True (jacobian(vectorize=True)) the other.
    """
    batched = torch._C._functorch.is_legacy_batchedtensor(upstream) or torch._C._are_functorch_transforms_active()
    return batched or torch.is_grad_enabled()


def _plain(tensor: Tensor) -> Tensor:
    """A tensor made under torch.inference_mode, which torch refuses to save, as a plain one on its memory."""
    plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _overlaps(tensor: Tensor) -> bool:
    """Whether two elements may lie at one place, as in an expanded tensor."""
    extent = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride < extent:
            return True
        extent += (size - 1) * stride
    return False


# ------------------------------------------------------------------------------------------ the calls


def differentiate(problem: Problem, namespace: str, tensors: Sequence[Tensor]) -> Any:
    """The outputs of a problem, differentiable: the loss, or (loss, metrics).

    Args:
        namespace: whose operators compute it.
    """
    if pure():
        results = _Pure.apply(problem, namespace, *_each_once(tensors))
        return results[0] if problem.outputs == 1 else results[: problem.outputs]
    if problem.wanted:
        return _apply(problem, namespace, *tensors)
    with torch.no_grad():  # constants may require a gradient, too; an operator by itself would make a graph of them
        outputs, _ = problem.forward(namespace, tensors, False)
    return outputs[0] if problem.outputs == 1 else outputs


def differentiate_in_place(problem: Problem, namespace: str, tensors: Sequence[Tensor]) -> Tensor:
    """As :func:`differentiate`; the gradient overwrites the first tensor, the only one that is wanted."""
    if pure() or not problem.wanted or not problem.early or _saved_elsewhere():
        return differentiate(problem, namespace, tensors)
    first = tensors[0]
    if _overlaps(first):  # one number is several logits, and has room for one gradient
        return differentiate(problem, namespace, tensors)
    base = first._base if first._is_view() else first
    if base is not None and base.is_leaf and base.requires_grad:
        raise RuntimeError("fastloss: inplace=True would overwrite a leaf tensor that requires grad")
    return _InPlace.apply(problem, namespace, *tensors)


# ------------------------------------------------------------------------------------------ eager


class _Eager(Function):
    """(problem, namespace, tensors) -> loss, or (loss, metrics)"""

    @staticmethod
    def forward(ctx: Any, problem: Problem, namespace: str, *tensors: Tensor) -> Any:
        early = problem.early and not _saved_elsewhere()
        outputs, known = problem.forward(namespace, tensors, early)
        ctx.problem, ctx.namespace, ctx.ready = problem, namespace, known if early else None
        kept = tensors if problem.early else (*tensors, *known)
        ctx.save_for_backward(*[_plain(x) if x.is_inference() else x for x in kept])
        if len(outputs) == 1:
            return outputs[0]
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
        problem, namespace, saved = ctx.problem, ctx.namespace, ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 2
        tensors, state = saved[:count], saved[count:]
        if transformed(upstream):
            found = differentiable(problem, upstream, tensors)
        else:
            ready, ctx.ready = ctx.ready, None
            if problem.early and problem.reduced:
                if ready is None:  # handed on by an earlier backward, or not made because of hooks: the same bits
                    _, ready = problem.forward(namespace, tensors, True)
                found = scaled(ready, upstream, namespace)
            else:
                found = problem.gradients(namespace, tensors, state if ready is None else ready, upstream)
        return None, None, *_spread(found, problem.wanted, tensors)


# Function.apply itself, without the Python around it (3 us) that looks for torch.func: there is none here.
_apply = super(Function, _Eager).apply


class _InPlace(Function):
    """_Eager whose gradient overwrites the first tensor."""

    @staticmethod
    def forward(ctx: Any, problem: Any, namespace: str, *tensors: Tensor) -> Tensor:
        ctx.namespace, ctx.others = namespace, len(tensors) - 1
        ctx.ready = tensors[0].detach()
        loss = problem.forward_in_place(namespace, (ctx.ready, *tensors[1:]))
        torch.autograd.graph.increment_version(tensors[0])  # whoever saved it learns that it is gone
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        if transformed(upstream) or ctx.ready is None:
            raise RuntimeError(
                "fastloss: inplace=True overwrote the logits with their gradient, which serves one backward pass; "
                "pass inplace=False for retain_graph=True or create_graph=True"
            )
        ready, ctx.ready = ctx.ready, None
        return None, None, *scaled((ready,), upstream, ctx.namespace), *[None] * ctx.others


def _has_value(upstream: Tensor) -> bool:
    """Whether the value may decide what is done: not a FakeTensor's, which has none, nor one that a mode records."""
    return type(upstream) is Tensor and not torch._C._len_torch_dispatch_stack()


def scaled(gradients: Gradients, upstream: Tensor, namespace: str) -> Gradients:
    """Gradients that nobody else holds, times the upstream gradient of a scalar loss: in place."""
    if not upstream.is_cpu:
        scale_ = getattr(torch.ops, namespace).scale_.default  # reads the factor on the device
        for gradient in gradients:
            scale_(_as_memory(gradient), upstream)
    elif not _has_value(upstream) or upstream.item() != 1.0:
        for gradient in gradients:
            gradient.mul_(upstream)
    return gradients


def _as_memory(gradient: Tensor) -> Tensor:
    """(1, numel) where the gradient fills a block of memory, in whatever order; else as it is."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(gradient.stride(), gradient.shape, strict=True) if n != 1):
        if stride != expected:
            return gradient
        expected *= size
    return gradient.as_strided((1, expected), (expected, 1))


def _spread(gradients: Gradients, wanted: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients in the places of the tensors, each with the shape of its tensor."""
    result: list[Tensor | None] = [None] * len(tensors)
    for place, gradient in zip(wanted, gradients, strict=True):
        shape = tensors[place].shape
        gradient = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
        before = result[place]
        result[place] = gradient if before is None else before + gradient
    return result


def differentiable(problem: Problem, upstream: Tensor, tensors: Sequence[Tensor]) -> Gradients:
    """The gradients as differentiable functions of the upstream gradient and the tensors, by the reference body."""

    def loss(*some: Tensor) -> Tensor:
        # the body rounds after every operation: of halves, once, as the kernels do
        return problem.reference([in_float32(x) for x in _replaced(tensors, problem.wanted, some)])

    value, pullback = torch.func.vjp(loss, *(tensors[place] for place in problem.wanted))  # type: ignore[misc]
    return pullback(upstream.to(value.dtype))


def _replaced(tensors: Sequence[Tensor], places: Sequence[int], some: Sequence[Tensor]) -> list[Tensor]:
    result = list(tensors)
    for place, tensor in zip(places, some, strict=True):
        result[place] = tensor
    return result


def _of_operand(cotangent: Tensor, shape: torch.Size) -> Tensor:
    """Of the gradient by a broadcast operand, which is of the whole shape, the cotangent for the operand's shape.

    Whoever got that gradient summed it (`_spread`), so all cotangents of one number of the operand are the same.
    """
    if cotangent.shape == shape:
        return cotangent
    if not cotangent.numel():
        return cotangent.new_zeros(shape)
    leading = [0] * (cotangent.dim() - len(shape))
    index = (*leading, *(slice(1) if size == 1 else slice(None) for size in shape))
    return cotangent[index]


# ------------------------------------------------------------------------------------------ transforms, torch.compile


def _without_context(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dynamo (2.13) tells from the number of parameters whether forward takes a ctx, and so gives one to *inputs."""
    return inputs if isinstance(inputs[0], tuple) else inputs[1:]


def _each_once(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """(places, tensors): the tensors without repetitions, which Dynamo (2.13) refuses, and where each belongs."""
    single: list[Tensor] = []
    places = []
    for tensor in tensors:
        known = [k for k, other in enumerate(single) if other is tensor]
        places.append(known[0] if known else len(single))
        if not known:
            single.append(tensor)
    return tuple(places), *single


class _Pure(Function):
    """(problem, namespace, places, tensors) -> (outputs, what backward needs besides the tensors)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        problem, namespace, places, *single = _without_context(inputs)
        outputs, known = problem.forward(namespace, [single[k] for k in places], problem.early)
        return (*outputs, *known)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.problem, ctx.namespace, ctx.places, *single = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros in the place of the gradients' gradients
        ctx.save_for_backward(*single, *output[ctx.problem.outputs :])
        ctx.count = len(single)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if upstream is None:
            return None, None, None, *[None] * ctx.count
        problem, saved = ctx.problem, ctx.saved_tensors
        found = _Twice.apply(problem, ctx.namespace, ctx.places, ctx.count, upstream, *saved)
        return None, None, None, *_spread(found, [ctx.places[k] for k in problem.wanted], saved[: ctx.count])


class _Twice(Function):
    """The gradients of `_Pure`, themselves differentiable: through the reference body."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        problem, namespace, places, count, upstream, *saved = _without_context(inputs)
        known = saved[count:]
        if problem.early:
            return tuple((gradient * upstream).to(gradient.dtype) for gradient in known)
        return tuple(problem.gradients(namespace, [saved[k] for k in places], known, upstream))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.problem, _, ctx.places, count, upstream, *saved = inputs
        ctx.known = len(saved) - count
        ctx.save_for_backward(upstream, *saved[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        problem = ctx.problem
        upstream, *single = ctx.saved_tensors
        tensors = [single[k] for k in ctx.places]
        places = problem.differentiable  # torch has losses that refuse to be differentiated by all of their operands

        def gradients(upstream: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
            return tuple(differentiable(problem, upstream, _replaced(tensors, places, some)))

        given = tuple(
            _of_operand(cotangent, tensors[place].shape)
            for cotangent, place in zip(cotangents, problem.wanted, strict=True)
        )
        _, pullback = torch.func.vjp(gradients, upstream, *(tensors[place] for place in places))  # type: ignore[misc]
        of_upstream, *found = pullback(given)
        result = _spread(found, [ctx.places[k] for k in places], single)
        return None, None, None, None, of_upstream, *result, *[None] * ctx.known
