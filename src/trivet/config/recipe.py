"""The recipe: everything one chooses about a run, in one commented TOML file.

It is validated whole, before anything starts: an unknown key, a wrong type or a value out of range
ends the run with the key's name. What a recipe holds is also what is hashed into the lineage key,
so two runs with equal recipes over equal data are the same run.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

import trivet
from trivet import UserError
from trivet.config.data import Data, Model
from trivet.config.fpga import Export, Fpga
from trivet.config.gates import Gates, gates_section
from trivet.config.method import Method
from trivet.config.section import Section
from trivet.plugins import METHODS, TASKS

SHIPPED = Path(trivet.__file__).parent / "flows" / "recipes"
DEFAULT_METHOD = "lora"
FILE = "recipe.json"  # of a run


class Track(Section):
    experiment: str = "trivet"
    model: str = Field("", description="registered model's name; empty = the recipe's name")


class Recipe(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    data: Data
    model: Model = Model()
    tune: SerializeAsAny[Method] | None = Field(
        None, description="no such section: no language model at all"
    )
    export: Export = Export()
    fpga: Fpga = Fpga()
    gates: SerializeAsAny[Gates] = Field(default_factory=lambda: gates_section()())
    track: Track = Track()

    @field_validator("tune", mode="wrap")
    @classmethod
    def _method_of_tune(cls, tree: Any, plain: Callable[[Any], Any]) -> Any:
        """`[tune]` is read by the method that it names."""
        if not isinstance(tree, dict):
            return plain(tree)
        name = tree.get("method", DEFAULT_METHOD)
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(
                f"tune.method = {name!r}: there is no such method; known: {', '.join(METHODS)}"
            )
        return METHODS[name].model_validate(tree)

    @field_validator("gates", mode="wrap")
    @classmethod
    def _gates_of_backends(cls, tree: Any, plain: Callable[[Any], Any]) -> Any:
        return gates_section().model_validate(tree) if isinstance(tree, dict) else plain(tree)

    @model_validator(mode="after")
    def _student_classifies(self) -> "Recipe":
        if self.fpga.enabled and not TASKS[self.data.task].taught:
            able = ", ".join(repr(t.name) for t in TASKS.values() if t.taught)
            raise ValueError(
                f"fpga.enabled needs data.task = {able}, not '{self.data.task}': "
                "the student is a classifier; set fpga.enabled = false"
            )
        return self

    @model_validator(mode="after")
    def _something_is_made(self) -> "Recipe":
        if self.tune is None and not self.fpga.enabled:
            raise ValueError(
                "there is neither a [tune] section (a language model) nor fpga.enabled = true (a "
                "student for the chip): add one; an empty [tune] takes its defaults"
            )
        return self

    @property
    def registered(self) -> str:
        return self.track.model or self.name


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; `overrides` are `section.key=value` with TOML values (bare words are strings).

    Raises UserError naming the file, the key, the value and the reason.
    """
    file = Path(path)
    if not file.exists() and (SHIPPED / file.name).exists():
        file = SHIPPED / file.name
    try:
        tree: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*.toml")))
        raise UserError(f"No recipe at {path}. Shipped recipes: {shipped}.") from None
    except UnicodeDecodeError as e:
        raise UserError(
            f"{path} is not UTF-8 (byte {e.start}): save the recipe as UTF-8."
        ) from None
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"{path} is not TOML: {e}.") from None
    tree.setdefault("name", file.stem)
    return validate(tree, overrides, str(path))


def load_chip(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """`load`, of a recipe that must have a chip. Raises UserError too where it has none."""
    recipe = load(path, overrides)
    if not recipe.fpga.enabled:
        raise UserError(f"{path}: fpga.enabled = false, so there is no chip: set it to true.")
    return recipe


def of_run(folder: Path) -> Recipe:
    """The recipe of a run, as its folder has it; without gates of what is not registered any more.

    Raises UserError naming file, key and reason; FileNotFoundError.
    """
    path = folder / FILE
    tree = json.loads(path.read_text(encoding="utf-8"))
    known = gates_section().model_fields
    tree["gates"] = {key: value for key, value in tree.get("gates", {}).items() if key in known}
    return validate(tree, None, str(path))


def validate(tree: dict[str, Any], overrides: list[str] | None, source: str) -> Recipe:
    """A recipe from its sections, however they came; `source` is where, for errors as in `load`."""
    for item in overrides or []:
        _override(tree, item)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as e:
        reasons = "; ".join(_explain(error, tree) for error in e.errors())
        raise UserError(f"{source}: {reasons}.") from None


def dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A recipe's values by the keys that one writes on the command line: `tune.rank`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _override(tree: dict[str, Any], item: str) -> None:
    key, sign, text = item.partition("=")
    if not sign or not key:
        raise UserError(f"Override '{item}' is not key=value, for example tune.epochs=3.")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"Override '{item}': '{name}' is a value, not a section.")
    tree[last] = value


def _explain(error: Any, tree: dict[str, Any]) -> str:
    key = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in error["loc"][:-1]:
            section = _section(section, part, tree)
        known = ", ".join(section.model_fields)
        return f"unknown key {key} (value {error['input']!r}); known: {known}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {error['input']!r}: {error['msg'].lower()}"


def _section(section: Any, part: str, tree: dict[str, Any]) -> Any:
    """The model of a section of the recipe; two of them are their plug-ins'."""
    if part == "tune":
        return METHODS[tree[part].get("method", DEFAULT_METHOD)]
    if part == "gates":
        return gates_section()
    kind = section.model_fields[part].annotation
    return next((k for k in get_args(kind) if k is not type(None)), kind)
