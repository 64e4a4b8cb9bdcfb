"""Chat templates as their models publish them, and tokenizers that they are rendered with.

Each: the template (Mistral's and Llama's of the first generation, Qwen's without its tools), the
tokens that it adds, the reply's text as the template writes it, and the roles that it takes. Two
more have what none of these has: turns that end in no token of their own, and an end that is not
called special.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trivet.tasks.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Template:
    """`text`: None = the base's own. `write`: content -> what the template writes of it in a reply
    that is to be learnt. `read`: content -> what a session gives back. `alternates`: roles must be
    user, assistant, user, …
    """

    text: str | None
    stop: str
    tokens: tuple[str, ...] = ()
    plain_tokens: tuple[str, ...] = ()
    write: Callable[[str], str] = str
    read: Callable[[str], str] = str
    alternates: bool = False


ALTERNATES = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
    "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception("
    "'System role not supported') }}{% endif %}{% for message in messages %}" + ALTERNATES + ""
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = "
    "message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATES + "{% if message['role'] == 'user' "
    "%}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant "
    "roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set "
    "system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set "
    "system_message = false %}{% endif %}{% for message in loop_messages %}" + ALTERNATES + ""
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + "
    "system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + "
    "content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + "
    "content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n'"
    " + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')\
.split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + \
reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|begin|>' + message['role'] + '\n' + message['content'] + "
    "'<|done|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}"
    "{% endif %}"
)
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
TEMPLATES = {
    "smollm2": Template(None, "<|im_end|>"),
    "llama-3": Template(
        LLAMA3,
        "<|eot_id|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        write=str.strip,
        read=str.strip,
    ),
    "gemma": Template(
        GEMMA,
        "<end_of_turn>",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        write=str.strip,
        read=str.strip,
        alternates=True,
    ),
    "mistral": Template(MISTRAL, "</s>", ("<s>", "</s>"), alternates=True),
    "llama-2": Template(
        LLAMA2,
        "</s>",
        ("<s>", "</s>"),
        write=lambda content: f" {content.strip()} ",
        read=str.strip,
        alternates=True,
    ),
    "phi-3": Template(
        PHI3, "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
    ),
    "qwen3": Template(
        QWEN3,
        "<|im_end|>",
        ("<|im_start|>", "<|im_end|>"),
        ("<think>", "</think>"),
        write=lambda content: EMPTY_THOUGHT + content.lstrip("\n"),
        read=lambda content: content.lstrip("\n"),
    ),
    "no end": Template(VICUNA, "</s>", ("</s>",)),
    "an end that is not special": Template(CHATML, "<|done|>", (), ("<|begin|>", "<|done|>")),
}


def tokenizer_for(name: str, base: Path, sentencepiece: bool) -> PreTrainedTokenizerBase:
    """The packaged base's byte-level tokenizer, or one of the SentencePiece kind, with a template
    and its tokens.
    """
    template = TEMPLATES[name]
    tokenizer = _sentencepiece() if sentencepiece else load_tokenizer(base)
    own = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} if template.text is None else set()
    tokenizer.add_special_tokens({"extra_special_tokens": sorted(own | {*template.tokens})})
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in template.plain_tokens])
    tokenizer.chat_template = template.text or load_tokenizer(base).chat_template
    bos = next((t for t in template.tokens if t in ("<s>", "<bos>", "<|begin_of_text|>")), None)
    tokenizer.bos_token = bos or tokenizer.bos_token
    tokenizer.eos_token = "</s>" if "</s>" in template.tokens else "<|endoftext|>"
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's and Mistral's first: a space before each text, runs of spaces as tokens, no split
    at words, bytes for what is in no piece.
    """
    lines = inspect.getsource(json).splitlines() + inspect.getsource(inspect).splitlines()
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    teacher = Tokenizer(models.BPE())
    teacher.normalizer = spaces
    teacher.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=1500, show_progress=False, max_token_length=8)
    )
    model = json.loads(teacher.to_str())["model"]
    pieces = ["<unk>", "<|endoftext|>", *(f"<0x{n:02X}>" for n in range(256)), *model["vocab"]]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair) for pair in model["merges"]]
    student = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    student.normalizer = spaces
    student.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=student, unk_token="<unk>")
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    return tokenizer
