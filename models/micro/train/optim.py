"""Muon for matrices, AdamW for the rest.

Muon (Jordan et al. 2024): the momentum of each weight matrix is made orthogonal before it is applied, by
five Newton–Schulz steps. Convolutions count as [out, in·k·k] matrices. On a CPU a step's cost is all in the
network, so an optimizer that needs fewer steps costs nothing.
"""

import torch


def orthogonalised(g, bf16=False):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    x = x.bfloat16() if bf16 else x  # precise enough: the steps only bring the singular values near 1
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, bf16=False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "bf16": bf16})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(buffer, group["momentum"]).flatten(1)  # Nesterov; [out, in·k·k]
                # An orthogonal [m, n] has entries of about max(m, n)^-½: 0.2 makes them AdamW's size.
                g = orthogonalised(g, group["bf16"]) * 0.2 * max(g.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(g.view_as(p), alpha=-group["lr"])
