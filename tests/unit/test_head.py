"""A new head's start: the labels' own words, and the rows that they give.

Run: pytest tests/unit/test_head.py
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from trivet.plugins import TASKS
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import base, head


def test_label_words() -> None:
    names = ["HassTurnOn", "B-light_color", "HassGetTemperature", "O", "spam", "!"]
    assert head.words(names) == [
        "hass turn on",  # not all labels begin with it, so it is a word of this one
        "light color",
        "hass get temperature",
        "o",
        "spam",
        "!",
    ]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["HassTurnOn", "HassGetTemperature"], ["turn on", "get temperature"]),
        (["HassLightOn", "HassLightOff"], ["on", "off"]),
        (["HassTurnOn", "TurnOff"], ["hass turn on", "turn off"]),
        (["HassTurnOn"], ["hass turn on"]),  # alone: nothing is shared
        (["Hass", "HassTurnOn"], ["hass", "turn on"]),  # itself what is shared
        (["turn on", "turn_on_all"], ["turn on", "all"]),
        (["B-room_name", "I-room_name"], ["room name", "room name"]),
        (["B-room", "I-room", "O"], ["room", "room", "o"]),
        (["spam", "ham"], ["spam", "ham"]),
        (["!", "?"], ["!", "?"]),  # no word at all
        ([], []),
    ],
)
def test_what_all_labels_begin_with_tells_none_from_another(
    labels: list[str], words: list[str]
) -> None:
    assert head.words(labels) == words


def test_the_head_starts_from_the_labels_words(small_base: Path) -> None:
    tokenizer = load_tokenizer(small_base)
    labels = ["HassTurnOn", "HassSetTemperature"]
    model = base.load(small_base, TASKS["classify"], labels)
    assert isinstance(model, AutoModelForSequenceClassification._model_mapping[type(model.config)])
    norms = model.score.weight.norm(dim=1)
    head.init_head_from_labels(model, tokenizer, labels)
    ids = tokenizer(" turn on", add_special_tokens=False)["input_ids"]
    mean = model.get_input_embeddings().weight[ids].mean(0)
    cosine = torch.nn.functional.cosine_similarity(model.score.weight, mean[None])
    assert cosine[0] > 0.9999 and cosine[1] < 0.9
    torch.testing.assert_close(model.score.weight.norm(dim=1), norms)  # as long as at random
