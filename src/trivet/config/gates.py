"""[gates]: what each stage may lose. The keys are those of the registered backends' gates."""

from functools import cache

from pydantic import Field, create_model

from trivet.config.section import Section
from trivet.plugins import BACKENDS


class Gates(Section):
    """Agreement: share of equal answers. Points: of the metric, 0-100."""

    stock_agreement: float = Field(
        1.0, ge=0, le=1, description="share of rows that stock libraries alone answer as the table"
    )
    min_value: float | None = Field(None, description="least metric of the tuned model itself, 0-1")
    beats_baseline: bool = Field(
        True, description="refuse what is worse than its strongest baseline on the same rows"
    )
    beats_champion: bool = Field(
        True,
        description="refuse what is worse than the champion on the same rows, beyond chance",
    )

    def limit(self, key: str) -> float:
        return float(getattr(self, key))


def gates_section() -> type[Gates]:
    """`[gates]` with a key for each registered backend that has a limit to set."""
    gates = [backend.gate for backend in BACKENDS.values()]
    return _section(tuple((gate.key, gate.default, gate.most) for gate in gates if gate.key))


@cache
def _section(limits: tuple[tuple[str, float, float | None], ...]) -> type[Gates]:
    fields = {key: (float, Field(default, ge=0, le=most)) for key, default, most in limits}
    return create_model("Gates", __base__=Gates, **fields)  # type: ignore[call-overload,no-any-return]
