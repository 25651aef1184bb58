"""The ideal denoiser of a data set, and the posteriors per frequency of every exact denoiser."""

import math

import mpmath
import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum.dct import dct2, dct_matrix, idct2
from diffnum.denoisers import Empirical, Gaussian, GaussianMixture, PointMass, empirical
from diffnum.measure.checks import ROUNDED, roundoff

SHAPE, WIDE = (3, 8, 8), (2, 2, 3)
LEVELS = (1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 80.0)
TWO = torch.float32, torch.float64
# What the module promises: the error of a result in units of its largest entry.
PROMISED = {torch.float32: 1e-5, torch.float64: 1e-10}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def far(a, b):
    """Largest difference of a row relative to its largest value."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    return ((a - b).abs().amax(1) / b.abs().amax(1).clamp_min(1e-300)).max().item()


def off(a, b):
    """Largest error of a noise prediction, whose scale is 1 where it is not larger: on a point of the data it is 0."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    return ((a - b).abs().amax(1) / b.abs().amax(1).clamp_min(1)).max().item()


def brute(data, x, sigma):
    """D and eps by the definition in float64; sigma: a number or a tensor that broadcasts with x."""
    gap = x.double()[:, None] - data.double()
    scaled = (gap / sigma).flatten(2)
    r = (-0.5 * scaled.square().sum(2)).softmax(1)
    return torch.einsum("bk,k...->b...", r, data.double()), torch.einsum("bk,bkj->bj", r, scaled).reshape(x.shape)


def points(kind, dtype=torch.float64, count=300, shape=SHAPE):
    """Data sets that are easy, smooth (large products), in tight clusters, and nearly repeated."""
    x = 0.5 * draw(count, *shape, seed=1)
    if kind == "smooth":
        x = 0.2 * x + 0.5 * draw(count, *[1] * len(shape), seed=2)
    elif kind == "clusters":
        x = 2e-3 * x + draw(8, *shape, seed=2)[torch.arange(count) % 8]
    elif kind == "repeated":
        x = x[torch.arange(count) % 30] + 1e-4 * (torch.arange(count) // 150).reshape(-1, *[1] * len(shape))
    return x.to(dtype)


def states(data, sigma, rows=12):
    """Noise on points, on midpoints of two points, and (last) a point itself."""
    first, second = data[:rows], data[torch.arange(rows) * 7 % len(data)]
    x = torch.where(torch.arange(rows).reshape(-1, *[1] * (data.ndim - 1)) < rows // 2, first, (first + second) / 2)
    x = x + (sigma * draw(*x.shape, seed=3)).to(data.dtype)
    x[-1] = data[5]
    return x


# ------------------------------------------------------------------------------------------------ right values


@pytest.mark.parametrize("kind", ["normal", "smooth", "clusters", "repeated"])
@pytest.mark.parametrize("dtype", TWO, ids=str)
def test_agrees_with_the_definition(kind, dtype):
    data = points(kind, dtype)
    denoiser = Empirical(data, chunk=128)
    for sigma in LEVELS:
        x = states(data, sigma)
        mean, eps = brute(data, x, sigma)
        assert far(denoiser(x, sigma), mean) < PROMISED[dtype], sigma
        assert off(denoiser.eps(x, sigma), eps) < PROMISED[dtype], sigma


def test_on_a_point():
    data = points("normal", torch.float32)
    denoiser = Empirical(data)
    assert torch.equal(denoiser(data[:4], 1e-3), data[:4])
    assert torch.equal(denoiser.eps(data[:4], 1e-3), torch.zeros(4, *SHAPE))


def test_product_alone_would_fail():
    """Without a second measurement float32 products are wrong where two points compete at small sigma, always.

    Every point has a neighbour at a distance of sigma. A state on the point is nearer to it by sigma^2/2 = 2^-27, less
    than the last digit of any float32 number above 2^-3, and products of images are larger: however they are rounded,
    their difference is 0 or a multiple of 2^-20, and the weights are equal or 0 and 1. Right are 0.62 and 0.38.
    """
    sigma = 2.0**-13
    x = (points("normal")[:6] * 2**10).round() / 2**10  # so that the neighbours are float32 numbers too
    data = torch.cat([x, x + sigma * torch.eye(192, dtype=x.dtype)[:6].reshape(x.shape)]).float()
    x, flat = x.float(), data.flatten(1)
    half = 0.5 * flat.square().sum(1)
    assert half.min() > 8
    naive = (((x.flatten(1) @ flat.mT - half).double() / sigma**2).softmax(1) @ flat.double()).reshape(x.shape)
    _, eps = brute(data, x, sigma)
    assert (-eps.flatten(1).diagonal()).tolist() == pytest.approx([1 / (1 + math.exp(0.5))] * 6, rel=ROUNDED)
    assert off((x - naive) / sigma, eps) > 0.1
    assert off(Empirical(data).eps(x, sigma), eps) < PROMISED[torch.float32]


def test_wide_product_where_many_points_compete(monkeypatch):
    """A cloud of hundreds of points within sigma: they are too many to be measured again, and all of them count."""
    data = draw(1, *SHAPE, seed=4) + 1e-4 * draw(400, *SHAPE, seed=5)
    data = data.float()
    x, sigma = data[:2] + 1e-3 * draw(2, *SHAPE).float(), 1e-3
    mean, eps = brute(data, x, sigma)
    dtypes, near = [], empirical._near
    monkeypatch.setattr(empirical, "_near", lambda s, p, *rest: dtypes.append(p.dtype) or near(s, p, *rest))
    assert far(Empirical(data, chunk=100)(x, sigma), mean) < PROMISED[torch.float32]
    assert far(Empirical(data, chunk=100).eps(x, sigma), eps) < PROMISED[torch.float32]
    assert dtypes.count(torch.float64) == 8


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_rougher_products_are_trusted_less(precision, monkeypatch):
    """Where PyTorch is allowed fewer digits in products, more points are measured again."""
    data, counts, near = points("smooth", torch.float32), [], empirical._near
    x = states(data, 1.0)

    def counted(*args):
        found = near(*args)
        counts.append(len(found[1]))
        return found

    monkeypatch.setattr(empirical, "_near", counted)
    monkeypatch.setattr(empirical, "REPEAT", 0)
    Empirical(data).eps(x, 1.0)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    Empirical(data).eps(x, 1.0)
    assert counts[1] > 3 * counts[0]


def test_score_is_the_gradient_of_the_log_density():
    data, denoiser = points("smooth", count=50), Empirical(points("smooth", count=50), chunk=7)
    for sigma in (0.05, 0.7, 20.0):
        x = states(data, sigma).requires_grad_()
        density = (-(x[:, None] - data).flatten(2).square().sum(2) / (2 * sigma**2)).logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(density, x)
        x = x.detach()
        assert off(sigma * denoiser.score(x, sigma), sigma * gradient) < PROMISED[torch.float64]
        assert off(denoiser.eps(x, sigma), -sigma * gradient) < PROMISED[torch.float64]
        assert far(denoiser(x, sigma), x + sigma**2 * gradient) < PROMISED[torch.float64]


def test_reductions():
    x, one, few = draw(5, *SHAPE), draw(1, *SHAPE, seed=1), draw(4, *SHAPE, seed=1)
    mixture = GaussianMixture([0.25] * 4, few, stds=[0.0] * 4)
    for sigma in (1e-3, 0.5, 30.0):
        assert far(Empirical(one)(x, sigma), PointMass(one[0])(x, sigma)) < ROUNDED
        assert far(Empirical(one).eps(x, sigma), PointMass(one[0]).eps(x, sigma)) < ROUNDED
        assert far(Empirical(few)(x, sigma), mixture(x, sigma)) < PROMISED[torch.float64]
        assert far(Empirical(few).eps(x, sigma), mixture.eps(x, sigma)) < PROMISED[torch.float64]


@pytest.mark.parametrize("kind", ["normal", "clusters"])
def test_chunks_change_nothing(kind):
    data = points(kind)
    whole = Empirical(data, chunk=10_000)
    for sigma in (1e-3, 0.1, 1.0, 80.0):
        x = states(data, sigma)[:6]
        for chunk in (1, 64, 299):
            parts = Empirical(data, chunk=chunk)
            assert far(parts(x, sigma), whole(x, sigma)) < PROMISED[torch.float64]
            assert far(parts.eps(x, sigma), whole.eps(x, sigma)) < PROMISED[torch.float64]


def test_sigma_per_row_and_zero():
    data = points("smooth")
    denoiser, x = Empirical(data, chunk=100), states(data, 0.3)[:4]
    sigma = torch.tensor([1e-3, 0.3, 4.0, 80.0], dtype=torch.float64)
    for f in (denoiser, denoiser.eps, denoiser.score):
        together = f(x, sigma)
        for i, s in enumerate(sigma):
            assert far(together[i : i + 1], f(x[i : i + 1], s.item())) < PROMISED[torch.float64]
            assert torch.equal(f(x[i : i + 1], s), f(x[i : i + 1], s.item()))
    nearest = data[torch.cdist(x.flatten(1), data.flatten(1)).argmin(1)]
    for zero in (0.0, torch.tensor(0.0), torch.zeros(4)):
        assert torch.equal(denoiser(x, zero), nearest)


def test_events_of_any_shape_and_empty_batches():
    for shape in ((), (2,), (3, 4, 5)):
        data = draw(20, *shape)
        x = data[:3] + 0.1
        mean, eps = brute(data[..., None], x[..., None], 0.5)
        assert far(Empirical(data, chunk=6)(x, 0.5)[..., None], mean) < PROMISED[torch.float64]
        assert far(Empirical(data, chunk=6).eps(x, 0.5)[..., None], eps) < PROMISED[torch.float64]
        assert Empirical(data)(x[:0], 0.5).shape == (0, *shape)


# ------------------------------------------------------------------------------------------- kinds of data, limits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    for kept in (*TWO, torch.bfloat16):
        data = points("smooth").to(kept)
        denoiser, x = Empirical(data), states(points("smooth"), 0.5)[:4].to(dtype)
        for name in ("__call__", "eps", "score"):
            out = getattr(denoiser, name)(x, 0.5)
            wide = getattr(Empirical(data.double()), name)(x.double(), 0.5)
            promised = PROMISED[dtype if dtype == torch.float64 else torch.float32]
            assert out.dtype == dtype and far(out, wide) < max(roundoff(dtype), promised)
    assert "dtype=torch.bfloat16" in repr(denoiser) and len(denoiser) == 300


def test_bytes_are_images():
    data = torch.randint(256, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wide = data.double() / 127.5 - 1
    for dtype in TWO:
        x = states(wide, 0.5)[:4].to(dtype)
        for sigma in (1e-3, 0.5, 10.0):
            assert far(Empirical(data).eps(x, sigma), Empirical(wide).eps(x.double(), sigma)) < PROMISED[dtype]
    assert Empirical(data.numpy()).sample(2).dtype == torch.float64
    assert -1 <= Empirical(data).sample(2).min() < -0.9


def test_data_are_sampled():
    data = points("normal", torch.float32)
    denoiser = Empirical(data)
    drawn = denoiser.sample(5, torch.Generator().manual_seed(1))
    assert drawn.shape == (5, *SHAPE) and drawn.dtype == torch.float64
    assert (drawn[:, None] == data.double()).flatten(2).all(2).any(1).all()
    turned = Empirical(data.permute(0, 2, 3, 1))
    x = draw(2, *SHAPE)
    assert far(turned(x.permute(0, 2, 3, 1), 0.5).permute(0, 3, 1, 2), denoiser(x, 0.5)) < PROMISED[torch.float64]


def test_no_gradient_and_inference_mode():
    denoiser, x = Empirical(points("normal")), draw(2, *SHAPE).requires_grad_()
    with pytest.raises(dn.DiffnumError, match="no gradient"):
        denoiser(x, 0.5)
    with torch.inference_mode():
        inside = denoiser(x, 0.5)
    with torch.no_grad():
        assert torch.equal(inside, denoiser(x, 0.5)) and not denoiser.eps(x, 0.5).requires_grad


def test_solves_a_problem():
    """A sampler of the ideal denoiser returns training points: the text of the module, measured."""
    data, process = points("normal"), dn.VP()
    problem = dn.Problem(process, Empirical(data))
    u = problem.prior((6, *SHAPE), seed=0)
    end = dn.solve(problem, dn.solvers.ddim, u, dn.grids.log_snr(process, 40)).u
    distance = torch.cdist(end.double().flatten(1), data.flatten(1)).amin(1)
    assert distance.max() < 0.05 * math.sqrt(192)


@pytest.mark.gpu
def test_cuda():
    data = points("smooth", torch.float32)
    denoiser = Empirical(data, chunk=100)
    sigma_f = draw(8, 8).exp()
    for sigma in LEVELS:
        x = states(data, sigma)[:-1]
        mean, eps = brute(data, x, sigma)
        assert denoiser(x.cuda(), sigma).is_cuda
        assert far(denoiser(x.cuda(), sigma).cpu(), mean) < PROMISED[torch.float32]
        assert far(denoiser.eps(x.cuda(), torch.tensor(sigma)).cpu(), eps) < PROMISED[torch.float32]
    assert far(denoiser.posterior(x.cuda(), sigma_f).cpu(), denoiser.posterior(x, sigma_f)) < PROMISED[torch.float32]
    there = Empirical(data.cuda())
    assert far(there(x, 1.0), denoiser(x, 1.0)) < PROMISED[torch.float32] and there.sample(2).device.type == "cpu"


# ------------------------------------------------------------------------------- posteriors, one level per frequency


def blur(shape=WIDE[1:], low=-1.0, high=1.0, seed=6):
    """Noise levels (H, W) between 10^low and 10^high, in no order."""
    return 10 ** (low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double())


def covariances(count, size, rank=None):
    a = draw(count, size, rank or size, seed=8)
    return a @ a.mT / size


MEANS = draw(3, *WIDE, seed=1)
STDS = draw(3, *WIDE, seed=2).abs()
EXACT = {
    "point": lambda: PointMass(MEANS[0]),
    "isotropic": lambda: GaussianMixture([0.2, 0.3, 0.5], MEANS, stds=[0.3, 0.0, 1.0]),
    "diagonal": lambda: GaussianMixture([0.2, 0.3, 0.5], MEANS, stds=STDS),
    "full": lambda: GaussianMixture([0.2, 0.3, 0.5], MEANS, covs=covariances(3, 12)),
    "thin": lambda: GaussianMixture([0.2, 0.3, 0.5], MEANS, covs=covariances(3, 12, rank=4)),
    "dct": lambda: GaussianMixture([0.2, 0.3, 0.5], MEANS, stds=STDS, basis="dct"),
    "dct full": lambda: Gaussian(MEANS[0], covariances(1, 12)[0], basis="dct"),
    "empirical": lambda: Empirical(MEANS),
}


@pytest.fixture(params=EXACT)
def exact(request):
    return EXACT[request.param]()


def covariance_in_dct(exact):
    """Weights, means (K, d) and covariances (K, d, d) of the DCT coefficients, put together from the arguments."""
    if isinstance(exact, Empirical):
        return torch.full((3,), 1 / 3).double(), dct2(MEANS).flatten(1), torch.zeros(3, 12, 12).double()
    log_weights, means, variances, rotations = exact._copies[torch.device("cpu")]
    covs = variances.diag_embed() if rotations is None else rotations @ variances.diag_embed() @ rotations.mT
    if exact.basis == "dct":
        return log_weights.exp(), means, covs
    A = torch.kron(torch.eye(2).double(), torch.kron(*(dct_matrix(n) for n in WIDE[1:])))
    return log_weights.exp(), means @ A.mT, A @ covs @ A.mT


def by_many_digits(exact, y, sigma):
    """The posterior and its eps in 60 digits, from the definition."""
    weights, means, covs = covariance_in_dct(exact)
    sigma = sigma.expand(WIDE).reshape(-1)
    out = []
    with mpmath.workdps(60):
        for row in y.flatten(1):
            logs, eps = [], []
            for w, m, S in zip(weights, means, covs, strict=True):
                C = mpmath.matrix(S.tolist()) + mpmath.diag([mpmath.mpf(s) ** 2 for s in sigma.tolist()])
                d = mpmath.matrix(row.tolist()) - mpmath.matrix(m.tolist())
                solved = mpmath.lu_solve(C, d)
                quadratic = sum(a * b for a, b in zip(d, solved, strict=True))
                logs.append(mpmath.log(mpmath.mpf(w.item())) - (mpmath.log(mpmath.det(C)) + quadratic) / 2)
                eps.append([mpmath.mpf(s) * v for s, v in zip(sigma.tolist(), solved, strict=True)])
            r = [mpmath.exp(v - max(logs)) for v in logs]
            out.append([float(sum(a * e[j] for a, e in zip(r, eps, strict=True)) / sum(r)) for j in range(12)])
    eps = torch.tensor(out, dtype=torch.float64).reshape(y.shape)
    return y - sigma.reshape(WIDE) * eps, eps


@pytest.mark.parametrize("span", [(-1, 1), (-5, 5)])
def test_posterior_in_many_digits(exact, span):
    sigma = blur(low=span[0], high=span[1])
    y = dct2(exact.sample(2, torch.Generator().manual_seed(1))) + sigma * draw(2, *WIDE, seed=9)
    mean, eps = by_many_digits(exact, y, sigma)
    limit = 10 * 10 ** span[1] * ROUNDED  # the noisiest frequencies are that much larger than the data
    assert far(exact.posterior_eps(y, sigma), eps) < limit
    # y - sigma eps loses what the posterior keeps; compare frequencies where sigma is not large
    small = (sigma < 100).expand_as(mean)
    assert ((exact.posterior(y, sigma) - mean).abs()[small].max() / mean.abs()[small].max()).item() < limit
    assert exact.posterior(y, sigma).abs().max() < 100


def test_posterior_at_one_level_is_the_denoiser(exact):
    x = draw(4, *WIDE, seed=3)
    for level in (1e-3, 0.4, 50.0):
        sigma = torch.full(WIDE[1:], level)
        truth = dct2(exact(x, sigma[0, 0].item())), dct2(exact.eps(x, sigma[0, 0].item()))
        assert far(exact.posterior(dct2(x), sigma), truth[0]) < PROMISED[torch.float64]
        assert far(exact.posterior_eps(dct2(x), sigma), truth[1]) < PROMISED[torch.float64]


def test_posterior_limits(exact):
    """Frequencies without noise are kept where the data have variance; very noisy ones tell nothing."""
    y, sigma = dct2(draw(4, *WIDE, seed=3)), torch.full(WIDE[1:], 1e5).double()
    weights, means, _ = covariance_in_dct(exact)
    # what is neglected is of the size of 1/sigma^2 = 1e-10, times the data and their exponents
    assert (exact.posterior(y, sigma).flatten(1) - weights @ means).abs().max() < 1e-7
    assert far(exact.posterior_eps(y, sigma), (y - (weights @ means).reshape(WIDE)) / sigma) < 1e-7


@pytest.mark.parametrize("dtype", TWO, ids=str)
@pytest.mark.parametrize("kind", ["normal", "smooth", "clusters", "repeated"])
def test_empirical_posterior_agrees_with_the_definition(kind, dtype):
    for shape in ((3, 8, 8), (1, 6, 9)):
        data = points(kind, dtype, shape=shape)
        frequencies = dct2(data.double())
        for low, high in ((-3, 0), (-1, 1), (-5, 5), (0, 3)):
            sigma = blur(shape[-2:], low, high)
            y = (dct2(states(data, 0.0)[:-1].double()) + sigma * draw(11, *shape, seed=9)).to(dtype)
            mean, eps = brute(frequencies, y, sigma)
            for chunk in (77, 4096):
                denoiser = Empirical(data, chunk=chunk)
                assert far(denoiser.posterior(y, sigma), mean) < PROMISED[dtype]
                assert far(denoiser.posterior_eps(y, sigma), eps) < PROMISED[dtype]


def test_posterior_keeps_dtype_and_device_of_y(exact):
    y, sigma = draw(2, *WIDE, seed=3), blur()
    for dtype in (torch.float32, torch.bfloat16):
        for f in (exact.posterior, exact.posterior_eps):
            out = f(y.to(dtype), sigma.float())
            assert out.dtype == dtype and far(out, f(y.to(dtype).double(), sigma.float())) < 4 * torch.finfo(dtype).eps


# ------------------------------------------------------------------------------------------------------ refusals

REFUSALS = [
    (lambda: Empirical(torch.zeros(0, 3)), ValueError, r"data has shape \(0, 3\): give at least one point"),
    (lambda: Empirical(torch.tensor(1.0)), ValueError, r"data has shape \(\)"),
    (lambda: Empirical([[1.0, math.nan], [0.0, 1.0]]), ValueError, "data contains NaN or infinity in 1 of 2 points"),
    (lambda: Empirical(torch.zeros(3, 2, dtype=torch.int64)), TypeError, "data is torch.int64: give floating"),
    (lambda: Empirical(torch.zeros(3, 2, dtype=torch.complex64)), TypeError, "data is torch.complex64"),
    (lambda: Empirical("images"), TypeError, "data is not an array"),
    (lambda: Empirical(draw(3, 2), chunk=0), ValueError, "chunk=0 must be a whole number from 1"),
    (lambda: Empirical(draw(3, 2), chunk=1.5), TypeError, "chunk=1.5 is not a whole number"),
    (lambda: Empirical(draw(3, 2))(draw(3, 3), 0.5), ValueError, r"x has shape \(3, 3\).*event shape \(2,\)"),
    (lambda: Empirical(draw(3, 2))(draw(2), 0.5), ValueError, r"x has shape \(2,\)"),
    (lambda: Empirical(draw(3, 2))(torch.ones(1, 2, dtype=torch.int64), 0.5), TypeError, "x is torch.int64"),
    (lambda: Empirical(draw(3, 2))(draw(3, 2), -1.0), ValueError, "sigma is -1.0"),
    (lambda: Empirical(draw(3, 2)).eps(draw(3, 2), 0.0), ValueError, "sigma is 0.0"),
    (lambda: Empirical(draw(3, 2)).score(draw(3, 2), torch.ones(2)), ValueError, r"sigma has shape \(2,\)"),
    (lambda: Empirical(draw(3, 2)).posterior(draw(3, 2), blur()), ValueError, r"events of shape \(2,\) have no DCT"),
    (lambda: PointMass(draw(2)).posterior(draw(3, 2), blur()), ValueError, r"events of shape \(2,\) have no DCT"),
    (lambda: PointMass(MEANS[0]).posterior(draw(1, *WIDE), 0.5), TypeError, "sigma is float: give a tensor"),
    (lambda: PointMass(MEANS[0]).posterior(draw(1, *WIDE), blur().mT), ValueError, r"sigma has shape \(3, 2\)"),
    (lambda: PointMass(MEANS[0]).posterior(draw(1, *WIDE), -blur()), ValueError, "sigma contains levels"),
    (lambda: PointMass(MEANS[0]).posterior(MEANS[0], blur()), ValueError, r"y has shape \(2, 2, 3\)"),
    (lambda: PointMass(MEANS[0]).posterior(np.zeros(3), blur()), TypeError, "y is ndarray"),
    (
        lambda: Gaussian(torch.zeros(3, 32, 32), torch.rand(3, 32, 32)).posterior(draw(1, 3, 32, 32), blur((32, 32))),
        ValueError,
        "stds differ between pixels.*3072 x 3072.*basis='dct'",
    ),
]


@pytest.mark.parametrize("call, error, message", REFUSALS, ids=[message for *_, message in REFUSALS])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pixels_and_frequencies_agree():
    """The same mixture given in both bases; isotropic variances are the same in both."""
    pixel = GaussianMixture([0.4, 0.6], MEANS[:2], stds=[0.3, 0.7])
    frequency = GaussianMixture([0.4, 0.6], dct2(MEANS[:2]), stds=[0.3, 0.7], basis="dct")
    full = GaussianMixture([0.4, 0.6], MEANS[:2], covs=torch.stack([s * s * torch.eye(12) for s in (0.3, 0.7)]))
    y, sigma = draw(3, *WIDE, seed=3), blur(low=-3, high=3)
    for f in ("posterior", "posterior_eps"):
        truth = getattr(pixel, f)(y, sigma)
        assert far(getattr(frequency, f)(y, sigma), truth) < PROMISED[torch.float64]
        assert far(getattr(full, f)(y, sigma), truth) < 2**8 * roundoff(torch.float32)  # float32 covariances
    assert far(idct2(dct2(y)), y) < ROUNDED
