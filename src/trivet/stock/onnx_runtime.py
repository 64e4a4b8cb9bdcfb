"""The model: a graph in ONNX Runtime, on the CPU, and tokenizer.json in tokenizers."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnxruntime
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Model:
    """`labels`: names of the classes, as the folder's public config has them."""

    def __init__(self, folder: Path, graph: str, head: str, card: dict[str, Any], base: str):
        self.session = onnxruntime.InferenceSession(
            folder / graph, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.folder = folder
        self.settings = self._json("tokenizer_config.json")
        names = self._json("config.json").get("id2label", {})
        self.labels = [names[str(i)] for i in range(len(names))]
        self.stops = self._stops()

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).offsets)

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def render(self, messages: list[dict[str, str]], ask: bool) -> str:
        """The conversation in the folder's chat template; `ask`: up to where the reply begins."""
        file = self.folder / "chat_template.jinja"
        text = file.read_text("utf-8") if file.exists() else self.settings.get("chat_template")
        if not text:
            raise ValueError("the folder has no chat template")
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
        env.globals["raise_exception"] = _refuse
        template = env.from_string(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text))
        special = {key: self._token(key) for key in ("bos_token", "eos_token", "unk_token")}
        return template.render(messages=messages, add_generation_prompt=ask, **special)

    def logits(self, ids: list[int]) -> np.ndarray:
        """[tokens, classes] of one row; [1, classes] where the model's head has pooled already."""
        row = np.array([ids], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)}
        (logits,) = self.session.run(["logits"], feed)
        return np.asarray(logits).reshape(-1, logits.shape[-1])

    def _stops(self) -> set[int]:
        ids = [
            self._json(f"{name}.json").get("eos_token_id")
            for name in ("generation_config", "config")
        ]
        ids.append(self.tokenizer.token_to_id(self._token("eos_token")))
        return {
            i for one in ids if one is not None for i in (one if isinstance(one, list) else [one])
        }

    def _token(self, key: str) -> str:
        token = self.settings.get(key) or ""
        return token["content"] if isinstance(token, dict) else token

    def _json(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return json.loads(file.read_text("utf-8")) if file.exists() else {}  # type: ignore[no-any-return]


def _refuse(words: str) -> None:
    raise jinja2.TemplateError(words)
