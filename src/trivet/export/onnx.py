"""From adapter to what ships: merged safetensors, and ONNX in fp32 and int8 for the CPU.

Each folder holds the tokenizer with its chat template and stop tokens beside the weights: an
export without them answers, but not the same.

Not covered: int4, and a key-value cache in the ONNX graph (replies are decoded without one).
"""

import logging
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from . import model as base
from .backends import Card, load_adapted


def merge(adapter: Path, folder: Path) -> None:
    """Write base + adapter as one stock transformers model (float32 safetensors) to `folder`."""
    card = Card.read(adapter)
    adapted = cast(PeftModel, load_adapted(adapter, card)).cpu()
    merged = cast(Any, adapted).merge_and_unload(safe_merge=True)
    merged.save_pretrained(folder)
    base.load_tokenizer(adapter).save_pretrained(folder)
    card.write(folder)


class Logits(nn.Module):
    """Ids and mask in, logits out: the graph's whole interface."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits


def onnx_fp32(merged: Path, folder: Path) -> None:
    """Write `folder`/model.onnx (opset 20, weights beside it), any batch and length."""
    card = Card.read(merged)
    model = base.load(
        merged, card.data.task, card.labels, trust_remote_code=card.model.trust_remote_code
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    ids = torch.randint(0, 1000, (2, 11))
    sizes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=2)}
    torch.onnx.export(
        Logits(model).eval(),
        (ids, torch.ones_like(ids)),
        folder / "model.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
        opset_version=20,
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    base.load_tokenizer(merged).save_pretrained(folder)
    model.config.save_pretrained(folder)
    card.write(folder)


def onnx_int8(folder: Path) -> None:
    """Write `folder`/model.int8.onnx beside model.onnx: int8 weights in blocks of 32, activations
    quantised to int8 as they come, block by block; embedding and attention stay float32.

    Quantising a whole activation tensor with one scale (`quantize_dynamic`) breaks this model: its
    few huge activations take the range. Measured on a 4-label tune: answers equal to fp32 .68 (.93
    with every down_proj left out), blockwise 1.00.
    """
    config = DefaultWeightOnlyQuantConfig(
        bits=8, block_size=32, is_symmetric=True, accuracy_level=4
    )
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)  # a line for each node
    quantizer = MatMulNBitsQuantizer(onnx.load(folder / "model.onnx"), bits=8, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(
        str(folder / "model.int8.onnx"), use_external_data_format=False
    )
