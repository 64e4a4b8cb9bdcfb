"""Every kernel compiled for four targets without a GPU, and that each gate can refuse.
Run: .venv/bin/pytest tests/test_offline.py
"""

from pathlib import Path

import pytest
from trivet.kernels.offline import Compiled, compile_all, faults, jobs

from trivet.kernels import assembly, spec


def test_every_kernel_may_ship_on_every_target() -> None:
    made = compile_all()
    assert len(made) == len(jobs()) >= len(spec.TARGETS) * len(spec.ops())
    assert [fault for compiled in made for fault in faults(compiled)] == []
    assert all(c.registers > 0 for c in made)


@pytest.fixture(scope="module")
def bad() -> dict[str, Compiled]:
    """tests/bad_kernels.py on one target, by kernel and variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        patch.syspath_prepend(str(Path(__file__).parent))
        names = {"spilling", "without_dot", "dividing", "fusing", "nonsense"}
        made = compile_all(kernels=names, targets=["sm_90"], module="bad_kernels")
        made += compile_all(
            kernels=["endless"], targets=["sm_90"], module="bad_kernels", seconds=15
        )
    return {f"{c.kernel} {c.variant}".strip(): c for c in made}


@pytest.mark.parametrize(
    "name, says",
    [
        ("spilling", "spills ("),
        ("spilling", "uses 255 registers, at most 200 are allowed"),
        ("without_dot", "multiplies without matrix instructions"),
        ("dividing ROUNDED=False", "divides or takes roots approximately (2)"),
        ("dividing ROUNDED=True", ""),
        ("fusing FUSED=True", "has fused multiply-adds (2)"),
        ("fusing FUSED=False", ""),
        ("nonsense", "incompatible dimensions at index 0: 32 and 64"),
        ("endless", "does not compile: took more than 15 s"),
    ],
)
def test_the_gate_refuses_what_must_not_ship(
    bad: dict[str, Compiled], name: str, says: str
) -> None:
    found = faults(bad[name])
    if says:
        assert any(says in fault and bad[name].kernel in fault for fault in found)
    else:
        assert found == []


def test_the_gate_refuses_more_shared_memory_than_there_is() -> None:
    compiled = Compiled("k", "", "gfx942", "", False, False, 200, registers=8, shared=65537)
    assert "uses 65537 bytes of shared memory, 65536 are there" in faults(compiled)[0]


def test_an_integer_division_on_amd_is_no_approximate_one() -> None:
    told = ".vgpr_count: 8\n.vgpr_spill_count: 0\n.private_segment_fixed_size: 0\n"
    integer = "v_rcp_iflag_f32_e32 v1, v1\nv_mul_f32_e32 v1, 0x4f7ffffe, v1\n"
    assert assembly.amd(told + integer)["approximate"] == 0
    assert assembly.amd(told + integer + "v_rcp_f32_e32 v2, v2\n")["approximate"] == 1
