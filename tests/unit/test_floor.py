"""The floor: what something simple does better on the same rows is not promoted.

Run: pytest tests/unit/test_floor.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bare_run import Rows, bare_run
from rich.console import Console
from sklearn.datasets import load_wine

from trivet.artifacts.artifact import Artifact
from trivet.artifacts.run import Run
from trivet.cli import tables
from trivet.config.recipe import Recipe
from trivet.data import versions
from trivet.evaluate import parity
from trivet.evaluate.baseline import BaselineArtifact, Peer, peers
from trivet.evaluate.baselines import embeddings
from trivet.evaluate.comparison import compare_runs
from trivet.evaluate.score import Scored, rows_hash
from trivet.plugins import ARTIFACTS, BACKENDS
from trivet.records.parity import ParityTable
from trivet.records.score import Baseline, HeldOut, Metric, Score
from trivet.tasks.tally import Tally

torch.set_num_threads(1)
N = 400


class Table:
    """Stages and baselines with right rows of one's own: `right` of 400, the first ones."""

    def __init__(self, folder: Path, task: str = "classify", alone: bool = False) -> None:
        self.folder, self.task, self.alone = folder, task, alone
        self.rows: list[parity.Row] = []
        self.peers: list[Peer] = []

    def tally(self, right: int) -> Tally:
        rows = np.arange(N) < right
        if self.task == "classify":
            return Tally.right(rows)
        return Tally(3.0 * (1.5 - rows), np.full(N, 3.0))  # nats; a right row has less of them

    def add(self, name: str, right: int) -> "Table":
        (place := self.folder / name).mkdir()
        tally = self.tally(right)
        tally.save(place)
        np.save(place / "logits.npy", np.eye(2)[(np.arange(N) < right).astype(int)])
        np.save(place / "counts.npy", np.ones(N, int))
        score = Score(
            metric=tally.metric("accuracy"),
            second=Metric(name="macro_f1", value=0.5),
            rows=N,
            ms_per_row=1.0,
            threads=1,
            machine="here",
            held_out="a",
        )
        self.rows.append(parity.Row(BACKENDS[name], score, place))
        return self

    def beside(self, name: str, right: int) -> "Table":
        tally = self.tally(right)
        second = Metric(name="macro_f1", value=0.5)
        self.peers.append(Peer(Baseline(name=name, value=tally.value, second=second), tally))
        return self

    def judge(self, rival: parity.Rival | None = None, **gates: Any) -> ParityTable:
        tree: dict[str, Any] = {"name": "t", "data": {"source": "x", "task": self.task}}
        tree |= {"fpga": {"enabled": True}} if self.alone else {"tune": {}}
        recipe = Recipe.model_validate(tree | {"gates": {"fixed_points": 100.0} | gates})
        return parity.compare(recipe, "run-1", self.rows, self.peers, {}, rival)


@pytest.mark.parametrize("task", ["classify", "generate"])
@pytest.mark.parametrize(("right", "holds"), [(301, True), (300, True), (299, False)])
def test_the_strongest_baseline_is_the_floor(
    right: int, holds: bool, task: str, tmp_path: Path
) -> None:
    """Of a loss the lowest one is the strongest."""
    table = Table(tmp_path, task).add("adapter", right).beside("weak", 20).beside("strong", 300)
    result = table.judge()
    assert result.floor and result.floor.name == "strong"
    assert result.promoted == result.stages[0].passed == holds
    assert "not worse than strong" in result.stages[0].gate
    if not holds:
        (refusal,) = result.refused
        assert refusal.backend == "adapter"
        size = "0.2 points ±" if task == "classify" else "0.002 ±"  # a row of 400
        assert refusal.measured.startswith(size) and refusal.measured.endswith("worse than it")
    assert "that may be chance" in result.floor_words
    open_gate = table.judge(beats_baseline=False)
    assert open_gate.promoted and open_gate.floor_words == result.floor_words


def test_without_a_language_model_what_goes_on_the_chip_stands_on_it_too(tmp_path: Path) -> None:
    table = Table(tmp_path, alone=True).beside("simple", 300)
    result = table.add("student-float", 310).add("student-fixed", 290).judge()
    assert [r.backend for r in result.refused] == ["student-fixed"]
    (tmp_path / "tuned").mkdir()
    tuned = Table(tmp_path / "tuned").beside("simple", 300).add("adapter", 310)
    assert tuned.add("onnx-int8", 290).judge(onnx_int8_points=100.0).promoted  # has its own gate


def test_what_has_no_such_figure_is_shown_and_is_no_floor(tmp_path: Path) -> None:
    table = Table(tmp_path, "generate").add("adapter", 100)
    chrf = Metric(name="chrf", value=0.9)
    table.peers.append(Peer(Baseline(name="neighbour", value=None, second=chrf), None))
    result = table.judge()
    assert result.promoted and result.floor is None and result.baselines[0].second == chrf
    assert table.beside("untuned", 101).judge().refused[0].measured.endswith("worse than it")


def rival(table: Table, right: int, rows: str = "a") -> parity.Rival:
    tally = table.tally(right)
    ends = {"numerator": tally.numerator.tolist(), "denominator": tally.denominator.tolist()}
    held_out = HeldOut(backend="adapter", metric="accuracy", rows=rows, **ends)
    return parity.Rival("home", "3", held_out)


@pytest.mark.parametrize("task", ["classify", "generate"])
@pytest.mark.parametrize(("right", "holds"), [(310, True), (297, True), (280, False)])
def test_who_is_surely_worse_does_not_replace_the_champion(
    right: int, holds: bool, task: str, tmp_path: Path
) -> None:
    """3 rows of 400 may be chance, 20 with none the other way are not."""
    table = Table(tmp_path, task).add("adapter", right)
    result = table.judge(rival(table, 300))
    assert result.promoted == holds and result.champion and result.champion.difference
    side = "better" if right > 300 else "worse"
    words = result.champion.words(result.lower_is_better)
    assert f"{side} than home version 3" in words and " ± " in words
    if not holds:
        assert "not surely worse than home version 3" in result.refused[0].gate
        assert table.judge(rival(table, 300), beats_champion=False).promoted


def test_other_rows_are_no_contest_and_it_is_said(tmp_path: Path) -> None:
    table = Table(tmp_path).add("adapter", 10)
    result = table.judge(rival(table, 390, rows="b"))
    assert result.promoted and result.champion
    words = "not compared with home version 3: it answered other held-out rows"
    assert result.champion.words(False) == words and words in result.standing[0]
    unknown = table.judge(parity.Rival("home", "3", None))
    assert unknown.champion and "were not written down" in unknown.champion.note


def test_two_runs_are_compared_row_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 of 400 rows; nothing is said of runs that did not write their rows down."""
    folders = []
    for name, right in (("one", 300), ("two", 280)):
        (folder := tmp_path / name).mkdir()
        table = Table(folder).add("adapter", right)
        table.judge().write(folder)
        table.rows[0].held_out().write(folder)
        (folder / "recipe.json").write_text("{}")
        folders.append(folder)
    comparison = compare_runs(*folders)
    assert comparison.difference and comparison.difference.value == pytest.approx(-0.05)
    tables.compare(Console(width=100), comparison)
    assert "Row by row, two is 5.0 points ±" in (said := capsys.readouterr().out)
    assert "worse than one." in said
    (folders[0] / HeldOut.file).unlink()
    assert compare_runs(*folders).difference is None


def test_the_same_rows_in_another_order_are_other_rows() -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert rows_hash(rows) == rows_hash([dict(reversed(row.items())) for row in rows])
    assert rows_hash(rows) != rows_hash(rows[::-1])


def chip_table(root: Path, **chip: Any) -> ParityTable:
    """Of wines, by a student alone: artifacts, scores and baselines as a flow makes them."""
    wine = load_wine()
    np.savez(root / "wine.npz", x=wine.data, y=wine.target)
    fpga = {"enabled": True, "hidden": [16]} | chip
    recipe = Recipe.model_validate({"name": "t", "data": {"source": "wine.npz"}, "fpga": fpga})
    rows, _ = versions.peek(recipe.data, root)
    run = bare_run(root, recipe.model_dump(), rows)
    scores = {BACKENDS[n]: Scored(BACKENDS[n]) for n in ("student-float", "student-fixed")}
    folders = {backend: make(run, score) for backend, score in scores.items()}
    for artifact in (a for a in run.artifacts() if isinstance(a, BaselineArtifact)):
        make(run, artifact)
    return parity.compare(
        run.recipe,
        run.name,
        [parity.Row(backend, Score.read(f), f) for backend, f in folders.items()],
        peers(run),
        {},
    )


def make(run: Run, artifact: Artifact) -> Path:
    for parent in artifact.parents(run.recipe):
        make(run, parent)
    return run.build(artifact)


def test_a_student_that_logistic_regression_beats_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Barely trained, all its other gates hold: a poor model that is rounded well."""
    monkeypatch.chdir(tmp_path)
    table = chip_table(tmp_path, epochs=10)
    assert [base.name for base in table.baselines] == ["the majority label", "logistic regression"]
    assert table.floor and table.floor.value is not None and table.floor.value > 0.9
    assert [r.backend for r in table.refused] == ["student-float", "student-fixed"]
    assert not table.promoted and "gates.beats_baseline" in table.refused[0].gate
    assert "that may be chance" not in table.floor_words


ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [
        {"text": f"{verb} the {room} {thing}", "label": label}
        for verb, label in (("switch on", "LampTurnOn"), ("switch off", "LampTurnOff"))
        for room in ("hall", "attic", "kitchen")
        for thing in ("light", "lamp")
    ],
    "tag": [
        {"tokens": ["in", room, "it", "is", how], "tags": ["O", "B-room", "O", "O", "B-state"]}
        for room in ("hall", "attic", "Kitchen")
        for how in ("dark", "cold")
    ],
    "generate": [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in [("What is your name?", "I am Trivet."), ("Are you a robot?", "A stool, yes.")]
    ],
}
SIMPLE = {
    "classify": [
        "the majority label",
        "MiniLM embeddings + logistic regression",
        "TF-IDF + logistic regression",
    ],
    "tag": ["the majority tag", "words in a window + logistic regression"],
    "generate": ["the nearest neighbour's reply", "the untuned base"],
}


@pytest.mark.parametrize("task", SIMPLE)
def test_each_task_has_its_baselines(task: str, small_base: Path, tmp_path: Path) -> None:
    """Asked what they were fitted on; the majority has half of the labels and no span."""
    tree = {
        "data": {"source": "x", "task": task},
        "model": {"base": str(small_base)},
        "tune": {"precision": "fp32"},
    }
    rows: Rows = dict.fromkeys(("train", "valid", "test"), ROWS[task])
    run = bare_run(tmp_path, tree, rows)
    simple = [a for a in run.artifacts() if isinstance(a, BaselineArtifact)]
    assert sorted(a.words for a in simple) == sorted(SIMPLE[task])
    figures = {a.words: Baseline.read(run.build(a)) for a in simple}
    for artifact in simple:
        base = figures[artifact.words]
        if base.value is not None:
            assert Tally.load(run.path(artifact)).value == base.value
            assert base.low is not None and base.high is not None
            assert base.low <= base.value <= base.high
    values = {name: base.value for name, base in figures.items()}
    if task == "classify":
        assert values.pop("the majority label") == 0.5 and set(values.values()) == {1.0}
    elif task == "tag":
        assert values == {SIMPLE["tag"][0]: 0.0, SIMPLE["tag"][1]: 1.0}
        assert figures["the majority tag"].second.value == 0.6  # three of five words are O
    else:
        assert values.pop("the nearest neighbour's reply") is None
        assert figures["the nearest neighbour's reply"].second.value == 1
        (loss,) = values.values()
        assert loss is not None and loss > np.log(49152) / 4  # of a model cut to two layers


def test_embeddings_are_those_of_the_sentence_alone() -> None:
    """The mean over a sentence's own tokens, by hand, whatever stands beside it in the batch."""
    from transformers import AutoModel, AutoTokenizer

    from trivet.tuning.packaged import unpacked

    sentences = ["turn on the light", "no", "how warm is it in the bedroom upstairs right now"]
    folder = unpacked("all-minilm-l6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    for row, sentence in zip(embeddings.embed(sentences), sentences, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(0) / hidden.mean(0).norm()
        # 1e-6: float32's 6e-8 of numbers below one, over 384 sums and six layers in another order
        assert np.abs(row - mean.numpy()).max() < 1e-6


def test_a_baseline_that_cannot_be_had_stops_no_run() -> None:
    """Without the network there is no package to fetch; the flow goes on and notes it."""
    assert all(a.optional for a in ARTIFACTS.values() if isinstance(a, BaselineArtifact))
