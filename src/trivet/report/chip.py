"""How the page draws a chip: a waveform, and each resource beside what the device has.

Not here: any measuring, nor the gathering (fpga/facts.py).
"""

from dataclasses import dataclass
from itertools import pairwise

from trivet.hw.synth.devices import capacity
from trivet.records.chip import ChipFacts, Wave

RESOURCES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "BRAM"}
SMALLEST = "LFE5U-25"  # where place and route failed, it did so on this device


@dataclass(frozen=True)
class Span:
    """Cycles in which a signal does not change."""

    start: int
    cycles: int
    value: float


@dataclass(frozen=True)
class Waveform:
    """`signals`: each one's spans. The row is on the port in cycle `marked`, its logits in
    `answered`.
    """

    cycles: int
    signals: list[tuple[str, list[Span]]]
    marked: int
    answered: int


@dataclass(frozen=True)
class Bar:
    name: str
    used: float
    of: int

    @property
    def share(self) -> float:
        return self.used / self.of if self.of else 0.0


def waveform(wave: Wave) -> Waveform:
    signals = [(name, _spans(values)) for name, values in wave.signals.items()]
    cycles = max(map(len, wave.signals.values()), default=0)
    return Waveform(cycles, signals, wave.marked, wave.answered)


def resources(facts: ChipFacts) -> list[tuple[str, list[Bar]]]:
    """Each synthesised device, and its use of what it has; not of a device that is not known."""
    if facts.synth is None:
        return []
    clock = facts.synth.clock
    areas = [(facts.part, facts.synth.xcup)]
    areas.append((clock.device if clock else SMALLEST, facts.synth.ecp5))
    devices = []
    for part, area in areas:
        if area and (most := capacity(part)):
            bars = [Bar(words, getattr(area, key), most[key]) for key, words in RESOURCES.items()]
            devices.append((part, bars))
    return devices


def deviation(facts: ChipFacts) -> float | None:
    """By what share synthesis for the recipe's part has more LUTs than the compiler's cost said."""
    if not (facts.synth and facts.synth.xcup and facts.design):
        return None
    return facts.synth.xcup.lut / facts.design.cost - 1


def _spans(values: list[int | float]) -> list[Span]:
    edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [Span(a, b - a, values[a]) for a, b in pairwise(edges)]
