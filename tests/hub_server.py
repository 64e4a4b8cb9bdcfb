"""A hub on this machine: what huggingface_hub asks of one, over HTTP; its requests are counted."""

import hashlib
import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

MODEL = "somebody/tiny"
OLD, NEW = "1" * 40, "2" * 40


def files(commit: str) -> dict[str, bytes]:
    """A commit's files: what a base needs, and a pickle and code that nobody may fetch."""
    return {
        "config.json": json.dumps({"model_type": "llama", "commit": commit}).encode(),
        "model.safetensors": commit.encode() * 50_000,
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"a pickle",
        "modeling_tiny.py": b"raise SystemExit",
    }


class Hub(ThreadingHTTPServer):
    """`main`: the commit that the branch is at. `half`: of weights, half is sent, and then the
    connection drops; `stall`: seconds that it is held before. `requests`: (method, path) so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.main, self.half, self.stall = OLD, False, 0.0
        self.requests: list[tuple[str, str]] = []
        self.halves = 0
        self.connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Nobody answers at its address any more."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):  # its client has closed it
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub
    revisions: ClassVar[dict[str, str]] = {OLD: OLD, NEW: NEW, "v1": OLD}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        if MODEL.split("/")[0] in path:  # the client asks for things of its own, too
            hub.requests.append((self.command, path))
        revisions = self.revisions | {"main": hub.main}
        api, resolve = f"/api/models/{MODEL}", f"/{MODEL}/resolve/"
        if path == api:
            return self._info(hub.main)
        if path.startswith(f"{api}/revision/"):
            commit = revisions.get(path.removeprefix(f"{api}/revision/"))
            return self._info(commit) if commit else self._missing("RevisionNotFound")
        if path.startswith(f"{api}/tree/"):
            return self._tree(revisions[path.removeprefix(f"{api}/tree/")])
        if path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            return self._file(revisions[revision], name)
        return self._missing("RepoNotFound")

    def _info(self, commit: str) -> None:
        names = [{"rfilename": name} for name in files(commit)]
        self._json({"id": MODEL, "modelId": MODEL, "sha": commit, "siblings": names})

    def _tree(self, commit: str) -> None:
        self._json(
            [
                {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
                for name, content in files(commit).items()
            ]
        )

    def _file(self, commit: str, name: str) -> None:
        if name not in files(commit):
            return self._missing("EntryNotFound")
        content = files(commit)[name]
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{oid(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.server.half and name.endswith(".safetensors"):
            self.wfile.write(content[start : len(content) // 2])
            self.wfile.flush()
            self.server.halves += 1
            time.sleep(self.server.stall)
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def _json(self, tree: Any) -> None:
        self._send(200, json.dumps(tree).encode())

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", code)

    def _send(self, status: int, content: bytes, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""


def oid(content: bytes) -> str:
    """git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
