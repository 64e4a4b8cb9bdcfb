"""How the reader of a page uses the run: commands of Trivet, and what needs nothing of it."""

from dataclasses import dataclass
from pathlib import Path

from trivet.backends.backend import CPU, Backend, Usage
from trivet.plugins import BACKENDS, TASKS
from trivet.records.card import Card
from trivet.records.parity import ParityTable
from trivet.tasks import snippets
from trivet.tasks.task import Task

NO_EXAMPLE = "your own text"


@dataclass(frozen=True)
class Use:
    """One stage: its folder in the run, the command that asks it, and without Trivet the Python
    that does so, "" where there is none, or else what to do with the folder.
    """

    folder: str
    words: str
    command: str
    python: str
    usage: Usage | None


def trial(table: ParityTable, example: str) -> str:
    """The command that tries a run: on its last stage for a CPU, or else its last stage."""
    cpu = [stage for stage in table.stages if stage.target == CPU.name]
    backend = (cpu or table.stages)[-1].backend
    return TASKS[table.task].trial(table.run, example or NO_EXAMPLE, backend)


def uses(run: Path, table: ParityTable, prompt: str, example: str) -> list[Use]:
    """The stages that are of use by themselves, in the order of the table.

    `prompt`: the recipe's; a folder's own card goes before it. `example`: a row's text.
    """
    text = example or NO_EXAMPLE
    return [
        Use(
            folder=backend.artifact.name,
            words=backend.words,
            command=snippets.predict(run.name, text, backend.name),
            python=_python(run, backend, TASKS[table.task], prompt, text),
            usage=usage,
        )
        for backend in _registered(table)
        if (usage := backend.usage(run)) or backend.snippet
    ]


def _registered(table: ParityTable) -> list[Backend]:
    return [BACKENDS[s.backend] for s in table.stages if s.backend in BACKENDS]


def _python(run: Path, backend: Backend, task: Task, prompt: str, text: str) -> str:
    if not backend.snippet:
        return ""
    name = backend.artifact.name
    card = Card.read_if_there(run / name)
    own = card.prompt if card else prompt
    return task.snippet(backend.snippet, f"runs/{run.name}/{name}", own, text)
