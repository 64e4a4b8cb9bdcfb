"""Frozen sentence embeddings into logistic regression, the labels' own names as extra rows.

The strongest simple peer where labels are few: like a language model's head that starts from the
label names (tuning/head.py), it knows what a label means before it has seen a row of it. The
encoder is all-MiniLM-L6-v2, 22M weights, in plain transformers, the mean over tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.evaluate.baseline import Labelling, Rows, labels, logistic_regression, texts
from trivet.plugins import ARTIFACTS
from trivet.tasks.classify import Classify

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

ENCODER = "all-minilm-l6-v2"
LONGEST = 256  # tokens; the encoder was trained on no longer ones
BATCH = 64


class EmbeddingBaseline(Labelling):
    name = "baseline-embeddings"
    words = "MiniLM embeddings + logistic regression"
    task = Classify
    on_gpu = True

    def answer(self, run: "Run", rows: Rows) -> Any:
        from trivet.tuning.head import words

        names = sorted(set(labels(rows)))
        x = embed([*texts(rows, "train"), *words(names), *texts(rows, "test")])
        train = len(rows["train"]) + len(names)
        model = logistic_regression(100.0).fit(x[:train], [*labels(rows), *names])
        return model.predict(x[train:])


def embed(sentences: Sequence[str]) -> np.ndarray:
    """float32 [sentences, 384], each of length one. UserError where the encoder is not to be had.

    Batches hold sentences of like length; a sentence's embedding does not depend on them.
    """
    import torch
    import transformers

    from trivet.tuning.batch import best_device
    from trivet.tuning.packaged import unpacked

    folder = unpacked(ENCODER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).to(best_device()).eval()
    out = np.empty((len(sentences), model.config.hidden_size), np.float32)
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for at in range(0, len(order), BATCH):
        part = order[at : at + BATCH]
        batch = tokenizer(
            [sentences[i] for i in part],
            padding=True,
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        out[part] = torch.nn.functional.normalize(mean).float().cpu().numpy()
    return out


EMBEDDINGS = ARTIFACTS.add(EmbeddingBaseline())
