"""The C simulation equals the fixed-point student bit for bit, and a difference is seen.

Run: .venv/bin/pytest tests/rtl/test_hls.py
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trivet.hw.distill import distill
from trivet.hw.errors import DesignError, ToolError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.hls import project
from trivet.hw.hls.records import HlsDesign
from trivet.hw.hls.simulation import CSim, compile_simulation
from trivet.hw.module import Mean, from_module
from trivet.hw.qat import quantize
from trivet.hw.vectors import random_vectors

torch.set_num_threads(1)
PART = "xcku5p-ffvb676-2-e"
DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 4, (20_000, 64)) * (DRAW.random((20_000, 64)) < DRAW.random((20_000, 1)))


@pytest.fixture(scope="module")
def fixed() -> FixedNetwork:
    """64 → 16 → 8 → 5. It learnt on sparse rows, so that dense ones saturate."""
    sparse = X[X.sum(1) < 20]
    targets = np.eye(5)[sparse[:, :5].argmax(1)]
    student = distill(sparse, targets, [16, 8], 3, 0)
    return quantize(student, sparse, targets, 6, 8, 2, 0)


@pytest.fixture(scope="module")
def folder(fixed: FixedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in one place and moved to another, as the step store does."""
    first = tmp_path_factory.mktemp("first") / "hls"
    project.build(fixed, first, PART)
    return Path(shutil.move(first, tmp_path_factory.mktemp("moved") / "hls"))


def test_logits_are_equal_bit_for_bit(fixed: FixedNetwork, folder: Path) -> None:
    ranges = fixed.ranges(X)
    assert ranges[1].saturated and ranges[2].saturated  # so saturation is compared too
    for x in (X, random_vectors(fixed, 20_000, 0)):
        exact = fixed.logits(x)
        assert len(np.unique(exact, axis=0)) > 10_000
        assert np.array_equal(CSim(folder).logits(x), exact)


class Turn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def words() -> list[nn.Module]:
    after = [nn.Conv1d(3, 6, 4, 2), nn.ReLU(), Turn(), Mean(), nn.Linear(6, 4)]
    return [nn.Embedding(11, 3), Turn(), *after]


def signal() -> list[nn.Module]:
    after = [nn.Conv1d(6, 5, 2), nn.Flatten(), nn.Linear(30, 4)]
    return [Turn(), nn.Conv1d(3, 6, 4, 2), nn.ReLU(), *after]


@pytest.mark.parametrize("build", [words, signal])
def test_every_kind_of_layer_is_equal_bit_for_bit(
    build: Callable[[], list[nn.Module]], tmp_path: Path
) -> None:
    """Convolutions, a sum, a flattened sequence; the look-up is the host's."""
    torch.manual_seed(0)
    draw, ids = np.random.default_rng(0), build is words
    # few and small, so that others saturate
    x = draw.integers(0, 11, (4, 17)) if ids else draw.normal(0, 0.5, (4, 17, 3))
    network = from_module(nn.Sequential(*build()), x.shape[1:])
    targets = np.eye(4)[network.logits(x).argmax(1)]
    kind = Fixed(4, 4, signed=False) if ids else Fixed(7, 2)
    fixed = quantize(network, x, targets, 6, 6, 1, 0, input_type=kind, per_channel=True)
    project.build(fixed, tmp_path, PART)
    rows = random_vectors(fixed, 20_000, 0)
    exact = fixed.logits(rows)
    assert len(np.unique(exact, axis=0)) > 10_000
    assert sum(row.saturated for row in fixed.ranges(rows)[1:])
    assert np.array_equal(CSim(tmp_path).logits(rows), exact)
    readme = (tmp_path / "README.md").read_text()
    assert ("the host looks 17 token ids up in `table.npy`" in readme) == ids
    assert HlsDesign.read(tmp_path).on_host == (("embedding",) if ids else ())


def test_another_process_needs_only_the_folder(fixed: FixedNetwork, folder: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from trivet.hw.hls.simulation import CSim; "
        "np.save(sys.argv[2], CSim(Path(sys.argv[1])).logits(np.load(sys.argv[3]))); "
        "assert 'hls4ml' not in sys.modules"
    )
    np.save(folder / "x.npy", X[:50])
    words = ["hls", "y.npy", "hls/x.npy"]
    subprocess.run([sys.executable, "-c", script, *words], cwd=folder.parent, check=True)
    assert np.array_equal(np.load(folder.parent / "y.npy"), fixed.logits(X[:50]))


def test_one_changed_weight_is_seen(fixed: FixedNetwork, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "hls")
    file = tmp_path / "hls" / "firmware" / "weights" / "w2.txt"
    first, rest = file.read_text().split(",", 1)
    step = 2.0 ** -fixed.layers[0].weight.fraction
    file.write_text(f"{float(first) + (step if float(first) < 0 else -step)},{rest}")
    assert not np.array_equal(CSim(tmp_path / "hls").logits(X), fixed.logits(X))


def test_the_project_is_the_same_each_time(
    fixed: FixedNetwork, folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "hls"
    project.write_sources(project.on_chip(fixed), again, PART)
    written = [path.relative_to(again) for path in again.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [p for p in written if (folder / p).read_bytes() != (again / p).read_bytes()]


def test_every_type_comes_from_the_quantizer(fixed: FixedNetwork, folder: Path) -> None:
    defines = (folder / "firmware" / "defines.h").read_text()
    assert "typedef ap_ufixed<1,1,AP_RND,AP_SAT,0> input_t;" in defines
    for at, layer in enumerate(fixed.layers):
        for name in ("weight", "bias"):
            kind = getattr(layer, name).hls[:-1] + ",0>"
            assert f"typedef {kind} dense_{at}_{name}_t;" in defines
    assert "language model" in (folder / "README.md").read_text()


def test_without_a_compiler_the_error_names_it(
    fixed: FixedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"g\+\+ was not found"):
        project.build(fixed, tmp_path / "hls", PART)
    assert not os.path.exists(tmp_path / "hls")


def test_a_compiler_that_fails_is_quoted(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "hls")
    (tmp_path / "hls" / "firmware" / "student.cpp").write_text("this is no C++\n")
    with pytest.raises(ToolError, match=r"did not compile.*csim\.log"):
        compile_simulation(tmp_path / "hls")


def test_a_folder_without_a_library_says_so(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match="is missing"):
        CSim(tmp_path)


def test_shifts_and_adds_give_the_same_logits(tmp_path: Path) -> None:
    """da4ml compiles itself for a minute before it begins."""
    draw = np.random.default_rng(1)
    x = draw.integers(0, 4, (500, 8)) * (draw.random((500, 8)) < 0.5)
    targets = np.eye(3)[x[:, :3].argmax(1)]
    small = quantize(distill(x, targets, [4], 3, 0), x, targets, 4, 4, 2, 0)
    if not find_spec("da4ml"):
        with pytest.raises(ToolError, match="needs the package da4ml"):
            project.build(small, tmp_path, PART, strategy="distributed_arithmetic")
        pytest.skip("da4ml is not installed")
    project.build(small, tmp_path, PART, strategy="distributed_arithmetic")
    rows = random_vectors(small, 5000, 0)
    assert np.array_equal(CSim(tmp_path).logits(rows), small.logits(rows))
    assert "Distributed_arithmetic" in (tmp_path / "design.json").read_text()


def test_default_types_do_not_give_the_students_logits(fixed: FixedNetwork, tmp_path: Path) -> None:
    other = project.default_precision(fixed, tmp_path, PART, X[:5000])
    assert other.rows == 5000 and other.logits_differ > 0
    assert 0 < other.answers_differ <= other.logits_differ
    assert other.largest_difference > 0
    assert "ap_fixed<16,6>" in (tmp_path / "README.md").read_text()
