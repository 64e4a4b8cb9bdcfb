"""A tuning method is one file: this one. Nothing in the product knows of it.

It scales keys, values and the MLP's inputs by a trained vector (IA³, Liu et al. 2022, which PEFT
has), which merges; its twin says that it does not.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trivet.config.method import Method
from trivet.plugins import METHODS
from trivet.records.check import Coverage

SCALED = ("k_proj", "v_proj", "down_proj")


class ToyScales(Method):
    name = "toy-scales"

    method: Literal["toy-scales"] = "toy-scales"
    scaled: list[str] = Field(list(SCALED))

    def adapt(self, model: Any, task: Any) -> Any:
        from peft import IA3Config, TaskType, get_peft_model

        config = IA3Config(
            target_modules=self.scaled,
            feedforward_modules=["down_proj"],
            task_type=TaskType[task.peft_type],
        )
        return get_peft_model(model, config)

    def coverage(self, model: Any, task: Any) -> Coverage:
        counts = {n: sum(m.endswith(n) for m, _ in model.named_modules()) for n in self.scaled}
        trainable, total = self.adapt(model, task).get_nb_trainable_parameters()
        return Coverage(modules=counts, trainable=trainable, total=total)

    def memory(self, coverage: Coverage, half: bool) -> int:
        return 4 * coverage.total + 12 * coverage.trainable


class ToyStays(ToyScales):
    name = "toy-stays"
    merges = False

    method: Literal["toy-stays"] = "toy-stays"  # type: ignore[assignment]


if "pytest" not in sys.modules:  # in the product's process, not in the one that collects tests
    METHODS.add(ToyScales)
    METHODS.add(ToyStays)


def test_a_method_trains_merges_and_is_proven(trivet: Any, clone: Path, small: list[str]) -> None:
    words = [
        *small,
        "tune.method=toy-scales",
        "tune.learning_rate=3e-3",
        "tune.epochs=4",
        "track.model=toy-scales",
    ]
    done = trivet("run", "home-smollm2.toml", *words, "--json", plugin="test_toy_method")
    table = json.loads(done.stdout.splitlines()[-1])
    assert [s["backend"] for s in table["stages"]] == [
        "adapter",
        "merged",
        "onnx-fp32",
        "onnx-int8",
    ]
    merged = table["stages"][1]
    assert merged["agreement"] == 1 and merged["passed"]
    folder = clone / "runs" / table["run"]
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == (
        "IA3"
    )
    curve = json.loads((folder / "curve.json").read_text())["points"]
    losses = [point["valid_loss"] for point in curve if point["valid_loss"]]
    assert len(losses) == 4 and min(losses) < losses[0]
    from safetensors.torch import load_file

    base = load_file(Path(small[0].partition("=")[2]) / "model.safetensors")
    tuned = load_file(folder / "merged" / "model.safetensors")
    changed = {name for name in base if name in tuned and not tuned[name].equal(base[name])}
    assert changed and all(any(part in n for part in SCALED) for n in changed)


def test_a_method_that_does_not_merge_says_so(trivet: Any, clone: Path, small: list[str]) -> None:
    words = [*small, "tune.method=toy-stays", "track.model=toy-stays"]
    done = trivet("check", "home-smollm2.toml", *words, plugin="test_toy_method")
    assert "'toy-stays' does not merge" in done.stdout
    done = trivet("run", "home-smollm2.toml", *words, "--json", plugin="test_toy_method")
    table = json.loads(done.stdout.splitlines()[-1])
    assert [s["backend"] for s in table["stages"]] == ["adapter"]
    assert not (clone / "runs" / table["run"] / "merged").exists()


def test_without_the_file_the_method_is_unknown(trivet: Any, small: list[str]) -> None:
    done = trivet("check", "home-smollm2.toml", "tune.method=toy-scales", rc=2)
    assert "tune.method = 'toy-scales': there is no such method; known: full, lora" in done.stderr
