"""Hub ids against a hub of one's own over HTTP: look-ups counted, pushes, broken downloads, gone.

Run: pytest tests/unit/test_hub.py
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import MODEL, NEW, OLD, Hub, files
from huggingface_hub import constants

from trivet import UserError
from trivet.config.data import Model
from trivet.records.card import Base
from trivet.tuning.base import base_folder, resolve

FETCHED = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and empty caches; huggingface_hub has read its environment when it was imported."""
    server = Hub()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    sleep = time.sleep  # the client waits up to 23 s between its tries
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield server
    server.stop()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def whole(commit: str) -> dict[str, bytes]:
    return {name: content for name, content in files(commit).items() if name in FETCHED}


def test_a_second_run_asks_the_hub_once(hub: Hub) -> None:
    first = resolve(Model(base=MODEL))
    assert first == Base(base=MODEL, revision=OLD)
    assert len(hub.requests) == 1
    assert contents(base_folder(first)) == whole(OLD)  # no pickle, no code
    hub.requests.clear()
    again = resolve(Model(base=MODEL))
    assert contents(base_folder(again)) == whole(OLD) and again == first
    assert len(hub.requests) == 1, hub.requests


def test_a_commit_is_looked_up_by_nobody(hub: Hub) -> None:
    base = resolve(Model(base=MODEL, revision=NEW))
    assert base.revision == NEW and not hub.requests
    assert contents(base_folder(base)) == whole(NEW)
    hub.requests.clear()
    assert contents(base_folder(resolve(Model(base=MODEL, revision=NEW)))) == whole(NEW)
    assert not hub.requests


def test_a_tag_is_one_look_up(hub: Hub) -> None:
    hub.main = NEW
    assert resolve(Model(base=MODEL, revision="v1")).revision == OLD
    assert resolve(Model(base=MODEL)).revision == NEW
    assert len(hub.requests) == 2


def test_a_push_in_the_middle_moves_nothing(hub: Hub) -> None:
    base = resolve(Model(base=MODEL))
    hub.main = NEW
    assert contents(base_folder(base)) == whole(OLD)
    assert contents(base_folder(base)) == whole(OLD)
    assert resolve(Model(base=MODEL)).revision == NEW  # of the next run
    assert contents(base_folder(resolve(Model(base=MODEL)))) == whole(NEW)
    assert contents(base_folder(base)) == whole(OLD)


def test_half_a_download_is_refused_and_finished_later(hub: Hub) -> None:
    base = resolve(Model(base=MODEL))
    hub.half = True
    with pytest.raises(UserError, match=f"model.base = '{MODEL}'"):
        base_folder(base)
    assert hub.halves >= 1
    hub.half = False
    hub.requests.clear()
    assert contents(base_folder(base)) == whole(OLD)
    assert len([path for _, path in hub.requests if path.endswith(".safetensors")]) >= 1
    hub.requests.clear()
    assert contents(base_folder(base)) == whole(OLD) and not hub.requests


def test_half_a_download_is_no_base_when_the_hub_is_gone(hub: Hub) -> None:
    base = resolve(Model(base=MODEL))
    hub.half = True
    with pytest.raises(UserError):
        base_folder(base)
    hub.stop()
    with pytest.raises(UserError, match="did not give it"):
        base_folder(base)


def test_without_the_hub_the_copy_is_used(hub: Hub) -> None:
    base = resolve(Model(base=MODEL))
    base_folder(base)
    tag = resolve(Model(base=MODEL, revision="v1"))
    hub.stop()
    assert resolve(Model(base=MODEL)) == base
    assert resolve(Model(base=MODEL, revision="v1")) == tag
    assert contents(base_folder(base)) == whole(OLD)


def test_without_the_hub_the_copy_of_the_last_look_up_is_used(hub: Hub) -> None:
    base_folder(resolve(Model(base=MODEL)))
    hub.main = NEW
    newer = resolve(Model(base=MODEL))
    base_folder(newer)
    hub.stop()
    assert resolve(Model(base=MODEL)) == newer and newer.revision == NEW
    assert contents(base_folder(newer)) == whole(NEW)


def test_offline_mode_uses_the_copy_and_asks_nobody(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve(Model(base=MODEL))
    base_folder(base)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(Model(base=MODEL)) == base
    assert contents(base_folder(base)) == whole(OLD) and not hub.requests


def test_without_the_hub_and_without_a_copy_it_is_refused_in_words(hub: Hub) -> None:
    hub.stop()
    for revision in ("", OLD):
        with pytest.raises(UserError, match=f"model.base = '{MODEL}' is neither .* did not give"):
            base_folder(resolve(Model(base=MODEL, revision=revision)))


@pytest.mark.parametrize(
    "model",
    [Model(base="somebody/other"), Model(base=MODEL, revision="v9"), Model(base="a/b/c")],
    ids=lambda model: f"{model.base}@{model.revision}",
)
def test_what_the_hub_has_not_is_refused_in_words(model: Model, hub: Hub) -> None:
    with pytest.raises(UserError, match=f"model.base = '{model.base}' is neither"):
        resolve(model)


def test_an_emptied_cache_is_filled_again(hub: Hub, tmp_path: Path) -> None:
    base = resolve(Model(base=MODEL))
    folder = base_folder(base)
    (tmp_path / "hub").rename(tmp_path / "elsewhere")
    assert contents(base_folder(base)) == whole(OLD) and folder.exists()
    folder = base_folder(base)
    (folder / "model.safetensors").unlink()  # one file alone
    assert contents(base_folder(base)) == whole(OLD)


def test_another_programs_part_of_a_model_is_no_base(hub: Hub, tmp_path: Path) -> None:
    """Who fetched a config alone, with an older client, left a snapshot that nobody can finish."""
    snapshot = tmp_path / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots" / OLD
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    hub.stop()
    with pytest.raises(UserError, match=f"model.base = '{MODEL}' has no .*safetensors"):
        base_folder(Base(base=MODEL, revision=OLD))
