"""What an artifact consists of, file by file, so that one that was fetched can be told from it."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

THREADS = 4  # hashing leaves Python's lock


class File(BaseModel):
    """`path` is relative to the artifact, with /; `size` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    sha256: str
    executable: bool = False

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return _inside(path)


class Manifest(BaseModel):
    """What an artifact consists of; `upload` is the builder's prefix, `folders` are all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    name: str
    upload: str
    folders: list[str]
    files: list[File]

    @field_validator("folders")
    @classmethod
    def _folders_inside(cls, folders: list[str]) -> list[str]:
        return [_inside(folder) for folder in folders]

    @classmethod
    def of(cls, name: str, upload: str, folder: Path) -> "Manifest":
        folders, paths = [], []
        for place, below, names in os.walk(folder, followlinks=True):
            folders += [(Path(place) / one).relative_to(folder).as_posix() for one in below]
            paths += [Path(place) / one for one in names]
        with ThreadPoolExecutor(THREADS) as pool:
            files = list(pool.map(lambda path: _file(folder, path), sorted(paths)))
        return cls(name=name, upload=upload, folders=sorted(folders), files=files)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(f"{path!r} leads out of the artifact")
    return path


def _file(folder: Path, path: Path) -> File:
    return File(
        path=path.relative_to(folder).as_posix(),
        size=path.stat().st_size,
        sha256=_sha256(path),
        executable=os.access(path, os.X_OK),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differing(folder: Path, files: list[File]) -> list[File]:
    """Those that are absent from `folder` or have other bytes there."""

    def intact(file: File) -> bool:
        path = folder / file.path
        return (
            path.is_file()
            and path.stat().st_size == file.size
            and _sha256(path) == file.sha256
        )  # fmt: skip

    with ThreadPoolExecutor(THREADS) as pool:
        same = pool.map(intact, files)
        return [file for file, is_same in zip(files, same, strict=True) if not is_same]
