"""Products in bfloat16, everything that is summed or kept in float32.

On a CPU that multiplies bfloat16 a step takes 0.7 of the time. torch's group norm is the exception: its
backward pass is three times slower in bfloat16, so it stays in float32.
"""

import torch
from torch.nn.functional import group_norm


class Float32GroupNorm(torch.nn.GroupNorm):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


def bfloat16(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def keep_group_norms(network):
    """The same weights; only the class that computes changes."""
    for module in network.modules():
        if type(module) is torch.nn.GroupNorm:
            module.__class__ = Float32GroupNorm
    return network
