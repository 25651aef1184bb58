"""PNDM against the published code's numbers, and its coefficients against their derivations."""

import numpy as np
import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum import derive, grids
from diffnum.coefficients import HEUN_WEIGHTS, RK4_WEIGHTS, adams_bashforth, adams_weights
from diffnum.denoisers.targets import smooth
from diffnum.derive import classical as derive_classical
from diffnum.derive import pndm as derive_pndm
from diffnum.measure.analysis import convergence, ladder, reference
from diffnum.measure.checks import ROUNDED, assert_close, rounding

# Two adaptive integrators with a tolerance of 1e-12 a step, over some hundred steps.
INTEGRATED = 1e-10

METHODS = {
    "DDIM": ("ddim", {}),
    "S-PNDM": ("s_pndm", {}),
    "F-PNDM": ("f_pndm", {}),
    "FON": ("fon", {"published": True}),
}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("method", METHODS)
def test_golden(golden, schedule, method):
    """Final states and whole trajectories of the published code, with its level table repaired."""
    process = dn.VP.from_betas(golden[f"betas_{schedule}"])
    times = grids.from_table(process, 10, t_end=0)
    assert torch.equal((times * 1000).round().long() - 1, golden["steps_10"].long())
    name, options = METHODS[method]
    run = dn.solve(dn.Problem(process, smooth()), name, golden["x_T"], times, trajectory=True, **options)
    allowed = rounding(process, times, stages=4)
    assert_close(run.u, golden[f"x_{schedule}_fixed_{method}_10"], allowed)
    assert_close(run.trajectory, golden[f"traj_{schedule}_fixed_{method}_10"], allowed)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_golden_reference(golden, schedule):
    process = dn.VP.from_betas(golden[f"betas_{schedule}"])
    exact = reference(dn.Problem(process, smooth()), golden["x_T"], grids.from_table(process, 10, t_end=0))
    assert_close(exact, golden[f"xexact_{schedule}_fixed_10"], INTEGRATED)


def test_golden_probability_flow(vp, golden):
    assert_close(reference(vp.problem, vp.u, [1.0, 1e-3]), golden["x_linear_PF_tight"], 10 * INTEGRATED)  # in t, stiff
    for t, drift in zip(golden["pf_drift_t"].tolist(), golden["pf_drift_at_xT"], strict=True):
        cancelled = abs(vp.process.F(t).item()) * vp.u.abs().max().item()  # against the score, near the prior
        assert_close(vp.problem.velocity(vp.u, t), drift, ROUNDED * cancelled)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_table_grid(golden, n):
    process = dn.VP.from_betas(golden["betas_linear"])
    assert torch.equal((grids.from_table(process, n, t_end=0) * 1000).round().long() - 1, golden[f"steps_{n}"].long())


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_adams_weights_are_the_derived_ones(order):
    derived = [float(w) for w in derive_classical.adams_bashforth(order)]
    assert adams_bashforth(order) == pytest.approx(derived, rel=ROUNDED)
    assert adams_weights([-float(j) for j in range(order)], 0.0, 1.0) == pytest.approx(derived, rel=ROUNDED)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_variable_adams_weights_are_the_derived_ones(order):
    exact = [sp.Rational(n) for n in ("7/3", "3", "31/8", "29/5")][:order]
    end = sp.Rational(9, 5)
    derived = [float(w / (end - exact[0])) for w in derive_classical.adams_bashforth_variable(exact, end)]
    assert adams_weights([float(n) for n in exact], float(exact[0]), float(end)) == pytest.approx(derived, rel=ROUNDED)


def test_weights_in_another_variable():
    """Interpolating in theta(x) = x^2 and integrating in x, against SymPy."""
    x = sp.symbols("x")
    nodes, (a, b) = [sp.Integer(9), sp.Integer(16), sp.Integer(25)], (sp.Integer(3), sp.Integer(2))
    exact = [sp.integrate(l, (x, a, b)) / (b - a) for l in derive_classical.lagrange_basis(nodes, x**2)]
    weights = adams_weights([9.0, 16.0, 25.0], 3.0, 2.0, lambda x: x**2)
    assert weights == pytest.approx([float(w) for w in exact], rel=ROUNDED)


@pytest.mark.parametrize("process", [dn.VP(), dn.VP.cosine(), dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000))])
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "log_snr", "karras"])
def test_weights_in_time_are_integrated_to_the_last_digits(process, grid):
    """Against the same integral on panels forty times finer, down to few and very unequal steps."""
    for steps in (4, 5, 20):
        times = getattr(grids, grid)(process, steps).tolist()
        ratios = [process.rho(t) for t in times]
        knots = process.rho(process.knots).tolist()
        for i in range(3, steps):
            step = (times[i - 3 : i + 1][::-1], ratios[i], ratios[i + 1], process.time_of_rho)
            fine = sorted([*np.geomspace(ratios[i + 1], ratios[i], 400).tolist(), *knots])
            ours, exact = adams_weights(*step, knots), adams_weights(*step, fine)
            # their sum is 1, and the quadrature is one to 1e-13 of the panels' largest values
            assert ours == pytest.approx(exact, abs=10 * ROUNDED * sum(map(abs, exact)))


def test_runge_kutta_weights_are_the_derived_ones():
    assert pytest.approx([float(w) for w in derive_classical.classical_rk4().b], rel=ROUNDED) == RK4_WEIGHTS
    assert pytest.approx([float(w) for w in derive_classical.improved_euler().b], rel=ROUNDED) == HEUN_WEIGHTS


@pytest.mark.parametrize("form", ["ddim", "cancellation_free", "rescaled"])
def test_transfer_is_the_derived_map(form):
    process = dn.VP()
    expression = derive_pndm.transfer_map(form)
    for t, s in ((1.0, 0.6), (0.6, 0.59), (0.1, 1e-3), (0.02, 0.0)):
        levels = {derive_pndm.a: process.alpha(t) ** 2, derive_pndm.b: process.alpha(s) ** 2}
        for unit, factor in zip(({"x": 1, "e": 0}, {"x": 0, "e": 1}), process.step(t, s), strict=True):
            at = {getattr(derive_pndm, name): value for name, value in unit.items()}
            assert float(expression.subs({**levels, **at})) == pytest.approx(factor, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(("t", "s"), [(1e-3, 0.999e-3), (0.5, 0.5 - 1e-9), (1.0, 1e-5), (1e-5, 0.0)])
def test_transfer_does_not_cancel(t, s):
    """Coefficients to 1e-14 even over tiny steps, against 50 digits."""
    import mpmath as mp

    with mp.workdps(50):
        exponent = [mp.mpf("0.1") * v + mp.mpf("19.9") * v**2 / 2 for v in (mp.mpf(t), mp.mpf(s))]
        beta_min = mp.mpf(0.1), mp.mpf(20.0)
        exponent = [beta_min[0] * v + (beta_min[1] - beta_min[0]) * v**2 / 2 for v in (mp.mpf(t), mp.mpf(s))]
        alpha_t, alpha_s = (mp.exp(-v / 2) for v in exponent)
        rho_t, rho_s = (mp.sqrt(mp.expm1(v)) for v in exponent)
        exact = float(alpha_s / alpha_t), float(alpha_s * (rho_s - rho_t))
    assert dn.VP().step(t, s) == pytest.approx(exact, rel=ROUNDED)


@pytest.mark.parametrize(
    ("method", "grid", "constant"), [("ddim", "log_snr", -1.98896e-2), ("f_pndm", "log_snr", 1.65747e-3)]
)
def test_global_constant(method, grid, constant):
    """The derived error constant on Gaussian data is the one that the solver shows."""
    process = dn.VP()
    ladder_ = ladder(grids.log_snr, process, t_start=process.time_of_rho(3.0), t_end=process.time_of_rho(0.05))
    problem = dn.Problem(process, dn.Gaussian(torch.zeros(1), 0.25))
    alpha, end = process.alpha(process.time_of_rho(3.0)), process.alpha(process.time_of_rho(0.05))
    n, order = 1600, dn.solvers.registry[method].order()
    u = torch.full((1, 1), alpha, dtype=torch.float64)
    h = process.log_snr(ladder_(n)[-1].item()) - process.log_snr(ladder_(n)[0].item())
    error = (dn.solve(problem, method, u, ladder_(n)).u - reference(problem, u, ladder_(n), rtol=1e-13)).item() / end
    assert error / (h / n) ** order == pytest.approx(constant, rel=1e-3)


def test_variable_steps_repair_the_order_but_not_few_steps(vp):
    rung = ladder(grids.log_snr, vp.process, t_end=1e-3)
    pndm, variable = (convergence(vp.problem, s, vp.u, rung, (20, 80)) for s in ("f_pndm", "pndm_variable"))
    assert variable.errors[0] > 2 * pndm.errors[0]
    assert variable.errors[1] < pndm.errors[1] / 2


def test_derive_is_importable():
    assert derive.__doc__
