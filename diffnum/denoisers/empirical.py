r"""The ideal denoiser of a finite data set: every point a point mass of the same weight.

.. math::
   D(x, \sigma) = \sum_k r_k x_k, \qquad \varepsilon(x, \sigma) = \sum_k r_k \frac{x - x_k}{\sigma}, \qquad
   r_k = \mathrm{softmax}_k\Bigl(-\frac{|x - x_k|^2}{2\sigma^2}\Bigr)

Source: Karras et al. 2022, arXiv:2206.00364, appendix B.3, equation 57. A network trained to the end on a finite set
would be this denoiser, and its sampler would return the training data.

Distances come from the product :math:`x \cdot x_k`, chunk by chunk, as :math:`-\tfrac12 |x - x_k|^2 = x \cdot x_k -
\tfrac12 |x_k|^2 - \tfrac12 |x|^2`. Its rounding error, divided by :math:`\sigma^2`, is the error of a log-weight: 1e-5
at :math:`\sigma = 5` for images in float32, and larger than 1 at :math:`\sigma = 0.01`. So points whose weight counts
are measured again as float64 differences :math:`x - x_k`, which also gives eps without cancellation. At small sigma
these are few; at large sigma the product is good enough; where it is neither, the product is taken in float64.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffnum import arguments
from diffnum.ambient import Frozen, unrounded
from diffnum.dct import dct2
from diffnum.denoisers.exact import TINY, drawing, frequencies, level, row_by_row, spread
from diffnum.errors import DiffnumError, WrongKind

__all__ = ["Empirical"]

# The error allowed in a log-weight, by the precision of the products.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}
# Unit roundoff of a product of float32 matrices, by what torch.set_float32_matmul_precision allows.
ROUNDOFF = {"highest": 2**-24, "high": 2**-11, "medium": 2**-8}
# Weights below this one, relative to the largest, are zero: float32 has few digits left for them, and works slowly.
SMALLEST = 1e-30
# Measuring one point again costs as much as this many points in a float64 product.
REPEAT = 32
# Numbers in the differences that are measured at once: 1 MiB, which stays in the cache.
PAIRS = 2**17


class Empirical(Frozen):
    """Data uniform on a finite set of points, the formulas at the top of the module.

    data: (N, *event), N >= 1, a floating-point tensor or array; or uint8 images, value v standing for v/127.5 - 1.
    It is copied, in its dtype; another device gets a copy of its own on first use. chunk: points handled at once.

    Memory of a call beyond the data, for batch B and events of d numbers: about 30 B chunk + 40 B d bytes and a few MiB
    more. Data whose dtype is not that of x add chunk d numbers of x's dtype, DCT coefficients three times that; so does
    float64, in the rare case that float32 products are too rough for more points than can be measured again.

    The result is right to about 1e-5 (float32) or 1e-10 (float64) of its largest entry. It carries no gradient, and a
    state or level that asks for one is refused (DiffnumError). Raises TypeError or ValueError with the argument's name.
    """

    def __init__(self, data: Any, chunk: int = 4096):
        chunk = arguments.whole("chunk", chunk, high=2**31)
        if not isinstance(data, Tensor):
            try:
                data = torch.from_numpy(np.asarray(data))
            except (TypeError, ValueError) as error:
                raise WrongKind(f"data is not an array of numbers: {error}") from None
        if data.is_nested or data.layout != torch.strided or data.device.type == "meta":
            raise WrongKind("data is not an ordinary dense tensor: give one")
        if not data.is_floating_point() and data.dtype != torch.uint8:
            raise WrongKind(
                f"data is {data.dtype}: give floating-point points (N, *event), or uint8 images for v/127.5 - 1"
            )
        if data.ndim == 0 or data.numel() == 0:
            raise ValueError(f"data has shape {tuple(data.shape)}: give at least one point, (N, *event)")
        data = data.detach().clone(memory_format=torch.contiguous_format)
        self.shape, self.chunk = tuple(data.shape[1:]), chunk  # event shape
        self.size = math.prod(self.shape)  # numbers in one event, d
        points = (_widen(data[i : i + chunk], torch.float64) for i in range(0, len(data), chunk))
        halves = torch.cat([0.5 * x.square().flatten(1).sum(1) if x.ndim > 1 else 0.5 * x.square() for x in points])
        if not halves.isfinite().all():
            raise ValueError(
                f"data contains NaN or infinity in {int((~halves.isfinite()).sum())} of {len(data)} points: remove them"
            )
        self._device = data.device
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {data.device: (data, halves)}

    def __repr__(self) -> str:
        data, _ = self._copies[self._device]
        return f"Empirical(points={len(data)}, shape={self.shape}, dtype={data.dtype}, chunk={self.chunk})"

    def __len__(self) -> int:
        return len(self._copies[self._device][0])

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x]. x: (B, *event); sigma >= 0: a float, () or (B,); at 0 the nearest point.

        Raises TypeError (x or sigma of a wrong kind) or ValueError (wrong event shape, negative or non-finite float
        sigma). On an accelerator every chunk waits for the number of points to be measured again.
        """
        return self._white(x, level(sigma, x, zero=True), difference=False)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise (x - D)/sigma without that difference. Arguments and errors as for a call, but sigma > 0."""
        return self._white(x, level(sigma, x), difference=True)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of log p(x; sigma) = -eps/sigma. Arguments and errors as for `eps`."""
        return (-self.eps(x, sigma) / spread(level(sigma, x), x.ndim)).to(x.dtype)

    @row_by_row
    def posterior(self, y: Tensor, sigma: Tensor) -> Tensor:
        r"""E[y0 | y] where y = y0 + sigma n are DCT coefficients with a noise level per frequency.

        y: (B, ..., H, W) orthonormal DCT-II coefficients; sigma: (H, W), positive, or (B, H, W). The weights are
        :math:`r_k = \mathrm{softmax}_k(-\sum_f (y_f - \hat x_{k,f})^2 / 2\sigma_f^2)`, :math:`\hat x_k` the
        coefficients of point k, which are computed chunk by chunk at every call. Returns coefficients like y. Raises
        TypeError or ValueError as a call does, also for events without (H, W). Source: Bayes' rule.
        """
        return self._coloured(y, sigma, difference=False)

    @row_by_row
    def posterior_eps(self, y: Tensor, sigma: Tensor) -> Tensor:
        """(y - E[y0 | y])/sigma without that difference; arguments and errors as for `posterior`."""
        return self._coloured(y, sigma, difference=True)

    def sample(self, n: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """n points drawn with replacement, (n, *event) on the CPU; without a generator those of seed 0."""
        n, generator = drawing(n, self.shape, generator, dtype)
        k = torch.randint(len(self), (n,), generator=generator, device="cpu")
        return _widen(self._copies[self._device][0][k.to(self._device)].cpu(), dtype)

    def _white(self, x: Tensor, sigma: float | Tensor, difference: bool) -> Tensor:
        """D, or eps where difference is asked for, with one noise level for all coordinates."""
        _refuse_gradients(x, sigma)
        if x.ndim == 0 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (batch, *event) with event shape {self.shape}")
        s = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1, 1)
        out = self._sum(x, s, None, difference)
        return (out / s if difference else out).reshape(x.shape).to(x.dtype)

    def _coloured(self, y: Tensor, sigma: Tensor, difference: bool) -> Tensor:
        """The posterior mean, or posterior_eps where difference is asked for, with a noise level per frequency."""
        sigma = frequencies(y, sigma, self.shape)
        _refuse_gradients(y, sigma)
        least = sigma.min().reshape(1, 1)  # noise level `least` in a metric that counts noisier frequencies less
        out = self._sum(y, least, (least / sigma).square().expand(self.shape).reshape(-1), difference)
        out = out.reshape(y.shape)
        return (out / sigma if difference else out).to(y.dtype)

    @unrounded
    @torch.no_grad()
    def _sum(self, x: Tensor, sigma: Tensor, metric: Tensor | None, difference: bool) -> Tensor:
        """The mean D of the points, or x - D where difference is asked for, float64 (B, d).

        sigma: (1, 1) or (B, 1) float64. With a metric v (d,), x and the points are DCT coefficients, and squares are
        counted as v_j (x_j - x_kj)^2. Points take part in one of two ways: measured again in float64, one by one, or
        all together by the two matrix products.
        """
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        x = x.double().reshape(len(x), self.size)
        sums = _Softmax(x, sigma.square().clamp_min(TINY), TOLERANCE[dtype], difference)
        data, halves = self._on(x.device)
        size = max(PAIRS // self.size, 1)
        for start in range(0, len(data), self.chunk):
            rows = slice(start, start + self.chunk)
            points = self._points(data[rows], dtype, metric)
            half = halves[rows] if metric is None else None
            closeness, near = _near(sums, points, half, metric)
            if dtype == torch.float32 and len(near) * REPEAT > closeness.numel():
                points = self._points(data[rows], torch.float64, metric)
                closeness, near = _near(sums, points, half, metric)
            for part in range(0, len(near), size):
                row, k = near[part : part + size].unbind(1)
                sums.add_pairs(row, self._points(data[rows][k], torch.float64, metric), metric)
            closeness[near.unbind(1)] = -math.inf
            sums.add_all(closeness, points)
        return sums.result()

    def _points(self, points: Tensor, dtype: torch.dtype, metric: Tensor | None) -> Tensor:
        """Points (n, *event) as coordinates (n, d) in dtype: pixels, or DCT coefficients where there is a metric."""
        points = _widen(points, dtype)
        return (points if metric is None else dct2(points)).reshape(len(points), self.size)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._copies:
            with torch.inference_mode(False):  # a cached inference tensor would break autograd later
                data, halves = self._copies[self._device]
                self._copies[device] = data.to(device), halves.to(device)
        return self._copies[device]


class _Softmax:
    """Softmax sums over points that arrive in parts: rescaled whenever a larger log-weight comes."""

    def __init__(self, x: Tensor, variance: Tensor, tolerance: float, difference: bool):
        """x: (B, d) float64; variance: sigma^2, (1, 1) or (B, 1) float64; tolerance: of a log-weight."""
        self.x, self.tolerance, self.difference = x, tolerance, difference
        self.variance = variance.expand(len(x), 1)
        self.peak = torch.full_like(x[:, :1], -1e300)  # the largest -|x - x_k|^2/2 so far; finite, to subtract it
        self.total, self.loose = torch.zeros_like(self.peak), torch.zeros_like(self.peak)
        self.sum = torch.zeros_like(x)

    def add_all(self, closeness: Tensor, points: Tensor) -> None:
        """Closeness (B, n) = -|x - x_k|^2/2, overwritten; points (n, d)."""
        best = closeness.amax(1, keepdim=True)
        if not bool((best - self.peak > math.log(SMALLEST) * self.variance).any()):
            return  # small sigma: nearly all chunks end here
        self._raise(torch.maximum(self.peak, best))
        weights = closeness.sub_(self.peak).div_(self.variance).exp_().to(points.dtype)
        part = torch.threshold_(weights, SMALLEST, 0.0).sum(1, keepdim=True, dtype=torch.float64)
        self.total += part
        self.loose += part
        self.sum += weights @ points

    def add_pairs(self, row: Tensor, points: Tensor, metric: Tensor | None) -> None:
        """Point i counts for row[i] alone; row: (P,), points: (P, d) float64."""
        gap = points - self.x[row]
        closeness = -0.5 * (gap.square() if metric is None else gap.square().mul_(metric)).sum(1)
        self._raise(self.peak.scatter_reduce(0, row[:, None], closeness[:, None], "amax"))
        weights = (closeness[:, None] - self.peak[row]).div_(self.variance[row]).exp_()
        self.total.index_add_(0, row, weights)
        self.sum.index_add_(0, row, (gap if self.difference else points) * weights)

    def _raise(self, peak: Tensor) -> None:
        shrink = ((self.peak - peak) / self.variance).exp()
        self.peak = peak
        for sums in (self.total, self.loose, self.sum):
            sums *= shrink

    def result(self) -> Tensor:
        """The mean D of the points, or x - D."""
        return (self.loose * self.x - self.sum if self.difference else self.sum) / self.total


def _near(sums: _Softmax, points: Tensor, half: Tensor | None, metric: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""-|x - x_k|^2/2 by a product, (B, n) float64, and the pairs (row, k) to be measured again, (P, 2).

    A product of two vectors, taken in blocks, errs by about :math:`e = u (4 |x \cdot x_k| + \tfrac12 |x| |x_k|)`, u the
    unit roundoff (measured: at most 3 in place of 4, d = 2 to 3072). A log-weight then errs by :math:`\delta =
    e/\sigma^2`, and the mean by :math:`\delta` times the root of the sum of :math:`r_k^2`, since errors of different k
    are independent. So the points with :math:`\delta \sqrt{r_k}` above the tolerance are the ones to measure again.
    In :math:`r_k` every eighth point of the chunk and all earlier ones stand for the whole sum, which is larger.
    """
    weighted = sums.x if metric is None else sums.x * metric
    product = weighted.to(points.dtype) @ points.mT
    if metric is not None:
        half = 0.5 * torch.mv(points * points, metric.to(points.dtype)).double()
    assert half is not None
    half_x = 0.5 * (weighted * sums.x).sum(1, keepdim=True)
    largest = torch.linalg.vector_norm(product, math.inf, dim=1, keepdim=True).double()
    closeness = product.double().sub_(half).sub_(half_x)
    best = torch.maximum(sums.peak, closeness.amax(1, keepdim=True))
    error = 4 * largest + (half_x * half.max()).sqrt()
    if metric is not None:  # coefficients carry the rounding of the transform, about 4 u of a typical pixel
        pixel = torch.linalg.vector_norm(points, dim=1).max().double() / points.shape[1] ** 0.5
        error += 4 * pixel * (-2 * best).clamp_min(0).sqrt()
    error *= 2**-53 if points.dtype == torch.float64 else ROUNDOFF[torch.get_float32_matmul_precision()]
    delta = error / sums.variance
    total = ((closeness[:, ::8] - best) / sums.variance).exp().sum(1, keepdim=True)
    total += sums.total * ((sums.peak - best) / sums.variance).exp()
    reach = (2 * (delta.clamp_max(1) / sums.tolerance).log() - total.clamp_min(1).log()) * sums.variance
    # twice six standard deviations, so that the error itself hides no point
    floor = torch.where(delta > sums.tolerance, best - reach - 12 * error, math.inf)
    return closeness, (closeness >= floor).nonzero()


def _refuse_gradients(x: Tensor, sigma: float | Tensor) -> None:
    if torch.is_grad_enabled() and (x.requires_grad or (isinstance(sigma, Tensor) and sigma.requires_grad)):
        raise DiffnumError(
            "Empirical has no gradient with respect to its input or its level; call it under torch.no_grad(), "
            "leave out gradients=True, or use dn.GaussianMixture with small stds"
        )


def _widen(points: Tensor, dtype: torch.dtype) -> Tensor:
    """Points in dtype; uint8 v becomes v/127.5 - 1."""
    return points.to(dtype).div_(127.5).sub_(1) if points.dtype == torch.uint8 else points.to(dtype)
