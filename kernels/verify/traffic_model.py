"""How many bytes a sequence of launches moves, counted without a GPU.

    requested = Σ over loads and stores of the elements that are not masked out × their size
    sectors   = Σ over loads and stores of the 32-byte sectors that one touches
    unique    = bytes that a launch touches, each counted once    FLOPs = Σ over tl.dot of 2·M·N·K
    modelled  = bytes between L2 and DRAM, by the model below

`TrafficModel` observes Triton's interpreter (small shapes) or the trace of address_trace.py (any
shape); the two agree exactly, which tests/unit/kernels/test_traffic_model.py shows.

The model of the L2 is an H100's (hardware/gpus.py). Its multiprocessors × `resident` programs, in
the order of their number, make a wave. A wave's programs
advance in lockstep, one load or store at a time, and the next wave begins when all have ended. The
cache is fully associative, forgets the least recently used, holds the whole tile of a load or store
as one thing, and starts each launch cold. A written tile goes to DRAM when it is forgotten or at
the end; one stored with `evict_first` goes there at once and takes no room.

Not covered: L1, the L2's two halves (a line that both read may be held twice; `l2=25 << 20` is the
worst case), associativity, compression, what programs that run ahead or behind do to each other.
Two loads of the same sectors by tiles that differ in others count twice: the model errs upwards.
Where a load's addresses or mask come from loaded values, the trace assumes offset 0 and true.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from trivet.kernels.hardware.gpus import MODELLED, SECTOR, TARGETS
from trivet.kernels.ops.kernel import Kernel
from trivet.kernels.verify.interpreter import Access

SMS, L2 = TARGETS[MODELLED].units, TARGETS[MODELLED].l2


@dataclass
class Traffic:
    """What one or more launches move, in bytes; see the module's formulas."""

    launches: int = 0
    read: int = 0
    written: int = 0
    sectors: int = 0
    unique: int = 0
    modelled: int = 0
    flops: int = 0

    @property
    def requested(self) -> int:
        return self.read + self.written

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


@dataclass
class Pattern:
    """The byte offsets that one load or store touches, from its first address on."""

    offsets: np.ndarray
    size: int
    sectors: dict[int, int] = field(default_factory=dict)  # see TrafficModel._sectors

    @cached_property
    def runs(self) -> np.ndarray:
        """[., 2] begin and end of each run of adjacent bytes."""
        at = np.unique(self.offsets)
        breaks = np.flatnonzero(np.diff(at) > self.size) + 1
        starts = at[np.concatenate([[0], breaks])]
        ends = at[np.concatenate([breaks - 1, [len(at) - 1]])] + self.size
        return np.stack([starts, ends], 1)


class TrafficModel(Access):
    """Counts a sequence of launches: `launches` has each one's name and `Traffic`, `accum` the sum.

    `resident`: how many programs of a kernel an SM holds at once.
    """

    def __init__(self, l2: int = L2, resident: Callable[[Kernel], int] = lambda kernel: 1) -> None:
        self.l2 = l2
        self.resident = resident
        self.launches: list[tuple[str, Traffic]] = []
        self.assumptions = 0  # loads and stores whose addresses or mask the trace assumed
        self._patterns: dict[tuple[int, bytes], int] = {}
        self._distinct: list[Pattern] = []
        self._outer: dict[tuple[int, bytes, bytes], tuple[int, int]] = {}
        self._tiles: dict[tuple[int, int], int] = {}  # (first sector, set of sectors) -> number
        self._shapes: dict[bytes, int] = {}
        self._counts: list[int] = []  # sectors of each set

    @property
    def accum(self) -> Traffic:
        return sum((t for _, t in self.launches), Traffic())

    def begin(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        self._now, self._resident = Traffic(launches=1), self.resident(kernel)
        self.launches.append((kernel.name, self._now))
        self.trace: dict[tuple[int, int, int], list[int]] = {}
        self._bypassing = 0
        self._accesses: set[tuple[int, int]] = set()

    def end(self) -> None:
        order = sorted(self.trace, key=lambda xyz: xyz[::-1])  # a GPU starts x fastest
        programs = [self.trace[p] for p in order]
        self._now.modelled = self._bypassing + self.dram(programs, SMS * self._resident)
        self._now.unique = self._union(self._accesses)

    def load(self, addresses: np.ndarray, size: int) -> None:
        self._any(addresses, size, store=False)

    def store(self, addresses: np.ndarray, size: int) -> None:
        self._any(addresses, size, store=True)

    def dot(self, m: int, n: int, k: int) -> None:
        self._now.flops += 2 * m * n * k

    def tile(
        self, first: int, rows: np.ndarray, columns: np.ndarray, size: int, store: bool
    ) -> None:
        """A load or store at `first + (rows + columns)·size`, none masked; the quick way."""
        key = (size, rows.tobytes(), columns.tobytes())
        if key not in self._outer:
            offsets = (rows + columns).ravel().astype(np.int64) * size
            self._outer[key] = (int(offsets[0]), self._pattern(offsets - offsets[0], size))
        shift, pattern = self._outer[key]
        self._touch(first + shift, pattern, store)

    def _any(self, addresses: np.ndarray, size: int, store: bool) -> None:
        flat = addresses.ravel().astype(np.int64)
        if flat.size:
            self._touch(int(flat[0]), self._pattern(flat - flat[0], size), store)

    def _pattern(self, offsets: np.ndarray, size: int) -> int:
        key = (size, offsets.tobytes())
        if key not in self._patterns:
            self._patterns[key] = len(self._distinct)
            self._distinct.append(Pattern(offsets, size))
        return self._patterns[key]

    def _touch(self, address: int, pattern: int, store: bool) -> None:
        entry, now = self._distinct[pattern], self._now
        requested = entry.offsets.size * entry.size
        if store:
            now.written += requested
        else:
            now.read += requested
        shape = self._sectors(entry, address % SECTOR)
        now.sectors += self._counts[shape]
        self._accesses.add((address, pattern))
        if store and self.bypass:
            self._bypassing += SECTOR * self._counts[shape]
            return
        tile = self._tiles.setdefault((address // SECTOR, shape), len(self._tiles))
        self.trace.setdefault(self.program, []).append(~tile if store else tile)

    def _sectors(self, pattern: Pattern, phase: int) -> int:
        """The number of the set of sectors that `pattern` touches from `phase` bytes into one on.

        Tiles of the same sectors are one thing to the cache, whichever bytes of them they touch.
        """
        if phase not in pattern.sectors:
            sectors = np.unique((phase + pattern.offsets) // SECTOR)
            number = self._shapes.setdefault(sectors.tobytes(), len(self._counts))
            if number == len(self._counts):
                self._counts.append(len(sectors))
            pattern.sectors[phase] = number
        return pattern.sectors[phase]

    def _union(self, accesses: set[tuple[int, int]]) -> int:
        parts = [np.zeros((0, 2), np.int64)]
        for address, pattern in accesses:
            parts.append(address + self._distinct[pattern].runs)
        runs = np.concatenate(parts)
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        ends = np.maximum.accumulate(runs[:, 1])
        starts = np.maximum(runs[1:, 0], ends[:-1])
        return int((runs[:1, 1] - runs[:1, 0]).sum() + np.maximum(runs[1:, 1] - starts, 0).sum())

    def dram(self, programs: list[list[int]], slots: int) -> int:
        """Bytes to and from DRAM when `programs` run in this order, `slots` at a time."""
        bytes_of = [SECTOR * self._counts[shape] for _, shape in self._tiles]
        cache: OrderedDict[int, bool] = OrderedDict()  # tile -> written to
        in_cache = traffic = 0
        for tile in _lockstep(programs, slots):
            store = tile < 0
            tile = ~tile if store else tile
            if tile in cache:
                cache.move_to_end(tile)
                cache[tile] |= store
                continue
            cache[tile] = store
            in_cache += bytes_of[tile]
            traffic += 0 if store else bytes_of[tile]
            while in_cache > self.l2:
                old, dirty = cache.popitem(last=False)
                in_cache -= bytes_of[old]
                traffic += bytes_of[old] if dirty else 0
        return traffic + sum(bytes_of[tile] for tile, dirty in cache.items() if dirty)


def _lockstep(programs: list[list[int]], slots: int) -> Iterator[int]:
    for start in range(0, len(programs), slots):
        wave = programs[start : start + slots]
        for step in range(max(map(len, wave))):
            for events in wave:
                if step < len(events):
                    yield events[step]
