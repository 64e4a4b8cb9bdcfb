"""The recipe: everything one chooses about a run, in one commented TOML file.

It is validated whole, before anything starts: an unknown key, a wrong type or a value out of range
ends the run with the key's name. What a recipe holds is also what is hashed into the lineage key,
so two runs with equal recipes over equal data are the same run.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import UserError

SHIPPED = Path(__file__).parent / "recipes"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Section):
    """What to learn from. `source`: `home`, `chat`, `digits`, or a CSV, JSONL, Parquet, .npz file.

    An .npz file holds `x`, numbers or token ids [rows, …], and `y`, their labels.
    """

    source: str
    task: Literal["classify", "tag", "generate"] = "classify"
    prompt: str = "{text}"
    rows: int = Field(0, ge=0, description="labelled training rows, balanced by label; 0 = all")
    pool: int = Field(
        4000, ge=0, description="unlabelled rows that the teacher labels for the student"
    )
    test: int = Field(600, ge=1, description="held-out rows that every backend answers")
    max_length: int = Field(256, ge=8, description="tokens; longer rows are cut, and counted")
    seed: int = 0

    @model_validator(mode="after")
    def _prompt_holds_text(self) -> "Data":
        if "{text}" not in self.prompt:
            raise ValueError("data.prompt must hold '{text}', the place where a row's text goes")
        return self


class Model(Section):
    """`base`: `smollm2-135m-instruct` (packaged), a hub id, or a local folder of safetensors."""

    base: str = "smollm2-135m-instruct"
    trust_remote_code: bool = False


class Tune(Section):
    method: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    epochs: int = Field(10, ge=1)
    batch: int = Field(8, ge=1, description="rows per step")
    learning_rate: float = Field(5e-4, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    patience: int = Field(3, ge=1, description="epochs without a better validation loss")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    kernels: Literal["trivet", "peft"] = Field(
        "trivet", description="our kernels under the adapter's model, or stock PEFT"
    )
    label_names: bool = Field(True, description="start the head from the label's own words")
    seed: int = 0


class Export(Section):
    int8: bool = Field(True, description="dynamic int8 beside the fp32 ONNX model")


Bits = Annotated[int, Field(ge=2, le=16)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Fpga(Section):
    """The chip runs a small student, not the language model. Needs `task = "classify"`.

    The student is `hidden` dense layers, or your own torch module: `module = "my_net.py:build"`
    names a file and the function in it that returns one; without `weights` it is trained here.
    """

    enabled: bool = False
    bins: int = Field(256, ge=8, description="hashed n-gram counts that the host feeds the chip")
    hidden: list[int] = [32, 32]
    module: str = Field("", pattern=r"^$|\.py:\w+$", description="FILE.py:FUNCTION")
    weights: str = Field("", description="safetensors file of the module's state")
    input_bits: int = Field(8, ge=1, le=16, description="of a number; counts have 1, ids as needed")
    weight_bits: Bits | list[Bits] = Field(6, description="of all layers, or of each")
    activation_bits: Bits | list[Bits] = Field(8, description="of all layers, or of each")
    sparsity: Share | list[Share] = Field(0.0, description="weights that end as zero, as the bits")
    per_channel: bool = Field(False, description="weights of each output in a scale of their own")
    epochs: int = Field(60, ge=1)
    part: str = "xcku5p-ffvb676-2-e"
    max_cycles: int = Field(12, ge=2, description="latency of one answer, in clock cycles")
    max_lut: int = Field(10_000, ge=1, description="what a search may choose, by its estimate")
    search_trials: int = Field(40, ge=1, description="students that `trivet fpga search` tries")
    student: str = Field("", pattern=r"^$|^[^@/]+/\d+$", description="take MODEL/VERSION's own")
    seed: int = 0


class Gates(Section):
    """What each hop may lose. Agreement: share of equal answers. Points: of the metric, 0-100."""

    merged_agreement: float = Field(0.999, ge=0, le=1)
    onnx_fp32_agreement: float = Field(0.999, ge=0, le=1)
    onnx_int8_points: float = Field(1.0, ge=0)
    student_points: float = Field(6.0, ge=0, description="float student below the tuned teacher")
    fixed_points: float = Field(2.0, ge=0, description="fixed-point student below the float one")
    min_value: float | None = Field(None, description="least metric of the tuned model itself, 0-1")


class Track(Section):
    experiment: str = "trivet"
    model: str = Field("", description="registered model's name; empty = the recipe's name")


class Recipe(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    data: Data
    model: Model = Model()
    tune: Tune | None = Field(None, description="no such section: no language model at all")
    export: Export = Export()
    fpga: Fpga = Fpga()
    gates: Gates = Gates()
    track: Track = Track()

    @model_validator(mode="after")
    def _student_classifies(self) -> "Recipe":
        if self.fpga.enabled and self.data.task != "classify":
            raise ValueError(
                f"fpga.enabled needs data.task = 'classify', not '{self.data.task}': "
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
        if self.fpga.weights and not self.fpga.module:
            raise ValueError("fpga.weights are those of a fpga.module: name it too")
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
    found = load(path, overrides)
    if not found.fpga.enabled:
        raise UserError(f"{path}: fpga.enabled = false, so there is no chip: set it to true.")
    return found


def validate(tree: dict[str, Any], overrides: list[str] | None, source: str) -> Recipe:
    """A recipe from its sections, however they came; `source` is where, for errors as in `load`."""
    for item in overrides or []:
        _override(tree, item)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as e:
        raise UserError(f"{source}: " + "; ".join(_explain(x) for x in e.errors()) + ".") from None


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


def _explain(error: Any) -> str:
    key = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in error["loc"][:-1]:
            kind = section.model_fields[part].annotation
            section = next((k for k in get_args(kind) if k is not type(None)), kind)
        known = ", ".join(section.model_fields)
        return f"unknown key {key} (value {error['input']!r}); known: {known}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {error['input']!r}: {error['msg'].lower()}"
