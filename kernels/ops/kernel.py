"""A Triton kernel and how it ships: its types, its constants, its tiles by target, its launch.

A tile is chosen by target from a fixed table, so that a compiled kernel is the one whose registers
and traffic were looked at. `use_target`, `observe_launches` and `replace_launches` are how
verification gets between an operator and the GPU.

Not covered: autotuning.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from trivet.kernels.hardware.gpus import nvidia_target

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class NoDevice(RuntimeError):
    """There is nothing here that a kernel could run on; the message says what to do instead."""


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

        Raises NoDevice when there is neither a GPU nor the interpreter.
        """
        if launcher := _launcher.get():
            tile = self.tile(target())
            launcher(self, grid(tile.sizes), args, {**constants, **tile.sizes})
            return
        if not INTERPRETED and not torch.cuda.is_available():
            raise NoDevice(
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


_target: ContextVar[str | None] = ContextVar("target", default=None)
_observers: ContextVar[tuple[Any, ...]] = ContextVar("observers", default=())
Launcher = Callable[[Kernel, tuple[int, ...], tuple[Any, ...], Mapping[str, Any]], None]
_launcher: ContextVar[Launcher | None] = ContextVar("launcher", default=None)


def target() -> str:
    """The key of the tile table: this GPU's or the interpreter's, unless `use_target` is on."""
    if override := _target.get():
        return override
    if INTERPRETED:
        return "interpreter"
    if torch.version.hip:
        return "gfx942"
    return nvidia_target(torch.cuda.get_device_capability()[0])


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
def use_target(name: str) -> Iterator[None]:
    """Launch with the tiles of target `name`, whatever runs them."""
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


@contextmanager
def observe_launches(observer: Any) -> Iterator[Any]:
    """Tell `observer` of every launch: `begin(kernel, args)` and `end()`."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield observer
    finally:
        _observers.reset(token)


@contextmanager
def replace_launches(launcher: Launcher) -> Iterator[None]:
    """`launcher(kernel, grid, args, constants)` stands in for the GPU."""
    token = _launcher.set(launcher)
    try:
        yield
    finally:
        _launcher.reset(token)
