"""The adapter on its base, in stock PEFT: the tuned model itself, the first stage."""

from pathlib import Path

from trivet.backends.backend import GPU, Backend, Session
from trivet.backends.gate import First
from trivet.plugins import BACKENDS
from trivet.tuning.adapter import ADAPTER


class AdapterBackend(Backend):
    name = "adapter"
    artifact = ADAPTER
    gate = First()
    target = GPU
    words = "stock PEFT"
    snippet = "peft"
    stock = "trivet.stock.torch_runtime"

    def open(self, folder: Path, threads: int = 0) -> Session:
        from trivet.backends.sessions.torch_model import TorchModel
        from trivet.records.card import Card
        from trivet.tasks.tokenizer import load_tokenizer
        from trivet.tuning import base
        from trivet.tuning.batch import best_device

        card = Card.read(folder)
        model = base.load_adapted(folder, card, best_device())
        return TorchModel(model, load_tokenizer(folder), card)


ADAPTED = BACKENDS.add(AdapterBackend())
