"""Does this model still answer as it did when it was proven?

    python verify.py                      every model in this folder
    python verify.py model.int8.onnx      one of them, as the golden rows call it
    python verify.py --base FOLDER        of an adapter: where its base lies on this machine

Each row of golden.jsonl is answered alone, without padding, from its raw text. The answers must be
those that the row has, and no logit may be further off than the row's tolerance; two answers whose
logits lie that near are a tie. The first line of golden.jsonl has the sha256 of the folder's files.
It ends with 0 where all is the same, 1 where something differs, 2 where it could not run.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trivet.stock.classify import HEAD, VALUE, ask
from trivet.stock.onnx_runtime import Model


def compare(ours: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """One row: how many `answers` it has and how many are `equal`, whether it is the `same`, if
    only by a `tie`, and how far (`off`) its logits lie from the golden ones, in `tolerances` too.
    """
    logits, theirs = ours["logits"], np.array(golden["logits"])
    tolerance, some = golden["tolerance"], golden.get("classes")  # of replies, a few of them
    count = len(golden["answers"])
    if len(ours["answers"]) != count:
        return dict(answers=count, equal=0, same=False, tie=False, off=np.inf, tolerances=np.inf)
    mine = np.take_along_axis(logits[: len(some)], np.array(some), 1) if some else logits
    off = float(np.abs(mine - theirs).max()) if mine.shape == theirs.shape else np.inf
    second, first = np.sort(logits, axis=1)[:, -2:].T
    margins = first - second
    wrong = [n for n in range(count) if ours["answers"][n] != golden["answers"][n]]
    said_else = ours.get("reply") != golden.get("reply")
    tie = all(margins[n] <= 2 * tolerance for n in wrong)
    tie = tie and not (said_else and ours["margin"] > 2 * tolerance)
    pairs = zip(ours["scores"], golden["scores"], strict=True)
    judged_else = [n for n, (a, b) in enumerate(pairs) if abs(a - b) > min(0.5, 2 * tolerance)]
    same = tie and off <= tolerance and set(judged_else) <= set(wrong)
    differs = bool(wrong or said_else)
    return {
        "answers": count,
        "equal": count - len(wrong),
        "same": same,
        "tie": same and differs,
        "off": off,
        "tolerances": off / tolerance,
    }


def verify(
    model: Model, rows: list[dict[str, Any]], card: dict[str, Any], name: str
) -> dict[str, Any]:
    """The rows that have golden answers by this name, counted."""
    results: list[dict[str, Any]] = []
    scores: list[float] = []
    for row in rows:  # of each its logits go at once: a vocabulary's are large
        ours = ask(model, row, card)
        results.append(compare(ours, row["golden"][name]))
        scores += ours["scores"]
    golden = [score for row in rows for score in row["golden"][name]["scores"]]
    return {
        "model": name,
        "rows": len(rows),
        **{key: sum(r[key] for r in results) for key in ("answers", "equal", "same", "tie")},
        "max_abs_diff": max(r["off"] for r in results),
        "tolerances": max(r["tolerances"] for r in results),
        "metric": VALUE,
        "value": float(np.mean(scores)),
        "golden": float(np.mean(golden)),
        "differ": [number for number, r in enumerate(results, 1) if not r["same"]],
    }


def changed(folder: Path, files: dict[str, str]) -> list[str]:
    """Files that are not, byte by byte, those that were proven."""
    out = []
    for name, digest in files.items():
        file = folder / name
        content = file.read_bytes() if file.exists() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            out.append(name)
    return out


def show(result: dict[str, Any]) -> None:
    print(f"{result['model']}: {result['same']} of {result['rows']} rows the same", end="")
    print(f", {result['tie']} of them by a tie" if result["tie"] else "")
    print(f"  largest difference of a logit  {result['max_abs_diff']:.3g}", end="")
    print(f", {result['tolerances']:.3g} of its tolerance")
    print(f"  {result['metric']}  {result['value']:.4f}, then {result['golden']:.4f}")
    if result["differ"]:
        print(f"  DIFFERS in row {', '.join(map(str, result['differ'][:10]))}", end="")
        print(f" and {len(result['differ']) - 10} more" if len(result["differ"]) > 10 else "")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="as the golden rows call it; unnamed, all of them")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--golden", type=Path, help="other rows than the folder's golden.jsonl")
    parser.add_argument("--base", default="", help="of an adapter: its base's folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    try:
        lines = (args.golden or args.folder / "golden.jsonl").read_text("utf-8").splitlines()
        head, *rows = [json.loads(line) for line in lines]
        card = json.loads((args.folder / "trivet.json").read_text("utf-8"))
        files = changed(args.folder, head["files"])
        results = []
        for name in [args.model] if args.model else rows[0]["golden"]:
            model = Model(args.folder, name, HEAD, card, args.base)
            results.append(verify(model, rows, card, name))
            show(results[-1])
    except Exception as error:  # whatever it is: the folder could not be asked
        print(f"could not run: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(results), "utf-8")
    for file in files:
        print(f"{file} is another file than the one that was proven")
    return 1 if files or any(result["differ"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
