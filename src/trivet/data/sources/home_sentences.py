"""Voice commands, drawn from the sentence templates that Home Assistant ships.

A template such as `turn on [<the>] {name} [<in> [<the>] {area}]` stands for thousands of sentences,
and knows which words are slot values: one draw gives an intent to classify and token tags at once.
Sentences are drawn at random from hassil's parsed tree. What a package cannot know, the names of
somebody's rooms and devices, is supplied below.

Not here: fetching the package, splits, duplicates (`home.py`), languages but English.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hassil.expression import (
    Alternative,
    Expression,
    ListReference,
    Permutation,
    RuleReference,
    Sequence,
    TextChunk,
)
from hassil.parse_expression import parse_sentence

PER_TEMPLATE = 8
LEAST_TEMPLATES = 3  # of an intent: one each for train, valid and test

AREAS = (
    "kitchen,bedroom,living room,bathroom,office,garage,hallway,dining room,nursery,guest room,"
    "laundry room,patio,den,playroom,study,sunroom,pantry,workshop"
)
FLOORS = "ground floor,first floor,second floor,top floor,basement,attic"
NAMES = {
    "light": "ceiling light,reading lamp,floor lamp,chandelier,fairy lights,night light,spotlight",
    "bare light": "bedside,ceiling,desk,wall,closet,mirror,sofa,counter,wardrobe",  # + "light"
    "switch": "coffee maker,water heater,christmas tree,humidifier,fountain,kettle,air purifier",
    "input_boolean": "guest mode,vacation mode,away mode",
    "fan": "ceiling fan,desk fan,exhaust fan,tower fan,extractor fan",
    "media_player": "tv,radio,stereo,soundbar,smart speaker,record player,projector",
    "climate": "thermostat,air conditioner,heater,radiator,heat pump",
    "cover": "left curtain,roller shutter,front blinds,venetian blind,garage door,skylight shade",
    "valve": "sprinkler valve,water valve,irrigation valve,gas valve,radiator valve",
    "lock": "front door,back door,side gate,cellar door,patio door,smart lock",
    "openings": "front door,back window,side gate,balcony door,roof window",
    "occupancy": "parking spot,motion sensor,presence sensor,bed sensor",
    "sensor": "humidity,air quality,outdoor temperature,battery level,power meter",
    "person": "mom,dad,grandma,grandpa,babysitter",
    "vacuum": "vacuum,robot vacuum,roomba,vacuum cleaner",
    "lawn_mower": "lawn mower,mower,robot mower",
    "scene": "movie night,romantic dinner,bright morning,party time,cozy evening",
    "button": "doorbell,restart,reset,panic",
    "script": "bedtime routine,morning routine,leaving home,wake up",
    "todo": "grocery,packing,chores,hardware store",
    "weather": "home forecast,city weather,beach weather",
}
WORDS = {  # values of lists that the package leaves open
    "area": AREAS,
    "floor": FLOORS,
    "zone": "home,work,school,gym,office,library",
    "timer_name": "pizza,egg,pasta,laundry,tea,homework,workout,bread,chicken,nap",
    "timer_command": (
        "turn off the lights,open the garage door,lock the front door,start the dishwasher,"
        "turn on the heater,close the blinds,stop the music,turn off the tv"
    ),
    # titles that are songs, albums or bands as well as films or shows: any {media_class} fits
    "search_query": (
        "purple rain,frozen,graceland,yellow submarine,chicago,nashville,prince,top gun,fame,"
        "moonlight,saturday night fever,magical mystery tour,soul train,blue bayou"
    ),
    "temperature": ",".join(map(str, (*range(16, 27), *range(62, 78)))),
    "color_temperature": ",".join(map(str, range(2000, 6600, 500))),
    "timer_hours": ",".join(map(str, range(1, 13))),
    "timer_minutes": ",".join(map(str, (*range(1, 11), 12, 15, 20, 25, 30, 40, 45, 50))),
    "timer_seconds": ",".join(map(str, (*range(5, 60, 5), 90))),
    "timer_half": "half",
}
PERCENT = [str(n) for n in range(5, 105, 5)]

_ROOMS = AREAS.replace(",", "|")
_PLACES = _ROOMS + "|" + FLOORS.replace(",", "|")
_THING = "light|lamp|fan|switch|door|window|gate|blind|curtain|shade|shutter|awning|lock"
_MANY = f"(?:(?:{_THING})s|switches|people|persons|you)"
_IN = "in|on|at|of|across|around|throughout"
_STATE = "on|off|open|opening|closed|closing|shut|shutting|locked|unlocked|securely"
_WHO = "one|body|mom|dad|grandma|grandpa|babysitter|is|are"
# The templates are meant to be recognised, not read: many of their sentences nobody would say.
AWKWARD = re.compile(
    "|".join(
        (
            r"\b(\w+) \1\b",
            r"\b(?:there|the|my|our) (?:there|the|my|our|all|any|some|every|each)\b",
            r"\b(?:light|lamp|chandelier|spotlight)s? (?:light|lamp|lighting)s?\b",
            rf"^(?=.*\b{_MANY}\b).*\bis\b|\bmany\b.* is\b|^(?!.*\b{_MANY}\b).*\bare\b",
            rf"\b(?:every|each)\b.*\b{_MANY}\b|\bmany\b.* lighting\b",
            rf"\b(?:all|any|some|many|which of|what of)\b(?: \w+){{0,5}} (?:{_THING})\b",
            rf"\b(?:there|the|my|our) (?:{_STATE})\b",
            rf"\b(?:{_PLACES}) (?:the|my|our)\b",
            rf"\b(?:on|at) (?:the |my |our )?(?:{_ROOMS})$",
            rf"(?:{_WHO}) (?:work|school|gym|office|library)$|\b(?:in|on) home$",
            rf"\b(?!on in\b)(?:{_IN}|the|my|our) (?:{_IN})\b",
            r"\b(?:in|at|of|across|around|throughout)$",
            r"\b(?:of|across|around|throughout) (?!the|my|our|all|every|each|[a-z]+s\b)",
            r"\b(?:attic|basement) floor\b|\d degree$",
            r"\ban (?!hour|[aeiou]|8|11\b|18\b)|\ba (?:hour|[aeiou8]|11\b|18\b)",
            r"^(?:bring|change)\b.*\b(?:on|off|out)\b|^(?:make|turn)\b.*\bfan[s ].*speed\b",
            r"^(?:increase|decrease|turn|close|shut|lower|open|raise|lift)\b.*\bposition\b",
        )
    )
)
_parse = functools.cache(parse_sentence)


class Template(NamedTuple):
    """One phrasing of one intent; `domains`: the kinds of device that its {name} may be."""

    intent: str
    text: str
    domains: tuple[str, ...]


Piece = tuple[str, str | None, int]  # text, slot or None, number of the slot in the sentence


def templates(package: dict[str, Any]) -> list[Template]:
    """All templates of the intents that have at least three, as the package orders them."""
    phrasings: dict[tuple[str, str], list[str]] = {}
    for intent, body in sorted(package["intents"].items()):
        for block in body["data"]:
            for text in block["sentences"]:
                known = phrasings.setdefault((intent, text), [])
                known += [d for d in _domains(block, text) if d not in known]
    counts: dict[str, int] = {}
    for intent, _ in phrasings:
        counts[intent] = counts.get(intent, 0) + 1
    return [
        Template(intent, text, tuple(domains))
        for (intent, text), domains in phrasings.items()
        if counts[intent] >= LEAST_TEMPLATES
    ]


def _domains(block: dict[str, Any], text: str) -> Iterator[str]:
    for domain in block.get("requires_context", {}).get("domain", []):
        if domain == "light" and "{name} <light>" in text:
            yield "bare light"
        elif domain == "binary_sensor":
            yield "occupancy" if "occupancy" in text else "openings"
        else:
            yield "button" if domain == "input_button" else domain


def draw(package: dict[str, Any], seed: int = 0) -> dict[Template, list[dict[str, Any]]]:
    """Up to eight distinct rows for each template; the same on every machine for the same seed.

    A row is `text` (equal to its tokens joined by spaces), `label` (the intent), `tokens`,
    `tags` (BIO over slot names) and `template`. Awkward sentences are drawn again; a template that
    has no others keeps them.
    """
    tree = _Tree(package)
    result = {}
    for template in templates(package):
        rng = random.Random(f"{seed} {template.intent} {template.text}")
        good: dict[str, dict[str, Any]] = {}
        rest: dict[str, dict[str, Any]] = {}
        for _ in range(PER_TEMPLATE * 40):
            row = _row(template, tree.draw(template, rng))
            (rest if AWKWARD.search(row["text"]) else good).setdefault(row["text"], row)
            if len(good) == PER_TEMPLATE:
                break
        result[template] = list(good.values()) or list(rest.values())[:PER_TEMPLATE]
    return result


class _Tree:
    """Hassil's expressions, walked with a random choice at each branch."""

    def __init__(self, package: dict[str, Any]):
        self.rules = {k: _parse(v).expression for k, v in package["expansion_rules"].items()}
        self.lists = package["lists"]

    def draw(self, template: Template, rng: random.Random) -> list[Piece]:
        pieces: list[Piece] = []

        def walk(node: Expression, slot: str | None, number: int) -> None:
            if isinstance(node, TextChunk):
                pieces.append((node.original_text, slot, number))
            elif isinstance(node, RuleReference):
                walk(self.rules[node.rule_name], slot, number)
            elif isinstance(node, ListReference):
                value = self._value(node.list_name, template, rng)
                walk(value, slot or node.slot_name, number or len(pieces) + 1)
            elif isinstance(node, Alternative):
                walk(_pick(node, rng), slot, number)
            elif isinstance(node, Permutation):
                for item in rng.sample(node.items, len(node.items)):
                    walk(item, slot, number)
            elif isinstance(node, Sequence):
                for item in node.items:
                    walk(item, slot, number)
            else:
                raise TypeError(f"hassil has an expression that is not handled: {node!r}")

        walk(_parse(template.text).expression, None, 0)
        return pieces

    def _value(self, name: str, template: Template, rng: random.Random) -> Expression:
        if name == "name":
            domain = rng.choice(template.domains or ("light", "switch"))
            return TextChunk(rng.choice(NAMES[domain].split(",")))
        if name in WORDS:
            return TextChunk(rng.choice(WORDS[name].split(",")))
        body = self.lists[name]
        if "range" in body:
            return TextChunk(rng.choice(PERCENT))
        return _parse(rng.choice(body["values"])["in"]).expression


def _pick(node: Alternative, rng: random.Random) -> Expression:
    """Half of the optional parts are left out; templates name the usual word first, so do we."""
    items = node.items
    if node.is_optional:
        if rng.random() < 0.5:
            return items[-1]  # hassil ends an optional group with the empty text
        items = items[:-1]
    return rng.choices(items, [1 / (n + 1) for n in range(len(items))])[0]


def _row(template: Template, pieces: list[Piece]) -> dict[str, Any]:
    """Split at white space; a token belongs to the slot that any of its letters came from."""
    letters = [(c, slot, number) for text, slot, number in pieces for c in text]
    tokens, tags, last = [], [], 0
    for match in re.finditer(r"\S+", "".join(c for c, _, _ in letters)):
        tokens.append(match.group())
        inside = [(s, n) for _, s, n in letters[match.start() : match.end()] if s]
        slot, number = inside[0] if inside else (None, 0)
        tags.append("O" if slot is None else f"{'I' if number == last else 'B'}-{slot}")
        last = number
    tokens, tags = _agree(tokens, tags)
    return {
        "text": " ".join(tokens),
        "label": template.intent,
        "tokens": tokens,
        "tags": tags,
        "template": template.text,
    }


UNIT = re.compile(r"(?:(\d+)-)?(hour|minute|second)s?$")


def _agree(tokens: list[str], tags: list[str]) -> tuple[list[str], list[str]]:
    """`5 hour` becomes `5 hours`, `1 hours` `1 hour`, but `a 5-hour timer` stays; tags follow."""
    new: list[tuple[str, str]] = []
    for n, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
        unit = UNIT.match(token)
        if not unit or (tag != "O" and not unit[1]):  # "second" may be a floor's
            new.append((token, tag))
            continue
        before = tokens[n - 1] if n else ""
        number = unit[1] or before
        noun = tokens[n + 1 : n + 2] in (["timer"], ["and"]) and "timer" in tokens[n:][:5]
        one = number in ("1", "an", "a") or tokens[n - 2 : n - 1] == "half" or noun
        word = unit[2] + ("" if one else "s")
        if unit[1] and tokens[n + 1 : n + 2] != ["timer"]:
            new += [(unit[1], tag), (word, "O")]
        else:
            new.append((f"{unit[1]}-{word}" if unit[1] else word, tag))
    return [t for t, _ in new], [t for _, t in new]


def load(read: Callable[[str], bytes]) -> dict[str, Any]:
    """The English part of the package; `read` gives a file of the wheel by its name."""
    return json.loads(read("home_assistant_intents/data/en.json"))
