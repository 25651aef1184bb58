"""Guidance on paper: residuals are 0 where they must be and only there, and the numeric code is what is derived."""

import numpy as np
import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum.derive import classical, guidance
from diffnum.derive.guidance import kappa, tau, w
from diffnum.derive.linear_sde import x
from diffnum.derive.reversing import h, mu, s0, sigma

HALF, WIDTH = 1.0, 0.4


def pair():
    """The two Gaussians of the derivations, as a denoiser and its own guide."""
    return dn.GaussianMixture([0.5, 0.5], [[-HALF], [HALF]], stds=[WIDTH, WIDTH])


@pytest.mark.parametrize("classes", [2, 3])
def test_odds_are_differences_of_scores(classes):
    assert guidance.bayes_residual(classes) == 0


def test_weight_one_is_the_posterior_mean():
    assert guidance.posterior_mean_residuals(2) == (0, 0)
    assert guidance.posterior_mean_residuals(3) == (0, 0)


def test_data_plus_noise_obeys_the_heat_equation():
    assert guidance.heat_residual() == 0
    wrong = sp.log(sp.exp(-(x**2) / (4 * tau)) / sp.sqrt(tau))  # twice the variance
    assert sp.diff(guidance.heat_residual(wrong), x) != 0


@pytest.mark.parametrize("d", [1, 2])
def test_the_defect_of_another_weight(d):
    """w (1 - w)/2 times the squared gradient of the log odds, so 0 at weights 0 and 1 alone."""
    states = sp.symbols(f"x0:{d}", real=True)
    L, Ly = (sp.Function(name, real=True)(*states, tau) for name in ("L", "L_y"))
    squared = sum(sp.diff(Ly - L, s) ** 2 for s in states)
    assert sp.expand(guidance.field_defect(d=d) - w * (1 - w) / 2 * squared) == 0
    assert guidance.field_defect(sp.Integer(0), d) == guidance.field_defect(sp.Integer(1), d) == 0
    assert guidance.field_defect(sp.Integer(2), d) != 0


def test_two_gaussians_have_a_defect_that_depends_on_x():
    """In numbers, and not simplified: the general formula, up to the factor of the density that depends on tau."""
    density, odds = (f.subs(sigma, sp.sqrt(tau)) for f in guidance.two_gaussians())
    guided, slope = density + w * odds, sp.diff(density + w * odds, x)
    defect = sp.diff(guided, tau) - (sp.diff(slope, x) + slope**2) / 2
    numbers = {mu: 1, s0: sp.Rational(2, 5), tau: 1}
    for weight in (0, 1, sp.Rational(1, 2), 3):
        here = [expression.subs({**numbers, w: weight}) for expression in (defect, odds.diff(x) ** 2)]
        found, square = ([float(e.subs(x, at)) for at in (-1.0, 0.3, 2.0)] for e in here)
        rest = [a - weight * (1 - weight) / 2 * b for a, b in zip(found, square, strict=True)]
        assert max(rest) - min(rest) < 1e-12
        assert (abs(found[0] - found[2]) < 1e-12) == (weight in (0, 1))


def test_gaussians_of_one_variance_are_the_exception():
    assert guidance.shifted_gaussian_residual() == (0, 0)


def test_extrapolated_gaussian_in_numbers():
    """The realism of two Gaussians of one variance, weight 3: exactly the denoiser of a third."""
    q, p, third = (dn.Gaussian([m], [0.3]) for m in (-0.5, 0.2, -0.5 + 3 * 0.7))
    guided = dn.Guided(q, lambda x, s: (p.logits(x, s) - q.logits(x, s))[:, 0], weights=3.0)
    u = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(guided.eps(u, 0.8), third.eps(u, 0.8), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guided_noise_is_that_of_the_library(weight):
    density, odds = guidance.two_gaussians()
    assert sp.simplify((guidance.guided_noise() + sigma * sp.diff(density + w * odds, x)).rewrite(sp.exp)) == 0
    formula = sp.lambdify((x, sigma), guidance.guided_noise().subs({mu: HALF, s0: WIDTH, w: weight}), "numpy")
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for level in (0.05, 0.7, 10.0):
        found = dn.Guided(pair(), pair(), 1, weight).eps(u, level)
        assert np.allclose(found.ravel(), formula(u.numpy().ravel(), level), rtol=1e-12, atol=1e-12)


def test_rates_are_variances():
    assert guidance.rate_residual(2) == guidance.rate_residual(3) == 0


def test_rate_is_the_slope_of_the_noise():
    assert sp.simplify((guidance.rate() - sigma * sp.diff(guidance.guided_noise(), x)).rewrite(sp.exp)) == 0
    held = guidance.rate().subs({x: 0, sigma: s0})
    assert sp.simplify(held - sp.Rational(1, 2) - (w - 1) * mu**2 / (4 * s0**2)) == 0
    assert sp.simplify(guidance.rate(sp.Integer(1)) - sigma**2 / (s0**2 + sigma**2)) == 0


def test_pulse():
    assert guidance.pulse_residual() == 0
    p = 1 / (1 + sp.exp(-guidance.v))
    far = guidance.rate().subs(s0, 0).subs(x, sigma**2 * guidance.v / (2 * mu))
    bounded = 1 + kappa * p * (1 - p)
    assert sp.simplify((far - bounded.subs(kappa, 4 * (w - 1) * mu**2 / sigma**2)).rewrite(sp.exp)) == 0


def test_overshoot_limits():
    for order in (1, 2, 3, 4):
        limit = guidance.overshoot_limit(order)
        assert sp.limit(limit * h, h, 0) == classical.real_stability_limit(order)
    assert sp.limit(guidance.overshoot_limit(1), h, sp.oo) == 2  # falls towards 2: DDIM never overshoots below it


@pytest.mark.parametrize(("order", "name"), [(1, "ddim"), (2, "s_pndm"), (4, "f_pndm")])
def test_overshoot_limits_are_those_of_the_solvers(order, name):
    """Noise J y/rho on a log-SNR grid of VE: deviations neither grow nor fall at the limit, and do on either side."""
    step = 0.4
    limit = float(guidance.overshoot_limit(order).subs(h, step))

    class Linear:
        shape = (1,)

        def __init__(self, rate):
            self.rate = rate

        def __call__(self, x, s):
            return x - s * self.eps(x, s)

        def eps(self, x, s):
            return self.rate * x / s

    sizes = []
    for factor in (0.97, 1.03):
        problem, n = dn.Problem(dn.VE(), Linear(factor * limit)), 300
        times = 80.0 * torch.exp(-step * torch.arange(n + 1, dtype=torch.float64))
        u = torch.ones(1, 1, dtype=torch.float64)
        path = dn.solve(problem, name, u, times, trajectory=True).trajectory.abs().flatten()
        sizes.append(path[200:].max().item() / path[100:200].max().item())
    assert sizes[0] < 0.5 and sizes[1] > 2, sizes
