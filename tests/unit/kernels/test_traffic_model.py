"""The traffic model against the closed formula, the address trace against the interpreter, the L2
model against a plain one.
Run: .venv/bin/pytest tests/unit/kernels/test_traffic_model.py
"""

from collections import OrderedDict

import pytest
import torch
import triton
import triton.language as tl

from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.verify import cases
from trivet.kernels.verify.address_trace import trace_addresses
from trivet.kernels.verify.interpreter import observe_accesses
from trivet.kernels.verify.traffic_model import TrafficModel


@triton.jit
def _matmul(x, w, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    n = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        xt = tl.load(x + m * K + k[None, :], mask=(m < M) & (k[None, :] < K), other=0.0)
        wt = tl.load(w + n * K + k[:, None], mask=(n < N) & (k[:, None] < K), other=0.0)
        acc = tl.dot(xt, wt, acc, input_precision="ieee")
    tl.store(y + m * N + n, acc, mask=(m < M) & (n < N))


MATMUL = Kernel(_matmul, {}, {"*": Tile({"BM": 16, "BN": 32, "BK": 16})}, matmul=True)


def _multiply(m: int, n: int, k: int) -> None:
    x, w, y = torch.ones(m, k), torch.ones(n, k), torch.empty(m, n)
    MATMUL.launch(lambda t: (triton.cdiv(m, 16), triton.cdiv(n, 32)), x, w, y, m, n, k)


@pytest.mark.parametrize("m, n, k", [(64, 64, 32), (33, 70, 24)])
@pytest.mark.parametrize("by", [observe_accesses, trace_addresses])
def test_the_formula_of_a_tiled_product(m: int, n: int, k: int, by) -> None:
    with by(TrafficModel()) as model:
        _multiply(m, n, k)
    accum = model.accum
    assert accum.read == 4 * m * k * triton.cdiv(n, 32) + 4 * n * k * triton.cdiv(m, 16)
    assert accum.written == 4 * m * n
    assert accum.unique == 4 * (m * k + n * k + m * n)
    assert accum.sectors * 32 == accum.requested or n % 8  # a row of y may end within a sector
    assert accum.modelled == accum.unique or n % 8
    tiles = triton.cdiv(m, 16) * triton.cdiv(n, 32) * triton.cdiv(k, 16)
    assert accum.flops == 2 * 16 * 32 * 16 * tiles


@pytest.mark.parametrize("op", cases.ops(), ids=lambda op: op.name)
def test_the_trace_touches_what_the_interpreter_touches(op: cases.Op) -> None:
    dims = {name: sizes[len(sizes) // 2] for name, sizes in op.dims.items()}
    case = op.case(dims, op.dtypes[-1], 0)
    with observe_accesses(TrafficModel()) as interpreted:
        case.ours()
    with trace_addresses(TrafficModel()) as trace:
        case.ours()
    if trace.assumptions:  # a table is read at offsets that were loaded: as often, but elsewhere
        ours, theirs = trace.accum, interpreted.accum
        assert (ours.read, ours.written, ours.flops) == (theirs.read, theirs.written, theirs.flops)
    else:
        assert trace.launches == interpreted.launches
    assert trace.accum.launches == op.launches


def test_the_cache_forgets_the_oldest_and_writes_back_what_it_holds() -> None:
    """Tiles of one byte's sector, 2 programs at a time, against a cache written out longhand."""
    programs = [[0, 1, ~2], [0, 3, ~4], [5, 0, ~2], [1, 0]]
    order = [0, 0, 1, 3, ~2, ~4, 5, 1, 0, 0, ~2]
    for room in range(1, 7):
        model = TrafficModel(l2=32 * room)
        model._counts = [1]
        model._tiles = {(i, 0): i for i in range(6)}
        cache: OrderedDict[int, bool] = OrderedDict()
        moved = 0
        for event in order:
            tile, store = (~event, True) if event < 0 else (event, False)
            moved += tile not in cache and not store
            cache[tile] = cache.pop(tile, False) or store
            if len(cache) > room:
                moved += cache.popitem(last=False)[1]
        assert model.dram(programs, 2) == 32 * (moved + sum(cache.values()))


@triton.jit
def _copy(x, y, PASSING: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at) + tl.load(x + tl.arange(0, BLOCK))
    tl.store(y + at, value, mask=at < 1600, eviction_policy="evict_first" if PASSING else "")


@pytest.mark.parametrize("by", [observe_accesses, trace_addresses])
@pytest.mark.parametrize("passing", [False, True])
def test_what_is_evicted_first_takes_no_room(by, passing: bool) -> None:
    """200 programs, so two waves, each reading block 0 again; room for what the first reads."""
    kernel = Kernel(_copy, {}, {"*": Tile({"BLOCK": 8})})
    x, y = torch.ones(1600), torch.empty(1600)
    with by(TrafficModel(l2=140 * 32)) as model:
        kernel.launch(lambda t: (200,), x, y, PASSING=passing)
    assert model.accum.modelled == 2 * 6400 + (0 if passing else 32)
    assert model.accum.unique == 2 * 6400
