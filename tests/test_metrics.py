"""Distances between sets of features: against closed forms and brute force, their bias, and how often intervals cover.

The features here are synthetic: skewed, with a known mean and covariance, so that the limit of every distance is known.
"""

import dataclasses
import hashlib
from math import hypot

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from diffnum.errors import DiffnumError
from diffnum.images.metrics import (
    Estimate,
    Reference,
    difference,
    estimate,
    frechet,
    frechet_floor,
    frechet_gaussians,
    kernel_distance,
    verdict,
)

LARGE = 10**9  # the count of a reference whose moments are exact


def root(d: int, decay: float = 1.0) -> np.ndarray:
    """A symmetric root of a covariance with eigenvalues like 1/k^decay and trace d."""
    values = np.arange(1, d + 1) ** -decay
    basis = np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]
    return (basis * np.sqrt(d * values / values.sum())) @ basis.T


def skewed(n: int, d: int, seed: int) -> np.ndarray:
    """Independent exponential variables with mean 0 and variance 1, (n, d)."""
    return np.random.default_rng(seed).exponential(size=(n, d)) - 1


def exact(factor: np.ndarray) -> Reference:
    """The reference with mean 0 and covariance ``factor factor^T``, known exactly."""
    d = len(factor)
    cov = torch.from_numpy(factor @ factor.T)
    return Reference(torch.zeros(d, dtype=torch.float64), cov, LARGE, torch.zeros(2, d, dtype=torch.float64), "")


@pytest.fixture(scope="module")
def real():
    """The reference of 20,000 skewed rows, d = 12, and 1,000 further rows of the same law."""
    x = skewed(21_000, 12, 0) @ root(12) + 0.5
    return Reference.of(x[:20_000], keep=600), x[20_000:]


# -------------------------------------------------------------------------------------------- Fréchet distance


def test_frechet_of_commuting_gaussians():
    """Diagonal in one basis: the sum of (root difference)^2 and of mean differences squared."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    a, b, shift = rng.uniform(0, 2, 7), rng.uniform(0, 2, 7), rng.standard_normal(7)
    a[0], b[1] = 0, 0  # singular, both in directions of their own
    covs = [torch.from_numpy((basis * v) @ basis.T) for v in (a, b)]
    zero = torch.zeros(7, dtype=torch.float64)
    found = frechet_gaussians(zero, covs[0], torch.from_numpy(shift), covs[1])
    assert found == pytest.approx((shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-7)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_frechet_of_general_gaussians(d):
    """Against the formula with a matrix root, and symmetric."""
    rng = np.random.default_rng(d)
    factors = rng.standard_normal((2, d, d + 2))
    covs, means = [f @ f.T for f in factors], rng.standard_normal((2, d))
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(covs[0] + covs[1] - 2 * np.real(sqrtm(covs[0] @ covs[1])))
    one, two = [(torch.from_numpy(m), torch.from_numpy(c)) for m, c in zip(means, covs, strict=True)]
    assert frechet_gaussians(*one, *two) == pytest.approx(wanted, rel=1e-9)
    assert frechet_gaussians(*two, *one) == pytest.approx(wanted, rel=1e-9)


def test_frechet_of_features_is_that_of_their_moments(real):
    reference, x = real
    mean, cov = torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x.T))
    wanted = frechet_gaussians(mean, cov, reference.mean, reference.cov)
    assert frechet(x, reference) == pytest.approx(wanted, rel=1e-12)
    assert frechet(torch.from_numpy(x), reference) == frechet(x, reference)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_fewer_rows_than_features(n):
    """A singular covariance gives a finite value, the same as the formula through singular values of the rows."""
    factor = root(20)
    reference, x = exact(factor), skewed(n, 20, 1) @ factor
    y = (x - x.mean(0)) / np.sqrt(n - 1)
    cross = np.linalg.svd(y @ factor, compute_uv=False).sum()
    wanted = (x.mean(0) ** 2).sum() + (y**2).sum() + np.trace(factor @ factor) - 2 * cross
    assert frechet(x, reference) == pytest.approx(wanted, rel=1e-6)


def test_identical_sets_and_constant_features():
    x = skewed(300, 6, 2)
    x[:, 3] = 0.25
    reference = Reference.of(x.astype(np.float16))
    assert 0 <= frechet(x.astype(np.float16), reference) < 1e-6
    constant = Reference.of(np.ones((5, 3)))
    found = estimate(frechet, np.full((8, 3), 2.0), constant, halves=20)
    assert (found.value, found.limit, found.low, found.high) == (3, 3, 3, 3)


# --------------------------------------------------------------------------------------------- kernel distance


def brute_force(x, y) -> float:
    """The unbiased estimate by loops over pairs."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    own = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + other - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [None, 30])
def test_kernel_distance_is_the_double_sum(monkeypatch, block):
    """For the whole set, for halves, and when the kernel is evaluated in blocks of rows."""
    x, reference = skewed(13, 4, 3) + 0.3, Reference.of(skewed(17, 4, 4))
    if block:
        monkeypatch.setattr("diffnum.images.metrics.BLOCK", block)
    y = reference.features.numpy()
    assert kernel_distance(x, reference) == pytest.approx(brute_force(x, y), rel=1e-12)
    fast = estimate(kernel_distance, x, reference, halves=20)
    slow = estimate(lambda a, _: brute_force(a.numpy(), y), x, reference, halves=20)
    assert dataclasses.astuple(fast) == pytest.approx(dataclasses.astuple(slow), rel=1e-10)


def test_kernel_distance_is_unbiased():
    """Its mean over small samples of the reference's own rows is 0; with the diagonal it would be far above."""
    factor = root(8)
    reference = Reference.of(skewed(4000, 8, 5) @ factor, keep=4000)
    rows = np.random.default_rng(6).integers(0, 4000, (400, 20))
    # drawn with replacement from the rows, so the limit is that of the rows against themselves: the diagonal's share
    y = reference.features
    own = ((y.square().mean(1) + 1) ** 3).mean().item()
    limit = -(own - reference.self_similarity) / 4000
    found = np.array([kernel_distance(y[r], reference) for r in rows])
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - limit) < 3 * error
    assert (own - reference.self_similarity) / 20 > 20 * error  # the bias of the sum with its diagonal


# -------------------------------------------------------------------------------------------------- both distances


@pytest.mark.parametrize("distance", [frechet, kernel_distance])
def test_distance_grows_with_noise_and_with_mixing(real, distance):
    reference, x = real
    noise = np.random.default_rng(7).standard_normal(x.shape)
    noisy = [distance(x + s * noise, reference) for s in (0, 0.8, 1.2, 1.6)]
    mixed = [distance((1 - w) * x + w * np.roll(x, 1, axis=0), reference) for w in (0, 0.25, 0.4, 0.5)]
    assert (np.diff(noisy) > 0).all(), noisy
    assert (np.diff(mixed) > 0).all(), mixed


@pytest.mark.parametrize("distance", [frechet, kernel_distance])
def test_halves_of_one_set_are_at_distance_zero(real, distance):
    """After extrapolation, and not when one is shifted."""
    reference, x = real
    same, shifted = estimate(distance, x, reference), estimate(distance, x + 0.2, reference)
    assert same.low < 0 < same.high, same
    assert shifted.low > 0, shifted
    assert verdict(difference(distance, x, x + 0.2, reference)) == "holds"
    assert verdict(difference(distance, x + 0.2, x, reference)) == "does not hold"
    assert verdict(difference(distance, x, x, reference)) == "not shown"
    raw = estimate(frechet, x, reference)
    assert raw.value > raw.high, "the distance of a finite sample of the same law is not zero"


# ------------------------------------------------------------------------------------------------------- bias


def test_bias_is_like_one_over_n_and_is_removed():
    """Means over 60 samples of n = 200 and 400: the bias halves, and what the limit leaves is within its error."""
    factor = root(16)
    reference, truth = exact(factor), 0.05**2 * 16
    means = {}
    for n in (200, 400):
        samples = [1.05 * skewed(n, 16, 100 + r) @ factor for r in range(60)]
        found = [estimate(frechet, x, reference, halves=20) for x in samples]
        value, limit = (np.array([getattr(e, k) for e in found]) for k in ("value", "limit"))
        means[n] = value.mean() - truth
        error = limit.std() / 60**0.5
        assert means[n] > 4 * error
        assert abs(limit.mean() - truth) < 3 * error, (n, limit.mean(), truth, error)
    assert means[200] / means[400] == pytest.approx(2, abs=0.5)


def test_floor_is_the_mean_distance_of_gaussian_samples():
    """Also for samples of fewer rows than features; and 1/n, exactly known, where n is large."""
    d = 24
    factor = root(d)
    reference, rng = exact(factor), np.random.default_rng(8)
    for n in (10, 60):
        found = np.array([frechet(rng.standard_normal((n, d)) @ factor, reference) for _ in range(1000)])
        error = found.std() / 1000**0.5
        assert error < 0.006 * found.mean()
        assert abs(found.mean() - frechet_floor(reference, n)) < 3 * error, n
    k = np.linalg.eigvalsh(factor @ factor)
    leading = d + (np.outer(k, k) * (1 + np.eye(d)) / np.add.outer(k, k)).sum() / 2
    assert frechet_floor(reference, 10**6) * 10**6 == pytest.approx(leading, rel=1e-4)


def test_floor_extrapolates_where_one_over_n_does_not():
    """d = 64 features that decay slowly and n = 128 rows: halves have fewer rows than features."""
    factor = root(64, 0.5)
    reference, truth = exact(factor), 0.1**2 * 64
    samples = [1.1 * np.random.default_rng(r).standard_normal((128, 64)) @ factor for r in range(8)]
    with_floor = np.mean([estimate(frechet, x, reference, halves=20).limit for x in samples])
    plain = np.mean([estimate(lambda a, r: frechet(a, r), x, reference, halves=20).limit for x in samples])
    assert abs(with_floor - truth) < 0.2 * abs(plain - truth), (with_floor, plain, truth)


def test_resampling_with_replacement_adds_the_bias_again():
    """Why halves: the ordinary bootstrap's values lie about C/n above that of the sample, which is C/n too large."""
    factor = root(16)
    reference, x, rng = exact(factor), skewed(400, 16, 9) @ factor, np.random.default_rng(10)
    found = estimate(frechet, x, reference)
    bootstrap = np.array([frechet(x[rng.integers(0, 400, 400)], reference) for _ in range(200)])
    assert bootstrap.mean() - found.value == pytest.approx(found.value - found.limit, rel=0.25)
    assert np.quantile(bootstrap, 0.025) > found.value  # its interval does not even hold the value


# -------------------------------------------------------------------------------------------------- intervals


def coverage(intervals: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low <= truth <= e.high for e in intervals]))


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_intervals_cover(shift):
    """200 samples of n = 300, at distance zero, where the linear part vanishes, and away from it.

    A coverage of 0.95 is seen above 0.90 in 200 trials, and the lengths say that it is not bought: at zero, 1.2 times
    the ideal ones are seen, and without the subtraction of v it would be 1.6 times.
    """
    d, n, noise = 16, 300, 0.4
    factor = root(d)
    reference, zero = exact(factor), torch.zeros(d)
    noisy = torch.from_numpy(factor @ factor + noise**2 * np.eye(d))
    truths = shift**2 * d, shift**2 * d + frechet_gaussians(zero, noisy, zero, reference.cov)
    ones, others, pairs = [], [], []
    for r in range(200):
        x = skewed(n, d, 1000 + r) @ factor + shift
        y = x + noise * np.random.default_rng(r).standard_normal(x.shape)
        ones.append(estimate(frechet, x, reference, halves=20, seed=r))
        pairs.append(difference(frechet, x, y, reference, halves=20, seed=r))
        if r < 40:
            others.append(estimate(frechet, y, reference, halves=20, seed=r))
    assert coverage(ones, truths[0]) >= 0.90
    assert coverage(pairs, truths[0] - truths[1]) >= 0.90
    one, other, pair = (np.mean([e.high - e.low for e in group]) for group in (ones, others, pairs))
    ideal = [2 * 2.23 * np.std([e.limit for e in group]) for group in (ones, pairs)]  # Student, 10 degrees of freedom
    assert 0.85 < one / ideal[0] < (1.15 if shift else 1.35), (one, ideal)
    assert 0.85 < pair / ideal[1] < 1.15, (pair, ideal)
    assert pair < 0.6 * hypot(one, other), (pair, one, other)


def test_kernel_intervals_cover():
    """The limit of a kernel distance is known for rows drawn from a finite set: its double sum with the diagonal."""

    def rows(n, seed):
        return np.random.default_rng(seed).standard_normal((n, 8)).clip(0) @ root(8)

    reference, population = Reference.of(rows(1000, 12)), Reference.of(2 * rows(1500, 11)).features
    own, diagonal = Reference.of(population).self_similarity, ((population.square().mean(1) + 1) ** 3).mean().item()
    truth = kernel_distance(population, reference) + (diagonal - own) / 1500
    drawn = np.random.default_rng(13).integers(0, 1500, (150, 400))
    found = [estimate(kernel_distance, population[r], reference, halves=40) for r in drawn]
    assert 0.89 <= coverage(found, truth) <= 0.99, coverage(found, truth)
    for e in found[:20]:
        assert abs(e.limit - e.value) < 0.1 * (e.high - e.low)


def test_same_seed_same_numbers(real):
    reference, x = real
    found = [estimate(frechet, x[:101], reference, halves=20, seed=s) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert (found[0].n, found[0].halves, found[0].seed, found[0].level) == (101, 20, 0, 0.95)
    wide = estimate(frechet, x[:101], reference, halves=20, level=0.99)
    assert wide.low < found[0].low < found[0].limit < found[0].high < wide.high
    assert wide.limit == found[0].limit


# -------------------------------------------------------------------------------------------------- references


def test_reference_round_trip(tmp_path, real):
    """A copy from a file scores the same to the last bit, and the bytes are reproducible."""
    reference, x = real
    path = reference.save(tmp_path / "a.safetensors")
    copy = Reference.load(path)
    assert copy.sha256 == reference.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert copy.save(tmp_path / "b.safetensors").read_bytes() == path.read_bytes()
    assert (copy.count, copy.source, copy.features.shape) == (20_000, "", (600, 12))
    for distance in (frechet, kernel_distance):
        assert distance(x, copy) == distance(x, reference)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_rounding_of_the_file_does_not_matter():
    """Single-precision moments and half-precision rows, against intervals at n = 1000."""
    rows = skewed(5000, 12, 14) @ root(12, 2.0)
    reference, x = Reference.of(rows, source="skewed"), torch.from_numpy(skewed(1000, 12, 15) @ root(12, 2.0))
    mean, cov = torch.from_numpy(rows.mean(0)), torch.from_numpy(np.cov(rows.T))
    kept = torch.from_numpy(rows[np.linspace(0, 4999, 2500).round().astype(int)])
    unrounded = Reference(mean, cov, 5000, kept, "")
    for distance in (frechet, kernel_distance):
        error = abs(distance(x, reference) - distance(x, unrounded))
        interval = estimate(distance, x, reference)
        assert 0 < error < 0.01 * (interval.high - interval.low), (distance, error, interval)
    assert reference.source == "skewed"
    assert reference.features.equal(kept.half().double())


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_reference(tmp_path, real, cut):
    path = real[0].save(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DiffnumError, match=r"cut.safetensors is not a reference.*truncated"):
        Reference.load(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(DiffnumError, match=r"cannot read the reference .*none"):
        Reference.load(tmp_path / "none")
    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DiffnumError, match=r"other.safetensors is not a reference"):
        Reference.load(tmp_path / "other.safetensors")
    parts = {"mean": torch.zeros(3), "cov": torch.zeros(2, 2), "features": torch.zeros(4, 3)}
    save_file(parts, tmp_path / "shapes.safetensors", {"diffnum": '{"count": 4, "source": ""}'})
    with pytest.raises(DiffnumError, match="shapes of mean, cov and features"):
        Reference.load(tmp_path / "shapes.safetensors")


# -------------------------------------------------------------------------------------------------- bad input

BAD = [
    (np.zeros(5), r"has shape \(5,\)"),
    (np.zeros((5, 0)), r"has shape \(5, 0\)"),
    (np.zeros((1, 12)), "has 1 rows; at least"),
    (np.zeros((9, 11)), "d = 11 and the reference 12"),
    (np.array([[0.0] * 12] * 6 + [[np.nan] * 12]), "not finite, first in row 6"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_bad_features_are_named(real, value, message):
    reference, x = real
    for call in (
        lambda: frechet(value, reference),
        lambda: kernel_distance(value, reference),
        lambda: estimate(frechet, value, reference),
    ):
        with pytest.raises(ValueError, match=f"^features .*{message}"):
            call()
    with pytest.raises(ValueError, match=f"^a .*{message}"):
        difference(frechet, value, x, reference)
    with pytest.raises(ValueError, match=f"^b .*{message}"):
        difference(frechet, x, value, reference)


def test_other_bad_arguments_are_named(real):
    reference, x = real
    with pytest.raises(ValueError, match="a has 1000 rows and b has 999"):
        difference(frechet, x, x[1:], reference)
    for options in ({"halves": 21}, {"halves": 18}, {"level": 1.0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            estimate(frechet, x[:20], reference, **{"halves": 20, **options})
    with pytest.raises(ValueError, match="features has 3 rows; at least 4"):
        estimate(frechet, x[:3], reference)
    with pytest.raises(ValueError, match="keep=1"):
        Reference.of(x, keep=1)
    with pytest.raises(ValueError, match="too large for half precision"):
        Reference.of(1e6 * x)
    with pytest.raises(ValueError, match="n=1"):
        frechet_floor(reference, 1)
    mean, cov = reference.mean, reference.cov
    with pytest.raises(ValueError, match=r"cov2 has shape \(3, 3\)"):
        frechet_gaussians(mean, cov, mean, cov[:3, :3])
    with pytest.raises(ValueError, match="mean2 has values that are not finite"):
        frechet_gaussians(mean, cov, mean * torch.nan, cov)
