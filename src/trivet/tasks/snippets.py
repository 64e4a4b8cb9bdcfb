"""How a result is used: the commands of Trivet, and Python that needs nothing of it.

The Python stands in the report for somebody who has the folder and stock libraries alone.
"""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.tasks.task import Task


def predict(run: str, text: str, backend: str) -> str:
    plain = not set(text) & set('"$`\\!')  # what a shell does not leave alone in these quotes
    argument = f'"{text}"' if plain else shlex.quote(text)
    return f"trivet predict {run} {argument} --backend {backend}"


def python(task: "Task", runtime: str, folder: str, encode: str, answer: str) -> str:
    """Code that loads `folder`, runs `encode` (text to `ids`), and `answer` (from `logits`).

    `runtime`: `peft`, `transformers`, or the name of an ONNX file. A task that talks makes its
    answer itself, out of `model` or `logits_of`.
    """
    onnx = runtime.endswith(".onnx")
    code = ["import json"] if task.new_head else []
    code += ["import numpy as np"] if onnx or "np." in encode + answer else []
    code += ["import onnxruntime"] if onnx else ["import torch"]
    code += ["from peft import PeftConfig, PeftModel"] if runtime == "peft" else []
    names = [] if onnx else [task.head]
    names += ["AutoTokenizer", *(["GenerationConfig"] if task.talks else [])]
    code += [f"from transformers import {', '.join(names)}", ""]
    code += [f"folder = {folder!r}", "tokenizer = AutoTokenizer.from_pretrained(folder)"]
    if task.new_head:
        code.append('labels = json.load(open(folder + "/trivet.json"))["labels"]')
    code += [encode, *_load(task, runtime)]
    if not task.talks and onnx:
        code.append("logits = logits_of(ids)")
    elif not task.talks:
        code += ["with torch.no_grad():"]
        code += ["    logits = model(input_ids=torch.tensor([ids])).logits.numpy()"]
    return "\n".join([*code, answer])


def _load(task: "Task", runtime: str) -> list[str]:
    if runtime == "peft":
        size = ", num_labels=len(labels)" if task.new_head else ""
        return [
            "base = PeftConfig.from_pretrained(folder).base_model_name_or_path",
            f"model = {task.head}.from_pretrained(base{size})",
            "model = PeftModel.from_pretrained(model, folder).eval()",
        ]
    if runtime == "transformers":
        return [f"model = {task.head}.from_pretrained(folder).eval()"]
    return [
        f'session = onnxruntime.InferenceSession(folder + "/{runtime}", '
        'providers=["CPUExecutionProvider"])',
        "",
        "def logits_of(ids):",
        "    ids = np.array([ids], dtype=np.int64)",
        '    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}',
        '    return session.run(["logits"], feed)[0]',
        "",
    ]
