"""NF4's double quantisation: absmax in 8 bits, as bitsandbytes makes it (formula.py has the rule).

Plain torch on every device: N·K/B numbers, once.

Not covered: other maps than the dynamic one.
"""

from functools import lru_cache

import torch
from torch import Tensor

from trivet.kernels.ops.nf4.formula import GROUP


def compress(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """absmax in 8 bits, the dynamic map, absmax2 and the mean, as NF4 keeps them.

    NaN, and so 0 in a group of zeros, gets code 0.
    """
    offset = absmax.mean()
    centred = absmax - offset
    groups = torch.nn.functional.pad(centred, (0, -len(absmax) % GROUP)).view(-1, GROUP)
    absmax2 = torch.where(groups.isnan(), 0.0, groups.abs()).amax(1)
    v = (groups * (1.0 / absmax2)[:, None]).clamp(-1, 1)
    place = ((v + 1.0) * 0.5 * 65535 + 0.5).nan_to_num(0.0).int()
    code, table = (t.to(absmax.device) for t in dynamic_map())
    q = table[place].view(-1)[: len(absmax)].contiguous()
    return q, code, absmax2, offset.view(1)


@lru_cache(maxsize=1)
def dynamic_map() -> tuple[Tensor, Tensor]:
    """The dynamic map (Dettmers 2015, arXiv 1511.04561); the code of 65,536 places in [-1, 1]."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        means = (edges[:-1] + edges[1:]) / 2
        values += (10 ** (i - 6) * means).tolist() + (-(10 ** (i - 6)) * means).tolist()
    code = torch.tensor(sorted(values))
    places = -1 + 2.0 * torch.arange(65536, dtype=torch.float32) / 65535
    return code, torch.bucketize(places, 0.5 * (code[:-1] + code[1:])).to(torch.uint8)
