"""The same rows in every kind of file, packed or not, and larger than one wants in memory.

Run: pytest tests/unit/data/test_files.py
"""

import csv
import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trivet import UserError
from trivet.config.data import Data
from trivet.data import files, rows, versions
from trivet.data.cells import Row

TABLE = [{"text": f"it\nrains, {n}; ü", "label": "wet" if n % 2 else "dry"} for n in range(20)]


def write_csv(file: Path, sign: str, table: list[Row] = TABLE) -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]), delimiter=sign)
        writer.writeheader()
        writer.writerows(table)
    return file


def parse(source: Path | str) -> list[Row]:
    file = files.find(str(source), [Path()])
    assert file
    return list(rows.parse(file).rows)


@pytest.mark.parametrize(
    ("name", "sign"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_the_delimiter_is_found(name, sign, tmp_path):
    assert parse(write_csv(tmp_path / name, sign)) == TABLE


def test_packed_files_and_members_of_archives(tmp_path):
    plain = write_csv(tmp_path / "a.csv", ",")
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(TABLE), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(plain, "deep/a.csv")
        archive.write(packed, "a.csv.gz")
        archive.write(tmp_path / "a.parquet", "a.parquet")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(plain, "a.csv")
        archive.writestr("README", "rows")
    for source in ("a.csv.gz", "a.zip::deep/a.csv", "a.zip/deep/a.csv", "a.zip/a.csv.gz",
                   "a.zip::a.parquet", "one.zip"):  # fmt: skip
        assert parse(tmp_path / source) == TABLE, source
    with pytest.raises(UserError, match="holds deep/a.csv, a.csv.gz, a.parquet"):
        files.find(str(tmp_path / "a.zip"), [Path()])
    with pytest.raises(UserError, match="b.csv': name one of the archive's files"):
        files.find(str(tmp_path / "a.zip::b.csv"), [Path()])
    packed.write_bytes(packed.read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be unpacked to its end"):
        parse(packed)


def test_a_member_is_a_source_of_its_own(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(write_csv(tmp_path / "rain.csv", ","), "rain.csv")
        archive.write(write_csv(tmp_path / "t.csv", "\t", [*TABLE, *TABLE]), "sun.csv")
    _, first = versions.peek(Data(source=f"{tmp_path}/a.zip::rain.csv"), tmp_path)
    _, second = versions.peek(Data(source=f"{tmp_path}/a.zip::sun.csv"), tmp_path)
    assert (first.source, second.source) == ("rain", "sun")
    assert second.origin["member"] == "sun.csv" and second.duplicates_removed == 20


# As `datasets` writes it into a Parquet file's metadata; 5.2 says "List" where 3.x said "Sequence".
KINDS = {"names": ["sun", "rain"], "_type": "ClassLabel"}
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": KINDS,
    "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    "tags": {"feature": {"names": ["O", "B-day"], "_type": "ClassLabel"}, "_type": "List"},
}


def test_class_names_are_read_from_parquet(tmp_path):
    def write(**columns: list) -> Path:
        features = {name: FEATURES[name] for name in columns}
        note = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.table(columns).replace_schema_metadata(note), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    tokens = {"tokens": [["on", "Monday"], ["wet"]], "tags": [[0, 1], [0]]}
    table = parse(write(text=["on Monday", "wet"], label=[0, 1], **tokens))
    assert [row["label"] for row in table] == ["sun", "rain"]
    assert [row["tags"] for row in table] == [["O", "B-day"], ["O"]]
    with pytest.raises(UserError, match="row 2, column 'label': the value is missing"):
        parse(write(text=["a", "b"], label=[0, -1]))


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\na,b,c\n")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]),
                   tmp_path / "a.parquet")  # fmt: skip
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(UserError, match="has 2 columns called 'text'"):
            parse(tmp_path / name)


PEAK = """
import sys
from pathlib import Path
from trivet.config.data import Data
from trivet.data import versions
versions.peek(Data(source=sys.argv[1], rows=100), Path(sys.argv[2]))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is Linux's to say")
def test_more_rows_take_no_more_memory_than_their_marks(tmp_path):
    """Each row has 6 kB; what is kept of one is 20 bytes of marks, 16 of places, and numpy's copies
    of them while it sorts: 8,000 more rows, 48 MB of text, come to less than 1 MB.
    """
    peaks = []
    for count in (1_000, 9_000):
        file = tmp_path / f"{count}.jsonl"
        with file.open("w") as out:
            for n in range(count):
                row = {"text": f"{n} " * (6000 // len(f"{n} ")), "label": f"l{n % 3}"}
                out.write(json.dumps(row) + "\n")
        command = [sys.executable, "-c", PEAK, str(file), str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) * 1024)
    assert peaks[1] - peaks[0] < 6_000_000
