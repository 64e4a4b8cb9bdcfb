"""Every kernel compiled for four targets without a GPU, and that each gate can refuse.
Run: .venv/bin/pytest tests/compile/test_compile_matrix.py
"""

from pathlib import Path

import pytest

from trivet.kernels.hardware.gpus import TARGETS
from trivet.kernels.verify import cases
from trivet.kernels.verify.compile_matrix import Compiled, compile_all, faults, jobs


def test_every_kernel_may_ship_on_every_target() -> None:
    binaries = compile_all()
    assert len(binaries) == len(jobs()) >= len(TARGETS) * len(cases.ops())
    assert [fault for compiled in binaries for fault in faults(compiled)] == []
    assert all(c.registers > 0 for c in binaries)


@pytest.fixture(scope="module")
def bad() -> dict[str, Compiled]:
    """bad_kernels.py on one target, by kernel and variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        patch.syspath_prepend(str(Path(__file__).parent))
        names = {"spilling", "without_dot", "dividing", "fusing", "nonsense"}
        binaries = compile_all(kernels=names, targets=["sm_90"], module="bad_kernels")
        binaries += compile_all(
            kernels=["endless"], targets=["sm_90"], module="bad_kernels", seconds=15
        )
    return {f"{c.kernel} {c.variant}".strip(): c for c in binaries}


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
    objections = faults(bad[name])
    if says:
        assert any(says in fault and bad[name].kernel in fault for fault in objections)
    else:
        assert objections == []
