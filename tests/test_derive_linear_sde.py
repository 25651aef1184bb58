"""The SymPy solution of the noising processes: residuals are 0, and the numeric library agrees to rounding."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum.derive import linear_sde
from diffnum.derive.linear_sde import B0, B1, F, G, omega, phi, r, s, t, x
from diffnum.measure.checks import ROUNDED

NAMES = ("vp-linear", "vp-cosine", "ve")
OFFSET = 0.008
VALUES = {  # exact values of the floats that the numeric processes hold
    "vp-linear": {B0: sp.Rational(0.1), B1: 20},
    "vp-cosine": {omega: sp.pi / (2 * (1 + sp.Rational(OFFSET))), phi: sp.pi / 2 * (1 - 1 / (1 + sp.Rational(OFFSET)))},
    "ve": {},
}
# Random times come as near as 1e-3 to the zero of the cosine, where its angle's rounding counts a thousandfold.
DIGITS = 1e3 * ROUNDED
NUMERIC = {"vp-linear": dn.VP, "vp-cosine": lambda: dn.VP.cosine(OFFSET), "ve": dn.VE}


def number(expression: sp.Expr, name: str, **times: float) -> float:
    """The expression at exact floats, evaluated with 40 digits."""
    values = VALUES[name] | {{"t": t, "s": s}[key]: sp.Rational(value) for key, value in times.items()}
    return float(sp.N(sp.sympify(expression).subs(values), 40))


def random_times(process, count=12) -> list[float]:
    """Half of them uniform, half of them spread over five decades above 0."""
    random = np.random.RandomState(7)
    top = 0.999 * process.t_max
    return [*(top * random.rand(count // 2)), *(top * 10 ** (-5 * random.rand(count - count // 2)))]


def close(computed, exact, digits=DIGITS):
    assert math.isclose(float(computed), exact, rel_tol=digits, abs_tol=0), (float(computed), exact)


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_the_library(name):
    process, (alpha, variance) = NUMERIC[name](), linear_sde.solve_moments(name)
    for time in random_times(process):
        close(process.mean(time), number(alpha, name, t=time))
        close(process.cov(time), number(variance, name, t=time))
        close(process.levels(time)[1], math.sqrt(number(variance, name, t=time)))
        exact = number(linear_sde.log_snr(name), name, t=time)
        assert abs(process.log_snr(time) - exact) < DIGITS * max(1, abs(exact))


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_those_of_the_library(name):
    process, (drift, square) = NUMERIC[name](), linear_sde.rates(name)
    for time in random_times(process):
        exact = number(drift, name, t=time)
        # the tangent is as ill-conditioned as the distance of its angle from a right angle
        assert abs(float(process.F(time)) - exact) <= DIGITS * max(1, abs(exact))
        close(process.G(time) ** 2, number(square, name, t=time))


@pytest.mark.parametrize("name", NAMES)
def test_transition_and_step_are_those_of_the_library(name):
    process, (factor, variance) = NUMERIC[name](), linear_sde.transition(name)
    times = random_times(process)
    for early, late in zip(sorted(times)[:-1], sorted(times)[1:], strict=True):
        psi = number(factor, name, t=late, s=early)
        close(process.transition(late, early), psi)
        assert number(variance, name, t=late, s=early) > 0
        alpha, noise = linear_sde.solve_moments(name)
        ratio = sp.sqrt(noise) / alpha
        exact = number(alpha.subs(t, s) * (ratio.subs(t, s) - ratio), name, t=late, s=early)
        back, c = process.step(late, early)
        close(back, 1 / psi)
        close(c, exact, DIGITS * late / (late - early))


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_solve_the_moment_equations(name):
    drift, square = linear_sde.rates(name)
    mean, variance = linear_sde.solve_moments(name)
    equations = linear_sde.moment_equations()
    for (rate, right), solution in zip(equations.items(), (mean, variance), strict=True):
        wanted = right.subs(rate.expr, solution).subs({F: drift, G: sp.sqrt(square)})
        assert sp.simplify(sp.diff(solution, t) - wanted) == 0
    assert (sp.simplify(mean.subs(t, 0)), sp.simplify(variance.subs(t, 0))) == (1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_are_one(name):
    """Factors multiply, and noise made before r is carried on by the second factor (Chapman-Kolmogorov)."""
    factor, variance = linear_sde.transition(name)
    first, second = (part.subs(t, r) for part in (factor, variance)), (part.subs(s, r) for part in (factor, variance))
    (psi1, c1), (psi2, c2) = first, second
    assert sp.simplify(psi2 * psi1 - factor) == 0
    assert sp.simplify(psi2**2 * c1 + c2 - variance) == 0
    assert sp.simplify(variance.subs(t, s)) == 0


@pytest.mark.parametrize("k", [1, 2])
def test_matrix_moment_equations_and_rescaled_process(k):
    assert linear_sde.matrix_moment_residual(k) == 0
    assert linear_sde.rescaled_process_residuals(k) == (sp.zeros(k, k), sp.zeros(k, k))


def test_the_system_form_contains_the_scalar_one():
    p = sp.Function("p")(x, t)
    scalar = -sp.diff(F * x * p, x) + G**2 * sp.diff(p, x, 2) / 2
    assert sp.expand(linear_sde.fokker_planck(p, F * x, G) - scalar) == 0


def test_log_snr_falls_at_the_rate_of_the_noise():
    assert linear_sde.log_snr_rate_residual() == 0
    for name in NAMES:
        _, square = linear_sde.rates(name)
        _, variance = linear_sde.solve_moments(name)
        assert sp.simplify(sp.diff(linear_sde.log_snr(name), t) + square / variance) == 0


def test_vp_is_ve_in_numbers():
    """G^2/alpha^2 = d(rho^2)/dt for both VP schedules, and rho is the time of VE."""
    for name in ("vp-linear", "vp-cosine"):
        alpha, variance = linear_sde.solve_moments(name)
        _, square = linear_sde.rates(name)
        assert sp.simplify(sp.diff(variance / alpha**2, t) - square / alpha**2) == 0
        process, ve = NUMERIC[name](), dn.VE()
        for time in random_times(process, 6):
            rho = process.rho(time)
            x0, noise = torch.full((1, 1), 1.3, dtype=torch.float64), torch.full((1, 1), -0.4, dtype=torch.float64)
            u = process.alpha(time) * x0 + process.sigma(time) * noise
            v = ve.alpha(rho) * x0 + ve.sigma(rho) * noise
            close(u / process.alpha(time), float(v))


@pytest.mark.parametrize("function", [linear_sde.clean_variance, linear_sde.noise_factor])
def test_forms_are_equal_on_paper(function):
    """At 40 digits; and in double precision only the second keeps its digits, between neighbouring times."""
    late, early = 1e-9, math.nextafter(1e-9, 0.0)
    values = VALUES["vp-linear"] | {t: sp.Rational(late), s: sp.Rational(early)}
    naive, stable = (sp.N(function(form).rewrite(sp.exp).subs(values), 60) for form in ("difference", "expm1"))
    assert abs(naive / stable - 1) < 1e-30
    in_double = [
        float(sp.lambdify((t, s, B0, B1), function(form), "numpy")(late, early, 0.1, 20.0))
        for form in ("difference", "expm1")
    ]
    # however it is rounded: no multiple of the last digit of 1, or of sigma/alpha, is nearer to the small difference
    assert abs(in_double[0] / float(stable) - 1) > 1e-9
    assert abs(in_double[1] / float(stable) - 1) < ROUNDED


@pytest.mark.parametrize("function", [linear_sde.clean_variance, linear_sde.noise_factor])
def test_stable_forms_are_the_librarys(function):
    process = dn.VP()
    call = sp.lambdify((t, s, B0, B1), function("expm1"), "numpy")
    for late, early in ((1e-3, 2e-4), (0.3, 0.2999), (0.9, 0.1)):
        wanted = process.step(late, early)[1] if function is linear_sde.noise_factor else process.levels(late)[1] ** 2
        close(call(late, early, 0.1, 20.0), wanted, ROUNDED * late / (late - early))


@pytest.mark.parametrize("call", [linear_sde.rates, linear_sde.clean_variance, linear_sde.noise_factor])
def test_unknown_names_are_refused(call):
    with pytest.raises(ValueError, match="unknown"):
        call("vq")
