"""A model that lost too much on its way is refused by name, and the champion stays."""

import json
import shutil
from pathlib import Path

import onnx
from prefect_api import PrefectApi
from product import Ran, Trivet


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


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
