"""What a kernel file says of its kernels, so that no other list need be kept.

A file in this folder that holds kernels ends with `OP = Op(...)`. From that alone the tests draw
shapes and compare with float64, the compile matrix compiles for each target, the meter counts
bytes, and the tables are printed. Adding a kernel is adding a file and its name to `MODULES`.

Not covered: autotuning. A tile is chosen by target from a fixed table, so that a compiled kernel
is the one whose registers and traffic were looked at.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# name -> (backend, architecture, threads in a warp), as Triton's GPUTarget wants it
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
MODULES = ("lora", "dora", "nf4", "int4", "int8", "qlora", "loss", "norm", "rope", "swiglu")

Tensors = tuple[torch.Tensor, ...]
Dims = Mapping[str, int]


@dataclass(frozen=True)
class Tile:
    """The block sizes of one launch (constexpr name -> size), warps and pipeline stages."""

    sizes: Mapping[str, int]
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Kernel:
    """One `@triton.jit` function and how it ships.

    `signature`: each run-time argument's Triton type (`*bf16`, `i32`, `fp32`), in order, as the
    compile matrix compiles it. `constants`: the constexprs besides the tile's, one mapping for each
    variant that is compiled. `tiles`: by target; "*" for targets not named, and "interpreter" for
    the small tile of the tests. `matmul`: must use matrix instructions. `exact`: its bytes are
    promised equal to another implementation's, so no approximate division and no contracted FMA.
    """

    fn: Any
    signature: Mapping[str, str]
    tiles: Mapping[str, Tile]
    constants: tuple[Mapping[str, Any], ...] = ({},)
    matmul: bool = False
    exact: bool = False
    registers: int = 200  # at most, on sm_80 and sm_90
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or str(self.fn.__name__)

    def tile(self, target: str) -> Tile:
        return self.tiles.get(target) or self.tiles["*"]

    def launch(
        self, grid: Callable[[Mapping[str, int]], tuple[int, ...]], *args: Any, **constants: Any
    ) -> None:
        """Run over `grid(tile sizes)`; the tile is the present target's.

        Raises RuntimeError when there is neither a GPU nor the interpreter.
        """
        if walk := _walk.get():
            tile = self.tile(target())
            walk(self, grid(tile.sizes), args, {**constants, **tile.sizes})
            return
        if not INTERPRETED and not torch.cuda.is_available():
            raise RuntimeError(
                f"{self.name} is a GPU kernel and this machine has no GPU: use the operator, which "
                "runs plain torch on the CPU, or set TRITON_INTERPRET=1 before the first import."
            )
        tile = self.tile(target())
        observers = _observers.get()
        for observer in observers:
            observer.begin(self, args)
        self.fn[grid(tile.sizes)](
            *args,
            **constants,
            **tile.sizes,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=not self.exact,
        )
        for observer in observers:
            observer.end()


@dataclass(frozen=True)
class Case:
    """One call, three ways, on the same inputs; each gives the same tensors in the same order.

    `ours`: launches the Triton kernels, forward and backward. `eager`: plain torch at the inputs'
    dtype, as one writes it without this package. `truth`: the formula in float64.
    """

    ours: Callable[[], Tensors]
    eager: Callable[[], Tensors]
    truth: Callable[[], Tensors]


@dataclass(frozen=True)
class Op:
    """`case(dims, dtype, seed)` draws inputs of the sizes `dims` on the CPU.

    `dims`: for each name the sizes that tests draw from: odd, one, below and above a tile.
    `launches`: of one `ours()`. `error`: at most this many times eager's error. An op whose outputs
    are promised byte-equal has `error=0` and is compared with `eager`.
    """

    name: str
    kernels: tuple[Kernel, ...]
    case: Callable[[Dims, torch.dtype, int], Case]
    dims: Mapping[str, tuple[int, ...]]
    launches: int
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    error: float = 2.0


def ops() -> list[Op]:
    """Every kernel file's operators, in the order of MODULES."""
    found: list[Op] = []
    for name in MODULES:
        module = importlib.import_module(f"..{name}", __name__)
        found += getattr(module, "OPS", None) or [module.OP]
    return found


def error_ratio(op: Op, dims: Dims, dtype: torch.dtype, seed: int = 0) -> float:
    """‖ours − truth‖ / ‖eager − truth‖, the worst of the op's outputs; at most `op.error` is asked.

    Both norms run over several draws until each output has 256 elements (at most 32 draws): the
    ratio of two single rounding errors says nothing. What counts for eager is at least the error of
    rounding the truth to `dtype`, and a quarter of the unit roundoff: nobody does better than that.
    """
    squares: list[list[float]] = []
    for draw in range(32):
        case = op.case(dims, dtype, seed * 32 + draw)
        rows = list(zip(case.ours(), case.eager(), case.truth(), strict=True))
        squares.append([x for row in rows for x in _squares(*row, dtype)])
        if (draw + 1) * min(truth.numel() for _, _, truth in rows) >= 256:
            break
    sums = [sum(column) for column in zip(*squares, strict=True)]
    return max((ours / eager) ** 0.5 for ours, eager in zip(sums[::2], sums[1::2], strict=True))


def _squares(
    ours: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    def square(got: torch.Tensor) -> float:
        return float((got.double() - truth).square().sum())

    least = (torch.finfo(dtype).eps / 8) ** 2 * float(truth.square().sum())
    return square(ours), max(square(eager), square(truth.to(dtype)), least, 1e-300)


_target: ContextVar[str | None] = ContextVar("target", default=None)
_observers: ContextVar[tuple[Any, ...]] = ContextVar("observers", default=())
Walk = Callable[[Kernel, tuple[int, ...], tuple[Any, ...], Mapping[str, Any]], None]
_walk: ContextVar[Walk | None] = ContextVar("walk", default=None)


def target() -> str:
    """The key of the tile table: this GPU's, or the interpreter's, unless `on` says otherwise."""
    chosen = _target.get()
    if chosen:
        return chosen
    if INTERPRETED:
        return "interpreter"
    if torch.version.hip:
        return "gfx942"
    major = torch.cuda.get_device_capability()[0]
    return {8: "sm_80", 9: "sm_90"}.get(major, "sm_100" if major >= 10 else "sm_80")


def autocast(x: torch.Tensor) -> torch.Tensor:
    """x as torch's own linear layers would take it: under autocast in autocast's dtype."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def without_autocast(x: torch.Tensor) -> AbstractContextManager[Any]:
    """For an operator whose casts are made: inside it autocast would make others."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def device() -> torch.device:
    """Where a case's inputs lie: the CPU when interpreted, else the GPU."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@contextmanager
def on(name: str) -> Iterator[None]:
    """Launch with the tiles of target `name`, whatever runs them."""
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


@contextmanager
def observed(observer: Any) -> Iterator[Any]:
    """Tell `observer` of every launch: `begin(kernel, args)` and `end()`."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield observer
    finally:
        _observers.reset(token)


@contextmanager
def walked(walk: Walk) -> Iterator[None]:
    """`walk(kernel, grid, args, constants)` stands in for the GPU (see dry.py)."""
    token = _walk.set(walk)
    try:
        yield
    finally:
        _walk.reset(token)
