"""A model that lost too much on its way is refused by name, and the champion stays."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from prefect_api import PrefectApi
from product import SENTENCES, Ran, Trivet


def test_a_damaged_export_is_refused_and_the_champion_stays(
    mine_run: Ran, trivet: Trivet, prefect: PrefectApi, clone: Path
) -> None:
    """The int8 model's weights are scaled where it lies; a new recipe would ship it."""
    store = clone / "damaged"  # linked, not copied: what is replaced is whole in the other store
    shutil.copytree(clone / ".trivet" / "store", store, copy_function=_link)
    key = mine_run.json("lineage.json")["keys"]["onnx"]
    file = store / f"onnx-{key[:16]}" / "model.int8.onnx"
    damaged = onnx.load(file)
    for tensor in damaged.graph.initializer:
        if tensor.name.endswith("_scales"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    file.unlink()
    onnx.save(damaged, file)
    for score in store.glob("score-onnx-int8-*/"):
        shutil.rmtree(score)

    # one unit less than the first gate: another lineage, the same artifacts
    words = ("run", "mine.toml", "gates.onnx_int8_points=19.0")
    champion = json.loads(trivet("why", "mine", "--json").stdout)
    said = trivet(*words, rc=3, env={"TRIVET_STORE": str(store)}).stdout
    assert "Refused: onnx-int8" in said and "at most 19 points of accuracy below onnx-fp32" in said
    (folder,) = (
        path.parent
        for path in (clone / "runs").glob("mine-*/recipe.json")
        if json.loads(path.read_text())["gates"]["onnx_int8_points"] == 19
    )
    parity = json.loads((folder / "parity.json").read_text())
    assert not parity["promoted"] and [r["backend"] for r in parity["refused"]] == ["onnx-int8"]
    assert json.loads(trivet("why", "mine", "--json").stdout) == champion
    flow = prefect.latest(folder.name)
    assert flow["state_type"] == "FAILED" and "onnx-int8" in flow["state"]["message"]

    compared = json.loads(trivet("compare", mine_run.name, folder.name, "--json").stdout)
    assert compared["recipe"] == {"gates.onnx_int8_points": [20.0, 19.0]}
    assert compared["stages"]["onnx-int8"]["passed"] == [True, False]
    trivet(*words, rc=3, env={"TRIVET_STORE": str(store)})  # cached, and still refused


def test_who_is_surely_worse_does_not_replace_the_champion(
    mine_run: Ran, trivet: Trivet, clone: Path
) -> None:
    """The same rows, and a rate at which nothing is learnt; all its other gates hold."""
    rows = [(text, label, n) for n in range(40) for label, text in SENTENCES.items()]
    lines = ["text,label", *(f"{text.format(f'room {n}')},{label}" for text, label, n in rows)]
    (clone / "rooms.csv").write_text("\n".join(lines) + "\n")
    words = ("run", "mine.toml", "data.source=rooms.csv", "track.model=rooms")
    first = json.loads(trivet(*words, "--json").stdout)
    assert first["promoted"] and first["champion"] is None

    worse = (*words, "tune.learning_rate=1e-9", "tune.label_names=false")
    said = trivet(*worse, rc=3).stdout
    assert "Refused: adapter" in said and "not surely worse than rooms version 1" in said
    chain = json.loads(trivet("why", "rooms", "--json").stdout)
    assert (chain["run"], chain["version"]) == (first["run"], "1")
    folder = clone / "runs" / said.split()[0]
    parity = json.loads((folder / "parity.json").read_text())
    difference = parity["champion"]["difference"]
    assert difference["value"] == pytest.approx(
        parity["stages"][0]["value"] - first["stages"][0]["value"]
    )
    assert difference["high"] < 0 and difference["p_value"] < 0.05
    page = (folder / "report.html").read_text()
    assert "The champion before this run" in page and "Refused." in page
    trivet(*worse, rc=3)  # asked again: still worse
    gates = ("gates.beats_champion=false", "gates.beats_baseline=true")
    floor = trivet(*worse, *gates, rc=3).stdout
    assert "Refused: adapter" in floor and "gates.beats_baseline" in floor
    assert "MiniLM embeddings" in floor and "rooms version 1" in floor  # both are said either way
    compared = trivet("compare", first["run"], folder.name).stdout
    assert f"{folder.name} is" in compared and f"worse than {first['run']}." in compared


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
