"""Makes Triton's interpreter faithful enough to test with, and strict. Import it before launching anything.

Repairs (triton 3.6 .. 3.9):
* bfloat16 is rounded to nearest even when stored, and upcast right; arithmetic on it is an error here, because the
  kernels must upcast right after the load (the interpreter would compute on the bit patterns);
* a Python float argument is fp32, as in a compiled kernel;
* numpy >= 2.4 with triton 3.6: an integer tensor of one element can be used as an index.

Checks:
* every active lane of a load or store lies inside a tensor argument (the error names argument and program);
* lanes that are masked off without `other` read NaN or garbage;
* a hint (tl.multiple_of) is true;
* programs can run in a shuffled order; requested bytes are counted;
* what torch.empty returns is NaN.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as source

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"

Builder, Handle = source.InterpreterBuilder, source.TensorHandle


@dataclass
class Launch:
    """What is known while a kernel runs, and what is counted."""

    extents: list[tuple[int, int, str]] = field(default_factory=list)  # first byte, end, argument
    order: list[int] | None = None
    shuffle_seed: int | None = None
    loaded: int = 0  # bytes
    stored: int = 0


launch = Launch()


@contextmanager
def shuffled(seed: int):
    launch.shuffle_seed = seed
    try:
        yield
    finally:
        launch.shuffle_seed = None


@contextmanager
def counted_bytes():
    """Yields an object whose loaded and stored are the bytes that active lanes requested."""
    launch.loaded = launch.stored = 0
    yield launch


# ---------------------------------------------------------------------------------------------------------- repairs


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def repair_bfloat16() -> None:
    cast, to_float = Builder.cast_impl, Builder.create_fp_to_fp

    def cast_impl(self: Any, value: Any, target: Any) -> Any:
        before, after = value.dtype.scalar, target.scalar
        if before == tl.bfloat16 and after != tl.bfloat16:
            assert after == tl.float32, "bfloat16 is upcast to float32"
            return Handle(bfloat16_to_float32(value.data), tl.float32)
        if after == tl.bfloat16 and before != tl.bfloat16:
            return Handle(float32_to_bfloat16(value.data.astype(np.float32)), tl.bfloat16)
        return cast(self, value, target)

    def create_fp_to_fp(self: Any, value: Any, target: Any, rounding: Any) -> Any:
        if tl.bfloat16 in (value.dtype.scalar, target.scalar):
            return cast_impl(self, value, target)
        return to_float(self, value, target, rounding)

    def refuse(name: str) -> None:
        original = getattr(Builder, name)

        def operation(self: Any, *args: Any) -> Any:
            for arg in args:
                if isinstance(arg, Handle):
                    assert arg.dtype.scalar.name != tl.bfloat16.name, f"{name} on bfloat16: upcast right after the load"
            return original(self, *args)

        setattr(Builder, name, operation)

    Builder.cast_impl, Builder.create_fp_to_fp = cast_impl, create_fp_to_fp
    for name in ("binary_op", "unary_op"):
        refuse(name)


def repair_arguments() -> None:
    convert, patch_tensor = source._implicit_cvt, source._patch_lang_tensor

    def implicit_cvt(argument: Any) -> Any:
        if isinstance(argument, float):
            return tl.core.tensor(Handle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)
        return convert(argument)

    def patch_lang_tensor(tensor: Any, *scope: Any) -> None:
        def index(self: Any) -> int:
            return int(np.asarray(self.handle.data).item())

        patch_tensor(tensor, *scope)
        if scope:
            scope[0].set_attr(tensor, "__index__", index)
        else:
            tensor.__index__ = index

    source._implicit_cvt, source._patch_lang_tensor = implicit_cvt, patch_lang_tensor


def patch_the_language_once() -> None:
    """The interpreter patches triton.language anew in every call of a device function: half of the time of a test."""
    patch, functions, done = source._patch_lang, set(), set()

    class Kept:
        def restore(self) -> None:
            pass

    def patch_lang(function: Any) -> Kept:
        if function not in functions:
            functions.add(function)
            modules = frozenset(value.__name__ for value in function.__globals__.values() if value in (tl, tl.core))
            if modules not in done:
                done.add(modules)
                patch(function)
        return Kept()

    source._patch_lang = patch_lang


def describe_types_once() -> None:
    """Every operation makes a type and a tensor of it, compares its shape with another, asks for numpy's name of it:
    half of the time of a test. What the constructors of equal types set is the same, so it is kept and shared."""
    block_init, tensor_init, numpy_dtype = tl.block_type.__init__, tl.tensor.__init__, source._get_np_dtype
    broadcast = TritonSemantic.broadcast_impl_value
    blocks: dict[Any, dict[str, Any]] = {}  # by name of the element type and shape, what a block type has
    shapes: dict[Any, Any] = {}
    dtypes: dict[str, np.dtype] = {}

    def init_block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in blocks:
            block_init(self, element_ty, shape)
            self.shape = shapes.setdefault(key[1:], self.shape)
            blocks[key] = self.__dict__
        self.__dict__ = blocks[key]

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        known = type.__dict__.get("of_a_tensor")
        if known is None:
            tensor_init(self, handle, type)
            known = type.__dict__["of_a_tensor"] = dict(self.__dict__)
        self.__dict__.update(known)
        self.handle = handle

    def get_np_dtype(type: Any) -> np.dtype:
        element = type.scalar
        if element.name not in dtypes:
            dtypes[element.name] = numpy_dtype(element)
        return dtypes[element.name]

    def broadcast_impl_value(self: Any, left: Any, right: Any) -> Any:
        if left.type.is_block() and right.type.is_block() and left.type.shape is right.type.shape:
            return left, right
        return broadcast(self, left, right)

    tl.block_type.__init__, tl.tensor.__init__, source._get_np_dtype = init_block, init_tensor, get_np_dtype
    TritonSemantic.broadcast_impl_value = broadcast_impl_value


# ----------------------------------------------------------------------------------------------------------- checks


def check_addresses(pointers: Any, mask: np.ndarray, what: str) -> int:
    """Raises IndexError for an active lane outside the arguments; returns the bytes that the active lanes request."""
    size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    addresses, active = np.broadcast_arrays(pointers.data, mask.astype(bool))
    addresses = addresses[active].astype(np.uint64)
    inside = np.zeros(addresses.shape, dtype=bool)
    for first, end, _ in launch.extents:
        inside |= (addresses >= first) & (addresses + np.uint64(size) <= end)
    if not inside.all():
        bad = int(addresses[~inside][0])
        first, end, name = min(launch.extents, key=lambda e: min(abs(bad - e[0]), abs(bad - e[1])))
        raise IndexError(
            f"out-of-bounds {what}: {int((~inside).sum())} of {addresses.size} lanes; the first is {bad - first:+d} "
            f"bytes from the start of '{name}' ({end - first} bytes); program {source.interpreter_builder.grid_idx}"
        )
    return addresses.size * size


def check_accesses() -> None:
    load, store = Builder.create_masked_load, Builder.create_masked_store

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
        launch.loaded += check_addresses(pointers, np.asarray(mask.data), "load")
        if other is None:
            element = pointers.get_element_ty()
            dtype = np.dtype(source._get_np_dtype(element))
            garbage = np.nan if dtype.kind == "f" else 0x7FC0 if element == tl.bfloat16 else 0x5B
            other = Handle(np.full(pointers.data.shape, garbage, dtype=dtype), element)
        return load(self, pointers, mask, other, *rest, **named)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        launch.stored += check_addresses(pointers, np.asarray(mask.data), "store")
        return store(self, pointers, value, mask, *rest, **named)

    Builder.create_masked_load, Builder.create_masked_store = masked_load, masked_store


def check_hints() -> None:
    set_attr = Handle.set_attr

    def checked(self: Any, name: str, values: list[int]) -> None:
        if name == "tt.divisibility":
            assert (self.data.astype(np.int64) % values[0] == 0).all(), (
                f"multiple_of({values}) is not true; program {source.interpreter_builder.grid_idx}"
            )
        set_attr(self, name, values)

    Handle.set_attr = checked


def track_launches() -> None:
    """CPU tensors are used in place (the interpreter would copy whole storages), their extents are noted."""
    set_dim, set_index = Builder.set_grid_dim, Builder.set_grid_idx

    def tensors(name: str, argument: Any) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(argument, torch.Tensor):
            yield name, argument
        elif isinstance(argument, tuple):
            for k, element in enumerate(argument):
                yield from tensors(f"{name}[{k}]", element)

    def init_args_hst(self: Any, args: Any, kwargs: Any) -> Any:
        launch.extents = []
        arguments = (*zip(self.arg_names, args, strict=False), *kwargs.items())
        for name, tensor in (pair for argument in arguments for pair in tensors(*argument)):
            if tensor.numel():
                last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                first = tensor.data_ptr()
                launch.extents.append((first, first + (last + 1) * tensor.element_size(), name))
        return args, kwargs

    def set_grid_dim(self: Any, *dims: int) -> None:
        set_dim(self, *dims)
        launch.order = None
        if launch.shuffle_seed is not None:
            launch.order = list(range(dims[0]))
            random.Random(launch.shuffle_seed).shuffle(launch.order)

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        set_index(self, launch.order[x] if launch.order else x, y, z)

    source.GridExecutor._init_args_hst = init_args_hst
    source.GridExecutor._restore_args_dev = lambda *_: None
    Builder.set_grid_dim, Builder.set_grid_idx = set_grid_dim, set_grid_idx


source.interpreter_builder.options = source.InterpreterOptions(debug=True, sanitize_overflow=False)  # as launched
repair_bfloat16()
repair_arguments()
patch_the_language_once()
describe_types_once()
check_accesses()
check_hints()
track_launches()
np.seterr(all="ignore")  # masked lanes and special values compute NaN on purpose
torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import Inductor, for 2 s
torch.utils.deterministic.fill_uninitialized_memory = True
