"""The merged model, in stock transformers."""

from pathlib import Path

from trivet.backends.adapter import ADAPTED
from trivet.backends.backend import GPU, Backend, Session
from trivet.backends.gate import Agreement
from trivet.export.merged import MERGED
from trivet.plugins import BACKENDS


class MergedBackend(Backend):
    name = "merged"
    artifact = MERGED
    reference = ADAPTED
    gate = Agreement("merged_agreement", 0.999)
    target = GPU
    words = "stock transformers"
    preferred_to_talk = True
    snippet = "transformers"
    stock = "trivet.stock.torch_runtime"

    def open(self, folder: Path, threads: int = 0) -> Session:
        from trivet.backends.sessions.torch_model import TorchModel
        from trivet.plugins import TASKS
        from trivet.records.card import Card
        from trivet.tasks.tokenizer import load_tokenizer
        from trivet.tuning import base
        from trivet.tuning.batch import best_device

        card = Card.read(folder)
        remote = card.model.trust_remote_code
        model = base.load(
            folder, TASKS[card.task], card.labels, device=best_device(), trust_remote_code=remote
        )
        return TorchModel(model, load_tokenizer(folder, remote), card)


WHOLE = BACKENDS.add(MergedBackend())
