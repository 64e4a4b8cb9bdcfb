"""ONNX: the merged model for ONNX Runtime, in float32 and int8.

The folder holds the tokenizer with its chat template and stop tokens beside the graphs: an export
without them answers, but not the same.

Not covered: int4, and a key-value cache in the graph (replies are decoded without one).
"""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact, Watch
from trivet.export.merged import MERGED
from trivet.plugins import ARTIFACTS, TASKS
from trivet.records.card import Card

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe

FP32, INT8 = "model.onnx", "model.int8.onnx"
LARGEST_FILE = 1_800_000_000  # bytes of weights in one file; protobuf ends at 2 GiB, graph included


class Onnx(Artifact):
    """The graphs, the tokenizer and the card. The float32 graph's weights are the merged model's
    own file, linked; the int8 graph is one file, or two where its weights are too large for one.
    """

    name = "onnx"
    title = "export {recipe} to ONNX"

    def wanted(self, recipe: "Recipe") -> bool:
        return MERGED.wanted(recipe)

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (MERGED,)

    def settings(self, run: "Run") -> dict[str, Any]:
        return run.recipe.export.model_dump()

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.export.weights import share_weights

        write_fp32(run.path(MERGED), folder)
        watch.on_progress(0.8)
        if run.recipe.export.int8:
            write_int8(folder)
        share_weights(folder / FP32, run.path(MERGED))


ONNX = ARTIFACTS.add(Onnx())


def write_fp32(merged: Path, folder: Path) -> None:
    """Write `folder`/model.onnx (opset 20, weights beside it), any batch and length."""
    import torch

    from trivet.export.graph import Logits
    from trivet.tasks.tokenizer import load_tokenizer
    from trivet.tuning import base

    card = Card.read(merged)
    remote = card.model.trust_remote_code
    model = base.load(merged, TASKS[card.task], card.labels, trust_remote_code=remote)
    for name in ("torch.onnx", "onnx_ir", "onnxscript"):  # they tell of each constant
        logging.getLogger(name).setLevel(logging.ERROR)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")  # the grouped one has no operator in ONNX
    ids = torch.randint(0, 100, (2, 11))
    sizes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of axes that two inputs share
        torch.onnx.export(
            Logits(model).eval(),
            (ids, torch.ones_like(ids)),
            folder / FP32,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
            opset_version=20,
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    load_tokenizer(merged).save_pretrained(folder)
    base.save_configs(model, folder)
    card.write(folder)


def write_int8(folder: Path) -> None:
    """Write `folder`/model.int8.onnx beside model.onnx: int8 weights in blocks of 32, activations
    quantised to int8 as they come, block by block; embedding and attention stay float32.

    Quantising a whole activation tensor with one scale (`quantize_dynamic`) breaks this model: its
    few huge activations take the range. Measured on a 4-label tune: answers equal to fp32 .68 (.93
    with every down_proj left out), blockwise 1.00.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        bits=8, block_size=32, is_symmetric=True, accuracy_level=4
    )
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)  # a line for each node
    quantizer = MatMulNBitsQuantizer(onnx.load(folder / FP32), bits=8, algo_config=config)
    quantizer.process()
    weights = sum(len(t.raw_data) for t in quantizer.model.model.graph.initializer)
    quantizer.model.save_model_to_file(str(folder / INT8), weights > LARGEST_FILE)
