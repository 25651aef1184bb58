"""The SymPy tower under PNDM: every claim is 0 or an exact rational, and the constants are the measured ones."""

import math

import pytest
import sympy as sp
from mpmath import mp

from diffnum.derive import classical, linear_sde, pndm
from diffnum.derive.pndm import E1, E2, E3, E4, e1, f_y, h, s1, s2, s3, s4, s5

Q = sp.Rational


# ---- linear SDEs ---------------------------------------------------------------------------------------------------


def test_probability_flow_moves_the_same_density():
    assert sp.simplify(linear_sde.probability_flow_residual()) == 0


def test_a_wrong_score_factor_is_not_a_probability_flow():
    x, t, F, G = linear_sde.x, linear_sde.t, linear_sde.F, linear_sde.G
    p = sp.Function("p", positive=True)(x, t)
    wrong = F * x - G**2 * sp.diff(sp.log(p), x)  # the factor 1/2 is missing
    residual = linear_sde.fokker_planck(p, F * x, G) - linear_sde.fokker_planck(p, wrong, sp.S.Zero)
    assert sp.simplify(residual) != 0


def test_moment_equations():
    t, F, G = linear_sde.t, linear_sde.F, linear_sde.G
    (mean_rate, mean), (variance_rate, variance) = linear_sde.moment_equations().items()
    assert sp.expand(mean - F * mean_rate.expr) == 0
    assert sp.expand(variance - 2 * F * variance_rate.expr - G**2) == 0
    assert mean_rate.variables == variance_rate.variables == (t,)


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_closed_form_moments_and_rescaled_ode(process):
    assert [sp.simplify(r) for r in linear_sde.moment_residuals(process)] == [0, 0]
    assert sp.simplify(linear_sde.rescaled_residual(process)) == 0


def test_vp_velocity_in_terms_of_abar():
    assert sp.simplify(linear_sde.vp_velocity_residual()) == 0


def test_velocity_blows_up_like_one_over_root_t():
    B0 = linear_sde.B0
    assert linear_sde.singularity() == (sp.sqrt(B0) / 2, -sp.sqrt(B0) / 4)


# ---- classical coefficients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "weights", "constant"),
    [
        (1, (1,), Q(1, 2)),
        (2, (Q(3, 2), Q(-1, 2)), Q(5, 12)),
        (3, (Q(23, 12), Q(-16, 12), Q(5, 12)), Q(3, 8)),
        (4, (Q(55, 24), Q(-59, 24), Q(37, 24), Q(-9, 24)), Q(251, 720)),
    ],
)
def test_adams_bashforth(order, weights, constant):
    assert classical.adams_bashforth(order) == weights
    assert classical.adams_bashforth_error_constant(order) == constant
    moments = [sum(w * Q(-j) ** k for j, w in enumerate(weights)) - Q(1, k + 1) for k in range(order + 1)]
    assert moments[:-1] == [0] * order and moments[-1] == -constant * sp.factorial(order)


def test_variable_step_weights_of_two_points():
    r0, r1, end = sp.symbols("r0 r1 end")
    new, old = classical.adams_bashforth_variable([r0, r1], end)
    step, ratio = end - r0, (end - r0) / (r0 - r1)
    assert sp.simplify(new - step * (1 + ratio / 2)) == 0
    assert sp.simplify(old + step * ratio / 2) == 0


def test_variable_step_weights_of_four_points_are_exact_on_cubics():
    nodes = [Q(0), Q(-1, 3), Q(-3, 2), Q(-11, 5)]
    end = Q(5, 7)
    weights = classical.adams_bashforth_variable(nodes, end)
    for k in range(5):
        missed = sum(w * r**k for w, r in zip(weights, nodes, strict=True)) - end ** (k + 1) / (k + 1)
        assert (missed == 0) == (k < 4)


def test_variable_step_weights_reduce_to_uniform_ones():
    r, step = sp.symbols("r step")
    weights = classical.adams_bashforth_variable([r - j * step for j in range(4)], r + step)
    assert [sp.cancel(w / step) for w in weights] == list(classical.adams_bashforth(4))


def test_adams_bashforth_refuses_order_zero():
    with pytest.raises(ValueError, match="order must be at least 1"):
        classical.adams_bashforth(0)


def test_rooted_trees_are_counted_right():
    assert [len(classical.rooted_trees(p)) for p in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize(("tableau", "order"), [(classical.improved_euler, 2), (classical.classical_rk4, 4)])
def test_runge_kutta_has_its_order_and_no_more(tableau, order):
    assert set(classical.runge_kutta_conditions(order, tableau())) == {0}
    assert set(classical.runge_kutta_conditions(order + 1, tableau())) != {0}


def test_runge_kutta_tableaus_follow_from_their_conditions():
    A, b, c = classical.improved_euler()
    assert (A.tolist(), list(b), list(c)) == ([[0, 0], [1, 0]], [Q(1, 2), Q(1, 2)], [0, 1])
    A, b, c = classical.classical_rk4()
    assert A.tolist() == [[0, 0, 0, 0], [Q(1, 2), 0, 0, 0], [0, Q(1, 2), 0, 0], [0, 0, 1, 0]]
    assert (list(b), list(c)) == ([Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6)], [0, Q(1, 2), Q(1, 2), 1])


def test_the_whole_family_has_order_four():
    family = classical.runge_kutta_4_family()
    assert family.b.free_symbols == {sp.Symbol("b3")}
    assert {sp.simplify(r) for r in classical.runge_kutta_conditions(4, family)} == {0}


@pytest.mark.parametrize("entry", [(1, 0), (2, 1), (3, 2)])
def test_a_perturbed_tableau_fails(entry):
    A, b, c = classical.classical_rk4()
    broken = A.as_mutable()
    broken[entry] += Q(1, 1000)
    assert set(classical.runge_kutta_conditions(4, classical.Tableau(broken.as_immutable(), b, c))) != {0}


# ---- the transfer map ----------------------------------------------------------------------------------------------


def test_transfer_map_identities():
    assert pndm.transfer_residuals() == (0, 0)
    assert pndm.ddim_difference_residual() == 0
    assert pndm.exactness_residual() == 0
    assert pndm.composition_residual() == 0
    assert sp.simplify(pndm.transfer_map(end=pndm.a)) == pndm.x


@pytest.mark.parametrize("form", ["ddim", "cancellation_free", "rescaled"])
def test_transfer_forms_agree_at_a_rational_point(form):
    """At abar = 9/25 and 16/25 all roots are rational: sigma goes from 4/3 to 3/4."""
    values = {pndm.a: Q(9, 25), pndm.b: Q(16, 25), pndm.x: Q(7, 5), pndm.e: Q(-2, 3)}
    assert pndm.transfer_map(form).subs(values) == Q(4, 3) * Q(7, 5) + Q(4, 5) * (Q(3, 4) - Q(4, 3)) * Q(-2, 3)
    assert pndm.ddim_difference().subs(values) == pndm.transfer_map(form).subs(values) - Q(7, 5)


def test_transfer_map_refuses_an_unknown_form():
    with pytest.raises(ValueError, match="unknown form"):
        pndm.transfer_map("euler")


def test_a_wrong_transfer_is_not_exact():
    a, b, e = pndm.a, pndm.b, pndm.e
    swapped = pndm.transfer_map(start=b, end=a)
    assert sp.simplify(swapped - pndm.transfer_map()) != 0
    assert pndm._rationalised(pndm.transfer_map() - pndm.transfer_map("rescaled") - (b - a) * e / 1000) != 0


def test_the_difference_tends_to_the_probability_flow():
    a, x, e = pndm.a, pndm.x, pndm.e
    assert sp.simplify(pndm.ode_limit() - (x / (2 * a) - e / (2 * a * sp.sqrt(1 - a)))) == 0
    assert sp.simplify(sp.diff(pndm.transfer_map(), pndm.b).subs(pndm.b, a) - pndm.ode_limit()) == 0
    abar = linear_sde.abar
    velocity = linear_sde.vp_velocity().subs({linear_sde.x: x, linear_sde.eps: e})
    assert sp.simplify(velocity - pndm.ode_limit().subs(a, abar) * sp.diff(abar, linear_sde.t)) == 0


# ---- local errors: the table in section 6 of the specification -----------------------------------------------------

TABLE = {
    "ddim": {2: -Q(1, 2) * s1 * E1},
    "ab2": {2: sp.S.Zero, 3: -Q(1, 12) * s2 * E1 - Q(5, 12) * s1 * E2},
    "s_pndm": {2: sp.S.Zero, 3: -Q(1, 12) * s2 * E1 - Q(5, 12) * s1 * E2},
    "ab4": {2: sp.S.Zero, 3: -Q(1, 12) * s2 * E1, 4: -Q(1, 24) * (s2 * E2 + s3 * E1)},
    "f_pndm": {2: sp.S.Zero, 3: -Q(1, 12) * s2 * E1, 4: -Q(1, 24) * (s2 * E2 + s3 * E1)},
    "pie": {2: sp.S.Zero, 3: Q(1, 12) * s1 * E2 - Q(1, 4) * f_y * s1**2 * E1 - Q(1, 12) * s2 * E1},
    "prk": {2: sp.S.Zero, 3: -Q(1, 12) * s2 * E1},
}


@pytest.mark.parametrize("method", TABLE)
def test_local_error_is_the_table(method):
    derived = pndm.local_error(method)
    assert list(derived) == [2, 3, 4]
    for power, expected in TABLE[method].items():
        assert sp.expand(derived[power] - expected) == 0


@pytest.mark.parametrize("method", ["f_pndm", "prk"])
def test_order_four_returns_on_sigma_uniform_nodes(method):
    straight = {s2: 0, s3: 0, s4: 0, s5: 0}
    error = {k: c.subs(straight) for k, c in pndm.local_error(method, 5).items()}
    assert (error[2], error[3], error[4]) == (0, 0, 0)
    assert error[5] != 0
    if method == "f_pndm":
        assert error[5] == -classical.adams_bashforth_error_constant(4) * s1 * E4


def test_the_h3_term_is_a_covariance():
    """-h Cov(s', E) of two linear functions on [u, u + h] is -(h^3/12) s2 E1: nothing about the method."""
    r = sp.Symbol("r")
    mean = [sp.integrate(g, (r, 0, 1)) for g in (s1 + s2 * r, E1 * r, (s1 + s2 * r) * E1 * r)]
    assert sp.expand(-(mean[2] - mean[0] * mean[1]) - pndm.local_error("f_pndm")[3]) == 0


def test_local_error_refuses_bad_input():
    with pytest.raises(ValueError, match="unknown method"):
        pndm.local_error("euler")
    with pytest.raises(ValueError, match="highest"):
        pndm.local_error("ddim", 6)


u, y = sp.symbols("u y")
F_TEST = 2 + 3 * y - u + y**2 / 2 + 4 * y * u - 3 * y**2 * u + u**2 + Q(5, 3) * y**3 - 2 * u**3 + y * u**2
S_TEST = 3 * u + 2 * u**2 - Q(5, 3) * u**3 + u**4


def _cut(expression):
    """The polynomial in u without its powers above 6."""
    return sum(c * u**n for (n,), c in sp.Poly(expression, u).terms() if n <= 6)


def _f(value, at):
    return _cut(F_TEST.subs({y: value, u: at}, simultaneous=True))


def _picard():
    """y(u) with y(0) = 0 through u^6: six rounds of y <- integral of s' f(y, u)."""
    path = sp.S.Zero
    for _ in range(6):
        path = _cut(sp.integrate(_cut(sp.diff(S_TEST, u) * _f(path, u)), (u, 0, u)))
    return path


def _one_step(method, path):
    """One step of length u from u = 0: the methods as section 5 of the specification writes them, exact history."""
    rise, half = S_TEST, S_TEST.subs(u, u / 2)
    old = [_f(path.subs(u, -j * u), -j * u) for j in range(4)]
    if method == "ddim":
        return rise * old[0]
    if method == "ab2":
        return rise * (3 * old[0] - old[1]) / 2
    if method == "ab4":
        return rise * (55 * old[0] - 59 * old[1] + 37 * old[2] - 9 * old[3]) / 24
    if method == "pie":
        return rise * (old[0] + _f(rise * old[0], u)) / 2
    second = _f(_cut(half * old[0]), u / 2)
    third = _f(_cut(half * second), u / 2)
    return rise * (old[0] + 2 * second + 2 * third + _f(_cut(rise * third), u)) / 6


@pytest.mark.parametrize("method", ["ddim", "ab2", "ab4", "pie", "prk"])
def test_local_error_of_a_nonlinear_problem_by_picard_iteration(method):
    """An independent route: nonlinear f and s, the exact solution by Picard iteration, literal weights; equal exactly.

    All powers up to h^5, so f_yy and the derivatives of f_y are tested too.
    """
    path = _picard()
    along, slope = sp.Poly(_f(path, u), u), sp.Poly(_cut(sp.diff(F_TEST, y).subs(y, path)), u)
    values = {sp.Symbol(f"E{k}"): sp.factorial(k) * along.coeff_monomial(u**k) for k in range(5)}
    values |= {sp.Symbol(f"s{k}"): sp.diff(S_TEST, u, k).subs(u, 0) for k in range(1, 6)}
    values |= {g: sp.factorial(k) * slope.coeff_monomial(u**k) for k, g in enumerate((pndm.f_y, pndm.f_y1, pndm.f_y2))}
    values[pndm.f_yy] = sp.diff(F_TEST, y, 2).subs({u: 0, y: 0})
    error = sp.Poly(_cut(_one_step(method, path)) - path, u)
    derived = pndm.local_error(method, 5)
    assert {k: error.coeff_monomial(u**k) for k in derived} == {k: c.subs(values) for k, c in derived.items()}


# ---- the global error on Gaussian data -----------------------------------------------------------------------------

STUDY = {pndm.s0: Q(1, 2), pndm.y0: 1, pndm.sigma0: 3, pndm.sigma1: Q(1, 20), pndm.B0: Q(1, 10), pndm.B1: 20}


def test_gaussian_solution():
    assert pndm.gaussian_eps_residual() == (0, 0, 0)


def test_closed_form_of_f_pndm_on_the_log_snr_grid():
    s0, y0, sigma0, sigma1 = pndm.s0, pndm.y0, pndm.sigma0, pndm.sigma1
    D0, D1 = s0**2 + sigma0**2, s0**2 + sigma1**2
    expected = y0 * s0**2 / 96 * sp.sqrt(D1 / D0) * (1 / D1 - 1 / D0)
    assert sp.simplify(pndm.global_error_constant("f_pndm", "log_snr") - expected) == 0
    assert pndm.global_error_constant("f_pndm", "sigma") == 0


def _value(method, grid):
    constant = pndm.global_error_constant(method, grid).subs(STUDY)
    if isinstance(constant, sp.Integral):
        (variable, start, end), integrand = constant.limits[0], sp.lambdify(pndm.sigma, constant.function, "mpmath")
        assert constant.free_symbols == set() and variable == pndm.sigma
        return mp.quad(integrand, [mp.mpf(float(p)) for p in (start, 1, 0.3, 0.1, end)])
    return mp.mpf(sp.N(constant, 15))


@pytest.mark.parametrize(
    ("method", "grid", "measured", "tolerance"),
    [
        # truth/pndm.md, section 3.2: predicted values; those of the t grid are ours (Richardson extrapolation of runs)
        ("f_pndm", "log_snr", 1.65747635e-3, 1e-8),
        ("s_pndm", "log_snr", -2.2733195e-3, 1e-7),
        ("ddim", "log_snr", -1.98897e-2, 1e-5),
        ("f_pndm", "t", 9.24896e-2, 1e-5),
        ("s_pndm", "t", -2.325774, 1e-6),
        ("ddim", "t", 4.1198975e-1, 1e-7),
    ],
)
def test_global_constants(method, grid, measured, tolerance):
    assert abs(_value(method, grid) / measured - 1) < tolerance


def _gaussian_error(weights, nodes, width=0.5, value=1.0):
    """Error of Adams-Bashforth with uniform weights on given sigma nodes, started from the exact solution."""
    exact = [value * math.hypot(width, node) / math.hypot(width, nodes[0]) for node in nodes]
    start, y = len(weights) - 1, exact[len(weights) - 1]
    past = [node * z / (width**2 + node**2) for node, z in zip(nodes[:start], exact, strict=False)][::-1]
    for node, end in zip(nodes[start:-1], nodes[start + 1 :], strict=True):
        past = [node * y / (width**2 + node**2), *past][: len(weights)]
        y += (end - node) * sum(w * e for w, e in zip(weights, past, strict=True))
    return y - exact[-1]


@pytest.mark.parametrize(("method", "order", "p"), [("ddim", 1, 1), ("s_pndm", 2, 2), ("f_pndm", 4, 2)])
@pytest.mark.parametrize("grid", ["log_snr", "sqrt_t"])
def test_global_constants_are_measured(method, order, p, grid):
    """Runs at n and 2n, extrapolated: the constant of the leading term within 1e-3."""
    beta0, beta1, L0, L1 = 0.1, 20.0, math.log1p(9.0), math.log1p(0.0025)
    weights = [float(w) for w in classical.adams_bashforth(order)]

    def time(level):
        return 2 * level / (beta0 + math.sqrt(beta0**2 + 2 * (beta1 - beta0) * level))

    def sigma(u):
        if grid == "log_snr":
            return math.exp(-u / 2)
        return math.sqrt(math.expm1(beta0 * u**2 + (beta1 - beta0) * u**4 / 2))

    first, last = (-2 * math.log(3.0), -2 * math.log(0.05)) if grid == "log_snr" else (time(L0) ** 0.5, time(L1) ** 0.5)
    scaled = []
    for n in (2000, 4000):
        step = (last - first) / n
        scaled.append(_gaussian_error(weights, [sigma(first + i * step) for i in range(n + 1)]) / step**p)
    assert abs((2 * scaled[1] - scaled[0]) / float(_value(method, grid)) - 1) < 1e-3


@pytest.mark.parametrize("grid", ["t", "sqrt_t"])
def test_grid_speed_is_the_derivative_of_sigma(grid):
    u = 0.3
    power = 1 if grid == "t" else 2
    speed = sp.lambdify(pndm.sigma, pndm.grid_speed(grid).subs(STUDY), "mpmath")
    sigma = lambda v: mp.sqrt(mp.expm1(mp.mpf("0.1") * v**power + mp.mpf("9.95") * v ** (2 * power)))  # noqa: E731
    assert abs(speed(sigma(u)) / mp.diff(sigma, u) - 1) < 1e-10


def test_global_constants_refuse_bad_input():
    with pytest.raises(ValueError, match="unknown method"):
        pndm.global_error_constant("prk")
    with pytest.raises(ValueError, match="unknown grid"):
        pndm.global_error_constant("ddim", "karras")


# ---- a grid that ends at t = 0 -------------------------------------------------------------------------------------


def test_last_step_defect():
    B0 = pndm.B0
    assert Q(2, 3) - Q(1, 2) == Q(1, 6)
    assert sp.expand(pndm.last_step_defect() + B0 * e1 * h / 6) == 0
    assert sp.expand(pndm.last_step_defect("ddim") + B0 * e1 * h / 2) == 0
    assert sp.simplify(pndm.last_step_defect("s_pndm") + (1 - 1 / sp.sqrt(2)) * B0 * e1 * h) == 0
    assert pndm.last_step_defect("pie") == 0
    with pytest.raises(ValueError, match="unknown method"):
        pndm.last_step_defect("euler")


@pytest.mark.parametrize(("method", "order"), [("s_pndm", 2), ("f_pndm", 4)])
def test_order_one_constant_is_measured(method, order):
    """The whole sum, not its first term, is the error of a run to t = 0 (0.2506 for F-PNDM, not 1/6)."""
    n, width = 20000, 0.5
    nodes = [math.sqrt(math.expm1(0.1 * t + 9.95 * t**2)) for t in (1 - i / n for i in range(n + 1))]
    error = _gaussian_error([float(w) for w in classical.adams_bashforth(order)], nodes)
    slope = 1 / math.hypot(width, nodes[0]) / width  # dE/dsigma at sigma = 0
    constant = float(pndm.order_one_constant(method).evalf(8))
    assert abs(error / (-0.1 * slope / n) / constant - 1) < 5e-3
    with pytest.raises(ValueError, match="diverges"):
        pndm.order_one_constant("ddim")


def test_the_tower_is_exact():
    """No float has slipped into a derived expression."""
    expressions = [*pndm.local_error("prk", 5).values(), pndm.last_step_defect("f_pndm"), *classical.adams_bashforth(4)]
    expressions += [pndm.global_error_constant(m, g) for m in ("ddim", "s_pndm", "f_pndm") for g in ("log_snr", "t")]
    assert not any(expression.atoms(sp.Float) for expression in expressions)
    assert E3 in pndm.local_error("ab2")[4].free_symbols
