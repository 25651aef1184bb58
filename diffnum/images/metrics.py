r"""Distances between sets of image features, with the size of the set and the luck of the draw taken out of them.

A set is a tensor of features (N, d), a row per image. The features of :mod:`diffnum.images.features` are not those of
Inception, so none of these numbers is an FID, and none may be compared with one.

The distance of a *sample* is not that of what it was drawn from. It is too large by about C/n, with a C that differs
between samplers (Chong and Forsyth 2020, arXiv:1911.07023), and it scatters. Random halves of the sample show both:
their mean distance carries twice the bias, and their spread is that of the whole sample. See :func:`estimate`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from diffnum import arguments
from diffnum.denoisers.network import parsed
from diffnum.errors import DiffnumError
from diffnum.files import read, write

BLOCK = 2**22  # entries of a kernel matrix held at one time: 32 MiB


# -------------------------------------------------------------------------------------------------- reference


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with: the moments of a set of features, and some of its rows.

    Attributes:
        mean: (d,), float64; rounded to single precision, as in the file.
        cov: unbiased covariance (d, d), float64; rounded to single precision.
        count: how many rows the moments come from.
        features: evenly spaced rows (m, d) of the set, float64; rounded to half precision.
        sha256: checksum of the file that :meth:`save` writes or :meth:`load` has read.
        source: what the rows are, in words.
    """

    mean: Tensor
    cov: Tensor
    count: int
    features: Tensor
    sha256: str
    source: str = ""

    @classmethod
    def of(cls, features: Tensor | np.ndarray, keep: int = 2500, source: str = "") -> Reference:
        """The reference of a set of features (N, d), rounded as its file will be, so that a copy scores the same.

        Raises:
            ValueError: features that are no finite (N, d) with at least 2 rows, too large for half precision, or a
                ``keep`` below 2.
        """
        x = _check("features", features)
        if keep < 2:
            raise ValueError(f"keep={keep}; the kernel distance needs at least 2 rows of the reference")
        mean, cov = _moments(x)
        rows = np.linspace(0, len(x) - 1, min(keep, len(x))).round()
        tensors = {"mean": mean.float(), "cov": cov.float(), "features": x[torch.from_numpy(rows).long()].half()}
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise ValueError(f"features reach {x.abs().max().item():.3g}, too large for half precision; rescale them")
        return cls.from_bytes(_bytes(tensors, len(x), source), "the reference")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all; its checksum is :attr:`sha256`.

        Raises:
            OSError: the folder does not exist or cannot be written to.
        """
        tensors = {"mean": self.mean.float(), "cov": self.cov.float(), "features": self.features.half()}
        blob = _bytes(tensors, self.count, self.source)
        return write(path, lambda file: file.write(blob))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reference:
        """Read what :meth:`save` has written.

        Raises:
            DiffnumError: the file is missing, truncated or something else.
        """
        try:
            blob = read(path)
        except OSError as error:
            raise DiffnumError(f"cannot read the reference {path} ({error.strerror})") from None
        return cls.from_bytes(blob, str(path))

    @classmethod
    def from_bytes(cls, blob: bytes, name: str) -> Reference:
        """From the bytes of a file; ``name`` names it in errors."""
        from safetensors import SafetensorError

        try:
            found, texts = parsed(blob)
            tensors = {key: value.double() for key, value in found.items()}
            about = json.loads(texts["diffnum"])
            mean, cov, features = (tensors[key] for key in ("mean", "cov", "features"))
            d = len(mean)
            if not d or mean.ndim != 1 or cov.shape != (d, d) or features.shape[1:] != (d,) or len(features) < 2:
                raise ValueError("shapes of mean, cov and features differ")
            if not all(bool(t.isfinite().all()) for t in (mean, cov, features)):
                raise ValueError("it holds NaN or infinity")
            count, source = int(about["count"]), str(about["source"])
            if count < 2 or bool((cov.diagonal() < 0).any()):
                raise ValueError("a covariance needs 2 rows, and has no negative variance")
        except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise DiffnumError(
                f"{name} is not a reference of diffnum, or it is truncated ({str(error).splitlines()[0]}); "
                "get a fresh copy, or make it anew with Reference.of(features).save(path)"
            ) from None
        return cls(mean, cov, count, features, hashlib.sha256(blob).hexdigest(), source)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root of the covariance (d, d): the costly part of a Fréchet distance, once per reference."""
        return _root(self.cov)

    @cached_property
    def self_similarity(self) -> float:
        """Mean kernel of two different rows of :attr:`features`: the part of a kernel distance without the sample."""
        return _similarity(self.features, torch.ones(1, len(self.features), dtype=torch.float64, device="cpu"))[
            0
        ].item()


def _bytes(tensors: dict[str, Tensor], count: int, source: str) -> bytes:
    """The file of a reference, the same bytes for the same content."""
    from safetensors.torch import save

    # one entry: safetensors writes several in an order of chance, and the checksum would not be reproducible
    return save(tensors, {"diffnum": json.dumps({"count": count, "source": source}, sort_keys=True)})


# -------------------------------------------------------------------------------------------------- distances


def frechet_gaussians(mean: Tensor, cov: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    r"""Squared Fréchet distance of two Gaussians, which is their squared 2-Wasserstein distance.

    .. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\big(\Sigma_1 + \Sigma_2
              - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\big)

    The trace of the last root is the sum of the roots of eigenvalues of a symmetric matrix, so singular covariances
    are no difficulty; eigenvalues that rounding made negative count as 0.

    Args:
        mean, mean2: (d,).
        cov, cov2: symmetric (d, d).

    Raises:
        ValueError: shapes that do not agree, or values that are not finite.

    Source: Fréchet 1957; Dowson and Landau 1982.
    """
    moments = {"mean": mean, "cov": cov, "mean2": mean2, "cov2": cov2}
    for name, value in moments.items():
        wanted = (len(mean),) * (2 if "cov" in name else 1)
        if tuple(value.shape) != wanted:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; beside the mean it must have {wanted}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")
    mean, cov, mean2, cov2 = (value.double() for value in moments.values())
    return _frechet(mean, cov, mean2, cov2, _root(cov2))


def frechet(features: Tensor | np.ndarray, reference: Reference) -> float:
    """Squared Fréchet distance between the Gaussian with the moments of ``features`` (N, d) and the reference's.

    The formula is that of :func:`frechet_gaussians`. Heusel et al. 2017, arXiv:1706.08500, apply it to features of
    Inception and call that FID; with other features it is another number. It is too large by about C/N, and has a
    value for N < d too, where that is most of it: see :func:`estimate`.

    Raises:
        ValueError: features that are no finite (N, d) with at least 2 rows and the reference's d.
    """
    mean, cov = _moments(_check("features", features, reference))
    return _frechet(mean, cov, reference.mean, reference.cov, reference.root)


def kernel_distance(features: Tensor | np.ndarray, reference: Reference) -> float:
    r"""Unbiased squared maximum mean discrepancy with the cubic kernel, against the rows kept in the reference.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m-1)}
              - \frac{2}{n m} \sum_{i, j} k(x_i, y_j), \qquad k(x, y) = \Big(\frac{x \cdot y}{d} + 1\Big)^3

    It may be negative. Binkowski et al. 2018, arXiv:1801.01401, use it on features of Inception and call it KID.

    Raises:
        ValueError: as :func:`frechet`.
    """
    x = _check("features", features, reference)
    return _kernel_on(x, reference, torch.ones(1, len(x), dtype=torch.bool, device="cpu"))[0].item()


def _frechet(mean: Tensor, cov: Tensor, mean2: Tensor, cov2: Tensor, root2: Tensor) -> float:
    """The Fréchet distance, with the root of the second covariance at hand."""
    product = root2 @ cov @ root2
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    return max(((mean - mean2).square().sum() + cov.trace() + cov2.trace() - 2 * cross).item(), 0.0)


def _root(cov: Tensor) -> Tensor:
    """Symmetric root of a symmetric matrix; negative eigenvalues, which rounding made, count as 0."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) of the rows."""
    mean = x.mean(0)
    y = x - mean
    return mean, y.T @ y / (len(x) - 1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """The cubic kernel of all pairs of rows, (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _similarity(x: Tensor, members: Tensor) -> Tensor:
    """Mean kernel of two different members of each of S subsets of the rows, (S,); ``members`` (S, n) are 0 or 1."""
    total, step = torch.zeros(len(members), dtype=torch.float64, device="cpu"), max(BLOCK // len(x), 1)
    for rows, chosen in zip(x.split(step), members.split(step, 1), strict=True):
        total += ((members @ _kernel(x, rows)) * chosen).sum(1)
    own = members @ (x.square().mean(1) + 1) ** 3
    size = members.sum(1)
    return (total - own) / (size * (size - 1))


def _kernel_on(x: Tensor, reference: Reference, members: Tensor) -> Tensor:
    """Kernel distances of S subsets of the rows (S,): every kernel is evaluated once for all of them."""
    step = max(BLOCK // len(reference.features), 1)
    cross = torch.cat([_kernel(rows, reference.features).mean(1) for rows in x.split(step)])
    w = members.double()
    return _similarity(x, w) + reference.self_similarity - 2 * (w @ cross) / w.sum(1)


# ------------------------------------------------------------------------------------------------ uncertainty


@dataclass(frozen=True)
class Estimate:
    """A distance, or a difference of two, freed of the bias of a finite sample, with its interval.

    Attributes:
        value: at the n rows given.
        limit: extrapolated to infinitely many.
        low, high: interval for what ``limit`` estimates, at ``level``; it is symmetric about ``limit``.
        n: rows of the sample.
        halves: random halves of it that were scored.
        level: confidence level.
        seed: of the halves.
    """

    value: float
    limit: float
    low: float
    high: float
    n: int
    halves: int
    level: float
    seed: int


Distance = Callable[[Any, Reference], float]


def estimate(
    distance: Distance,
    features: Tensor | np.ndarray,
    reference: Reference,
    halves: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    r"""A distance extrapolated to infinitely many samples, with an interval, from random halves of the sample.

    Halves are drawn without replacement and come in pairs, a half and its complement, with distances
    :math:`\theta` and :math:`\theta'`. With the bias :math:`b(n)` the limit is Richardson's,

    .. math:: \theta_\infty = \theta_n - b(n) \frac{\bar\theta - \theta_n}{b(n/2) - b(n)}, \qquad
              b(n) = C/n \ \Rightarrow\ \theta_\infty = 2 \theta_n - \bar\theta.

    The factor C is the sample's own. The shape of b is 1/n, but for :func:`frechet` it is :func:`frechet_floor`,
    which tends to C/n where n is many times d. Where it is not, the floor is right for samples near the reference; with
    n = 2 d and a sample that lacks three quarters of the directions we saw a seventh of the bias left over.
    :func:`kernel_distance` has no bias: there the formula changes nothing but by the chance of which halves are drawn.

    The interval is Student's, with a degree of freedom per pair and the variance

    .. math:: s^2 = \max\Big(\overline{\big(\tfrac{\theta - \theta'}{2}\big)^2} - v, v\Big), \qquad
              v = \mathrm{Var}\Big(\frac{\theta + \theta'}{2}\Big).

    A half of a sample scatters about it, given the sample, as the sample does about the truth:
    :math:`\sigma^2 (2/n - 1/n) = \sigma^2/n`. That is the part linear in the empirical distribution. The quadratic
    part, which is all there is near distance 0, has the variance v in the limit and adds 2 v to the first mean. The
    kernel distance of heavy-tailed features needs more rows: at n = 200 we saw 95 % intervals cover 80 % of the time.

    Args:
        distance: :func:`frechet`, :func:`kernel_distance`, or a function with their arguments and a bias like 1/n.
        features: (n, d), n at least 4; the theory wants hundreds.
        reference: taken as exact. Its own finite size adds to ``limit`` about ``frechet_floor(reference, count)``,
            and nothing to speak of to a difference.
        halves: how many are scored, an even number.
        seed: of the halves; sets of the same n share them.
        level: confidence level of the interval.

    Raises:
        ValueError: features as in :func:`frechet`, an odd number of halves or fewer than 20, a level outside (0, 1).

    Source: bias, Chong and Forsyth 2020, arXiv:1911.07023; halves, Shao and Wu 1989 (delete-d jackknife), Politis and
    Romano 1994 (subsampling). Pairs of complements, the subtraction of v and the shape of b are ours.
    """
    x = _check("features", features, reference, 4)
    members = _halves(len(x), halves, seed)
    scores = _on_halves(distance, x, reference, members)
    return _estimate(distance, distance(x, reference), scores, reference, len(x), seed, level)


def difference(
    distance: Distance,
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    reference: Reference,
    halves: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """``distance(a) - distance(b)`` for two sets whose rows i come from the same seed, as in :func:`estimate`.

    Each half takes the same rows of both, so what the seeds have in common cancels from the interval.

    Raises:
        ValueError: as :func:`estimate`, or sets with different numbers of rows.
    """
    x, y = _check("a", a, reference, 4), _check("b", b, reference, 4)
    if len(x) != len(y):
        raise ValueError(f"a has {len(x)} rows and b has {len(y)}; row i of both must come from the same seed")
    members = _halves(len(x), halves, seed)
    scores = _on_halves(distance, x, reference, members) - _on_halves(distance, y, reference, members)
    return _estimate(distance, distance(x, reference) - distance(y, reference), scores, reference, len(x), seed, level)


def verdict(difference: Estimate) -> str:
    """What the interval of d(a) - d(b) says of "a is closer than b": "holds", "does not hold" or "not shown"."""
    if difference.high < 0:
        return "holds"
    return "does not hold" if difference.low > 0 else "not shown"


@lru_cache(maxsize=16)
def frechet_floor(reference: Reference, n: int) -> float:
    r"""Expected Fréchet distance of n rows drawn from the reference's own Gaussian: what a perfect sampler scores.

    With eigenvalues :math:`\lambda_i` of the reference covariance and the error E of a sample's, in their basis, the
    part of the covariances is :math:`q = \tfrac12 \sum_{ij} E_{ij}^2 / (\lambda_i + \lambda_j)` to second order, and

    .. math:: b(n) = \frac{\mathrm{tr}\,\Sigma}{n} + \mathrm{E}[\mathrm{d}^2 - q]
              + \frac{1}{2 (n - 1)} \sum_{ij} \frac{\lambda_i \lambda_j (1 + \delta_{ij})}{\lambda_i + \lambda_j}.

    The mean in the middle is taken over random Wishart matrices (Bartlett's triangle). It is small where n is many
    times d, so few are enough: the result is good to 0.2 % or so.

    Raises:
        ValueError: n below 2.
    """
    if n < 2:
        raise ValueError(f"n={n}; a covariance needs at least 2 rows")
    values = torch.linalg.eigvalsh(reference.cov).clamp_min(0)
    d, sums = len(values), (values[:, None] + values).clamp_min(1e-300)
    roots = values.sqrt()
    rng, k = np.random.Generator(np.random.Philox(key=n)), min(n - 1, d)
    excess, draws = 0.0, max(64, 2**14 // d)
    for _ in range(draws):
        triangle = np.tril(rng.standard_normal((d, k)), -1)
        triangle[range(k), range(k)] = np.sqrt(rng.chisquare(n - 1 - np.arange(k)))
        factor = roots[:, None] * torch.from_numpy(triangle) / math.sqrt(n - 1)
        cov = factor @ factor.T
        error = cov - values.diag()
        root = torch.linalg.eigvalsh(roots[:, None] * cov * roots).clamp_min(0).sqrt()
        exact = cov.trace() + values.sum() - 2 * root.sum()
        excess += (exact - (error.square() / sums).sum() / 2).item() / draws
    leading = values[:, None] * values * (1 + torch.eye(d, dtype=torch.float64, device="cpu")) / sums
    return values.sum().item() / n + excess + leading.sum().item() / 2 / (n - 1)


def _halves(n: int, halves: int, seed: int) -> Tensor:
    """Random halves of n rows, without replacement: a mask (halves/2, n); the other halves are their complements."""
    if halves < 20 or halves % 2:
        raise ValueError(f"halves={halves}; they come in pairs, and 20 are the fewest that show a spread")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed} is outside 0 ... 2**64 - 1")
    order = np.random.Generator(np.random.Philox(key=seed)).random((halves // 2, n)).argsort(1)
    return torch.from_numpy(order < n // 2)


def _on_halves(distance: Distance, x: Tensor, reference: Reference, members: Tensor) -> Tensor:
    """Distances (pairs, 2) of each half and of its complement."""
    if distance is kernel_distance:  # pairs of rows are shared by many halves
        return _kernel_on(x, reference, torch.cat([members, ~members])).reshape(2, -1).T
    scores = [[distance(x[rows], reference) for rows in (half, ~half)] for half in members]
    return torch.tensor(scores, dtype=torch.float64, device="cpu")


def _estimate(
    distance: Distance, value: float, scores: Tensor, reference: Reference, n: int, seed: int, level: float
) -> Estimate:
    """Limit and interval from the distances (pairs, 2) of halves."""
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    sizes = n // 2, n - n // 2
    whole, half = 1 / n, (1 / sizes[0] + 1 / sizes[1]) / 2
    if distance is frechet and bool(reference.cov.any()):
        whole, half = frechet_floor(reference, n), sum(frechet_floor(reference, m) for m in sizes) / 2
    mean = scores.mean(1)
    limit = value - whole * (mean.mean().item() - value) / (half - whole)
    linear, v = ((scores[:, 0] - scores[:, 1]) / 2).square().mean().item(), mean.var().item()
    error = stdtrit(len(scores), (1 + level) / 2).item() * math.sqrt(max(linear - v, v))
    return Estimate(value, limit, limit - error, limit + error, n, scores.numel(), level, seed)


def _check(name: str, value: Tensor | np.ndarray, reference: Reference | None = None, least: int = 2) -> Tensor:
    """Features as a float64 tensor (N, d) on the CPU."""
    x = arguments.dense(name, value)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; features are (N, d), a row per image")
    if len(x) < least:
        raise ValueError(f"{name} has {len(x)} rows; at least {least} are needed")
    if reference is not None and x.shape[1] != len(reference.mean):
        raise ValueError(f"{name} has d = {x.shape[1]} and the reference {len(reference.mean)}: another network?")
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"{name} has values that are not finite, first in row {int((~x.isfinite()).any(1).nonzero()[0])}"
        )
    return x
