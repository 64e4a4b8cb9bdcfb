"""Conversations (ChatterBot): a row for each reply, with the turns before it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from trivet.data.cells import Row
from trivet.data.dataset import Splits
from trivet.data.packages import Package, fetch
from trivet.data.source import Source, origin
from trivet.plugins import SOURCES
from trivet.records.dataset import DataCard

CORPUS = Package(
    "chatterbot-corpus",
    "1.3.3",
    "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "BSD",
)
ANSWERS = ("computers", "emotion")  # files that list several answers to one question, not turns


class Chat(Source):
    name = "chat"

    def build(self) -> tuple[Splits, DataCard]:
        replies: list[Row] = []
        with zipfile.ZipFile(fetch(CORPUS)) as wheel:
            for name in sorted(wheel.namelist()):
                if "/english/" in name and name.endswith(".yml"):
                    # BaseLoader leaves "Yes" and "42" the text that they are
                    body = yaml.load(wheel.read(name), Loader=yaml.BaseLoader)
                    for turns in body["conversations"]:
                        replies += _replies(turns, Path(name).stem in ANSWERS)
        return self.at_random(replies, **origin(CORPUS))


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


SOURCES.add(Chat())
