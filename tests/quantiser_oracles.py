"""Other libraries' quantisers beside ours, byte by byte: the unit tests ask for a few weights, the
compile tier's sweep for all.
"""

from typing import Any

import bitsandbytes.functional as bnb
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

from trivet.kernels.ops import int8, nf4
from trivet.kernels.ops.int4 import formula as int4_formula
from trivet.kernels.ops.int4 import triton as int4_triton
from trivet.kernels.ops.int8 import formula as int8_formula
from trivet.kernels.ops.int8 import triton as int8_triton
from trivet.kernels.ops.nf4 import formula as nf4_formula
from trivet.kernels.ops.nf4 import triton as nf4_triton

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INT4_KINDS = ("normal", "one sign", "zeros", "minus zeros", "denormal", "ties")
INT8_KINDS = (*INT4_KINDS, "large")
NF4_KINDS = ("normal", "edges", "zeros", "denormal", "inf", "nan")


def block_weight(kind: str, K: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Three rows for int4 and int8."""
    w = torch.randn(3, K, generator=torch.Generator().manual_seed(K))
    if kind == "one sign":
        w = w.sign()[:, :1] * (w.abs() + 0.5)
    elif kind == "zeros":
        w[:, K // 3 :] = 0
    elif kind == "minus zeros":
        w = torch.where(w > 0, 0.0, -0.0)
    elif kind == "denormal":
        w *= torch.logspace(-44, -30, K)
    elif kind == "ties":
        w = (w * 4).round() / 2
    return w.to(dtype)


def int8_weight(kind: str, K: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As `block_weight`, with the ties, denormals and large values that 8 bits have."""
    w = block_weight("normal", K)
    if kind == "denormal":
        w = w.sign() * torch.logspace(-44, -36, 3)[:, None].expand(3, K)
    elif kind == "ties":
        w = torch.cat([(w * 9).round() / 2, torch.full((3, 1), 63.5)], 1)[:, -K:]
    elif kind == "large":
        w *= 1e4 if dtype == torch.float16 else 3e37
    else:
        w = block_weight(kind, K)
    return w.to(dtype).contiguous()


def nf4_weight(
    kind: str, shape: tuple[int, int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = w.view(-1)
    if kind == "zeros":
        flat[: len(flat) // 2 + 1] = 0
    if kind == "denormal":
        flat *= torch.logspace(-46, -30, len(flat))
    if kind == "edges":  # some ulps around where the code changes
        middles = torch.tensor(nf4_formula.MIDPOINTS)[torch.arange(len(flat)) % 15]
        flat.copy_(1.7 * middles * (1 + (flat * 2).round() * 2**-23))
        flat[::32] = 1.7
    if kind in ("inf", "nan"):
        flat[0], flat[-1] = float(kind), -float(kind)
    return w.to(dtype)


def onnx_runtime(w: torch.Tensor, block: int, symmetric: bool, bits: int) -> list[torch.Tensor]:
    """packed, scales and zeros of MatMulNBits."""
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits)
    arrays = DefaultWeightOnlyQuantizer(config).qbits_block_quant(w.T.contiguous().numpy())
    return [torch.from_numpy(a) for a in arrays]


def check_int4(kind: str, block: int, symmetric: bool, K: int, dtype: torch.dtype) -> None:
    w = block_weight(kind, K, dtype)
    packed, scales, zeros = onnx_runtime(w, block, symmetric, 4)
    for ours in (
        int4_formula.plain_quantise(w, block, symmetric),
        int4_triton.launch_quantise(w, block, symmetric),
    ):
        assert torch.equal(ours[0], packed)
        assert torch.equal(ours[1].view(torch.uint8), scales.view(torch.uint8))
        assert ours[2].numel() == 0 if symmetric else torch.equal(ours[2], zeros)


def check_int8_rows(kind: str, K: int, dtype: torch.dtype) -> None:
    w = int8_weight(kind, K, dtype)
    values, scales, _ = bnb.int8_vectorwise_quant(w.clone())
    for ours in (int8_formula.plain_quantise(w, 0), int8_triton.launch_quantise(w, 0)):
        assert torch.equal(ours[0], values)
        assert torch.equal(ours[1], scales)
    expected = bnb.int8_vectorwise_dequant(values, scales)
    for out in FLOATS:
        assert torch.equal(int8.quantise(w).dequantise(out), expected.to(out))
        by_kernel = int8_triton.launch_dequantise(values, scales, 0, out)
        assert torch.equal(by_kernel, expected.to(out))


def check_int8_blocks(kind: str, block: int, K: int, dtype: torch.dtype) -> None:
    w = int8_weight(kind, K, dtype)
    packed, scales, _ = onnx_runtime(w, block, True, 8)
    for ours in (int8_formula.plain_quantise(w, block), int8_triton.launch_quantise(w, block)):
        assert torch.equal(int8.Int8(*ours, block).matmul_nbits(), packed)
        assert torch.equal(ours[1].view(torch.uint8), scales.view(torch.uint8))
    exact = ours[0].float() * scales.float().repeat_interleave(block, 1)[:, :K]
    for out in FLOATS:
        assert torch.equal(int8.quantise(w, block).dequantise(out), exact.to(out))
        assert torch.equal(int8_triton.launch_dequantise(*ours, block, out), exact.to(out))


def state_of(s: nf4.NF4) -> tuple[Any, ...]:
    return s.packed, s.absmax, s.code, s.absmax2, s.offset, *s.shape, s.block


def assert_bytes(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """The same bits, but a NaN is any NaN."""
    ours, expected = ours.reshape(-1), expected.reshape(-1)
    assert ours.dtype == expected.dtype and ours.shape == expected.shape
    if ours.is_floating_point():
        assert torch.equal(ours.isnan(), expected.isnan())
        ours, expected = (t.nan_to_num(nan=7.0, posinf=8.0) for t in (ours, expected))
        bits = torch.int32 if ours.element_size() == 4 else torch.int16
        ours, expected = ours.view(bits), expected.view(bits)
    assert torch.equal(ours, expected)


def check_nf4(
    kind: str, block: int, double: bool, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    w = nf4_weight(kind, shape, dtype)
    packed, theirs = bnb.quantize_4bit(
        w, blocksize=block, quant_type="nf4", compress_statistics=double
    )
    ours = nf4.quantise(w, block, double)
    by_kernel = nf4_triton.launch_quantise(w, block)
    assert_bytes(ours.packed, packed)
    assert_bytes(by_kernel[0], packed)
    assert_bytes(ours.absmax, theirs.absmax)
    if double:
        assert_bytes(ours.absmax2, theirs.state2.absmax)
        assert_bytes(ours.offset, theirs.offset)
        assert_bytes(ours.code, theirs.state2.code)
    else:
        assert_bytes(by_kernel[1], theirs.absmax)

    # one row: where rows share a block, bitsandbytes disagrees with itself (see test_nf4.py)
    theirs.shape = torch.Size([w.numel()])
    for out in FLOATS:
        if out == torch.bfloat16 and kind in ("denormal", "nan"):
            continue  # likewise
        theirs.dtype = out
        expected = bnb.dequantize_4bit(packed, theirs)
        assert_bytes(ours.dequantise(out), expected)
        assert_bytes(nf4_triton.launch_dequantise(*state_of(ours), out), expected)
