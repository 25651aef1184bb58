"""The SymPy tower under ER-SDE: residuals are 0, and the numeric coefficients agree at random points."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from mpmath import mp

import diffnum as dn
from diffnum import analysis, grids
from diffnum.derive import ddim, er_sde, gddim, linear_sde, reversing
from diffnum.derive.er_sde import X1, X2, X3, N, a, b, c, e, h, p, q0, s, t, u, x, x0, y
from diffnum.measure.checks import ROUNDED
from diffnum.solvers import noise_scales
from diffnum.solvers.er_sde import grid_weights, taylor

Q = sp.Rational
FORMULAS = tuple(noise_scales)
POWERS = {"x": Q(1), "x^2": Q(2), "x^1.5": Q(3, 2), "x^2.5": Q(5, 2)}
RANDOM = np.random.RandomState(7)
STEPS = [(v, v * w) for v, w in zip(10 ** RANDOM.uniform(-2, 1.8, 4), RANDOM.uniform(0.02, 0.98, 4), strict=True)]


def exactly(expression, values, digits=40):
    """An expression without integrals at exact values of floats."""
    with mp.workdps(digits):
        return expression.evalf(digits, subs={symbol: Q(float(value)) for symbol, value in values.items()})


def integrated(expression, values):
    """An expression with one integral, by quadrature in 40 digits."""
    with mp.workdps(40):
        exact = {symbol: Q(float(value)) for symbol, value in values.items()}
        at = expression.subs(exact)
        for integral in at.atoms(sp.Integral):
            variable, low, high = integral.limits[0]
            f = sp.lambdify(variable, integral.function, "mpmath")
            cuts = [
                mp.mpf(low.p) / low.q * (mp.mpf(high.p) / high.q / (mp.mpf(low.p) / low.q)) ** (k / 6) for k in range(7)
            ]
            at = at.subs(integral, sp.Float(mp.quad(f, cuts), 40))
        return at.evalf(40)


# ---- the family ----------------------------------------------------------------------------------------------------


def test_the_family_has_the_marginals():
    assert er_sde.family_residual() == 0
    assert er_sde.semi_linear_residual() == 0
    strange = sp.Function("h", nonnegative=True)(linear_sde.x) / linear_sde.G  # noise that depends on the state
    assert reversing.reverse_family_residual(strange) != 0


def test_noise_scales_are_the_librarys():
    assert tuple(er_sde.NOISE_SCALES) == FORMULAS
    for formula, psi in er_sde.NOISE_SCALES.items():
        for at in RANDOM.uniform(0.01, 90, 5):
            assert float(exactly(psi, {x: at})) == pytest.approx(noise_scales[formula](at), rel=ROUNDED)


@pytest.mark.parametrize("formula", FORMULAS)
def test_share_of_noise_and_back(formula):
    psi = er_sde.NOISE_SCALES[formula]
    share = er_sde.eta(psi)
    assert sp.simplify(er_sde.xi(psi) - 2 * x * share) == 0
    assert sp.simplify(sp.diff(sp.log(x * psi), x) - (1 + share) / x) == 0
    if formula in POWERS:
        assert share == POWERS[formula] - 1
        assert sp.simplify(er_sde.psi_from_eta(share) / psi) == 1


def test_where_the_shares_peak_and_turn():
    """Numbers of the specification: eta of the three scales that are no powers."""
    eta = {formula: sp.lambdify(x, er_sde.eta(psi), "mpmath") for formula, psi in er_sde.NOISE_SCALES.items()}
    near_ode, default = eta["x(exp(-1/x)+10)"], eta["x(exp(x^0.3)+10)"]
    low, peak, high = (float(near_ode(v)) for v in (0.9, 0.965, 1.03))
    assert peak == pytest.approx(0.0355, abs=5e-5) and peak > max(low, high)
    assert [float(default(v)) for v in (0.002, 1, 10, 80)] == pytest.approx([0.005, 0.064, 0.25, 0.90], abs=5e-3)
    assert float(default(98.6)) < 1 < float(default(98.8))
    late = eta["x^0.9 log10(1+100x^1.5)"]
    assert [float(late(v)) for v in (1e-6, 1, 80)] == pytest.approx([1.4, 0.22, 0.034], abs=5e-3)
    assert float(mp.findroot(late, 1000)) == pytest.approx(1022.4, abs=0.05)


def test_a_share_of_our_own():
    share = x / (1 + x)
    psi = er_sde.psi_from_eta(share)
    assert sp.simplify(psi - (1 + x)) == 0 and sp.simplify(er_sde.eta(psi) - share) == 0


# ---- the exact solution --------------------------------------------------------------------------------------------


def test_exact_solution():
    assert er_sde.exact_solution_residuals() == (0, 0)
    assert er_sde.noise_variance_residuals() == (0, 0, 0)


def test_vp_is_ve_in_rescaled_variables():
    assert all(part.is_zero_matrix for part in linear_sde.rescaled_process_residuals(1))


def test_an_inadmissible_scale_needs_a_negative_variance():
    V = s**2 * (1 - (s ** Q(-1, 2)) ** 2 / (t ** Q(-1, 2)) ** 2)  # psi = x^(-1/2) decreases
    assert sp.simplify(V.subs({t: 2, s: 1})) < 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_forms_of_a_coefficient(n):
    assert set(er_sde.form_residuals(n)) == {0}
    assert set(er_sde.cauchy_residuals(n)) == {0}
    with pytest.raises(ValueError, match="unknown form 'paper'"):
        er_sde.coefficient(n, x, "paper")


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("power", [*POWERS.values(), p], ids=str)
def test_closed_forms_for_powers(n, power):
    candidate = er_sde.power_coefficient(n, power)
    assert er_sde.coefficient_rate_residuals(candidate, n, x ** (power - 1)) == (0, 0)
    assert er_sde.coefficient_rate_residuals(candidate + t - s, n, x ** (power - 1)) != (0, 0)


def test_closed_form_of_the_square():
    assert sp.simplify(er_sde.power_coefficient(1, Q(2)) + (t - s) ** 2 / t) == 0
    with pytest.raises(ValueError, match="n=3"):
        er_sde.power_coefficient(3)


@pytest.mark.parametrize("formula", FORMULAS)
def test_coefficients_are_the_librarys(formula):
    psi = er_sde.NOISE_SCALES[formula]
    for start, end in STEPS:
        at = {t: start, s: end}
        numeric = taylor(noise_scales[formula], start, end, 3)
        ratio = exactly((x * psi).subs(x, s) / (x * psi).subs(x, t), at)
        assert numeric[:2] == pytest.approx((float(ratio), float(1 - ratio)), rel=ROUNDED)
        for n in (1, 2):
            values = {form: float(integrated(er_sde.coefficient(n, psi, form), at)) for form in er_sde.FORMS}
            assert values == pytest.approx(dict.fromkeys(er_sde.FORMS, numeric[n + 1]), rel=ROUNDED)
            if formula in POWERS:
                closed = exactly(er_sde.power_coefficient(n, POWERS[formula]), at)
                assert float(closed) == pytest.approx(numeric[n + 1], rel=ROUNDED)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("process", [dn.VE(), dn.VP()], ids=["ve", "vp"])
def test_weights_of_a_step_are_the_librarys(formula, process):
    """Third step of a grid with unequal steps: factors of the state, of three predictions and of the noise."""
    psi, ratios = er_sde.NOISE_SCALES[formula], [9.0, 5.5, 2.3, 0.7]
    times = [process.time_of_rho(ratio) for ratio in ratios]
    for derivative in ("corrected", "paper"):
        numeric = grid_weights(process, times, noise_scales[formula], 3, derivative=derivative)[2]
        p2, p1, start, end = map(process.rho, times)
        at = {t: start, s: end}
        r, A2, A3 = (
            float(exactly((x * psi).subs(x, s) / (x * psi).subs(x, t), at)),
            *(float(integrated(er_sde.coefficient(n, psi), at)) for n in (1, 2)),
        )
        newest, before, zero = np.array([1.0, -1, 0]) / (start - p1), np.array([0, 1.0, -1]) / (p1 - p2), [1.0, 0, 0]
        second = 2 * (newest - before) / (start - p2)
        first = newest + (start - p1) / 2 * second * (derivative == "corrected")
        frozen = (1 - r) * np.array(zero) + A2 * first + A3 * second
        start_alpha, alpha = process.alpha(times[2]), process.alpha(times[3])
        expected = (alpha / start_alpha * r, *(alpha * frozen), alpha * max(end**2 - start**2 * r**2, 0) ** 0.5)
        # the expected variance is a difference: of the ODE it is 0, and the root of what rounding leaves is its noise
        assert numeric == pytest.approx(expected, rel=1e3 * ROUNDED, abs=ROUNDED**0.5 if formula == "x" else 0)


@pytest.mark.parametrize("formula", FORMULAS)
def test_series_of_short_steps(formula):
    """The series through h^4 misses h^5: halving the step divides the defect by 32."""
    psi = er_sde.NOISE_SCALES[formula]
    log_rate = sp.diff(sp.log(x * psi), x)
    known = {q: exactly(sp.diff(log_rate, x, k), {x: 1.5}) for k, q in enumerate(er_sde.q_derivatives)}
    for n in (1, 2):
        series, defects = er_sde.coefficient_series(n).subs(known), []
        for step in (0.1, 0.05):
            exact = integrated(er_sde.coefficient(n, psi), {t: 1.5, s: Q(3, 2) - Q(step)})
            defects.append(float(series.subs(h, Q(step)) - exact))
        exact_series = max(map(abs, defects)) < ROUNDED  # x^2: A_2 is a square
        assert exact_series or math.log2(defects[0] / defects[1]) == pytest.approx(5, abs=0.25)
        assert exact_series == (formula == "x^2" and n == 1)


# ---- one step, and what it is called elsewhere ---------------------------------------------------------------------


def test_order_one_is_ddim_ancestral_and_stochastic_gddim():
    """A step sees one number r, and any r is a power of the ratio of levels: powers stand for every phi."""
    levels = (gddim.sigma_s / gddim.alpha_s) / (gddim.sigma_t / gddim.alpha_t)
    lam = gddim.lam
    linear, clean, variance = er_sde.frozen_step(levels ** (1 + lam**2))
    through, P = gddim.scalar_step()
    assert sp.simplify(linear - through) == 0 and sp.simplify(variance - P) == 0
    assert sp.simplify(linear * gddim.alpha_t + clean - gddim.alpha_s) == 0  # a point mass stays on its mean
    assert gddim.eta_residuals() == (0, 0)  # DDIM with the variance P
    assert gddim.posterior_residuals() == (0, 0)  # lambda = 1, phi = x^2: the posterior of DDPM


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_order_one_without_noise_is_ddim(process):
    start, end = (ddim.levels(process, at) for at in (ddim.rho_t, ddim.rho_s))
    known = dict(zip((gddim.alpha_t, gddim.sigma_t, gddim.alpha_s, gddim.sigma_s), (*start, *end), strict=True))
    linear, clean, variance = (part.subs(known) for part in er_sde.frozen_step(ddim.rho_s / ddim.rho_t))
    X, E = ddim.in_noise(process, "eps")
    step = linear * (start[0] * x0 + start[1] * e) + clean * x0
    assert sp.simplify(step - X * (start[0] * x0 + start[1] * e) - E * e) == 0
    assert sp.simplify(variance) == 0


def test_order_two_is_not_dpmpp_2m():
    ours, theirs = (float(exactly(w, {u: 2.6, t: 2, s: 1.5})) for w in er_sde.second_order_weights())
    assert (round(ours, 4), round(theirs, 4)) == (0.1141, 0.1371)
    times = [2.6, 2.0, 1.5]
    assert grid_weights(dn.VE(), times, noise_scales["x"], 2)[1][2] == pytest.approx(-ours, rel=ROUNDED)
    ratio = er_sde.second_order_weights()[0] / er_sde.second_order_weights()[1]
    short = ratio.subs({u: 1 + h, t: 1, s: 1 - h})
    assert sp.limit(short, h, 0) == 1  # both have order 2


# ---- local errors --------------------------------------------------------------------------------------------------


def test_local_errors():
    one, two, published, repaired = (
        er_sde.local_error(*options) for options in ((1,), (2,), (3, "paper"), (3, "corrected"))
    )
    assert one[2] == q0 * X1 / 2
    assert two[2] == 0 and sp.expand(two[3] + q0 * X2 * (a / 4 + Q(1, 6))) == 0
    assert published[2] == 0 and sp.expand(published[3] + q0 * a * X2 / 4) == 0  # order 2
    assert repaired[2] == repaired[3] == 0 and repaired[4] != 0  # order 3
    assert (published[3] / two[3]).subs(a, 1) == Q(3, 5)


def test_the_rule_of_a_hundred_points():
    assert er_sde.rectangle_defects() == (-1 / N, -1 / (2 * N), 3 / N)
    assert er_sde.local_error(2, points=N)[2] == q0 * X1 / (2 * N)
    assert sp.expand(er_sde.local_error(3, points=N)[2] - (q0 * X1 - X2) / (2 * N)) == 0
    for formula in FORMULAS:
        exact, rule = (taylor(noise_scales[formula], 2.0, 1.998, 3, how) for how in ("gauss", "riemann100"))
        assert rule[2] / exact[2] - 1 == pytest.approx(-0.01, rel=2e-3)
        assert rule[3] - exact[3] == pytest.approx(-(0.002**2) / 200, rel=2e-3)
        assert rule[3] < 0 < exact[3]


@pytest.mark.parametrize(("order", "derivative"), [(1, "paper"), (2, "paper"), (3, "paper"), (3, "corrected")])
def test_local_errors_of_the_library(order, derivative):
    """The step's weights on a cubic path of predictions, against the exact integral, leave the derived term."""
    psi, path = er_sde.NOISE_SCALES["x^1.5"], lambda v: 0.7 * v - 0.4 * v**2 + 0.9 * v**3
    known = {X1: 0.7, X2: -0.8, X3: 5.4, er_sde.X4: 0, a: 1.3, b: 0.8}
    known |= {q: exactly(sp.diff(Q(3, 2) / x, x, k), {x: 2}) for k, q in enumerate(er_sde.q_derivatives)}
    terms = er_sde.local_error(order, derivative)
    power = min(k for k, term in terms.items() if term != 0)
    errors = []
    for step in (0.02, 0.01):
        times = [2 + 2.1 * step, 2 + 1.3 * step, 2.0, 2 - step]
        weights = grid_weights(dn.VE(), times, noise_scales["x^1.5"], order, derivative=derivative)[2]
        made = sum(w * path(v - 2) for w, v in zip(weights[1:-1], (times[2], times[1], times[0]), strict=False))
        A = [integrated(er_sde.coefficient(n, psi), {t: 2, s: times[3]}) for n in (1, 2, 3)]
        errors.append((made - float(A[0] * 0.7 - A[1] * 0.8 + A[2] * 5.4)) / step**power)
    extrapolated = 2 * errors[1] - errors[0]
    assert extrapolated == pytest.approx(float(terms[power].subs(known)), rel=2e-3)


def test_dpmpp_3m_misses_a_factor_two():
    published, repaired = er_sde.dpmpp_3m_local_error(), er_sde.dpmpp_3m_local_error(Q(2))
    assert published[2] == 0 and published[3] == -X2 / 12
    assert repaired[2] == repaired[3] == 0 and repaired[4].has(X3)


def test_dpmpp_3m_as_published():
    """The update written as in the authors' code, on a quadratic path, in 50 digits."""
    with mp.workdps(50):
        f = lambda v: mp.mpf("0.3") * v + mp.mpf("0.8") * v**2 / 2  # noqa: E731
        defects = {}
        for factor in (1, 2):
            h_, h0, h1 = mp.mpf("1e-6"), mp.mpf("1.4e-6"), mp.mpf("0.9e-6")
            r0, r1 = h0 / h_, h1 / h_
            D1_0, D1_1 = (f(0) - f(-h0)) / r0, (f(-h0) - f(-h0 - h1)) / r1
            D1, D2 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1), (D1_0 - D1_1) / (r0 + r1)
            phi2 = mp.expm1(-h_) / h_ + 1
            phi3 = phi2 / h_ - mp.mpf(1) / 2
            exact = mp.quad(lambda v, h_=h_: mp.exp(v - h_) * f(v), [0, h_])
            defects[factor] = (phi2 * D1 - phi3 * factor * D2 - exact) / h_**3
    assert float(defects[1]) == pytest.approx(-0.8 / 12, rel=1e-5)
    assert abs(float(defects[2])) < 1e-20  # a quadratic path: nothing is left at any order


# ---- Gaussian data -------------------------------------------------------------------------------------------------


def test_excess_is_never_negative_where_admissible():
    for formula, psi in er_sde.NOISE_SCALES.items():
        value = er_sde.excess(psi)
        assert value == 0 if formula == "x" else all(float(exactly(value, {t: v, s: w})) > 0 for v, w in STEPS)


def test_variance_deficit():
    assert er_sde.variance_deficit_residual() == 0
    assert er_sde.mean_map_residual() == 0
    assert er_sde.gaussian_flow_residual() == 0
    problem, times = dn.Problem(dn.VE(10.0), dn.Gaussian([0.4], [0.25])), [1.7, 0.6]
    for formula in FORMULAS:
        r = taylor(noise_scales[formula], *times, 1)[0]
        cov = analysis.law(problem, "er_sde", torch.tensor(times, dtype=torch.float64), order=1, phi=formula)[1].item()
        deficit = 0.25 * 1.7**2 / (0.25 + 1.7**2) * (1 - r) ** 2
        assert cov == pytest.approx(0.25 + 0.36 - deficit, rel=ROUNDED)


# ---- what noise does to the order ----------------------------------------------------------------------------------


def test_the_prediction_is_a_martingale_at_eta_one():
    assert er_sde.denoiser_drift_residual() == 0


def test_moments_of_the_lag():
    moments = er_sde.lag_moments()
    assert moments["frozen"] == h**3 / 3
    assert moments["lagged"] == moments["conditional"] == h**3 / 12
    assert moments["frozen_weak"] == -(h**2) / 2 and moments["lagged_weak"] == 0


@pytest.mark.parametrize("power", [1.5, 2.0, 2.5])
def test_strong_constants_are_measured(power):
    """Root mean square over 1500 coupled paths, so within a few per cent; data N(0, 1/4), log-SNR grid."""
    assert er_sde.strong_constant_residual() == 0
    process = dn.VE(5.0)
    problem = dn.Problem(process, dn.Gaussian([0.0], [0.25]))
    start = 25.25**0.5 * torch.randn(1500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rung, n = analysis.ladder(grids.log_snr, process, t_end=0.1), 256
    known = {c: Q(1, 4), t: 5, s: Q(1, 10), p: Q(power)}
    predicted = {k: math.sqrt(v.subs(known)) * math.log(50) / n for k, v in er_sde.strong_constants().items()}
    for order, name in ((2, "lagged"), (1, "frozen")):
        if order == 2 or power == 2:
            result = analysis.strong_convergence(
                problem, "er_sde", start, rung, (n,), finest=2048, order=order, phi=lambda v: v ** (power - 1)
            )
            assert result.errors[0] == pytest.approx(predicted[name], rel=0.1)
    assert predicted["lagged"] == pytest.approx(predicted["frozen"] / 2)


WEAK = [(1, "paper"), (2, "paper"), (3, "paper"), (3, "corrected")]


@pytest.mark.parametrize(("order", "derivative"), WEAK)
def test_weak_orders_of_gaussian_data(order, derivative):
    """Mean and variance are right to h^2 from order 2 on, for every scale and ratio of steps; covariances to h."""
    defects, J = er_sde.weak_defects(order, derivative), c / (c + t**2)
    assert all(defect[:2] == (0, 0) for defect in defects.values())
    if order == 1:
        assert sp.simplify(defects["variance"][2] + J * q0**2 * t**2) == 0
        assert defects["mean"][2].subs(q0, 2 / t) == 0 != defects["mean"][2]  # phi = x^2 moves the mean exactly
    else:
        assert defects["mean"][2] == defects["variance"][2] == 0
        assert sp.simplify(defects["covariance_0"][2] - J * q0 * (q0 * t - 1) * t) == 0
    ode = {q0: 1 / t}
    assert order == 1 or all(defect[2].subs(ode) == 0 for defect in defects.values())  # no noise, nothing to miss


@pytest.mark.parametrize(("order", "derivative"), WEAK)
def test_weak_defects_are_the_librarys(order, derivative):
    """Third step of the solver on N(0, 1/4) from the exact moments, phi = x^1.5, over h^2, to the next power of h."""
    variance = lambda at: 0.25 + at**2  # noqa: E731
    moment = lambda i, j: variance(max(i, j)) * (variance(min(i, j)) / variance(max(i, j))) ** 0.75  # noqa: E731
    derived = er_sde.weak_defects(order, derivative)
    found = {name: [] for name in derived}
    for step in (2e-3, 1e-3):
        levels = [1.4 + 2.1 * step, 1.4 + 1.3 * step, 1.4, 1.4 - step]
        linear, *shares, noise = grid_weights(dn.VE(), levels, noise_scales["x^1.5"], order, derivative=derivative)[2]
        end, old = levels[3], levels[2::-1][:order]
        factors = [
            w * 0.25 / variance(at) + linear * (k == 0) for k, (w, at) in enumerate(zip(shares, old, strict=True))
        ]
        made = {f"covariance_{k}": [f * moment(v, at) for f, v in zip(factors, old, strict=True)]
                for k, at in enumerate(old)}  # fmt: skip
        made["variance"] = [f * g * moment(v, w) for f, v in zip(factors, old, strict=True)
                            for g, w in zip(factors, old, strict=True)] + [noise**2]  # fmt: skip
        made["mean"] = [f * (variance(at) / variance(1.4)) ** 0.75 for f, at in zip(factors, old, strict=True)]
        right = {f"covariance_{k}": moment(end, at) for k, at in enumerate(old)}
        right |= {"variance": variance(end), "mean": (variance(end) / variance(1.4)) ** 0.75}
        for name in derived:
            found[name].append((math.fsum(made[name]) - right[name]) / step**2)
    known = {c: Q(1, 4), t: Q(7, 5), a: Q(13, 10), b: Q(8, 10), q0: Q(3, 2) / Q(7, 5)}
    for name, (coarse, fine) in found.items():
        assert 2 * fine - coarse == pytest.approx(float(derived[name][2].subs(known)), abs=1e-5)


def test_symbols_do_not_clash():
    assert len({x, t, s, u, h, a, b, c, p, y, x0, e}) == 12
