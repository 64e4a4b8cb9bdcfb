"""The model: in stock transformers; an adapter on its base, by stock PEFT."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


class Model:
    """`labels`: names of the classes, as the folder's public config has them. An adapter's folder
    has no such config: the names are then those of its card.
    """

    def __init__(self, folder: Path, graph: str, head: str, card: dict[str, Any], base: str):
        transformers.logging.set_verbosity_error()
        kind = getattr(transformers, head)
        if (folder / "adapter_config.json").exists():
            from peft import PeftConfig, PeftModel

            config = PeftConfig.from_pretrained(str(folder))
            size = {"num_labels": len(card["labels"])} if card["labels"] else {}
            base = base or str(config.base_model_name_or_path)
            model = kind.from_pretrained(
                base, revision=config.revision, dtype=torch.float32, **size
            )
            self.config = model.config
            model = PeftModel.from_pretrained(model, str(folder))
            self.labels = list(card["labels"])
        else:
            model = kind.from_pretrained(folder, dtype=torch.float32)
            self.config = model.config
            self.labels = [self.config.id2label[i] for i in range(self.config.num_labels)]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.stops = self._stops()

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(tokens["offset_mapping"])

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def render(self, messages: list[dict[str, str]], ask: bool) -> str:
        """The conversation in the folder's chat template; `ask`: up to where the reply begins."""
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask
        )
        return str(text)

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> np.ndarray:
        """[tokens, classes] of one row; [1, classes] where the model's head has pooled already."""
        row = torch.tensor([ids], device=self.device)
        logits = self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits
        return np.asarray(logits.reshape(-1, logits.shape[-1]).float().cpu())

    def _stops(self) -> set[int]:
        generation = getattr(self.model, "generation_config", None)
        ids = [getattr(generation, "eos_token_id", None), self.config.eos_token_id]
        ids.append(self.tokenizer.eos_token_id)
        return {
            i for one in ids if one is not None for i in (one if isinstance(one, list) else [one])
        }
