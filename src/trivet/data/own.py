"""A user's file: found by what `data.source` says, read as the recipe says, and put into splits.

Its card says how it was read, so that a recipe that says otherwise has it read anew. Not here: the
rows themselves (`rows.py`), which version of the data that makes (`versions.py`).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trivet import UserError
from trivet.config.data import Data, Reading
from trivet.data import files, rows, split
from trivet.data.cells import Row
from trivet.data.dataset import Draw
from trivet.data.files import File
from trivet.data.packages import sha256
from trivet.data.split import SEED
from trivet.plugins import SOURCES
from trivet.records.dataset import DataCard


def find(want: Data, root: Path) -> File:
    file = files.find(want.source, (Path(), root))
    if file is None:
        raise UserError(
            f"data.source = '{want.source}': there is no such file in {Path.cwd()} or {root}, "
            f"and it is none of the shipped sources {', '.join(SOURCES)}."
        )
    return file


def slug(file: File) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", Path(file.name).stem.lower()).strip("-") or "data"
    return f"{name}-file" if name in SOURCES else name


def is_of(card: DataCard, file: File, want: Data) -> bool:
    """Whether these rows came from this file, read in this way."""
    return card.origin == _origin(file) and card.reading == _reading(want)


def _origin(file: File) -> dict[str, str]:
    member = {"member": file.member} if file.member else {}
    return {"file": file.path.name, "sha256": sha256(file.path)} | member


def _reading(want: Data) -> dict[str, Any] | None:
    """What the recipe says of how the file is read; None where it says nothing."""
    own = want.model_dump(include=set(Reading.model_fields), exclude_defaults=True)
    return {key: value for key, value in own.items() if value} or None


def read(want: Data, file: File) -> tuple[Draw, DataCard, list[Row]]:
    """The rows in splits, the card, and what was put aside."""
    table = rows.parse(file, want)
    fits(want, table.tasks, f"{file} ({table.kind})")
    parts = split.divide(table, SEED)
    card = split.card(
        slug(file),
        table.kind,
        table.tasks,
        parts,
        SEED,
        format=table.format,
        reading=_reading(want),
        used_columns=table.used,
        ignored_columns=table.ignored,
        quarantined=len(table.bad),
        alike_labels=table.survey.alike(),
        markup=dict(table.survey.markup),
        changes=dict(table.survey.changes),
        licence="the user's own",
        origin=_origin(file),
    )
    name = f"{file.path.name}::{file.member}" if file.member else file.path.name
    bad = [{"file": name, "place": e.where, "reason": e.reason, "row": r} for e, r in table.bad]
    return parts.splits, card, bad


def fits(want: Data, tasks: Iterable[str], what: str) -> None:
    tasks = list(tasks)
    if want.task not in tasks:
        raise UserError(
            f"data.task = '{want.task}', but the rows of {what} serve "
            f"{' and '.join(tasks)}: set data.task or choose other data."
        )
