"""[tune]: how the base model is adapted; each method adds parameters and says what it can do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from trivet.config.section import Section

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from trivet.records.check import Coverage
    from trivet.tasks.task import Task


class Method(Section, ABC):
    """What all methods share of `[tune]`, and what each must do. A method is a subclass in a file.

    `merges`: whether the adapted weights can be folded into the base's; where not, the run makes
    the adapter alone and says so.
    """

    name: ClassVar[str]
    merges: ClassVar[bool] = True

    method: str
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

    def words(self) -> str:
        """How it tunes, for the report, after "tune the model"."""
        return f"with {self.name}"

    @abstractmethod
    def adapt(self, model: "PreTrainedModel", task: "Task") -> "PeftModel":
        """`model` with this method's weights on it, those trainable and the head, nothing else."""

    @abstractmethod
    def coverage(self, model: "PreTrainedModel", task: "Task") -> "Coverage":
        """What of `model` (it may lie on the meta device, and is changed) would be trained.

        Raises UserError naming the key where a target matches nothing.
        """

    @abstractmethod
    def memory(self, coverage: "Coverage", half: bool) -> int:
        """Bytes of weights, gradients and optimiser state that tuning holds at once; `half`: the
        base lies in 16 bits.

        Activations are not counted: they depend on the rows and on the kernels.
        """

    def merge(self, adapter: Path, adapted: "PeftModel") -> "PreTrainedModel":
        """The stock model with the adapter folded in. Only called where `merges`."""
        return adapted.merge_and_unload(safe_merge=True)  # type: ignore[operator,no-any-return]
