"""A launch run for its addresses alone: the shapes of real models, without a GPU.

Triton's interpreter needs 6 ms for one step of a 128 × 128 tile, so 8192 × 4096 × 4096 would take a
quarter of an hour. Here the kernel's own Python runs with address_language.py in the place of
`triton.language`. Tensors may be on the meta device; no memory is touched.

Not covered: values, see there. tests/unit/kernels/test_traffic_model.py compares with the
interpreter, kernel by kernel.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
import triton.language as tl
from triton.runtime.jit import mangle_type

from trivet.kernels.ops.kernel import Kernel, replace_launches
from trivet.kernels.verify.address_language import Language, Pointer, Scalar, Shape
from trivet.kernels.verify.traffic_model import TrafficModel


def _plain(fn: Any, language: Language, copies: dict[Any, Any]) -> Any:
    """`fn`'s own Python, with `language` for `tl` and the same done to the functions it calls."""
    if fn in copies:
        return copies[fn]
    code = fn.fn
    scope: dict[str, Any] = {}
    plain = copies[fn] = FunctionType(
        code.__code__, scope, code.__name__, code.__defaults__, code.__closure__
    )
    for name, value in code.__globals__.items():
        if value is tl:
            value = language
        elif isinstance(value, tl.constexpr):
            value = value.value
        elif name in code.__code__.co_names and callable(getattr(value, "fn", None)):
            value = _plain(value, language, copies)
        scope[name] = value
    return plain


@contextmanager
def trace_addresses(model: TrafficModel) -> Iterator[TrafficModel]:
    """Launches are run for `model`'s count alone; their tensors may be meta tensors."""

    def trace(
        kernel: Kernel, grid: Shape, args: tuple[Any, ...], constants: Mapping[str, Any]
    ) -> None:
        language = Language(model)
        language.grid = (*grid, 1, 1)[:3]
        run = _plain(kernel.fn, language, {})
        places: dict[int, int] = {}
        arguments = [_argument(a, places) for a in args]
        model.begin(kernel, args)
        nx, ny, nz = language.grid
        for z in range(nz):
            for y in range(ny):
                for x in range(nx):
                    model.program = (x, y, z)
                    run(*arguments, **constants)
        model.end()

    with replace_launches(trace):
        yield model


def _argument(value: Any, places: dict[int, int]) -> Any:
    """A tensor becomes a pointer into a place of its storage's own."""
    if type(value) is int:
        return Scalar(value)
    if not isinstance(value, torch.Tensor):
        return value
    storage = value.untyped_storage()._cdata
    size = value.element_size()
    first = (places.setdefault(storage, len(places) + 1) << 44) + int(value.storage_offset()) * size
    type_ = tl.str_to_ty(mangle_type(value), None)
    return Pointer(first, type_, size)
