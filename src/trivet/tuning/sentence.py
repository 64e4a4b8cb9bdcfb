"""A sentence encoder's pooling, written into the weights of a stock model.

all-MiniLM and its like say what a text means by the mean of its tokens' states; transformers' own
classification head of a BERT reads the first token's. What the mean says would be lost, or the head
would have to be code of ours, which no stock library opens. So the mean becomes one more layer of
the same BERT: queries and keys of zero weigh all tokens alike, values and output are the identity
times SCALE, and the layer norm behind them makes what is left of the token itself (1 part in SCALE)
small. The pooler, of which tanh is all but straight at a slope of SLOPE, hands it to the head.

Measured on voice commands, 150 rows, seed 0, tuned whole: accuracy .763 with the first token's
state, .832 with the mean in code of our own, .853 with this layer, which is trained with the rest.

Not covered: pooling other than the mean, and encoders other than BERT.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.data.packages import cache

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCALE, SLOPE = 100.0, 0.3
COSINES = 15.0  # logits of a head that starts from label names: COSINES × the cosine
MARK = "sentence_pooling"  # in config.json of what `with_pooling` writes


def pools_by_mean(folder: Path) -> bool:
    """Whether a base's folder holds a BERT whose sentence embedding is the mean of its tokens."""
    try:
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(pooling.get("pooling_mode_mean_tokens")) and config.get("model_type") == "bert"


def with_pooling(folder: Path, revision: str) -> Path:
    """The same base with its pooling as a last layer, made once, in the user's cache.

    `revision`: what the folder's content is known by.
    """
    import transformers

    target = cache() / f"pooled-1-{revision}"  # 1: what this file writes
    if target.is_dir():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    model = transformers.BertModel.from_pretrained(folder, use_safetensors=True)
    try:
        _append_mean(model)
        setattr(model.config, MARK, "mean")
        model.save_pretrained(part)
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(part)
        if not target.is_dir():  # another process may have been quicker
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _append_mean(model: Any) -> None:
    import copy

    import torch
    from torch import nn

    layer = copy.deepcopy(model.encoder.layer[-1])
    identity = torch.eye(model.config.hidden_size)
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.weight.fill_(float(isinstance(module, nn.LayerNorm)))
                module.bias.zero_()
        layer.attention.self.value.weight.copy_(SCALE**0.5 * identity)
        layer.attention.output.dense.weight.copy_(SCALE**0.5 * identity)
        model.pooler.dense.weight.copy_(SLOPE * identity)
        model.pooler.dense.bias.zero_()
    model.encoder.layer.append(layer)
    model.config.num_hidden_layers += 1


def label_rows(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str]
) -> "Tensor":
    """Rows [texts, features] of a linear head whose logits are COSINES × the cosine between the
    embedding of what is asked and that of each text.
    """
    import torch
    from torch.nn import functional as F

    from trivet.tuning.batch import device_of

    features = []
    with torch.no_grad():
        for text in texts:  # each alone: nothing is padded
            ids = torch.tensor([tokenizer(text)["input_ids"]], device=device_of(model))
            features.append(model.base_model(input_ids=ids).pooler_output[0].float())
    rows = torch.stack(features)
    return F.normalize(rows, dim=1) * (COSINES / rows.norm(dim=1).mean())
