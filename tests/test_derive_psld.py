"""The SymPy tower under the efficient integrators: residuals are 0, and the numeric library agrees."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum.derive import gddim, psld
from diffnum.derive.gddim import Gamma, M, h, nu
from diffnum.derive.psld import K_0, K_1, S_0, S_1, X, Y, commutator, l_max, l_min, lam, m, s_m, s_x, x
from diffnum.measure.checks import ROUNDED
from diffnum.solvers.conjugate import conjugate_weights
from diffnum.solvers.splitting import Parts

Q = sp.Rational
DAMPED = dn.PSLD(beta=(6.0, 9.0), Gamma=0.7, nu=3.0, kappa=0.2)
DATA = 0.3**2  # variance of Gaussian data with mean 0: the score is linear


def zero(*parts):
    """All parts are 0: numbers, or matrices entry by entry."""
    return all(part == 0 or (isinstance(part, sp.MatrixBase) and part.is_zero_matrix) for part in parts)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def score_matrix(process, t):
    """The matrix S of the score S u on the Gaussian data."""
    a = process.mean(t)
    return -torch.linalg.inv(process.cov(t) + DATA * a @ a.mT)


def one_step(process, solver, t, s, **options):
    """The matrix of one step of a solver on the Gaussian data."""
    problem = dn.Problem(process, dn.Gaussian([0.0], [DATA]))
    return (
        dn.solve(problem, solver, torch.eye(2, dtype=torch.float64)[:, :, None], doubles(t, s), **options).u[..., 0].mT
    )


# ---- the process and its parts -------------------------------------------------------------------------------------


def test_stationary_covariance_and_the_way_to_it():
    assert zero(psld.stationary_residual(), psld.relaxation_residual())


def test_parts_are_the_reverse_equation():
    assert zero(*psld.reverse_residuals())


@pytest.mark.parametrize("w", [1, 2])
def test_parts_are_the_librarys(w):
    values = dict(zip((Gamma, nu, M, x, m, s_x, s_m, h), (Q(1, 7), Q(5, 3), Q(2, 9), 3, -2, Q(4, 5), Q(1, 6), Q(1, 8)),
                      strict=True))  # fmt: skip
    A, B, _ = (part.subs(values) for part in psld.parts(sp.Integer(w)))
    numeric = Parts(*(float(values[part]) for part in (Gamma, nu, M)), w)
    at = [doubles(float(values[part])) for part in (x, m, s_x, s_m)]
    step = float(values[h])
    assert abs(numeric.A(at[0], at[1], at[2], step).item() - (3 + step * float(A[0]))) < 4 * ROUNDED
    assert abs(numeric.B(at[0], at[1], at[3], step).item() - (-2 + step * float(B[1]))) < 4 * ROUNDED


def test_ornstein_step_and_the_librarys():
    assert zero(*psld.ornstein_step_residuals())
    E, V = (part.subs({Gamma: Q(1, 100), nu: Q(401, 100), M: Q(1, 4)}) for part in psld.ornstein_step(sp.Float(0.3)))
    u, z = doubles(2.0, -1.0), doubles(0.5, 3.0)
    moved = Parts(0.01, 4.01, 0.25, 2).O(u[None], z[None], 0.3)[0]
    for i in (0, 1):
        exact = float(E[i, i]) * u[i] + math.sqrt(float(V[i, i])) * z[i]
        assert abs(moved[i] - exact) < 4 * ROUNDED


# ---- splitting -----------------------------------------------------------------------------------------------------


def test_what_lambda_s_adds():
    assert zero(*psld.bias_residuals())


def test_lie_and_strang():
    lie, strang = psld.lie_error(), psld.strang_error()
    XY, YX = commutator(X, Y), commutator(Y, X)
    assert lie[1] == 0 and sp.expand(lie[2] - XY / 2) == 0
    assert sp.expand(lie[3] - (commutator(X, XY) + commutator(Y, YX)) / 12) == 0
    assert strang[1] == strang[2] == 0
    assert sp.expand(strang[3] + commutator(X, XY) / 24 - commutator(Y, YX) / 12) == 0


def test_lie_and_strang_on_matrices():
    """The derived generators reproduce products of numeric exponentials."""
    A, B = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 3))
    bracket = lambda a, b: a @ b - b @ a  # noqa: E731
    step = 1e-2
    lie = step * (A + B) + step**2 / 2 * bracket(A, B)
    lie += step**3 / 12 * (bracket(A, bracket(A, B)) + bracket(B, bracket(B, A)))
    strang = step * (A + B) - step**3 / 24 * bracket(A, bracket(A, B)) + step**3 / 12 * bracket(B, bracket(B, A))
    e = torch.linalg.matrix_exp
    for product, generator in (
        (e(step * A) @ e(step * B), lie),
        (e(step * A / 2) @ e(step * B) @ e(step * A / 2), strang),
    ):
        assert (product - e(generator)).abs().max() < 100 * step**4


def test_schemes_are_consistent_and_verlet_is_not_second_order():
    for scheme in psld.SCHEMES:
        error = psld.local_error(scheme)
        assert error[1] == (0, 0)
        assert (error[2] == (0, 0)) == (scheme == "verlet2")
    for scheme in ("velocity_verlet", "reduced_velocity_verlet"):
        for last in ("next", "current"):
            position, momentum = psld.local_error(scheme, last=last)[2]
            assert position != 0 and momentum != 0
            assert position.subs(Gamma, 0) == 0 and momentum.subs(nu, 0) == 0
    position, momentum = psld.local_error("symplectic_euler")[2]
    assert position.subs({Gamma: 0, nu: 0}) != 0 and momentum.subs({Gamma: 0, nu: 0}) != 0


def test_reduction_changes_only_terms_with_gamma():
    """Reuse of the first score: the h^2 errors differ by O(Gamma) in x, and where A moves first by O(Gamma) in m."""
    for first in ("momentum", "position"):
        naive, reduced = (psld.local_error(f"{name}symplectic_euler", first=first)[2] for name in ("", "reduced_"))
        changes = [sp.expand(a - b) for a, b in zip(naive, reduced, strict=True)]
        assert changes != [0, 0]
        if first == "momentum":
            assert changes[1] == 0 and changes[0].subs(Gamma, 0) == 0
        else:
            assert changes[0] == 0


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("symplectic_euler", {"first": "momentum"}),
        ("symplectic_euler", {"first": "position"}),
        ("reduced_symplectic_euler", {"first": "momentum"}),
        ("reduced_symplectic_euler", {"first": "position"}),
        ("velocity_verlet", {}),
        ("reduced_velocity_verlet", {"last": "next"}),
        ("reduced_velocity_verlet", {"last": "current"}),
    ],
)
def test_local_errors_are_those_of_the_solvers(scheme, options):
    """One short step of the solver minus the exact flow, over the square of the step in the clock."""
    process, t = DAMPED, 0.4
    rate = lambda at: (score_matrix(process, at + 1e-5) - score_matrix(process, at - 1e-5)) / 2e-5  # noqa: E731
    now, slope = score_matrix(process, t), -rate(t) / process.beta(t)  # along the clock run down
    values = {Gamma: process.Gamma, nu: process.nu, M: process.mass}
    values |= {k: v for S, N in ((S_0, now), (S_1, slope)) for k, v in zip(S, N.flatten().tolist(), strict=True)}
    error = sp.Matrix(psld.local_error(scheme, **options)[2]).jacobian([x, m]).subs(values)
    expected = torch.tensor(np.array(error.tolist(), dtype=float))
    coefficients = []
    for step in (2e-4, 1e-4):  # Richardson: the next term is O(step)
        s = t - step
        c = process.clock(t) - process.clock(s)
        problem = dn.Problem(process, dn.Gaussian([0.0], [DATA]))
        start = torch.eye(2, dtype=torch.float64)[:, :, None]
        exact = dn.solve(problem, "rk4", start, doubles(t, (t + s) / 2, s)).u[..., 0].mT
        coefficients.append((one_step(process, scheme, t, s, **options) - exact) / c**2)
    measured = 2 * coefficients[1] - coefficients[0]
    assert (measured - expected).abs().max() < 2e-3 * expected.abs().max(), (measured, expected)


def test_unknown_scheme():
    with pytest.raises(ValueError, match="unknown scheme 'leapfrog'"):
        psld.local_error("leapfrog")


# ---- conjugate integrators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_conjugate_equation_and_local_error(k):
    assert zero(*psld.conjugate_residuals(k), psld.conjugate_local_error(k))


def test_special_cases():
    assert zero(*psld.ddim_residuals(), *psld.gddim_residuals())


@pytest.mark.parametrize(("kind", "size"), [("lambda", 1.3), ("lambda_ones", -0.8)])
@pytest.mark.parametrize("K", ["L", "R"])
def test_conjugate_local_error_is_the_solvers(kind, size, K):
    """The formula of the h^2 term, with the derivative of the noise along the flow, against one short step."""
    process, t = DAMPED, 0.4
    B = size * (torch.eye(2) if kind == "lambda" else torch.ones(2, 2)).double()
    gain, F = process.gain(t, K), process.F(t)
    noise = lambda at: -process.root(at, K).mT @ score_matrix(process, at)  # noqa: E731
    flow = F + gain @ noise(t)
    slope = (noise(t + 1e-5) - noise(t - 1e-5)) / 2e-5 + noise(t) @ flow
    expected = -(B @ B + B @ F - F @ B + B @ gain @ noise(t) + gain @ slope) / 2
    coefficients = []
    for step in (2e-4, 1e-4):
        s = t - step
        problem = dn.Problem(process, dn.Gaussian([0.0], [DATA]))
        start = torch.eye(2, dtype=torch.float64)[:, :, None]
        exact = dn.solve(problem, "rk4", start, doubles(t, (t + s) / 2, s)).u[..., 0].mT
        taken = one_step(process, "conjugate", t, s, B=kind, lam=size, K=K)
        coefficients.append((taken - exact) / step**2)
    measured = 2 * coefficients[1] - coefficients[0]
    assert (measured - expected).abs().max() < 2e-3 * expected.abs().max(), (measured, expected)


def test_exponential():
    assert zero(*psld.exponential_residuals())
    rotation = psld.exponential(sp.Matrix([[0, 1], [-1, 0]]), sp.pi / 2)  # D imaginary
    assert zero(sp.simplify(rotation - sp.Matrix([[0, 1], [-1, 0]])))
    assert psld.exponential(sp.Matrix([[2, 1], [0, 2]])) == sp.exp(2 * h) * sp.Matrix([[1, h], [0, 1]])  # D = 0


@pytest.mark.parametrize("kind", ["lambda", "lambda_ones"])
def test_exponential_is_the_librarys_where_the_rate_is_constant(kind):
    """The linear factor of the solver is exp(h K)(I - h B) with the derived exponential."""
    process, edge, size = dn.PSLD(), (0.7, 0.45), Q(6, 5)
    F = (8 * gddim.phase_space()[0]).subs({Gamma: Q(1, 100), nu: Q(401, 100)})
    B = size * (sp.eye(2) if kind == "lambda" else sp.ones(2, 2))
    step = Q(1, 4)
    exact = psld.exponential(B - F, step) * (sp.eye(2) - step * B)
    numeric, _ = conjugate_weights(process, [edge], kind, float(size), "L")
    exact = torch.tensor(np.array(exact.evalf(30).applyfunc(sp.re).tolist(), dtype=float))
    assert (numeric[0] - exact).abs().max() < ROUNDED * exact.abs().max()


def test_exponential_of_an_integral():
    defect = psld.wrong_exponential_defect()
    assert defect[0] == defect[1] == 0 and sp.expand(defect[2] + commutator(K_0, K_1) / 4) == 0
    residual = psld.wrong_exponential_example()
    assert residual[0, 0] == residual[1, 0] == residual[1, 1] == 0 and residual[0, 1] != 0
    (time,) = residual[0, 1].free_symbols
    assert sp.series(residual[0, 1], time, 0, 3).removeO() == -(time**2) / 4
    difference, bracket = psld.commutator_of_the_rate()
    assert zero(difference) and not zero(bracket)


def test_library_has_the_fundamental_matrix():
    """With a rate that changes and B = lambda ones it differs from the exponential of the integral."""
    J = torch.ones(2, 2, dtype=torch.float64)
    for process, same in ((dn.PSLD(), True), (dn.PSLD(beta=(2.0, 14.0)), False)):
        X, _ = conjugate_weights(process, [(0.9, 0.3)], "lambda_ones", 2.0, "L")
        wrong = torch.linalg.matrix_exp(0.6 * 2 * J - process.integral_F(0.9, 0.3)) @ (torch.eye(2) - 0.6 * 2 * J)
        assert ((X[0] - wrong).abs().max() < 10 * ROUNDED * wrong.abs().max()) == same


# ---- stability -----------------------------------------------------------------------------------------------------


def test_frozen_step_and_best_lambda():
    assert zero(psld.frozen_step_residual())
    assert psld.lambda_substep_residuals() == (0, 0)
    best = psld.best_lambda()
    assert sp.expand(best["lambda"] - 1 / h - (l_min + l_max) / 2) == 0
    assert sp.simplify(best["lower"] + best["upper"]) == 0
    assert sp.simplify(best["upper"] - h * (l_max - l_min) / 2) == 0
    assert sp.expand(best["gap"] - h * (l_max - l_min)) == 0 and lam not in best["gap"].free_symbols
    levels = {l_min: -16.04, l_max: -0.04}
    for step, expected in ((0.1, 1.96), (0.2, -3.04)):
        at = float(best["lambda"].subs(levels | {h: step}))
        bound = lambda value, step=step: max(abs(1 + step * (level - value)) for level in levels.values())  # noqa: E731
        assert abs(at - expected) < 16 * ROUNDED
        assert all(bound(at) < bound(at + shift) for shift in (-1, -0.01, 0.01, 1))


@pytest.mark.parametrize("size", [0.0, 3.0, -6.0])
def test_momentum_substep_of_the_library(size):
    """Type I, momentum alone, position at rest: the derived h^2 term, with the q that the gain and its noise make."""
    process, t = dn.PSLD(), 0.4
    position, noise, speed = 0.7, doubles(0.6, -1.1), doubles(0.8, 0.3)  # e, and its rate up in time
    rate, gain = process.F(t), process.gain(t, "L")
    r = -rate[1, 1].item()
    q = (rate[1, 0] * position + gain[1] @ noise).item()
    momentum, terms = -0.4, []
    derived = -size / 2 * (size * momentum + q) - (gain[1] @ speed).item() / 2
    for step in (2e-3, 1e-3):
        through, gained = conjugate_weights(process, [(t, t - step)], "lambda", size, "L", (1,))
        made = through[0] @ doubles(position, momentum) + gained[0] @ noise
        tau = torch.linspace(t, t - step, 201, dtype=torch.float64)
        # the exact row by Simpson's rule: m e^(-r (s - t)) and the integral of its source
        at = torch.exp(r * (tau - (t - step)))
        source = rate[1, 0] * position + (process.gain(tau, "L")[:, 1] * (noise + (tau - t)[:, None] * speed)).sum(1)
        simpson = torch.tensor([1.0, *[4.0, 2.0] * 99, 4.0, 1.0], dtype=torch.float64) * step / 600
        exact = math.exp(r * step) * momentum - (simpson * source * at).sum().item()
        assert made[0] == position
        terms.append((made[1].item() - exact) / step**2)
    assert 2 * terms[1] - terms[0] == pytest.approx(derived, rel=1e-3)


def test_one_step_spectral_radius():
    """Gaussian data N(0, 0.09) at t = 0.9: the size of one step in u, against the bound in brackets in the book."""
    process = dn.PSLD()

    def radius(step, size):
        matrix = one_step(process, "conjugate", 0.9, 0.9 - step, B="lambda", lam=size)
        return torch.linalg.eigvals(matrix).abs().max().item()

    measured = {(step, size): radius(step, size) for step, size in
                ((0.1, 0.0), (0.1, 2.0), (0.1, 4.0), (0.1, 10.0), (0.2, -10.0), (0.2, 0.0), (0.2, 2.0))}  # fmt: skip
    expected = (1.18, 0.87, 0.85, 6.8, 1.8, 3.4, 12.0)
    assert all(abs(a / b - 1) < 0.03 for a, b in zip(measured.values(), expected, strict=True)), measured
    G = process.G(0.9)
    levels = torch.linalg.eigvalsh(G @ score_matrix(process, 0.9) @ G / 2).tolist()
    assert abs(levels[0] + 16.04) < 5e-3 and abs(levels[1] + 0.04) < 5e-4


def test_lambda_changes_the_size_of_the_local_error_only():
    linear, weight = psld.lambda_factors()
    assert sp.expand(linear - 1 + (h * lam) ** 2 / 2) == 0
    assert sp.expand(weight - h - lam * h**2 / 2) == 0
