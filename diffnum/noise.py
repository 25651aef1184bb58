"""Noise sources: where every random number of the library comes from.

A source is a callable ``noise(u)`` that returns a standard normal tensor like ``u``. Nothing draws from a global
generator: a sample depends on its seed and its index, never on the batch it happens to share.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from math import log, prod
from operator import index
from threading import RLock, local
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diffnum import arguments
from diffnum.errors import Unchangeable

STEPS, PRIOR, PERTURB = 0, 1, 2  # streams of one seed: what is drawn for one purpose is drawn for no other
BLOCK = 3 * 2**15  # pairs of numbers at once: many for one call of torch, few for the cache of a core

DRAWING = RLock()  # threads that share a source take its draws one after another; the numbers are made outside
WORKPLACE = local()  # memory in which a thread makes numbers

# SplitMix64: the step of its counter, and the factors of its mixing function
STEP, FACTORS, SHIFTS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), (30, 27)
HALVES = 0x243F6A8885A308D3, 0x13198A2E03707344  # where the two halves of a key begin: digits of pi


def _constants(dtype: torch.dtype, *values: float) -> tuple[Tensor, ...]:
    """Numbers as tensors: torch takes Python's at twice the price of a short call."""
    return torch.tensor(values, dtype=dtype, device="cpu").unbind()


_float32, _int32, _int64 = (partial(_constants, dtype) for dtype in (torch.float32, torch.int32, torch.int64))
# Polynomials of least largest error on [0, 1], constant terms first, and that error
LOGARITHM = _float32(  # 2 (log(1 - h / 2) + h log 2) / h: 2e-7
    0.38629454, -0.25002107, -0.082920894, -0.034299824, -0.0016091467, -0.025669392, 0.01771686, -0.009490896
)  # fmt: skip
SINE = _float32(1.1107208, -0.114191286, 0.003521402, -5.0847353e-05)  # sqrt(2) sin(pi y / 4) / y in y^2: 3e-8
COSINE = _float32(1.4142135, -0.43617776, 0.022415165, -0.00045096513)  # sqrt(2) cos(pi y / 4) in y^2: 6e-8
HALF, TURN, FRACTION, DOUBLINGS = _float32(0.5, 2.0**-31, 2.0**-23, log(2) * 2.0**-22)
TOP, MANTISSA, SIGN, ONE, MIDDLE = _int32(158 << 23, 2**23 - 1, -(2**31), 1, 2**30)  # TOP: 2^31 in float32
HALF_WORD, ZERO = _int64(32, 0)
MIXING = list(zip(_int64(*SHIFTS), _int64(*(2 ** (64 - k) - 1 for k in SHIFTS)), FACTORS, strict=True))


class Noise(Protocol):
    """A source of standard normal noise."""

    def __call__(self, u: Tensor) -> Tensor:
        """One draw with the shape, dtype and device of ``u``."""


class Seeded:
    r"""Noise in which row ``i`` is a function of ``(seed, indices[i])`` and the number of the draw alone.

    The number of the draw is all that goes on: number j of row i in draw d is computed from
    ``(seed, stream, indices[i], d, j)``, small draws for several calls at once. SplitMix64 turns
    ``(seed, stream, indices[i])`` into a key (a, b) of 128 bits, a counter into 64 bits, and these into two numbers
    (Box and Muller 1958):

    .. math:: w = \text{mix}_b\bigl(a + \gamma \, (2^{32} d + \lfloor j/2 \rfloor)\bigr), \qquad
              z = \sqrt{-2 \log u} \; (\cos \theta, \sin \theta) .

    The 31 upper bits of w give u, the lower half the angle; no number is beyond 6.7. Integers are followed by sums,
    products and a root in float32, each rounded for itself as IEEE 754 has it, with polynomials for the functions,
    within :math:`4 \cdot 10^{-7} (r + 1/r)` of the formula at radius r. So runs in float32 and float64, large and small
    batches, all processors and a GPU that keeps to the standard see the same numbers, bit for bit; they have 24 bits
    in every dtype.

    A source goes on: a second run sees new numbers, and :meth:`restart` begins the same ones again. Threads that share
    one get different draws, in the order in which they ask.

    Args:
        seed: from 0 to 2**64 - 1.
        indices: global sample index of each row; by default row i has index i.
        stream: independent streams of one seed: one for the steps, another for the prior, and so on.
        draws: how many are expected. It changes no number, only how many small ones are made at once.

    Raises:
        ValueError: a seed or index out of range, or a batch that ``indices`` does not cover.

    Source: Steele, Lea and Flood 2014, 'Fast splittable pseudorandom number generators'; b between its two rounds is
    ours, so that sequences of two rows cannot overlap.
    """

    def __init__(self, seed: int, indices: Iterable[int] | None = None, stream: int = STEPS, draws: int = 1) -> None:
        self.seed = _word("seed", seed)
        self.indices = None if indices is None else tuple(_word("indices", i) for i in indices)
        self.stream = _word("stream", stream)
        self.draws = _word("draws", draws)
        self.restart()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("seed", "indices", "stream") and name in vars(self):
            raise Unchangeable(f"Seeded.{name} cannot be changed, for keys made of it are kept; make a new Seeded")
        super().__setattr__(name, value)

    def restart(self) -> None:
        """Begin the same sequence again."""
        self._drawn = 0
        self._keys: tuple[Tensor, Tensor] | None = None
        self._ahead: dict[int, Tensor] = {}  # small draws that were made for later calls, by their numbers
        self._made: tuple[Any, int] = None, self.draws  # kind and count of those made last

    def __call__(self, u: Tensor) -> Tensor:
        """The next draw, with the shape, dtype and device of ``u``."""
        if not u.is_floating_point() or not u.ndim:
            raise TypeError(f"u is {u.dtype} of shape {tuple(u.shape)}; noise needs a floating state (batch, *event)")
        if u.device.type == "cpu" or u.device.type == "cuda":
            return self._draw(u.shape, u.dtype, u.device)
        return self.normal(u.shape).to(u.device, u.dtype)  # integers of 64 bits are not everywhere

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw as a CPU float64 tensor of the given shape ``(batch, *event)``."""
        return self._draw(torch.Size(shape), torch.float64, torch.device("cpu"))

    def _draw(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        with DRAWING:
            keys, draw = self._keys_of(shape[0], device), self._drawn
            self._drawn += 1
        (before, count), kind = self._made, (shape, device)
        z = self._ahead.pop(draw, None)
        if z is None or kind != before:
            # A call of torch costs as much as a thousand numbers: small draws are made together, every time more
            count = count if before is None else 4 * count if before == kind else 1
            count = max(1, min(count, _block(device) // max(1, shape[0] * ((prod(shape[1:]) + 1) // 2))))
            z, *more = _numbers(keys, draw, count, shape)
            self._made, self._ahead = (kind, count), dict(enumerate(more, draw + 1))
        return z.to(dtype)

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


def _mixed(z: Tensor, spare: Tensor, key: Tensor) -> Tensor:
    """The two rounds of SplitMix64, in place, with a key added between them; all but their last exclusive or."""
    for (shift, kept, factor), add in zip(MIXING, (key, ZERO), strict=True):
        torch.bitwise_right_shift(z, shift, out=spare).bitwise_and_(kept)  # torch shifts the sign in
        torch.add(add, z.bitwise_xor_(spare), alpha=_signed(factor), out=z)
    return z


def _keys(seed: int, stream: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The keys (a, b) of rows, two int64 tensors ``(batch, 1)``."""
    with torch.inference_mode():
        key = torch.tensor([[_signed(half)] for half in HALVES], device=rows.device)
        for word in (_signed(seed), _signed(stream), rows * _signed(STEP)):
            key = key + word
            key = _mixed(key, torch.empty_like(key), ZERO)
            key ^= key >> 32 & 2**32 - 1
        return key[0, :, None], key[1, :, None]


def _block(device: torch.device) -> int:
    return BLOCK * (torch.get_num_threads() if device.type == "cpu" else 64)


def _numbers(keys: tuple[Tensor, Tensor], first: int, count: int, shape: Sequence[int]) -> list[Tensor]:
    """Draws ``first`` to ``first + count - 1`` in float32, made outside inference mode: one may be used later."""
    batch, size = shape[0], prod(shape[1:])
    pairs = (size + 1) // 2
    with torch.inference_mode(False):
        draws = [torch.empty(batch, pairs, dtype=torch.complex64, device=keys[0].device) for _ in range(count)]
        _fill(draws, keys, first)
        real = map(torch.view_as_real, draws)
        if 2 * pairs == size:
            return [x.view(shape) for x in real]
        return [x.flatten(1)[:, :size].reshape(shape).contiguous() for x in real]


@torch.inference_mode()  # in which calls of torch are shorter, by a fifth
def _fill(draws: list[Tensor], keys: tuple[Tensor, Tensor], first: int) -> None:
    """Pairs of numbers into arrays ``(batch, pairs)``, in blocks that stay in the cache."""
    (batch, pairs), device = draws[0].shape, draws[0].device
    numbers = torch.arange(first, first + len(draws), device=device)[:, None] << 32
    counter = (numbers + torch.arange(pairs, device=device)).mul_(_signed(STEP)).flatten()
    columns = min(max(len(counter), 1), _block(device))
    height = max(1, min(batch, _block(device) // columns))
    words, floats = _memory(height, columns, device)
    for i in range(0, batch, height):
        for j in range(0, len(counter), columns):
            places = counter[j : j + columns]
            a, b = (half[i : i + height] for half in keys)
            word, spare = words[:, : len(a), : len(places)]
            _mixed(torch.add(a, places, out=word), spare, b)
            parts = (x.split(pairs, 1) for x in _normals(word, spare, *floats[:, : len(a), : len(places)]))
            for draw, one, two in zip(draws, *parts, strict=True):  # several only where all are in one block
                torch.complex(one, two, out=draw if one.shape == draw.shape else draw[i : i + height, j : j + columns])


def _memory(height: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two arrays of int64 and, partly in their place, five of float32, each ``(height, columns)``.

    On a CPU a thread keeps the memory: fresh one comes page by page, which costs as much as the numbers.
    """
    size = height * columns
    kept = getattr(WORKPLACE, "memory", None) if device.type == "cpu" else None
    if kept is None or len(kept) < 5 * size:
        kept = torch.empty(5 * size, dtype=torch.float32, device=device)
        if device.type == "cpu":
            WORKPLACE.memory = kept
    arrays = kept[: 4 * size].view(torch.int64), kept[: 5 * size]
    if height > columns:  # loops run along the longer side: so must memory
        words, floats = (space.view(-1, columns, height).mT for space in arrays)
    else:
        words, floats = (space.view(-1, height, columns) for space in arrays)
    return words, floats


def _normals(
    word: Tensor, spare: Tensor, radius: Tensor, other: Tensor, h: Tensor, y: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Two standard normal numbers of each int64 word.

    The bits of a float32 are a logarithm, linear from one power of 2 to the next. Where those of u are D octaves below
    those of 1 and h is the fraction of D, :math:`-2 \log u = 2 D \log 2 - 2 (\log(1 - h/2) + h \log 2)`.

    The angle, doubled modulo a turn, is :math:`\pi y` with y from -1 to 1; so it is :math:`2 \varphi = \pi y / 2`, with
    half a turn added where its two top bits differ: then cosine :math:`1 - 2 \sin^2 \varphi` and sine
    :math:`2 \sin \varphi \cos \varphi` change their signs.

    Memory: ``radius`` and ``other`` lie where ``word`` does, ``h`` and ``y`` where ``spare`` does.
    """
    bits, sign = radius.view(torch.int32), angle.view(torch.int32)
    sign.copy_(word)  # the lower half
    bits.copy_(torch.bitwise_right_shift(word, HALF_WORD, out=spare))
    sign.bitwise_xor_(bits)  # hashed with the upper one
    radius.copy_(bits.bitwise_right_shift_(ONE).add_(MIDDLE)).add_(HALF)
    torch.sub(TOP, bits, out=bits)
    h.copy_(torch.bitwise_and(bits, MANTISSA, out=h.view(torch.int32))).mul_(FRACTION)
    _polynomial(LOGARITHM, h, out=other).mul_(h)
    radius.copy_(bits).mul_(DOUBLINGS).sub_(other)
    # 1/(1/sqrt x), by three operations that IEEE 754 rounds: on a CPU rsqrt is two of them, and sqrt is MKL's and not
    # one; on CUDA sqrt is, and rsqrt an approximation
    (radius.sqrt_().reciprocal_() if radius.is_cuda else radius.rsqrt_()).reciprocal_()
    double = torch.bitwise_left_shift(sign, ONE, out=y.view(torch.int32))
    bits.bitwise_xor_(sign.bitwise_xor_(double).bitwise_and_(SIGN))
    y.copy_(double).mul_(TURN)
    square = torch.mul(y, y, out=angle)
    sine = _polynomial(SINE, square, out=other).mul_(y)
    product = torch.mul(sine, radius, out=y)
    return radius.sub_(sine.mul_(product)), _polynomial(COSINE, square, out=other).mul_(product)


def _polynomial(coefficients: Sequence[Tensor], x: Tensor, out: Tensor) -> Tensor:
    """Horner's rule with every product and sum rounded for itself: a fused one would differ between processors."""
    torch.mul(x, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        out.add_(c).mul_(x)
    return out.add_(coefficients[0])


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
