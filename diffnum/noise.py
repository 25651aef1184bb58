"""Noise sources: where every random number of the library comes from.

A source is a callable ``noise(u)`` that returns a standard normal tensor like ``u``. Nothing draws from a global
generator: a sample depends on its seed and its index, never on the batch it happens to share.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import pi, prod
from operator import index
from threading import RLock
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diffnum import arguments
from diffnum.errors import Unchangeable

STEPS, PRIOR, PERTURB = 0, 1, 2  # streams of one seed: what is drawn for one purpose is drawn for no other
BLOCK = 2**15  # pairs of numbers at once: four arrays of them stay in the cache of a core

DRAWING = RLock()  # threads that share a source take its draws one after another; the numbers are made outside

# SplitMix64: the step of its counter, and the factors of its mixing function
STEP, FACTORS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
MIDDLE = torch.tensor(0.5 + 2.0**-33, dtype=torch.float64, device="cpu")  # of the numbers from 0 to 1, rounded up
HALVES = 0x243F6A8885A308D3, 0x13198A2E03707344  # where the two halves of a key begin: digits of pi


class Noise(Protocol):
    """A source of standard normal noise."""

    def __call__(self, u: Tensor) -> Tensor:
        """One draw with the shape, dtype and device of ``u``."""


class Seeded:
    r"""Noise in which row ``i`` is a function of ``(seed, indices[i])`` and the number of the draw alone.

    Nothing is kept but the number of the draw: number j of row i in draw d is computed from
    ``(seed, stream, indices[i], d, j)``. SplitMix64 turns ``(seed, stream, indices[i])`` into a key (a, b) of 128
    bits, a counter into 64 bits, and these into two numbers (Box and Muller 1958):

    .. math:: w = \text{mix}_b\bigl(a + \gamma \, (2^{32} d + \lfloor j/2 \rfloor)\bigr), \qquad
              z = \sqrt{-2 \log u} \; (\cos \theta, \sin \theta) .

    The upper half of w gives u, the lower the angle; no number is beyond 6.8. Integers are the same on every device,
    the rest is float64 and cast to the state's dtype, so that float32 and float64 runs, large and small batches, CPU
    and GPU (up to the rounding of its functions) all see the same numbers.

    A source goes on: a second run sees new numbers, and :meth:`restart` begins the same ones again. Threads that share
    one get different draws, in the order in which they ask.

    Args:
        seed: from 0 to 2**64 - 1.
        indices: global sample index of each row; by default row i has index i.
        stream: independent streams of one seed: one for the steps, another for the prior, and so on.

    Raises:
        ValueError: a seed or index out of range, or a batch that ``indices`` does not cover.

    Source: Steele, Lea and Flood 2014, 'Fast splittable pseudorandom number generators'; b between its two rounds is
    ours, so that sequences of two rows cannot overlap.
    """

    def __init__(self, seed: int, indices: Iterable[int] | None = None, stream: int = STEPS) -> None:
        self.seed = _word("seed", seed)
        self.indices = None if indices is None else tuple(_word("indices", i) for i in indices)
        self.stream = _word("stream", stream)
        self._drawn = 0
        self._keys: tuple[Tensor, Tensor] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("seed", "indices", "stream") and name in vars(self):
            raise Unchangeable(f"Seeded.{name} cannot be changed, for keys made of it are kept; make a new Seeded")
        super().__setattr__(name, value)

    def restart(self) -> None:
        """Begin the same sequence again."""
        self._drawn, self._keys = 0, None

    def __call__(self, u: Tensor) -> Tensor:
        """The next draw, with the shape, dtype and device of ``u``."""
        if not u.is_floating_point() or not u.ndim:
            raise TypeError(f"u is {u.dtype} of shape {tuple(u.shape)}; noise needs a floating state (batch, *event)")
        return self._draw(u.shape, u.dtype, u.device).to(u.device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw as a CPU float64 tensor of the given shape ``(batch, *event)``."""
        return self._draw(shape, torch.float64, torch.device("cpu"))

    def _draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if device.type != "cuda":  # where there are integers of 64 bits and float64 for sure
            device = torch.device("cpu")
        batch = shape[0]
        with DRAWING:
            keys, draw = self._keys_of(batch, device), self._drawn
            self._drawn += 1
        out = torch.empty(batch, prod(shape[1:]), dtype=dtype, device=device)
        _fill(out, keys, draw)
        return out.reshape(tuple(shape))

    def _keys_of(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if self.indices is not None and len(self.indices) != batch:
            raise ValueError(f"indices has {len(self.indices)} entries for a batch of {batch}; give one index per row")
        if self._keys is not None and self._keys[0].shape[0] != batch:
            before = self._keys[0].shape[0]
            raise ValueError(f"u has {batch} rows and the draw before had {before}; use one source per batch")
        if self._keys is None or self._keys[0].device != device:
            rows = torch.arange(batch, device=device)
            if self.indices is not None:
                rows = torch.tensor([_signed(i) for i in self.indices], dtype=torch.int64, device=device)
            self._keys = _keys(self.seed, self.stream, rows)
        return self._keys


class Replay:
    """Noise read from a list: ``Replay([n_0, n_1, ...])`` gives ``n_0``, then ``n_1``, and starts anew with each solve.

    Raises:
        ValueError: the list has run out, or an entry does not have the shape of the state.
    """

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = [d.clone() if isinstance(d, Tensor) else arguments.array("draws", d) for d in draws]
        self._next = 0

    def restart(self) -> None:
        """Begin with the first entry again."""
        self._next = 0

    def __call__(self, u: Tensor) -> Tensor:
        """The next entry, with the dtype and device of ``u``."""
        with DRAWING:
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
        self.times = arguments.array("times", times)
        self.variance = arguments.array("clock", [clock(t) for t in self.times.tolist()]).diff()
        if not bool((self.variance >= 0).all()):
            t = self.times[int((self.variance < 0).nonzero()[0])]
            raise ValueError(f"clock decreases after t={t:.6g}; a variance grows while t decreases")
        self.source = Seeded(seed, indices)
        self._draws: Tensor | None = None

    def on(self, times: Sequence[float] | Tensor) -> "Replay":
        """The source for a run on a grid whose times are among those of the finest grid."""
        grid = arguments.array("times", times).tolist()
        places = [int((self.times - t).abs().argmin()) for t in grid]
        for t, i in zip(grid, places, strict=True):
            if abs(self.times[i].item() - t) > 1e-9 * max(abs(t), self.times[-1].item()):
                raise ValueError(f"t={t:.6g} is not a time of the finest grid; nested grids share their times")
        return _Coupled(self, places)

    def increments(self, shape: Sequence[int]) -> Tensor:
        """The fine draws ``(steps, batch, *event)``, each times the root of its variance; CPU float64."""
        batch, event = shape[0], tuple(shape[1:])
        with DRAWING:
            if self._draws is None or self._draws.shape[1:] != (batch, *event):
                self.source.restart()
                self._draws = self.source.normal((batch, len(self.variance), *event)).transpose(0, 1)
            draws = self._draws
        return draws * self.variance.sqrt().reshape(-1, *(1,) * (1 + len(event)))


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


def _signed(word: int) -> int:
    """A word of 64 bits as the signed number that has the same bits: torch multiplies those, modulo 2**64."""
    return (word + 2**63) % 2**64 - 2**63


def _mixed(z: Tensor, spare: Tensor, key: Tensor | None = None) -> Tensor:
    """The two rounds of SplitMix64, in place, with a key added between them; all but their last exclusive or."""
    for shift, factor, add in zip((30, 27), FACTORS, (key, None), strict=True):
        torch.bitwise_right_shift(z, shift, out=spare).bitwise_and_(2 ** (64 - shift) - 1)  # torch shifts the sign in
        z.bitwise_xor_(spare)
        z = z.mul_(_signed(factor)) if add is None else torch.add(add, z, alpha=_signed(factor), out=z)
    return z


def _keys(seed: int, stream: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The keys (a, b) of rows, two int64 tensors ``(batch, 1)``."""
    key = torch.tensor([[_signed(half)] for half in HALVES], device=rows.device)
    for word in (_signed(seed), _signed(stream), rows * _signed(STEP)):
        key = key + word
        key = _mixed(key, torch.empty_like(key))
        key ^= key >> 32 & 2**32 - 1
    return key[0, :, None], key[1, :, None]


def _fill(out: Tensor, keys: tuple[Tensor, Tensor], draw: int) -> None:
    """Fill a tensor ``(batch, size)`` with a draw, in blocks that stay in the cache."""
    batch, size = out.shape
    pairs, block = (size + 1) // 2, BLOCK * (torch.get_num_threads() if out.device.type == "cpu" else 128)
    columns = min(max(pairs, 1), block)
    height = max(1, min(batch, block // columns))
    counter = torch.arange(pairs, device=out.device).add_(draw << 32).mul_(_signed(STEP))
    tall = height > columns  # loops run along the longer side: so must memory
    # One piece of memory for all blocks: glibc hands smaller ones back to the system, and page faults cost a third more
    space = torch.empty(4, *((columns, height) if tall else (height, columns)), dtype=torch.int64, device=out.device)
    space = space.mT if tall else space
    for i in range(0, batch, height):
        for j in range(0, pairs, columns):
            part, places = out[i : i + height, 2 * j : 2 * (j + columns)], counter[j : j + columns]
            a, b = (half[i : i + height] for half in keys)
            words, spare, *others = space[:, : len(a), : len(places)]
            torch.add(a, places, out=words)
            first, second = _normals(_mixed(words, spare, b), spare, *others)
            part[:, 0::2], part[:, 1::2] = first, second[:, : part.shape[1] // 2]


def _normals(words: Tensor, spare: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Two float64 tensors of standard normal numbers from int64 words, in the memory of the arguments."""
    cosine, radius, angle = (x.view(torch.float64) for x in (words, *others))
    radius.copy_(torch.bitwise_right_shift(words, 32, out=spare))
    angle.copy_(words.bitwise_xor_(spare).bitwise_left_shift_(32))  # the lower half, hashed with the upper one
    torch.add(MIDDLE, radius, alpha=2.0**-32, out=radius).log_().mul_(-2).sqrt_()  # of u from 2^-33 to 1 - 2^-33
    torch.cos(angle.mul_(pi * 2.0**-63), out=cosine)
    return cosine.mul_(radius), angle.sin_().mul_(radius)


def _word(name: str, value: int) -> int:
    """A whole number of 64 bits: what keys are made of."""
    try:
        number = index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"{name} holds {value!r}, which is not a whole number") from error
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} holds {value}, which is outside 0 ... 2**64 - 1; choose a non-negative integer")
    return number


def stream_of(start: float, process: Any) -> int:
    """Stream of the steps of a run that was given no source: one for each time below the top at which a run starts.

    So the pieces of a run have independent noise, and a run that is repeated repeats its own.
    """
    return STEPS if start >= process.t_max else int(np.float64(start).view(np.uint64))


def seed_from(generator: torch.Generator | None) -> int:
    """A seed drawn from ``generator`` (which advances), or 0 without one: no hidden global randomness."""
    if generator is None:
        return 0
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator={generator!r} is not a torch.Generator; use torch.Generator().manual_seed(0)")
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
