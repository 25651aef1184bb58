"""Local errors, global constants, stability and extrapolation of classical methods, derived and measured."""

import numpy as np
import pytest
import sympy as sp
from mpmath import mp

from diffnum.derive import classical
from diffnum.derive.classical import f, f_t, f_tt, f_ty, f_y, f_yy
from diffnum.measure.checks import ROUNDED

Q = sp.Rational
TABLEAUS = {
    "euler": (classical.euler(), 1),
    "heun": (classical.improved_euler(), 2),
    "rk4": (classical.classical_rk4(), 4),
}
t, y, z = sp.symbols("t y z")


def rk_step(tableau, field, start, h):
    """One step from t = 0, literally, with exact numbers or symbols."""
    A, b, c = tableau
    slopes = []
    for i in range(A.rows):
        state = start + h * sum(A[i, j] * k for j, k in enumerate(slopes))
        slopes.append(field(c[i] * h, state))
    return start + h * sum(w * k for w, k in zip(b, slopes, strict=True))


def test_euler_follows_from_its_condition():
    A, b, c = classical.euler()
    assert (A.tolist(), list(b), list(c)) == ([[0]], [1], [0])


def test_local_errors():
    second = f_t + f_y * f
    third = f_tt + 2 * f_ty * f + f_yy * f**2 + f_y * second
    assert sp.expand(classical.local_error(classical.euler())[2] + second / 2) == 0
    heun = classical.local_error(classical.improved_euler())
    assert heun[2] == 0 and sp.expand(heun[3] - third / 12 + f_y * second / 4) == 0
    assert set(classical.local_error(classical.classical_rk4()).values()) == {0}


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_local_error_of_a_nonlinear_problem(name):
    """By another route: the exact solution as a power series by Picard iteration, the step with symbols."""
    h = sp.Symbol("h")
    field = lambda at, state: 2 + 3 * state - at + state**2 / 2 + 4 * state * at + at**2  # noqa: E731
    path = sp.S.Zero
    for _ in range(3):
        path = sp.integrate(sp.expand(field(t, path)), (t, 0, t))
    exact = sp.Poly(sp.expand(path.subs(t, h)), h)
    step = sp.Poly(sp.expand(rk_step(TABLEAUS[name][0], field, sp.S.Zero, h)), h)
    general = field(t, y)
    at_zero = {t: 0, y: 0}
    values = {
        f: general.subs(at_zero), f_t: sp.diff(general, t).subs(at_zero), f_y: sp.diff(general, y).subs(at_zero),
        f_tt: sp.diff(general, t, 2).subs(at_zero), f_ty: sp.diff(general, t, y).subs(at_zero),
        f_yy: sp.diff(general, y, 2).subs(at_zero),
    }  # fmt: skip
    for power, derived in classical.local_error(TABLEAUS[name][0]).items():
        assert step.coeff_monomial(h**power) - exact.coeff_monomial(h**power) == derived.subs(values)


@pytest.mark.parametrize(("name", "p"), [("euler", 1), ("heun", 2)])
def test_global_constant_is_measured(name, p):
    """A linear equation with variable rate: runs at n and 2n, extrapolated, against the integral."""
    solution, tableau = 2 + sp.exp(-t) + sp.cos(t), TABLEAUS[name][0]
    constant = classical.global_error_constant(tableau, solution, t, 0, 2)
    derived = mp.quad(sp.lambdify(t, constant.function, "mpmath"), [0, 2])
    rate = sp.lambdify(t, sp.diff(solution, t) / solution, "math")
    A, b, c = (np.array(part.tolist(), dtype=float) for part in tableau)
    scaled = []
    for n in (1000, 2000):
        h, value = 2 / n, float(solution.subs(t, 0))
        for i in range(n):
            slopes = []
            for row, node in zip(A, c[:, 0], strict=True):
                stage = value + h * sum(a * k for a, k in zip(row, slopes, strict=False))
                slopes.append(rate((i + node) * h) * stage)
            value += h * sum(w * k for w, k in zip(b[:, 0], slopes, strict=True))
        scaled.append((value - float(solution.subs(t, 2))) / h**p)
    assert 2 * scaled[1] - scaled[0] == pytest.approx(float(derived), rel=1e-4)


def test_global_constant_on_the_test_equation():
    """Euler: (1 + h L)^n - e^L, divided by h, tends to -L^2 e^L / 2."""
    L, h = sp.Symbol("L", negative=True), sp.Symbol("h", positive=True)
    constant = classical.global_error_constant(classical.euler(), sp.exp(L * t), t, 0, 1).doit()
    assert sp.simplify(constant - sp.limit(sp.diff(sp.exp(sp.log(1 + h * L) / h), h), h, 0)) == 0
    with pytest.raises(ValueError, match="order 1 or 2"):
        classical.global_error_constant(classical.classical_rk4(), sp.exp(t), t, 0, 1)


@pytest.mark.parametrize("name", TABLEAUS)
def test_stability_function_is_the_step_on_the_test_equation(name):
    tableau, p = TABLEAUS[name]
    R = classical.stability_function(tableau)
    assert sp.expand(R - rk_step(tableau, lambda at, state: z * state, sp.S.One, 1)) == 0
    difference = sp.series(R - sp.exp(z), z, 0, p + 2).removeO()
    assert [difference.coeff(z, k) == 0 for k in range(p + 2)] == [True] * (p + 1) + [False]


@pytest.mark.parametrize(("name", "limit"), [("euler", 2), ("heun", 2), ("rk4", 2.785293563405282)])
def test_real_stability_limits(name, limit):
    assert float(classical.real_stability_limit(TABLEAUS[name][0])) == pytest.approx(limit, rel=ROUNDED)


@pytest.mark.parametrize(("order", "limit"), [(1, 2), (2, 1), (3, Q(6, 11)), (4, Q(3, 10)), (5, Q(90, 551))])
def test_real_stability_limits_of_adams_bashforth(order, limit):
    """And the roots of the characteristic polynomial say the same: inside the unit circle below, outside above."""
    assert classical.real_stability_limit(order) == limit
    weights = [float(b) for b in classical.adams_bashforth(order)]
    for factor, stable in ((0.2, True), (0.5, True), (0.99, True), (1.01, False)):
        coefficients = [1.0, -1.0, *[0.0] * (order - 1)]
        for j, b in enumerate(weights):
            coefficients[1 + j] += factor * float(limit) * b
        assert (max(abs(np.roots(coefficients))) < 1) == stable


def test_richardson_weights():
    assert classical.richardson_weights(1) == (-1, 2)
    assert classical.richardson_weights(2) == (Q(-1, 3), Q(4, 3))
    C, D, h, limit = sp.symbols("C D h limit")
    runs = [limit + C * (h / 2**k) ** 2 + D * (h / 2**k) ** 3 for k in range(3)]
    assert sp.expand(sum(w * r for w, r in zip(classical.richardson_weights(2, 3), runs, strict=True)) - limit) == 0
