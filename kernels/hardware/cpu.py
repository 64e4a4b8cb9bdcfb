"""In which dtype a CPU multiplies.

Not every CPU that has bfloat16 instructions is fast at them. Measured on an Intel Xeon with
avx512_bf16 but no AMX, one thread, [1024, 576] × [576, 1536]: bfloat16 24.7 ms, float32 14.0 ms,
and float32 on values widened for the call and narrowed after it 15.0 ms. So what runs on the CPU
keeps 16 bits in memory and multiplies in what `matmul_dtype` says. The choice follows the
instruction set, never a measurement, so that a run goes on after a kill with the same losses.
"""

import functools
from pathlib import Path

import torch


@functools.cache
def matmul_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which this CPU multiplies tensors of `dtype` fastest: `dtype` or float32."""
    native = {
        torch.bfloat16: torch.cpu._is_amx_tile_supported()
        or (torch.cpu._is_avx512_bf16_supported() and not _intel()),
        torch.float16: torch.cpu._is_amx_fp16_supported(),
    }
    return dtype if native.get(dtype, True) else torch.float32


def _intel() -> bool:
    """Intel's avx512_bf16 multiplies at float32's rate at most; AMD's (Zen 4 on) at twice that."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "GenuineIntel" in info.read_text()
