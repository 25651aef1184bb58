"""Exact denoisers and wrapped predictions: golden values, autograd, limits, dtypes, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from diffnum.dct import dct2, dct_matrix, idct2
from diffnum.denoisers import Gaussian, GaussianMixture, PointMass, from_prediction
from diffnum.measure.checks import assert_close as close
from diffnum.processes import VE, VP

GOLDEN = np.load(Path(__file__).parent / "golden" / "pndm.npz")
WEIGHTS, MEANS, STDS = (torch.from_numpy(GOLDEN[f"gmm_{name}"]) for name in ("weights", "means", "stds"))
SHAPE = (3, 4, 5)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def far(a, b):
    """Largest difference relative to the largest value."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def golden_mixture():
    return GaussianMixture(WEIGHTS, MEANS, stds=STDS)


def covariances(count=3, d=4):
    a = draw(count, d, d, seed=5)
    return a @ a.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def image_mixture(basis="pixel"):
    return GaussianMixture([0.2, 0.3, 0.5], draw(3, *SHAPE, seed=1), stds=draw(3, *SHAPE, seed=2).abs(), basis=basis)


EXACT = {
    "point": lambda: PointMass(draw(*SHAPE, seed=1)),
    "isotropic": lambda: Gaussian(draw(*SHAPE, seed=1), 0.3),
    "diagonal": lambda: Gaussian(draw(*SHAPE, seed=1), draw(*SHAPE, seed=2).abs()),
    "full": lambda: Gaussian(draw(*SHAPE, seed=1), covariances(1, 60)[0]),
    "mixture": image_mixture,
    "dct": lambda: image_mixture("dct"),
    "covs": lambda: GaussianMixture([0.2, 0.3, 0.5], draw(3, *SHAPE, seed=1), covs=covariances(3, 60)),
}


@pytest.fixture(params=EXACT)
def exact(request):
    return EXACT[request.param]()


# ------------------------------------------------------------------------------------------------ right values


def test_golden_noise_model():
    denoiser, x = golden_mixture(), torch.from_numpy(GOLDEN["x_T"])
    for level, expected in zip(GOLDEN["eps_check_ab"], GOLDEN["eps_check"], strict=True):
        alpha, sigma = math.sqrt(level), math.sqrt(1 - level)
        eps = denoiser.eps(x / alpha, sigma / alpha)
        close(eps, torch.from_numpy(expected), magnified=100)  # exponentials of numbers like 100


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_score_is_the_gradient_of_the_log_density(kind, sigma):
    covs = STDS.square().diag_embed() if kind == "diagonal" else covariances(2)
    denoiser = GaussianMixture(WEIGHTS, MEANS, **({"stds": STDS} if kind == "diagonal" else {"covs": covs}))
    x = (3 * draw(6, 4)).requires_grad_()
    parts = MultivariateNormal(MEANS, covs + sigma**2 * torch.eye(4).double())
    density = (WEIGHTS.log() + parts.log_prob(x[:, None])).logsumexp(1).sum()
    (gradient,) = torch.autograd.grad(density, x)
    # weights are exponentials of numbers like 1000
    close(denoiser.score(x, sigma), gradient, magnified=1e3)
    close(denoiser(x, sigma), x + sigma**2 * gradient, magnified=1e3)  # Tweedie's formula
    close(denoiser.eps(x, sigma), -sigma * gradient, magnified=1e3)


def test_gaussian_formula():
    mean, cov, x, sigma = draw(4, seed=1), covariances(1)[0], draw(5, 4), 0.3
    expected = sigma * torch.linalg.solve(cov + sigma**2 * torch.eye(4).double(), (x - mean).mT).mT
    worst = torch.linalg.cond(cov + sigma**2 * torch.eye(4).double()).item()
    close(Gaussian(mean, cov).eps(x, sigma), expected, magnified=worst)
    variances = torch.tensor([0.1, 0.2, 0.3, 0.0])
    close(Gaussian(mean, variances)(x, sigma), Gaussian(mean, variances.diag())(x, sigma), magnified=100)
    close(Gaussian(mean, 0.3)(x, sigma), Gaussian(mean, 0.3 * torch.ones(4).double())(x, sigma))


def test_point_mass():
    x0, x = draw(*SHAPE, seed=1), draw(2, *SHAPE)
    assert torch.equal(PointMass(x0)(x, 0.4), x0.expand(2, *SHAPE))
    close(PointMass(x0).eps(x, 0.4), (x - x0) / 0.4)


def test_full_covariance_is_the_diagonal_case_rotated():
    rotation = torch.linalg.qr(draw(4, 4, seed=3))[0]
    turned = GaussianMixture(WEIGHTS, MEANS @ rotation.mT, covs=rotation @ STDS.square().diag_embed() @ rotation.mT)
    x = draw(6, 4)
    for sigma in (1e-3, 0.3, 50.0):
        close(turned(x @ rotation.mT, sigma), golden_mixture()(x, sigma) @ rotation.mT, magnified=1e3)
        close(turned.eps(x @ rotation.mT, sigma), golden_mixture().eps(x, sigma) @ rotation.mT, magnified=1e3)


def test_dct():
    matrix, image = dct_matrix(5), draw(2, *SHAPE)
    close(matrix @ matrix.mT, torch.eye(5, dtype=torch.float64))
    close(idct2(dct2(image)), image)
    scipy = pytest.importorskip("scipy.fft").dctn(image.numpy(), type=2, norm="ortho", axes=(-2, -1))
    close(dct2(image), torch.from_numpy(scipy))
    assert dct2(image.float()).dtype == torch.float32


def test_dct_basis_is_the_pixel_case_transformed():
    x = draw(4, *SHAPE)
    for sigma in (0.01, 1.0):
        close(image_mixture("dct")(x, sigma), idct2(image_mixture()(dct2(x), sigma)), magnified=100)
        close(image_mixture("dct").eps(x, sigma), idct2(image_mixture().eps(dct2(x), sigma)), magnified=100)
    close(Gaussian(draw(*SHAPE), 0.3, basis="dct")(x, 0.5), Gaussian(idct2(draw(*SHAPE)), 0.3)(x, 0.5), magnified=100)


def test_sample_has_the_moments():
    for denoiser, covs in (
        (golden_mixture(), STDS.square().diag_embed()),
        (GaussianMixture(WEIGHTS, MEANS, covs=covariances(2)), covariances(2)),
    ):
        x = denoiser.sample(40_000, torch.Generator().manual_seed(0))
        mean = WEIGHTS @ MEANS
        second = (WEIGHTS[:, None, None] * (covs + MEANS[:, :, None] * MEANS[:, None])).sum(0)
        assert x.shape == (40_000, 4) and x.dtype == torch.float64
        # five standard errors of a mean of 40 000 values of order 1 (largest variance below 10)
        assert (x.mean(0) - mean).abs().max() < 5 * math.sqrt(second.diag().max() / 40_000)
        assert (x.T @ x / 40_000 - second).abs().max() < 5 * second.diag().max() * math.sqrt(2 / 40_000)
    dct = image_mixture("dct").sample(3, torch.Generator().manual_seed(0), dtype=torch.float32)
    pixel = image_mixture().sample(3, torch.Generator().manual_seed(0))
    assert dct.dtype == torch.float32
    close(dct, idct2(pixel))


# ---------------------------------------------------------------------------------------- small sigma and limits


def test_eps_keeps_its_digits_at_small_sigma_in_float32(exact):
    """eps agrees with float64 at sigma = 1e-5; the textbook (x - D)/sigma carries the rounding of D over sigma."""
    sigma = 1e-5
    x = (exact.sample(4, torch.Generator().manual_seed(1)) + sigma * draw(4, *SHAPE, seed=9)).float()
    truth = exact.eps(x.double(), sigma)
    careful, textbook = exact.eps(x, sigma), (x - exact(x, sigma)) / sigma
    assert careful.dtype == torch.float32
    close(careful, truth)
    if not isinstance(exact, PointMass):  # there D is exact
        # half of 60 entries err by a quarter of a unit or more, whatever the arithmetic
        assert far(textbook, truth) > 2.0**-24 / 4 / sigma / 10


def test_smooth_density_textbook_form_fails():
    x = draw(8, 4).float()
    denoiser, sigma = golden_mixture(), 1e-5
    truth = denoiser.eps(x.double(), sigma)
    close(denoiser.eps(x, sigma), truth)
    assert far((x - denoiser(x, sigma)) / sigma, truth) > 0.1  # x - D is smaller than the last digit of x


@pytest.mark.parametrize("full", [False, True])
def test_thin_mixture(full):
    """Data on two planes: finite for every sigma > 0, and off the plane eps pulls straight back to it."""
    stds = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    rotation = torch.linalg.qr(draw(4, 4, seed=3))[0] if full else torch.eye(4, dtype=torch.float64)
    covs = rotation @ stds.square().diag_embed() @ rotation.mT
    means = MEANS @ rotation.mT
    denoiser = GaussianMixture(WEIGHTS, means, **({"covs": covs} if full else {"stds": stds}))
    x = 3 * draw(6, 4)
    for sigma in (1e-12, 1e-6, 1e-3, 1.0, 1e3):
        for s in (sigma, torch.full((6,), sigma)):
            assert denoiser(x, s).isfinite().all() and denoiser.eps(x, s).isfinite().all()
    assert denoiser.eps(x.float(), 1e-6).isfinite().all()
    # near the first plane: the off-plane part of D is the mean's, the off-plane part of eps is (x - m)/sigma
    near = torch.tensor([[0.4, 0.3, 1e-5, -2e-5]], dtype=torch.float64)
    x, sigma = means[:1] + near @ rotation.mT, 1e-5
    close((denoiser(x, sigma) - means[0]) @ rotation, near * stds[0], magnified=1 / sigma)
    close(((denoiser.eps(x, sigma)) @ rotation)[:, 2:], near[:, 2:] / sigma, magnified=1 / sigma)


def test_sigma_zero():
    x = draw(4, 4)
    for zero in (0, 0.0, torch.tensor(0.0), torch.zeros(4)):
        close(golden_mixture()(x, zero), x)
        assert torch.equal(PointMass(MEANS[0])(x, zero), MEANS[:1].expand(4, 4))
    plane = GaussianMixture([1.0], torch.zeros(1, 4), stds=[[1.0, 1.0, 0.0, 0.0]])
    assert torch.equal(plane(x, 0.0), x * torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_zero_weight_is_an_absent_component():
    means = torch.cat([MEANS, torch.zeros(1, 4)])
    padded = GaussianMixture([*WEIGHTS, 0.0], means, stds=torch.cat([STDS, STDS[:1]]))
    x = draw(4, 4)
    close(padded(x, 0.2), golden_mixture()(x, 0.2))


# ------------------------------------------------------------------------------------------- sigma, dtype, device


def test_sigma_per_row(exact):
    x, sigma = draw(3, *SHAPE), torch.tensor([1e-3, 0.4, 60.0], dtype=torch.float64)
    for f in (exact, exact.eps, exact.score):
        together = f(x, sigma)
        for i, s in enumerate(sigma):
            close(together[i : i + 1], f(x[i : i + 1], s.item()), magnified=100)
            close(f(x[i : i + 1], s), f(x[i : i + 1], s.item()))
            close(f(x[i : i + 1], s[None]), f(x[i : i + 1], s.item()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(exact, dtype):
    x = draw(2, *SHAPE).to(dtype)
    for f in (exact, exact.eps, exact.score):
        for sigma in (0.5, torch.tensor(0.5), torch.tensor([0.5, 0.5])):
            assert f(x, sigma).dtype == dtype
            assert f(x, sigma).shape == x.shape
        assert far(f(x, 0.5), f(x.double(), 0.5)) < 2 * torch.finfo(dtype).eps


def test_no_value_is_read_on_the_host(exact):
    """On the meta device there are no values: reading one, or mixing devices, raises."""
    x = draw(2, *SHAPE).to("meta")
    for f in (exact, exact.eps, exact.score):
        for sigma in (0.5, torch.tensor(0.5), torch.tensor([0.5, 2.0])):
            assert f(x, sigma).device.type == "meta"


@pytest.mark.gpu
def test_device_is_kept(exact):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x = draw(2, *SHAPE)
    for sigma in (0.5, torch.tensor([0.5, 2.0])):
        y = exact(x.cuda(), sigma)
        assert y.device.type == "cuda" and far(y.cpu(), exact(x, sigma)) < 1e-12
    there = x.cuda()
    torch.cuda.set_sync_debug_mode("error")  # a call with warm copies never waits for the device
    try:
        exact.eps(there, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_are_independent_and_inputs_untouched(exact):
    x = draw(5, *SHAPE)
    before = x.clone()
    close(exact(x, 0.3)[2:3], exact(x[2:3], 0.3), magnified=10)
    assert exact(x[:0], 0.3).shape == (0, *SHAPE)
    assert torch.equal(x, before) and exact.shape == SHAPE


def test_first_use_in_inference_mode_leaves_autograd_working():
    denoiser, x = image_mixture("dct"), draw(2, *SHAPE)
    with torch.inference_mode():
        denoiser(x, 0.3)
    x.requires_grad_()
    denoiser(x, 0.3).sum().backward()
    assert x.grad.isfinite().all()


def test_lists_keep_their_digits():
    lists = GaussianMixture(WEIGHTS.tolist(), list(MEANS.numpy()), covs=[C for C in STDS.square().diag_embed()])
    x = draw(4, 4)
    close(lists.eps(x, 0.3), golden_mixture().eps(x, 0.3))


def test_parameters_are_copied():
    means = MEANS.clone()
    denoiser, x = GaussianMixture(WEIGHTS, means, stds=STDS), draw(2, 4)
    before = denoiser(x, 0.5)
    means.zero_()
    assert torch.equal(denoiser(x, 0.5), before)


# --------------------------------------------------------------------------------------------------- predictions


def model_of(kind, denoiser, process):
    """A perfect `kind` model on `process`, written from the definitions and not from the code under test."""

    def model(u, t):
        alpha, sigma = (
            c.reshape(-1, *[1] * (u.ndim - 1)) if isinstance(c, torch.Tensor) else c
            for c in (process.alpha(t), process.sigma(t))
        )
        rho = (sigma / alpha).reshape(-1) if isinstance(t, torch.Tensor) else sigma / alpha
        x0, eps = denoiser(u / alpha, rho), denoiser.eps(u / alpha, rho)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma}[kind]

    return model


PROCESSES = {"vp": VP(), "cosine": VP.cosine(), "ve": VE()}
CASES = [(p, k) for p in PROCESSES for k in ("eps", "x0", "v", "score") if (p, k) != ("ve", "v")]


@pytest.mark.parametrize("name, kind", CASES)
def test_predictions_give_one_denoiser(name, kind):
    exact, process, x = golden_mixture(), PROCESSES[name], draw(3, 4)
    wrapped = from_prediction(model_of(kind, exact, process), process, kind)
    for sigma in (0.01, 0.3, 2.0, 40.0):
        y = x * math.hypot(1, sigma)
        close(wrapped(y, sigma), exact(y, sigma), magnified=100)
        # an x0 model cannot carry the digits of eps at small sigma: x0 is right to 1e-16, eps to 1e-16/sigma
        close(wrapped.eps(y, sigma), exact.eps(y, sigma), magnified=100)
    rows = torch.tensor([0.05, 0.3, 30.0], dtype=torch.float64)
    close(wrapped(x, rows), exact(x, rows), magnified=100)
    close(wrapped.eps(x, rows[1]), exact.eps(x, 0.3), magnified=100)


@pytest.mark.parametrize("kind", ["eps", "v", "score"])
def test_prediction_eps_does_not_cancel(kind):
    process, exact, sigma = VP(), golden_mixture(), 1e-3
    wrapped, x = from_prediction(model_of(kind, exact, process), process, kind), draw(3, 4).float()
    truth = exact.eps(x.double(), sigma)
    if kind == "v":  # v = alpha eps - sigma x0 mixes both: an error of the size of roundoff, not of roundoff/sigma
        close(wrapped.eps(x, sigma), truth, 256 * 2.0**-24)
    else:
        close(wrapped.eps(x, sigma), truth, magnified=1 / sigma / 100)  # u = alpha x is rounded once


def test_prediction_model_sees_floats_for_floats_and_keeps_dtype():
    seen = []

    def model(u, t):
        seen.append((u.dtype, t))
        return torch.zeros_like(u)

    denoiser, x = from_prediction(model, VP()), torch.zeros(2, 3, dtype=torch.bfloat16)
    assert denoiser(x, 0.5).dtype == denoiser.eps(x, torch.tensor([0.5, 1.0])).dtype == torch.bfloat16
    assert [dtype for dtype, _ in seen] == [torch.bfloat16] * 2
    assert type(seen[0][1]) is float
    assert seen[1][1].dtype == torch.float64 and seen[1][1].shape == (2,)


# ------------------------------------------------------------------------------------------------------ refusals

BAD = math.nan
REFUSALS = [
    (lambda: GaussianMixture([0.5, 0.6], MEANS, stds=STDS), ValueError, "weights sum to 1.1"),
    (lambda: GaussianMixture([1.5, -0.5], MEANS, stds=STDS), ValueError, "weights contains -0.5"),
    (lambda: GaussianMixture([0.5, BAD], MEANS, stds=STDS), ValueError, "weights contains NaN"),
    (lambda: GaussianMixture([[0.5, 0.5]], MEANS, stds=STDS), ValueError, r"weights has shape \(1, 2\)"),
    (lambda: GaussianMixture([], MEANS, stds=STDS), ValueError, r"weights has shape \(0,\)"),
    (lambda: GaussianMixture("half", MEANS, stds=STDS), TypeError, "weights='half' is not an array"),
    (lambda: GaussianMixture([1.0], MEANS, stds=STDS), ValueError, r"means has shape \(2, 4\)"),
    (lambda: GaussianMixture(WEIGHTS, MEANS * BAD, stds=STDS), ValueError, "means contains NaN"),
    (lambda: GaussianMixture(WEIGHTS, MEANS), ValueError, "neither of stds and covs"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, STDS, STDS), ValueError, "both of stds and covs"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, stds=-STDS), ValueError, "stds contains -0.5"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, stds=STDS[:, :3]), ValueError, r"stds has shape \(2, 3\)"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, covs=torch.eye(4)), ValueError, r"covs has shape \(4, 4\)"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, covs=draw(2, 4, 4)), ValueError, "covs is not symmetric"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, covs=-covariances(2)), ValueError, "covs has the eigenvalue -"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, covs=covariances(2) * BAD), ValueError, "covs contains NaN"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, stds=STDS, basis="dct"), ValueError, "basis='dct' needs"),
    (lambda: GaussianMixture(WEIGHTS, MEANS, stds=STDS, basis="fft"), ValueError, "basis is 'fft'"),
    (lambda: Gaussian(MEANS[0], -1.0), ValueError, "cov has the variance -1"),
    (lambda: Gaussian(MEANS[0], torch.ones(3)), ValueError, r"cov has shape \(3,\)"),
    (lambda: Gaussian(MEANS[0], BAD), ValueError, "cov contains NaN"),
    (lambda: PointMass([BAD, 0.0]), ValueError, "x contains NaN"),
    (lambda: PointMass(object()), TypeError, "x=.* is not an array"),
    (lambda: golden_mixture()(draw(2, 3), 0.5), ValueError, r"x has shape \(2, 3\).*event shape \(4,\)"),
    (lambda: golden_mixture()(draw(4), 0.5), ValueError, r"x has shape \(4,\)"),
    (lambda: golden_mixture()(torch.ones(2, 4, dtype=torch.int64), 0.5), TypeError, "x is torch.int64"),
    (lambda: golden_mixture()([[1.0] * 4], 0.5), TypeError, "x is list"),
    (lambda: golden_mixture()(draw(2, 4), -0.5), ValueError, "sigma is -0.5"),
    (lambda: golden_mixture()(draw(2, 4), BAD), ValueError, "sigma is nan"),
    (lambda: golden_mixture()(draw(2, 4), math.inf), ValueError, "sigma is inf"),
    (lambda: golden_mixture()(draw(2, 4), [0.5, 0.5]), TypeError, "sigma is list"),
    (lambda: golden_mixture()(draw(2, 4), torch.ones(3)), ValueError, r"sigma has shape \(3,\)"),
    (lambda: golden_mixture().eps(draw(2, 4), 0.0), ValueError, "sigma is 0.0"),
    (lambda: golden_mixture().score(draw(2, 4), 0), ValueError, "sigma is 0"),
    (lambda: from_prediction(len, VP(), "epsilon"), ValueError, "'eps', 'x0', 'v', 'score'"),
    (lambda: from_prediction(None, VP()), TypeError, "model is NoneType"),
    (lambda: from_prediction(len, object()), TypeError, "process is object"),
    (lambda: from_prediction(len, VE(), "v"), ValueError, "kind is 'v'"),
    (
        lambda: from_prediction(lambda u, t: u[:, :1], VP())(draw(2, 4), 0.5),
        ValueError,
        r"model returned shape \(2, 1\)",
    ),
    (lambda: from_prediction(lambda u, t: u, VP())(draw(2, 4), 0.0), ValueError, "sigma is 0.0"),
]


@pytest.mark.parametrize("call, error, message", REFUSALS, ids=[message for *_, message in REFUSALS])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
