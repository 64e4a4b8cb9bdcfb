"""The artifact store on a folder, and its remote part on an fsspec file system in memory."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from trivet import UserError
from trivet.artifacts.store import Store, link_tree

BUILDER = """
import os, sys, time
from pathlib import Path
from trivet.artifacts.store import Store

def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("make\\n")
    for index in range(20):
        file = folder / f"{index}.txt"
        if not file.exists():
            file.write_text(f"{index} by {os.getpid()}")
            time.sleep(float(sys.argv[3]))

print(Store.at(Path(sys.argv[1])).build("adapter-1", make, resume="resume" in sys.argv))
"""


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIVET_STORE", raising=False)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    monkeypatch.setenv("TRIVET_STORE", "memory://team/store")
    yield "/team/store"
    fs.store.clear()


def write(folder: Path) -> None:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "model.bin").write_bytes(bytes(range(256)) * 400)
    (folder / "sub" / "a name? with #, ü & 100%.txt").write_text("odd")
    (folder / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "sub" / "run.sh").chmod(0o755)
    (folder / "nothing").touch()


def never(folder: Path) -> None:
    raise AssertionError(f"built again in {folder}")


def contents(folder: Path) -> dict[str, tuple[bytes | None, bool]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() else None,
            bool(path.stat().st_mode & stat.S_IXUSR),
        )
        for path in sorted(folder.rglob("*"))
    }


def start(root: Path, log: Path, pause: float, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(root), str(log), str(pause), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_an_artifact_is_built_once_and_lies_in_the_clone(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    assert store.folder == tmp_path / ".trivet" / "store" and store.url == str(store.folder)
    assert not store.has("adapter-1")
    path = store.build("adapter-1", write)
    assert path == store.folder / "adapter-1" == store.path("adapter-1")
    assert store.has("adapter-1")
    assert store.build("adapter-1", never) == path
    assert sorted(p.name for p in store.folder.iterdir() if p.suffix != ".lock") == ["adapter-1"]


def test_what_nobody_has_is_said_by_name(tmp_path: Path, memory: str) -> None:
    with pytest.raises(FileNotFoundError, match="adapter-7"):
        Store.at(tmp_path).path("adapter-7")
    with pytest.raises(FileNotFoundError, match="adapter-7"):
        Store.at(tmp_path).link("adapter-7", tmp_path / "run" / "adapter")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a.part", "a b", "ü", "-x", "a\n", "*", "a" * 201]
)
def test_a_name_that_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    store = Store.at(tmp_path)
    for call in (store.has, store.path, lambda n: store.build(n, never)):
        with pytest.raises(ValueError, match="cannot name an artifact"):
            call(name)
    assert not list(tmp_path.rglob("*.part"))


def test_a_failed_make_leaves_nothing_whole_and_resume_goes_on(tmp_path: Path) -> None:
    store = Store.at(tmp_path)

    def half(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        store.build("adapter-1", half)
    assert not store.has("adapter-1")
    seen: list[list[str]] = []

    def rest(folder: Path) -> None:
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "second").touch()
        if len(seen) == 1:
            raise RuntimeError("again")

    with pytest.raises(RuntimeError):
        store.build("adapter-1", rest, resume=True)
    store.build("adapter-1", rest)
    assert seen == [["first"], []]  # without resume it begins anew


@pytest.mark.parametrize("resume", [True, False])
def test_a_builder_killed_in_make_leaves_it_absent_and_the_same_call_goes_on(
    tmp_path: Path, resume: bool
) -> None:
    log = tmp_path / "log"
    words = ["resume"] if resume else []
    builder = start(tmp_path, log, 0.05, *words)
    part = tmp_path / ".trivet" / "store" / "adapter-1.part"
    while not (part / "3.txt").exists():
        assert builder.poll() is None
        time.sleep(0.005)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    store = Store.at(tmp_path)
    assert not store.has("adapter-1") and (part / "3.txt").exists()
    second = start(tmp_path, log, 0, *words)
    path = Path(second.communicate()[0].strip())
    assert second.returncode == 0 and path == store.path("adapter-1")
    authors = {file.name: file.read_text().split()[-1] for file in path.iterdir()}
    assert len(authors) == 20 and not part.exists()
    assert (authors["0.txt"] == str(builder.pid)) == resume
    assert authors["19.txt"] == str(second.pid)


@pytest.mark.parametrize("roots", [("one", "one"), ("one", "two")], ids=["a clone", "two clones"])
def test_two_builders_at_once_make_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: tuple[str, str]
) -> None:
    monkeypatch.setenv("TRIVET_STORE", str(tmp_path / "shared"))
    log = tmp_path / "log"
    builders = [start(tmp_path / root, log, 0.01) for root in roots]
    paths = {builder.communicate()[0].strip() for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    assert paths == {str(tmp_path / "shared" / "adapter-1")}
    assert log.read_text() == "make\n"
    assert len({file.read_text().split()[-1] for file in Path(paths.pop()).iterdir()}) == 1


@pytest.mark.parametrize("value", ["{}/shared", "file://{}/shared", "../shared"])
def test_two_clones_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TRIVET_STORE", value.format(tmp_path))
    one, two = Store.at(tmp_path / "one"), Store.at(tmp_path / "two")
    path = one.build("adapter-1", write)
    assert path.resolve() == tmp_path / "shared" / "adapter-1"
    assert two.has("adapter-1")
    assert two.build("adapter-1", never).resolve() == path.resolve()  # no second copy
    two.link("adapter-1", tmp_path / "two" / "runs" / "adapter")
    assert (tmp_path / "two" / "runs" / "adapter" / "model.bin").samefile(path / "model.bin")
    assert not (tmp_path / "one" / ".trivet").exists()


def test_linking_is_whole_and_takes_no_second_place_on_disk(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    path = store.build("adapter-1", write)
    (path / "alias").symlink_to("model.bin")
    (path / "folder").symlink_to("sub")
    target = tmp_path / "runs" / "home" / "adapter"
    target.with_name("adapter.part").mkdir(parents=True)
    (target.with_name("adapter.part") / "of a killed link").touch()
    store.link("adapter-1", target)
    assert contents(target) == contents(path) | {
        f"folder/{p.name}": contents(path)[f"sub/{p.name}"] for p in (path / "sub").iterdir()
    }
    for name in ("model.bin", "alias"):
        assert (target / name).samefile(path / "model.bin") and not (target / name).is_symlink()
    assert sorted(p.name for p in target.parent.iterdir() if p.suffix != ".lock") == ["adapter"]
    (target / "mine").touch()
    store.link("adapter-1", target)
    assert (target / "mine").exists()  # what is there stays


def test_linking_onto_another_file_system_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source := tmp_path / "source")
    elsewhere = Path("/dev/shm") / f"trivet-{os.getpid()}"
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system on this machine")
    try:
        link_tree(source, elsewhere / "target")
        assert contents(elsewhere / "target") == contents(source)
        assert not (elsewhere / "target" / "model.bin").samefile(source / "model.bin")
    finally:
        subprocess.run(["rm", "-r", str(elsewhere)], check=True)


def test_a_link_that_breaks_off_shows_nothing(tmp_path: Path) -> None:
    write(source := tmp_path / "source")
    (source / "broken").symlink_to("nowhere")
    with pytest.raises(OSError):
        link_tree(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    (source / "broken").unlink()
    link_tree(source, tmp_path / "target")
    assert contents(tmp_path / "target") == contents(source)


def test_two_clones_share_a_remote(tmp_path: Path, memory: str) -> None:
    one, two = Store.at(tmp_path / "one"), Store.at(tmp_path / "two")
    path = one.build("adapter-1", write)
    assert one.folder != two.folder and one.url == two.url == "memory://team/store"
    assert two.has("adapter-1") and not (two.folder / "adapter-1").exists()
    copy = two.build("adapter-1", never)
    assert copy == two.folder / "adapter-1" and contents(copy) == contents(path)
    three = Store.at(tmp_path / "three")
    three.link("adapter-1", tmp_path / "run" / "adapter")
    assert contents(tmp_path / "run" / "adapter") == contents(path)
    for store in (one, two, three):
        left = [p.name for p in store.folder.iterdir() if p.suffix != ".lock"]
        assert left == ["adapter-1"]


def test_the_second_of_two_builders_takes_the_first_ones_bytes(tmp_path: Path, memory: str) -> None:
    one, two = Store.at(tmp_path / "one"), Store.at(tmp_path / "two")

    def quick(folder: Path) -> None:
        (folder / "who").write_text("one")

    def slow(folder: Path) -> None:
        (folder / "who").write_text("two")
        one.build("adapter-1", quick)

    assert (two.build("adapter-1", slow) / "who").read_text() == "one"
    assert (one.path("adapter-1") / "who").read_text() == "one"
    files = fsspec.filesystem("memory").find(f"{memory}/adapter-1")
    assert len(files) == 1  # the second one's are gone
    assert [p.name for p in two.folder.iterdir() if p.suffix != ".lock"] == ["adapter-1"]


def test_what_was_built_before_the_team_shared_is_put_and_not_built_again(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIVET_STORE")
    path = Store.at(tmp_path / "one").build("adapter-1", write)
    monkeypatch.setenv("TRIVET_STORE", "memory://team/store")
    copy = Store.at(tmp_path / "one").build("adapter-1", never)
    assert (copy / "model.bin").samefile(path / "model.bin")
    assert contents(Store.at(tmp_path / "two").build("adapter-1", never)) == contents(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "size and sha256"),
        (lambda content: content[:-1] + b"\0", "size and sha256"),
        (None, "is gone"),
    ],
    ids=["truncated", "altered", "removed"],
)
def test_a_damaged_object_is_refused(tmp_path, memory, damage, reason) -> None:
    path = Store.at(tmp_path / "one").build("adapter-1", write)
    fs = fsspec.filesystem("memory")
    (key,) = (key for key in fs.find(memory) if key.endswith("model.bin"))
    content = fs.cat_file(key)
    fs.rm_file(key)
    if damage:
        fs.pipe_file(key, damage(content))
    two = Store.at(tmp_path / "two")
    for call in (two.path, lambda name: two.build(name, never)):
        with pytest.raises(UserError, match=f"adapter-1 is damaged.*{reason}.*Remove memory://"):
            call("adapter-1")
        assert not (two.folder / "adapter-1").exists()
    if damage:
        fs.rm_file(key)
    fs.pipe_file(key, content)
    assert contents(two.path("adapter-1")) == contents(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"version": 1', '"version": 2', "version.*newer Trivet"),
        ('"name": "adapter-1"', '"name": "adapter-2"', "of adapter-2"),
        ('"path": "model.bin"', '"path": "../model.bin"', "leads out of the artifact"),
        ('"path": "model.bin"', '"path": "/tmp/model.bin"', "leads out of the artifact"),
        ('"sub/empty"', '"../empty"', "leads out of the artifact"),
        ('"version"', '"version', "JSON"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, memory, old, new, reason) -> None:
    Store.at(tmp_path / "one").build("adapter-1", write)
    fs = fsspec.filesystem("memory")
    content = fs.cat_file(f"{memory}/adapter-1.json").decode()
    assert old in content
    fs.pipe_file(f"{memory}/adapter-1.json", content.replace(old, new, 1).encode())
    with pytest.raises(UserError, match=reason):
        Store.at(tmp_path / "two").build("adapter-1", never)
    assert [p.name for p in (tmp_path / "two").rglob("*bin")] == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nonsense://team", "no such protocol"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("http://127.0.0.1:9000/team", "AWS_ENDPOINT_URL to http://127.0.0.1:9000"),
        ("s3://KEYID:hunter2@team/prefix", "credentials in a URL"),
        ("gs://team/prefix", "gcsfs"),
        ("{}/file/store", "Not a directory"),
        ("{}/file", "File exists"),
    ],
)
def test_a_store_that_is_none_is_refused_in_words(tmp_path, monkeypatch, value, reason) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIVET_STORE", value.format(tmp_path))
    with pytest.raises(UserError, match=reason) as error:
        Store.at(tmp_path)
    assert "TRIVET_STORE=" in str(error.value)
    assert "hunter2" not in str(error.value) and "KEYID" not in str(error.value)
