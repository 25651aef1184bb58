"""Noise sources: where every random number of the library comes from.

A source is a callable ``noise(u)`` that returns a standard normal tensor like ``u``. Nothing draws from a global
generator: a sample depends on its seed and its index, never on the batch it happens to share.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
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
        self.draws = [d.clone() if isinstance(d, Tensor) else torch.tensor(np.array(d, np.float64)) for d in draws]
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


class Brownian:
    r"""One Brownian path per row, seen by runs with different step sizes.

    The noise of a step is an increment of a martingale M with variance clock :math:`v(t)`; a coarse step sums the
    increments of the fine ones inside it:

    .. math:: z_{\mathrm{coarse}} = \frac{\sum_k \sqrt{\Delta v_k} \, n_k}{\sqrt{\sum_k \Delta v_k}}

    with standard normal :math:`n_k` on the finest grid. Equal weights are exact only for a clock that runs evenly; on
    smooth grids they cost a constant, on uneven ones they couple nothing.

    Args:
        times: the finest grid, decreasing.
        clock: v(t), increasing while t decreases; the ``clock`` of a registered solver, called with the process.
        seed: as for :class:`Seeded`; row i depends on the seed and on its index alone.
        indices: global index of each row.

    Raises:
        ValueError: the clock runs backwards somewhere, or a coarse grid has a time that the finest has not.
    """

    def __init__(
        self,
        times: Sequence[float] | Tensor,
        clock: Callable[[float], float],
        seed: int = 0,
        indices: Iterable[int] | None = None,
    ) -> None:
        self.times = torch.as_tensor(times, dtype=torch.float64)
        self.variance = torch.tensor([clock(t) for t in self.times.tolist()], dtype=torch.float64).diff()
        if not bool((self.variance >= 0).all()):
            t = self.times[int((self.variance < 0).nonzero()[0])]
            raise ValueError(f"clock decreases after t={t:.6g}; a variance grows while t decreases")
        self.source = Seeded(seed, indices)
        self._draws: Tensor | None = None

    def on(self, times: Sequence[float] | Tensor) -> "Replay":
        """The source for a run on a grid whose times are among those of the finest grid."""
        grid = torch.as_tensor(times, dtype=torch.float64).tolist()
        places = [int((self.times - t).abs().argmin()) for t in grid]
        for t, i in zip(grid, places, strict=True):
            if abs(self.times[i].item() - t) > 1e-9 * max(abs(t), self.times[-1].item()):
                raise ValueError(f"t={t:.6g} is not a time of the finest grid; nested grids share their times")
        return _Coupled(self, places)

    def increments(self, shape: Sequence[int]) -> Tensor:
        """The fine draws ``(steps, batch, *event)``, each times the root of its variance; CPU float64."""
        batch, event = shape[0], tuple(shape[1:])
        if self._draws is None or self._draws.shape[1:] != (batch, *event):
            self.source.restart()
            self._draws = self.source.normal((batch, len(self.variance), *event)).transpose(0, 1)
        return self._draws * self.variance.sqrt().reshape(-1, *(1,) * (1 + len(event)))


class _Coupled(Replay):
    """What a :class:`Brownian` path gives on one grid: a replay that is made when the state's shape is known."""

    def __init__(self, path: Brownian, places: list[int]) -> None:
        super().__init__([])
        self.path, self.places = path, places

    def __call__(self, u: Tensor) -> Tensor:
        if not self.draws or self.draws[0].shape != u.shape:
            fine, variance = self.path.increments(u.shape), self.path.variance
            spans = list(pairwise(self.places))
            roots = [variance[i:j].sum().sqrt().clamp_min(1e-300) for i, j in spans]
            self.draws = [fine[i:j].sum(0) / root for (i, j), root in zip(spans, roots, strict=True)]
        return super().__call__(u)


def _word(name: str, value: int) -> int:
    """A whole number of 64 bits: what the key of a Philox generator is made of."""
    try:
        number = index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
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
