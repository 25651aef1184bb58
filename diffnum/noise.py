"""Noise sources: where every random number of the library comes from.

A source is a callable ``noise(u)`` that returns a standard normal tensor like ``u``. Nothing draws from a global
generator: a sample depends on its seed and its index, never on the batch it happens to share.
"""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PRIOR, STEPS = 1, 0  # streams of one seed: the start of a trajectory and its steps must not share numbers


class Noise(Protocol):
    """A source of standard normal noise."""

    def __call__(self, u: Tensor) -> Tensor:
        """One draw with the shape, dtype and device of ``u``."""


class Seeded:
    """Noise in which row ``i`` is a function of ``(seed, indices[i])`` and the number of the draw alone.

    Each row has a counter-based generator (Philox) whose key is ``(seed, index)``. Draws are made in float64 on the
    CPU and cast, so that float32 and float64 runs, large and small batches, CPU and GPU all see the same numbers.

    Args:
        seed: from 0 to 2**64 - 1.
        indices: global sample index of each row; by default row i has index i.
        stream: independent streams of one seed (the prior uses one, the steps another).

    Raises:
        ValueError: a seed or index out of range, or a batch that ``indices`` does not cover.
    """

    def __init__(self, seed: int, indices: Iterable[int] | None = None, stream: int = STEPS) -> None:
        self.seed = _word("seed", seed)
        self.indices = None if indices is None else [_word("indices", i) for i in indices]
        self.stream = stream
        self._rows: list[np.random.Generator] = []

    def restart(self) -> None:
        """Begin the same sequence again."""
        self._rows = []

    def __call__(self, u: Tensor) -> Tensor:
        """The next draw, with the shape, dtype and device of ``u``."""
        if not u.is_floating_point() or not u.ndim:
            raise TypeError(f"u is {u.dtype} of shape {tuple(u.shape)}; noise needs a floating state (batch, *event)")
        return self.normal(u.shape).to(u.device, u.dtype)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw as a CPU float64 tensor of the given shape ``(batch, *event)``."""
        batch, event = shape[0], tuple(shape[1:])
        indices = range(batch) if self.indices is None else self.indices
        if len(indices) != batch:
            raise ValueError(f"indices has {len(indices)} entries for a batch of {batch}; give one index per row")
        if self._rows and len(self._rows) != batch:
            raise ValueError(f"u has {batch} rows and the draw before had {len(self._rows)}; use one source per batch")
        if not self._rows:
            key = [np.array([self.seed, i], dtype=np.uint64) for i in indices]
            counter = np.array([0, 0, 0, self.stream], dtype=np.uint64)
            self._rows = [np.random.Generator(np.random.Philox(key=k, counter=counter)) for k in key]
        rows = [
            torch.from_numpy(row.standard_normal(event)) if event else torch.tensor(row.standard_normal())
            for row in self._rows
        ]
        return torch.stack(rows)


class Replay:
    """Noise read from a list: ``Replay([n_0, n_1, ...])`` gives ``n_0``, then ``n_1``, and starts anew with each solve.

    Raises:
        ValueError: the list has run out, or an entry does not have the shape of the state.
    """

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)
        self._next = 0

    def restart(self) -> None:
        """Begin with the first entry again."""
        self._next = 0

    def __call__(self, u: Tensor) -> Tensor:
        """The next entry, with the dtype and device of ``u``."""
        if self._next >= len(self.draws):
            raise ValueError(f"draws holds {len(self.draws)} entries and one more was asked for; record more noise")
        draw = self.draws[self._next]
        if draw.shape != u.shape:
            raise ValueError(f"draws[{self._next}] has shape {tuple(draw.shape)}; the state has {tuple(u.shape)}")
        self._next += 1
        return draw.to(u.device, u.dtype)


def _word(name: str, value: int) -> int:
    """A whole number of 64 bits: what the key of a Philox generator is made of."""
    try:
        number = index(value)
    except TypeError as error:
        raise TypeError(f"{name} holds {value!r}, which is not a whole number") from error
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} holds {value}, which is outside 0 ... 2**64 - 1; choose a non-negative integer")
    return number


def seed_from(generator: torch.Generator | None) -> int:
    """A seed drawn from ``generator`` (which advances), or 0 without one: no hidden global randomness."""
    if generator is None:
        return 0
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator={generator!r} is not a torch.Generator; use torch.Generator().manual_seed(0)")
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
