"""MLflow's own flavours of a run's artifacts, beside pyfunc: stock transformers and ONNX.

`mlflow.transformers.load_model` and `mlflow.onnx.load_model` open the same files as the backends
do, without Trivet. A backend says by its `snippet` what opens its folder.

An ONNX graph must be one file: the onnx package refuses tensors outside of it that are hard links,
as all files of a run are. So the flavour is the int8 graph; ONNX Runtime has no such rule.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from mlflow.models import Model
from onnx.external_data_helper import uses_external_data

from trivet.plugins import BACKENDS, TASKS
from trivet.records.card import Card

TRANSFORMERS, ONNX = "transformers", "onnx"  # MLflow's names


def add(model: Model, run: Path) -> None:
    """Name in `model` the flavours that the folder `run` has, with paths relative to it."""
    if checkpoint := _checkpoint(run):
        model.add_flavor(TRANSFORMERS, **_transformers(checkpoint))
    if graph := _graph(run):
        model.add_flavor(
            ONNX,
            onnx_version=onnx.__version__,
            data=graph.relative_to(run).as_posix(),
            providers=["CPUExecutionProvider"],
        )


def link_components(run: Path, folder: Path, link: Callable[[Path, Path], None]) -> None:
    """The tokenizer where MLflow's transformers flavour looks for it; `link(source, target)`."""
    if checkpoint := _checkpoint(run):
        place = folder / "components" / "tokenizer"
        place.mkdir(parents=True)
        for file in checkpoint.iterdir():
            if file.name.startswith(("tokenizer", "chat_template")) or file.suffix == ".model":
                link(file, place / file.name)


def _checkpoint(run: Path) -> Path | None:
    """The folder that stock transformers opens."""
    backends = (b for b in BACKENDS.values() if b.inside(run) and b.snippet == TRANSFORMERS)
    return next((run / backend.artifact.name for backend in backends), None)


def _transformers(checkpoint: Path) -> dict[str, Any]:
    """What MLflow's loader reads. Its own builder of this, `build_flavor_config_…`, fails on the
    pipelines of transformers 5, and would name the base by this machine's folder.
    """
    from transformers import AutoConfig
    from transformers.pipelines import PIPELINE_REGISTRY

    card = Card.read(checkpoint)
    head = TASKS[card.task].head
    name, entry = next(
        (name, entry)
        for name, entry in PIPELINE_REGISTRY.supported_tasks.items()
        if head in (kind.__name__ for kind in entry["pt"])
    )
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=card.model.trust_remote_code)
    return {
        "task": name,
        "instance_type": str(entry["impl"]).rpartition(".")[2],
        "pipeline_model_type": config.architectures[0],
        "source_model_name": Path(card.model.base).name,
        "model_binary": checkpoint.name,
        "components": ["tokenizer"],
        "tokenizer_type": "AutoTokenizer",
        "transformers_version": version("transformers"),
    }


def _graph(run: Path) -> Path | None:
    """An ONNX graph that is one file."""
    for backend in BACKENDS.values():
        if backend.inside(run) and backend.snippet.endswith(".onnx"):
            graph = run / backend.artifact.name / backend.snippet
            tensors = onnx.load(graph, load_external_data=False).graph.initializer
            if not any(uses_external_data(tensor) for tensor in tensors):
                return graph
    return None
