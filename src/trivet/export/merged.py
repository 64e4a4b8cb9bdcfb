"""Merged: base and adapter as one stock transformers model."""

from pathlib import Path
from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Artifact, Watch
from trivet.plugins import ARTIFACTS
from trivet.records.card import Card
from trivet.tuning.adapter import ADAPTER

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class Merged(Artifact):
    """Float32 safetensors, the tokenizer with its chat template and stop tokens, the card."""

    name = "merged"
    title = "merge {recipe}"

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.tune is not None and recipe.tune.merges

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (ADAPTER,)

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        return (type(self).__module__, type(recipe.tune).__module__)

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.tasks.tokenizer import load_tokenizer
        from trivet.tuning import base

        assert run.recipe.tune
        adapter = run.path(ADAPTER)
        card = Card.read(adapter)
        merged = run.recipe.tune.merge(adapter, base.load_adapted(adapter, card))
        merged.save_pretrained(folder)
        load_tokenizer(adapter).save_pretrained(folder)
        card.write(folder)


MERGED = ARTIFACTS.add(Merged())
