"""Data: where the rows of a run come from, and which version of them it was.

A model is only as reproducible as its data, so whatever a run reads lies in `data/`, tracked by DVC
through `data.dvc`, whose hash is written into the run. Shipped sources are built from pinned,
hash-checked packages to the same bytes on every machine; a user's file is read, checked, and
becomes a new version. Nothing is overwritten before DVC's cache has it.

Not here: how shipped rows are made (`sources/`), reading and checking a file's rows (`rows.py`),
splits and cards (`split.py`), which rows a run takes (`dataset.py`).
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from trivet import UserError
from trivet.config.data import Data
from trivet.data import jsonl, own, rows, split
from trivet.data.cells import Row
from trivet.data.dataset import SPLITS, Draw, pick
from trivet.data.packages import sha256
from trivet.plugins import SOURCES
from trivet.records.dataset import DataCard, DatasetVersion

if TYPE_CHECKING:
    from dvc.repo import Repo

FILES = ("card.json", *(f"{name}.jsonl" for name in SPLITS))
QUARANTINE = "quarantine.jsonl"  # file, place, reason and row, of rows that were put aside


def version(want: Data, root: Path) -> DatasetVersion:
    """Bring data/ up to date with the recipe's source and with data.dvc, and say what it is now.

    A user's file is read only when its hash is not the one in the card. UserError for whatever the
    user can mend; data/ is then as it was.
    """
    root = root.resolve()
    _recover(root)
    name, new = want.source, None
    if name not in SOURCES:
        file = own.find(want, root)
        name = own.slug(file)
        old = _load_card(root / "data" / name) if _complete(root, name) else None
        if old is None or not own.is_of(old, file, want):
            new = own.read(want, file)
    change = ingest(root, name)
    if new:
        if (root / "data" / name).exists():
            _track(root, name)  # the old bytes go into the cache first
        _place(root, name, *new)
        change = "built"
    folder = root / "data" / name
    card = _true_card(folder)
    own.fits(want, _tasks(card, jsonl.lines(folder / "valid.jsonl")), f"data/{name}")
    if card != _load_card(folder):
        _write_card(folder, card)
    before, md5, source_md5 = _track(root, name)
    return DatasetVersion(folder, md5, source_md5, card, change if before == md5 else "new version")


def ingest(root: Path, first: str = "") -> str:
    """Have the shipped sources in data/: from DVC's cache or remote if they have it, else built.

    Returns "unchanged", "checked out", "pulled" or "built". A source that is there is not touched.
    `first`: the source that one waits for, so that an error is about it.
    """
    if not _missing(root):
        return "unchanged"
    change = _from_dvc(root)
    for name in sorted(_missing(root), key=lambda name: name != first):
        folder = root / "data" / name
        if folder.exists():
            lost = ", ".join(f for f in FILES if not (folder / f).exists())
            raise UserError(
                f"{folder} lacks {lost}. Put it back with 'dvc checkout data.dvc', or delete the "
                "folder to have it built anew."
            )
        _place(root, name, *SOURCES[name].build())
        change = "built"
    return change


def peek(want: Data, root: Path) -> tuple[Draw, DataCard]:
    """The rows of `dataset.stream` and the card, with nothing written to data/. UserError."""
    root = root.resolve()
    source = want.source
    splits: Draw
    if source not in SOURCES:
        splits, card, _ = own.read(want, own.find(want, root))
    elif source in _missing(root):
        splits, card = SOURCES[source].build()
    else:
        folder = root / "data" / source
        splits = {name: jsonl.lines(folder / f"{name}.jsonl") for name in SPLITS}
        card = _true_card(folder)
    own.fits(want, _tasks(card, splits["valid"]), source)
    return pick(want, splits), card


def _tasks(card: DataCard, sample: Sequence[Row]) -> list[str]:
    """Those of the card, and those that have been registered since it was written."""
    since = [task for row in sample[:1] for task in rows.fitting(row)]
    return list(dict.fromkeys([*card.task.split(), *since]))


# Cards, hashes and folders.


def _load_card(folder: Path) -> DataCard:
    try:
        return DataCard.model_validate(json.loads((folder / "card.json").read_text("utf-8")))
    except (ValidationError, ValueError) as e:
        what = "is not the card of a source" if isinstance(e, ValidationError) else "is not JSON"
        raise UserError(
            f"{folder / 'card.json'} {what} ({' '.join(str(e).split()):.200}): delete {folder} to "
            "have it built anew, or put it back with 'dvc checkout data.dvc'."
        ) from None


def _true_card(folder: Path) -> DataCard:
    """The card, counted anew (and saying so) when somebody has edited the rows by hand."""
    card = _load_card(folder)
    hashes = {f: sha256(folder / f) for f in FILES[1:]}
    if hashes == card.files:
        return card
    tables = {name: rows.parse(folder / f"{name}.jsonl") for name in SPLITS}
    splits = {name: table.rows for name, table in tables.items()}
    return card.model_copy(update=split.counts(splits) | {"files": hashes, "edited": True})


def _write_card(folder: Path, card: DataCard) -> None:
    tree = card.model_dump(exclude_none=True)
    text = json.dumps(tree, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    draft = folder / ".card.json"
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, folder / "card.json")


def _missing(root: Path) -> list[str]:
    return [name for name in SOURCES if not _complete(root, name)]


def _complete(root: Path, name: str) -> bool:
    return all((root / "data" / name / f).exists() for f in FILES)


def _place(root: Path, name: str, splits: Draw, card: DataCard, bad: Sequence[Row] = ()) -> None:
    """Write data/<name> beside, then move it in: whenever we are killed, all old or all new."""
    target = root / "data" / name
    work = root / ".trivet" / "data"
    try:
        work.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            new = Path(folder) / name
            new.mkdir()
            for part in SPLITS:
                jsonl.write(new / f"{part}.jsonl", splits[part])
            if bad:
                jsonl.write(new / QUARANTINE, bad)
            hashes = {f: sha256(new / f) for f in FILES[1:]}
            _write_card(new, card.model_copy(update={"files": hashes}))
            if target.exists():
                os.rename(target, work / f"{name}.old")  # killed after this line: `_recover`
            os.rename(new, target)
    except OSError as e:
        raise UserError(f"Could not write {target}: {e.strerror}. Make room or give leave.") from e
    shutil.rmtree(work / f"{name}.old", ignore_errors=True)


def _recover(root: Path) -> None:
    """Put back what was moved aside by a run that was killed before the new data were in place."""
    for old in (root / ".trivet" / "data").glob("*.old"):
        target = root / "data" / old.stem
        if target.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, target)


# DVC.


@contextmanager
def _dvc(root: Path) -> "Iterator[Repo]":
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # no hints to type git commands
    try:
        if not (root / ".dvc").is_dir():
            with Repo.init(str(root), no_scm=not (root / ".git").exists()) as repo:  # noqa: SIM117
                with repo.config.edit() as config:
                    config["core"].update(analytics=False, autostage=False)
        with Repo(str(root)) as repo:
            yield repo
    except LockError:
        raise UserError(f"Another run or dvc command is at work in {root}: wait for it.") from None
    except (DvcException, OSError) as e:
        raise UserError(f"DVC could not version {root / 'data'}: {e}") from e


def _track(root: Path, name: str) -> tuple[str | None, str, str]:
    """Have DVC hold data/ as it is; data.dvc's hash before and after, and that of data/<name>."""
    target = str(root / "data")
    with _dvc(root) as repo:
        before = None
        if (root / "data.dvc").exists():
            out = repo.find_outs_by_path(target)[0]
            before = out.hash_info.value
            if out.changed():
                repo.add(target)
        else:
            repo.add(target)
        out = repo.find_outs_by_path(target)[0]
        tree = out.get_obj(filter_info=str(root / "data" / name))
        return before, out.hash_info.value, tree.hash_info.value


def _from_dvc(root: Path) -> str:
    """Fill data/ from DVC's cache, else its remote; "unchanged" if neither has it."""
    if not (root / "data.dvc").exists():
        return "unchanged"
    from dvc.exceptions import DvcException

    with _dvc(root) as repo:
        out = repo.find_outs_by_path(str(root / "data"))[0]
        try:
            if not out.changed_cache():
                repo.checkout([str(root / "data.dvc")])
                return "checked out"
            if repo.config["core"].get("remote"):
                repo.pull([str(root / "data.dvc")])
                return "pulled"
        except DvcException as e:
            logging.getLogger(__name__).warning("DVC could not give data/, so it is built: %s", e)
        return "unchanged"
