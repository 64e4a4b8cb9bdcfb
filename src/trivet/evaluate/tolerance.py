"""How far two evaluations of the same model may lie apart: what rounding explains, and no more.

Two orders of the same sum of K products differ by about sqrt(K) units of roundoff, as a random walk
does (Higham, "Accuracy and Stability of Numerical Algorithms", section 2.8). A transformer has four
such sums one after the other in each of its L layers (queries, attention's output, MLP up, MLP
down) and one in its head. Taken to add up, of logits whose largest is `scale`:

    tolerance = scale * u * sqrt(K) * (4 L + 1)         u = 2^-24 in float32

Measured on the packaged base (K = 1,536, L = 30: 2.8e-4 of the scale), 32 rows: each alone against
padded batches of 16: at most 6.5e-6 of it in torch, 0 in ONNX Runtime; with ONNX Runtime's fusions
off, as on another machine: 8.4e-6. Mistakes are of the scale itself.

Not covered: activations that are quantised as they come. A hair's difference moves one by a whole
step there: .15 of the scale on the packaged base in int8 with the fusions off, and 0 between a row
alone and in a batch. So the same machine is held to this tolerance, and another one to what int8
itself loses (`Backend.quantises`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.backends.sessions.language_model import LanguageModel
    from trivet.records.card import Card

FLOAT32 = 2.0**-24


def relative(folder: Path, card: "Card", unit: float = FLOAT32) -> float:
    """Of an artifact's model, as a share of a row's largest logit."""
    from transformers import AutoConfig

    from trivet.plugins import TASKS
    from trivet.tuning.base import model_folder

    whole = (folder / "config.json").exists()
    place = folder if whole else model_folder(card.model, TASKS[card.task])
    remote = card.model.trust_remote_code
    config: Any = AutoConfig.from_pretrained(place, trust_remote_code=remote).get_text_config()
    widest = max(config.hidden_size, getattr(config, "intermediate_size", 0) or 0)
    return float(unit * widest**0.5 * (4 * config.num_hidden_layers + 1))


def unit(session: "LanguageModel") -> float:
    """The unit roundoff of an opened model's arithmetic."""
    import torch

    model = getattr(session, "model", None)
    if not isinstance(model, torch.nn.Module):
        return FLOAT32
    return torch.finfo(next(p.dtype for p in model.parameters() if p.is_floating_point())).eps / 2
