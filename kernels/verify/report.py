"""The verification's record as docs/kernels.md, with a roofline picture.

The picture's intensity is FLOPs / modelled bytes, under the roof of the modelled target
(hardware/gpus.py). Everything here is modelled; nothing was timed.

Not covered: what keeps a kernel below the roof (latency, occupancy, instruction mix).
"""

from pathlib import Path
from typing import Any

from trivet.kernels.hardware.gpus import MODELLED, TARGETS
from trivet.kernels.ops.lora.split import fused
from trivet.kernels.verify import verification
from trivet.kernels.verify.baselines import QUANTISED_BASELINES
from trivet.kernels.verify.layer_traffic import Row

ROOF = TARGETS[MODELLED]
PACKAGES = ("matplotlib",)
DOCUMENT, PICTURE = "kernels.md", "kernels-roofline.png"

HEAD = """# What is known of the kernels without a GPU

Written by kernels/verify/report.py from the code as it is; do not edit. No figure here was measured
on a GPU: **errors** come from Triton's interpreter, **registers, spills and matrix instructions**
from its compiler, **bytes are modelled** (an H100's L2, see kernels/verify/traffic_model.py) and so
are the rooflines. kernels/verify/benchmark.py measures where there is a GPU.

torch {torch}, triton {triton}; random inputs from seed {seed}; the figures do not depend on the
machine that made them.
"""

ERRORS = """
## Error and compiled code, kernel by kernel

`error` is ‖ours − float64‖ / ‖eager − float64‖, the worst of three shapes for each dtype, at the
dtype and shape in the second table; 0 means equal byte for byte. A target's cell is registers /
matrix instructions, the worst of the compiled variants; `+n` marks spills. `bytes` is modelled ÷
compulsory for the LoRA layer at {shape}; the backward's is for all its
launches.
"""

TRAFFIC = """
## Bytes of a LoRA layer, modelled

bfloat16 activations; float32 adapters in ours, in PEFT and in bitsandbytes + PEFT, bfloat16 in the
two-GEMM rows and where said. `× least`: bytes over those of the layer's inputs and outputs, each
moved once (quantised rows: over those with a weight of 4 bits). Ours contains what its tiles
re-read past an H100's L2; the others are counted as if each launch moved each tensor once, so they
are flattered. `saved` is kept for backward besides x and the parameters. From {ridge:.0f} FLOP per
byte on, a layer is bound by arithmetic on an H100 and fewer bytes do not make it faster.

Forward, what is read twice stays in the L2, in an order of the tiles that
kernels/ops/lora/launch.py chooses from the shape; that counts on all 50 MB. Backward reads x and dy
again for dA and dB. Where the sum is long (dx at N=14336) a wave reads 60 MB of dy and as much of
W, which does not stay for the next: there the backward is far from the least.
"""

NF4 = """
### Bytes of others over ours with W in NF4

Dequantising inside the product is done anew for each row of tiles, which costs arithmetic: by the
rule in kernels/ops/lora/split.py an H100 does so below {rows} rows at K=N=4096, and from there on
makes a 16-bit copy of W first (split). The hand-written sequence has 16-bit adapters and adds in
place, which bitsandbytes under PEFT does not; both are counted as if each launch moved each tensor
once.

"""


def write(record: Row, folder: Path) -> list[Path]:
    """Both files into `folder`; their paths. It needs matplotlib: `PACKAGES` can be asked for
    before the minutes that a record takes (verification.require)."""
    folder.mkdir(exist_ok=True)
    paths = [folder / DOCUMENT, folder / PICTURE]
    roofline(record["traffic"], paths[1])
    paths[0].write_text(document(record))
    return paths


def document(record: Row) -> str:
    """The markdown text."""
    first = record["traffic"][0]["shape"]
    text = HEAD.format(**record["versions"], seed=verification.SEED)
    text += ERRORS.format(shape=first) + "\n"
    text += table(
        ["operator", "kernel", "error", "launches", "bytes", *TARGETS],
        [
            [
                *(r["op"], r["kernel"], number(r["error"], ".2f"), number(r["launches"], "d")),
                number(r["bytes"], ".2f"),
                *(cell(r["targets"][t]) for t in TARGETS),
            ]
            for r in verification.summary(record)
        ],
    )
    text += "\n" + table(
        ["operator", "worst error", "allowed", "dtype", "shape"],
        [
            [r["op"], f"{r['ratio']:.2f}", f"{r['bound']:g}", r["dtype"], _dims(r["dims"])]
            for r in record["errors"]
        ],
    )
    text += TRAFFIC.format(ridge=ROOF.ridge)
    for shape in dict.fromkeys(r["shape"] for r in record["traffic"]):
        text += f"\n### {shape}\n\n" + table(
            ["layer", "direction", "launches", "MB", "× least", "saved MB", "FLOP per byte"],
            [
                [
                    *(r["layer"], r["direction"], str(r["launches"])),
                    *(f"{r['bytes'] / 1e6:,.0f}", f"{r['ratio']:.2f}"),
                    *(f"{r['saved'] / 1e6:,.1f}", f"{r['flops'] / r['bytes']:,.0f}"),
                ]
                for r in record["traffic"]
                if r["shape"] == shape
            ],
        )
    split = next(m for m in range(64, 1 << 17, 64) if not fused(m, 4096, 4096, "nf4", MODELLED))
    text += NF4.format(rows=split)
    text += table(["shape", "direction", "layer", *QUANTISED_BASELINES], fewer(record["traffic"]))
    text += f"\n![Modelled rooflines]({PICTURE})\n"
    if record["faults"]:
        text += "\n## Refused by the compile gate\n\n" + "".join(
            f"- {fault}\n" for fault in record["faults"]
        )
    return text


def fewer(traffic: list[Row]) -> list[list[str]]:
    """How many times the bytes of ours others move, for each shape, direction and way with NF4."""
    of = {(r["shape"], r["direction"], r["layer"]): r["bytes"] for r in traffic}
    return [
        [*at, layer, *(f"{of[*at, name] / ours:.1f}" for name in QUANTISED_BASELINES)]
        for (*at, layer), ours in of.items()
        if layer.startswith("ours, NF4")
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(worst: Row) -> str:
    """registers / matrix instructions +spills."""
    if worst["failed"]:
        return "fails"
    matrix = f"/{worst['matrix']}" if worst["matmul"] else ""
    return f"{worst['registers']}{matrix}" + (f" +{worst['spills']}" if worst["spills"] else "")


def number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def roofline(traffic: list[Row], path: Path) -> None:
    """A panel for each shape: every layer's forward (circle) and backward (square) on the roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    shapes = list(dict.fromkeys(r["shape"] for r in traffic))
    layers = list(dict.fromkeys(r["layer"] for r in traffic))
    figure, axes = pyplot.subplots(
        1, len(shapes), figsize=(4.6 * len(shapes), 4.4), sharey=True, squeeze=False
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        knees = [40, ROOF.ridge, 2000]
        axis.plot(knees, [ROOF.attainable(knee) / 1e12 for knee in knees], "k", lw=1)
        for r in traffic:
            if r["shape"] == shape:
                intensity = r["flops"] / r["bytes"]
                axis.plot(
                    intensity,
                    ROOF.attainable(intensity) / 1e12,
                    marker="o" if r["direction"] == "forward" else "s",
                    color=f"C{layers.index(r['layer'])}",
                    markersize=11 if r["layer"] == "ours" else 6,
                    markerfacecolor="none" if r["layer"] == "ours" else None,
                    linestyle="",
                    label=r["layer"] if r["direction"] == "forward" else None,
                )
        axis.set(xscale="log", yscale="log", title=shape, xlabel="FLOP per modelled byte")
        for along, steps in ((axis.xaxis, (1, 2, 4)), (axis.yaxis, (1, 2, 3, 4, 6))):
            along.set_major_locator(ticker.LogLocator(subs=steps))
            along.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))  # no powers of ten
            along.set_minor_formatter(ticker.NullFormatter())
        axis.grid(True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("attainable TFLOP/s, H100 (modelled)")
    axes[0][-1].legend(fontsize=7, loc="lower right")
    figure.suptitle(
        "Modelled, not measured: bfloat16 LoRA layers under an H100's published roof "
        "(circles: forward, squares: backward)"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _dims(dims: dict[str, int]) -> str:
    return " ".join(f"{k}={v}" for k, v in dims.items())
