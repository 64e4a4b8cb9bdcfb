"""The recipe: what is accepted, and that each mistake is named with its key.

Run: pytest tests/unit/test_recipe.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import Field

from trivet import UserError
from trivet.backends.backend import CPU, Backend, Session
from trivet.backends.gate import Points
from trivet.config.method import Method
from trivet.config.recipe import SHIPPED, Recipe, load, load_chip, of_run
from trivet.export.merged import MERGED
from trivet.plugins import BACKENDS, METHODS
from trivet.records.check import Coverage
from trivet.tasks.task import Task
from trivet.tuning.methods.lora import Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@pytest.mark.parametrize("file", sorted(p.name for p in SHIPPED.glob("*.toml")))
def test_shipped_recipes_are_valid(file: str) -> None:
    assert load(file).name == file.removesuffix(".toml")


def test_overrides_reach_their_keys() -> None:
    recipe = load(
        "home.toml",
        ["tune.rank=8", "data.source=mine.csv", 'tune.targets=["q_proj"]', "gates.min_value=0.5"],
    )
    assert isinstance(recipe.tune, Lora)
    assert (recipe.tune.rank, recipe.data.source, recipe.gates.min_value) == (8, "mine.csv", 0.5)
    assert recipe.tune.targets == ["q_proj"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.rnk=8", "unknown key tune.rnk"),
        ("nothing.at=1", "unknown key nothing"),
        ("tune.rank=many", "tune.rank = 'many'"),
        ("tune.rank=0", "tune.rank = 0"),
        ("tune.epochs=1.5", "tune.epochs = 1.5"),
        ("data.prompt=hello", "data.prompt must hold '{text}'"),
        ("data.learn=last", "data.task = 'classify' has none: leave it out"),
        ("data.learn=first", "data.learn"),
        ("data.task=tag", "fpga.enabled needs data.task = 'classify'"),
        ("tune", "is not key=value"),
        ("fpga.weight_bits=[6, 1]", "fpga.weight_bits"),
        ("fpga.module=net.py", "fpga.module = 'net.py'"),
        ("fpga.weights=net.safetensors", "name it too"),
        ("name.x=1", "'name' is a value"),
        ("tune.method=lara", "tune.method = 'lara': there is no such method; known: full, lora"),
        ("tune.method=3", "tune.method = 3: there is no such method"),
        ("data.task=clasify", "data.task = 'clasify': there is no such task; known: classify"),
        (
            "gates.merged=1",
            "unknown key gates.merged (value 1); known: stock_agreement, min_value, beats_baseline",
        ),
        ("gates.fixed_points=-1", "gates.fixed_points = -1"),
        ("gates.merged_agreement=1.5", "gates.merged_agreement = 1.5"),
        ("model.revison=main", "unknown key model.revison (value 'main'); known: base, revision"),
        ("model.revision=4", "model.revision = 4"),
    ],
)
def test_each_mistake_is_named(override: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        load("home.toml", [override])


def test_an_unknown_key_names_the_keys_of_its_own_section() -> None:
    """Independent list: the recipe keys of the README's methods, as users have them since LoRA."""
    with pytest.raises(UserError) as error:
        load("home.toml", ["tune.rnk=8"])
    known = str(error.value).split("known: ")[1].rstrip(".").split(", ")
    shared = {"method", "epochs", "batch", "learning_rate", "warmup", "clip", "patience"}
    shared |= {"precision", "kernels", "label_names", "seed"}
    assert set(known) == shared | {"rank", "alpha", "dropout", "targets"}
    with pytest.raises(UserError) as error:
        load("home.toml", ["gates.nothing=8"])
    known = str(error.value).split("known: ")[1].rstrip(".").split(", ")
    assert set(known) == {
        "min_value",
        "beats_baseline",
        "beats_champion",
        "stock_agreement",
        "merged_agreement",
        "onnx_fp32_agreement",
        "onnx_int8_points",
        "student_points",
        "fixed_points",
    }


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        load("home.toml", ["tune.rnk=8", "tune.alpha=-1", "gates.x=1", "data.sorce=y"])
    words = str(error.value)
    for key in ("tune.rnk", "tune.alpha = -1", "gates.x", "data.sorce"):
        assert key in words


class Scale(Method):
    """One factor for all weights."""

    name = "scale"
    merges = False

    method: Literal["scale"] = "scale"
    factor: float = Field(1.0, gt=0)

    def adapt(self, model: "PreTrainedModel", task: Task) -> "PeftModel":
        raise NotImplementedError

    def coverage(self, model: "PreTrainedModel", task: Task) -> Coverage:
        raise NotImplementedError

    def memory(self, coverage: Coverage, half: bool) -> int:
        return 0


class Thin(Backend):
    name = "thin"
    artifact = MERGED
    gate = Points("thin_points", 2.5)
    target = CPU
    words = "thin"

    def open(self, folder: Path, threads: int = 0) -> Session:
        raise NotImplementedError


@pytest.fixture
def scale() -> Iterator[None]:
    METHODS.add(Scale)
    yield
    METHODS.remove("scale")


@pytest.fixture
def thin() -> Iterator[None]:
    BACKENDS.add(Thin())
    yield
    BACKENDS.remove("thin")


def test_tune_is_read_by_the_method_that_it_names(scale: None, tmp_path: Path) -> None:
    """Keys of the one are unknown to the other."""
    tree = {"name": "t", "data": {"source": "x"}, "tune": {"method": "scale", "factor": 2.0}}
    recipe = Recipe.model_validate(tree)
    assert isinstance(recipe.tune, Scale) and recipe.tune.factor == 2.0
    assert recipe.tune.epochs == 10 and recipe.model_dump()["tune"]["factor"] == 2.0
    text = '[data]\nsource = "x"\n[tune]\nmethod = "scale"\nrank = 8\n'
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError, match=r"unknown key tune\.rank .*known: .*factor") as error:
        load(tmp_path / "r.toml")
    assert "targets" not in str(error.value)
    with pytest.raises(UserError, match=r"unknown key tune\.factor .*known: .*rank"):
        load("home.toml", ["tune.factor=2.0"])
    with pytest.raises(UserError, match="known: full, lora, scale"):
        load("home.toml", ["tune.method=lara"])


def test_gates_have_a_key_for_each_registered_backend(thin: None, tmp_path: Path) -> None:
    recipe = load("home.toml", ["gates.thin_points=4.0"])
    assert recipe.gates.limit("thin_points") == 4
    assert load("home.toml").gates.limit("thin_points") == 2.5
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    assert of_run(tmp_path).gates.limit("thin_points") == 4
    BACKENDS.remove("thin")
    try:
        with pytest.raises(UserError, match="unknown key gates.thin_points"):
            load("home.toml", ["gates.thin_points=4.0"])
        assert of_run(tmp_path) == load("home.toml")  # whose backend is not there any more
    finally:
        BACKENDS.add(Thin())


def test_the_prompt_is_the_tasks_own_where_the_recipe_names_none() -> None:
    def prompt(**data: str) -> str:
        tree = {"name": "t", "data": {"source": "x"} | data, "tune": {}}
        return Recipe.model_validate(tree).data.prompt

    assert prompt() == prompt(task="generate") == prompt(prompt="") == "{text}"
    assert prompt(task="tag") == "{text}\n{text}"
    assert prompt(task="tag", prompt="Say {text}") == "Say {text}"


def test_an_empty_tune_takes_the_defaults_and_is_lora() -> None:
    tree = {"name": "t", "data": {"source": "x"}, "tune": {}}
    assert Recipe.model_validate(tree).tune == Lora()


def test_a_recipe_survives_json(tmp_path: Path) -> None:
    for file in sorted(SHIPPED.glob("*.toml")):
        recipe = load(file)
        (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
        assert of_run(tmp_path) == recipe


def test_without_tune_there_is_no_language_model() -> None:
    recipe = load("digits.toml", ["fpga.weight_bits=[4, 6]"])
    assert recipe.tune is None and recipe.fpga.weight_bits == [4, 6]
    with pytest.raises(UserError, match=r"neither a \[tune\] section .* nor fpga.enabled = true"):
        load("digits.toml", ["fpga.enabled=false"])


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="Shipped recipes: chat.toml, digits.toml, home-slots.toml, home-smollm2.toml",
    ):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"name = \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("[data\nsource=1")
    with pytest.raises(UserError, match="not TOML"):
        load(tmp_path / "bad.toml")


def test_a_chip_is_asked_for_only_where_there_is_one() -> None:
    assert load_chip("digits.toml").tune is None
    with pytest.raises(UserError, match=r"chat\.toml: fpga\.enabled = false"):
        load_chip("chat.toml")
