"""The walk along a module that torch.fx traced: each operation becomes a step, joins one, or not.

An operation joins the step before it (batch-norm, ReLU), or is refused by name, with what could be
there instead.
Not here: the tracing, and the check that the chain gives the module's own logits (module.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from trivet.hw.errors import DesignError
from trivet.hw.network import Network
from trivet.hw.steps import Step

ALLOWED = (
    "It may have: Embedding (first), Linear, Conv1d (no padding, groups 1, dilation 1), "
    "BatchNorm1d right after Linear or Conv1d, ReLU, mean or sum over positions, Flatten, Dropout, "
    "Identity"
)
ALTERNATIVES = {
    "use ReLU": "gelu silu sigmoid tanh leakyrelu elu selu hardswish hardtanh relu6 prelu softplus",
    "use Conv1d over the positions and then their mean": (
        "lstm gru rnn multiheadattention transformerencoder transformerencoderlayer "
        "scaleddotproductattention"
    ),
    "use a Conv1d with a stride, or the mean over positions": (
        "maxpool1d avgpool1d adaptiveavgpool1d adaptivemaxpool1d max amax"
    ),
    "use Conv1d with a row of the picture a position": "conv2d maxpool2d avgpool2d",
    "use BatchNorm1d after Linear or Conv1d, which is folded away": "layernorm groupnorm rmsnorm",
    "leave it out: the largest logit is the answer without it": "softmax logsoftmax",
    "use Embedding and then the mean": "embeddingbag",
    "make it one chain: no step takes two values": "add sub mul matmul cat stack",
}


class Chain:
    """`axes` names those of the values at the place of the walk, without the batch: "F" features,
    "LC" positions and channels, "CL" the other way round, "T" token ids.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int], graph: fx.Graph) -> None:
        self.modules = dict(module.named_modules())
        self.nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
        self.input = [n for n in graph.nodes if n.op == "placeholder"]
        self.output = next(n for n in graph.nodes if n.op == "output").args[0]
        self.at = "its forward"
        if len(self.input) != 1:
            self.refuse("takes more than one input")
        first = self.nodes[0] if self.nodes else self.input[0]
        self.table = self.modules.get(str(first.target)) if first.op == "call_module" else None
        self.axes = "LC" if len(shape) == 2 else "T" if type(self.table) is nn.Embedding else "F"
        self.input_shape = self.shape = tuple(shape)  # of the chip's row; of the values here
        self.steps: list[Step] = []
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.share = 1.0  # of a mean: 1 / length, owed to the weights that come next

    def refuse(self, why: str) -> NoReturn:
        name = self.at.split("(")[-1].strip("')").lower().replace("_", "")
        instead = next((i for i, names in ALTERNATIVES.items() if name in names.split()), "")
        fix = f" Instead, {instead}." if instead else ""
        raise DesignError(f"{self.at} {why}.{fix} {ALLOWED}.", parameter="module")

    def rows(self) -> Tensor:
        """A few rows that the module can be tried on."""
        start = torch.Generator().manual_seed(0)
        if isinstance(self.table, nn.Embedding):
            return torch.randint(self.table.num_embeddings, (8, *self.input_shape), generator=start)
        return torch.randn((8, *self.input_shape), generator=start)

    def walk(self) -> Network:
        last, sizes = self.input[0], set[Any]()
        for node in self.nodes:
            name = node.target if isinstance(node.target, str) else node.target.__name__
            if name in ("size", "getattr") or (name == "getitem" and node.args[0] in sizes):
                sizes.add(node)  # x.size(0) or x.shape[0], for a view
                continue
            self.at = f"'{name}'"
            if node.op == "call_module":
                self.at = f"'{name}' ({type(self.modules[name]).__name__})"
            if node.args[:1] != (last,):
                self.refuse("does not take the value just before it alone")
            self.take(node, name)
            last = node
        self.at = "its output"
        if self.output is not last or self.axes != "F" or not any(w.numel() for w in self.weights):
            self.refuse("is not one row of logits made by weights")
        if self.share != 1:  # a mean is the last of all: the weights before it may pay
            at = max(i for i, w in enumerate(self.weights) if w.numel())
            self.weights[at] = self.weights[at] * self.share
            self.biases[at] = self.biases[at] * self.share
        return Network(self.input_shape, self.steps, self.weights, self.biases)

    def take(self, node: fx.Node, name: str) -> None:
        """Do what one node does, with the arguments that it gives."""
        if node.op == "call_module":
            module = self.modules[name]
            kind = type(module)
            if kind in (nn.Linear, nn.Conv1d, nn.Embedding, nn.BatchNorm1d):
                getattr(self, kind.__name__.lower())(module)
            elif kind is nn.ReLU:
                self.relu()
            elif kind is nn.Flatten:
                self.flatten(module.start_dim, module.end_dim)  # type: ignore[arg-type]
            elif kind is nn.Unflatten:
                self.unflatten(module.dim, module.unflattened_size)  # type: ignore[arg-type]
            elif not isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout1d)):
                self.refuse("cannot go on the chip")
        elif name in CALLS and node.op in ("call_function", "call_method"):
            try:
                CALLS[name](self, *node.args[1:], **node.kwargs)
            except TypeError:
                self.refuse(f"has arguments that are not read here ({node.format_node()})")
        elif name not in NO_OPS:
            self.refuse("cannot go on the chip")

    def add(self, step: Step, weight: Tensor, bias: Tensor | None) -> None:
        self.steps.append(step)
        self.weights.append(weight.detach().float() * self.share)
        self.share = 1.0
        bias = torch.zeros(len(weight)) if bias is None else bias
        self.biases.append(bias.detach().float().clone())

    def linear(self, linear: nn.Linear) -> None:
        weight = linear.weight
        if self.axes == "LC":  # the same layer at each position
            self.add(Step("conv"), weight[:, :, None], linear.bias)
            self.shape = (self.shape[0], len(weight))
        elif self.axes.startswith("F"):
            if self.axes == "F of CL":  # torch flattened channels first
                weight = weight.unflatten(1, self.shape).transpose(1, 2).flatten(1)
            self.add(Step("dense"), weight, linear.bias)
            self.axes, self.shape = "F", (len(weight),)
        else:
            self.refuse("is fed positions last: put x.transpose(1, 2) or Flatten before it")

    def conv1d(self, conv: nn.Conv1d) -> None:
        plain = conv.padding in ((0,), "valid") and conv.dilation == (1,) and conv.groups == 1
        if not plain:
            self.refuse("has padding, dilation or groups; pad the rows in the data if need be")
        if self.axes != "CL":
            self.refuse("is fed rows as [length, channels]: put x.transpose(1, 2) before it")
        (stride,) = conv.stride
        self.add(Step("conv", stride=stride), conv.weight, conv.bias)
        length = (self.shape[1] - conv.weight.shape[2]) // stride + 1
        self.shape = (len(conv.weight), length)

    def embedding(self, table: nn.Embedding) -> None:
        if self.axes != "T" or table.max_norm is not None:
            self.refuse("must be the first of all, without max_norm, over rows of ids")
        self.add(Step("embedding"), table.weight, torch.zeros(0))
        self.axes, self.shape = "LC", (*self.shape, table.embedding_dim)

    def batchnorm1d(self, norm: nn.BatchNorm1d) -> None:
        follows = self.steps and not self.steps[-1].relu and self.share == 1
        if not follows or (self.steps[-1].kind, self.axes) not in (("dense", "F"), ("conv", "CL")):
            self.refuse("is not right after a Linear or Conv1d")
        if norm.running_mean is None or norm.running_var is None:
            self.refuse("keeps no running mean: set track_running_stats=True")
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale * norm.weight.detach().double() if norm.affine else scale
        weight, bias = self.weights[-1].double(), self.biases[-1].double()
        shift = norm.bias.detach().double() if norm.affine else 0.0
        self.weights[-1] = (weight * scale.reshape(-1, *[1] * (weight.dim() - 1))).float()
        self.biases[-1] = ((bias - norm.running_mean.double()) * scale + shift).float()

    def relu(self, inplace: bool = False) -> None:
        kinds = [step.kind for step in self.steps]
        if kinds[-1:] in (["dense"], ["conv"]):
            self.steps[-1] = replace(self.steps[-1], relu=True)
        elif kinds[-1:] != ["sum"] or not self.steps[-2:][0].relu:  # a sum of ReLUs needs none
            self.refuse("is not after a Linear or Conv1d")

    def sum(self, dim: int | Sequence[int], keepdim: bool = False) -> None:
        (axis,) = (dim,) if isinstance(dim, int) else dim
        where = self.axes.find("L") + 1
        if axis not in (where, where - len(self.axes) - 1) or len(self.axes) != 2 or keepdim:
            self.refuse("is not over the positions alone (x.mean(-2) of [n, length, channels])")
        none = torch.zeros(0)
        share, self.share = self.share, 1.0
        self.add(Step("sum"), none, none)
        self.share, self.axes, self.shape = share, "F", (self.shape[self.axes.index("C")],)

    def mean(self, dim: int | Sequence[int], keepdim: bool = False) -> None:
        length = self.shape[self.axes.find("L")]
        self.sum(dim, keepdim)
        self.share /= length

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> None:
        rank = len(self.shape) + 1
        if start_dim % rank != 1 or end_dim % rank != rank - 1 or self.axes == "T":
            self.refuse("must flatten all but the batch: flatten(1)")
        if len(self.axes) == 2:
            self.axes = "F of CL" if self.axes == "CL" else "F"

    def transpose(self, first: int, second: int) -> None:
        if len(self.axes) != 2 or {first % 3, second % 3} != {1, 2}:
            self.refuse("must change positions with channels: transpose(1, 2)")
        self.axes, self.shape = self.axes[::-1], self.shape[::-1]

    def permute(self, *dims: Any) -> None:
        first, *others = dims[0] if len(dims) == 1 else dims
        if first != 0 or len(others) != 2:
            self.refuse("must change positions with channels: permute(0, 2, 1)")
        if [dim % 3 for dim in others] == [2, 1]:
            self.transpose(1, 2)

    def unsqueeze(self, dim: int) -> None:
        if self.axes != "F" or dim not in (1, -2, 2, -1):
            self.refuse("must give features a channel: unsqueeze(1)")
        self.reshape(None, *((1, -1) if dim in (1, -2) else (-1, 1)))

    def unflatten(self, dim: int, sizes: Sequence[int]) -> None:
        if dim not in (1, -1):
            self.refuse("must give features their channels: unflatten(1, (channels, -1))")
        self.reshape(None, *sizes)

    def reshape(self, *sizes: Any) -> None:
        _, *target = sizes[0] if len(sizes) == 1 else sizes
        if target == [-1]:
            self.flatten(1)
        elif self.axes != "F" or self.steps or len(target) != 2:
            self.refuse("must flatten the values, or give numbers [n, features] their channels")
        else:
            shape = tuple(torch.empty(self.input_shape, device="meta").reshape(*target).shape)
            self.axes, self.shape = ("CL" if shape[0] == 1 else "LC"), shape
            self.input_shape = shape[::-1] if shape[0] == 1 else shape


CALLS: dict[str, Any] = {
    "flatten": Chain.flatten,
    "mean": Chain.mean,
    "permute": Chain.permute,
    "relu": Chain.relu,
    "relu_": Chain.relu,
    "reshape": Chain.reshape,
    "sum": Chain.sum,
    "swapaxes": Chain.transpose,
    "transpose": Chain.transpose,
    "unflatten": Chain.unflatten,
    "unsqueeze": Chain.unsqueeze,
    "view": Chain.reshape,
}
NO_OPS = ("dropout", "contiguous", "float", "long")
