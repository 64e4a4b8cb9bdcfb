"""What is known of a Verilog design: its ports and latency, estimates, measurements, a waveform.

How rows go in and logits come out stands in rtl.json, so that a folder answers without the tools
that made it.
Not here: a port's file format (testbench.py), resources after synthesis.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import AliasChoices, ConfigDict, Field

from trivet.hw.fixed import Fixed
from trivet.hw.record import Part, Record


@dataclass(frozen=True)
class Port:
    """`fields` numbers side by side, the first one lowest, each `width` bits wide."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    fields: int
    signed: bool
    width: int
    fraction: int

    def __str__(self) -> str:
        sign = "" if self.signed else "un"
        return f"{self.width} bits, {sign}signed, {self.fraction} of them after the point"

    @property
    def digits(self) -> int:
        """Of a line in a file of vectors: whole bytes."""
        return 2 * -(-self.fields * self.width // 8)

    def to_hex(self, codes: np.ndarray) -> str:
        """Integer codes [n, fields] as one line of hexadecimal digits each."""
        bits = codes.astype(np.int64)[:, :, None] >> np.arange(self.width) & 1
        packed = np.packbits(bits.reshape(len(codes), -1).astype(np.uint8), 1, bitorder="little")
        return "".join(f"{row.tobytes().hex()}\n" for row in packed[:, ::-1])

    def from_hex(self, text: str) -> np.ndarray:
        """Lines of hexadecimal digits to codes, int64 [n, fields]."""
        packed = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, self.digits // 2)
        bits = np.unpackbits(packed[:, ::-1], axis=1, bitorder="little")
        bits = bits[:, : self.fields * self.width].reshape(-1, self.fields, self.width)
        codes = bits.astype(np.int64) @ (1 << np.arange(self.width))
        return codes - ((bits[:, :, -1].astype(np.int64) << self.width) if self.signed else 0)


class LayerCost(Part):
    """A layer's share of the design's `cost`."""

    layer: str
    cost: float


class RtlDesign(Record):
    """rtl.json. `input_type` and `shape` are FixedNetwork's, `x` and `logits` the ports; `cycles`
    pass from a row on the port to its logits.

    alkaid estimates: pipeline `stages`, `cost` in LUTs, by layer too, `register_bits`, `delay` of
    all stages in nanoseconds; it promised `promised_cycles`. `interval`, the cycles from one row to
    the next, is known once the simulation ran: None before. `seconds`: of each tool's work.
    """

    FILE: ClassVar[str] = "rtl.json"
    input_type: Fixed = Field(validation_alias=AliasChoices("input_type", "given"))
    shape: tuple[int, ...]
    x: Port
    logits: Port
    cycles: int
    promised_cycles: int
    interval: int | None = None
    stages: int
    cost: float
    layers: tuple[LayerCost, ...]
    register_bits: int
    delay: float
    versions: dict[str, str]
    seconds: dict[str, float]

    def values(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] as the chip is given them: float64 [n, fields], rounded and saturated."""
        return self.input_type.quantize(x.reshape(len(x), math.prod(self.shape)))


class Wave(Record):
    """wave.json: a list of one value a cycle for each signal; the `marked` cycle has the row on the
    port, the `answered` one its logits.
    """

    FILE: ClassVar[str] = "wave.json"
    marked: int
    answered: int
    signals: dict[str, tuple[int | float, ...]]
