"""What a compiled kernel's code holds: registers, spills, matrix instructions, inexact arithmetic.

On NVIDIA registers and spills are read from ptxas's cubin, with the cuobjdump and nvdisasm of
Triton's wheel; the rest from the PTX, since in SASS an exact division is itself made of FMAs. On
AMD all is read from the assembly text.

Not covered: contracted FMAs in an AMD kernel that divides, for the same reason.
"""

import functools
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

APPROXIMATE = {
    "cuda": r"\b(?:div\.(?:full|approx)|(?:rcp|sqrt|rsqrt)\.approx)\b",
    "hip": r"\bv_(?:rcp|rsq|sqrt)_(?:iflag_)?f(?:16|32)(?!\d)",
}
FUSED = {
    "cuda": r"\bfma\.rn\.",
    "hip": r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)(?:ak|mk)?_f(?:16|32)(?!\d)",
}
MATRIX = {"cuda": r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", "hip": r"\bv_mfma_"}


def nvidia(asm: Mapping[str, Any]) -> dict[str, int]:
    """Figures from a kernel's "ptx" and "cubin"; spills are instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        text = _tool("cuobjdump", "--dump-resource-usage", file.name)
        usage = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        # what spills has a stack; without one the disassembler's second is saved
        sass = _tool("nvdisasm", "-c", file.name) if usage["STACK"] or usage["LOCAL"] else ""
    return {
        "registers": usage["REG"],
        "spills": _count(r"\b(?:STL|LDL)\b", sass),
        "spill_bytes": usage["STACK"] + usage["LOCAL"],
        "matrix": _count(MATRIX["cuda"], asm["ptx"]),
        "approximate": _count(APPROXIMATE["cuda"], asm["ptx"]),
        "fused": _count(FUSED["cuda"], asm["ptx"]),
    }


def amd(code: str) -> dict[str, int]:
    """Figures from a kernel's "amdgcn" text; spills are registers."""
    metadata = dict(
        re.findall(r"\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", code)
    )
    # An exact division is one v_rcp that v_div_fmas and v_div_fixup put right, and made of FMAs.
    divisions = _count(r"\bv_div_fixup_f(?:16|32)\b", code)
    # An integer division starts from one v_rcp_iflag times this factor, and ends exact.
    integers = _count(r"\b0x4f7ffffe\b", code)
    return {
        "registers": int(metadata["vgpr_count"]),
        "spills": int(metadata["vgpr_spill_count"]),
        "spill_bytes": int(metadata["private_segment_fixed_size"]),
        "matrix": _count(MATRIX["hip"], code),
        "approximate": max(0, _count(APPROXIMATE["hip"], code) - divisions - integers),
        "fused": 0 if divisions else _count(FUSED["hip"], code),
    }


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


@functools.cache
def _binaries() -> Path:
    import triton.backends.nvidia

    return Path(next(iter(triton.backends.nvidia.__path__))) / "bin"


def _tool(name: str, *words: str) -> str:
    return subprocess.run(
        [str(_binaries() / name), *words], capture_output=True, text=True, check=True
    ).stdout
