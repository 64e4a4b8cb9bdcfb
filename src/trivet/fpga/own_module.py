"""The user's own network: a Python file that he wrote and names in the recipe.

`fpga.module = "my_net.py:build"` names the file and a function in it that returns a torch module;
`fpga.weights` may name a safetensors file of its state. Both files' bytes are part of the
student's lineage. The file is run as it is, like any program that its owner starts.
Not here: what may be in the module (hw/module.py); other files that this one imports.
"""

import hashlib
import importlib.util
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trivet import UserError
from trivet.config.fpga import Fpga


def load(chip: Fpga, root: Path) -> nn.Module | None:
    """The recipe's module, with its weights if they are given; None where it names none.

    UserError names the key, the file and what is wrong with it.
    """
    if not chip.module:
        return None
    name, _, builder = chip.module.rpartition(":")
    key, file = f"fpga.module = '{chip.module}'", file_of("fpga.module", name, root)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{key}: {file} is not a Python file.")
    code = importlib.util.module_from_spec(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chip.seed)
        try:
            spec.loader.exec_module(code)
            module = getattr(code, builder)()
        except Exception as e:  # whatever the user's file does
            raise UserError(f"{key}: {type(e).__name__}: {e}. Run the file by itself.") from e
    if not isinstance(module, nn.Module):
        raise UserError(f"{key}: {builder}() gave a {type(module).__name__}, not a torch module.")
    if chip.weights:
        try:
            module.load_state_dict(load_file(file_of("fpga.weights", chip.weights, root)))
        except (SafetensorError, RuntimeError) as e:
            raise UserError(
                f"fpga.weights = '{chip.weights}': {e}. It must hold the state of {chip.module}: "
                "safetensors.torch.save_file(module.state_dict(), FILE)."
            ) from e
    return module


def file_of(key: str, name: str, root: Path) -> Path:
    """A file of the recipe's, from where one stands or in the workspace."""
    path = Path(name).expanduser()
    for file in (path, root / path):
        if file.is_file():
            return file
    raise UserError(f"{key} = '{name}': there is no such file in {Path.cwd()} or {root}.")


def identity(chip: Fpga, root: Path) -> dict[str, str]:
    """sha256 of the files that the recipe names for its network."""
    names = {"module": chip.module.rpartition(":")[0], "weights": chip.weights}
    return {
        key: hashlib.sha256(file_of(f"fpga.{key}", name, root).read_bytes()).hexdigest()
        for key, name in names.items()
        if name
    }
