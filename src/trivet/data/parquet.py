"""Rows of a Parquet file, a batch at a time; numbers that stand for names become those names.

The `datasets` library stores a ClassLabel as whole numbers and its names in the file's metadata:
without them a label called "sports" would be learnt as "2".
"""

import json
from collections.abc import Iterator
from typing import IO, Any

from trivet import UserError
from trivet.data.cells import Row

BATCH = 1024  # rows held at once


def columns(file: object, source: IO[bytes]) -> list[str]:
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(source).names)
    except Exception as e:
        raise _bad(file, e) from None


def read(file: object, source: IO[bytes]) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(source)
        names = class_names(table.schema_arrow.metadata or {})
        n = 0
        for batch in table.iter_batches(BATCH):
            for row in batch.to_pylist():
                n += 1
                yield n, {k: _named(v, names[k]) if k in names else v for k, v in row.items()}
    except (pa.ArrowException, OSError) as e:
        raise _bad(file, e) from None


def class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names, of the columns that `datasets` wrote as ClassLabel, or lists of it."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})["features"]
    except (ValueError, KeyError, AttributeError):
        return {}
    names = {}
    for column, feature in features.items():
        while isinstance(feature, dict) and "feature" in feature:
            feature = feature["feature"]  # of a list
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names[column] = feature.get("names") or []
    return {column: own for column, own in names.items() if own}


def _named(value: Any, names: list[str]) -> Any:
    """-1 is how `datasets` writes that a label is not known."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _bad(file: object, error: Exception) -> UserError:
    return UserError(f"{file}: not Parquet ({error}); write it anew.")
