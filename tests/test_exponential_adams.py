"""The exponential Adams family: one table of weights against independent formulas, reductions, orders, derivations."""

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.coefficients import combine
from diffnum.denoisers.targets import smooth, starts
from diffnum.derive import exponential_adams as derive
from diffnum.derive.classical import lagrange_basis
from diffnum.measure.analysis import convergence, ladder, reference
from diffnum.measure.work import growth
from diffnum.solvers.exponential_adams import mean_values, table

Q = sp.Rational
PROCESSES = {
    "linear": dn.VP(),
    "ve": dn.VE(),
    "cosine": dn.VP.cosine(),
    "table": dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000)),
}
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
PRIOR = dn.Problem(PROCESSES["linear"], smooth())


@pytest.fixture(scope="module")
def truth():
    u = starts(PRIOR.process)
    return reference(PRIOR, u, [1.0, 1e-3], rtol=1e-13)


# ------------------------------------------------------------------------------------------------------ reductions


@EVERY
@pytest.mark.parametrize(("a", "options", "b", "others"), [
    ("exponential_adams", {"order": 1}, "ddim", {}),
    ("exponential_adams", {"order": 1, "prediction": "data", "variable": "rho"}, "ddim", {}),
    ("lms", {}, "pndm_variable", {"start": "ramp"}),
    ("lms", {"order": 3}, "exponential_adams", {"variable": "rho"}),
    ("deis", {"order": 2}, "gddim", {"order": 2}),
    ("exponential_adams", {"order": 4, "variable": "rho", "start": "runge_kutta"}, "pndm_variable", {}),
    ("dpmpp_3m", {}, "exponential_adams", {"prediction": "data"}),
    ("ipndm", {"order": 2}, "exponential_adams", {"order": 1, "variable": "rho"}),
], ids=lambda v: v if isinstance(v, str) else None)  # fmt: skip
def test_members(process, a, options, b, others):
    problem, u = dn.Problem(process, smooth()), starts(process)
    times = grids.log_snr(process, 1 if a == "ipndm" else 20)
    checks.assert_reduces_to(problem, a, b, u, times, options=options, other_options=others)


@pytest.mark.parametrize("name", ["linear", "ve", "table"])
def test_deis_of_order_four_is_gddim(name):
    """Not on the cosine schedule, where extrapolation in t across the pole magnifies every rounding."""
    process = PROCESSES[name]
    problem, u, times = dn.Problem(process, smooth()), starts(process), grids.karras(process, 20)
    checks.assert_reduces_to(problem, "deis", "gddim", u, times, options={"order": 4}, other_options={"order": 4})


def test_uniform_steps_make_lms_ipndm(vp):
    times = grids.sigma(vp.process, 12, t_start=0.5, t_end=0.2)
    checks.assert_reduces_to(vp.problem, "lms", "ipndm", vp.u, times)


# ------------------------------------------------------------------------------------- formulas of the papers, again


def dpmpp_3m_of_the_code(problem, u, times):
    """multistep_dpm_solver_third_update of the released code, data prediction, with its ramp."""
    alpha, sigma = (f(torch.tensor(times, dtype=torch.float64)).tolist() for f in (problem.process.alpha,
                                                                                   problem.process.sigma))  # fmt: skip
    lam, past = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)], []
    for i in range(len(times) - 1):
        past = [problem.x0(u, times[i]), *past[:2]]
        h = lam[i + 1] - lam[i]
        phi1 = math.expm1(-h)
        new = sigma[i + 1] / sigma[i] * u - alpha[i + 1] * phi1 * past[0]
        if i >= 1:
            r0 = (lam[i] - lam[i - 1]) / h
            d0 = (past[0] - past[1]) / r0
        if i == 1:
            new = new - 0.5 * alpha[i + 1] * phi1 * d0
        if i >= 2:
            r1 = (lam[i - 1] - lam[i - 2]) / h
            d1 = (past[1] - past[2]) / r1
            D1, D2 = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
            phi2 = phi1 / h + 1
            phi3 = phi2 / h - 0.5
            new = new + alpha[i + 1] * phi2 * D1 - alpha[i + 1] * phi3 * D2
        u = new
    return u


def unipc_of_the_paper(problem, u, times, order, prediction, variant):
    """Zhao et al. 2023: linear systems for the coefficients, two nodes with a = 1/2, no corrector at the end."""
    alpha, sigma = (f(torch.tensor(times, dtype=torch.float64)).tolist() for f in (problem.process.alpha,
                                                                                   problem.process.sigma))  # fmt: skip
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    data = prediction == "data"
    field = problem.x0 if data else problem.eps

    def step(i, base, values, places):
        """From node i, with values at log ratios of which the first is that of node i."""
        h = lam[i + 1] - lam[i]
        hh = -h if data else h
        B = hh if variant == "bh1" else math.expm1(hh)
        r = [(place - lam[i]) / h for place in places[1:]]
        if len(r) == 1:
            a = [0.5]
        else:
            phi, rows, b, factorial = math.expm1(hh) / hh - 1, [], [], 1.0
            for k in range(1, len(r) + 1):
                rows.append([x ** (k - 1) for x in r])
                factorial *= k
                b.append(phi * factorial / B)
                phi = phi / hh - 1 / (factorial * (k + 1))
            a = (
                torch.linalg.solve(
                    torch.tensor(rows, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
                ).tolist()
                if r
                else []
            )
        correction = sum((x * (v - values[0]) / place for x, v, place in zip(a, values[1:], r, strict=True)), 0 * u)
        if data:
            plain = sigma[i + 1] / sigma[i] * base - alpha[i + 1] * math.expm1(hh) * values[0]
            return plain - alpha[i + 1] * B * correction
        plain = alpha[i + 1] / alpha[i] * base - sigma[i + 1] * math.expm1(hh) * values[0]
        return plain - sigma[i + 1] * B * correction

    past, base = [field(u, times[0])], u
    for i in range(len(times) - 1):
        nodes = lam[max(i - order + 1, 0) : i + 1][::-1]
        u = step(i, base, past[: len(nodes)], nodes)
        if i + 2 < len(times):
            new = field(u, times[i + 1])
            base = step(i, base, [*past[: len(nodes)], new], [*nodes, lam[i + 1]])
            past = [new, *past]
    return u


@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras, grids.uniform])
def test_dpmpp_3m_as_published(grid):
    u, times = starts(PRIOR.process), grid(PRIOR.process, 12)
    got = dn.solve(PRIOR, "dpmpp_3m", u, times, published=True).u
    checks.assert_close(got, dpmpp_3m_of_the_code(PRIOR, u, times.tolist()), 1e-12)
    assert not torch.allclose(got, dn.solve(PRIOR, "dpmpp_3m", u, times).u, rtol=1e-3)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_the_papers(order, prediction, variant):
    u, times = starts(PRIOR.process), grids.karras(PRIOR.process, 9)
    got = dn.solve(PRIOR, "unipc", u, times, order=order, prediction=prediction, variant=variant).u
    expected = unipc_of_the_paper(PRIOR, u, times.tolist(), order, prediction, variant)
    checks.assert_close(got, expected, 1e-11)  # the paper's phi functions cancel


def test_unipc_is_the_family_where_it_solves_its_system(vp):
    """From the third step on the predictor of order 3, and from the second its corrector, do not know B."""
    times = tuple(grids.log_snr(vp.process, 6).tolist())
    for prediction, ahead in (("data", False), ("noise", False), ("data", True), ("noise", True)):
        known = (vp.process, times, 3, "log_snr", prediction, ahead)
        plain, rule = table(*known), table(*known, rule="bh1")
        same = [a == b for a, b in zip(plain, rule, strict=True)]
        assert same == [not ahead, ahead, True, True, True, True]


@EVERY
@pytest.mark.parametrize(("prediction", "variable"), [("noise", "rho"), ("noise", "log_snr"), ("data", "log_snr")])
@pytest.mark.parametrize("ahead", [False, True])
def test_weights_are_the_derived_ones(process, prediction, variable, ahead):
    """Rational nodes through SymPy, against the quadrature."""
    times = grids.log_snr(process, 5).tolist()
    row = mean_values(process, times, 3, variable, prediction, ahead)[3]
    place = {"rho": process.rho, "log_snr": lambda t: process.log_snr(t) / 2}[variable]
    shown = [Q(place(t)) for t in times]
    nodes = [shown[4 - j] for j in range(0 if ahead else 1, 4)]
    name = "rho" if variable == "rho" else "lambda"
    weights = [integral(prediction, name, nodes, j, shown[3], shown[4]) for j in range(len(nodes))]
    total = sum(weights)
    assert row == pytest.approx([float(w / total) for w in weights], rel=1e-11)


def integral(prediction, variable, nodes, j, a, b):
    x = sp.Dummy("x")
    density = {("noise", "rho"): sp.S.One, ("noise", "lambda"): sp.exp(-x), ("data", "lambda"): sp.exp(x)}
    polynomial = sp.expand(lagrange_basis(nodes, x)[j])
    return sp.integrate(sp.expand(density[prediction, variable] * polynomial), (x, a, b)).evalf(40)


@EVERY
def test_small_steps_do_not_cancel(process):
    """Exact for polynomials of the variable: with steps of 1e-3 in log-SNR closed forms have lost half their digits."""
    ends = {"t_start": process.time_of_log_snr(0.0), "t_end": process.time_of_log_snr(1.0)}
    times = grids.log_snr(process, 1000, **ends)
    lam = (process.log_snr(times) / 2).tolist()
    for prediction, sign in (("noise", -1), ("data", 1)):
        rows = mean_values(process, times.tolist(), 4, "log_snr", prediction, False)
        for i in (10, 500, 999):
            h, t = lam[i + 1] - lam[i], lam[i]
            mean = sum(w * (lam[i - j] - t) for j, w in enumerate(rows[i]))
            assert mean == pytest.approx(h / 2 * (1 + sign * h / 6), abs=1e-12)


# ---------------------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize(("name", "options", "order"), [
    *(("exponential_adams", {"order": q, "prediction": p}, q) for q in (2, 3) for p in ("noise", "data")),
    *(("exponential_adams", {"order": q, "prediction": p, "corrector": True}, q + 1)
      for q in (2, 3) for p in ("noise", "data")),
    *(("unipc", {"order": q, "variant": v}, q + 1) for q in (1, 2, 3) for v in ("bh1", "bh2")),
    ("lms", {}, 4),
    ("dpmpp_3m", {}, 3),
    ("dpmpp_3m", {"published": True}, 2),
    ("ipndm", {}, 2),
], ids=str)  # fmt: skip
def test_orders_from_the_prior(truth, name, options, order):
    u, grid = starts(PRIOR.process), ladder(grids.log_snr, PRIOR.process)
    steps = (160, 320, 640) if name == "lms" else (320, 640, 1280)  # with 1280 the cap of the ramp begins to show
    result = convergence(PRIOR, name, u, grid, steps, truth=truth, **options)
    assert result.claim == order
    checks.assert_order(result, within=0.12)


def test_an_analytic_start_leaves_order_one(vp):
    result = convergence(vp.problem, "exponential_adams", vp.u, ladder(grids.log_snr, vp.process,
                         t_start=vp.process.time_of_rho(3.0)), (160, 320, 640), start="analytic")  # fmt: skip
    checks.assert_order(result, 1, within=0.05)


@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_the_corrector_is_free_and_an_order_better(truth, prediction):
    u, times = starts(PRIOR.process), grids.log_snr(PRIOR.process, 40)
    runs = [dn.solve(PRIOR, "exponential_adams", u, times, prediction=prediction, corrector=c) for c in (False, True)]
    assert runs[0].nfe == runs[1].nfe == 40
    plain, corrected = ((run.u - truth).square().mean().sqrt().item() for run in runs)
    assert corrected < 0.4 * plain


def test_a_halved_curvature_is_caught(truth):
    """The published 3M, were it to claim 3."""

    def overclaimed(problem, u, times):
        yield from dn.solvers.registry["dpmpp_3m"](problem, u, times, published=True)

    overclaimed.order = lambda grid="log_snr", process=None: 3
    u, grid = starts(PRIOR.process), ladder(grids.log_snr, PRIOR.process)
    result = convergence(PRIOR, overclaimed, u, grid, (320, 640, 1280), truth=truth)
    checks.assert_catches(lambda: checks.assert_order(result))


def test_a_stale_base_is_caught(truth):
    """A corrector that starts from the predicted state instead of the corrected one before it."""

    @dn.method(order=4, nfe=lambda n: n, paper="broken on purpose")
    def broken(problem, u, times):
        known = (problem.process, tuple(times), 3, "log_snr", "noise")
        predict, correct, past, before = table(*known), table(*known, ahead=True), [], u
        for i, (t, _) in enumerate(pairwise(times)):
            new, kept = problem.eps(u, t), u
            if i:
                u = combine(correct[i - 1], (before, new, *past))
            past, before = [new, *past[:2]], kept
            u = combine(predict[i], (u, *past))
            yield u

    u, grid = starts(PRIOR.process), ladder(grids.log_snr, PRIOR.process)
    result = convergence(PRIOR, broken, u, grid, (160, 320, 640), truth=truth)
    checks.assert_catches(lambda: checks.assert_order(result))


@pytest.mark.parametrize("variable", ["log_snr", "rho", "t"])
@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_steps_to_zero(vp, prediction, variable, n):
    times = grids.quadratic(vp.process, n, t_end=0.0)
    options = {"prediction": prediction, "variable": variable, "corrector": True, "order": 4}
    run = dn.solve(vp.problem, "exponential_adams", vp.u, times, trajectory=True, **options)
    assert run.u.isfinite().all() and run.nfe == n
    rounding = checks.rounding(vp.process, times)  # a long step back from a short history magnifies what it gets
    grown = checks.ROUNDED * growth(vp.process, "exponential_adams", times, **options)
    checks.assert_exact(vp.process, "exponential_adams", times, max(rounding, grown), **options)


# ------------------------------------------------------------------------------------------------------- derivation


@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_unipc_s_free_function_drops_out(prediction):
    for ratios in ((-derive.r1,), (sp.S.One,), (-Q(1, 2), sp.Integer(-2)), (sp.S.One, -Q(2, 3))):
        assert not any(derive.unipc_residuals(prediction, ratios))


def test_two_nodes_and_three_in_symbols():
    h = derive.h
    expected = {("noise", "bh1"): -Q(1, 6), ("noise", "bh2"): Q(1, 12), ("data", "bh1"): Q(1, 6),
                ("data", "bh2"): -Q(1, 12)}  # fmt: skip
    for (prediction, variant), constant in expected.items():
        assert derive.two_node_defect(prediction, variant) == constant * h**3
    published, repaired = derive.third_order_defect(True), derive.third_order_defect(False)
    assert [published[k] for k in (1, 2, 3)] == [0, 0, -derive.D2 / 12]
    r1, r2 = derive.r1, derive.r2
    assert [repaired[k] for k in (1, 2, 3)] == [0, 0, 0]
    assert sp.expand(repaired[4] + derive.D3 * (3 + 8 * r1 + 4 * r2 + 6 * r1 * (r1 + r2)) / 72) == 0


def test_the_published_weights_are_the_derived_ones():
    """On the table itself: half the curvature in the three weights of a step."""
    process, times = PROCESSES["linear"], tuple(grids.log_snr(PROCESSES["linear"], 6).tolist())
    lam = [process.log_snr(t) / 2 for t in times]
    row, h = table(process, times, 3, "log_snr", "data", rule="3m")[3][1:], lam[4] - lam[3]
    factors = [float(f.subs(derive.h, h)) for f in derive.third_order_weights(True)]
    scale = process.levels(times[4])[0] * math.exp(-h)
    moments = [sum(w * (lam[3 - j] - lam[3]) ** k for j, w in enumerate(row)) / scale for k in range(3)]
    # the parabola tau^2 has slope 0 at the newest node and divided difference 1
    assert moments == pytest.approx(factors, rel=1e-10)


def test_analytic_start_in_symbols():
    found = derive.analytic_start()
    at = {derive.rho: 152.0, derive.m: 0.5, derive.s0: 0.3, sp.Symbol("y", real=True): 100.0}
    assert float(found["leading"].subs(at)) == pytest.approx(float(found["error"].subs(at)), rel=1e-3)
