"""Conversations as users' files hold them, brought into one form: turns of role and content.

Not here: how a conversation becomes tokens, and which of them are learnt (`generate.py`).
"""

from typing import TYPE_CHECKING

from trivet.data.cells import parsed
from trivet.tasks.example import Row
from trivet.tasks.task import Shape

if TYPE_CHECKING:
    from trivet.data.cells import Cells

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant"}
ROLES["gpt"] = "assistant"


def _messages(column: str, role: str, content: str, cells: "Cells") -> Row:
    """Checked turns as {role, content}; sharegpt calls them `from` and `value`."""
    value = cells.value(column)
    value = parsed(value) if isinstance(value, str) else value
    turns = []
    for n, turn in enumerate(value if isinstance(value, list) else [], 1):
        if not isinstance(turn, dict) or ROLES.get(str(turn.get(role))) is None:
            raise cells.bad(column, f"turn {n} has no '{role}' that is one of {', '.join(ROLES)}")
        if not isinstance(turn.get(content), str) or not turn[content].strip():
            raise cells.bad(column, f"turn {n} has no text in '{content}'")
        turns.append({"role": ROLES[turn[role]], "content": turn[content]})
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise cells.bad(
            column, "a conversation needs a question first and the assistant's turn last"
        )
    return {"messages": turns}


def _exchange(user: str, assistant: str) -> Row:
    return {
        "messages": [
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
    }


def _chat(cells: "Cells") -> Row:
    return _messages("messages", "role", "content", cells)


def _sharegpt(cells: "Cells") -> Row:
    return _messages("conversations", "from", "value", cells)


def _alpaca(cells: "Cells") -> Row:
    more = cells.row.get("input")
    has_more = isinstance(more, str) and more.strip()
    asked = cells.text("instruction") + (f"\n\n{more}" if has_more else "")
    return _exchange(asked, cells.text("output"))


def _completion(cells: "Cells") -> Row:
    return _exchange(cells.text("prompt"), cells.text("completion"))


SHAPES = (
    Shape(("messages",), "chat messages", _chat),
    Shape(("conversations",), "sharegpt conversations", _sharegpt),
    Shape(("instruction", "output"), "alpaca instructions", _alpaca, optional=("input",)),
    Shape(("prompt", "completion"), "prompt and completion", _completion),
)
