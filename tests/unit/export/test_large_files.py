"""Weights that do not fit into one protobuf file lie beside the graph, and it answers the same.

The limit is lowered: what a graph of 2 GB does, one of 100 KB does as well.

Run: pytest tests/unit/export/test_large_files.py
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures import ARCHITECTURES
from models import small_base
from small_run import ROWS, small_run

from trivet.artifacts.run import Run
from trivet.export import onnx as export
from trivet.plugins import BACKENDS, TASKS

TASK = TASKS["classify"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("large")
    base = small_base(ARCHITECTURES["llama"], TASK.head, root / "base")
    run = small_run(root, base, "classify")
    for artifact in run.line(export.ONNX):
        run.build(artifact)
    return run


def test_int8_with_its_weights_beside_it_answers_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_file, folder = run.path(export.ONNX), tmp_path / "onnx"
    folder.mkdir()
    monkeypatch.setattr(export, "LARGEST_FILE", 1)
    export.write_fp32(run.path(export.MERGED), folder)
    export.write_int8(folder)
    whole, graph = one_file / export.INT8, folder / export.INT8
    assert graph.stat().st_size < whole.stat().st_size
    outside = onnx.load(graph, load_external_data=False).graph.initializer
    places = {e.value for t in outside for e in t.external_data if e.key == "location"}
    assert len(places) == 1
    beside = (folder / places.pop()).stat().st_size
    assert beside > 64 * 300 * 4  # the embedding's float32 alone
    backend = BACKENDS["onnx-int8"]
    answers = [backend.open(f, 1).answer(ROWS["classify"]) for f in (one_file, folder)]
    assert np.array_equal(*(np.concatenate(a) for a in answers))
