"""The adapter: what tuning makes, a folder that stock PEFT opens."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.plugins import ARTIFACTS, TASKS
from trivet.records.card import Base, Card
from trivet.records.score import Curve

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.method import Method
    from trivet.config.recipe import Recipe


class Adapter(Artifact):
    """A PEFT adapter, the tokenizer, the stop tokens of one that replies, the card, curve.json."""

    name = "adapter"
    title = "tune {recipe}"
    resume = True
    on_gpu = True
    timeout = 24 * HOUR

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.tune is not None

    def settings(self, run: "Run") -> dict[str, Any]:
        recipe = run.recipe
        return {
            "data": run.data.source_md5,
            "drawn": recipe.data.model_dump(exclude={"test", "pool"}),
            "tune": recipe.tune.model_dump(exclude={"precision"}) if recipe.tune else None,
        }

    def decide(self, recipe: "Recipe", root: Path) -> dict[str, str]:
        from trivet.tuning import base

        assert recipe.tune
        resolved = base.resolve(recipe.model).model_dump_json()
        return {"base": resolved, "precision": precision(recipe.tune)}

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        task, method = dataset.code_roots(recipe.data.task), type(recipe.tune).__module__
        return (type(self).__module__, *task, method)

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        import torch

        from trivet.data import dataset
        from trivet.tuning import base, head, loop
        from trivet.tuning.batch import best_device

        want, tune, task = run.recipe.data, run.recipe.tune, TASKS[run.recipe.data.task]
        assert tune
        decided = run.decided[self.name]
        half = decided["precision"] == "bf16"
        rows = dataset.read(want, run.data.folder)
        card = Card(
            task=task.name,
            prompt=want.prompt,
            max_length=want.max_length,
            labels=task.labels(rows["train"]),
            model=Base.model_validate_json(decided["base"]),
        )
        source, remote = base.model_folder(card.model, task), card.model.trust_remote_code
        tokenizer = base.tokenizer_of(source, remote)
        dtype = torch.bfloat16 if half else torch.float32
        model = base.load(source, task, card.labels, dtype, best_device(), remote)
        if tune.label_names and task.new_head:
            head.init_head_from_labels(model, tokenizer, card.labels)
        adapted = tune.adapt(model, task)
        train, valid = (
            task.training(rows[split], want, card.labels, tokenizer).examples
            for split in ("train", "valid")
        )
        curve = loop.fit(adapted, train, valid, tune, half, folder, watch)
        tokenizer.save_pretrained(folder / "best")
        # No config.json: beside one, transformers' auto classes look for whole weights here.
        if not task.new_head:
            model.generation_config.save_pretrained(folder / "best")
        card.write(folder / "best")
        Curve(points=curve).write(folder)
        shutil.copytree(folder / "best", folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "best")


ADAPTER = ARTIFACTS.add(Adapter())


def precision(tune: "Method") -> str:
    """`bf16` where the machine multiplies it faster than fp32, else `fp32`; or what is asked."""
    import torch

    from trivet.kernels.hardware.cpu import matmul_dtype

    if tune.precision != "auto":
        return tune.precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if matmul_dtype(torch.bfloat16) is torch.bfloat16 else "fp32"
