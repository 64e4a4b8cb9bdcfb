"""NF4's operators and the weight that they make; formula.py says what the bytes are.

Not covered: a gradient, for the weight is frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trivet.kernels.ops.blocks import DTYPES
from trivet.kernels.ops.nf4.double import compress
from trivet.kernels.ops.nf4.formula import BLOCKS, GROUP, plain_dequantise, plain_quantise
from trivet.kernels.ops.nf4.triton import launch_dequantise, launch_quantise

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
    """A weight (N, K) in NF4. Made by `quantise`, or by checkpoint.py.

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
    layout = {"packed": (-(-n // 2), torch.uint8)}
    layout["absmax"] = (blocks, torch.uint8 if state.double else torch.float32)
    if state.double:
        layout["code"] = (256, torch.float32)
        layout["absmax2"] = (-(-blocks // GROUP), torch.float32)
        layout["offset"] = (1, torch.float32)
    for name, (length, dtype) in layout.items():
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
