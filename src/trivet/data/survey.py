"""What is odd about rows that can be used, so that a person looks before a model learns it.

Labels that differ by case, white space or the way in which a number is written are one label to a
person and two to a classifier. HTML that was left in a text is learnt like any other word. Nothing
is changed here: what it means is the user's to say.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from trivet.data.cells import Row
from trivet.plugins import TASKS

if TYPE_CHECKING:
    from trivet.tasks.task import Shape

ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
# Elements that text is marked up with; `<stdin>` or `List<int>` is none.
ELEMENT = re.compile(
    r"</?(?:a|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|font|h[1-6]|head|hr|html|i|img|"
    r"li|ol|p|pre|s|script|small|span|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


class Survey:
    """`labels`: kinds of rows -> rows; `markup`: one example of each sort -> rows that have some;
    `changes`: what was done to values, in words -> rows.
    """

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        self.markup: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, row: Row, tasks: "Iterable[str] | dict[str, Shape]") -> None:
        inputs: dict[str, None] = {}
        for name in tasks:
            task = TASKS[name]
            self.labels.update(task.classes(row))
            inputs |= dict.fromkeys(task.inputs)
        texts = [text for name in inputs for text in _texts(row.get(name))]
        for sort, example in (("HTML entities", _entity(texts)), ("HTML elements", _find(texts))):
            if example:
                self._examples.setdefault(sort, example)
                self.markup[f"{sort} such as {self._examples[sort]}"] += 1

    def alike(self) -> list[list[str]]:
        """Labels that a person would take for one, each group with its most frequent one first."""
        groups: dict[str, list[str]] = {}
        for label, _ in self.labels.most_common():
            groups.setdefault(_plain(label), []).append(label)
        return sorted(names for names in groups.values() if len(names) > 1)


def _plain(label: str) -> str:
    """Without case, white space around, and the way in which a number is written."""
    text = " ".join(label.casefold().split())
    try:
        return repr(float(text))
    except ValueError:
        return text


def _texts(value: Any) -> Iterator[str]:
    """A text; or those of turns, but not numbers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from (turn["content"] for turn in value)


def _entity(texts: Iterable[str]) -> str:
    for text in texts:
        for match in ENTITY.finditer(text) if "&" in text else ():
            if html.unescape(match[0]) != match[0]:
                return match[0]
    return ""


def _find(texts: Iterable[str]) -> str:
    matches = (ELEMENT.search(text) for text in texts if "<" in text)
    return next((match[0] for match in matches if match), "")
