"""The data step on the real packages: same bytes everywhere, honest splits, versions never lost.

Run: pytest tests/unit/data/test_data.py (fetches two wheels of under 20 MB once, then uses the
user's cache).
"""

import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from hassil.intents import Intents, TextSlotList
from hassil.recognize import recognize_all

from trivet import UserError
from trivet.config.data import Data
from trivet.data import dataset, jsonl, packages, rows, split, versions
from trivet.data.sources import home, home_sentences
from trivet.plugins import TASKS
from trivet.records.dataset import DataCard, DatasetVersion

REPO = Path(__file__).parents[3]
TRACKED = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "data.dvc")


def clone(root: Path) -> Path:
    """A git clone as far as data are concerned: what is committed, and nothing of DVC's cache."""
    for name in TRACKED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "as committed")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout


def section(source: str = "home", task: str = "classify", **more: object) -> Data:
    return Data.model_validate({"source": source, "task": task, **more})


def shipped(recipe: str, **more: object) -> Data:
    """[data] of a shipped recipe."""
    tree = tomllib.loads((REPO / "flows" / "recipes" / recipe).read_text(encoding="utf-8"))
    return Data.model_validate(tree["data"] | more)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetVersion]:
    root = clone(tmp_path_factory.mktemp("clone"))
    return root, versions.version(section(), root)


@pytest.fixture
def root(built: tuple[Path, DatasetVersion], tmp_path: Path) -> Path:
    """A clone of its own that has the shipped data already."""
    root = clone(tmp_path / "clone")
    shutil.copytree(built[0] / "data", root / "data")
    return root


def texts(folder: Path, name: str) -> list[dict]:
    return jsonl.read(folder / f"{name}.jsonl")


def test_fresh_clone_makes_the_committed_bytes(built):
    root, version = built
    assert version.changed == "built"
    assert f"md5: {version.md5}\n" in (REPO / "data.dvc").read_text()
    assert git(root, "status", "--short") == ""
    with Repo(str(root)) as repo:
        assert repo.status() == {}


def test_source_md5_is_dvcs_hash_of_the_folder(built):
    _, version = built
    entries = [
        {"md5": hashlib.md5(f.read_bytes()).hexdigest(), "relpath": f.name}
        for f in sorted(version.folder.iterdir())
    ]
    tree = json.dumps(entries, sort_keys=True).encode()
    assert version.source_md5 == hashlib.md5(tree).hexdigest() + ".dir"


def test_nothing_changed_is_quick_and_touches_nothing(built):
    root, version = built
    before = {f: f.stat().st_mtime_ns for f in [*root.rglob("data/*/*"), root / "data.dvc"]}
    start = time.process_time()
    again = versions.version(section(), root)
    assert time.process_time() - start < 3  # CPU seconds: an idle machine is not needed
    assert (again.changed, again.md5) == ("unchanged", version.md5)
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_commands_read_like_sentences_and_carry_tags(built):
    folder = built[1].folder
    for name in dataset.SPLITS:
        for row in texts(folder, name):
            assert row["text"] == " ".join(row["tokens"])
            assert not re.search(r"[\[\](){}<>|;]|  |^ | $", row["text"])
            assert len(row["tokens"]) == len(row["tags"])
            for before, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
                assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_hassil_recognises_what_was_drawn(built):
    with zipfile.ZipFile(packages.fetch(home.INTENTS)) as wheel:
        package = home_sentences.load(wheel.read)
    names = sorted({n for group in home_sentences.NAMES.values() for n in group.split(",")})
    lists = {
        "name": names,
        "area": home_sentences.AREAS.split(","),
        "floor": home_sentences.FLOORS.split(","),
    }
    slots = {k: TextSlotList.from_strings(v) for k, v in lists.items()}
    for row in random.Random(0).sample(texts(built[1].folder, "train"), 200):
        block = {row["label"]: {"data": [{"sentences": [row["template"]]}]}}
        intents = Intents.from_dict({**package, "intents": block})
        assert list(recognize_all(row["text"], intents, slot_lists=slots)), row


def test_home_is_split_by_template(built):
    _, version = built
    parts = {name: texts(version.folder, name) for name in dataset.SPLITS}
    phrasings = {k: {(r["label"], r["template"]) for r in v} for k, v in parts.items()}
    intents = {k: {r["label"] for r in v} for k, v in parts.items()}
    assert len(intents["train"]) == 31
    assert intents["train"] == intents["valid"] == intents["test"]
    assert not phrasings["train"] & phrasings["test"] and not phrasings["valid"] & phrasings["test"]
    every = [r["text"] for v in parts.values() for r in v]
    assert len(every) == len(set(every)) > 6000
    assert version.card.rows == {k: len(v) for k, v in parts.items()}
    assert version.card.labels == Counter(r["label"] for r in parts["train"])


def test_chat_alternates_and_no_question_is_in_two_splits(built):
    folder = built[0] / "data" / "chat"
    asked = {}
    for name in dataset.SPLITS:
        turns = texts(folder, name)
        asked[name] = {r["messages"][0]["content"].casefold() for r in turns}
        for row in turns:
            roles = [m["role"] for m in row["messages"]]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["valid"]
    assert not asked["valid"] & asked["test"] and len(asked["train"]) > 500


def test_read_picks_balanced_rows_and_an_unlabelled_pool(built):
    folder = built[1].folder
    want = shipped("home.toml", pool=3000)
    draw = dataset.read(want, folder)
    counts = Counter(r["label"] for r in draw["train"])
    assert len(draw["train"]) == 150 and len(counts) == 31
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(draw["pool"]) == want.pool and all(set(r) == {"text"} for r in draw["pool"])
    assert not {r["text"] for r in draw["pool"]} & {r["text"] for r in draw["train"]}
    assert len(draw["test"]) == 600 and len(draw["valid"]) == 100
    assert dataset.read(want, folder) == draw
    other = dataset.read(shipped("home.toml", seed=1), folder)
    assert other["test"] == draw["test"] and other["train"] != draw["train"]
    with pytest.raises(UserError, match=r"data\.rows = 30.*31 labels"):
        dataset.read(shipped("home.toml", rows=30), folder)
    tags = dataset.read(shipped("home-slots.toml"), folder)
    assert "pool" not in tags and len(tags["train"]) == 300
    assert len(TASKS["tag"].labels(tags["train"])) > 20


def test_peek_reads_the_same_and_writes_nothing(built, tmp_path):
    version = built[1]
    bare = clone(tmp_path)
    seen, card = versions.peek(shipped("home.toml"), bare)
    assert seen == dataset.read(shipped("home.toml"), version.folder)
    assert card.rows == version.card.rows
    write_csv(tmp_path / "mine.csv", RAIN)
    assert versions.peek(section("mine.csv"), bare)[1].rows == {"train": 14, "valid": 2, "test": 4}
    assert not (bare / "data").exists() and git(bare, "status", "--short") == "?? mine.csv\n"


def test_with_a_remote_data_are_pulled_and_without_network_they_need_one(
    built, tmp_path, monkeypatch
):
    root, version = built
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    team = clone(tmp_path / "team")
    with pytest.raises(UserError, match=r"home-assistant-intents==2026\.10\.27.*DVC remote"):
        versions.version(section(), team)
    assert not (team / "data").exists()
    for place in (root, team):
        config = f"[core]\n remote = box\n['remote \"box\"']\n url = {tmp_path / 'box'}\n"
        (place / ".dvc" / "config.local").write_text(config)
    with Repo(str(root)) as repo:
        repo.push()
    (root / ".dvc" / "config.local").unlink()
    pulled = versions.version(section(), team)
    assert (pulled.changed, pulled.md5) == ("pulled", version.md5)
    shutil.rmtree(team / "data")
    assert versions.version(section(), team).changed == "checked out"
    assert git(team, "status", "--short") == ""


RAIN = [
    {"text": f"{word} {n}", "label": label}
    for label, word in (("wet", "rain"), ("dry", "sun"))
    for n in range(10)
]


def write_csv(file: Path, table: list[dict]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return file


def test_a_changed_file_is_a_new_version_and_the_old_one_is_kept(root):
    first = versions.version(section(), root)
    file = write_csv(root / "my rain.csv", RAIN)
    one = versions.version(section(str(file)), root)
    assert one.changed == "new version" and one.folder == root / "data" / "my-rain"
    assert versions.version(section(str(file)), root).changed == "unchanged"
    tracked = (root / "data.dvc").read_text()
    write_csv(file, [*RAIN, {"text": "hail", "label": "wet"}])
    two = versions.version(section(str(file)), root)
    assert two.changed == "new version"
    assert len({first.md5, one.md5, two.md5}) == 3 and one.source_md5 != two.source_md5
    assert sum(two.card.rows.values()) == 21
    (root / "data.dvc").write_text(tracked)
    with Repo(str(root)) as repo:
        repo.checkout([str(root / "data.dvc")])
    card = DataCard.model_validate_json((one.folder / "card.json").read_text())
    assert card == one.card


def test_rows_edited_by_hand_are_a_new_version_with_a_true_card(root):
    before = versions.version(section(), root)
    file = before.folder / "test.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    after = versions.version(section(), root)
    assert after.changed == "new version" and after.card.edited is True
    assert after.card.rows["test"] == before.card.rows["test"] - 1
    assert versions.version(section(), root).changed == "unchanged"
    file.write_text("".join(lines[:2]) + '{"text": "turn on"')
    with pytest.raises(UserError, match=r"test\.jsonl, line 3: not JSON"):
        versions.version(section(), root)


def test_a_lost_file_is_not_papered_over(root):
    (root / "data" / "home" / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"data/home lacks train\.jsonl"):
        versions.version(section(), root)


ASK, SAY = [f"how is {n}?" for n in range(10)], [f"well, {n}" for n in range(10)]
TURNS = [
    [{"role": "user", "content": a}, {"role": "assistant", "content": s}]
    for a, s in zip(ASK, SAY, strict=True)
]
SHARE = [
    [{"from": "human", "value": a}, {"from": "gpt", "value": s}]
    for a, s in zip(ASK, SAY, strict=True)
]
GENERATE = {
    "chat messages": [{"messages": t} for t in TURNS],
    "sharegpt conversations": [{"conversations": t} for t in SHARE],
    "prompt and completion": [
        {"prompt": a, "completion": s} for a, s in zip(ASK, SAY, strict=True)
    ],
    "alpaca instructions": [
        {"instruction": a, "input": "", "output": s} for a, s in zip(ASK, SAY, strict=True)
    ],
}


@pytest.mark.parametrize("kind", GENERATE)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_all_shapes_of_chat_in_all_formats_say_the_same(kind, ending, tmp_path):
    table = GENERATE[kind]
    file = tmp_path / f"x.{ending}"
    if ending == "csv":
        write_csv(
            file,
            [{k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in table],
        )
    elif ending == "jsonl":
        jsonl.write(file, table)
    elif ending == "json":
        file.write_text(json.dumps(table))
    else:
        pq.write_table(pa.Table.from_pylist(table), file)
    table = rows.parse(file)
    assert (table.kind, table.tasks) == (kind, ("generate",))
    assert [r["messages"] for r in table.rows] == TURNS


def test_tags_are_read_from_lists_and_from_words(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{"tokens": "go to Rome", "tags": "O O B-city", "id": 7}])
    table = rows.parse(file)
    assert table.rows[0]["tags"] == ["O", "O", "B-city"] and table.ignored == ["id"]
    pq.write_table(
        pa.table({"tokens": [["to", "Rome"]], "tags": [["O", "B-city"]]}), tmp_path / "t.parquet"
    )
    assert rows.parse(tmp_path / "t.parquet").rows[0]["tokens"] == ["to", "Rome"]


def test_own_splits_are_kept_and_train_loses_repeated_rows(tmp_path):
    table = [{**row, "split": "train"} for row in RAIN]
    table += [{"text": "rain 0", "label": "wet", "split": "test"}]
    table += [{"text": "sun 1", "label": "wet", "split": "validation"}]
    splits, removed, conflicts = split.divide(rows.parse(write_csv(tmp_path / "s.csv", table)), 0)
    assert {k: len(v) for k, v in splits.items()} == {"train": 18, "valid": 1, "test": 1}
    assert (removed, conflicts) == (2, 1)


KILLED = """
import sys
from pathlib import Path
from trivet.data import versions
from trivet.records.dataset import DataCard
root = Path(sys.argv[1])
versions._recover(root)
card = DataCard(source="mine", kind="", task="", seed=0, duplicates_removed=0,
                duplicates_with_another_label=0, rows={}, labels={}, licence="", origin={})
for n in range(10**9):
    part = [{"text": str(n % 7), "label": "x"}] * 2000
    splits = {"train": part, "valid": part, "test": part}
    versions._place(root, "mine", splits, card.model_copy(update={"kind": str(n % 7)}))
    print(n, flush=True)
"""


def test_killed_at_any_moment_data_are_all_old_or_all_new(tmp_path):
    rng = random.Random(0)
    for _ in range(8):
        job = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert job.stdout and job.stdout.readline()
        time.sleep(rng.random() / 20)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        versions._recover(tmp_path)
        folder = tmp_path / "data" / "mine"
        assert sorted(f.name for f in folder.iterdir()) == sorted(versions.FILES)
        word = json.loads((folder / "card.json").read_text())["kind"]
        for name in dataset.SPLITS:
            lines = texts(folder, name)
            assert len(lines) == 2000 and {r["text"] for r in lines} == {word}
