"""Conversations as users' files hold them, brought into one form: turns of role, content, weight.

No key of a known format is dropped in silence: it is used, or the row is refused with the reason,
or the recipe names it in `data.ignore`. Preferences, unwanted replies and plain text are recognised
and refused, because a model would learn something else from them than they say.

Not here: how a conversation becomes tokens, and which of them are learnt (`generate.py`). Not
covered: tool calls, pictures and sound.
"""

import json
from typing import TYPE_CHECKING, Any

from trivet.data.cells import empty, parsed
from trivet.tasks.example import Row
from trivet.tasks.task import Shape

if TYPE_CHECKING:
    from trivet.data.cells import Cells

ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user"}
ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant")
TOOLS = "tool calls are not trained yet"
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
UNREAD = {"tools": TOOLS, "functions": TOOLS, "parallel_tool_calls": TOOLS}
UNREAD_IN_TURN = {
    "tool_calls": TOOLS,
    "tool_call_id": TOOLS,
    "function_call": TOOLS,
    "name": "chat templates do not show it to the model",
    "refusal": "a refusal stands beside 'content', and only that is trained",
    "audio": "only text is trained",
    "reasoning_content": "only 'content' is trained",
}


def _conversation(column: str, cells: "Cells") -> Row:
    return _row(column, [*_system(cells), *_turns(column, cells)], cells)


def _row(column: str, turns: list[Row], cells: "Cells") -> Row:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise cells.bad(
            column, "a conversation needs a question first and the assistant's turn last"
        )
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise cells.bad(column, "instructions of the system stand behind the first turn")
    if not any(t["role"] == "assistant" and t.get("weight", 1) for t in turns):
        raise cells.bad(column, "every assistant turn has weight 0, so nothing is learnt from it")
    return {"messages": turns}


def _system(cells: "Cells") -> list[Row]:
    """The turn that a column `system` makes."""
    if empty(cells.row.get("system")):
        return []
    return [{"role": "system", "content": cells.text("system")}]


def _turns(column: str, cells: "Cells") -> list[Row]:
    """Checked turns as {role, content} and perhaps weight; sharegpt says `from` and `value`."""
    value = cells.value(column)
    value = parsed(value) if isinstance(value, str) else value
    listed = value if isinstance(value, list) else []
    return [_turn(column, n, turn, cells) for n, turn in enumerate(listed, 1)]


def _turn(column: str, n: int, turn: Any, cells: "Cells") -> Row:
    turn = turn if isinstance(turn, dict) else {}
    role, content = _key(turn, "role", "from"), _key(turn, "content", "value")
    name = str(turn.get(role))
    if name in TOOL_ROLES:
        raise cells.bad(column, f"turn {n} is of the role '{name}', and {TOOLS}")
    if name not in ROLES:
        raise cells.bad(column, f"turn {n} has no '{role}' that is one of {', '.join(ROLES)}")
    for key, value in turn.items():
        if key not in (role, content, "weight") and not empty(value):
            _other(column, n, key, cells)
    text = turn.get(content)
    if isinstance(text, list):
        text = "".join(_part(column, n, part, cells) for part in text)
    if not isinstance(text, str) or not text.strip():
        raise cells.bad(column, f"turn {n} has no text in '{content}'")
    return {"role": ROLES[name], "content": text} | _weight(column, n, turn, ROLES[name], cells)


def _key(turn: Row, first: str, second: str) -> str:
    return second if second in turn and first not in turn else first


def _other(column: str, n: int, key: str, cells: "Cells") -> None:
    """A key beside role, content and weight: ignored by name, or unknown to every format, or bad.

    A turn's keys are counted by row under `column[].key`.
    """
    if key in UNREAD_IN_TURN and key not in cells.journal.ignore:
        raise cells.bad(
            column,
            f"turn {n} has '{key}', and {UNREAD_IN_TURN[key]}; name it in data.ignore to train "
            "without it, or drop the row",
        )
    cells.journal.ignored[f"{column}[].{key}"] += 1


def _part(column: str, n: int, part: Any, cells: "Cells") -> str:
    """A part of a content that is a list: {"type": "text", "text": …}."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise cells.bad(
            column, f"turn {n} has a part of the type {kind!r} in its content; only text is trained"
        )
    return str(part["text"])


def _weight(column: str, n: int, turn: Row, role: str, cells: "Cells") -> Row:
    """0: the turn is read, never learnt."""
    weight = turn.get("weight")
    if weight is None:
        return {}
    if weight not in (0, 1) or role != "assistant":
        raise cells.bad(
            column, f"turn {n} has the weight {weight!r}; only 0 or 1, of an assistant's turn, is"
        )
    return {"weight": int(weight)}


def _alpaca(cells: "Cells") -> Row:
    """`input` may be any JSON; `history` holds earlier [question, reply] pairs."""
    more, asked = cells.row.get("input"), cells.text("instruction")
    if not empty(more):
        text = more if isinstance(more, str) else json.dumps(more, ensure_ascii=False)
        asked = f"{asked}\n\n{text}"
    turns = [*_system(cells), *_history(cells), *_exchange(asked, cells.text("output"))]
    return _row("output", turns, cells)


def _history(cells: "Cells") -> list[Row]:
    value = cells.row.get("history")
    if empty(value):
        return []
    pairs = parsed(value) if isinstance(value, str) else value
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        for pair in pairs
    ):
        raise cells.bad("history", "not a list of pairs [question, reply]")
    return [turn for pair in pairs for turn in _exchange(*pair)]


def _completion(cells: "Cells") -> Row:
    """Two texts, or two lists of turns."""
    if isinstance(cells.row.get("prompt"), list) and isinstance(cells.row.get("completion"), list):
        turns = _turns("prompt", cells) + _turns("completion", cells)
    else:
        turns = _exchange(cells.text("prompt"), cells.text("completion"))
    return _row("completion", [*_system(cells), *turns], cells)


def _exchange(user: str, assistant: str) -> list[Row]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _refused(cells: "Cells") -> Row:
    raise cells.bad("", "rows of this format are not trained")


_PREFERENCE = (
    "a preference between two replies is not trained yet, and a rejected reply must not be learnt: "
    "map the good one, data.columns.completion = 'chosen', and name 'rejected' in data.ignore"
)
_KTO = (
    "'label' says whether a completion is wanted, and an unwanted one must not be learnt: keep the "
    "rows whose label is true, and name 'label' in data.ignore"
)
_TEXT = (
    "plain text has neither label, tags nor reply, and going on with pre-training is not offered: "
    "add one of these, or name their columns in [data.columns]"
)
SHAPES = (
    Shape(
        ("messages",),
        "chat messages",
        lambda cells: _conversation("messages", cells),
        "messages",
        ("system",),
        UNREAD,
    ),
    Shape(
        ("conversations",),
        "sharegpt conversations",
        lambda cells: _conversation("conversations", cells),
        "sharegpt",
        ("system",),
        UNREAD,
    ),
    Shape(
        ("instruction", "output"),
        "alpaca instructions",
        _alpaca,
        "alpaca",
        ("input", "system", "history"),
    ),
    Shape(
        ("prompt", "completion"),
        "prompt and completion",
        _completion,
        "prompt-completion",
        ("system",),
        UNREAD,
    ),
    Shape(("prompt", "completion", "label"), "KTO rows", _refused, "kto", refused=_KTO),
    Shape(("chosen", "rejected"), "preference pairs", _refused, "preference", refused=_PREFERENCE),
    Shape(("text",), "plain text", _refused, "plain-text", refused=_TEXT),
)
