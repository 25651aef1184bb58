"""DDIM from the variation of constants: the derived coefficients are the printed ones and those of the library."""

import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum.derive import classical, ddim, pndm
from diffnum.derive.ddim import e, rho, rho_s, rho_t, x
from diffnum.measure.checks import ROUNDED

PROCESSES = {"linear": dn.VP(), "cosine": dn.VP.cosine(), "ve": dn.VE()}
PAIRS = [("vp", q) for q in ddim.QUANTITIES] + [("ve", q) for q in ddim.QUANTITIES if q != "v"]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("quantity", ["eps", "x0"])
def test_the_derived_step_is_that_of_the_library(name, quantity):
    process = PROCESSES[name]
    derived = sp.lambdify((rho_t, rho_s), ddim.in_noise("ve" if name == "ve" else "vp", quantity), "math")
    times = torch.rand(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t, s in (times * 0.95 * process.t_max + 1e-3).sort(dim=1, descending=True).values.tolist():
        high, low = process.rho(t), process.rho(s)
        cancelled = high / (high - low)  # the derived step is a difference of the levels
        assert process.step(t, s) == pytest.approx(derived(high, low), rel=ROUNDED * cancelled), (t, s)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_ode_is_that_of_the_library(name):
    """The factors per unit of rho, times drho/dt = C/alpha, are those per unit of t."""
    process = PROCESSES[name]
    problem = dn.Problem(process, dn.PointMass(torch.zeros(1)))
    F, C = (sp.lambdify(rho, factor, "math") for factor in ddim.velocity_factors("ve" if name == "ve" else "vp"))
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t in (0.03, 0.2, 0.5, 0.9):
        linear, gain = problem.drift(one, zero, t).item(), problem.drift(zero, one, t).item()
        here, speed = process.rho(t), gain / process.alpha(t)
        assert (linear, gain) == pytest.approx((F(here) * speed, C(here) * speed), rel=ROUNDED, abs=ROUNDED)


def test_the_integrand_is_a_total_derivative():
    assert ddim.integrand_residual() == 0


def test_ddim_under_its_other_names():
    assert ddim.song_residual() == 0
    assert ddim.dpm_solver_residual() == 0
    assert ddim.edm_euler_residual() == 0


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_frozen_noise_and_frozen_data_are_one_integrator(process):
    of_noise, of_data = (ddim.in_noise(process, quantity) for quantity in ("eps", "x0"))
    assert [sp.simplify(a - b) for a, b in zip(of_noise, of_data, strict=True)] == [0, 0]
    assert any(sp.simplify(a - b) != 0 for a, b in zip(of_noise, ddim.in_noise(process, "score"), strict=True))


@pytest.mark.parametrize(("process", "quantity"), PAIRS)
def test_what_a_point_is_exact_for(process, quantity):
    assert (ddim.point_mass_defect(process, quantity) == 0) == (quantity in ("eps", "x0"))


@pytest.mark.parametrize("quantity", ddim.QUANTITIES)
def test_what_a_unit_gaussian_is_exact_for(quantity):
    assert (ddim.unit_gaussian_defect(quantity) == 0) == (quantity in ("score", "v"))


@pytest.mark.parametrize(("process", "quantity"), PAIRS)
def test_the_step_solves_the_frozen_equation(process, quantity):
    """Not by integrals but by differentiating: dx_s/drho_s = F x_s + C (A x_s + B q), x_s = x_t at rho_s = rho_t."""
    q = sp.Symbol("q", real=True)
    psi, c = ddim.frozen_step(process, quantity)
    state = psi * x + c * q
    F, C = (factor.subs(rho, rho_s) for factor in ddim.velocity_factors(process))
    A, B = ddim.prediction(process, quantity, rho_s)
    assert sp.simplify(sp.diff(state, rho_s) - F * state - C * (A * state + B * q)) == 0
    assert sp.simplify(state.subs(rho_s, rho_t) - x) == 0


@pytest.mark.parametrize(("process", "quantity"), PAIRS)
def test_local_error_with_a_prediction_that_is_linear_in_rho(process, quantity):
    """Quadrature of the exact solution for q = q0 + q1 (rho - rho_t): the missed part, divided by h^2."""
    C, B = ddim.velocity_factors(process)[1], ddim.prediction(process, quantity)[1]
    psi = ddim.frozen_step(process, quantity)[0]
    start, small = sp.Rational(3, 4), sp.Rational(1, 10**4)
    r = sp.Symbol("r", positive=True)
    integrand = (psi.subs(rho_t, r) * (C * B).subs(rho, r) * (r - start)).subs(rho_s, start + small)
    missed = -sp.Integral(integrand, (r, start, start + small)).evalf(20) / small**2
    derived = ddim.local_error(process, quantity).subs({rho: start, sp.Symbol("q1"): 1})
    assert float(missed) == pytest.approx(float(derived), rel=1e-3)


def test_local_error_is_that_of_the_pndm_module():
    alpha = ddim.levels("vp")[0]
    theirs = pndm.local_error("ddim", 2)[2].subs({pndm.s1: 1, pndm.E1: sp.Symbol("q1")})
    assert sp.simplify(ddim.local_error("vp", "eps") - alpha * theirs) == 0


def test_gaussian_step():
    step, s0, h = ddim.gaussian_step(), ddim.s0, sp.Symbol("h", positive=True)
    assert sp.simplify(step["error"] + s0**2 / (2 * (s0**2 + rho_t**2) ** 2)) == 0
    values = {s0: sp.Rational(1, 2), rho_t: sp.Rational(6, 5)}  # sqrt(1/4 + 36/25) = 13/10
    difference = (step["ddim"] - step["exact"]).subs(rho_s, rho_t + h).subs(values)
    assert sp.series(difference, h, 0, 3).removeO().coeff(h, 2) == step["error"].subs(values)
    # the library's own step on the same data, in y = x/alpha
    process, (t, s) = dn.VP(), (0.5, 0.3)
    problem = dn.Problem(process, dn.Gaussian([0.0], [0.25]))
    u = torch.tensor([[process.alpha(t)]], dtype=torch.float64)
    at = {s0: 0.5, rho_t: process.rho(t), rho_s: process.rho(s)}
    after = dn.solve(problem, "ddim", u, [t, s]).u.item() / process.alpha(s)
    assert after == pytest.approx(float(step["ddim"].subs(at)), rel=ROUNDED)


@pytest.mark.parametrize(
    ("name", "tableau"), [("euler", "euler"), ("heun", "improved_euler"), ("rk4", "classical_rk4")]
)
def test_thin_factors_are_those_of_the_solvers(name, tableau):
    """Data at 0, small times: what one step leaves of the noise."""
    process, t = dn.VP(), 1e-6
    problem = dn.Problem(process, dn.PointMass(torch.zeros(1)))
    u = torch.tensor([[process.sigma(t)]], dtype=torch.float64)
    for r in (0.5, 0.05):
        derived = float(ddim.thin_factor(getattr(classical, tableau)()).subs(sp.Symbol("r", positive=True), r))
        after = dn.solve(problem, name, u, [t, r * t]).u.item() / u.item()
        assert after == pytest.approx(derived, rel=1e-3, abs=1e-4)


def test_bad_names():
    with pytest.raises(ValueError, match="unknown process"):
        ddim.levels("cld")
    with pytest.raises(ValueError, match="unknown quantity"):
        ddim.prediction("vp", "noise")
    with pytest.raises(ValueError, match="only where"):
        ddim.prediction("ve", "v")


def test_symbols_are_shared():
    assert ddim.in_noise("vp", "eps")[0].free_symbols == {rho_t, rho_s}
    assert e.is_real and x.is_real
