"""The whole way, once, on real servers: a scheduled run, its proof, its chain, its answers.

Run: .venv/bin/pytest tests/e2e/test_flow.py
"""

import json
import subprocess
from pathlib import Path

from prefect_api import PrefectApi
from product import Ran, Trivet, fire

TASKS = {
    "version home", "check small",
    "tune small", "score adapter", "merge small", "score merged",
    "export small to ONNX", "score onnx-fp32", "score onnx-int8",
    "fit the majority label for small", "fit TF-IDF + logistic regression for small",
    "fit MiniLM embeddings + logistic regression for small",
    "label the pool of small", "distil small", "score student-float", "score student-fixed",
    "compile small for C simulation", "score hls-csim",
    "compile small to Verilog", "score alkaid", "synthesize small",
    "compile small for RTL simulation", "score rtl",
    "ask adapter without Trivet", "ask merged without Trivet",
    "ask onnx-fp32 without Trivet", "ask onnx-int8 without Trivet",
    "prove small", "register small",
}  # fmt: skip
FOLDERS = ("adapter", "merged", "onnx")  # that prove themselves


def test_a_scheduled_run_is_proven(home_run: Ran, prefect: PrefectApi) -> None:
    assert home_run.name.startswith("small-")
    tasks = prefect.tasks(home_run.id, len(TASKS) + 1)
    assert set(tasks) == TASKS | {f"report {home_run.name}"}
    del tasks["version home"]  # another test may have had the sentences first
    assert {task.name for task in tasks.values()} == {"Completed"}
    assert not any(task.persisted for task in tasks.values())  # one cache, and it is the store

    parity = home_run.json("parity.json")
    stages = {stage["backend"]: stage for stage in parity["stages"]}
    assert parity["promoted"] and parity["refused"] == []
    assert list(stages) == [
        "adapter", "merged", "onnx-fp32", "onnx-int8", "student-float", "student-fixed", "hls-csim",
        "alkaid", "rtl",
    ]  # fmt: skip
    assert all(stage["rows"] == 40 and stage["ms_per_row"] > 0 for stage in stages.values())
    for name in ("hls-csim", "alkaid", "rtl"):
        assert stages[name]["bit_exact"] and stages[name]["max_abs_diff"] == 0
    assert stages["merged"]["agreement"] >= 0.999 and stages["merged"]["reference"] == "adapter"
    assert stages["onnx-int8"]["max_abs_diff"] > 0
    simple = {base["name"]: base for base in parity["baselines"]}
    assert len(simple) == 3 and all(0 < base["value"] < 1 for base in simple.values())
    strongest = max(simple.values(), key=lambda base: base["value"])
    gap = stages["adapter"]["value"] - strongest["value"]
    assert strongest["difference"]["value"] == gap  # negative here, and the recipe allows it
    for stage in stages.values():
        assert stage["low"] <= stage["value"] <= stage["high"]
    assert parity["champion"] is None and home_run.json("held-out.json")["backend"] == "adapter"
    vectors = {name: stages[name]["vectors"] for name in ("hls-csim", "alkaid", "rtl")}
    assert {name: pair["equal"] for name, pair in vectors.items()} == {
        "hls-csim": 100_000,
        "alkaid": 100_000,
        "rtl": 20_000,
    }


def test_its_chip_is_measured_and_its_folder_is_whole(home_run: Ran) -> None:
    chip = home_run.json("fpga.json")
    assert chip["design"]["interval"] == 1 and chip["design"]["cycles"] <= 12
    assert chip["synth"]["failures"] == {} and chip["synth"]["xcup"]["dsp"] == 0
    assert chip["synth"]["xcup"]["lut"] > 0 and chip["synth"]["clock"]["mhz"] > 0
    page = (home_run.folder / "report.html").read_text()
    assert home_run.name in page and "hls-csim" in page
    for part in (
        "adapter/adapter_model.safetensors",
        "merged/chat_template.jinja",
        "onnx/tokenizer.json",
        *(f"{name}/{file}" for name in FOLDERS for file in ("verify.py", "golden.jsonl")),
        "hls",
        "rtl/src/student.v",
        "synth/synth.json",
    ):
        assert (home_run.folder / part).exists()


def test_the_next_one_finds_nothing_changed(
    home_run: Ran, trivet: Trivet, prefect: PrefectApi, clone: Path
) -> None:
    before = (home_run.folder / "parity.json").stat().st_mtime_ns
    results = set((clone / ".trivet" / "prefect" / "storage").glob("*"))  # of runs that failed
    run = fire(trivet, prefect)
    assert run["state_name"] == "Completed" and run["name"] == home_run.name
    tasks = prefect.tasks(run["id"], len(TASKS) + 1)
    assert set(tasks) == TASKS | {f"report {home_run.name}"}
    assert {task.name for task in tasks.values()} == {"Cached"}, tasks
    assert (home_run.folder / "parity.json").stat().st_mtime_ns == before
    assert set((clone / ".trivet" / "prefect" / "storage").glob("*")) == results
    assert not list(clone.rglob("*.record"))

    # the UI says which slot of the store a task found
    slots = {
        task.message.removeprefix("unchanged: ")
        for name, task in tasks.items()
        if name.split()[0] not in ("version", "prove", "register", "report")
    }
    assert all((clone / ".trivet" / "store" / slot).is_dir() for slot in slots)
    keys = home_run.json("lineage.json")["keys"]
    artifacts = {f"{name}-{key[:16]}" for name, key in keys.items()}
    scores = {slot for slot in slots if slot.startswith(("score-", "stock-"))}
    assert artifacts | scores | {slot for slot in slots if slot.startswith("check-")} == slots
    assert len(scores) == 9 + 4  # all backends, and those with libraries of others


def test_the_chain_back_from_the_champion(
    home_run: Ran, trivet: Trivet, prefect: PrefectApi, clone: Path
) -> None:
    chains = json.loads(trivet("why", "--json").stdout)
    (chain,) = (chain for chain in chains if chain["model"] == "small")
    lineage = home_run.json("lineage.json")
    assert (chain["version"], chain["aliases"]) == ("1", ["champion"])
    assert chain["run"] == home_run.name and chain["lineage"] == lineage["lineage"]
    assert chain["dvc_md5"] == lineage["dvc_md5"]
    place = clone / ".dvc" / "cache" / "files" / "md5" / chain["dvc_md5"][:2]
    assert (place / chain["dvc_md5"][2:]).exists()  # the rows are still to be had
    assert chain["dvc_source_md5"].startswith(home_run.name.split("-")[1])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True)
    assert chain["git_commit"] == head.stdout.strip()
    assert prefect.flow_run(chain["flow_run_id"])["name"] == home_run.name
    assert chain["parameters"]["tune.rank"] == "16"


def test_a_run_answers(home_run: Ran, trivet: Trivet) -> None:
    said = {}
    for backend in ("adapter", "onnx-fp32", "student-fixed", "hls-csim"):
        words = ("predict", home_run.name, "turn off the light", "--backend", backend, "--json")
        said[backend] = json.loads(trivet(*words).stdout)
    assert said["adapter"]["label"] == said["onnx-fp32"]["label"]
    assert said["student-fixed"]["best"] == said["hls-csim"]["best"]
    assert "does not talk" in trivet("chat", home_run.name, rc=2).stderr
    unknown = trivet("predict", home_run.name, "x", "--backend", "gpu", rc=2)
    assert "onnx-fp32" in unknown.stderr
    assert "is not there" in trivet("predict", "nothing", "x", rc=2).stderr
