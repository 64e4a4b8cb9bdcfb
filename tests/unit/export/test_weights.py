"""A graph that reads the merged model's file gives the same logits, bit by bit.

Run: .venv/bin/pytest tests/unit/export/test_weights.py
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trivet.export.weights import share_weights

pytestmark = pytest.mark.unit


class Model(nn.Module):
    """Each way in which an exporter keeps a tensor: as it is, transposed, or changed (a + b)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(500, 64)
        self.wide, self.last = nn.Linear(64, 256), nn.Linear(256, 3, bias=False)
        self.a, self.b = (nn.Parameter(torch.randn(64, 64)) for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids) @ (self.a + self.b)
        return self.last(torch.relu(self.wide(hidden)))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "onnx").mkdir()
    file = tmp_path / "onnx" / "model.onnx"
    torch.onnx.export(
        Model().eval(),
        (torch.randint(0, 500, (2, 7)),),
        file,
        output_names=["logits"],
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    return file


def logits(graph: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(0, 500, (2, 7))
    return session.run(None, {session.get_inputs()[0].name: ids})[0]


def merged(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    half = len(state) // 2  # a large model comes in shards
    for name, keys in {"one": list(state)[:half], "two": list(state)[half:]}.items():
        save_file({key: state[key].contiguous() for key in keys}, folder / f"{name}.safetensors")
    return folder


def test_logits_are_equal_and_the_bytes_are_the_merged_ones(graph: Path, tmp_path: Path) -> None:
    before, size = logits(graph), (graph.parent / "model.onnx.data").stat().st_size
    folder = merged(tmp_path / "merged", Model().state_dict())
    saved = share_weights(graph, folder)
    assert np.array_equal(logits(graph), before)
    # the embedding and `wide`; `last` and the bias are small enough to lie in the graph itself
    assert saved >= 4 * (500 * 64 + 256 * 64)
    left = [f for f in graph.parent.iterdir() if f.suffix == ".data"]
    assert sum(f.stat().st_size for f in left) <= size - saved
    for file in folder.iterdir():
        assert file.samefile(graph.parent / file.name)
    nodes = [n.op_type for n in onnx.load(graph, load_external_data=False).graph.node]
    assert "Transpose" in nodes


def test_a_graph_of_other_weights_stays_as_it_was(graph: Path, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in graph.parent.iterdir()}
    other = {key: value + 1 for key, value in Model().state_dict().items()}
    assert share_weights(graph, merged(tmp_path / "merged", other)) == 0
    assert {file.name: file.read_bytes() for file in graph.parent.iterdir()} == files
