"""The compile gate and what it reads, without compiling for more than one target.

Every kernel on every target is in tests/compile/test_compile_matrix.py.
Run: .venv/bin/pytest tests/unit/kernels/test_compile_gate.py
"""

from trivet.kernels.hardware import assembly
from trivet.kernels.hardware.gpus import MODELLED
from trivet.kernels.verify import verification
from trivet.kernels.verify.compile_matrix import Compiled, compile_all, faults


def test_a_kernel_may_ship_on_one_target() -> None:
    (compiled,) = compile_all(1, {"swiglu_forward_kernel"}, [MODELLED])
    assert compiled.registers > 0 and compiled.resident > 1 and faults(compiled) == []


def test_the_gate_refuses_more_shared_memory_than_there_is() -> None:
    compiled = Compiled("k", "", "gfx942", "", False, False, 200, registers=8, shared=65537)
    assert "uses 65537 bytes of shared memory, 65536 are there" in faults(compiled)[0]


def test_an_integer_division_on_amd_is_no_approximate_one() -> None:
    metadata = ".vgpr_count: 8\n.vgpr_spill_count: 0\n.private_segment_fixed_size: 0\n"
    integer = "v_rcp_iflag_f32_e32 v1, v1\nv_mul_f32_e32 v1, 0x4f7ffffe, v1\n"
    assert assembly.amd(metadata + integer)["approximate"] == 0
    assert assembly.amd(metadata + integer + "v_rcp_f32_e32 v2, v2\n")["approximate"] == 1


def test_residency_is_that_of_a_kernels_first_variant() -> None:
    binaries = [
        Compiled("k", v, MODELLED, "t", True, False, 200, registers=r, warps=8)
        for v, r in (("a", 96), ("b", 200))
    ]
    assert [c.resident for c in binaries] == [2, 1]
    assert verification.residency(binaries) == {("k", "t"): 2}
