"""The part of a store that a team shares: artifacts behind an fsspec URL, whole or absent.

    URL/NAME/UPLOAD/...   the files, under a prefix of the builder's own
    URL/NAME.json         the manifest, written last: with it the artifact exists

The manifest is created only where none stands (S3: `If-None-Match: *`), so of two builders one
wins and the other learns whose bytes to take. It holds every file's size and sha256; what is
fetched is compared with them. A killed builder leaves files that no manifest names: they are
reused when its build goes on.

Environment: botocore reads AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_PROFILE, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and AWS_CA_BUNDLE itself;
AWS_REGION, which it does not read, is handed to it.

Not covered: file systems whose files appear before they are whole (mount sftp or smb and name
the folder); an S3 server that refuses `If-None-Match` (one that ignores it leaves two builders a
window of milliseconds); parts of a killed multipart upload (set a lifecycle rule on the bucket).
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from trivet import UserError
from trivet.artifacts.manifest import File, Manifest, differing

VARIABLE = "TRIVET_STORE"
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
FILES = 4  # at once, each with as many parts at once
PART = 8 * 2**20  # bytes; at most FILES * FILES parts are in memory
S3: dict[str, Any] = {  # a server that is gone is reported within seconds; s3fs alone: minutes
    "use_listings_cache": False,
    "skip_instance_cache": True,  # the environment may have changed
    "max_concurrency": FILES,
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 30,
        "max_pool_connections": FILES * FILES,
        "retries": {"mode": "standard", "total_max_attempts": 3},
    },
}
log = logging.getLogger(__name__)


class Remote:
    """One URL. All methods raise UserError where it does not answer as it should."""

    def __init__(self, url: str) -> None:
        protocol, _, place = url.partition("://")
        host = place.partition("/")[0]
        if "@" in host:
            raise UserError(
                f"{VARIABLE}={protocol}://***@{host.rpartition('@')[2]}...: credentials in a URL "
                f"end in logs. Leave them out and set {CREDENTIALS}."
            )
        self.url = url.rstrip("/")
        self.protocol = protocol
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
        if protocol in ("http", "https"):
            raise self._error(
                "nothing can be put behind it",
                "For an S3 server name its bucket, s3://bucket/prefix, and set AWS_ENDPOINT_URL "
                f"to {protocol}://{host}",
            )
        from fsspec import available_protocols  # 0.1 s, for those who share only

        if protocol not in available_protocols():
            raise self._error("no such protocol", "Name a folder or s3://bucket/prefix")
        if not host:
            raise self._error("it names no bucket", f"Write {protocol}://bucket/prefix")

    def connect(self) -> None:
        """Ask once whether the bucket is there and may be read."""
        _ = self._fs

    def manifest(self, name: str) -> Manifest | None:
        """None where nobody has put the artifact there, whole."""
        with self._in_words(f"reading {name}.json"):
            return self._read(name)

    def fetch(self, manifest: Manifest, folder: Path) -> None:
        """The artifact's files into `folder`; those that lie there intact are not fetched."""
        for sub in manifest.folders:
            (folder / sub).mkdir(parents=True, exist_ok=True)
        missing = differing(folder, manifest.files)
        log.info("%s: %.1f MB from %s", manifest.name, _megabytes(missing), self.url)
        pairs = [(self._key(manifest, f), str(folder / f.path)) for f in missing]
        with self._in_words(f"fetching {manifest.name}"):
            try:
                self._transfer(self._fs.get_file, pairs, missing)
            except FileNotFoundError as error:
                raise self._damaged(manifest.name, f"an object is gone: {error}") from error
        damaged = differing(folder, missing)
        for file in damaged:
            (folder / file.path).unlink(missing_ok=True)
        if damaged:
            key = self._key(manifest, damaged[0])
            raise self._damaged(manifest.name, f"{key} has not the size and sha256 it was put with")
        for file in manifest.files:
            if file.executable:
                (folder / file.path).chmod((folder / file.path).stat().st_mode | 0o111)

    def put(self, name: str, folder: Path, upload: str) -> Manifest:
        """Put `folder` there unless somebody else was first: the manifest that now stands.

        `upload` is a prefix of the caller's own. What a killed put left under it is not put
        again: an object is whole or absent, and `folder` has not changed.
        """
        with self._in_words(f"putting {name}", f"It is whole in {folder}. "):
            standing = self._read(name)
            if standing is None:
                ours = Manifest.of(name, upload, folder)
                there = self._fs.find(f"{self._root}/{name}/{upload}", detail=True)
                sizes = {key: entry["size"] for key, entry in there.items()}
                missing = [f for f in ours.files if sizes.get(self._key(ours, f)) != f.size]
                log.info("%s: %.1f MB to %s", name, _megabytes(missing), self.url)
                pairs = [(str(folder / f.path), self._key(ours, f)) for f in missing]
                self._transfer(self._fs.put_file, pairs, missing)
                standing = self._create(ours)
            if standing.upload != upload:
                for key in self._fs.find(f"{self._root}/{name}/{upload}"):
                    self._fs.rm_file(key)
        return standing

    def _read(self, name: str) -> Manifest | None:
        try:
            content = self._fs.cat_file(f"{self._root}/{name}.json")
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "JSON"
            raise self._damaged(
                name, f"its manifest ({where}: {first['msg']}), unless a newer Trivet wrote it"
            ) from error
        if manifest.name != name:
            raise self._damaged(name, f"its manifest is of {manifest.name}")
        return manifest

    def _create(self, ours: Manifest) -> Manifest:
        """The manifest that stands afterwards, which is the first one that anybody wrote."""
        content = ours.model_dump_json(indent=1).encode()
        for _ in range(5):
            standing = self._read(ours.name)
            if standing:
                return standing
            try:
                self._fs.pipe_file(f"{self._root}/{ours.name}.json", content, mode="create")
            except OSError as error:
                if not _taken(error):
                    raise
                time.sleep(0.2)  # S3 may refuse both of two that come at once
        raise TimeoutError("its manifest can be neither written nor read")

    @cached_property
    def _fs(self) -> Any:
        import fsspec

        region = os.environ.get("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION"))
        options = S3 | ({"client_kwargs": {"region_name": region}} if region else {})
        with self._in_words("opening it"):
            fs = fsspec.filesystem(self.protocol, **(options if self._is_s3 else {}))
            if self._is_s3:
                fs.retries = 2  # of s3fs, around those of botocore
                bucket = fs._strip_protocol(self.url).partition("/")[0]
                try:
                    fs.info(bucket)
                except FileNotFoundError as error:
                    raise self._error(
                        f"there is no bucket {bucket}{self._where}",
                        f"Create it: aws s3 mb s3://{bucket}",
                    ) from error
        return fs

    @cached_property
    def _root(self) -> str:
        return str(self._fs._strip_protocol(self.url))

    @property
    def _is_s3(self) -> bool:
        return self.protocol in ("s3", "s3a")

    @property
    def _where(self) -> str:
        return f" at {self.endpoint}" if self.endpoint and self._is_s3 else ""

    def _transfer(
        self, copy: Callable[..., None], pairs: list[tuple[str, str]], files: list[File]
    ) -> None:
        """`copy(from, to)` for each file, FILES at once; after a failure no further one begins."""

        def one(pair: tuple[str, str], file: File) -> None:
            parts = {"chunksize": max(PART, file.size // 9_999)}  # S3 takes 10,000 a file
            copy(*pair, **(parts if self._is_s3 else {}))

        with ThreadPoolExecutor(FILES) as pool:
            list(pool.map(one, pairs, files))

    def _key(self, manifest: Manifest, file: File) -> str:
        """Quoted: s3fs takes a ? in a name for the start of a version."""
        return f"{self._root}/{manifest.name}/{manifest.upload}/{quote(file.path)}"

    @contextmanager
    def _in_words(self, doing: str, state: str = "") -> Iterator[None]:
        """What the file system's client raises, as a UserError; our own mistakes stay as they are.

        `state` says what the failure leaves behind.
        """
        try:
            yield
        except Exception as error:
            own = isinstance(error, UserError) or type(error).__module__ == "builtins"
            if own and not isinstance(error, OSError | ValueError | ImportError):
                raise
            reason, fix = self._reason(error)
            fix = f"{state}{fix}" + (", then repeat the command" if state else "")
            raise self._error(f"{doing}: {reason}", fix) from error

    def _reason(self, error: Exception) -> tuple[str, str]:
        """Why it failed, and the fix. botocore is imported by those who need it: by name, then."""
        kind = type(error).__name__
        message = " ".join(str(error).split()) or kind
        if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            return message, f"Set {CREDENTIALS}"
        if isinstance(error, PermissionError):
            return (
                f"refused{self._where} ({message})",
                f"Mend {CREDENTIALS}; they need s3:ListBucket, s3:GetObject and s3:PutObject",
            )
        if isinstance(error, ImportError):
            return message, "Install it"
        if kind == "EndpointConnectionError" or "Timeout" in kind or "Connect" in kind:
            return (
                f"nobody answers{self._where} ({message})",
                "Start the server or mend AWS_ENDPOINT_URL",
            )
        return message, "Mend that"

    def _error(self, reason: str, fix: str) -> UserError:
        return UserError(f"{VARIABLE}={self.url}: {reason}. {fix}, or unset {VARIABLE}.")

    def _damaged(self, name: str, reason: str) -> UserError:
        return UserError(
            f"{VARIABLE}={self.url}: {name} is damaged: {reason}. Remove {self.url}/{name}.json "
            f"and {self.url}/{name}/, then repeat the command: it is built anew."
        )


def _megabytes(files: list[File]) -> float:
    return sum(file.size for file in files) / 1e6


def _taken(error: OSError) -> bool:
    """Whether a conditional create was refused; s3fs says so by the server's own code."""
    response = getattr(error.__cause__, "response", {})
    code = response.get("Error", {}).get("Code")
    return isinstance(error, FileExistsError) or code in (
        "PreconditionFailed",
        "ConditionalRequestConflict",
    )
