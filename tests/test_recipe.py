"""The recipe: what is accepted, and that each mistake is named with its key.

Run: .venv/bin/pytest tests/test_recipe.py
"""

import pytest
from trivet.flows.recipe import SHIPPED, load, load_chip

from trivet import UserError


@pytest.mark.parametrize("file", sorted(p.name for p in SHIPPED.glob("*.toml")))
def test_shipped_recipes_are_valid(file: str) -> None:
    assert load(file).name == file.removesuffix(".toml")


def test_overrides_reach_their_keys() -> None:
    recipe = load(
        "home.toml",
        ["tune.rank=8", "data.source=mine.csv", 'tune.targets=["q_proj"]', "gates.min_value=0.5"],
    )
    assert (recipe.tune.rank, recipe.data.source, recipe.gates.min_value) == (8, "mine.csv", 0.5)
    assert recipe.tune.targets == ["q_proj"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.rnk=8", "unknown key tune.rnk"),
        ("nothing.at=1", "unknown key nothing"),
        ("tune.rank=many", "tune.rank = 'many'"),
        ("tune.rank=0", "tune.rank = 0"),
        ("tune.epochs=1.5", "tune.epochs = 1.5"),
        ("data.prompt=hello", "data.prompt must hold '{text}'"),
        ("data.task=tag", "fpga.enabled needs data.task = 'classify'"),
        ("tune", "is not key=value"),
        ("fpga.weight_bits=[6, 1]", "fpga.weight_bits"),
        ("fpga.module=net.py", "fpga.module = 'net.py'"),
        ("fpga.weights=net.safetensors", "name it too"),
        ("name.x=1", "'name' is a value"),
    ],
)
def test_each_mistake_is_named(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("{", r"\{").replace("(", r"\(")):
        load("home.toml", [override])


def test_without_tune_there_is_no_language_model() -> None:
    recipe = load("digits.toml", ["fpga.weight_bits=[4, 6]"])
    assert recipe.tune is None and recipe.fpga.weight_bits == [4, 6]
    with pytest.raises(UserError, match=r"neither a \[tune\] section .* nor fpga.enabled = true"):
        load("digits.toml", ["fpga.enabled=false"])


def test_files_that_are_no_recipes(tmp_path) -> None:
    with pytest.raises(
        UserError, match="Shipped recipes: chat.toml, digits.toml, home-slots.toml, home.toml"
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
