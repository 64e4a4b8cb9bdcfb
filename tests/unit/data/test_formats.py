"""What a file says is used, refused or named as ignored: each format beside what it must become.

Expected turns are written by hand from the formats' own documentation.

Run: pytest tests/unit/data/test_formats.py
"""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from trivet import UserError
from trivet.config.data import Data, Reading
from trivet.config.recipe import load
from trivet.data import jsonl, rows, versions
from trivet.data.cells import Row

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PIRATE = {"role": "system", "content": "You are a pirate."}
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
TOOL = [{"type": "function", "function": {"name": "f"}}]
CALL = Q, {"role": "assistant", "content": "a", "tool_calls": TOOL}


def part(text: str) -> Row:
    return {"type": "text", "text": text}


# the row of a file, the format's name, the turns that it must become
USED = {
    "alpaca number": (
        {"instruction": "Double", "input": 7, "output": "14"},
        "alpaca",
        [{"role": "user", "content": "Double\n\n7"}, {"role": "assistant", "content": "14"}],
    ),
    "alpaca zero": (
        {"instruction": "Double", "input": 0, "output": "0"},
        "alpaca",
        [{"role": "user", "content": "Double\n\n0"}, {"role": "assistant", "content": "0"}],
    ),
    "alpaca list": (
        {"instruction": "Sum", "input": [1, "é"], "output": "?"},
        "alpaca",
        [{"role": "user", "content": 'Sum\n\n[1, "é"]'}, {"role": "assistant", "content": "?"}],
    ),
    "alpaca history": (
        {"instruction": "q", "output": "a", "system": "You are a pirate.", "history": [["b", "c"]]},
        "alpaca",
        [PIRATE, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}, Q, A],
    ),
    "sharegpt system": (
        {"system": "You are a pirate.", "conversations": SHARE},
        "sharegpt",
        [PIRATE, Q, A],
    ),
    "sharegpt roles": (
        {"conversations": [{"from": "system", "value": "You are a pirate."}, *SHARE], "tools": ""},
        "sharegpt",
        [PIRATE, Q, A],
    ),
    "developer": (
        {"messages": [PIRATE | {"role": "developer"}, Q, A]},
        "messages",
        [PIRATE, Q, A],
    ),
    "weight": (
        {"messages": [Q, A | {"weight": 0}, Q, A | {"weight": 1}]},
        "messages",
        [Q, A | {"weight": 0}, Q, A | {"weight": 1}],
    ),
    "parts": (
        {"messages": [{"role": "user", "content": [part("q"), part(" <b>")]}, A]},
        "messages",
        [{"role": "user", "content": "q <b>"}, A],
    ),
    "keys that say nothing": (
        {"messages": [Q | {"name": None}, A | {"tool_calls": []}], "tools": None},
        "messages",
        [Q, A],
    ),
    "spaces": (
        {"prompt": "write code", "completion": "    return 1"},
        "prompt-completion",
        [
            {"role": "user", "content": "write code"},
            {"role": "assistant", "content": "    return 1"},
        ],
    ),
    "prompt of turns": (
        {"prompt": [PIRATE, Q], "completion": [A]},
        "prompt-completion",
        [PIRATE, Q, A],
    ),
}

# the row of a file, what its refusal must say in this order
REFUSED = {
    "KTO": ({"prompt": "q", "completion": "BAD", "label": False}, "KTO rows.*must not be learnt"),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference pairs.*'rejected'"),
    "plain text": ({"text": "once upon a time"}, "plain text.*pre-training"),
    "weight 0": ({"messages": [Q, A | {"weight": 0}]}, "line 1.*every assistant turn has weight 0"),
    "weight 2": ({"messages": [Q, A | {"weight": 0.5}]}, "turn 2 has the weight 0.5"),
    "tools": ({"messages": [Q, A], "tools": TOOL}, "'tools'.*tool calls.*data.ignore"),
    "tool calls": ({"messages": CALL}, "turn 2 has 'tool_calls'.*data.ignore"),
    "tool turn": ({"messages": [Q, {"role": "tool", "content": "x"}, A]}, "turn 2.*'tool'"),
    "name": ({"messages": [Q | {"name": "Al"}, A]}, "turn 1 has 'name'.*templates.*data.ignore"),
    "picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]},
                "turn 1 has a part of the type 'image_url'"),
    "late system": ({"messages": [Q, PIRATE, A]}, "behind the first turn"),
    "two systems": ({"messages": [PIRATE, Q, A], "system": "Be brief."}, "behind the first turn"),
    "history": ({"instruction": "q", "output": "a", "history": ["b"]}, "'history': not a list of"),
    "another's column": ({"text": "q", "label": "a", "prompt": "Is it?"}, "'prompt'.*data.ignore"),
    "sharegpt tools": ({"conversations": SHARE, "tools": "[{}]"}, "'tools'.*tool calls"),
}  # fmt: skip


def file_of(folder: Path, *table: Row) -> Path:
    jsonl.write(folder / "f.jsonl", table)
    return folder / "f.jsonl"


@pytest.mark.parametrize("name", USED)
def test_every_key_of_a_format_is_used(name, tmp_path):
    row, format, turns = USED[name]
    table = rows.parse(file_of(tmp_path, row))
    assert table.format == format and list(table.rows) == [{"messages": turns}]
    assert table.ignored == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(name, tmp_path):
    row, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        rows.parse(file_of(tmp_path, row))


def test_what_the_recipe_ignores_is_left_out_and_named(tmp_path):
    row = {"messages": CALL, "tools": TOOL, "source": "web"}
    table = rows.parse(file_of(tmp_path, row), Reading(ignore=["tools", "tool_calls"]))
    assert list(table.rows) == [{"messages": [Q, A]}]
    assert table.ignored == ["tools", "source", "messages[].tool_calls"]
    kto = file_of(tmp_path, {"prompt": "q", "completion": "a", "label": True})
    assert list(rows.parse(kto, Reading(ignore=["label"])).rows) == [{"messages": [Q, A]}]
    with pytest.raises(UserError, match=r"data\.ignore names 'lable'"):
        rows.parse(file_of(tmp_path, {"messages": [Q, A]}), Reading(ignore=["lable"]))


def test_a_key_that_comes_late_is_not_dropped_either(tmp_path):
    late = file_of(tmp_path, {"messages": [Q, A]}, {"messages": [Q, A], "tools": TOOL, "id": 1})
    with pytest.raises(UserError, match="line 2, column 'tools'"):
        rows.parse(late)
    table = rows.parse(late, Reading(bad_rows=1))
    assert [e.where for e, _ in table.bad] == ["line 2"] and len(table.rows) == 1


def test_columns_are_named_and_a_format_chosen(tmp_path):
    row = {"sentence": "It rains.", "kind": "wet", "text": "raw", "id": 3}
    file = file_of(tmp_path, row)
    names = {"text": "sentence", "label": "kind"}
    table = rows.parse(file, Reading(columns=names, ignore=["text"]))
    assert list(table.rows) == [{"text": "It rains.", "label": "wet"}]
    assert sorted(table.used) == ["kind", "sentence"] and sorted(table.ignored) == ["id", "text"]
    with pytest.raises(UserError, match="'text' of its own: name that in data.ignore"):
        rows.parse(file, Reading(columns=names))
    with pytest.raises(UserError, match=r"data\.columns\.text = 'phrase'.*'kind', 'sentence'"):
        rows.parse(file, Reading(columns={"text": "phrase"}))
    with pytest.raises(UserError, match=r"data\.format = 'alpaca'.*'instruction', 'output'"):
        rows.parse(file, Reading(format="alpaca"))
    both = file_of(tmp_path, {"prompt": "q", "completion": "a", "text": "t", "label": "l"})
    with pytest.raises(UserError, match="KTO"):
        rows.parse(both)
    ignore = Reading(format="text-label", ignore=["prompt", "completion"])
    assert list(rows.parse(both, ignore).rows) == [{"text": "t", "label": "l"}]


def test_a_recipe_names_them():
    given = ["data.columns.text=sentence", "data.format=alpaca", "data.ignore=['id']"]
    data = load("home.toml", given).data
    assert (data.columns, data.format, data.ignore) == ({"text": "sentence"}, "alpaca", ["id"])
    with pytest.raises(UserError, match=r"data\.columns.*no format has such a column"):
        load("home.toml", ["data.columns.txt=sentence"])
    with pytest.raises(UserError, match=r"data\.format = 'csv'.*alpaca"):
        load("home.toml", ["data.format=csv"])


MAIL = [{"text": f"mail {n}", "label": ("spam", "ham")[n % 2]} for n in range(40)]


def test_bad_rows_are_listed_or_put_aside(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in MAIL)
    bad = [
        '{"text": "su',
        json.dumps(MAIL[0]),
        '{"text": "a"}',
        '{"text": "b", "text": "c", "label": "x"}',
        "7",
    ]
    file = tmp_path / "mail.jsonl"
    file.write_text("\n".join([*bad, text]), encoding="utf-8")
    with pytest.raises(UserError, match="4 rows cannot be used") as error:
        rows.parse(file)
    for words in ("line 1, not JSON", "line 3, column 'label'", "'text' stands twice", "line 5, 7"):
        assert words in str(error.value)
    with pytest.raises(UserError, match=r"data\.bad_rows allows 3"):
        rows.parse(file, Reading(bad_rows=3))
    version = versions.version(Data(source=str(file), bad_rows=4), tmp_path)
    assert version.card.quarantined == 4 and sum(version.card.rows.values()) == 40
    aside = jsonl.read(version.folder / "quarantine.jsonl")
    assert [row["place"] for row in aside] == [f"line {n}" for n in (1, 3, 4, 5)]
    assert {row["file"] for row in aside} == {"mail.jsonl"}
    assert aside[1]["row"] == {"text": "a"} and "missing" in aside[1]["reason"]
    many = "".join('{"text": ""}\n' for _ in range(30))
    file.write_text(text + many, encoding="utf-8")
    with pytest.raises(UserError, match="10 or more rows cannot be used") as error:
        rows.parse(file)
    assert str(error.value).count("\n  line ") == 10


def test_a_recipe_that_reads_otherwise_has_the_file_read_anew(tmp_path):
    jsonl.write(tmp_path / "mail.jsonl", [row | {"kind": row["text"][-1]} for row in MAIL])
    source = str(tmp_path / "mail.jsonl")
    first = versions.version(Data(source=source), tmp_path)
    kinds = {"columns": {"label": "kind"}, "ignore": ["label"]}
    second = versions.version(Data(source=source, **kinds), tmp_path)
    assert (len(first.card.labels), len(second.card.labels)) == (2, 10)
    assert versions.version(Data(source=source, **kinds), tmp_path).changed == "unchanged"


def test_labels_that_are_nearly_equal_and_markup_are_counted(tmp_path):
    labels = ["1", 1.0, True, "true", "Spam", "spam", "spam ", "ham", "7", "07"]
    texts = ["it&#039;s", "a<br />b", "AT&T; List<int>", "&amp; <b>x</b>"]
    table = [{"text": f"{n} {texts[n % 4]}", "label": label} for n, label in enumerate(labels * 4)]
    survey = rows.parse(file_of(tmp_path, *table)).survey
    groups = [sorted(group) for group in survey.alike()]
    assert sorted(groups) == [["07", "7"], ["1", "1.0"], ["Spam", "spam"], ["True", "true"]]
    assert survey.markup == {
        "HTML entities such as &#039;": 20,
        "HTML elements such as <br />": 20,
    }
    assert survey.changes == {"White space around 'label' was taken off": 4}
    assert survey.labels["spam"] == 8


def test_a_label_column_of_truth_values(tmp_path):
    table = [{"text": str(n), "label": n % 2 == 0} for n in range(4)]
    assert [r["label"] for r in rows.parse(file_of(tmp_path, *table)).rows] == [
        "True",
        "False",
    ] * 2


TEXTS = st.one_of(
    st.sampled_from(["    return 1", "a\n", "\t<b>x</b> &amp;", "<|im_end|>", "7", "[1]", "null"]),
    st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
)
SHARE_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


@st.composite
def conversations(draw: st.DrawFn) -> list[Row]:
    """Turns that learn something: text of every kind, weights here and there, a reply last."""
    turns = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for last in [*[False] * draw(st.integers(0, 3)), True]:
        weight = {} if last else draw(st.sampled_from([{}, {"weight": 0}, {"weight": 1}]))
        turns.append({"role": "user", "content": draw(TEXTS)})
        turns.append({"role": "assistant", "content": draw(TEXTS)} | weight)
    return turns


def written(turns: list[Row], form: str) -> Row:
    """The same conversation as a row of another format."""
    if form == "sharegpt":
        pairs = [({"from": SHARE_NAMES[t["role"]], "value": t["content"]}, t) for t in turns]
        return {"conversations": [a | {k: t[k] for k in ("weight",) if k in t} for a, t in pairs]}
    if form == "parts":
        halves = [[part(t["content"][:2]), part(t["content"][2:])] for t in turns]
        return {"messages": [t | {"content": both} for t, both in zip(turns, halves, strict=True)]}
    if form == "text":  # as a column of a .csv holds it
        return {"messages": json.dumps(turns)}
    return {"prompt": turns[:-1], "completion": turns[-1:]}


@seed(8)
@settings(max_examples=150, deadline=None)
@given(conversations(), st.sampled_from(["sharegpt", "parts", "text", "turns"]))
def test_no_format_changes_a_conversation(turns, form):
    """To the last space: what is written is what is trained."""
    with tempfile.TemporaryDirectory() as folder:
        file = file_of(Path(folder), written(turns, form))
        assert list(rows.parse(file).rows) == [{"messages": turns}]
