"""LoRA: a product of two thin matrices beside each linear layer (Hu et al. 2021), by stock PEFT."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trivet import UserError
from trivet.config.method import Method
from trivet.plugins import METHODS
from trivet.records.check import Coverage
from trivet.tasks.task import Task

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@METHODS.add
class Lora(Method):
    name = "lora"

    method: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"

    def words(self) -> str:
        everywhere = self.targets == "all-linear"
        targets = "all linear layers" if everywhere else ", ".join(self.targets)
        return f"with a LoRA adapter of rank {self.rank} on {targets}"

    def adapt(self, model: "PreTrainedModel", task: Task) -> "PeftModel":
        """A LoRA adapter on `model`; the rest is frozen, a new head excepted."""
        import torch
        from peft import LoraConfig, PeftModel, TaskType, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from trivet.tuning import head

        new = head.new_modules(model) if task.new_head else []
        linears = _linears(model)
        within_head = [n for n in linears if _inside(n, new)]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # a float is as good
            lora_dropout=self.dropout,
            target_modules=self.targets,
            exclude_modules=within_head or None,
            modules_to_save=new or None,
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in linears.values()),
            task_type=TaskType[task.peft_type],
        )
        torch.manual_seed(self.seed)
        adapted = get_peft_model(model, config)
        assert isinstance(adapted, PeftModel)
        return adapted

    def coverage(self, model: "PreTrainedModel", task: Task) -> Coverage:
        """PEFT is content when one target of several matches, so an adapter can be part-trained in
        silence: q,k,v,o_proj on Phi-3 adapt only o_proj. UserError names targets that match
        nothing, the fused layer that hides them, and the names the model has.
        """
        from trivet.tuning import head

        new = head.new_modules(model) if task.new_head else []
        linears = {n: m for n, m in _linears(model).items() if not _inside(n, new)}
        output = model.get_output_embeddings()
        kinds = {n.rsplit(".", 1)[-1] for n, m in linears.items() if m is not output}
        named = sorted(kinds) if self.targets == "all-linear" else list(self.targets)
        counts = {t: sum(n == t or n.endswith(f".{t}") for n in linears) for t in named}
        missing = [t for t, n in counts.items() if not n]
        if missing or not counts:
            fused = sorted({f for t in missing for f in kinds if _hides(f, t)})
            why = f" The model fuses them into {', '.join(fused)}." if fused else ""
            good = [t for t in named if counts[t]]
            fix = sorted({*good, *fused}) if fused else sorted(kinds)
            raise UserError(
                f"tune.targets: {', '.join(missing) or '(empty)'} "
                f"match{'es' * (len(missing) == 1)} no linear layer of {model.config.model_type}; "
                f"{', '.join(good) or 'nothing'} would be trained alone.{why} Its linear layers "
                f'are {", ".join(sorted(kinds))}. Set tune.targets = {fix} or "all-linear".'
            )
        trainable, total = self.adapt(model, task).get_nb_trainable_parameters()
        return Coverage(modules=counts, trainable=trainable, total=total)

    def memory(self, coverage: Coverage, half: bool) -> int:
        """The base in 2 (`half`) or 4 bytes a weight; weight, gradient and AdamW's two moments of
        what is trained in 4 each.
        """
        return (coverage.total - coverage.trainable) * (2 if half else 4) + 16 * coverage.trainable


def _linears(model: "PreTrainedModel") -> dict[str, Any]:
    """What PEFT takes for linear layers, by name: GPT-2's are Conv1D, which hold W transposed."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def _inside(name: str, modules: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _hides(fused: str, target: str) -> bool:
    """Whether a layer like qkv_proj or gate_up_proj holds what a target like q_proj names."""
    part = target.removesuffix("_proj")
    stem = fused.removesuffix("_proj")
    return fused != target and (
        part in stem.split("_") or (stem == "qkv" and part in ("q", "k", "v"))
    )
