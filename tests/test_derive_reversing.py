"""Reversing time on paper: residuals are 0 for any density, wrong formulas are not, and the numeric code agrees."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum import analysis, grids
from diffnum.derive import reversing
from diffnum.derive.linear_sde import F, G, fokker_planck, t, x
from diffnum.derive.reversing import KINDS, alpha, lam, mu, rho_s, rho_t, s0, sigma, x0, y


@pytest.mark.parametrize("k", [1, 2])
def test_tweedie(k):
    assert reversing.tweedie_residual(k) == sp.zeros(k, 1)


def test_tweedie_on_data_with_a_closed_form():
    """Data N(mu, s0^2): sigma^2 score + x = alpha E[x0 | x] with the posterior mean of two Gaussians."""
    variance = alpha**2 * s0**2 + sigma**2
    score = -(x - alpha * mu) / variance
    posterior = mu + alpha * s0**2 / variance * (x - alpha * mu)
    assert sp.simplify(reversing.convert(score, "score", "x0") - posterior) == 0


@pytest.mark.parametrize("points", [2, 3])
def test_the_denoisers_slope_is_a_variance(points):
    assert reversing.denoiser_slope_residual(points) == 0


def test_conversions_are_inverse_to_each_other_and_to_the_definitions():
    value = sp.Symbol("value", real=True)
    for one in KINDS:
        for other in KINDS:
            there = reversing.convert(value, one, other)
            assert sp.simplify(reversing.convert(there, other, one) - value) == 0
    noise = reversing.convert(x0, "x0", "eps")
    assert sp.simplify(alpha * x0 + sigma * noise - x) == 0
    assert sp.simplify(reversing.convert(x0, "x0", "v") - alpha * noise + sigma * x0) == 0
    on_vp = reversing.convert(value, "v", "eps").subs(alpha, sp.sqrt(1 - sigma**2))
    assert sp.simplify(on_vp - sigma * x - sp.sqrt(1 - sigma**2) * value) == 0
    with pytest.raises(ValueError, match="unknown prediction"):
        reversing.convert(value, "x0", "velocity")


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_are_those_of_the_library(kind):
    """A model that returns one prediction, wrapped by `from_prediction`, gives the others as SymPy says."""
    process, at = dn.VP(), 0.37
    values = dict(zip((alpha, sigma), process.levels(at), strict=True)) | {x: 0.8}
    model = dn.from_prediction(lambda u, _: torch.full_like(u, 0.3), process, kind)
    problem = dn.Problem(process, model)
    u = torch.full((1, 1), 0.8, dtype=torch.float64)
    for name in ("x0", "eps", "score"):
        exact = float(reversing.convert(sp.Float(0.3), kind, name).subs(values))
        assert math.isclose(getattr(problem, name)(u, at).item(), exact, rel_tol=1e-9), name


def test_every_reverse_sde_has_the_forward_marginals():
    for choice in (lam, sp.S.Zero, sp.S.One, sp.Function("lambda")(t)):
        assert reversing.reverse_family_residual(choice) == 0
    assert reversing.reverse_family_residual(k=2) == 0


def test_a_wrong_reverse_sde_is_seen():
    """A factor lambda^2 in place of (1 + lambda^2)/2; and a noise level that depends on the state."""
    p = sp.Function("p", positive=True)(x, t)
    wrong = -F * x + lam**2 * G**2 * sp.diff(sp.log(p), x)
    assert sp.simplify(fokker_planck(p, F * x, G) + fokker_planck(p, wrong, lam * G)) != 0
    assert reversing.reverse_family_residual(sp.Function("lambda")(x)) != 0


def test_a_state_dependent_lambda_needs_one_more_term():
    p, local = sp.Function("p", positive=True)(x, t), sp.Function("lambda")(x, t)
    drift = F * x - (1 + local**2) / 2 * G**2 * sp.diff(sp.log(p), x) - G**2 * local * sp.diff(local, x)
    assert sp.simplify(sp.expand(fokker_planck(p, F * x, G) + fokker_planck(p, -drift, local * G))) == 0


def test_quantiles_are_kept():
    assert reversing.quantile_residuals() == (0, 0)


def test_quantiles_are_kept_in_numbers():
    process, line = dn.VP(), dn.GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], stds=[[0.2], [0.4]])
    times = [0.9, 0.3, 0.05]
    start = torch.tensor([[-1.4], [0.1], [1.7]], dtype=torch.float64)
    path = analysis.reference(dn.Problem(process, line), start, times, rtol=1e-12, trajectory=True)[..., 0]

    def quantile(state, time):
        a, s = process.levels(time)
        parts = [
            w * torch.special.ndtr((state - a * m) / math.sqrt(a * a * d * d + s * s))
            for w, m, d in ((0.3, -1.2, 0.2), (0.7, 0.8, 0.4))
        ]
        return sum(parts)

    for state, time in zip(path[1:], times[1:], strict=True):
        assert (quantile(state, time) - quantile(path[0], times[0])).abs().max() < 1e-10  # a hundred steps of 1e-12


# ---- Gaussian data -------------------------------------------------------------------------------------------------


def test_gaussian_identities():
    assert reversing.gaussian_flow_residual() == (0, 0)
    assert reversing.gaussian_moment_residuals() == (0, 0)
    assert reversing.bridge_residuals() == (0, 0, 0)
    point = reversing.gaussian_flow().subs(s0, 0)
    assert sp.simplify(point - mu - rho_s / rho_t * (y - mu)) == 0  # a straight line in rho


@pytest.mark.parametrize("process", [dn.VP(), dn.VP.cosine(), dn.VE()], ids=["linear", "cosine", "ve"])
def test_gaussian_flow_is_the_reference(process):
    mean = 0.7
    problem = dn.Problem(process, dn.Gaussian([mean], [0.3**2]))
    times = [0.8 * process.t_max, 0.01 * process.t_max]
    start = torch.tensor([[-1.1], [0.4], [2.0]], dtype=torch.float64)
    flow = sp.lambdify((y, mu, s0, rho_t, rho_s), reversing.gaussian_flow(), "math")
    (a, _), (b, _) = map(process.levels, times)
    exact = [b * flow(u / a, mean, 0.3, *map(process.rho, times)) for u in start.ravel().tolist()]
    computed = analysis.reference(problem, start, times, rtol=1e-13)
    assert np.allclose(computed.ravel(), exact, rtol=1e-10, atol=1e-12)  # steps of 1e-13, cosine at 0.8


def test_correlation_falls_with_lambda():
    values = {s0: sp.Rational(1, 2), rho_t: 3, rho_s: sp.Rational(1, 10)}
    scale = sp.sqrt((s0**2 + rho_t**2) * (s0**2 + rho_s**2))
    found = [float((reversing.joint_covariance(sp.Integer(n)) / scale).subs(values)) for n in range(4)]
    assert found[0] == 1 and all(a > b for a, b in pairwise(found))
    ratio = (0.25 + 0.01) / (0.25 + 9)
    assert np.allclose(found, [ratio ** (n * n / 2) for n in range(4)])


# ---- weak order on Gaussian data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_one_step_of_euler_maruyama(weight):
    """The h^2 terms of mean and variance against one short step of the solver, its noise included."""
    process, mean, std, at, step = dn.VP(), 0.7, 0.4, 0.3, 1e-4
    problem = dn.Problem(process, dn.Gaussian([mean], [std**2]))
    computed = analysis.law(problem, "euler_maruyama", [at, at - step], lam=weight)
    exact = analysis.exact_law(problem, at - step)
    rate = sp.Rational(1, 10) + sp.Rational(199, 10) * t
    signal = sp.exp(-t / 20 - sp.Rational(199, 40) * t**2)
    values = {"alpha": signal, "C": signal**2 * std**2 + 1 - signal**2, "F": -rate / 2, "G": sp.sqrt(rate)}
    for name, found, right in zip(("mean", "variance"), computed, exact, strict=True):
        defect = reversing.euler_maruyama_defects()[name]
        assert defect[0] == defect[1] == 0
        functions = {f: values[f.func.__name__] for f in defect[2].atoms(sp.core.function.AppliedUndef)}
        second = defect[2].subs(functions).doit().subs({t: at, lam: weight, mu: mean})
        assert (found - right).item() == pytest.approx(float(second) * step**2, rel=5e-3)


def test_weak_constants_add_up_local_errors():
    for defect in reversing.weak_local_errors().values():
        assert defect[0] == defect[1] == 0 and defect[2] != 0
    assert reversing.weak_constant_residuals() == {"euler_maruyama": (0, 0), "frozen": (0, 0)}


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "solver"), [("euler_maruyama", "euler_maruyama"), ("frozen", "gddim_sde")])
def test_weak_constants_are_those_of_the_solvers(name, solver, weight):
    """Two runs, extrapolated; a grid of log(rho) from 10 to 0.1, standard deviation 1/2."""
    process, (first, last) = dn.VE(10.0), (10.0, 0.1)
    problem = dn.Problem(process, dn.Gaussian([0.7], [0.25]))
    scaled = []
    for n in (160, 320):
        times = grids.log_snr(process, n, t_start=first, t_end=last)
        cov = analysis.law(problem, solver, times, lam=weight)[1] - analysis.exact_law(problem, last)[1]
        scaled.append(cov.item() * n / math.log(first / last))
    constant = reversing.weak_constants()[name].subs({lam: weight, s0: 0.5, rho_t: first, rho_s: last})
    assert 2 * scaled[1] - scaled[0] == pytest.approx(float(constant), rel=0.02)
