"""A task with columns of its own and a shipped source of one's own, each added by one class.

Run: pytest tests/unit/data/test_own_data.py
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from trivet import UserError
from trivet.config.data import Data
from trivet.data import dataset, rows, split, versions
from trivet.data.cells import Cells, Row
from trivet.data.dataset import Splits
from trivet.data.source import Source
from trivet.plugins import SOURCES, TASKS
from trivet.records.dataset import DataCard
from trivet.tasks.classify import Classify
from trivet.tasks.task import Shape


class Stars(Classify):
    """How many stars a review gives."""

    name = "stars"
    inputs = ("review",)

    def labels(self, rows: Iterable[Row]) -> list[str]:
        return sorted({row["stars"] for row in rows})

    def classes(self, row: Row) -> list[str]:
        return [row["stars"]] if "stars" in row else []

    def suffice(self, rows: Sequence[Row]) -> str | None:
        return "column 'stars': one number is no choice." if len(self.labels(rows)) < 2 else None


def review(cells: Cells) -> Row:
    return {"review": cells.text("review"), "stars": str(cells.value("stars"))}


Stars.shapes = (Shape(("review", "stars"), "reviews", review),)


class Weather(Source):
    """Forty texts about the weather."""

    name = "weather"

    def build(self) -> tuple[Splits, DataCard]:
        table = [{"text": f"{w} {n}", "label": w} for w in ("rain", "sun") for n in range(20)]
        return self.at_random(table, licence="CC0-1.0", origin={"package": "weather"})


@pytest.fixture
def stars() -> Iterator[None]:
    TASKS.add(Stars())
    yield
    TASKS.remove("stars")


@pytest.fixture
def weather() -> Iterator[None]:
    SOURCES.add(Weather())
    yield
    SOURCES.remove("weather")


REVIEWS = [{"review": f"as {n % 9} as can be", "stars": n % 9 % 2 + 1} for n in range(18)]


def write(folder: Path, table: list[Row]) -> Path:
    file = folder / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return file


def test_rows_of_a_new_task_are_read_split_balanced_and_pooled(stars, tmp_path):
    want = Data(source=str(write(tmp_path, REVIEWS)), task="stars", rows=4, pool=2)
    draw, card = versions.peek(want, tmp_path)
    assert (card.kind, card.task, card.duplicates_removed) == ("reviews", "stars", 9)
    assert card.rows == {"train": 5, "valid": 2, "test": 2}
    assert card.labels == {"1": 3, "2": 2}
    assert Counter(row["stars"] for row in draw["train"]) == {"1": 2, "2": 2}
    assert [set(row) for row in draw["pool"]] == [{"review"}]
    versions._place(tmp_path, "reviews", rows_of(want), card)
    assert dataset.read(want, tmp_path / "data" / "reviews") == {
        k: list(part) for k, part in draw.items()
    }


def rows_of(want: Data) -> Splits:
    return split.divide(rows.parse(Path(want.source)), split.SEED).splits


def test_rows_of_a_new_task_are_refused_in_its_own_words(stars, tmp_path):
    alike = write(tmp_path, [row | {"stars": 3} for row in REVIEWS])
    words = r"reviews\.jsonl, column 'stars': one number is no choice\.$"
    with pytest.raises(UserError, match=words):
        versions.peek(Data(source=str(alike), task="stars"), tmp_path)
    few = write(tmp_path, [REVIEWS[0], *REVIEWS[1::2]][:4])
    with pytest.raises(UserError, match="label '1' has 1 different row; at least 3"):
        versions.peek(Data(source=str(few), task="stars"), tmp_path)
    odd = write(tmp_path, [{"sentence": "a"}])
    with pytest.raises(UserError, match="'sentence'.*tokens, tags; review, stars;"):
        versions.peek(Data(source=str(odd), task="stars"), tmp_path)


def test_a_file_serves_every_task_whose_columns_it_has(stars, tmp_path):
    both = [row | {"text": row["review"], "label": f"l{row['stars']}"} for row in REVIEWS]
    table = rows.parse(write(tmp_path, both))
    assert (table.kind, table.tasks) == ("text, label, review and stars", ("classify", "stars"))
    text = "as 0 as can be"
    assert table.rows[0] == {"text": text, "label": "l1", "review": text, "stars": "1"}
    assert table.ignored == []


def test_rows_from_before_a_task_was_registered_serve_it_too(tmp_path):
    class Mood(Classify):
        name = "mood"

    parts = split.Parts({"train": MOODS, "valid": MOODS, "test": MOODS}, 0, 0)
    card = split.card("m", "text and label", ("classify",), parts, 0, licence="", origin={})
    assert versions._tasks(card, MOODS) == ["classify"]
    TASKS.add(Mood())
    try:
        assert versions._tasks(card, MOODS) == ["classify", "mood"]
    finally:
        TASKS.remove("mood")


MOODS: list[Row] = [{"text": "oh", "label": "sad"}]


def test_a_new_source_is_built_and_named(weather, tmp_path):
    draw, card = versions.peek(Data(source="weather"), tmp_path)
    assert (card.kind, card.task) == ("text and label", "classify")
    assert card.rows == {"train": 28, "valid": 4, "test": 8}
    assert len(draw["train"]) == 28
    with pytest.raises(UserError, match="chat, digits, home, weather"):
        versions.peek(Data(source="whether"), tmp_path)


@pytest.mark.parametrize("first", ["classify", "generate", "tag"])
def test_who_imports_a_task_first_does_not_change_whose_label_a_row_has(first):
    """Cards and draws follow the registry's order, so it must not follow imports."""
    code = (
        f"import trivet.tasks.{first}\n"
        "from trivet.data import split\n"
        "from trivet.plugins import TASKS\n"
        "print(*TASKS, split.classes({'label': 'a', 'tags': ['B-b'], 'tokens': ['c']}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "classify generate tag ['a']\n"
