"""NF4: bitsandbytes is the oracle, byte by byte, for plain torch and for the kernels.

Run: .venv/bin/pytest tests/unit/kernels/test_nf4.py
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import bitsandbytes.functional as oracle
import pytest
import safetensors.torch
import torch
import triton
import triton.language as tl
from quantiser_oracles import NF4_KINDS, assert_bytes, check_nf4, nf4_weight, state_of

from trivet.kernels.ops import nf4
from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.nf4.double import compress, dynamic_map
from trivet.kernels.ops.nf4.op import dequantise_op, quantise_op
from trivet.kernels.ops.nf4.triton import launch_dequantise, nf4_tile
from trivet.kernels.verify.interpreter import Checker, observe_accesses


@pytest.fixture(autouse=True)
def surroundings():
    """Launches are watched; bitsandbytes does not compile its fallback for odd shapes."""
    with torch.compiler.set_stance("force_eager"), observe_accesses(Checker()):
        yield


@pytest.mark.parametrize("kind", NF4_KINDS)
def test_bytes_are_bitsandbytes(kind: str) -> None:
    """All blocks and shapes are in tests/compile/test_quantiser_sweep.py."""
    check_nf4(kind, 32, False, (3, 33), torch.float16)
    check_nf4(kind, 64, True, (5, 300), torch.float32)


def test_absmax_in_eight_bits_is_bitsandbytes() -> None:
    """Some ulps around each place of the 65,536 where the code changes; groups of equal numbers."""
    _, table = dynamic_map()
    changes = table.diff().nonzero().view(-1) + 0.5
    ulps = 1 + torch.arange(-40, 41) * 2.0**-24
    edges = ((changes / 65535 * 2)[:, None] * ulps).view(-1) - 1
    groups = torch.nn.functional.pad(edges, (0, -len(edges) % 254)).view(-1, 254)
    one = torch.ones(len(groups), 1)
    for absmax in (
        torch.cat([groups, one, -one], 1).view(-1),
        torch.randn(5000, generator=torch.Generator().manual_seed(0)) + 2,
        torch.full((300,), 0.7),
        torch.zeros(300),
    ):
        q, _, absmax2, offset = compress(absmax)
        expected, state = oracle.quantize_blockwise(absmax - offset, blocksize=256)
        assert_bytes(q, expected)
        assert_bytes(absmax2, state.absmax)


def test_rows_that_share_a_block_are_read_right() -> None:
    """bitsandbytes' AVX-512 code takes another block's absmax here, its portable code does not."""
    w = nf4_weight("normal", (6, 48))
    packed, theirs = oracle.quantize_4bit(w, blocksize=64, quant_type="nf4")
    by_rows = oracle.dequantize_4bit(packed, theirs)
    theirs.shape = torch.Size([w.numel()])
    flat = oracle.dequantize_4bit(packed, theirs).view(6, 48)
    ours = nf4.quantise(w, 64, False).dequantise()
    assert_bytes(ours, flat)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert not torch.equal(by_rows, flat)


def test_denormal_and_nan_bfloat16_is_float32_rounded() -> None:
    """bitsandbytes flushes the one with AVX-512 and zeroes some of the other without."""
    for kind in ("denormal", "nan"):
        ours = nf4.quantise(nf4_weight(kind, (40, 512)), 64, double=False)
        exact = ours.dequantise(torch.float32)
        for rounded in (
            ours.dequantise(torch.bfloat16),
            launch_dequantise(*state_of(ours), torch.bfloat16),
        ):
            assert_bytes(rounded, exact.bfloat16())
    tiny = nf4.quantise(torch.full((2, 64), 1e-39), 64, double=False)
    assert (tiny.dequantise(torch.bfloat16) > 0).all()


@triton.jit
def _tile(p, a, c, a2, o, out, N, K, BLOCK: tl.constexpr, DOUBLE: tl.constexpr, S: tl.constexpr):
    n, k0 = tl.arange(0, 4)[:, None], tl.program_id(0) * S
    w = nf4_tile(p, a, c, a2, o, n, k0, N, K, BLOCK, DOUBLE, S)
    tl.store(out + n * (tl.num_programs(0) * S) + k0 + tl.arange(0, S)[None, :], w)


@pytest.mark.parametrize("width", [32, 128])
@pytest.mark.parametrize("double", [False, True])
def test_a_tile_is_the_dequantised_weight(double: bool, width: int) -> None:
    """Tiles narrower and wider than a block, and beyond the last row and column."""
    s = nf4.quantise(nf4_weight("normal", (3, 192)), 64, double)
    state = (s.code, s.absmax2, s.offset) if double else (s.absmax,) * 3
    out = torch.empty(4, 256)
    kernel = Kernel(_tile, {}, {"*": Tile({"S": width})}, exact=True)
    kernel.launch(
        lambda t: (256 // width,), s.packed, s.absmax, *state, out, 3, 192, BLOCK=64, DOUBLE=double
    )
    expected = torch.zeros(4, 256)
    expected[:3, :192] = s.dequantise()
    assert torch.equal(out, expected)


def quantised_layer(double: bool = True) -> bnb.nn.Linear4bit:
    layer = bnb.nn.Linear4bit(
        100, 30, bias=False, quant_type="nf4", compress_statistics=double,
        quant_storage=torch.bfloat16,
    )  # fmt: skip
    return layer.to("cpu")


@pytest.mark.parametrize("double", [False, True])
def test_a_checkpoint_loads(double: bool, tmp_path: Path) -> None:
    layer = quantised_layer(double)
    state = layer.weight.quant_state
    expected = oracle.dequantize_4bit(layer.weight.data, replace_shape(state)).view(30, 100)
    safetensors.torch.save_file(
        {f"model.q_proj.{key}": t.contiguous() for key, t in layer.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for ours in (
        nf4.from_checkpoint(tensors, "model.q_proj.weight"),
        nf4.from_quant_state(layer.weight.data, state),
    ):
        assert (ours.shape, ours.block, ours.double) == ((30, 100), 64, double)
        assert_bytes(ours.dequantise(torch.float32), expected)


def replace_shape(state: Any) -> Any:
    """The state of the same weight as one row (see test_rows_that_share_a_block_are_read_right)."""
    return oracle.QuantState(
        state.absmax, torch.Size([state.shape.numel()]), state.code, state.blocksize,
        state.quant_type, torch.float32, state.offset, state.state2,
    )  # fmt: skip


@pytest.mark.parametrize(
    "damage, says",
    [
        ({"packed": torch.zeros(1499, dtype=torch.uint8)}, "packed is torch.uint8 (1499,)"),
        ({"packed": torch.zeros(1500, dtype=torch.int8)}, "packed is torch.int8"),
        ({"absmax": torch.zeros(46, dtype=torch.uint8)}, "absmax is torch.uint8 (46,)"),
        ({"absmax": torch.zeros(47)}, "absmax is torch.float32"),
        ({"code": torch.zeros(255)}, "code is torch.float32 (255,)"),
        ({"code": torch.full((256,), 2.0)}, "code has values outside"),
        ({"code": torch.full((256,), float("nan"))}, "code has values outside"),
        ({"code": None}, "go together"),
        ({"absmax2": torch.tensor([-1.0])}, "absmax2 has negative"),
        ({"absmax2": torch.ones(2)}, "absmax2 is torch.float32 (2,)"),
        ({"offset": torch.tensor(1.0)}, "offset is torch.float32 ()"),
        ({"offset": torch.ones(1, device="meta")}, "offset must be contiguous and on"),
        ({"packed": torch.zeros(3000, dtype=torch.uint8)[::2]}, "packed must be contiguous"),
        ({"block": 96}, "block = 96"),
        ({"shape": (30, 0)}, "shape is (30, 0)"),
    ],
)
def test_a_damaged_state_is_refused(damage: dict[str, Any], says: str) -> None:
    good = nf4.quantise(nf4_weight("normal", (30, 100)))
    with pytest.raises(ValueError) as refusal:
        replace(good, **damage)
    assert says in str(refusal.value)


def test_a_damaged_checkpoint_is_refused() -> None:
    tensors = {f"w.{key}": t for key, t in quantised_layer().state_dict().items()}
    text = "w.weight.quant_state.bitsandbytes__nf4"

    def json(old: bytes, new: bytes) -> dict[str, torch.Tensor]:
        raw = bytes(tensors[text].tolist())
        assert old in raw
        return {text: torch.frombuffer(bytearray(raw.replace(old, new)), dtype=torch.uint8)}

    for change, says in [
        ({text: torch.tensor([123, 123], dtype=torch.uint8)}, "not JSON"),
        ({text: torch.tensor([0.5])}, "not JSON"),
        ({"w.weight.quant_map": torch.zeros(16)}, "16 levels"),
        (json(b'"nf4"', b'"fp4"'), "'fp4'"),
        (json(b"[30, 100]", b"[3000]"), "(3000,)"),
        (json(b"256", b"128"), "groups of absmax"),
        (json(b'"blocksize": 64', b'"b": 64'), "block = 0"),
        (json(b"nested_offset", b"other"), "absmax is torch.uint8"),
    ]:
        with pytest.raises(ValueError) as refusal:
            nf4.from_checkpoint(tensors | change, "w.weight")
        assert says in str(refusal.value)
    for key in tensors:
        with pytest.raises(ValueError, match="the checkpoint has no"):
            nf4.from_checkpoint({k: t for k, t in tensors.items() if k != key}, "w.weight")


def test_bitsandbytes_states_that_are_not_plain_nf4_are_refused() -> None:
    layer = quantised_layer()
    with pytest.raises(ValueError, match="quant_state is None"):
        nf4.from_quant_state(layer.weight.data, None)
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="repacked"):
        nf4.from_quant_state(layer.weight.data, layer.weight.quant_state)


@pytest.mark.parametrize(
    "w, block, says",
    [
        (torch.ones(4), 64, "w has shape (4,)"),
        (torch.ones(0, 4), 64, "w has shape (0, 4)"),
        (torch.ones(4, 4, dtype=torch.float64), 64, "w is torch.float64"),
        (torch.ones(4, 4), 48, "block = 48"),
    ],
)
def test_what_cannot_be_quantised_is_refused(w: torch.Tensor, block: int, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        nf4.quantise(w, block)
    assert says in str(refusal.value)
    with pytest.raises(ValueError, match="dtype is torch.float64"):
        nf4.quantise(torch.ones(4, 4)).dequantise(torch.float64)


def test_a_slice_is_quantised_as_its_copy() -> None:
    w = nf4_weight("normal", (20, 128))[:, ::2]
    assert torch.equal(nf4.quantise(w).packed, nf4.quantise(w.contiguous()).packed)


@pytest.mark.parametrize("double", [False, True])
def test_operators_are_sound(double: bool) -> None:
    w = nf4_weight("normal", (3, 33))
    s = nf4.quantise(w, 64, double)
    torch.library.opcheck(quantise_op, (w, 64))
    torch.library.opcheck(dequantise_op, (*state_of(s), torch.bfloat16))
    assert s.to("meta").dequantise(torch.float16).shape == (3, 33)


def test_a_weight_dequantises_inside_a_compiled_graph() -> None:
    s = nf4.quantise(nf4_weight("normal", (3, 33)))
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(lambda x: x @ s.dequantise().T, fullgraph=True, backend="eager")
        assert torch.equal(compiled(torch.ones(2, 33)), torch.ones(2, 33) @ s.dequantise().T)
