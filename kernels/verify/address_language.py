"""A stand-in for `triton.language` that knows addresses and leaves values out.

Index arithmetic is done in NumPy; of a loaded value `Blank` knows the shape alone; each load and
store tells the traffic model its addresses. address_trace.py runs kernels with it.

Not covered: values, so a branch on a loaded value is taken, an offset that was loaded is 0 and a
mask that was loaded is true.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import triton.language as tl

Shape = tuple[int, ...]


@lru_cache(maxsize=4096)
def _joint(a: Shape, b: Shape) -> Shape:
    return np.broadcast_shapes(a, b)


def _shape(value: Any) -> Shape:
    return getattr(value, "shape", ())


class Index(np.ndarray):
    """Integers or truth values that are known."""

    def to(self, dtype: Any, **_: Any) -> "Index":
        return self


class Scalar(int):
    """A known integer; Triton's have a `to`."""

    def to(self, dtype: Any, **_: Any) -> "Scalar":
        return self


def _scalar(operation: str) -> Callable[[Scalar, Any], Any]:
    plain = getattr(int, operation)

    def method(self: Scalar, other: Any) -> Any:
        result = plain(self, other)
        return Scalar(result) if type(result) is int else result

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod", "and", "or"):
    setattr(Scalar, f"__{_name}__", _scalar(f"__{_name}__"))


class Blank:
    """A tile (or scalar) whose values are left out."""

    __array_ufunc__ = None  # so that NumPy lets the reflected operators below answer

    def __init__(self, shape: Shape, dtype: Any = tl.float32) -> None:
        self.shape, self.dtype = shape, dtype

    def _with(self, other: Any = None) -> "Blank":
        if isinstance(other, Pointer):
            return NotImplemented
        return Blank(_joint(self.shape, _shape(other)), self.dtype)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _with
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _with
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _with
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _with
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _with  # type: ignore[assignment]
    __neg__ = __invert__ = _with
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, at: Any) -> "Blank":
        sizes = iter(self.shape)
        items = at if isinstance(at, tuple) else (at,)
        return Blank(tuple(1 if item is None else next(sizes) for item in items), self.dtype)

    def to(self, dtype: Any, **_: Any) -> "Blank":
        return Blank(self.shape, dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "T":
            return Blank(self.shape[::-1], self.dtype)
        return lambda *args, **kwargs: getattr(Language(None), name)(self, *args, **kwargs)


class Pointer:
    """`first + (rows + columns + rest) · size`, the three kept apart: see TrafficModel.tile."""

    __array_ufunc__ = None

    def __init__(
        self, first: int, type_: Any, size: int, parts: Any = (0, 0, 0), loaded: bool = False
    ) -> None:
        self.first, self.dtype, self.size, self.parts = first, type_, size, parts
        self.loaded = loaded  # whether an offset was

    def __add__(self, offset: Any) -> "Pointer":
        rows, columns, rest = self.parts
        first, loaded = self.first, self.loaded
        if isinstance(offset, Blank):
            offset, loaded = np.zeros(offset.shape, np.int64), True
        if not _shape(offset):
            first += int(offset) * self.size
        elif len(offset.shape) == 2 and offset.shape[1] == 1:
            rows = rows + offset
        elif len(offset.shape) == 2 and offset.shape[0] == 1:
            columns = columns + offset
        else:
            rest = rest + offset
        return Pointer(first, self.dtype, self.size, (rows, columns, rest), loaded)

    __radd__ = __add__

    @property
    def shape(self) -> Shape:
        rows, columns, rest = self.parts
        return _joint(_joint(_shape(rows), _shape(columns)), _shape(rest))

    def touch(self, model: Any, mask: Any, store: bool, shape: Shape) -> None:
        rows, columns, rest = self.parts
        model.assumptions += self.loaded or isinstance(mask, Blank)
        if isinstance(mask, Blank):
            shape, mask = _joint(shape, mask.shape), True
        every = bool(np.all(mask))
        if every and not _shape(rest) and _shape(rows) and _shape(columns):
            model.tile(self.first, rows + rest, columns, self.size, store)
            return
        offsets = np.broadcast_to(np.asarray(rows + columns + rest, np.int64), shape)
        if not every:
            offsets = offsets[np.broadcast_to(mask, shape)]
        (model.store if store else model.load)(self.first + offsets * self.size, self.size)


class Language:
    """Stands in for `triton.language` while a kernel is walked through."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.grid: Shape = (1, 1, 1)
        self.range = self.static_range = lambda *args, **_: range(*args)

    def __getattr__(self, name: str) -> Any:
        original = getattr(tl, name)
        if isinstance(original, tl.dtype) or not callable(original):
            return original
        return lambda *args, **kwargs: _blank(*args)

    def constexpr(self, value: Any) -> Any:
        return value

    def program_id(self, axis: int) -> Scalar:
        return Scalar(self.model.program[axis])

    def num_programs(self, axis: int) -> int:
        return self.grid[axis]

    def arange(self, start: int, end: int) -> Index:
        return np.arange(start, end, dtype=np.int64).view(Index)

    def load(self, pointer: Pointer, mask: Any = True, other: Any = None, **_: Any) -> Blank:
        shape = _joint(pointer.shape, _shape(mask))
        pointer.touch(self.model, mask, False, shape)
        return Blank(shape, pointer.dtype.element_ty)

    def store(
        self, pointer: Pointer, value: Any, mask: Any = True, eviction_policy: str = "", **_: Any
    ) -> None:
        self.model.bypass = eviction_policy == "evict_first"
        shape = _joint(_joint(pointer.shape, _shape(mask)), _shape(value))
        pointer.touch(self.model, mask, True, shape)

    def dot(self, a: Any, b: Any, acc: Any = None, **_: Any) -> Blank:
        self.model.dot(a.shape[-2], b.shape[-1], a.shape[-1])
        return Blank((*a.shape[:-1], b.shape[-1]))

    def zeros(self, shape: Any, dtype: Any) -> Blank:
        return Blank(tuple(shape), dtype)

    def full(self, shape: Any, value: Any, dtype: Any) -> Any:
        if isinstance(value, int) and dtype.is_int():
            return np.full(tuple(shape), value, np.int64).view(Index)
        return Blank(tuple(shape), dtype)

    def cdiv(self, a: int, b: int) -> int:
        return -(-a // b)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return self._compute(np.where, condition, yes, no)

    def minimum(self, a: Any, b: Any, **_: Any) -> Any:
        return self._compute(np.minimum, a, b)

    def maximum(self, a: Any, b: Any, **_: Any) -> Any:
        return self._compute(np.maximum, a, b)

    def _compute(self, function: Callable[..., Any], *args: Any) -> Any:
        if any(isinstance(a, (Blank, float)) for a in args):
            return _blank(*args)
        result = function(*args)
        return result.view(Index) if result.ndim else result.item()

    def trans(self, value: Any, *axes: Any) -> Any:
        order = (axes[0] if axes and isinstance(axes[0], (tuple, list)) else axes) or (1, 0)
        if isinstance(value, Blank):
            return Blank(tuple(value.shape[a] for a in order), value.dtype)
        return value.transpose(order)

    permute = trans

    def reshape(self, value: Any, *shape: Any, **_: Any) -> Any:
        to = tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else tuple(shape)
        return Blank(to, value.dtype) if isinstance(value, Blank) else value.reshape(to)

    view = reshape

    def expand_dims(self, value: Any, axis: int) -> Any:
        at = [slice(None)] * len(value.shape)
        at.insert(axis if axis >= 0 else len(at) + 1 + axis, None)  # type: ignore[arg-type]
        return value[tuple(at)]

    def broadcast_to(self, value: Any, *shape: Any) -> Any:
        to = tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else tuple(shape)
        return Blank(to, value.dtype) if isinstance(value, Blank) else value + np.zeros(to, int)

    def join(self, a: Any, b: Any) -> Blank:
        return Blank((*_joint(_shape(a), _shape(b)), 2), getattr(a, "dtype", tl.float32))

    def interleave(self, a: Any, b: Any) -> Blank:
        shape = _joint(_shape(a), _shape(b))
        return Blank((*shape[:-1], 2 * shape[-1]), getattr(a, "dtype", tl.float32))

    def split(self, value: Any) -> tuple[Blank, Blank]:
        return Blank(value.shape[:-1], value.dtype), Blank(value.shape[:-1], value.dtype)

    def sum(self, value: Any, axis: int | None = None, keep_dims: bool = False, **_: Any) -> Blank:
        shape = list(_shape(value))
        for at in range(len(shape)) if axis is None else [axis]:
            shape[at] = 1 if keep_dims else 0
        return Blank(tuple(n for n in shape if n), getattr(value, "dtype", tl.float32))

    max = min = argmax = argmin = xor_sum = sum

    def rand(self, seed: Any, offset: Any, *_: Any) -> Blank:
        return Blank(_shape(offset))


def _blank(*args: Any) -> Blank:
    shape: Shape = ()
    for argument in args:
        shape = _joint(shape, _shape(argument))
    return Blank(shape, next((a.dtype for a in args if isinstance(a, Blank)), tl.float32))
