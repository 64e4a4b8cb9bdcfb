"""Shipped data: three real data sets inside public Python packages, turned into rows.

So that the first command works with no account and no hub: voice commands (Home Assistant),
conversations (ChatterBot) and pictures of digits (scikit-learn). The first two packages are pinned,
hash-checked, fetched by pip and never installed or committed; the same wheel gives the same bytes
on every machine.

Not here: where rows are kept and versioned (`data.py`), drawing of sentences (`home.py`).
"""

import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from . import home, split
from .packages import Package, fetch
from .rows import Row
from .split import SPLITS, Splits

SEED = 0  # of draws and splits: fixed, so that data do not depend on the recipe


INTENTS = Package(
    "home-assistant-intents",
    "2026.10.27",
    "home_assistant_intents-2026.10.27-py3-none-any.whl",
    "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
    "Apache-2.0",
)
CORPUS = Package(
    "chatterbot-corpus",
    "1.3.3",
    "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "BSD",
)


def _home() -> tuple[Splits, dict[str, Any]]:
    """Voice commands. Split by template, so that a test sentence is a phrasing never trained on."""
    with zipfile.ZipFile(fetch(INTENTS)) as wheel:
        drawn = home.draw(home.load(wheel.read), SEED)
    by_intent: dict[str, list[home.Template]] = {}
    for template in drawn:
        by_intent.setdefault(template.intent, []).append(template)
    rng = random.Random(SEED)
    parts: dict[str, list[home.Template]] = {name: [] for name in SPLITS}
    for intent in sorted(by_intent):
        found = by_intent[intent]
        rng.shuffle(found)
        test, valid = split.shares(len(found))
        parts["test"] += found[:test]
        parts["valid"] += found[test : test + valid]
        parts["train"] += found[test + valid :]
    splits: Splits = {name: [r for t in parts[name] for r in drawn[t]] for name in SPLITS}
    splits, removed, conflicts = split.dedupe(splits)
    for name in SPLITS:
        rng.shuffle(splits[name])
    card = split.card("home", "voice commands", "classify tag", splits, removed, conflicts, SEED)
    card |= {"templates": {name: len(parts[name]) for name in SPLITS}}
    return splits, card | _from_package(INTENTS)


ANSWERS = ("computers", "emotion")  # files that list several answers to one question, not turns


def _chat() -> tuple[Splits, dict[str, Any]]:
    """Conversations: a row for each reply, with the turns before it."""
    found: list[Row] = []
    with zipfile.ZipFile(fetch(CORPUS)) as wheel:
        for name in sorted(wheel.namelist()):
            if "/english/" in name and name.endswith(".yml"):
                # BaseLoader leaves "Yes" and "42" the text that they are
                body = yaml.load(wheel.read(name), Loader=yaml.BaseLoader)
                for turns in body["conversations"]:
                    found += _replies(turns, Path(name).stem in ANSWERS)
    alone, removed, conflicts = split.dedupe({"train": found, "valid": [], "test": []})
    splits = split.split(alone["train"], SEED)
    card = split.card("chat", "chat messages", "generate", splits, removed, conflicts, SEED)
    return splits, card | _from_package(CORPUS)


def _replies(turns: list[str], answers: bool) -> Iterator[Row]:
    turns = [t.strip() for t in turns]
    if len(turns) > 20 or not all(turns):  # one entry is a list of calls in bingo
        return
    if answers:
        talks = [[turns[0], answer] for answer in turns[1:]]
    else:
        talks = [turns[: n + 1] for n in range(1, len(turns), 2)]
    for talk in talks:
        yield {
            "messages": [
                {"role": "assistant" if n % 2 else "user", "content": text}
                for n, text in enumerate(talk)
            ]
        }


def _digits() -> tuple[Splits, dict[str, Any]]:
    """Handwritten digits, 8 × 8 pixels of 0 to 16, as 64 numbers; in scikit-learn since 2010."""
    from sklearn.datasets import load_digits

    table = load_digits()
    found = [
        {"x": pixels, "label": str(digit)}
        for pixels, digit in zip(table.data.astype(int).tolist(), table.target, strict=True)
    ]
    alone, removed, conflicts = split.dedupe({"train": found, "valid": [], "test": []})
    splits = split.split(alone["train"], SEED)
    kind = "numbers and label"
    card = split.card("digits", kind, "classify", splits, removed, conflicts, SEED)
    return splits, card | {"origin": {"package": "scikit-learn"}, "licence": "CC BY 4.0 (UCI)"}


def _from_package(package: Package) -> dict[str, Any]:
    origin = {"package": package.name, "version": package.version, "sha256": package.sha256}
    return {"origin": origin, "licence": package.licence}


SHIPPED = {"home": _home, "chat": _chat, "digits": _digits}
