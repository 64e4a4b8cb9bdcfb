"""One answer from a finished run, as its user will get it: `trivet predict` and `trivet chat`."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from trivet import UserError
from trivet.backends.backend import Backend, Session, Talking
from trivet.plugins import BACKENDS, TASKS
from trivet.records.answer import Answer
from trivet.records.card import Card


def choose(run: Path, name: str | None, talks: bool = False) -> Backend:
    """The run's backend of that name; without one, the preferred among those that it has.

    Raises UserError when the run does not have it.
    """
    inside = [backend for backend in BACKENDS.values() if backend.inside(run)]
    if name is None:
        order = sorted(inside, key=lambda b: not (b.preferred_to_talk if talks else b.preferred))
        if order:
            return order[0]
    for backend in inside:
        if backend.name == name:
            return backend
    names = ", ".join(b.name for b in inside) or "none"
    raise UserError(f"--backend '{name}' is not one that {run.name} has: {names}.")


def open_session(run: Path, backend: Backend) -> tuple[Session, Card]:
    folder = run / backend.artifact.name
    return backend.open(folder), Card.read(folder)


def predict(run: Path, text: str, name: str | None = None) -> tuple[Answer, Backend]:
    """The answer, and who gave it. Raises UserError."""
    if not text.strip():
        raise UserError("TEXT is empty: give a sentence to answer.")
    backend = choose(run, name)
    session, card = open_session(run, backend)
    return answer(session, card, text), backend


def answer(session: Session, card: Card, text: str) -> Answer:
    """What an opened backend says to one text."""
    task = TASKS[card.task]
    row = session.row(text) or task.question(text)
    if task.talks:
        talking = cast(Talking, session)
        return task.reply(talking.reply(row["messages"]))
    (logits,) = session.answer([row])
    return task.answer(logits, row, card.labels)


def chatting(run: Path, name: str | None) -> Callable[[list[dict[str, str]]], str]:
    """A function from a conversation to the next reply. UserError unless the run's task talks."""
    backend = choose(run, name, talks=True)
    session, card = open_session(run, backend)
    if not TASKS[card.task].talks:
        raise UserError(
            f"{run.name} is a '{card.task}' run and does not talk: use `trivet predict`, or "
            "`trivet run chat.toml` for one that does."
        )
    return cast(Talking, session).reply
