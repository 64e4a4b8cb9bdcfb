"""One copy of the weights: a float32 graph that reads the merged model's safetensors.

ONNX keeps large tensors outside the graph, as (file, offset, length). What the exporter puts there
is, byte by byte, what the merged model's file holds, or its transpose. Pointed at that file, which
is hard-linked beside it, the graph needs next to no room of its own; a matrix that it wants the
other way round gets a Transpose node, which ONNX Runtime computes once, when it opens the graph.

Safetensors: 8 bytes of length, a JSON header, the tensors one after the other, little-endian
(https://github.com/huggingface/safetensors#format).

Not covered: the int8 graph. It stays one file that needs no other.
"""

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx.external_data_helper import (
    load_external_data_for_tensor,
    set_external_data,
    uses_external_data,
)


class Place(NamedTuple):
    """Where a tensor's bytes lie: `offset` and `length` in bytes."""

    file: Path
    offset: int
    length: int


def share_weights(graph: Path, merged: Path) -> int:
    """Let the file `graph` read the safetensors in the folder `merged`, where the bytes are equal.

    Returns how many bytes it no longer holds itself; 0 on a file system without hard links, and
    the graph is then as it was. The graph's own file of tensors must be no hard link yet: the onnx
    package refuses to read those. A kill in the middle leaves the graph half-written.
    """
    folder = graph.parent
    files = [file for file in sorted(merged.glob("*.safetensors")) if _link(file, folder)]
    places = {digest: place for file in files for digest, place in _places(file)}
    model = onnx.load(graph, load_external_data=False)
    outside = [t for t in model.graph.initializer if uses_external_data(t)]
    own = {entry.value for t in outside for entry in t.external_data if entry.key == "location"}
    shared = dict.fromkeys(files, 0)
    turns = []
    for tensor in outside:
        load_external_data_for_tensor(tensor, str(folder))
        if tensor.data_type != onnx.TensorProto.FLOAT:  # BERT's position ids, made by the graph
            continue
        values = np.frombuffer(tensor.raw_data, "<f4").reshape(tensor.dims)
        place = places.get(_digest(values))
        if place is None and values.ndim == 2 and (place := places.get(_digest(values.T))):
            turns.append(_turn(tensor))
        if place:
            set_external_data(tensor, place.file.name, place.offset, place.length)
            tensor.ClearField("raw_data")
            shared[place.file] += place.length
    for file in (file for file, length in shared.items() if not length):
        (folder / file.name).unlink()
    if any(shared.values()):
        for name in own:
            (folder / name).unlink()
        nodes = [*turns, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, graph, save_as_external_data=True, location=f"{graph.name}.data")
    return sum(shared.values())


def _link(file: Path, folder: Path) -> bool:
    try:
        os.link(file, folder / file.name)
    except OSError:
        return False
    return True


def _places(file: Path) -> Iterator[tuple[str, Place]]:
    """The float32 tensors of a safetensors file, by digest."""
    with open(file, "rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(start - 8))
    content = np.memmap(file, np.uint8, "r", start)
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, end = entry["data_offsets"]
            values = content[first:end].view("<f4").reshape(entry["shape"])
            yield _digest(values), Place(file, start + first, end - first)


def _digest(values: np.ndarray) -> str:
    return f"{values.shape} {sha256(np.ascontiguousarray(values).data).hexdigest()}"


def _turn(tensor: onnx.TensorProto) -> onnx.NodeProto:
    """Call the stored matrix by another name; the node makes from it the one of this name."""
    name = tensor.name
    tensor.name, tensor.dims[:] = f"{name}.stored", tensor.dims[::-1]
    return onnx.helper.make_node("Transpose", [tensor.name], [name], perm=[1, 0])
