"""A table or a torch module of one's own becomes a student, with no language model anywhere.

Run: .venv/bin/pytest tests/test_inputs.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_wine
from torch import nn
from trivet.flows.recipe import Recipe, load
from trivet.flows.steps import answer, check, data, fpga, score
from trivet.flows.steps.backends import backends_of
from trivet.flows.steps.inputs import Inputs, inputs_of
from trivet.flows.steps.run import Run

from trivet import UserError
from trivet.hw.fixed import FixedStudent
from trivet.hw.module import from_module
from trivet.hw.network import Network

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


def student(chosen: Recipe, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows, and fpga.json of the student made of them in root/student."""
    rows, _ = data.peek(chosen, root)
    check.check(chosen, rows, root)
    (root / "student").mkdir()
    fpga.learn(chosen, root, rows, None, root / "student", lambda share: None)
    return rows, json.loads((root / "student" / "fpga.json").read_text())


def right(name: str, folder: Path, rows: list[dict[str, Any]]) -> float:
    labels = sorted({row["label"] for row in rows})
    logits = score.ask(fpga.open_student(name, folder), rows, "classify").logits
    return float(
        np.mean([labels[i] == r["label"] for i, r in zip(logits.argmax(1), rows, strict=True)])
    )


def test_a_table_of_numbers_becomes_a_student(digits: Path) -> None:
    rows, found = student(recipe("mine.npz", input_bits=4, epochs=30), digits)
    assert {k: len(v) for k, v in rows.items()} == {
        "train": 1259,
        "valid": 179,
        "test": 359,
        "pool": 0,
    }
    assert Inputs.load(digits / "student").given.width == 4
    for name in ("student-float", "student-fixed"):
        assert right(name, digits / "student", rows["test"]) > 0.93
    assert right("student-float", digits / "student", rows["test"]) == found["distilled_value"]
    assert right("student-fixed", digits / "student", rows["valid"]) == found["valid_value"]
    assert found["hard_label_value"] is None and found["labelled_by_teacher"] == 0
    asked = answer.predict(digits, json.dumps(rows["test"][0]["x"]), "student-fixed")
    assert asked["label"] in "0123456789" and len(asked["best"]) == 3
    for text, words in (("seven", "as a list"), ("[1, 2]", r"\[2\] numbers.* takes \[64\]")):
        with pytest.raises(UserError, match=words):
            answer.predict(digits, text, "student-fixed")
    given = found["layers"][0]
    assert given["values"] == (1259 + 359) * 64 and given["test_values"] == 359 * 64
    assert given["saturated"] > given["test_saturated"] > 0  # the pixels of 16


def test_the_shipped_digits_say_the_same_and_the_baseline_sees_what_the_chip_sees() -> None:
    chosen = load("digits.toml")
    assert chosen.tune is None
    assert backends_of(chosen)[:3] == ["student-float", "student-fixed", "hls-csim"]
    assert not {"adapter", "merged", "onnx-fp32"} & set(backends_of(chosen))
    rows, card = data.peek(chosen, Path("/nowhere"))
    assert card["labels"]["0"] + card["rows"]["valid"] == 124 + 179
    inputs = inputs_of(rows["train"], chosen.fpga, None)
    found = score.plain_baseline(rows, {k: inputs.read(rows[k]) for k in ("train", "test")})
    assert found["name"] == "logistic regression" and 0.94 < found["value"] < 1


def test_columns_of_any_size_fill_the_type() -> None:
    rows = [{"x": row.tolist(), "label": "a"} for row in WINE.data]
    chip = recipe("x").fpga
    inputs = inputs_of(rows, chip, None)
    x = inputs.read(rows)
    assert not inputs.given.signed and inputs.given.width == 8
    assert ((x.max(0) > 0.5) & (x.max(0) <= 1)).all() and WINE.data.max() > 1000
    assert np.array_equal(x * 2.0 ** np.array(inputs.shifts), WINE.data.astype(np.float32))
    below = [{"x": (-row).tolist(), "label": "a"} for row in WINE.data]
    signed = inputs_of(below, chip, None)
    assert signed.given.signed and signed.given.low * 2.0**-signed.given.fraction == -1
    assert np.abs(signed.read(below)).max() <= 1


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
    assert np.allclose(inputs.scaled(network).logits(inputs.read(rows)), wanted, rtol=1e-5)


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
    assert [layer.kind for layer in FixedStudent.load(digits / "student").layers] == [
        "conv",
        "dense",
    ]
    for name in ("student-float", "student-fixed"):
        assert right(name, digits / "student", rows["test"]) > 0.85


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
    inputs = Inputs.load(digits / "student")
    found = Network.load(digits / "student").logits(inputs.read(rows["test"]))
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_token_ids_go_through_the_modules_table(digits: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 20, (600, 9))
    np.savez("ids.npz", x=x, y=np.where((x == 3).sum(1) > 0, "yes", "no"))
    (digits / "net.py").write_text(WORDS)
    rows, _ = student(recipe("ids.npz", module="net.py:build", epochs=40), digits)
    assert str(Inputs.load(digits / "student").given) == "ap_ufixed<5,5>"
    assert right("student-fixed", digits / "student", rows["test"]) > 0.9
    inputs = Inputs.load(digits / "student")
    plain = score.plain_baseline(rows, {k: inputs.read(rows[k]) for k in ("train", "test")})
    assert plain["value"] > 0.8
    with pytest.raises(UserError, match="20 stands among the token ids.*rows 0 to 19"):
        inputs.read([{"x": [0] * 8 + [20]}])
    with pytest.raises(UserError, match=r"\[8\] numbers, and the student takes \[9\]"):
        inputs.read([{"x": [0] * 8}])


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
    rows, found = student(recipe("said.csv", bins=64), digits)
    assert found["inputs"] == "counts" and found["bins"] == 64
    assert right("student-fixed", digits / "student", rows["test"]) == 1


def test_the_files_bytes_are_part_of_the_lineage(digits: Path) -> None:
    (digits / "net.py").write_text(SIGNAL)
    version = data.Data(digits, "a.dir", "b.dir", {}, "built")

    def keys(**chip: Any) -> tuple[str, str, str]:
        run = Run(digits, recipe("mine.npz", module="net.py:build", **chip), version)
        return run.key("student"), run.key("hls"), run.lineage

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
        data.peek(recipe("bad.npz"), digits)


def test_a_file_that_is_no_table_is_named(digits: Path) -> None:
    (digits / "bad.npz").write_bytes(b"PK not at all")
    with pytest.raises(UserError, match="not an .npz file"):
        data.peek(recipe("bad.npz"), digits)
    (digits / "rows.jsonl").write_text('{"x": [1, 2], "label": "a"}\n{"x": [1], "label": "b"}\n')
    with pytest.raises(UserError, match=r"line 2, column 'x': \[1\] numbers.*has \[2\]"):
        data.peek(recipe("rows.jsonl"), digits)
    (digits / "rows.jsonl").write_text('{"x": ["a", 2], "label": "a"}\n')
    with pytest.raises(UserError, match="line 1, column 'x': not a list of numbers"):
        data.peek(recipe("rows.jsonl"), digits)


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
    rows, _ = data.peek(chosen, digits)
    with pytest.raises(UserError, match=words):
        check.check(chosen, rows, digits)


def test_numbers_are_nothing_for_a_language_model(digits: Path) -> None:
    chosen = Recipe.model_validate({"name": "t", "data": {"source": "mine.npz"}, "tune": {}})
    rows, _ = data.peek(chosen, digits)
    with pytest.raises(
        UserError, match=r"holds numbers, and a language model reads text.*\[tune\]"
    ):
        check.check(chosen, rows, digits)
