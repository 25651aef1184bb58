"""The SymPy tower under gDDIM: residuals are 0, and the numeric library agrees at random points."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch
from mpmath import mp
from scipy.integrate import quad, quad_vec

import diffnum as dn
from diffnum import grids, solvers
from diffnum.coefficients import exponential_weights, time_quadrature
from diffnum.derive import classical, ddim, gddim, linear_sde
from diffnum.derive.gddim import D1, D2, W0, Gamma, M, b, e, h, nu, q, r
from diffnum.derive.pndm import E1, E2, E3, E4
from diffnum.derive.reversing import lam
from diffnum.measure.checks import ROUNDED
from diffnum.solvers.exponential_adams import table

Q = sp.Rational
PHASE_SPACE = {"cld": dn.CLD(), "psld": dn.PSLD(), "damped": dn.PSLD((2.0, 9.0), 0.7, 3.0, eps=1e-4)}
EVERY = pytest.mark.parametrize("process", PHASE_SPACE.values(), ids=PHASE_SPACE.keys())
RANDOM = np.random.RandomState(5)
TIMES = [*RANDOM.uniform(0.05, 1.0, 3).tolist(), *(10 ** -RANDOM.uniform(1.5, 4.0, 2)).tolist()]


def zero(*parts):
    """All parts are 0: numbers, or matrices entry by entry."""
    return all(part == 0 or (isinstance(part, sp.MatrixBase) and part.is_zero_matrix) for part in parts)


def values(process, t):
    """The exact values of the floats that a process holds, at time t."""
    start = {e: Q(process.start[0]), q: Q(process.start[1])}
    return start | {Gamma: Q(process.Gamma), nu: Q(process.nu), b: Q(process.clock(t))}


def precise(matrix, at):
    """A SymPy matrix at exact values, with 60 digits."""
    return matrix.applyfunc(lambda part: part.evalf(60, subs=at))


def number(matrix, at):
    """The same as float64."""
    return torch.tensor(np.array(precise(matrix, at).tolist(), dtype=float))


def close(computed, exact, digits=1e-12):
    """Entry by entry, relative to each entry's own size."""
    computed, exact = (torch.as_tensor(part, dtype=torch.float64) for part in (computed, exact))
    assert bool(((computed - exact).abs() <= digits * exact.abs()).all()), (computed, exact)


# ---- phase space in closed form ------------------------------------------------------------------------------------


def test_phase_space_closed_forms():
    assert zero(*gddim.cld_residuals(), *gddim.transition_residuals(), *gddim.moment_residuals())
    assert gddim.determinant_residuals() == (0, 0)


def test_cld_covariance_in_its_own_symbols():
    """Gamma = 0 leaves P_3 alone: the form of the specification, with x = 4 beta t/(2 sqrt(M))."""
    x, N = sp.Symbol("x", positive=True), gddim.noise_covariance()
    own = {Gamma: 0, nu: 2 / sp.sqrt(M), b: x * sp.sqrt(M)}
    P3 = gddim.incomplete_gamma(3, x)
    expected = sp.Matrix([[P3, sp.sqrt(M) * x**2 * sp.exp(-x) / 2], [0, M * (P3 + 2 * x * sp.exp(-x))]])
    expected[1, 0] = expected[0, 1]
    assert zero(sp.simplify(N.subs(own) - expected))
    assert sp.series(P3, x, 0, 4).removeO() == x**3 / 6


@EVERY
def test_closed_forms_are_the_librarys(process):
    F, square = gddim.phase_space()
    for t in TIMES:
        at, rate = values(process, t), process.beta(t)
        close(process.F(t), rate * number(F, at))
        close(process.G(t) @ process.G(t).mT, rate * number(square, at))
        close(process.cov(t), number(gddim.covariance(), at))
        close(process.mean(t), number(gddim.transition()[:, :1], at))
        L = process.cholesky(t)
        close((L[0, 0] * L[1, 1]) ** 2, float(precise(gddim.covariance(), at).det()), 1e-11)
    for s, t in pairwise(TIMES):
        stretch = Q(process.clock(t)) - Q(process.clock(s))
        close(process.transition(t, s), number(gddim.transition(stretch), values(process, t)), 1e-11)


# ---- the root R ----------------------------------------------------------------------------------------------------


def test_root_is_cholesky_times_a_rotation():
    assert zero(*gddim.rotation_residuals())


def test_without_the_half_there_is_no_rotation():
    """F + Q Sigma^{-1} in place of F + Q Sigma^{-1}/2: the generator is not antisymmetric."""
    a, c, noise = sp.symbols("a c g", positive=True)  # VE with two noise rates, L diagonal
    L, square = sp.diag(a, c), sp.diag(noise, 2 * noise)
    rate = sp.diag(noise / (2 * a), noise / c)  # of L, from (L L^T)' = Q
    for factor, antisymmetric in ((Q(1, 2), True), (1, False)):
        A = L.inv() * (factor * square * (L * L.T).inv() * L - rate)
        assert zero(sp.simplify(A + A.T)) == antisymmetric


@EVERY
def test_angle_is_the_librarys(process):
    """The derived speed, at the library's matrices, integrates to the library's angle."""
    L, F, square = (sp.Matrix(2, 2, lambda i, j, n=n: sp.Symbol(f"{n}{i}{j}")) for n in "LFQ")
    speed = sp.lambdify([*L, *F, *square], gddim.angle_rate(L, F, square), "math")

    def rate(x):
        parts = (process.cholesky(x), process.F(x), process.G(x) @ process.G(x).mT)
        return speed(*(entry for part in parts for entry in part.flatten().tolist()))

    for s, t in ((0.05, 0.2), (0.3, 1.0)):
        turned, _ = quad(rate, s, t, epsabs=1e-13, epsrel=1e-13)
        assert abs(process.angle(t) - process.angle(s) - turned) < 1e-11  # a hundred times what quad is asked for


@pytest.mark.parametrize("k", [1, 2])
def test_identity_of_the_root_and_exactness_on_a_point(k):
    assert zero(gddim.root_identity_residual(k), *gddim.point_mass_residuals(k), gddim.one_step_residual(k))


@EVERY
def test_identity_is_the_librarys(process):
    for s, t in ((1.0, 0.7), (0.7, 0.05), (0.2, 1e-3)):
        tau, weight, _ = time_quadrature([(s, t)], process.knots.tolist())
        values = process.transition(torch.tensor(t, dtype=torch.float64), tau) @ process.gain(tau)
        integral = (weight[..., None, None] * values).sum((0, 1))
        exact = process.rotation_root(t) - process.transition(t, s) @ process.rotation_root(s)
        cancelled = process.transition(t, s).abs() @ process.rotation_root(s).abs()
        assert (integral - exact).abs().max() < ROUNDED * cancelled.max()


# ---- exponential Adams methods -------------------------------------------------------------------------------------


def test_order_one_is_ddim():
    assert gddim.ddim_residuals() == (0, 0)


def _library_weights(process, times, order):
    return [w[..., 0, 0].tolist() for w in exponential_weights(process, times, order)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_coefficients_on_vp_are_the_integral_in_rho(order):
    process, times = dn.VP(), [0.9, 0.6, 0.5, 0.31, 0.2]
    alpha, variance = linear_sde.solve_moments("vp-linear")
    floats = {linear_sde.B0: Q(0.1), linear_sde.B1: 20}
    ratio = (sp.sqrt(variance) / alpha).subs(floats)
    derived = gddim.time_weights(ratio, [Q(x) for x in times[3::-1][:order]], Q(times[4]))
    weights = _library_weights(process, times, order)[-1]
    for part, weight in zip(derived, weights, strict=True):
        (at, start, end), integrand = part.limits[0], sp.lambdify(linear_sde.t, part.function, "mpmath")
        assert at == linear_sde.t
        with mp.workdps(30):
            exact = float(mp.quad(integrand, [mp.mpf(float(start)), mp.mpf(float(end))]))
        # the polynomials are products of differences of times, which lose up to a digit each
        assert math.isclose(weight, process.alpha(times[4]) * exact, rel_tol=100 * ROUNDED)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_coefficients_are_those_of_deis(order):
    """tAB-DEIS, in the library `pndm_variable(variable="t")`, and gDDIM: one set of coefficients where both have q."""
    process = dn.VP()
    times = grids.log_snr(process, 12).tolist()
    deis = solvers.pndm.grid_weights(process, tuple(times), order, "t")
    ours = _library_weights(process, times, order)
    for (t, s), w, C in zip(pairwise(times), deis, ours, strict=True):
        assert not w or np.allclose(
            C, process.step(t, s)[1] * np.array(w), rtol=1e3 * ROUNDED, atol=0
        )  # differences of close times


def test_coefficients_on_ve_are_variable_step_adams_bashforth():
    times = [3.0, 2.2, 1.5, 0.9, 0.4]
    exact = gddim.adams_weights("noise", "rho", [Q(x) for x in times[3::-1]], Q(times[4]))
    assert exact == classical.adams_bashforth_variable([Q(x) for x in times[3::-1]], Q(times[4]))
    assert np.allclose(_library_weights(dn.VE(), times, 4)[-1], [float(w) for w in exact], rtol=100 * ROUNDED, atol=0)


@pytest.mark.parametrize("pair", [("noise", "rho"), ("noise", "lambda"), ("data", "lambda")])
def test_weights_of_constants_make_ddim(pair):
    """Whatever is interpolated, and in whatever: constant predictions give the total, so order 1 is DDIM for all."""
    lam_t, step = sp.Symbol("lambda_t", real=True), sp.Symbol("s", positive=True)
    if pair[1] == "rho":
        nodes, end, total = [ddim.rho_t, ddim.rho_t + step], ddim.rho_s, ddim.rho_s - ddim.rho_t
    else:
        nodes, end = [lam_t, lam_t - step], lam_t + h
        sign = 1 if pair[0] == "data" else -1
        total = sp.exp(sign * (lam_t + h)) - sp.exp(sign * lam_t)
    assert sp.simplify(sum(gddim.adams_weights(*pair, nodes, end)) - total) == 0
    with pytest.raises(ValueError, match="unknown pair"):
        gddim.adams_weights("data", "rho", nodes, end)


def test_dpmpp_2m_is_nearly_exponential_adams():
    new, old = gddim.dpmpp_2m_defect()
    assert sp.expand(new + old) == 0, "constants are integrated exactly by both"
    assert sp.expand(old).coeff(h, 2) == 1 / (12 * r) and sp.expand(old).coeff(h, 1) == 0
    errors = gddim.data_local_errors()
    assert sp.expand(errors["adams"] + (Q(1, 6) + r / 4) * D2) == 0
    assert sp.expand(errors["dpmpp_2m"] - errors["adams"] + D1 / 12) == 0
    assert errors["adams"].subs(r, 1) == -classical.adams_bashforth_error_constant(2) * D2


def test_dpmpp_2m_weights_are_the_librarys():
    process, times = dn.VP(), (0.8, 0.5, 0.35)
    lambdas = [process.log_snr(t) / 2 for t in times]
    steps = {h: lambdas[2] - lambdas[1], r: (lambdas[1] - lambdas[0]) / (lambdas[2] - lambdas[1])}
    _, new, old = table(process, times, 2, "log_snr", "data", rule="bh2")[1]
    for weight, derived in zip((new, old), gddim.dpmpp_2m_weights(), strict=True):
        assert math.isclose(weight, process.alpha(times[2]) * float(derived.subs(steps)), rel_tol=10 * ROUNDED)


# ---- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_moment_rules(nodes):
    assert [gddim.moment_defect(nodes, power) for power in range(nodes)] == [0] * nodes
    places, tau = sp.symbols(f"t0:{nodes}", real=True), sp.Symbol("tau", real=True)
    assert sp.expand(gddim.moment_defect(nodes, nodes) + sp.prod(tau - place for place in places)) == 0


@pytest.mark.parametrize("K", ["R", "L"])
@pytest.mark.parametrize("process", [dn.VP(), *PHASE_SPACE.values()], ids=["vp", *PHASE_SPACE])
def test_coefficients_obey_the_moment_rules(process, K):
    times = [0.9, 0.8, 0.66, 0.5, 0.31]
    for ahead in (False, True):
        table = exponential_weights(process, times, 3, K, ahead)[-1]
        nodes = times[:0:-1] if ahead else times[3:0:-1]
        for power in range(len(table)):
            exact, _ = quad_vec(
                lambda x, p=power: (process.transition(times[4], x) @ process.gain(x, K)).numpy() * x**p,
                times[3], times[4], epsabs=1e-13, epsrel=1e-13,
            )  # fmt: skip
            summed = sum(C * x**power for C, x in zip(table, nodes, strict=True))
            assert np.abs(summed.numpy() - exact).max() < 100 * 1e-13 * np.abs(exact).max()  # quad_vec: 1e-13 a panel


@pytest.mark.parametrize(
    ("nodes", "leading"), [(1, -E1 / 2), (2, -5 * E2 / 12), (3, -3 * E3 / 8), (4, -251 * E4 / 720)]
)
def test_local_error_of_the_predictor(nodes, leading):
    error = gddim.local_error(nodes)
    assert sp.expand(error.pop(nodes + 1) - W0 * leading) == 0 and zero(*error.values())
    assert leading.as_coeff_Mul()[0] == -classical.adams_bashforth_error_constant(nodes)


@pytest.mark.parametrize(("nodes", "leading"), [(2, E2 / 12), (3, E3 / 24), (4, 19 * E4 / 720)])
def test_local_error_of_the_corrector(nodes, leading):
    error = gddim.local_error(nodes, ahead=True)
    assert sp.expand(error.pop(nodes + 1) - W0 * leading) == 0 and zero(*error.values())


def test_the_start_of_the_ramp_is_the_whole_constant():
    """From rho = 3 the error of order 3 is that of the first step: h^2 times the derived constant."""
    process, problem = dn.VP(), dn.Problem(dn.VP(), dn.Gaussian([0.0], [0.25]))
    first, last = process.time_of_rho(3.0), process.time_of_rho(0.05)
    exact = math.sqrt((0.25 + process.rho(last) ** 2) / (0.25 + 9.0)) * process.alpha(last) / process.alpha(first)
    scaled = []
    for n in (400, 800):
        times = grids.log_snr(process, n, t_start=first, t_end=last)
        end = dn.solve(problem, "gddim", torch.ones(1, 1, dtype=torch.float64), times, order=3).u.item()
        scaled.append((end / exact - 1) / (math.log(3.0 / 0.05) / n) ** 2)
    predicted = float(gddim.start_defect().subs({ddim.rho: 3, ddim.s0: Q(1, 2)}))
    assert abs((2 * scaled[1] - scaled[0]) / predicted - 1) < 2e-3
    assert sp.limit(gddim.start_defect() * ddim.rho**2, ddim.rho, sp.oo) == -(ddim.s0**2) / 2


# ---- the stochastic step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_stochastic_step(k):
    assert zero(*gddim.stochastic_residuals(k), gddim.posterior_gain_residual(k), *gddim.marginal_residuals(k))


def test_scalar_stochastic_step():
    assert (*gddim.scalar_step_residuals(), *gddim.posterior_residuals(), *gddim.eta_residuals()) == (0,) * 6
    through, P = (part.subs(lam, 0) for part in gddim.scalar_step())
    assert (sp.simplify(through - gddim.sigma_s / gddim.sigma_t), P) == (0, 0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("process", [dn.VP(), dn.VE()], ids=["vp", "ve"])
def test_scalar_step_is_the_librarys(process, weight):
    for start, end in ((0.9, 0.4), (0.1, 0.07)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.levels(start), process.levels(end)
        at = {gddim.alpha_t: alpha_t, gddim.sigma_t: sigma_t, gddim.alpha_s: alpha_s, gddim.sigma_s: sigma_s}
        for part, derived in zip(process.reverse_step(end, start, weight), gddim.scalar_step(), strict=True):
            assert math.isclose(
                part.item(), float(derived.subs(at | {lam: weight})), rel_tol=100 * ROUNDED, abs_tol=ROUNDED
            )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@EVERY
def test_matrix_step_is_the_librarys(process, weight):
    """R S^{-1} for lambda = 0, the posterior gain for 1, Liouville's formula for all; marginals always."""
    for start, end in ((1.0, 0.6), (0.3, 0.25), (0.05, 1e-3)):
        through, P = process.reverse_step(end, start, weight)
        first, last = process.cov(start), process.cov(end)
        allowed = ROUNDED * torch.linalg.cond(first)  # the first matrix is inverted
        assert (through @ first @ through.mT + P - last).abs().max() < allowed * last.abs().max()
        if weight == 0:
            expected = process.rotation_root(end) @ torch.linalg.inv(process.rotation_root(start))
            assert (through - expected).abs().max() < allowed * expected.abs().max()
        if weight == 1:
            expected = last @ process.transition(start, end).mT @ torch.linalg.inv(first)
            assert (through - expected).abs().max() < allowed * expected.abs().max()

        def trace(x):
            noise = process.G(x) @ process.G(x).mT @ torch.linalg.inv(process.cov(x))
            return (process.F(x) + (1 + weight**2) / 2 * noise).trace().item()

        growth = quad(trace, start, end, epsabs=1e-12, epsrel=1e-12, limit=400)[0]
        assert (
            abs(math.log(torch.linalg.det(through).item()) - growth) < 1e-9
        )  # a thousand times what quad is asked for


def test_missing_transpose():
    """Without it the covariance is not symmetric, and on CLD the position has a negative variance."""
    F12, F21, P11, P22, g = (sp.Symbol(name, real=True) for name in ("F12", "F21", "P11", "P22", "g"))
    assert sp.expand(gddim.missing_transpose() - (F12 - F21) * (P11 + P22)) == 0
    right, wrong = gddim.missing_transpose_variance()
    process, step, weight = dn.CLD(), 1e-3, 0.3
    noise = process.G(1.0) @ process.G(1.0).mT
    drift = process.F(1.0) + (1 + weight**2) / 2 * noise @ torch.linalg.inv(process.cov(1.0))
    at = {"F12": drift[0, 1], "F21": drift[1, 0], "g": noise[1, 1], "h": step, "lambda": weight}

    def number(expression):
        return float(expression.subs({symbol: float(at[symbol.name]) for symbol in expression.free_symbols}))

    exact = process.reverse_step(1.0 - step, 1.0, weight)[1]
    assert abs(number(right) / exact[0, 0].item() - 1) < 0.03
    P, inner = torch.zeros(2, 2, dtype=torch.float64), 1000
    for _ in range(inner):  # Euler, without the transpose: the equation of the released code
        P = P + step / inner * (weight**2 * noise - drift @ P - P @ drift)
    assert P[0, 0] < 0 and abs(number(wrong) / P[0, 0].item() - 1) < 0.03
    assert abs(P[0, 1] - P[1, 0]) > 0.1 * exact[0, 1].abs() and g not in right.free_symbols  # g is positive there


# ---- one isotropic denoiser on phase space -------------------------------------------------------------------------


def test_sufficient_statistic():
    assert [gddim.statistic_residual(k) for k in (1, 2, 3)] == [0, 0, 0]
    assert zero(*gddim.precision_residual(), gddim.split_score_residual())


@EVERY
def test_statistic_and_split_score_are_the_librarys(process):
    row, square = gddim.statistic()
    state, denoised = sp.Matrix([Q(7, 5), Q(-2, 3)]), Q(1, 4)
    for t in TIMES:
        at = values(process, t)
        a, Sigma = (precise(part, at) for part in (gddim.transition()[:, 0], gddim.covariance()))
        named = {f"a{i + 1}": a[i] for i in (0, 1)} | {f"S{i + 1}{j + 1}": Sigma[i, j] for i in (0, 1) for j in (0, 1)}
        named = {sp.Symbol(name, real=True): value for name, value in named.items()}
        computed_row, level = process.statistic(t)
        allowed = ROUNDED * torch.linalg.cond(process.cov(t)).item()  # all of them invert the covariance
        exact_row, exact_square = (part.subs(named) for part in (row, square))
        close(computed_row, number(exact_row, {}), allowed)
        close(level, math.sqrt(exact_square), allowed)
        y, s = (exact_row * state)[0], sp.sqrt(exact_square)
        score = -Sigma.inv() * (state - a * denoised)
        A, c = process.expansion(t, "score")
        split, exact = A @ number(state, {}) + c * float((y - denoised) / s), number(score, {})
        assert (split - exact).abs().max() < allowed * exact.abs().max()
