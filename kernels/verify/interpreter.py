"""Triton's interpreter, made right for bfloat16 and made to tell what a kernel touches.

The interpreter runs a kernel program by program in NumPy, without a GPU. In triton 3.7.1 its
bfloat16 is unusable: dot multiplies the raw bits, a cast truncates. `repair` mends both; it is
called on import when TRITON_INTERPRET=1. What no interpreter shows is what the compiler does:
contracted multiply-adds, approximate division, TF32. compile_matrix.py looks at those.

Not covered: atomics and inline assembly, which no kernel here uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton.ir import EVICTION_POLICY
from triton.runtime import interpreter

from trivet.kernels.ops.kernel import INTERPRETED, Kernel, observe_launches

EVICT_FIRST = EVICTION_POLICY.EVICT_FIRST


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 as bfloat16 bits (uint16), to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def repair(builder: Any) -> None:
    """Give `builder` a right bfloat16 dot and cast, and refuse other arithmetic on bfloat16."""
    handle = interpreter.TensorHandle
    dot, cast, to_fp, binary = (
        builder.create_dot,
        builder.cast_impl,
        builder.create_fp_to_fp,
        builder.binary_op,
    )

    def create_dot(a: Any, b: Any, d: Any, *rest: Any) -> Any:
        a, b = (
            handle(widen(t.data), tl.float32) if t.dtype.scalar == tl.bfloat16 else t
            for t in (a, b)
        )
        return dot(a, b, d, *rest)

    def cast_impl(src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.bfloat16 and dst_type.scalar != tl.bfloat16:
            src = handle(widen(src.data), tl.float32)
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar != tl.bfloat16:
            return handle(narrow(src.data.astype(np.float32)), tl.bfloat16)
        return cast(src, dst_type)

    def create_fp_to_fp(src: Any, dst_type: Any, rounding: Any) -> Any:
        if tl.bfloat16 in (src.dtype.scalar, dst_type.scalar):
            return cast_impl(src, dst_type)
        return to_fp(src, dst_type, rounding)

    def binary_op(lhs: Any, rhs: Any, op: Any) -> Any:
        if tl.bfloat16 in (lhs.dtype.scalar, rhs.dtype.scalar):
            raise TypeError("arithmetic on bfloat16: widen to float32 first")
        return binary(lhs, rhs, op)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    builder.create_fp_to_fp, builder.binary_op = create_fp_to_fp, binary_op


if INTERPRETED:
    repair(interpreter.interpreter_builder)


class Access:
    """What a launch touches; subclasses judge it. One instance may watch many launches.

    `load` and `store` get the byte addresses that are not masked out, the element's bytes and the
    program's (x, y, z); `dot` gets the three sizes M, N, K.
    """

    program = (0, 0, 0)
    bypass = False  # the store at hand asks to be evicted first

    def begin(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        """A launch starts."""

    def end(self) -> None:
        """The launch is over."""

    def load(self, addresses: np.ndarray, size: int) -> None:
        """The present program reads."""

    def store(self, addresses: np.ndarray, size: int) -> None:
        """The present program writes."""

    def dot(self, m: int, n: int, k: int) -> None:
        """The present program multiplies."""


@contextmanager
def observe_accesses(access: Access) -> Iterator[Access]:
    """Tell `access` of each launch and of each load, store and dot in it."""
    builder: Any = interpreter.interpreter_builder
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot

    def create_masked_load(ptrs: Any, mask: Any, *rest: Any) -> Any:
        access.program = builder.grid_idx
        size = interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize
        access.load(_unmasked(ptrs, mask), size)
        return load(ptrs, mask, *rest)

    def create_masked_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        access.program = builder.grid_idx
        size = interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize
        access.bypass = rest[-1] == EVICT_FIRST
        access.store(_unmasked(ptrs, mask), size)
        return store(ptrs, value, mask, *rest)

    def create_dot(a: Any, b: Any, *rest: Any) -> Any:
        access.dot(a.data.shape[-2], b.data.shape[-1], a.data.shape[-1])
        return dot(a, b, *rest)

    builder.create_masked_load, builder.create_masked_store = (
        create_masked_load,
        create_masked_store,
    )
    builder.create_dot = create_dot
    try:
        with observe_launches(access):
            yield access
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        builder.create_dot = dot


def _unmasked(pointers: Any, mask: Any) -> np.ndarray:
    keep = np.broadcast_to(mask.data.astype(bool), pointers.data.shape)
    return pointers.data[keep]


class Checker(Access):
    """Raises on a read or write outside the launch's tensors, and on a race between programs.

    A race is an address that one program writes and another reads or writes in the same launch.
    """

    def begin(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        self.kernel = kernel
        spans = [span(t) for t in args if isinstance(t, torch.Tensor) and t.numel()]
        self.starts = np.array([s for s, _ in spans], np.uint64)
        self.ends = np.array([e for _, e in spans], np.uint64)
        self.reads: list[tuple[np.ndarray, int]] = []
        self.writes: list[tuple[np.ndarray, int]] = []

    def load(self, addresses: np.ndarray, size: int) -> None:
        self._inside(addresses, size, "reads")
        self.reads.append((addresses.ravel(), self._number()))

    def store(self, addresses: np.ndarray, size: int) -> None:
        self._inside(addresses, size, "writes")
        self.writes.append((addresses.ravel(), self._number()))

    def end(self) -> None:
        if not self.writes:
            return
        address, owner = _flat(self.writes)
        order = np.argsort(address, kind="stable")
        address, owner = address[order], owner[order]
        if np.any((address[1:] == address[:-1]) & (owner[1:] != owner[:-1])):
            raise AssertionError(f"{self.kernel.name}: two programs write the same element")
        read, reader = _flat(self.reads) if self.reads else (address[:0], owner[:0])
        at = np.searchsorted(address, read).clip(0, len(address) - 1)
        if np.any((address[at] == read) & (owner[at] != reader)):
            raise AssertionError(f"{self.kernel.name}: a program reads what another one writes")

    def _number(self) -> int:
        x, y, z = self.program
        return (x << 40) | (y << 20) | z

    def _inside(self, addresses: np.ndarray, size: int, does: str) -> None:
        flat = addresses.ravel()[:, None]
        good = ((flat >= self.starts) & (flat + np.uint64(size) <= self.ends)).any(1)
        if not good.all():
            raise AssertionError(
                f"{self.kernel.name}: program {self.program} {does} {int((~good).sum())} elements "
                "outside the launch's tensors"
            )


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and one past the last byte that `tensor`'s elements cover."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def _flat(parts: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    address = np.concatenate([a for a, _ in parts])
    owner = np.concatenate([np.full(len(a), n, np.int64) for a, n in parts])
    return address, owner
