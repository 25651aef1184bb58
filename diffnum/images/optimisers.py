"""Optimisers of the training tasks: orthogonal steps for convolutions, and two optimisers as one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns: U V^T, where g (m, n) is U S V^T.

    A quintic Newton-Schulz iteration x <- a x + (b s + c s^2) x, s = x x^T, brings singular values near 1 (K. Jordan
    2024, Muon); in the precision of g.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if len(g) > g.shape[1] else g
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = torch.addmm(x, torch.addmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.T if len(g) > g.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal: K. Jordan 2024, Muon.

    A kernel (out, in, h, w) counts as the matrix (out, in h w), and a step moves it by lr max(1, out/(in h w))^(1/2) in
    every direction. :class:`torch.optim.Muon` takes matrices only and iterates in bfloat16, which is ten times slower
    on a processor that has none.

    ``normalise`` first gives the rows a root mean square norm of one. What a convolution computes does not depend on
    the size of its matrix when normalisation follows; how fast it learns would.
    """

    def __init__(
        self, kernels: Iterable[Tensor], lr: float, momentum: float = 0.95, ns_steps: int = 5, normalise: bool = False
    ) -> None:
        super().__init__(kernels, {"lr": lr})
        self.momentum, self.ns_steps, self.normalise = momentum, ns_steps, normalise

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every kernel that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.normalise:
                    p.mul_(len(p) ** 0.5 / p.norm())
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                kept = self.state[p]["momentum_buffer"]
                kept.lerp_(p.grad, 1 - self.momentum)
                move = orthogonal(p.grad.lerp(kept, self.momentum).flatten(1), self.ns_steps)
                p.sub_(move.view_as(p), alpha=group["lr"] * math.sqrt(max(1.0, len(move) / move.shape[1])))


def kernels_and_rest(net: torch.nn.Module, *but: str) -> tuple[list[Tensor], list[Tensor]]:
    """The kernels of the convolutions, except in layers whose names begin with one of these; and all else."""
    named = dict(net.named_parameters())
    kernels = [name for name, p in named.items() if p.ndim == 4 and not name.startswith(but)]
    return [named[name] for name in kernels], [p for name, p in named.items() if name not in kernels]


class Both:
    """Two optimisers as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts, self.param_groups = parts, [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts:
            part.state = self.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """A step of each."""
        for part in self.parts:
            part.step()
