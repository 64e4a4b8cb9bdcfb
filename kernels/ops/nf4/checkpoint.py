"""NF4 weights as bitsandbytes holds and saves them, read without requantising.

Not covered: a weight that bitsandbytes has repacked for its product on the CPU.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trivet.kernels.ops.nf4.formula import GROUP, LEVELS
from trivet.kernels.ops.nf4.op import NF4


def from_quant_state(packed: Tensor, state: Any) -> NF4:
    """From `bnb.nn.Params4bit`: its data and its `quant_state`. Raises ValueError if not NF4."""
    if state is None:
        raise ValueError("quant_state is None: bitsandbytes quantises when the weight is moved")
    if getattr(state, "packing_format_for_cpu", False):
        raise ValueError("the weight is repacked for bitsandbytes' CPU product: load it afresh")
    metadata = {"quant_type": state.quant_type, "blocksize": state.blocksize, "shape": state.shape}
    second = state.state2
    if second is not None:
        metadata |= {"nested_blocksize": second.blocksize, "nested_offset": state.offset}
        return _load(packed, state.absmax, state.code, metadata, second.absmax, second.code)
    return _load(packed, state.absmax, state.code, metadata)


def from_checkpoint(tensors: Mapping[str, Tensor], name: str) -> NF4:
    """From the tensors that bitsandbytes writes beside the weight `name` ("….q_proj.weight").

    Raises ValueError when one is missing or they do not fit together.
    """
    try:
        packed, absmax = tensors[name], tensors[f"{name}.absmax"]
        levels = tensors[f"{name}.quant_map"]
        metadata = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
        nested: tuple[Tensor, ...] = ()
        if "nested_offset" in metadata:
            nested = (tensors[f"{name}.nested_absmax"], tensors[f"{name}.nested_quant_map"])
    except KeyError as missing:
        raise ValueError(
            f"the checkpoint has no {missing}: not saved by bitsandbytes as NF4?"
        ) from None
    except (ValueError, TypeError) as broken:
        raise ValueError(f"{name}.quant_state.bitsandbytes__nf4 is not JSON: {broken}") from None
    return _load(packed, absmax, levels, metadata, *nested)


def _load(
    packed: Tensor, absmax: Tensor, levels: Tensor, metadata: Mapping[str, Any],
    absmax2: Tensor | None = None, code: Tensor | None = None,
) -> NF4:  # fmt: skip
    shape = tuple(metadata.get("shape") or ())
    if metadata.get("quant_type") != "nf4":
        raise ValueError(f"quant_type is {metadata.get('quant_type')!r}: only 'nf4' is read")
    if len(shape) != 2:
        raise ValueError(f"the state's shape is {shape}: only matrices (N, K) are read")
    if levels.shape != (16,) or levels.tolist() != list(LEVELS):
        raise ValueError(f"quant_map {tuple(levels.shape)} does not hold the 16 levels of NF4")
    offset = None
    if absmax2 is not None:
        if metadata.get("nested_blocksize") != GROUP:
            raise ValueError(f"the groups of absmax are not of {GROUP} blocks: only those are read")
        offset = torch.as_tensor(metadata["nested_offset"], dtype=torch.float32)
        offset = offset.reshape(-1).to(packed.device)
    flat = packed.detach().contiguous().view(torch.uint8).view(-1)
    return NF4(
        flat, absmax, (shape[0], shape[1]), metadata.get("blocksize", 0), code, absmax2, offset
    )
