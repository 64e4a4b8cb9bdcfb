"""A conversation as tokens: what a model reads, and the replies that it learns to give.

What is learnt is what will be generated. At inference the tokens of the prompt are fixed: the
template's rendering of the turns so far, with its beginning of a reply, tokenised. So each reply is
placed behind exactly those. As long as one reply's tokens are the beginning of the next one's
prompt, they share an example. Where they are not (a template that drops earlier reasoning;
`data.prompt`, which goes around the last user's turn; a token across the border of prompt and
reply), or where the example would be longer than `data.max_length`, the next reply begins an
example of its own, behind the conversation as it then reads.

Not covered: tool calls. Markup such as `<|im_end|>` in a turn's text is read as the token that it
spells, as every stock runtime reads it; `trivet check` counts the rows that have some.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trivet import UserError
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import markup, reply_frame, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]  # role, content, perhaps weight: 0 = not learnt

# What is said of conversations that are not learnt as they stand; each after a number.
SPLIT = (
    "conversations are several training examples: their earlier turns read otherwise once later "
    "ones follow (the chat template rewrites them, data.prompt goes around the last user's turn "
    "alone, or a token lies across the end of a prompt), or data.max_length holds no more"
)
NOTHING = "conversations have no reply that is learnt, and teach and test nothing"
UNASKED = "assistant turns answer no user's turn before them, and are not learnt"
SPELLED = "replies spell a control token of the model in their text, and are not learnt"
CHANGED = (
    "replies are learnt as the chat template writes them, not as the rows have them (it changes "
    "white space at a text's ends, or reasoning)"
)


@dataclass
class Lesson:
    """What a conversation teaches. `truncated`: whether an example was cut; `said`: of how many
    turns, or whether, each of the sentences above holds.
    """

    examples: list[Example] = field(default_factory=list)
    truncated: bool = False
    said: Counter[str] = field(default_factory=Counter)


def lesson(
    messages: Sequence[Turn],
    prompt: str,
    length: int,
    tokenizer: "PreTrainedTokenizerBase",
    last: bool = False,
) -> Lesson:
    """Every reply that is learnt, or the `last` of them, in examples of at most `length` tokens.

    Raises UserError where the chat template refuses the conversation.
    """
    out = Lesson()
    places = answers(messages)
    replies = sum(turn["role"] == "assistant" and weighs(turn) for turn in messages)
    out.said[UNASKED] += replies - len(places)
    places = places[-1:] if last else places
    clear = [k for k in places if not spells(messages[k]["content"], tokenizer)]
    out.said[SPELLED] += len(places) - len(clear)
    out.said[NOTHING] += not clear
    for k in clear:
        asked, reply, text = exchange(prompted(messages[: k + 1], prompt), tokenizer)
        out.said[CHANGED] += messages[k]["content"] not in text
        _add(out, asked, reply, length)
    out.said[SPLIT] += len(out.examples) > 1
    return out


def _add(out: Lesson, asked: list[int], reply: list[int], length: int) -> None:
    whole = [*asked, *reply]
    places = [*range(len(asked) - 1, len(whole) - 1)]
    before = out.examples[-1] if out.examples else None
    if before and len(whole) <= length and asked[: len(before.ids)] == before.ids:
        both = Example(whole, before.positions + places, before.targets + reply)
        out.examples[-1] = both
        return
    # The oldest tokens go, for a reply depends most on what is near; then the reply's own last.
    drop = max(0, min(len(whole) - length, len(asked) - 1))
    ids, places = whole[drop:][:length], [place - drop for place in places]
    places = [place for place in places if place < len(ids) - 1]
    out.examples.append(Example(ids, places, reply[: len(places)]))
    out.truncated |= len(whole) > length


def answers(messages: Sequence[Turn]) -> list[int]:
    """The places of the replies that may be learnt: no weight of 0, and a user's turn before."""
    asked = [n for n, turn in enumerate(messages) if turn["role"] not in ("system", "assistant")]
    first = asked[0] if asked else len(messages)
    return [
        n
        for n, turn in enumerate(messages)
        if turn["role"] == "assistant" and weighs(turn) and n > first
    ]


def before(messages: Sequence[Turn]) -> list[Turn]:
    """The turns that the last reply answers."""
    places = answers(messages) or [len(messages) - 1]
    return [*messages[: places[-1]]]


def answer(messages: Sequence[Turn]) -> str | None:
    """The text of the last reply; None where none may be learnt."""
    places = answers(messages)
    return messages[places[-1]]["content"] if places else None


def weighs(turn: Turn) -> bool:
    return turn.get("weight") != 0


def spells(text: str, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a reply would end in the middle of this text, or lose what no user is shown."""
    end = turn_end(tokenizer)
    stops = end is not None and str(tokenizer.convert_ids_to_tokens(end)) in text
    return stops or bool(markup(text, tokenizer))


def prompted(messages: Sequence[Turn], prompt: str) -> list[Turn]:
    """The messages, whose last one answers, with the prompt around the user's last turn."""
    last = max((n for n, m in enumerate(messages[:-1]) if m["role"] == "user"), default=None)
    if last is None or prompt == "{text}":
        return [*messages]
    text = prompt.replace("{text}", messages[last]["content"])
    return [*messages[:last], messages[last] | {"content": text}, *messages[last + 1 :]]


def prompt_ids(messages: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens after which the model is to reply."""
    return _encode(render(messages, tokenizer, asks=True), tokenizer)


class Exchange(NamedTuple):
    """`asked`: tokens of the prompt. `reply`: those of the last turn, its stop token included, and
    `text` what the template makes of it.
    """

    asked: list[int]
    reply: list[int]
    text: str


def exchange(messages: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase") -> Exchange:
    """The last turn and what comes before it. UserError where one is not put behind the other."""
    asked, whole = render(messages[:-1], tokenizer, asks=True), render(messages, tokenizer)
    text = _after(asked, whole, render(messages[:-1], tokenizer))
    if text is None:
        written = whole[: whole.rfind(messages[-1]["content"].strip())]
        raise UserError(
            "model.base: its chat template does not put a reply behind its prompt unchanged: the "
            f"prompt ends {asked[-40:]!r}, and before a reply there is {written[-40:]!r}. Give a "
            "base whose template begins a reply in one way."
        )
    ids, end = _encode(asked, tokenizer), turn_end(tokenizer)
    word = "" if end is None else str(tokenizer.convert_ids_to_tokens(end))
    if word and word in text:  # what follows the stop token is never generated
        text = text[: text.rfind(word) + len(word)]
        return Exchange(ids, _behind(ids, asked, text, tokenizer), text)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model.base: neither its chat template nor its tokenizer has a token that ends a "
            "reply: set the tokenizer's eos_token."
        )
    text = text.removesuffix(reply_frame(tokenizer)[1])
    reply = [*_behind(ids, asked, text, tokenizer), tokenizer.eos_token_id]
    return Exchange(ids, reply, text)


def _after(asked: str, whole: str, turns: str) -> str | None:
    """The last turn of `whole`, from where the prompt `asked` ends; None where it ends nowhere.

    A template may write the `turns` before it otherwise once it follows. What it asks for a reply
    with is then what tells where the reply begins.
    """
    if whole.startswith(asked):
        return whole[len(asked) :]
    asks = asked.removeprefix(turns)
    return whole.rpartition(asks)[2] if asks and asks in whole else None


def _behind(
    ids: list[int], asked: str, text: str, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """The tokens of `text` behind the `ids` of `asked`: those of both together, where these begin
    with `ids`. Else a token lies across their border, and the text is tokenised by itself.

    Tokenizers of the SentencePiece kind put a space before a text: there, behind a line's end.
    """
    whole = _encode(asked + text, tokenizer)
    if whole[: len(ids)] == ids:
        return whole[len(ids) :]
    line = _encode("\n", tokenizer)
    alone, behind_line = _encode(text, tokenizer), _encode("\n" + text, tokenizer)
    candidates = [alone]
    if behind_line[: len(line)] == line:
        candidates.append(behind_line[len(line) :])
    same = (c for c in candidates if tokenizer.decode(ids + c) == tokenizer.decode(whole))
    return next(same, alone)


def reply_text(prompt: list[int], reply: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """What a model replied, as the content of a turn: without what the template writes around it.

    Decoded behind its prompt, for a text's first space is lost where it is decoded by itself.
    """
    asked, both = (
        str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (prompt, prompt + reply)
    )
    head, tail = reply_frame(tokenizer)
    end = turn_end(tokenizer)
    tail = "" if end is None else tail.partition(str(tokenizer.convert_ids_to_tokens(end)))[0]
    return both[len(asked) :].removeprefix(head).removesuffix(tail)


def render(
    messages: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", asks: bool = False
) -> str:
    """The chat template's text; `asks`: up to where the model is to reply. UserError."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(
            "model.base has no chat template: give an instruct model for data.task = 'generate'."
        )
    plain = [{key: v for key, v in turn.items() if key != "weight"} for turn in messages]
    try:
        return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=asks))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in messages)
        raise UserError(
            f"model.base: its chat template refuses a conversation of the turns {roles}: {error}. "
            "Write the rows as it wants them, or give another base."
        ) from None


def _encode(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]
