"""Data: where the rows of a run come from, and which version of them it was.

A model is only as reproducible as its data, so whatever a run reads lies in `data/`, tracked by DVC
through `data.dvc`, whose hash is written into the run. Shipped sources are built from pinned,
hash-checked packages to the same bytes on every machine; a user's file is read, checked, and
becomes a new version. Nothing is overwritten before DVC's cache has it.

Not here: shipped packages (`shipped.py`), reading and checking a file's rows (`rows.py`), splits
and cards (`split.py`), tokens and truncation.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import UserError
from ..recipe import Recipe
from . import rows, split
from .rows import sha256
from .shipped import SEED, SHIPPED
from .split import SPLITS, Splits

if TYPE_CHECKING:
    from dvc.repo import Repo

FILES = ("card.json", *(f"{name}.jsonl" for name in SPLITS))


@dataclass(frozen=True)
class Data:
    """One version of one source."""

    folder: Path  # data/<source>
    md5: str  # DVC's hash of all of data/, as in data.dvc; ends in ".dir"
    source_md5: str  # DVC's own hash of the sub-tree data/<source>; ends in ".dir"
    card: dict[str, Any]  # as in data/<source>/card.json
    changed: str  # "unchanged", "built", "checked out", "pulled" or "new version"


def version(recipe: Recipe, root: Path) -> Data:
    """Bring data/ up to date with the recipe's source and with data.dvc, and say what it is now.

    A user's file is read only when its hash is not the one in the card. UserError for whatever the
    user can mend; data/ is then as it was.
    """
    root = root.resolve()
    _recover(root)
    name, new = recipe.data.source, None
    if name not in SHIPPED:
        file = _file(recipe, root)
        name = _slug(file)
        kept = _complete(root, name) and _load_card(root / "data" / name)["origin"]["sha256"]
        if kept != sha256(file):
            new = _read_file(recipe, file)
    happened = ingest(root)
    if new:
        if (root / "data" / name).exists():
            _track(root, name)  # the old bytes go into the cache first
        _place(root, name, *new)
        happened = "built"
    folder = root / "data" / name
    card = _true_card(folder)
    _fits(recipe, card["task"], f"data/{name}")
    if card != _load_card(folder):
        _write_card(folder, card)
    before, md5, source_md5 = _track(root, name)
    return Data(folder, md5, source_md5, card, happened if before == md5 else "new version")


def ingest(root: Path) -> str:
    """Have the shipped sources in data/: from DVC's cache or remote if they have it, else built.

    Returns "unchanged", "checked out", "pulled" or "built". A source that is there is not touched.
    """
    if not _missing(root):
        return "unchanged"
    got = _from_dvc(root)
    for name in _missing(root):
        folder = root / "data" / name
        if folder.exists():
            lost = ", ".join(f for f in FILES if not (folder / f).exists())
            raise UserError(
                f"{folder} lacks {lost}. Put it back with 'dvc checkout data.dvc', or delete the "
                "folder to have it built anew."
            )
        _place(root, name, *SHIPPED[name]())
        got = "built"
    return got


def read(recipe: Recipe, folder: Path) -> Splits:
    """The rows of a run: train, valid, test, and for `classify` the pool.

    train: `data.rows` of the train split (0 = all), drawn by `data.seed`, balanced by label where
    rows have one. pool: up to `data.pool` of the other train rows, `text` only. test: the first
    `data.test`. valid: a fifth as many as train but at least 100, because it is answered after
    each epoch and only has to tell one epoch from another. All are in random order on disk.
    """
    return split.pick(
        recipe.data, {name: rows.read_jsonl(folder / f"{name}.jsonl") for name in SPLITS}
    )


def peek(recipe: Recipe, root: Path) -> tuple[Splits, dict[str, Any]]:
    """The rows of `read` and the card, with nothing written to data/."""
    root = root.resolve()
    source = recipe.data.source
    if source not in SHIPPED:
        splits, card = _read_file(recipe, _file(recipe, root))
    elif source in _missing(root):
        splits, card = SHIPPED[source]()
    else:
        folder = root / "data" / source
        splits = {name: rows.read_jsonl(folder / f"{name}.jsonl") for name in SPLITS}
        card = _true_card(folder)
    _fits(recipe, card["task"], source)
    return split.pick(recipe.data, splits), card


labels = split.labels


# A user's file.


def _file(recipe: Recipe, root: Path) -> Path:
    path = Path(recipe.data.source).expanduser()
    for file in (path, root / path):
        if file.exists():
            return file
    raise UserError(
        f"data.source = '{recipe.data.source}': there is no such file in {Path.cwd()} or {root}, "
        f"and it is none of the shipped sources {', '.join(SHIPPED)}."
    )


def _slug(file: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "data"
    return f"{name}-file" if name in SHIPPED else name


def _read_file(recipe: Recipe, file: Path) -> tuple[Splits, dict[str, Any]]:
    table = rows.parse(file)
    _fits(recipe, table.task, f"{file} ({table.kind})")
    splits, removed, conflicts = split.divide(table, SEED)
    card = split.card(_slug(file), table.kind, table.task, splits, removed, conflicts, SEED)
    card |= {"ignored_columns": table.ignored, "licence": "the user's own"}
    return splits, card | {"origin": {"file": file.name, "sha256": sha256(file)}}


def _fits(recipe: Recipe, task: str, what: str) -> None:
    if recipe.data.task not in task.split():
        raise UserError(
            f"data.task = '{recipe.data.task}', but the rows of {what} serve "
            f"{' and '.join(task.split())}: set data.task or choose other data."
        )


# Cards, hashes and folders.


def _load_card(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "card.json").read_text("utf-8"))
    except ValueError as e:
        raise UserError(
            f"{folder / 'card.json'} is not JSON ({e}): delete {folder} to have it "
            "built anew, or put it back with 'dvc checkout data.dvc'."
        ) from None


def _true_card(folder: Path) -> dict[str, Any]:
    """The card, counted anew (and saying so) when somebody has edited the rows by hand."""
    card = _load_card(folder)
    hashes = {f: sha256(folder / f) for f in FILES[1:]}
    if hashes == card["files"]:
        return card
    tables = {name: rows.parse(folder / f"{name}.jsonl") for name in SPLITS}
    splits = {name: [row for _, row in table.rows] for name, table in tables.items()}
    return card | split.counts(splits) | {"files": hashes, "edited": True}


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    text = json.dumps(card, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    draft = folder / ".card.json"
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, folder / "card.json")


def _missing(root: Path) -> list[str]:
    return [name for name in SHIPPED if not _complete(root, name)]


def _complete(root: Path, name: str) -> bool:
    return all((root / "data" / name / f).exists() for f in FILES)


def _place(root: Path, name: str, splits: Splits, card: dict[str, Any]) -> None:
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
                rows.write_jsonl(new / f"{part}.jsonl", splits[part])
            _write_card(new, card | {"files": {f: sha256(new / f) for f in FILES[1:]}})
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
