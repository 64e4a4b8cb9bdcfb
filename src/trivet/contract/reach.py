"""How much of a base an adapter can change: the weights of the layers that it sits on.

A mixture's experts lie in tensors of three axes, [experts, in, out], which no linear layer holds.
PEFT adapts them in the architectures that it knows, and in others "all-linear" leaves them, most of
such a base, as they are. That is said, not hidden.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Reach(NamedTuple):
    """Counts of weights, the base's embeddings and convolutions left out. `experts`: those of them
    that stay as they are.
    """

    adapted: int
    experts: int
    total: int

    @classmethod
    def of(cls, adapted: "nn.Module") -> "Reach":
        """Of a model that a method has adapted in place, on the meta device or not."""
        from torch import nn

        kinds = (nn.Embedding, nn.Conv1d)  # a state's short convolution has three axes too
        left_out = {id(m.weight) for m in adapted.modules() if isinstance(m, kinds)}
        own = {
            name: weight
            for name, weight in adapted.named_parameters()
            if id(weight) not in left_out and not weight.requires_grad
        }
        inside = {name for name in own if ".base_layer." in name}
        experts = sum(w.numel() for name, w in own.items() if w.dim() == 3 and name not in inside)
        on = sum(own[name].numel() for name in inside)
        return cls(on, experts, sum(w.numel() for w in own.values()))

    @property
    def share(self) -> float:
        return self.adapted / max(1, self.total)

    def notes(self) -> list[str]:
        if not self.experts:
            return []
        return [
            f"The base is a mixture: {self.experts:,} of its {self.total:,} weights beside the "
            "embeddings are its experts', which the adapter does not reach. It sits on layers "
            f"with {self.share:.0%} of them."
        ]
