"""A LoRA training step on the CPU: our kernels against stock PEFT, packing against padding.

Run: .venv/bin/python benchmarks/kernels_cpu.py   (about 15 minutes; leave the machine alone)
Writes docs/kernels-cpu.json and docs/kernels-cpu.md. SmolLM2-135M-Instruct, rank 16 on all linear
layers. In one process the peers take turns, step by step, and the median is kept; memory is
measured in a process of its own for each. "PEFT" is a bf16 base with PEFT's float32 adapters, as
its documentation has it; "PEFT, autocast" the same under autocast, as Trainer(bf16=True) runs.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity

from trivet.config.data import Model
from trivet.config.recipe import load
from trivet.data import dataset, versions
from trivet.kernels import patch
from trivet.plugins import TASKS
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import base
from trivet.tuning.loss import labelled

THREADS, SEED, TURNS = 1, 0, 5
ROWS, LENGTH = 4, 256
PACKED_STEPS, PACKED_ROWS = 12, 16
BASELINES = {"bf16": ("peft", "peft-autocast", "trivet"), "fp32": ("peft", "trivet")}
NAMES = {"peft": "PEFT", "peft-autocast": "PEFT, autocast", "trivet": "Trivet"}
CPU = ProfilerActivity.CPU
DOCS = Path(__file__).resolve().parents[1] / "docs"
Step = Callable[..., float]


def adapted(peer: str, precision: str) -> Any:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    whole = base.load(_base(), TASKS["generate"], [], dtype)
    torch.manual_seed(SEED)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(whole, config).train()
    if peer == "trivet":
        patch(model)
    return model


def _base() -> Path:
    return base.base_folder(base.resolve(Model()))


def autocast(peer: str, precision: str) -> torch.autocast:
    on = precision == "bf16" and peer != "peft"
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=on)


def step(model: Any, peer: str, precision: str, inputs: dict[str, Any]) -> float:
    """Forward and backward; the loss."""
    with autocast(peer, precision):
        loss = model(**inputs).loss
    loss.backward()
    return float(loss.detach())


def full_rows() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 49_000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(SEED))
    return {"input_ids": ids, "labels": ids}


def speed(precision: str) -> dict[str, float]:
    """Median seconds a step, for each peer; they take turns."""
    models = {peer: adapted(peer, precision) for peer in BASELINES[precision]}
    seconds: dict[str, list[float]] = {peer: [] for peer in models}
    for turn in range(TURNS + 1):
        for peer, model in models.items():
            start = time.perf_counter()
            step(model, peer, precision, full_rows())
            model.zero_grad()
            if turn:  # the first warms up
                seconds[peer].append(time.perf_counter() - start)
    return {peer: statistics.median(values) for peer, values in seconds.items()}


def memory(peer: str, precision: str) -> dict[str, float]:
    """What forward leaves allocated for backward, and the peak resident set, both in MB."""
    model = adapted(peer, precision)
    watch = torch.profiler.profile(activities=[CPU], profile_memory=True)
    with watch as profile, autocast(peer, precision):
        loss = model(**full_rows()).loss
    events = profile.profiler.kineto_results.events()
    saved = sum(event.nbytes() for event in events if event.name() == "[memory]")
    loss.backward()
    # not ru_maxrss: a child starts with its parent's
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])  # kB
    return {"saved_mb": saved / 1e6, "peak_mb": peak * 1.024e-3}


def chat() -> list[list[Example]]:
    """Batches of the chat data at its real lengths, in random order."""
    recipe = load("chat.toml")
    rows = dataset.read(recipe.data, versions.version(recipe.data, DOCS.parent).folder)["train"]
    task = TASKS["generate"]
    examples = task.tokenize(rows, recipe.data, [], load_tokenizer(_base())).examples
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(SEED)).tolist()
    picked = [examples[i] for i in order[: PACKED_STEPS * PACKED_ROWS]]
    return [picked[i : i + PACKED_ROWS] for i in range(0, len(picked), PACKED_ROWS)]


def packing(precision: str) -> dict[str, Any]:
    """Padded stock PEFT against packed rows on our kernels: tokens/s and the two loss curves."""
    batches, rates = chat(), {}
    peers = {"peft-autocast" if precision == "bf16" else "peft": False, "trivet": True}
    models = {peer: adapted(peer, precision) for peer in peers}
    optimizers = {p: torch.optim.AdamW(_trained(m), lr=2e-4) for p, m in models.items()}
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    curves: dict[str, list[float]] = {peer: [] for peer in peers}
    for batch in batches:
        for peer, packed in peers.items():
            start = time.perf_counter()
            inputs = labelled(batch, models[peer], packed)
            curves[peer].append(step(models[peer], peer, precision, inputs))
            optimizers[peer].step()
            optimizers[peer].zero_grad()
            seconds[peer].append(time.perf_counter() - start)
    tokens = [sum(len(e.ids) for e in batch) for batch in batches]
    padded = [PACKED_ROWS * max(len(e.ids) for e in batch) for batch in batches]
    for peer in peers:
        rate = sum(tokens[1:]) / sum(seconds[peer][1:])  # the first step warms up
        rates[peer] = {"tokens_per_second": rate, "losses": curves[peer]}
    return rates | {"padded_tokens": sum(padded), "real_tokens": sum(tokens)}


def _trained(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def measure() -> dict[str, Any]:
    record: dict[str, Any] = {"machine": _machine(), "threads": THREADS, "seed": SEED, "steps": {}}
    for precision, peers in BASELINES.items():
        rows = {peer: {"seconds": value} for peer, value in speed(precision).items()}
        for peer in peers:
            words = [sys.executable, __file__, "memory", peer, precision]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows[peer] |= json.loads(done.stdout.splitlines()[-1])
        record["steps"][precision] = rows
        record.setdefault("packing", {})[precision] = packing(precision)
    return record


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    names = [x.split(":")[1] for x in info.read_text().splitlines() if x.startswith("model name")]
    flags = [f for f in ("avx512_bf16", "amx_tile") if f in info.read_text()]
    return (
        f"{names[0].strip()} ({', '.join(flags) or 'no bf16 instructions'}), {platform.machine()}"
    )


def table(record: dict[str, Any]) -> str:
    lines = [
        "# A training step on the CPU",
        "",
        f"SmolLM2-135M-Instruct, rank 16 on all linear layers, {ROWS} × {LENGTH} tokens, forward "
        f"and backward, {record['threads']} thread, seed {record['seed']}, {record['machine']}. "
        f"Medians of {TURNS} steps, the peers taking turns. Made by `benchmarks/kernels_cpu.py`.",
        "",
        "| precision | | seconds a step | speed | saved for backward | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for precision, rows in record["steps"].items():
        ours = rows["trivet"]
        for peer, row in rows.items():
            ratio = [
                f" ({ours[k] / row[k]:.2f} ×)" if peer != "trivet" else ""
                for k in ("saved_mb", "peak_mb")
            ]
            speedup = "" if peer == "trivet" else f"{row['seconds'] / ours['seconds']:.2f} × slower"
            lines.append(
                f"| {precision} | {NAMES[peer]} | {row['seconds']:.2f} | {speedup} | "
                f"{row['saved_mb']:.0f} MB{ratio[0]} | {row['peak_mb']:.0f} MB{ratio[1]} |"
            )
    lines += [
        "",
        "In brackets: what Trivet's figure is of that one.",
        "",
        f"Packing, on {PACKED_STEPS} batches of {PACKED_ROWS} rows of the chat data at their real "
        "lengths, in random order, with AdamW: PEFT pads each batch to its longest row, Trivet "
        "lays the rows end to end.",
        "",
        "| precision | padded / real tokens | PEFT, real tokens/s | Trivet | ratio | "
        "largest difference of the losses |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for precision, row in record["packing"].items():
        (peft,) = (row[p] for p in row if p.startswith("peft"))
        ours = row["trivet"]
        gap = max(abs(a - b) / a for a, b in zip(peft["losses"], ours["losses"], strict=True))
        lines.append(
            f"| {precision} | {row['padded_tokens'] / row['real_tokens']:.2f} | "
            f"{peft['tokens_per_second']:.0f} | {ours['tokens_per_second']:.0f} | "
            f"{ours['tokens_per_second'] / peft['tokens_per_second']:.2f} | {100 * gap:.2f} % |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(*sys.argv[2:])))
    else:
        result = measure()
        (DOCS / "kernels-cpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (DOCS / "kernels-cpu.md").write_text(table(result))
        print(table(result))
