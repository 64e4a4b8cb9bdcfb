"""What the host feeds the chip, made from a row: counts of a text's n-grams, numbers, or token ids.

The chip reads a few bits a value. Counts end at one, so one bit holds them; numbers are shifted,
each column by a power of two of its own, so that what the training rows show fills the type, and
what lies beyond is clamped; ids stay what they are. The shifts are the host's, and lie beside the
student. Not here: another encoding of columns that are not numbers.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from trivet import UserError
from trivet.config.fpga import Fpga
from trivet.data import numbers
from trivet.hw.features import COUNT_TYPE, hash_ngrams
from trivet.hw.fixed import Fixed
from trivet.records.record import Record
from trivet.tasks.example import Row

if TYPE_CHECKING:
    from trivet.hw.network import Network


class Inputs(Record):
    """inputs.json. `input_type`: the type of the values. `bins`: of counts. `shifts`:
    numbers are divided by two to the power of their column's (the last axis of the network's row).
    `tokens`: ids are below it. `shape`: of a row in the data; of counts it is empty.
    """

    file: ClassVar[str] = "inputs.json"
    newest: ClassVar[int] = 2
    version: int = 2

    kind: Literal["counts", "numbers", "ids"]
    input_type: Fixed
    shape: tuple[int, ...] = ()
    bins: int = 0
    shifts: tuple[int, ...] = ()
    tokens: int = 0

    def encode(self, rows: Sequence[Row]) -> np.ndarray:
        """uint8 [n, bins] counts, float32 [n, …] numbers, or int64 [n, length] ids.

        UserError names a row that has another shape, or a value that is no token.
        """
        if self.kind == "counts":
            return hash_ngrams([row["text"] for row in rows], self.bins)
        x = np.array([row["x"] for row in rows], np.float64)
        if x.shape[1:] != self.shape:
            raise UserError(
                f"A row has {list(x.shape[1:])} numbers, and the student takes {list(self.shape)}."
            )
        if self.kind == "numbers":
            columns = x.reshape(len(x), -1, len(self.shifts))
            return np.ldexp(columns, -np.array(self.shifts)).reshape(x.shape).astype(np.float32)
        strange = x[(x != np.floor(x)) | (x < 0) | (x >= self.tokens)]
        if strange.size:
            raise UserError(
                f"data.source: {strange[0]:g} stands among the token ids, and the module's "
                f"Embedding has rows 0 to {self.tokens - 1}: enlarge it or mend the data."
            )
        return x.astype(np.int64)

    def scaled(self, network: "Network") -> "Network":
        """A network of the numbers as the data have them, turned into one of the shifted numbers;
        its logits stay the same, for a power of two is exact.
        """
        if self.kind == "numbers":
            import torch

            at = next(i for i, step in enumerate(network.steps) if step.kind != "sum")
            scale = torch.tensor([2.0**shift for shift in self.shifts])
            weight = network.weights[at].data
            if network.steps[at].kind == "conv":
                weight = weight * scale[:, None]
            else:
                weight = (weight.unflatten(1, (-1, len(scale))) * scale).flatten(1)
            network.weights[at].data = weight
        return network

    def row(self, text: str) -> Row:
        """A row from what a person typed: the text itself, or a list of numbers. UserError."""
        if self.kind == "counts":
            return {"text": text}
        try:
            return {"x": numbers.checked(json.loads(text), lambda column, why: UserError(why))}
        except (ValueError, UserError) as e:
            raise UserError(
                f"TEXT = '{text:.40}': this run answers numbers ({e}); give them as a list, "
                "[0, 1.5]."
            ) from None

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        """Version 1 called the input's type `given`."""
        return {("input_type" if key == "given" else key): value for key, value in tree.items()}


def inputs_of(rows: Sequence[Row], chip: Fpga, network: "Network | None") -> Inputs:
    """How these training rows are fed to a network (None: one of `fpga.hidden` dense layers)."""
    if "text" in rows[0]:
        return Inputs(kind="counts", input_type=COUNT_TYPE, bins=chip.bins)
    x = np.array([row["x"] for row in rows], np.float64)
    if network and network.steps[0].kind == "embedding":
        tokens = len(network.weights[0])
        bits = max(1, (tokens - 1).bit_length())
        input_type = Fixed(bits, bits, signed=False)
        return Inputs(kind="ids", input_type=input_type, shape=x.shape[1:], tokens=tokens)
    columns = x.reshape(-1, network.shape[-1] if network else x.shape[-1])
    part, reach = np.frexp(np.abs(columns).max(0))
    shifts = reach - (part == 0.5)  # a largest value that is a power of two loses one step
    signed = bool((columns < 0).any())
    return Inputs(
        kind="numbers",
        input_type=Fixed(chip.input_bits, int(signed), signed),
        shape=x.shape[1:],
        shifts=tuple(map(int, shifts)),
    )
