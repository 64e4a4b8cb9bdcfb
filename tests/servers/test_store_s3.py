"""The artifact store against a real S3 server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import KEY, SECRET, Server, s3_server

from trivet import UserError
from trivet.artifacts.remote import Remote
from trivet.artifacts.store import Store

BUILDER = """
import os, re, sys, time
from pathlib import Path
from trivet.artifacts.store import Store

root, log, files, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def make(folder):
    log.write_text(log.read_text() + "make\\n" if log.exists() else "make\\n")
    for index in range(files):
        with open(folder / f"{index}.bin", "wb") as file:
            for _ in range(size // 2**20):
                file.write(os.urandom(2**20))
    while not log.with_name("go").exists():
        time.sleep(0.005)

def peak():  # KiB; ru_maxrss would begin with that of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

store = Store.at(root)
before = peak()
path = store.build("adapter-1", make)
print(path, peak() - before)
"""


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that the test may end, beside the shared one."""
    with s3_server(tmp_path / "server" / "data") as server:
        yield server


def use(server: Server, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(prefix).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    use(running, monkeypatch, tmp_path.name)
    return running


def write(folder: Path) -> None:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "model.bin").write_bytes(os.urandom(40 * 2**20))  # three parts
    (folder / "sub" / "a name?versionId=3 with #, ü & 100%.txt").write_text("odd")
    (folder / "sub" / "a name").write_text("s3fs alone takes both for one object")
    (folder / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "sub" / "run.sh").chmod(0o755)
    (folder / "nothing").touch()


def never(folder: Path) -> None:
    raise AssertionError(f"built again in {folder}")


def contents(folder: Path) -> dict[str, tuple[bytes | None, bool]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() else None,
            os.access(path, os.X_OK),
        )
        for path in sorted(folder.rglob("*"))
    }


def states(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.suffix != ".lock")


def start(root: Path, log: Path, files: int, megabytes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(root), str(log)]
    command += [str(files), str(megabytes * 2**20)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_clones_share_a_bucket(server: Server, tmp_path: Path) -> None:
    one, two = Store.at(tmp_path / "one"), Store.at(tmp_path / "elsewhere" / "two")
    assert not one.has("adapter-1") and not two.has("adapter-1")
    path = one.build("adapter-1", write)
    assert two.has("adapter-1")
    copy = two.build("adapter-1", never)
    assert copy == two.folder / "adapter-1" != path and contents(copy) == contents(path)
    assert states(one) == states(two) == ["adapter-1"]
    three = Store.at(tmp_path / "three")
    three.link("adapter-1", tmp_path / "three" / "runs" / "adapter")
    assert contents(tmp_path / "three" / "runs" / "adapter") == contents(path)


def test_of_two_builders_at_once_both_end_with_the_same_bytes(
    server: Server, tmp_path: Path
) -> None:
    """In each clone two processes: the two of a clone wait for each other, both clones build."""
    logs = [tmp_path / "log-one", tmp_path / "log-two"]
    roots = [tmp_path / "one", tmp_path / "two"]
    pairs = [*zip(roots, logs, strict=True)] * 2
    builders = [start(root, log, 6, 2) for root, log in pairs]
    while not all(log.exists() for log in logs):
        assert all(builder.poll() is None for builder in builders)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    paths = {Path(builder.communicate()[0].split()[0]) for builder in builders}
    assert [builder.returncode for builder in builders] == [0] * 4
    assert [log.read_text() for log in logs] == ["make\n", "make\n"]
    first, second = paths
    assert contents(first) == contents(second) and len(contents(first)) == 6
    assert states(Store.at(roots[0])) == states(Store.at(roots[1])) == ["adapter-1"]
    assert len(server.files.find(f"team/{tmp_path.name}/adapter-1")) == 6


def test_one_of_many_creates_the_manifest(server: Server, tmp_path: Path) -> None:
    """The moment of the race alone, five times: everyone is told the same winner."""
    url, count = os.environ["TRIVET_STORE"], 4
    remotes = [Remote(url) for _ in range(count)]
    for remote in remotes:
        remote.connect()
    for index in range(count):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "who").write_text(str(index))
    for turn in range(5):
        barrier = threading.Barrier(count)
        winners: list[str] = []

        def put(index: int, name: str, barrier: Any = barrier, winners: Any = winners) -> None:
            barrier.wait()
            winners.append(remotes[index].put(name, tmp_path / str(index), f"upload{index}").upload)

        threads = [
            threading.Thread(target=put, args=(index, f"adapter-{turn}")) for index in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == count and len(set(winners)) == 1
        (key,) = server.files.find(f"team/{tmp_path.name}/adapter-{turn}")
        assert winners[0] == f"upload{server.files.cat_file(key).decode()}"


def test_a_builder_killed_in_its_upload_leaves_it_absent_and_the_same_call_goes_on(
    server: Server, tmp_path: Path
) -> None:
    log, files, prefix = tmp_path / "log", server.files, f"team/{tmp_path.name}/adapter-1"
    (tmp_path / "go").touch()
    builder = start(tmp_path / "one", log, 60, 2)
    while not files.find(prefix):
        assert builder.poll() is None
        time.sleep(0.005)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    before = files.find(prefix, detail=True)
    assert 0 < len(before) < 60, "the kill came too late to show anything"
    other = Store.at(tmp_path / "two")
    assert not other.has("adapter-1") and not Store.at(tmp_path / "one").has("adapter-1")
    with pytest.raises(FileNotFoundError):
        other.path("adapter-1")
    path = Store.at(tmp_path / "one").build("adapter-1", never)
    after = files.find(prefix, detail=True)
    assert len(after) == 60
    for key, entry in before.items():
        assert after[key]["LastModified"] == entry["LastModified"]  # not put again
    assert contents(other.build("adapter-1", never)) == contents(path)
    assert log.read_text() == "make\n" and states(Store.at(tmp_path / "one")) == ["adapter-1"]


def test_a_fetch_that_was_killed_goes_on(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "go").touch()
    assert start(tmp_path / "one", log, 60, 2).wait() == 0
    fetcher = start(tmp_path / "two", log, 60, 2)
    two = Store.at(tmp_path / "two")
    part = two.folder / "adapter-1.fetch"
    while not part.exists() or not any(part.iterdir()):
        assert fetcher.poll() is None
        time.sleep(0.002)
    fetcher.send_signal(signal.SIGKILL)
    fetcher.communicate()
    assert part.exists() and not (two.folder / "adapter-1").exists()
    path = two.build("adapter-1", never)
    assert contents(path) == contents(Store.at(tmp_path / "one").path("adapter-1"))
    assert log.read_text() == "make\n" and states(two) == ["adapter-1"]


def test_a_server_that_goes_away_after_the_build_costs_nothing(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(own_server, monkeypatch, "store")
    one = Store.at(tmp_path / "one")

    def last(folder: Path) -> None:
        write(folder)
        own_server.stop()

    with pytest.raises(UserError, match="nobody answers at http.*It is whole in .*repeat"):
        one.build("adapter-1", last)
    with pytest.raises(UserError, match="nobody answers"):
        one.build("adapter-1", never)  # still away, still not built again
    for call in (lambda: Store.at(tmp_path / "two"), lambda: one.has("adapter-1")):
        with pytest.raises(UserError, match="TRIVET_STORE=s3://team/store: .*nobody answers"):
            call()
    own_server.start()
    path = one.build("adapter-1", never)
    assert contents(Store.at(tmp_path / "two").build("adapter-1", never)) == contents(path)
    own_server.stop()
    assert one.has("adapter-1") and one.path("adapter-1") == path  # what is here needs no server
    assert Store.at(tmp_path / "one", connect=False).build("adapter-1", never) == path


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, "refused at http.*Mend AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "an-unknown-key"}, "refused at http.*Mend AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "Set AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "nobody.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "Invalid endpoint: nonsense"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "nobody answers at http://127.0.0.1:1"),
        ({"AWS_ENDPOINT_URL": "http://trivet.invalid"}, "nobody answers at http://trivet.invalid"),
        ({"TRIVET_STORE": "s3://other/prefix"}, "no bucket other at http.*aws s3 mb s3://other"),
        ({"TRIVET_STORE": "s3://No_Bucket!/prefix"}, "Invalid bucket name"),
    ],
)
def test_what_does_not_open_is_refused_in_words(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str | None],
    reason: str,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    store = Store.at(tmp_path, connect=False)
    for call in (lambda: Store.at(tmp_path), lambda: store.build("adapter-1", never)):
        with pytest.raises(UserError, match=reason) as error:
            call()
        message = str(error.value)
        assert message.startswith("TRIVET_STORE=s3://") and "\n" not in message
        for secret in (SECRET, KEY, "a-wrong-secret", "an-unknown-key"):
            assert secret not in message


def test_a_server_that_hangs_up_is_given_up_after_a_dozen_tries(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    """Of s3fs 2 tries, in each of botocore 3, and aiohttp connects once more for each."""
    tries: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    listener.accept()[0].close()
                    tries.append(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(UserError, match="nobody answers at http"):
            Store.at(tmp_path)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert 1 < len(tries) <= 12


def test_the_variables_that_name_the_server_are_heard(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    remote = Store.at(tmp_path).remote
    assert remote and remote._fs.s3.meta.endpoint_url == server.endpoint
    for name, region in (("AWS_REGION", "eu-west-3"), ("AWS_DEFAULT_REGION", "eu-west-1")):
        monkeypatch.setenv(name, region)
        remote = Store.at(tmp_path).remote
        assert remote and remote._fs.s3.meta.region_name == region


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_object_is_refused(server: Server, tmp_path: Path, damage: str) -> None:
    path = Store.at(tmp_path / "one").build("adapter-1", write)
    files = server.files
    (key,) = (k for k in files.find(f"team/{tmp_path.name}") if k.endswith("model.bin"))
    content = files.cat_file(key)
    if damage == "removed":
        files.rm_file(key)
    else:
        middle = bytes([content[20_000_000] ^ 1])
        altered = content[:20_000_000] + middle + content[20_000_001:]
        files.pipe_file(key, altered if damage == "altered" else content[:-1])
    two = Store.at(tmp_path / "two")
    for call in (two.path, lambda name: two.build(name, never)):
        with pytest.raises(UserError, match="adapter-1 is damaged.*Remove s3://team/"):
            call("adapter-1")
        assert not (two.folder / "adapter-1").exists()
    files.pipe_file(key, content)
    assert contents(two.path("adapter-1")) == contents(path)


def test_a_large_file_streams(server: Server, tmp_path: Path) -> None:
    """256 MB go up and come down; neither end holds them in memory (4 parts of 8 MiB)."""
    log = tmp_path / "log"
    (tmp_path / "go").touch()
    for root in ("one", "two"):
        path, grown = start(tmp_path / root, log, 1, 256).communicate()[0].split()
        assert (Path(path) / "0.bin").stat().st_size == 256 * 2**20
        assert int(grown) < 160 * 1024, f"{grown} KiB more"
    assert log.read_text() == "make\n"
