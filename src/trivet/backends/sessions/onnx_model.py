"""An ONNX graph of a language model, open on the CPU. Without torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from trivet.backends.sessions.language_model import LanguageModel
from trivet.records.card import Card
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OnnxModel(LanguageModel):
    """`threads`: 0 = as many as ONNX Runtime takes, one a core."""

    def __init__(
        self, file: Path, tokenizer: "PreTrainedTokenizerBase", card: Card, threads: int
    ) -> None:
        super().__init__(tokenizer, card, stop_ids(file.parent, tokenizer))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        lengths = np.array([len(e.ids) for e in examples])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.tokenizer.pad_token_id, np.int64)
        ids[mask] = np.concatenate([e.ids for e in examples])
        feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        (logits,) = self.session.run(["logits"], feed)
        if logits.ndim == 2:  # the stock classification head has pooled already
            return logits  # type: ignore[no-any-return]
        row = np.repeat(np.arange(len(examples)), [len(e.positions) for e in examples])
        return logits[row, np.concatenate([e.positions for e in examples])]  # type: ignore[no-any-return]
