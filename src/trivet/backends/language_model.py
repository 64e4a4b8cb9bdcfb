"""Everything that answers rows, behind one protocol: rows in, one array of logits for each row out.

A backend opens a folder, as a user would, never an object that is still in memory: what is scored
is what ships. Each folder carries `trivet.json` (the prompt, the labels, the base), so it can be
opened without the recipe.

The student backends answer through a distilled classifier over hashed words; the language model
does not run on the chip.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnxruntime
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..recipe import Data, Model, Recipe
from . import model as base
from .render import Example, prompt_ids, render

# In the order of the legs: backend -> (artifact folder, the hop before it)
BACKENDS: dict[str, tuple[str, str | None]] = {
    "adapter": ("adapter", None),
    "merged": ("merged", "adapter"),
    "onnx-fp32": ("onnx", "merged"),
    "onnx-int8": ("onnx", "onnx-fp32"),
    "student-float": ("student", "merged"),
    "student-fixed": ("student", "student-float"),
    "hls-csim": ("hls", "student-fixed"),
    "alkaid": ("verilog", "student-fixed"),
    "rtl": ("rtl", "student-fixed"),
}
EXACT = ("hls-csim", "alkaid", "rtl")  # logits must equal those of the hop before, bit for bit
LEGS = {
    "torch": ("adapter", "merged"),
    "cpu": ("onnx-fp32", "onnx-int8"),
    "fpga": ("student-float", "student-fixed", *EXACT),
}


class Backend(Protocol):
    def answer(self, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """Float logits [answers, classes] for each row; generate: classes = the vocabulary."""
        ...


def backends_of(recipe: Recipe) -> list[str]:
    """The backends that a recipe's run is proven on, each after the one it is compared with."""
    legs = [*(("torch", "cpu") if recipe.tune else ()), *(("fpga",) if recipe.fpga.enabled else ())]
    names = [name for leg in legs for name in LEGS[leg]]
    return [name for name in names if recipe.export.int8 or name != "onnx-int8"]


@dataclass(frozen=True)
class Card:
    """What an artifact must know of its making to answer rows."""

    data: Data
    model: Model
    labels: list[str]

    def write(self, folder: Path) -> None:
        content = {
            "data": self.data.model_dump(),
            "model": self.model.model_dump(),
            "labels": self.labels,
        }
        (folder / "trivet.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Card":
        content = json.loads((folder / "trivet.json").read_text(encoding="utf-8"))
        return cls(Data(**content["data"]), Model(**content["model"]), content["labels"])


def open_backend(name: str, folder: Path, threads: int = 0) -> Backend:
    """Open one of BACKENDS from its artifact folder; `threads`: 0 = all that torch may use."""
    card = Card.read(folder)
    threads = threads or torch.get_num_threads()
    if name == "adapter":
        return TorchBackend(load_adapted(folder, card), base.load_tokenizer(folder), card)
    if name == "merged":
        remote = card.model.trust_remote_code
        model = base.load(
            folder, card.data.task, card.labels, device=best_device(), trust_remote_code=remote
        )
        return TorchBackend(model, base.load_tokenizer(folder, remote), card)
    if name.startswith("onnx-"):
        file = "model.int8.onnx" if name == "onnx-int8" else "model.onnx"
        return OnnxBackend(folder / file, base.load_tokenizer(folder), card, threads)
    from .fpga import open_student  # hls4ml takes seconds to import

    return open_student(name, folder)


def load_adapted(folder: Path, card: Card) -> nn.Module:
    """The base model with a saved adapter on it, loaded by stock PEFT."""
    whole = base.load(
        base.base_folder(card.model),
        card.data.task,
        card.labels,
        device=best_device(),
        trust_remote_code=card.model.trust_remote_code,
    )
    return PeftModel.from_pretrained(whole, str(folder)).eval()


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Batch:
    """Right-padded int64 ids and mask [rows, length]; `row`, `position`: where answers are read."""

    ids: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor


def batch_of(
    examples: Sequence[Example], model: nn.Module | None = None, pad: int | None = None
) -> Batch:
    if model is not None:
        pad = cast(Any, model).config.pad_token_id
    length = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), length), pad or 0, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        mask[i, : len(example.ids)] = 1
    row = torch.tensor([i for i, e in enumerate(examples) for _ in e.positions])
    position = torch.tensor([p for e in examples for p in e.positions])
    device = device_of(model) if model is not None else "cpu"
    return Batch(*(t.to(device) for t in (ids, mask, row, position)))


def answers(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits [answers, classes] of a batch; the stock classification head has pooled already."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    return logits if logits.dim() == 2 else logits[batch.row, batch.position]


class TokenBackend(ABC):
    """What the language-model backends share: render rows, split the answers by row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, card: Card) -> None:
        self.tokenizer, self.card = tokenizer, card

    def answer(self, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        examples = render(rows, self.card.data, self.card.labels, self.tokenizer).examples
        flat = self._logits(batch_of(examples, pad=self.tokenizer.pad_token_id))
        return np.split(flat, np.cumsum([len(e.positions) for e in examples])[:-1])

    def reply(self, messages: list[dict[str, str]], tokens: int = 64) -> str:
        """The greedy reply to a conversation, at most `tokens` long. No key-value cache."""
        ids = prompt_ids(messages, self.tokenizer)
        start = len(ids)
        while len(ids) < start + tokens:
            example = Example(ids, [len(ids) - 1], [-1])
            token = int(
                self._logits(batch_of([example], pad=self.tokenizer.pad_token_id))[0].argmax()
            )
            if token == self.tokenizer.eos_token_id:
                break
            ids = [*ids, token]
        return str(self.tokenizer.decode(ids[start:], skip_special_tokens=True)).strip()

    @abstractmethod
    def _logits(self, batch: Batch) -> np.ndarray:
        """The answers of a batch, float [answers, classes]."""


class TorchBackend(TokenBackend):
    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, card: Card) -> None:
        super().__init__(tokenizer, card)
        self.model = model.eval()

    @torch.inference_mode()
    def _logits(self, batch: Batch) -> np.ndarray:
        device = device_of(self.model)
        moved = Batch(*(t.to(device) for t in vars(batch).values()))
        return answers(self.model, moved).float().cpu().numpy()

    @torch.inference_mode()
    def reply(self, messages: list[dict[str, str]], tokens: int = 64) -> str:
        ids = torch.tensor([prompt_ids(messages, self.tokenizer)], device=device_of(self.model))
        out = cast(Any, self.model).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


class OnnxBackend(TokenBackend):
    def __init__(
        self, file: Path, tokenizer: PreTrainedTokenizerBase, card: Card, threads: int
    ) -> None:
        super().__init__(tokenizer, card)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def _logits(self, batch: Batch) -> np.ndarray:
        feed = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.numpy()}
        (logits,) = self.session.run(["logits"], feed)
        return logits if logits.ndim == 2 else logits[batch.row.numpy(), batch.position.numpy()]
