"""The exported graphs, in stock ONNX Runtime on the CPU: float32, and int8 after it."""

from pathlib import Path
from typing import TYPE_CHECKING

from trivet.backends.backend import CPU, Backend, Session
from trivet.backends.gate import Agreement, Points
from trivet.backends.merged import WHOLE
from trivet.export.onnx import FP32, INT8, ONNX
from trivet.plugins import BACKENDS

if TYPE_CHECKING:
    from trivet.config.recipe import Recipe


class OnnxBackend(Backend):
    artifact = ONNX
    target = CPU
    stock = "trivet.stock.onnx_runtime"

    def inside(self, run: Path) -> bool:
        return (run / self.artifact.name / self.snippet).exists()

    def open(self, folder: Path, threads: int = 0) -> Session:
        from trivet.backends.sessions.onnx_model import OnnxModel
        from trivet.records.card import Card
        from trivet.tasks.tokenizer import load_tokenizer

        file, tokenizer = folder / self.snippet, load_tokenizer(folder)
        return OnnxModel(file, tokenizer, Card.read(folder), threads)


class OnnxFp32(OnnxBackend):
    name = "onnx-fp32"
    reference = WHOLE
    gate = Agreement("onnx_fp32_agreement", 0.999)
    words = "ONNX Runtime, float32"
    preferred = True
    snippet = FP32


class OnnxInt8(OnnxBackend):
    name = "onnx-int8"
    gate = Points("onnx_int8_points", 1.0)
    words = "ONNX Runtime, int8"
    snippet = INT8
    quantises = True

    def wanted(self, recipe: "Recipe") -> bool:
        return super().wanted(recipe) and recipe.export.int8


ONNX_FP32 = BACKENDS.add(OnnxFp32())
OnnxInt8.reference = ONNX_FP32
BACKENDS.add(OnnxInt8())
