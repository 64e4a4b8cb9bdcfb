"""Voice commands (Home Assistant), to classify and to tag.

Split by template, so that a test sentence is a phrasing that was never trained on. How a template
becomes sentences: `home_sentences.py`.
"""

import random
import zipfile

from trivet.data import split
from trivet.data.dataset import SPLITS, Splits
from trivet.data.packages import Package, fetch
from trivet.data.source import Source, origin
from trivet.data.sources.home_sentences import Template, draw, load
from trivet.data.split import SEED
from trivet.plugins import SOURCES
from trivet.records.dataset import DataCard

INTENTS = Package(
    "home-assistant-intents",
    "2026.10.27",
    "home_assistant_intents-2026.10.27-py3-none-any.whl",
    "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
    "Apache-2.0",
)


class Home(Source):
    name = "home"
    kind = "voice commands"

    def build(self) -> tuple[Splits, DataCard]:
        with zipfile.ZipFile(fetch(INTENTS)) as wheel:
            sentences = draw(load(wheel.read), SEED)
        by_intent: dict[str, list[Template]] = {}
        for template in sentences:
            by_intent.setdefault(template.intent, []).append(template)
        rng = random.Random(SEED)
        phrasings: dict[str, list[Template]] = {name: [] for name in SPLITS}
        for intent in sorted(by_intent):
            templates = by_intent[intent]
            rng.shuffle(templates)
            test, valid = split.shares(len(templates))
            phrasings["test"] += templates[:test]
            phrasings["valid"] += templates[test : test + valid]
            phrasings["train"] += templates[test + valid :]
        parts = split.dedupe({n: [r for t in phrasings[n] for r in sentences[t]] for n in SPLITS})
        for name in SPLITS:
            rng.shuffle(parts.splits[name])
        templates_each = {name: len(phrasings[name]) for name in SPLITS}
        return parts.splits, self.card(parts, templates=templates_each, **origin(INTENTS))


SOURCES.add(Home())
