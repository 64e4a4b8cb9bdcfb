"""A table or a torch module of one's own becomes a student, with no language model anywhere.

Run: pytest tests/unit/test_inputs.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bare_run import Rows, bare_run
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_wine
from torch import nn

from trivet import UserError
from trivet.artifacts.artifact import Watch
from trivet.check import check
from trivet.config.recipe import Recipe, load
from trivet.data import versions
from trivet.evaluate.baseline import BaselineArtifact
from trivet.evaluate.predict import predict
from trivet.evaluate.score import ask
from trivet.fpga.baseline import fit
from trivet.fpga.hls import HLS
from trivet.fpga.inputs import Inputs, inputs_of
from trivet.fpga.student import STUDENT
from trivet.hw.fixed import FixedNetwork
from trivet.hw.module import from_module
from trivet.hw.network import Network
from trivet.plugins import BACKENDS, TASKS
from trivet.records.chip import StudentFacts
from trivet.tasks.classify import Label
from trivet.tasks.example import Row

torch.set_num_threads(1)
WINE = load_wine()  # 13 columns from 0.1 to 1,700
SIGNAL = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 6, 16, 8), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(42, 10),
    )
"""
WORDS = """
from torch import nn
from trivet.hw.module import Mean

def build():
    return nn.Sequential(nn.Embedding(20, 6), Mean(), nn.Linear(6, 2))
"""


def recipe(source: str, **chip: Any) -> Recipe:
    chip = {"enabled": True, "epochs": 10, "hidden": [16]} | chip
    return Recipe.model_validate({"name": "t", "data": {"source": source}, "fpga": chip})


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with digits.npz, where the test stands."""
    table = load_digits()
    np.savez(tmp_path / "mine.npz", x=table.data.astype(np.uint8), y=table.target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def student(chosen: Recipe, root: Path) -> tuple[Rows, StudentFacts]:
    """The rows, and fpga.json of the student made of them in root/student."""
    rows, _ = versions.peek(chosen.data, root)
    check(chosen, rows, root, {})
    (root / "student").mkdir()
    STUDENT.build(bare_run(root, chosen.model_dump(), rows), root / "student", Watch())
    return rows, StudentFacts.read(root / "student")


def accuracy(name: str, folder: Path, rows: list[Row]) -> float:
    labels = sorted({row["label"] for row in rows})
    logits = ask(BACKENDS[name].open(folder), rows, TASKS["classify"]).logits
    return float(
        np.mean([labels[i] == r["label"] for i, r in zip(logits.argmax(1), rows, strict=True)])
    )


def share(guess: Any, rows: Rows) -> float:
    return float(np.mean([g == row["label"] for g, row in zip(guess, rows["test"], strict=True)]))


def test_a_table_of_numbers_becomes_a_student(digits: Path) -> None:
    rows, facts = student(recipe("mine.npz", input_bits=4, epochs=30), digits)
    assert {k: len(v) for k, v in rows.items()} == {
        "train": 1259,
        "valid": 179,
        "test": 359,
        "pool": 0,
    }
    assert Inputs.read(digits / "student").input_type.width == 4
    for name in ("student-float", "student-fixed"):
        assert accuracy(name, digits / "student", rows["test"]) > 0.93
    assert accuracy("student-float", digits / "student", rows["test"]) == facts.distilled_value
    assert accuracy("student-fixed", digits / "student", rows["valid"]) == facts.valid_value
    assert facts.hard_label_value is None and facts.labelled_by_teacher == 0
    answer, backend = predict(digits, json.dumps(rows["test"][0]["x"]), "student-fixed")
    assert isinstance(answer, Label) and backend.name == "student-fixed"
    assert answer.label in "0123456789" and len(answer.best) == 3
    for text, words in (("seven", "as a list"), ("[1, 2]", r"\[2\] numbers.* takes \[64\]")):
        with pytest.raises(UserError, match=words):
            predict(digits, text, "student-fixed")
    layer = facts.layers[0]
    assert layer.values == (1259 + 359) * 64 and layer.test_values == 359 * 64
    assert layer.saturated > layer.test_saturated > 0  # the pixels of 16


def test_the_shipped_digits_say_the_same_and_the_baseline_sees_what_the_chip_sees(
    tmp_path: Path,
) -> None:
    chosen = load("digits.toml")
    assert chosen.tune is None
    run = bare_run(tmp_path, chosen.model_dump(), {"train": [], "valid": [], "test": []})
    names = [backend.name for backend in run.backends()]
    assert names[:3] == ["student-float", "student-fixed", "hls-csim"]
    assert not {"adapter", "merged", "onnx-fp32"} & set(names)
    rows, card = versions.peek(chosen.data, Path("/nowhere"))
    assert card.labels["0"] + card.rows["valid"] == 124 + 179
    inputs = inputs_of(rows["train"], chosen.fpga, None)
    assert 0.94 < share(fit(inputs, rows), rows) < 1
    simple = [a.words for a in run.artifacts() if isinstance(a, BaselineArtifact)]
    assert simple == ["the majority label", "logistic regression"]


def test_columns_of_any_size_fill_the_type() -> None:
    rows = [{"x": row.tolist(), "label": "a"} for row in WINE.data]
    chip = recipe("x").fpga
    inputs = inputs_of(rows, chip, None)
    x = inputs.encode(rows)
    assert not inputs.input_type.signed and inputs.input_type.width == 8
    assert ((x.max(0) > 0.5) & (x.max(0) <= 1)).all() and WINE.data.max() > 1000
    assert np.array_equal(x * 2.0 ** np.array(inputs.shifts), WINE.data.astype(np.float32))
    below = [{"x": (-row).tolist(), "label": "a"} for row in WINE.data]
    signed = inputs_of(below, chip, None)
    kind = signed.input_type
    assert kind.signed and kind.low * 2.0**-kind.fraction == -1
    assert np.abs(signed.encode(below)).max() <= 1


@pytest.mark.parametrize("kind", ["dense", "conv", "flat", "sum"])
def test_a_network_of_the_data_is_one_of_the_shifted_numbers(kind: str) -> None:
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    shape = (13,) if kind == "dense" else (7, 3)
    x = draw.normal(0, 1, (50, *shape)) * 10.0 ** draw.integers(-2, 3, shape[-1:])
    conv = nn.Conv1d(3, 4, 2)
    module = {
        "dense": nn.Linear(13, 4),
        "conv": Last(conv),
        "flat": nn.Sequential(nn.Flatten(), nn.Linear(21, 4)),
        "sum": nn.Sequential(Mean(), nn.Linear(3, 4)),
    }[kind]
    rows = [{"x": row.tolist(), "label": "a"} for row in x]
    network = from_module(module, shape)
    inputs = inputs_of(rows, recipe("x").fpga, network)
    assert len(set(inputs.shifts)) > 2
    wanted = network.logits(x.astype(np.float32))
    assert np.allclose(inputs.scaled(network).logits(inputs.encode(rows)), wanted, rtol=1e-5)


class Last(nn.Module):
    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.transpose(1, 2)).mean(-1)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def test_a_module_of_ones_own_is_trained(digits: Path) -> None:
    (digits / "net.py").write_text(SIGNAL)
    chosen = recipe("mine.npz", module="net.py:build")
    rows, _ = student(chosen, digits)
    assert [layer.kind for layer in FixedNetwork.load(digits / "student").layers] == [
        "conv",
        "dense",
    ]
    for name in ("student-float", "student-fixed"):
        assert accuracy(name, digits / "student", rows["test"]) > 0.85


def test_a_module_with_its_weights_is_taken_as_it_is(digits: Path) -> None:
    (digits / "net.py").write_text(SIGNAL)
    space: dict[str, Any] = {}
    exec(SIGNAL, space)
    torch.manual_seed(7)
    module = space["build"]()
    table = load_digits()
    module(torch.from_numpy(table.data).float())  # batch-norm sees the data
    module.eval()
    save_file(module.state_dict(), digits / "net.safetensors")
    chosen = recipe("mine.npz", module="net.py:build", weights="net.safetensors")
    rows, _ = student(chosen, digits)
    x = np.array([row["x"] for row in rows["test"]], np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    inputs = Inputs.read(digits / "student")
    logits = Network.load(digits / "student").logits(inputs.encode(rows["test"]))
    assert np.abs(logits - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_token_ids_go_through_the_modules_table(digits: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 20, (600, 9))
    np.savez("ids.npz", x=x, y=np.where((x == 3).sum(1) > 0, "yes", "no"))
    (digits / "net.py").write_text(WORDS)
    rows, _ = student(recipe("ids.npz", module="net.py:build", epochs=40), digits)
    assert str(Inputs.read(digits / "student").input_type) == "ap_ufixed<5,5>"
    assert accuracy("student-fixed", digits / "student", rows["test"]) > 0.9
    inputs = Inputs.read(digits / "student")
    assert share(fit(inputs, rows), rows) > 0.8
    with pytest.raises(UserError, match="20 stands among the token ids.*rows 0 to 19"):
        inputs.encode([{"x": [0] * 8 + [20]}])
    with pytest.raises(UserError, match=r"\[8\] numbers, and the student takes \[9\]"):
        inputs.encode([{"x": [0] * 8}])


def test_texts_without_a_language_model_are_counted(digits: Path) -> None:
    words = {"good": ["nice", "lovely", "great"], "bad": ["awful", "poor", "nasty"]}
    lines = [
        f"{a} {b} thing {n},{label}\n"
        for label, some in words.items()
        for a in some
        for b in some
        for n in range(20)
    ]
    (digits / "said.csv").write_text("text,label\n" + "".join(lines))
    rows, facts = student(recipe("said.csv", bins=64), digits)
    assert facts.inputs == "counts" and facts.bins == 64
    assert accuracy("student-fixed", digits / "student", rows["test"]) == 1


def test_the_files_bytes_are_part_of_the_lineage(digits: Path) -> None:
    (digits / "net.py").write_text(SIGNAL)

    def keys(**chip: Any) -> tuple[str, str, str]:
        chosen = recipe("mine.npz", module="net.py:build", **chip)
        run = bare_run(digits, chosen.model_dump(), {"train": [], "valid": [], "test": []})
        return run.key(STUDENT), run.key(HLS), run.lineage

    first = keys()
    assert keys() == first
    (digits / "net.py").write_text(SIGNAL + "# another thought\n")
    second = keys()
    assert not set(first) & set(second)
    save_file({"a": torch.zeros(1)}, digits / "w.safetensors")
    third = keys(weights="w.safetensors")
    save_file({"a": torch.ones(1)}, digits / "w.safetensors")
    assert not set(third) & set(keys(weights="w.safetensors"))


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"x": np.zeros((9, 2))}, "its arrays are x; it needs x .the rows. and y"),
    "one axis": ({"x": np.zeros(9), "y": np.zeros(9, int)}, r"'x': float64 \[9\]; numbers"),
    "other length": (
        {"x": np.zeros((9, 2)), "y": np.zeros(8, int)},
        r"'y': int64 \[8\]; one whole",
    ),
    "floats as labels": ({"x": np.zeros((9, 2)), "y": np.zeros(9)}, "'y': float64"),
    "complex": ({"x": np.zeros((9, 2), complex), "y": np.zeros(9, int)}, "'x': complex128"),
    "objects": ({"x": np.zeros((9, 2)), "y": np.array([None] * 9)}, "not an .npz file of plain"),
    "a gap": (
        {"x": np.array([[1, np.nan]] * 9), "y": np.arange(9) % 2},
        r"row 1, column 'x': the value at \[1\] is NaN or infinite",
    ),
    "one label": (
        {"x": np.arange(18).reshape(9, 2), "y": np.zeros(9, int)},
        "each row has the label",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_each_bad_table_is_named(name: str, digits: Path) -> None:
    arrays, words = ARRAYS[name]
    np.savez("bad.npz", **arrays)
    with pytest.raises(UserError, match=words):
        versions.peek(recipe("bad.npz").data, digits)


def test_a_file_that_is_no_table_is_named(digits: Path) -> None:
    (digits / "bad.npz").write_bytes(b"PK not at all")
    with pytest.raises(UserError, match="not an .npz file"):
        versions.peek(recipe("bad.npz").data, digits)
    (digits / "rows.jsonl").write_text('{"x": [1, 2], "label": "a"}\n{"x": [1], "label": "b"}\n')
    with pytest.raises(UserError, match=r"line 2, column 'x': \[1\] numbers.*has \[2\]"):
        versions.peek(recipe("rows.jsonl").data, digits)
    (digits / "rows.jsonl").write_text('{"x": ["a", 2], "label": "a"}\n')
    with pytest.raises(UserError, match="line 1, column 'x': not a list of numbers"):
        versions.peek(recipe("rows.jsonl").data, digits)


FILES: dict[str, tuple[str, dict[str, str], str]] = {
    "no file": ("", {"module": "other.py:build"}, "'other.py': there is no such file"),
    "no function": ("x = 1", {"module": "net.py:build"}, "has no attribute 'build'"),
    "no Python": ("def", {"module": "net.py:build"}, "SyntaxError"),
    "no module": ("build = dict", {"module": "net.py:build"}, "gave a dict, not a torch module"),
    "a tanh": (
        "from torch.nn import *\ndef build():\n    return Sequential(Linear(64, 10), Tanh())",
        {"module": "net.py:build"},
        "'1' .Tanh. cannot go on the chip. Instead, use ReLU",
    ),
    "other width": (
        "from torch import nn\ndef build():\n    return nn.Linear(63, 10)",
        {"module": "net.py:build"},
        r"does not take rows of shape \(64,\)",
    ),
    "other labels": (
        "from torch import nn\ndef build():\n    return nn.Linear(64, 9)",
        {"module": "net.py:build"},
        "gives 9 logits, and the training rows have 10 labels",
    ),
    "other weights": (
        SIGNAL,
        {"module": "net.py:build", "weights": "w.safetensors"},
        "Missing key",
    ),
    "no weights": (
        SIGNAL,
        {"module": "net.py:build", "weights": "net.py"},
        "fpga.weights = 'net.py'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_each_bad_module_is_named_before_anything_is_made(name: str, digits: Path) -> None:
    text, chip, words = FILES[name]
    (digits / "net.py").write_text(text)
    save_file({"a": torch.zeros(1)}, digits / "w.safetensors")
    chosen = recipe("mine.npz", **chip)
    rows, _ = versions.peek(chosen.data, digits)
    with pytest.raises(UserError, match=words):
        check(chosen, rows, digits, {})


def test_numbers_are_nothing_for_a_language_model(digits: Path) -> None:
    chosen = Recipe.model_validate({"name": "t", "data": {"source": "mine.npz"}, "tune": {}})
    rows, _ = versions.peek(chosen.data, digits)
    with pytest.raises(
        UserError, match=r"holds numbers, and a language model reads text.*\[tune\]"
    ):
        check(chosen, rows, digits, {})
