"""check.json: what was known of a run before it trained."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trivet.records.record import Record


class Coverage(BaseModel):
    """How many modules each target matches, and how many of the weights will be trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modules: dict[str, int]
    trainable: int
    total: int


class Contract(BaseModel):
    """What a small copy of the base showed on its way through the chain.

    `differences`: stage -> the largest difference of its logits from the stage's before it, as a
    share of the largest logit. `reached`: the share of the real base's weights, embeddings left
    out, in layers that the adapter sits on. `cpu_seconds`: what it took. `skipped`: why there is
    none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    differences: dict[str, float] = Field(default_factory=dict)
    reached: float = 0.0
    cpu_seconds: float = 0.0
    skipped: str = ""

    def words(self) -> str:
        if self.skipped:
            return f"not tried in small: {self.skipped}"
        stages = ", ".join(f"{name} {x:.0e}" for name, x in self.differences.items() if x)
        return (
            f"a small copy came through {' → '.join(self.differences)} in {self.cpu_seconds:g} "
            f"CPU-seconds; largest differences of logits: {stages or 'none'}; the adapter sits on "
            f"layers with {self.reached:.0%} of the base's weights"
        )


class Check(Record):
    """`preview`: three rows as (token, carries loss) pairs.

    Without a language model there are no tokens, no coverage and no preview. `student`: what goes
    on the chip, in words; empty where nothing does. `notes`: what the run will leave out, and why.
    `memory`: bytes that weights, gradients and optimiser take; activations come on top. `scoring`:
    bytes on the disk of all stages' logits; `scoring_memory`: of a batch's, held at once.
    """

    file: ClassVar[str] = "check.json"
    newest: ClassVar[int] = 2
    version: int = 2

    rows: dict[str, int]
    labels: list[str]
    tokens: dict[str, float]
    truncated: int
    coverage: Coverage | None
    memory: int | None
    scoring: int | None = None
    scoring_memory: int | None = None
    contract: Contract | None = None
    preview: list[list[tuple[str, bool]]]
    student: str
    notes: list[str] = Field(default_factory=list)
