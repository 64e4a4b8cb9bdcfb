"""NF4: a frozen weight in four bits, byte for byte as bitsandbytes 0.50.2 stores it on the CPU.

A QLoRA checkpoint must mean the same weight here, on the GPU and in the library that wrote it. A
weight w [N, K], flat, in blocks of B elements; L: the 16 levels, M: their 15 midpoints:

    a_b    = max |w_i|     s_i = w_i · (1 / max(a_b, 1e-38))     q_i = #{j: s_i > M_j}
    packed = q_0 << 4 | q_1, …              (high nibble first; an odd end is filled up with s = 0)
    w'_i   = L[q_i] · a_b                   (in float32, then rounded to the dtype asked for)

A last block that is not whole has s_i = w_i / a_b and a_b = max(max |w_i|, 1e-38). A NaN gets
q = 15. Double quantisation keeps a in 8 bits, in groups of 256 blocks, around its mean o:

    a_b    = D[c_b] · absmax2_g + o         (D: the dynamic map; a product, rounded, and then a sum)

Dequantisation does both in one launch. Quantisation of a is plain torch: N·K/B numbers, once. c_b
is not always the nearest code: bitsandbytes looks it up in a table of 65,536 places.

Blocks of zeros, denormals and infinities are byte-equal. As in bitsandbytes an infinity makes the
finite elements of its block NaN, and with double quantisation the whole weight. A NaN stays NaN,
its payload is not promised. Where bitsandbytes disagrees with itself this follows its portable
code: its AVX-512 code scales by the wrong block when K is no multiple of B, and flushes denormal
bfloat16; its scalar code makes some NaN a bfloat16 0.

Not covered: FP4; the CUDA and ARM quantisers of bitsandbytes, which round some c_b otherwise; the
mean o depends on the device and the number of threads that sum it, as it does there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .nf4_kernels import (
    DEQUANTISE,
    DEQUANTISE_DOUBLE,
    LEVELS,
    MIDPOINTS,
    QUANTISE,
    launch_dequantise,
    launch_quantise,
)
from .nf4_kernels import nf4_tile as nf4_tile
from .spec import Case, Dims, Op, device

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GROUP = 256  # blocks that share one absmax2


def plain_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """packed and absmax of `w`, by plain torch."""
    flat = w.reshape(-1).float()
    n, tail = flat.numel(), flat.numel() % block
    blocks = torch.nn.functional.pad(flat, (0, -n % block)).view(-1, block)
    absmax = blocks.abs().amax(1)
    raised = absmax.clamp(min=1e-38)
    s = blocks * (1.0 / raised)[:, None]
    if tail:
        s[-1] = blocks[-1] / raised[-1]
        absmax[-1] = raised[-1]
        s.view(-1)[n:] = 0
    edges = torch.tensor(MIDPOINTS, device=w.device)
    q = torch.bucketize(s.view(-1)[: n + n % 2], edges, out_int32=True).to(torch.uint8)
    return q[::2] << 4 | q[1::2], absmax


def plain_dequantise(
    packed: Tensor, absmax: Tensor, code: Tensor | None, absmax2: Tensor | None,
    offset: Tensor | None, rows: int, columns: int, block: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """w'[rows, columns] in `dtype`, by plain torch."""
    if absmax2 is not None:
        assert code is not None and offset is not None
        group = absmax2.repeat_interleave(GROUP)[: len(absmax)]
        absmax = code[absmax.int()] * group + offset
    whole = torch.nn.functional.pad(packed, (0, len(absmax) * block // 2 - len(packed)))
    byte, levels = torch.arange(256), torch.tensor(LEVELS)
    pairs = levels[torch.stack([byte >> 4, byte & 15], 1)].to(packed.device)
    w = pairs.index_select(0, whole.int()).view(-1, block).mul_(absmax[:, None])
    return w.view(-1)[: rows * columns].view(rows, columns).to(dtype)


quantise_op = torch.library.custom_op(
    "trivet::nf4_quantise", plain_quantise, mutates_args=(), device_types="cpu"
)
dequantise_op = torch.library.custom_op(
    "trivet::nf4_dequantise", plain_dequantise, mutates_args=(), device_types="cpu"
)
quantise_op.register_kernel("cuda")(launch_quantise)
dequantise_op.register_kernel("cuda")(launch_dequantise)


@quantise_op.register_fake
def _(w, block):
    n = w.numel()
    packed = w.new_empty((n + 1) // 2, dtype=torch.uint8)
    return packed, w.new_empty((n + block - 1) // block, dtype=torch.float32)


@dequantise_op.register_fake
def _(packed, absmax, code, absmax2, offset, rows, columns, block, dtype):
    return packed.new_empty(rows, columns, dtype=dtype)


@dataclass(frozen=True)
class NF4:
    """A weight (N, K) in NF4. Made by `quantise`, `from_quant_state` or `from_checkpoint`.

    packed uint8 [ceil(N·K / 2)]. absmax float32 [blocks], or uint8 with double quantisation, when
    there are code float32 [256], absmax2 float32 [ceil(blocks / 256)] and offset float32 of one
    element. Raises ValueError when these do not fit; values are looked at on the CPU alone, where
    that does not wait for a GPU.
    """

    packed: Tensor
    absmax: Tensor
    shape: tuple[int, int]
    block: int = 64
    code: Tensor | None = None
    absmax2: Tensor | None = None
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def double(self) -> bool:
        return self.absmax2 is not None

    def to(self, device: torch.device | str) -> "NF4":
        moved = {name: t.to(device) for name, t in vars(self).items() if isinstance(t, Tensor)}
        return NF4(**{**vars(self), **moved})

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] in float32, float16 or bfloat16, in one launch on a GPU."""
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: ask for float32, float16 or bfloat16")
        state = (self.packed, self.absmax, self.code, self.absmax2, self.offset)
        return dequantise_op(*state, *self.shape, self.block, dtype)


def quantise(w: Tensor, block: int = 64, double: bool = True) -> NF4:
    """`w` [N, K] (float32, float16, bfloat16) in NF4; `double`: absmax in 8 bits too.

    Raises ValueError when w is not such a matrix or has no elements, or block is not in BLOCKS.
    """
    if w.ndim != 2 or not w.numel():
        raise ValueError(f"w has shape {tuple(w.shape)}: give a matrix [N, K] with elements")
    if w.dtype not in DTYPES:
        raise ValueError(f"w is {w.dtype}: cast it to float32, float16 or bfloat16")
    if block not in BLOCKS:
        raise ValueError(f"block = {block}: NF4 has blocks of {BLOCKS}")
    packed, absmax = quantise_op(w.detach().contiguous(), block)
    state = compress(absmax) if double else (absmax,)
    return NF4(packed, state[0], (w.shape[0], w.shape[1]), block, *state[1:])


def compress(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """absmax in 8 bits, the dynamic map, absmax2 and the mean, as NF4 keeps them.

    NaN, and so 0 in a group of zeros, gets code 0.
    """
    offset = absmax.mean()
    centred = absmax - offset
    groups = torch.nn.functional.pad(centred, (0, -len(absmax) % GROUP)).view(-1, GROUP)
    absmax2 = torch.where(groups.isnan(), 0.0, groups.abs()).amax(1)
    v = (groups * (1.0 / absmax2)[:, None]).clamp(-1, 1)
    place = ((v + 1.0) * 0.5 * 65535 + 0.5).nan_to_num(0.0).int()
    code, table = (t.to(absmax.device) for t in _dynamic())
    q = table[place].view(-1)[: len(absmax)].contiguous()
    return q, code, absmax2, offset.view(1)


@lru_cache(maxsize=1)
def _dynamic() -> tuple[Tensor, Tensor]:
    """The dynamic map (Dettmers 2015, arXiv 1511.04561); the code of 65,536 places in [-1, 1]."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        means = (edges[:-1] + edges[1:]) / 2
        values += (10 ** (i - 6) * means).tolist() + (-(10 ** (i - 6)) * means).tolist()
    code = torch.tensor(sorted(values))
    places = -1 + 2.0 * torch.arange(65536, dtype=torch.float32) / 65535
    return code, torch.bucketize(places, 0.5 * (code[:-1] + code[1:])).to(torch.uint8)


def from_quant_state(packed: Tensor, state: Any) -> NF4:
    """From `bnb.nn.Params4bit`: its data and its `quant_state`. Raises ValueError if not NF4."""
    if state is None:
        raise ValueError("quant_state is None: bitsandbytes quantises when the weight is moved")
    if getattr(state, "packing_format_for_cpu", False):
        raise ValueError("the weight is repacked for bitsandbytes' CPU product: load it afresh")
    given = {"quant_type": state.quant_type, "blocksize": state.blocksize, "shape": state.shape}
    second = state.state2
    if second is not None:
        given |= {"nested_blocksize": second.blocksize, "nested_offset": state.offset}
        return _load(packed, state.absmax, state.code, given, second.absmax, second.code)
    return _load(packed, state.absmax, state.code, given)


def from_checkpoint(tensors: Mapping[str, Tensor], name: str) -> NF4:
    """From the tensors that bitsandbytes writes beside the weight `name` ("….q_proj.weight").

    Raises ValueError when one is missing or they do not fit together.
    """
    try:
        packed, absmax = tensors[name], tensors[f"{name}.absmax"]
        levels = tensors[f"{name}.quant_map"]
        given = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
        nested: tuple[Tensor, ...] = ()
        if "nested_offset" in given:
            nested = (tensors[f"{name}.nested_absmax"], tensors[f"{name}.nested_quant_map"])
    except KeyError as missing:
        raise ValueError(
            f"the checkpoint has no {missing}: not saved by bitsandbytes as NF4?"
        ) from None
    except (ValueError, TypeError) as broken:
        raise ValueError(f"{name}.quant_state.bitsandbytes__nf4 is not JSON: {broken}") from None
    return _load(packed, absmax, levels, given, *nested)


def _load(
    packed: Tensor, absmax: Tensor, levels: Tensor, given: Mapping[str, Any],
    absmax2: Tensor | None = None, code: Tensor | None = None,
) -> NF4:  # fmt: skip
    shape = tuple(given.get("shape") or ())
    if given.get("quant_type") != "nf4":
        raise ValueError(f"quant_type is {given.get('quant_type')!r}: only 'nf4' is read")
    if len(shape) != 2:
        raise ValueError(f"the state's shape is {shape}: only matrices (N, K) are read")
    if levels.shape != (16,) or levels.tolist() != list(LEVELS):
        raise ValueError(f"quant_map {tuple(levels.shape)} does not hold the 16 levels of NF4")
    offset = None
    if absmax2 is not None:
        if given.get("nested_blocksize") != GROUP:
            raise ValueError(f"the groups of absmax are not of {GROUP} blocks: only those are read")
        offset = torch.as_tensor(given["nested_offset"], dtype=torch.float32)
        offset = offset.reshape(-1).to(packed.device)
    flat = packed.detach().contiguous().view(torch.uint8).view(-1)
    return NF4(flat, absmax, (shape[0], shape[1]), given.get("blocksize", 0), code, absmax2, offset)


def _check(state: NF4) -> None:
    """ValueError unless each tensor has the length, dtype, device and values it must have."""
    if len(state.shape) != 2 or min(state.shape) < 1:
        raise ValueError(f"shape is {state.shape}: NF4 keeps a matrix (N, K) with elements")
    if state.block not in BLOCKS:
        raise ValueError(f"block = {state.block}: NF4 has blocks of {BLOCKS}")
    n = state.shape[0] * state.shape[1]
    blocks = -(-n // state.block)
    second = (state.code, state.absmax2, state.offset)
    if any(t is None for t in second) and any(t is not None for t in second):
        raise ValueError("code, absmax2 and offset go together: give all three or none")
    wanted = {"packed": (-(-n // 2), torch.uint8)}
    wanted["absmax"] = (blocks, torch.uint8 if state.double else torch.float32)
    if state.double:
        wanted["code"] = (256, torch.float32)
        wanted["absmax2"] = (-(-blocks // GROUP), torch.float32)
        wanted["offset"] = (1, torch.float32)
    for name, (length, dtype) in wanted.items():
        tensor = getattr(state, name)
        if tuple(tensor.shape) != (length,) or tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, but a weight {state.shape} in "
                f"blocks of {state.block} has {dtype} ({length},): the state is damaged"
            )
        if tensor.device != state.packed.device or not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous and on packed's device {state.packed.device}, "
                f"it is on {tensor.device}: move it with .to(...).contiguous()"
            )
    if state.packed.device.type != "cpu" or torch.compiler.is_compiling():
        return
    scale = "absmax2" if state.double else "absmax"
    if bool((getattr(state, scale) < 0).any()):
        raise ValueError(f"{scale} has negative values, a maximum has none: the state is damaged")
    if state.code is not None and not bool((state.code.abs() <= 1).all()):
        raise ValueError("code has values outside [-1, 1]: the state is damaged")


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with bitsandbytes'."""
    given = (_draw(dims, dtype, seed), dims["block"])
    return Case(
        ours=lambda: launch_quantise(*given),
        eager=lambda: plain_quantise(*given),
        truth=lambda: plain_quantise(*given),
    )


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"], bool(dims["double"]))
    state = (s.packed, s.absmax, s.code, s.absmax2, s.offset, *s.shape, s.block)
    return Case(
        ours=lambda: (launch_dequantise(*state, dtype),),
        eager=lambda: (plain_dequantise(*state, dtype),),
        truth=lambda: (plain_dequantise(*state, torch.float32).double(),),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, one block of them zeros where there is room."""
    w = torch.randn(dims["N"], dims["K"], generator=torch.Generator().manual_seed(seed))
    w.view(-1)[dims["block"] : 2 * dims["block"]] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 64), "K": (1, 33, 64, 300), "block": (32, 64, 128, 4096)}
OPS = [
    Op("nf4_quantise", (QUANTISE,), quantise_case, _DIMS, launches=1, error=0),
    Op(
        "nf4_dequantise", (DEQUANTISE, DEQUANTISE_DOUBLE), dequantise_case,
        _DIMS | {"double": (0, 1)}, launches=1, error=0,
    ),
]  # fmt: skip
