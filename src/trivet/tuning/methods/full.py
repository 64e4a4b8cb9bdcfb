"""Full tuning: every weight of the model learns. For small bases: 16 bytes a weight while it does.

Stock PEFT holds the model's parts whole (`modules_to_save`), beside their untouched originals, and
adds nothing to them, so the adapter's folder is as large as the model, and opens and merges like
any other.
"""

from typing import TYPE_CHECKING, Literal

from trivet.config.method import Method
from trivet.plugins import METHODS
from trivet.records.check import Coverage
from trivet.tasks.task import Task

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@METHODS.add
class Full(Method):
    name = "full"

    method: Literal["full"] = "full"

    def words(self) -> str:
        return "with all its weights"

    def adapt(self, model: "PreTrainedModel", task: Task) -> "PeftModel":
        """Every part of `model` that has weights, trainable."""
        import torch
        from peft import LoraConfig, PeftModel, TaskType, get_peft_model
        from peft.utils.constants import DUMMY_TARGET_MODULES

        parts = [name for name, part in model.named_children() if [*part.parameters()]]
        config = LoraConfig(
            target_modules=DUMMY_TARGET_MODULES,  # PEFT's word for: adapt none
            modules_to_save=parts,
            task_type=TaskType[task.peft_type],
        )
        torch.manual_seed(self.seed)
        adapted = get_peft_model(model, config)
        assert isinstance(adapted, PeftModel)
        return adapted

    def coverage(self, model: "PreTrainedModel", task: Task) -> Coverage:
        parts = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
        trainable = sum(p.numel() for p in model.parameters())
        modules = {name: 1 for name, weights in parts.items() if weights}
        return Coverage(modules=modules, trainable=trainable, total=trainable)

    def memory(self, coverage: Coverage, half: bool) -> int:
        """The originals in 2 (`half`) or 4 bytes a weight; weight, gradient and AdamW's two moments
        in 4 each.
        """
        return coverage.total * (2 if half else 4) + 16 * coverage.trainable
