"""Artifacts by name, so that what was built once is never built again, whoever built it.

A store is a folder by default. A team sets `TRIVET_STORE`: a shared folder is used as it is, an
fsspec URL such as `s3://bucket/prefix` keeps a copy on each machine. An artifact is whole or
absent in both, also after kill -9 and with two builders at once. A folder's name says its state:

    NAME.part        half built; a build with `resume` goes on in it
    NAME.fetch       half fetched from the remote
    NAME.ID.built    whole, not yet in the remote: the next build puts what is missing there
    NAME             whole, and the same bytes for everybody who shares the store

Not covered: removing what nobody needs any more; a local copy stays when the remote's is removed.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trivet import UserError
from trivet.artifacts.remote import VARIABLE, Remote

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")  # a dot begins the state of a folder


@dataclass(frozen=True)
class Store:
    """Artifacts by name: each a folder, whole or absent.

    `folder` is where they lie on this machine (for a remote store: the local copy). `unshared` is
    this clone's own store beside a remote one: what it holds is put there and not built again.
    """

    url: str
    folder: Path
    remote: Remote | None = None
    unshared: Path | None = None

    @classmethod
    def at(cls, root: Path, connect: bool = True) -> "Store":
        """What `TRIVET_STORE` names, else the folder `root/.trivet/store`.

        A relative path is relative to `root`, since workers start in other folders. `connect`
        asks a remote store once, so that a key or a server that is wrong shows before the work
        and not after it; without it the first use asks. Raises UserError: no such folder, URL or
        protocol, no credentials or refused ones, no bucket, nobody answers.
        """
        own = root / ".trivet" / "store"
        value = os.environ.get(VARIABLE, "")
        if not value:
            return cls(str(own), own)
        for scheme in ("file://", "local://"):
            value = value.removeprefix(scheme)
        if "://" not in value:
            return cls._in_folder(root / Path(value).expanduser())
        remote = Remote(value)
        if connect:
            remote.connect()
        place = hashlib.sha256(f"{remote.endpoint} {remote.url}".encode()).hexdigest()[:16]
        return cls(remote.url, root / ".trivet" / "copies" / place, remote, own)

    @classmethod
    def _in_folder(cls, folder: Path) -> "Store":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{VARIABLE}={folder}: {error.strerror}. Name a folder that you may write, or an "
                f"fsspec URL such as s3://bucket/prefix, or unset {VARIABLE}."
            ) from error
        return cls(str(folder), folder)

    def has(self, name: str) -> bool:
        """Whether the artifact is here or in the remote, whole. Raises UserError as `at` does."""
        if self._local(name).exists():
            return True
        return self.remote is not None and self.remote.manifest(name) is not None

    def path(self, name: str) -> Path:
        """The artifact's folder on this machine, fetched first where only the remote has it.

        Raises FileNotFoundError where nobody has it, UserError where the remote does not answer
        or what it holds is damaged.
        """
        path = self._local(name)
        if self.remote and not path.exists():
            with self._lock(name):
                if not path.exists():
                    self._fetch(name, self.remote)
        if not path.exists():
            raise FileNotFoundError(f"No artifact {name} in {self.url}.")
        return path

    def build(self, name: str, make: Callable[[Path], None], resume: bool = False) -> Path:
        """The artifact's folder, made by `make(folder)` unless somebody has made it.

        `resume`: what a killed build left behind is handed to `make` again, else it is cleared.
        Two processes of one machine that want the same artifact wait for each other; of two
        machines each may build it, and both end with the bytes that reached the remote first.
        Raises UserError where the remote fails; what was built here stays, and the next call puts
        into the remote what is missing there.
        """
        path = self._local(name)
        if not path.exists():
            with self._lock(name):
                if not path.exists():
                    if self.remote:
                        self._share(name, self.remote, make, resume)
                    else:
                        self._make(name, make, resume).rename(path)
        return path

    def link(self, name: str, target: Path) -> None:
        """Show the artifact as the folder `target`: `link_tree` from `path(name)`."""
        if not target.exists():
            link_tree(self.path(name), target)

    def _make(self, name: str, make: Callable[[Path], None], resume: bool) -> Path:
        part = self._local(name, ".part")
        if not resume:
            shutil.rmtree(part, ignore_errors=True)
        if self.unshared and (self.unshared / name).exists():
            shutil.rmtree(part, ignore_errors=True)
            link_tree(self.unshared / name, part)
        else:
            part.mkdir(exist_ok=True)
            make(part)
        return part

    def _share(self, name: str, remote: Remote, make: Callable[[Path], None], resume: bool) -> None:
        """Fetch what the remote has; else make it and put it there, then let it appear here."""
        built = next(self.folder.glob(f"{name}.*.built"), None)
        if built is None:
            if self._fetch(name, remote):
                return
            part = self._make(name, make, resume)
            built = part.rename(self._local(name, f".{uuid.uuid4().hex}.built"))
        upload = built.name.split(".")[1]
        if remote.put(name, built, upload).upload == upload:
            built.rename(self._local(name))
        else:  # somebody was first: all machines use those bytes
            self._fetch(name, remote)
            shutil.rmtree(built)

    def _fetch(self, name: str, remote: Remote) -> bool:
        """Whether the remote had it. Files that a killed fetch left whole are not fetched again."""
        manifest = remote.manifest(name)
        if manifest is None:
            return False
        fetch = self._local(name, ".fetch")
        fetch.mkdir(exist_ok=True)
        remote.fetch(manifest, fetch)
        fetch.rename(self._local(name))
        shutil.rmtree(self._local(name, ".part"), ignore_errors=True)
        return True

    def _local(self, name: str, state: str = "") -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name an artifact: letters, digits, - and _ only, at most 200, "
                "with a letter or digit first."
            )
        return self.folder / f"{name}{state}"

    def _lock(self, name: str) -> FileLock:
        """Group-writable: the members of a team share the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._local(name, ".lock"), mode=0o664)


def link_tree(source: Path, target: Path) -> None:
    """The folder `source` as `target`, whole or absent; nothing is done where `target` exists.

    Files are hard links, copies on another file system; a symbolic link becomes what it points
    to. Two processes may want the same target at once. A file that is edited in one place
    changes in the other, as hard links do.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):  # hidden: people open these folders
        if not target.exists():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part, copy_function=link_file)
            part.rename(target)


def link_file(source: str | Path, target: str | Path) -> None:
    """A hard link; a copy on another file system. A symbolic link becomes what it points to."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system
        shutil.copy2(source, target)
