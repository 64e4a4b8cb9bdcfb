"""What bad data get: one paragraph that names file, line, column and fix, and nothing written.

Run: pytest tests/unit/data/test_bad_data.py
"""

import json
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trivet import UserError
from trivet.config.data import Data
from trivet.data import split, versions
from trivet.records.dataset import DatasetVersion

GOOD = "".join(f"{w} {n},{w}\n" for w in ("rain", "sun") for n in range(4))
ROW = '{"text": "rain", "label": "wet"}\n'
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]

# file name, its bytes, the task, what the message must say in this order
C, T, G = "classify", "tag", "generate"
CASES = [
    ("empty.csv", b"", C, "is empty"),
    ("heading.csv", b"text,label\n", C, "no rows"),
    ("table.txt", b"x", C, r"'\.txt' files are not read; use \.csv, \.jsonl"),
    ("odd.csv", b"sentence,label\na,b\n", C, "'sentence', 'label'.*text, label"),
    ("task.csv", b"text,label\n" + GOOD.encode(), G, r"data\.task = 'generate'.*classify"),
    ("one.csv", b"text,label\na,x\nb,x\nc,x\n", C, "'label': each row has.*'x'.*two"),
    ("bytes.csv", b"text,label\nok,x\ncaf\xe9,y\n", C, "line 3: byte 0xe9 at offset 19"),
    ("nan.csv", f"text,label\n{GOOD}rain,\n".encode(), C, "line 10, column 'label'.*missing"),
    ("nan.csv", f"text,label\nNaN,x\n{GOOD}".encode(), C, "line 2, column 'text'.*missing"),
    ("white.csv", f"text,label\n{GOOD}  ,sun\n".encode(), C, "line 10.*white space"),
    ("cells.csv", b"text,label\na,b,c\n", C, "line 2: 3 cells under 2 columns"),
    ("quote.csv", b'text,label\na,x\n"b,y\nc,y\n', C, "line 3.*double quote"),
    ("broken.jsonl", (ROW + '{"text": "su\n').encode(), C, "line 2: not JSON"),
    ("number.jsonl", (ROW + "7\n").encode(), C, "line 2: 7 is not an object"),
    ("lost.jsonl", (ROW + '{"text": "su"}\n').encode(), C, "line 2, column 'label'"),
    ("null.jsonl", (ROW + '{"text": "su", "label": NaN}\n').encode(), C, "line 2.*NaN"),
    ("half.jsonl", (ROW + r'{"text": "\ud800", "label": "a"}').encode(), C, "line 2.*half"),
    ("list.json", b'{"text": "a"}', C, "dict, not a list"),
    ("broken.json", b'[{"text": ', C, r"not JSON.*\.jsonl"),
    ("big.jsonl", (ROW + json.dumps({"text": "a" * 10**7, "label": "x"})).encode(), C,
     r"line 2: the row has 10\.0 MB; a row may have 1 MB"),
    ("big.csv", b"text,label\n" + b"a" * 10**7 + b",x\n", C, "line 2: the row has 10.0 MB"),
    ("few.csv", f"text,label\n{GOOD}hail,ice\nsleet,ice\n".encode(), C,
     "label 'ice' has 2 different rows; at least 3.*Add 1"),
    ("split.csv", b"text,label,split\na,x,train\nb,y,train\nc,z,test\n", C,
     "line 4: label 'z' is in test but never in train"),
    ("split.csv", b"text,label,split\na,x,train\nb,y,later\n", C, "line 3.*'later' is none of"),
    ("split.csv", b"text,label,split\na,x,train\nb,y,train\n", C, "no row for test"),
    ("bio.jsonl", b'{"tokens": ["a"], "tags": ["city"]}', T, "line 1, column 'tags': 'city'"),
    ("len.jsonl", b'{"tokens": ["a"], "tags": ["O", "O"]}', T, "2 tags for 1 tokens"),
    ("o.jsonl", b'{"tokens": ["a"], "tags": ["O"]}\n' * 4, T, "each tag is O"),
    ("word.jsonl", b'{"tokens": ["a b"], "tags": ["O"]}', T, "'a b' is not one word"),
    ("role.jsonl", b'{"messages": [{"role": "me", "content": "x"}]}', G, "turn 1 has no 'role'"),
    ("last.jsonl", json.dumps({"messages": TALK[:1]}).encode(), G, "assistant's turn last"),
    ("mute.jsonl", b'{"conversations": [{"from": "gpt", "value": ""}]}', G, "turn 1 has no t"),
    ("two.jsonl", json.dumps({"messages": TALK}).encode(), G, "there is 1 different row;"),
    ("not.parquet", b"PAR", C, "not Parquet"),
]  # fmt: skip


def run(source: Path | str, root: Path, task: str = "classify") -> DatasetVersion:
    return versions.version(Data(source=str(source), task=task), root)


@pytest.mark.parametrize(("name", "content", "task", "words"), CASES, ids=lambda v: str(v)[:24])
def test_bad_file(name, content, task, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        run(name, tmp_path, task)
    assert name in str(error.value) and len(str(error.value)) < 700
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_missing_file_names_what_is_there(tmp_path):
    with pytest.raises(
        UserError, match=r"data\.source = 'hme': there is no such file.*chat, digits, home"
    ):
        run("hme", tmp_path)


def test_null_in_parquet(tmp_path):
    table = pa.table({"text": ["a", "b", None], "label": ["x", "y", "x"]})
    pq.write_table(table, tmp_path / "n.parquet")
    with pytest.raises(UserError, match="row 3, column 'text': the value is missing"):
        run("n.parquet", tmp_path)


def test_no_room_leaves_the_old_rows(tmp_path):
    old = [{"text": "old", "label": "x"}]
    splits = {"train": old, "valid": old, "test": old}
    parts = split.Parts(splits, 0, 0)
    card = split.card("mine", "text and label", ("classify",), parts, 1, licence="", origin={})
    versions._place(tmp_path, "mine", splits, card)
    many = {**splits, "train": [{"text": "new " * 1000, "label": "x"}] * 1000}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, limits[1])
    )  # the kernel refuses to write on
    try:
        with pytest.raises(UserError, match=r"Could not write .*data/mine: File too large"):
            versions._place(tmp_path, "mine", many, card.model_copy(update={"seed": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads((tmp_path / "data/mine/card.json").read_text())["seed"] == 1
    assert list((tmp_path / ".trivet" / "data").iterdir()) == []
