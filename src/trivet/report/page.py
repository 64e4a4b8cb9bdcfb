"""The report: one page that says what a run was asked, what it made and whether to trust it.

A parity table is proof only for whoever can read it, and a run is often judged by someone who did
not start it, on a phone, months later. So the page is whole in itself: no network, no script, only
the run's records put into words, tables and drawings.

Not here: any measuring; what is not in the run's folder is not in the report.
"""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trivet.config import recipe as recipes
from trivet.plugins import TASKS
from trivet.records.chip import ChipFacts
from trivet.records.dataset import RunData
from trivet.records.lineage import Lineage
from trivet.records.parity import ParityTable, Stage, compared
from trivet.records.record import write_text
from trivet.records.score import Baseline, Confusion, Curve, Difference
from trivet.records.trial import Trial
from trivet.report import chip, curve, heat_map, legs, use

FILE = "report.html"
METRICS = {"span_f1": "span F1", "macro_f1": "macro F1", "chrf": "chrF"}
UNITS = {"loss": "nats a token"}
HOST = {
    "counts": "hashes words and letters",
    "numbers": "shifts each number into its range",
    "ids": "gives token ids",
}


def write(run: Path) -> Path:
    """Write run/report.html from the records in `run`, whole or not at all; returns its path.

    Needs recipe.json, data.json, parity.json and lineage.json (FileNotFoundError); curve.json,
    kernels.json, confusion.json, fpga.json and search/pareto.svg are shown where they exist.
    UserError where a record is a newer Trivet's.
    """
    recipe, table = recipes.of_run(run), ParityTable.read(run)
    data = RunData.read(run)
    confusion, tuning = Confusion.read_if_there(run), Curve.read_if_there(run)
    facts = ChipFacts.read_if_there(run)
    pareto = run / "search" / "pareto.svg"
    text = (
        _environment()
        .get_template(FILE)
        .render(
            name=run.name,
            recipe=recipe,
            sections=json.loads((run / recipes.FILE).read_text(encoding="utf-8")),
            task=TASKS[table.task],
            data=data,
            table=table,
            floor=table.floor,
            legs=legs.legs(table.stages),
            curve=curve.drawing(tuning) if tuning else None,
            kernels=Trial.read_if_there(run),
            heat=heat_map.heat_map(confusion) if confusion else None,
            chip=facts,
            wave=chip.waveform(facts.wave) if facts and facts.wave else None,
            devices=chip.resources(facts) if facts else [],
            deviation=chip.deviation(facts) if facts else None,
            pareto=pareto.read_text(encoding="utf-8") if pareto.exists() else "",
            lineage=Lineage.read(run),
            trial=use.trial(table, data.example),
            uses=use.uses(run, table, recipe.data.prompt, data.example),
        )
    )
    return write_text(run / FILE, text)


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"HOST": HOST, "UNITS": UNITS, "words": legs.words}
    env.filters |= {"figure": figure, "percent": percent, "loss": curve.loss_words}
    env.filters |= {"metric": metric_words, "difference": difference, "link": link}
    env.filters |= {"interval": interval, "half": half, "chance": chance, "compared": compared}
    return env


def metric_words(name: str) -> str:
    return METRICS.get(name, name.replace("_", " "))


def figure(value: float, lower_is_better: bool) -> str:
    """A metric as a person reads it: a share in percent, a loss or what is no share as it is."""
    return f"{value:.3f}" if lower_is_better or not 0 <= value <= 1 else percent(value)


def difference(value: float, lower_is_better: bool) -> str:
    """The size of a difference of two figures: points of a share, a loss as it is."""
    if lower_is_better:
        return f"{abs(value):.3f}"
    points = f"{100 * abs(value):.1f}"
    return f"{points} point{'' if points == '1.0' else 's'}"


def interval(of: Stage | Baseline) -> str:
    """Of a figure, as digits; nothing where it is not known."""
    return "" if of.low is None or of.high is None else f"{of.low:.3f} to {of.high:.3f}"


def half(difference: Difference | None) -> str:
    """Half the width of a difference's interval, beside its value."""
    if difference is None or difference.low is None or difference.high is None:
        return ""
    return f" ± {(difference.high - difference.low) / 2:.4f}"


def chance(difference: Difference) -> str:
    """Whether the rows are enough to tell, in brackets."""
    words = [] if difference.p_value is None else [f"McNemar's p = {difference.p_value:.2g}"]
    if difference.low is not None and not difference.sure:
        words.append("on so few rows that may be chance")
    return f" ({', '.join(words)})" if words else ""


def percent(share: float) -> str:
    """One digit after the point, but never 100 % for what is not all."""
    text = f"{100 * share:.1f}"
    if text == "100.0":
        text = "100" if share >= 1 else ">99.9"
    return f"{text} %"


def link(address: str | None) -> str:
    """The address, if it is one that a browser may follow."""
    return address if address and address.startswith(("http://", "https://")) else ""
