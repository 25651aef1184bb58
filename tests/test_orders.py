"""Every registered solver: its order, its evaluations, its exactness, its behaviour, read from its own claims."""

from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.coefficients import adams_bashforth, combine
from diffnum.denoisers.targets import thin
from diffnum.measure.analysis import convergence, kind_of, ladder, standard_problem, weak_convergence
from diffnum.measure.standard import RANGES
from diffnum.solvers import registry, transfer

ISOTROPIC = [name for name, solver in registry.items() if "isotropic" in solver.families]
ODE = [name for name in ISOTROPIC if registry[name].kind == "ode"]
SDE = [
    *((name, {}) for name in ("euler_maruyama", "ancestral", "gddim_sde", "ddim_eta", "edm_churn")),
    ("ddim_eta", {"eta": 0.5}),
    ("sa_solver", {}),
    *(("sa_solver", {"order": q, "corrector": c, "tau": 0.5}) for q, c in ((1, False), (1, True), (2, False))),
    *(("dpmpp_2m_sde", {"eta": eta}) for eta in (1.0, 0.3)),
    *(("er_sde", {"order": q, "phi": "x^1.5"}) for q in (1, 2)),
    *(("er_sde", {"order": q, "phi": "x"}) for q in (1, 2)),
]
VARIANTS = [
    *((name, {}) for name in ODE),
    *(("gddim", {"order": q, "corrector": c}) for q in (1, 2) for c in (None, "pec", "pece")),
    ("fon", {"published": True}),
    ("prk", {"midpoint": "sigma"}),
    ("f_pndm", {"midpoint": "sigma"}),
    ("pndm_variable", {"variable": "t"}),
    *(("pndm_variable", {"order": q}) for q in (1, 2, 3)),
    ("pndm_variable", {"start": "ramp"}),
    *(("unipc", {"order": q, "prediction": "noise", "variant": "bh1"}) for q in (1, 2)),
    ("exponential_adams", {"start": "analytic"}),
    ("exponential_adams", {"prediction": "data", "variable": "t", "start": "runge_kutta"}),
    ("exponential_adams", {"order": 2, "variable": "rho", "corrector": True}),
]


def rungs(process, grid: str):
    return standard_problem(grid, process).grid


def name_of(value) -> str:
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=name_of)
@pytest.mark.parametrize("grid", RANGES)
def test_order_is_the_claimed_one(vp, grid, name, options):
    """The one order test: every solver, every kind of grid, one rule for the range, the claim from the registry."""
    if name == "pndm_variable" and options.get("variable") == "t" and grid in ("uniform", "sigma"):
        pytest.skip("4 is approached so slowly that it stands at 3.7 with 2560 steps: test_slow_approach measures it")
    if name == "dpmpp_3m" and grid == "uniform":
        pytest.skip("what the first step leaves is so small that 640 steps show 2.6: test_slow_start measures it")
    checks.measure(vp.problem, name, vp.u, grid, **options)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=name_of)
def test_order_within_a_tenth(vp, name, options):
    result = checks.measure(vp.problem, name, vp.u, rungs(vp.process, "log_snr"), (80, 160, 320, 640, 1280), **options)
    assert result.order == pytest.approx(result.claim, abs=0.1), result.table()


@pytest.mark.parametrize("name", ODE)
def test_order_on_ve(vp, name):
    problem, _, grid, steps = standard_problem("log_snr", dn.VE())
    checks.measure(problem, name, vp.u, grid, steps[-3:])


def test_every_stochastic_solver_is_measured():
    """On VP and VE below, on phase space in test_psld.py."""
    isotropic = {name for name, solver in registry.items() if solver.kind == "sde" and "isotropic" in solver.families}
    assert isotropic == {name for name, _ in SDE}


@pytest.mark.parametrize(("name", "options"), SDE, ids=name_of)
@pytest.mark.parametrize(
    ("process", "grid"), [(dn.VP(), "log_snr"), (dn.VE(), "log_snr"), (dn.VP(), "rough")], ids=["vp", "ve", "rough"]
)
def test_weak_order_is_the_claimed_one(process, grid, name, options):
    """Mean and covariance on Gaussian data, exactly: no Monte Carlo."""
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.25]))
    result = weak_convergence(problem, name, *standard_problem(grid, process)[2:], **options)
    checks.assert_order(result, within=0.1)


def test_weights_of_equal_steps_lose_an_order_on_a_rough_grid():
    """These and no others: what all registered solvers show on a rough grid is measured above."""
    lost = {name for name in ODE if registry[name].order(grid="rough") < registry[name].order(grid="log_snr")}
    assert lost == {"fon", "s_pndm", "f_pndm", "plms", "ipndm"}
    times = grids.alternating(dn.VP(), 6)
    assert kind_of(times, dn.VP()) == "rough" and kind_of(grids.karras(dn.VP(), 6), dn.VP()) == "log_snr"
    steps = dn.VP().log_snr(times).diff()
    assert (steps[1::2] / steps[::2]).tolist() == pytest.approx([3.0] * 3, rel=1e-9)


def test_slow_approach(vp):
    steps = (640, 1280, 2560)
    result = convergence(
        vp.problem, "pndm_variable", vp.u, ladder(grids.uniform, vp.process, t_end=1e-2), steps, variable="t"
    )
    assert result.slopes[0] < result.slopes[1] == pytest.approx(3.71, abs=0.02)


def test_slow_start(vp):
    """The ramp's first step caps dpmpp_3m at 2 from rho = 3; on a uniform grid that step is short, and shows late."""
    result = convergence(vp.problem, "dpmpp_3m", vp.u, rungs(vp.process, "uniform"), (640, 2560, 5120))
    assert result.claim == 2
    checks.assert_order(result, within=0.15)


@pytest.mark.parametrize("options", [{}, {"midpoint": "sigma"}], ids=name_of)
def test_f_pndm_shows_four_on_a_grid_uniform_in_sigma(vp, options):
    ends = {"t_start": vp.process.time_of_rho(3.0), "t_end": vp.process.time_of_rho(0.05)}
    rung = ladder(grids.sigma, vp.process, **ends)
    result = convergence(vp.problem, "f_pndm", vp.u, rung, (640, 1280, 2560), **options)
    checks.assert_order(result, 4, within=0.15)


def test_f_pndm_is_order_one_when_the_grid_ends_at_zero(vp):
    result = convergence(vp.problem, "f_pndm", vp.u, ladder(grids.uniform, vp.process, t_end=0.0), (320, 640, 1280))
    checks.assert_order(result, 1, within=0.03)


# Errors at 40, 320 and 2560 steps and the last slope, from measurements independent of this library:
# smooth mixture, linear VP, t from 1 to 0.01, grid uniform in t.
MEASURED = {
    ("ddim", ()): (2.58e-02, 3.33e-03, 4.18e-04, 1.00),
    ("s_pndm", ()): (5.38e-03, 9.58e-05, 1.53e-06, 2.00),
    ("f_pndm", ()): (2.33e-04, 2.54e-06, 4.08e-08, 1.99),
    ("prk", ()): (1.79e-04, 2.63e-06, 4.09e-08, 2.00),
    ("euler", ()): (6.49e-03, 8.70e-04, 1.10e-04, 1.00),
    ("heun", ()): (1.58e-03, 2.60e-05, 4.09e-07, 2.00),
    ("rk4", ()): (2.36e-06, 4.57e-10, None, None),
    ("ab2", ()): (5.05e-03, 8.60e-05, 1.35e-06, 2.00),
    ("ab4", ()): (1.39e-04, 2.62e-07, 7.32e-11, 3.98),
    ("fon", ()): (1.39e-04, 2.62e-07, 7.32e-11, 3.98),
    ("fon", (("published", True),)): (1.68e-04, 7.00e-07, 1.10e-08, 2.00),
    ("pndm_variable", (("order", 2),)): (5.97e-03, 1.03e-04, 1.62e-06, 2.00),
    ("pndm_variable", ()): (2.39e-04, 2.58e-07, 7.37e-11, 3.97),
    ("pndm_variable", (("variable", "t"),)): (1.49e-04, 3.65e-07, 3.34e-10, 3.71),
    ("prk", (("midpoint", "sigma"),)): (2.05e-06, 3.60e-10, None, None),
}


@pytest.mark.parametrize(
    ("key", "expected"), MEASURED.items(), ids=lambda v: str(v[0]) if isinstance(v[0], str) else ""
)
def test_independent_measurements(vp, key, expected):
    (name, options), (*errors, slope) = key, expected
    rung = ladder(grids.uniform, vp.process, t_end=1e-2)
    result = convergence(vp.problem, name, vp.u, rung, (40, 320, 1280, 2560), **dict(options))
    for measured, e in zip((result.errors[i] for i in (0, 1, 3)), errors, strict=True):
        assert e is None or measured == pytest.approx(e, rel=0.02), result.table()
    assert slope is None or result.order == pytest.approx(slope, abs=0.015), result.table()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=name_of)
def test_evaluations_are_the_claimed_ones(vp, name, options, n):
    checks.assert_nfe(vp.problem, name, vp.u[:1], grids.log_snr(vp.process, n), **options)


def test_evaluations_of_the_contract():
    """What chapters and outside checks rely on; a solver that joins later is counted by the test above."""
    n, claims = 40, {name: solver.nfe(40) for name, solver in registry.items() if solver.nfe}
    assert claims.items() >= {
        "euler": n, "heun": 2 * n, "rk4": 4 * n, "ab2": n + 3, "ab4": n + 9, "fon": n + 9, "ddim": n, "prk": 4 * n,
        "s_pndm": n + 1, "f_pndm": n + 9, "plms": n + 1, "pndm_variable": n + 9,
        "exponential_adams": n, "deis": n, "lms": n, "dpmpp_3m": n, "unipc": n, "ipndm": n,
        "dpmpp_2m": n, "edm_heun": 2 * n, "gddim": n, "gddim_sde": n, "er_sde": n, "euler_maruyama": n,
        "ancestral": n, "sscs": n, "conjugate": n, "conjugate_symplectic_euler": n,
        "conjugate_velocity_verlet": 2 * n, "symplectic_euler": 2 * n, "reduced_symplectic_euler": n,
        "velocity_verlet": 3 * n, "reduced_velocity_verlet": 2 * n, "verlet2": 2 * n, "oba": 2 * n, "reduced_oba": n,
        "bao": 2 * n, "reduced_bao": n, "obab": 3 * n, "reduced_obab": 2 * n,
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in ISOTROPIC if "point mass" in registry[name].exact_for and registry[name].kind == "ode"]
)
@pytest.mark.parametrize("process", [dn.VP(), dn.VP.cosine(), dn.VE()], ids=["linear", "cosine", "ve"])
def test_exact_for_a_point_mass(process, name):
    checks.assert_exact(process, name, grids.log_snr(process, 1 if name == "ddim" else 20))


def test_a_registered_solver_says_what_it_is_exact_for():
    with pytest.raises(TypeError, match=r"silent does not say .*, or None for nothing"):

        @dn.method(order=1, nfe=lambda n: n, paper="ours", register=True)
        def silent(problem, u, times):
            yield u

    assert "silent" not in registry


def test_ddim_jumps_to_clean_data_in_one_step():
    process = dn.VP()
    checks.assert_exact(process, "ddim", grids.uniform(process, 1, t_end=0.0))


@pytest.mark.parametrize(
    ("a", "b", "options", "grid"),
    [
        ("prk", "f_pndm", {}, lambda p: grids.log_snr(p, 3)),
        ("pndm_variable", "ddim", {"order": 1}, lambda p: grids.log_snr(p, 12)),
        ("fon", "ab4", {}, lambda p: grids.uniform(p, 12)),
    ],
)
def test_reductions(vp, a, b, options, grid):
    checks.assert_reduces_to(vp.problem, a, b, vp.u, grid(vp.process), options=options)


def test_variable_weights_are_pndm_on_a_grid_uniform_in_sigma(vp):
    times = rungs(vp.process, "sigma")(20)
    checks.assert_reduces_to(vp.problem, "pndm_variable", "f_pndm", vp.u, times, other_options={"midpoint": "sigma"})


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_states_are_left_alone_and_keep_their_dtype(vp, name, options, dtype):
    checks.assert_pure(vp.problem, name, vp.u.to(dtype), grids.quadratic(vp.process, 6), **options)


@pytest.mark.parametrize("name", ISOTROPIC)
def test_float32_agrees_with_float64(vp, name):
    times = grids.quadratic(vp.process, 20)
    double, single = (dn.solve(vp.problem, name, vp.u.to(d), times).u.double() for d in (torch.float64, torch.float32))
    checks.assert_close(double, single, 2e-5)


PROCESSES = {
    "linear": dn.VP(),
    "cosine": dn.VP.cosine(),
    "table": dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000)),
    "ve": dn.VE(),
}
GRIDS = ("uniform", "quadratic", "log_snr", "karras", "sigma", "from_table")


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ISOTROPIC)
def test_finite_on_every_grid_or_refused(process, name):
    process = PROCESSES[process]
    problem, solver = dn.Problem(process, thin()), registry[name]
    u = problem.prior((2, 4), dtype=torch.float64)
    for grid in GRIDS:
        if grid == "from_table" and process.t_max > 1:
            continue
        for t_end in (None, 0.0):
            for n in (1, 2, 3, 4, 5, 13, 32, 64):
                times = getattr(grids, grid)(process, n, t_end=t_end)
                if t_end == 0 and not solver.reaches_zero(n):
                    before = problem.nfe
                    with pytest.raises(dn.DiffnumError, match="end the grid above 0"):
                        dn.solve(problem, name, u, times)
                    assert problem.nfe == before
                else:
                    assert dn.solve(problem, name, u, times).u.isfinite().all(), (grid, t_end, n)


# Broken on purpose, one letter each: nice pictures, wrong order. Each claims what its intact twin claims.
def s_pndm_with(weights=(3 / 2, -1 / 2), swapped=False, stale=False, factor=1.0, order=2):
    @dn.method(order=order, nfe=lambda n: n + 1, paper="broken on purpose")
    def broken(problem, u, times):
        old = None
        for t, s in pairwise(times):
            e = problem.eps(u, t)
            if old is None:
                e2 = problem.eps(transfer(problem, u, e, t, s), s)
                bar = combine((1 / 2, 1 / 2), (e, e2))
            else:
                bar = combine(weights, (old, e) if swapped else (e, old))
            old = old if stale and old is not None else e
            u = transfer(problem, u, bar * factor, t, s)
            yield u

    return broken


def f_pndm_claiming_four(problem, u, times):
    yield from registry["f_pndm"](problem, u, times)


f_pndm_claiming_four.order = lambda grid="log_snr", process=None: 4


@pytest.mark.parametrize(
    "broken",
    [
        s_pndm_with(swapped=True),
        s_pndm_with(stale=True),
        s_pndm_with(factor=0.99),
        s_pndm_with(weights=(1.0, 0.0)),
        s_pndm_with(weights=(1.49, -0.49)),
        s_pndm_with(order=3),
        f_pndm_claiming_four,
    ],
    ids=[
        "swapped",
        "stale history",
        "missing factor",
        "order 1 weights",
        "perturbed weights",
        "overclaimed",
        "uniform weights",
    ],
)
def test_broken_solvers_are_caught(vp, broken):
    steps, grid = (160, 320, 640), rungs(vp.process, "log_snr")
    report = checks.assert_catches(lambda: checks.measure(vp.problem, broken, vp.u, grid, steps))
    assert "slopes" in report


def test_the_intact_twin_passes(vp):
    checks.measure(vp.problem, s_pndm_with(), vp.u, rungs(vp.process, "log_snr"))
    checks.assert_reduces_to(vp.problem, s_pndm_with(), "s_pndm", vp.u, grids.log_snr(vp.process, 20))


def test_swapped_times_are_caught(vp):
    @dn.method(order=1, nfe=lambda n: n, paper="broken on purpose")
    def broken(problem, u, times):
        for t, s in pairwise(times):
            u = transfer(problem, u, problem.eps(u, t), s, t)
            yield u

    rung = rungs(vp.process, "log_snr")
    checks.assert_catches(lambda: checks.measure(vp.problem, broken, vp.u, rung))
    checks.assert_catches(lambda: checks.assert_exact(vp.process, broken, rung(1)))


def test_other_checks_catch(vp):
    times = grids.log_snr(vp.process, 8)

    @dn.method(order=1, nfe=lambda n: n + 1, paper="broken on purpose")
    def in_place(problem, u, times):
        for t, s in pairwise(times):
            u.copy_(transfer(problem, u, problem.eps(u, t), t, s))
            yield u

    checks.assert_catches(lambda: checks.assert_pure(vp.problem, in_place, vp.u.clone(), times))
    checks.assert_catches(lambda: checks.assert_nfe(vp.problem, in_place, vp.u.clone(), times))
    checks.assert_catches(lambda: checks.assert_reduces_to(vp.problem, "ddim", "plms", vp.u, times))


def test_uniform_weights_are_derived():
    assert adams_bashforth(4) == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24], rel=checks.ROUNDED)
