"""What the command line prints: records as tables for people. Nothing is computed here."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trivet.records.answer import Answer
from trivet.records.check import Check
from trivet.records.dataset import DataCard, RunData
from trivet.records.parity import ParityTable, Stage, compared
from trivet.records.score import Baseline, Difference
from trivet.report import use

if TYPE_CHECKING:
    from trivet.evaluate.comparison import Comparison
    from trivet.flows.search import SearchResult
    from trivet.flows.server_state import Servers
    from trivet.registry import Chain

LOOK: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False}


def parity(out: Console, table: ParityTable) -> None:
    """The parity table, the baselines under it, how the first stage stands, and the verdict."""
    first, lower = table.stages[0], table.lower_is_better
    grid = Table(
        title=f"{table.run} · {first.rows} held-out rows · ms a row on {table.threads} threads",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,  # its box parts the columns; with more, 80 characters do not hold the table
        pad_edge=False,
    )
    grid.add_column("  backend", no_wrap=True)
    change = "delta" if lower else "points"
    figures = (table.metric, "95 %", first.second.name, change, "agree", "diff", "stock", "ms")
    for name in figures:
        grid.add_column(name, justify="right", no_wrap=True)
    for stage in table.stages:
        grid.add_row(*_stage(stage))
    out.print(grid)
    if table.baselines:
        out.print(_baselines(table))
    for words in table.standing:
        out.print(f"{escape(words)}.", soft_wrap=True)
    for note in table.notes:
        out.print(note, style="dim", soft_wrap=True, markup=False)
    if table.promoted:
        out.print("[bold green]Promoted:[/] every gate held.")
    for refused in table.refused:
        out.print(
            f"[bold red]Refused:[/] {escape(refused.backend)}: {escape(refused.measured)}; "
            f"gate: {escape(refused.gate)}.",
            soft_wrap=True,
        )


def _baselines(table: ParityTable) -> Table:
    """Simple models on the same rows; the strongest, the floor, is the one that is not dim."""
    grid = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    grid.add_column("  the same rows, by", no_wrap=True)
    for name in (table.metric, "95 %", table.stages[0].second.name):
        grid.add_column(name, justify="right", no_wrap=True)
    for base in table.baselines:
        figures = (_number(base.value, ".4f"), _interval(base), f"{base.second.value:.4f}")
        style = "" if base is table.floor else "dim"
        grid.add_row(f"  {escape(base.name)}", *figures, style=style)
    return grid


def _stage(stage: Stage) -> tuple[str, ...]:
    mark = " " if not stage.gate else "[green]✓[/]" if stage.passed else "[red]✗[/]"
    return (
        f"{mark} {escape(stage.backend)}",
        f"{stage.value:.4f}",
        _interval(stage),
        f"{stage.second.value:.4f}",
        _change(stage.difference, stage.lower_is_better),
        "equal" if stage.bit_exact else _number(stage.agreement, ".4f"),
        _number(stage.max_abs_diff, ".2g"),
        _stock(stage),
        f"{stage.ms_per_row:.3g}",
    )


def _interval(of: Stage | Baseline) -> str:
    if of.low is None or of.high is None:
        return ""
    return "–".join(f"{end:.2f}".removeprefix("0") for end in (of.low, of.high))


def _change(difference: Difference | None, lower_is_better: bool) -> str:
    """In points of a share, as it is of a loss; with half of its interval."""
    if difference is None:
        return ""
    scale, digits = (1, 3) if lower_is_better else (100, 1)
    text = f"{scale * difference.value:+.{digits}f}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} ± {scale * (difference.high - difference.low) / 2:.{digits}f}"


def _stock(stage: Stage) -> str:
    """Rows that stock libraries alone answer as the table does."""
    check = stage.stock
    if check is None:
        return "[dim]none[/]"
    if check.failure or check.same < check.rows:
        return "[red]fails[/]" if check.failure else f"[red]{check.same}/{check.rows}[/]"
    return "same"


def chip(out: Console, folder: Path) -> None:
    """What was measured and estimated of the run's chip, in a few lines."""
    from trivet.records.chip import ChipFacts

    facts = ChipFacts.read_if_there(folder)
    if facts is None:
        return
    if design := facts.design:
        every = "cycle" if design.interval == 1 else f"{design.interval} cycles"
        out.print(
            f"\nlatency  {design.cycles} cycles, a row every {every} (measured in simulation)"
        )
    if synth := facts.synth:
        if xcup := synth.xcup:
            out.print(
                f"area     {xcup.lut:,} LUT, {xcup.ff:,} FF, {xcup.dsp} DSP "
                f"(estimate: Yosys, {facts.part.split('-')[0]})"
            )
        if clock := synth.clock:
            words = f"{clock.mhz:.0f} MHz on {clock.device}"
            out.print(f"clock    {words} (estimate: nextpnr, place and route)")
        for what, why in synth.failures.items():
            out.print(f"No figure for {what}: {why}", style="yellow", soft_wrap=True, markup=False)


def results(
    out: Console, folder: Path, table: ParityTable, servers: "Servers", again: str | None
) -> None:
    """Where everything lies, and what to do next."""
    where = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    out.print(f"\nreport   {where}/report.html\nmodels   {where}/", soft_wrap=True, markup=False)
    out.print(f"Prefect  {servers.prefect_url}\nMLflow   {servers.mlflow_url}")
    next_steps = [use.trial(table, RunData.read(folder).example), "trivet why", "trivet down"]
    if again:
        next_steps.insert(2, f'trivet schedule {again} --cron "0 2 * * *"')
    text = "\nNext:    " + "\n         ".join(next_steps)
    out.print(text, soft_wrap=True, markup=False)


def check(out: Console, checked: Check, card: DataCard) -> None:
    """Rows, labels, lengths, LoRA coverage, and three rows with the tokens that carry loss."""
    rows([{"split": k, "rows": v} for k, v in checked.rows.items()], out=out)
    lines = {
        "source": f"{card.source} ({card.kind})",
        "labels": str(len(checked.labels)) if checked.labels else "none: replies are generated",
        "duplicates": f"{card.duplicates_removed} removed",
    } | _file(card)
    if coverage := checked.coverage:
        targets = ", ".join(f"{name} ×{n}" for name, n in coverage.modules.items())
        lines |= {
            "tokens": f"median {checked.tokens['median']:g}, longest {checked.tokens['max']:g}",
            "cut": f"{checked.truncated} rows, at data.max_length",
            "adapter": f"{targets}: {coverage.trainable:,} trainable weights "
            f"({coverage.trainable / coverage.total:.2%})",
            "memory": f"{(checked.memory or 0) / 1e6:,.0f} MB of weights, gradients and optimiser; "
            "activations on top",
            "scoring": f"{(checked.scoring or 0) / 1e6:,.0f} MB of logits on the disk, "
            f"{(checked.scoring_memory or 0) / 1e6:,.0f} MB in memory at once",
        }
    if contract := checked.contract:
        lines["base"] = contract.words()
    if checked.student:
        lines["chip"] = checked.student
    for name, text in lines.items():
        out.print(f"{name:<11} {escape(text)}")
    for note in [*_oddities(card), *checked.notes]:
        out.print(note, style="yellow", soft_wrap=True, markup=False)
    if checked.preview:
        out.print("\nThree rows as the model sees them; the tokens that carry loss are marked:")
    for tokens in checked.preview:
        line = Text("  ")
        for token, carries in tokens:
            line.append(token, style="bold black on green" if carries else "")
        out.print(line)


def _file(card: DataCard) -> dict[str, str]:
    """How a user's file was read; nothing of a shipped source."""
    if card.format is None:
        return {}
    names = {own: name for name, own in (card.reading or {}).get("columns", {}).items()}
    columns = [f"{own} as {names[own]}" if own in names else own for own in card.used_columns or ()]
    how = "as data.format says" if "format" in (card.reading or {}) else "recognised"
    return {
        "format": f"{card.format}, {how}",
        "columns": ", ".join(columns),
        "ignored": ", ".join(card.ignored_columns or []) or "no column",
        "bad rows": f"{card.quarantined} put aside" if card.quarantined else "none",
    }


def _oddities(card: DataCard) -> list[str]:
    """What a person should look at before a model learns it."""
    labels = [
        f"Labels that differ by case, white space or a number's form alone: {', '.join(names)}. "
        "If they mean one thing, write them in one way."
        for names in (map(repr, group) for group in card.alike_labels or ())
    ]
    counts = {**(card.markup or {}), **(card.changes or {})}
    return labels + [f"{what}: {count} row{'s' * (count > 1)}." for what, count in counts.items()]


def compare(out: Console, comparison: "Comparison") -> None:
    grid = Table("", *comparison.runs, **LOOK)
    for key, pair in comparison.recipe.items():
        grid.add_row(key, *(escape(str(v)) for v in pair))
    for name, figures in comparison.stages.items():
        grid.add_section()
        for figure, pair in figures.items():
            if pair != (None, None):
                grid.add_row(f"{escape(name)} {figure}", *(_number(v, ".4g") for v in pair))
    out.print(grid)
    if comparison.difference:
        words = compared(comparison.difference, comparison.lower_is_better)
        first, second = comparison.runs
        out.print(f"Row by row, {second} is {words} {first}.", soft_wrap=True, markup=False)
    else:
        out.print("They did not answer the same held-out rows, or did not write down how.")


def chain(out: Console, chain: "Chain") -> None:
    """A model's chain, one link a line."""
    aliases = ", ".join(chain.aliases) or "no alias"
    out.print(f"[bold]{chain.model}[/] version {chain.version} ({aliases})")
    dirty = " + uncommitted changes" if chain.git_dirty == "true" else ""
    links = {
        "run": chain.run,
        "recipe": f"{chain.recipe} (lineage {chain.lineage})",
        "rows": f"{chain.data}, data.dvc {chain.dvc_md5}",
        "commit": f"{chain.git_commit}{dirty}",
        "flow run": chain.flow_run_id,
        "MLflow": chain.mlflow_url,
    }
    for name, value in links.items():
        out.print(f"  [dim]←[/] {name:<9} {escape(str(value))}", soft_wrap=True)


def answer(out: Console, answer: Answer) -> None:
    """One answer: running text, or a table."""
    lines = answer.lines()
    if [len(line) for line in lines] == [1]:
        out.print(Text(lines[0][0]))
        return
    grid = Table.grid(padding=(0, 2))
    for line in lines:
        grid.add_row(*(escape(cell) for cell in line))
    out.print(grid)


def rows(rows: list[dict[str, Any]], out: Console) -> None:
    """Any list of like rows as a table."""
    grid = Table(*rows[0], **LOOK)
    for row in rows:
        grid.add_row(*(escape(str(v)) for v in row.values()))
    out.print(grid)


def search(out: Console, result: "SearchResult", servers: "Servers", again: str) -> None:
    """The students that no other beats, the chosen one, and how to run it."""
    rows([row.model_dump(by_alias=True) for row in result.pareto], out)
    point = result.chosen.point.model_dump(mode="json")
    compact = {k: json.dumps(v, separators=(",", ":")) for k, v in point.items()}
    words = " ".join(f"fpga.{key}={value}" for key, value in compact.items())
    out.print(f"★ the most accurate of {result.trials} within the recipe's budget", style="dim")
    out.print(f"\npicture  {result.folder}/pareto.png", soft_wrap=True)
    out.print(f"Prefect  {servers.prefect_url}")
    out.print(f"\nNext:    trivet run {again} {words}", soft_wrap=True, markup=False)


def _number(value: Any, form: str) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, bool) else format(value, form)
