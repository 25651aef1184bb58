"""DPM-Solver++(2M) and EDM's Heun: equal to their papers' formulas, of order 2, and what happens at sigma = 0."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers.targets import smooth
from diffnum.measure.analysis import convergence, evaluations, ladder

BASELINES = ("dpmpp_2m", "edm_heun")
PROCESSES = {"linear": dn.VP(), "cosine": dn.VP.cosine(), "ve": dn.VE()}


def dpmpp_2m_of_the_paper(problem, u, times):
    """Lu et al. 2022b, algorithm 2, in exponentials of the half log-SNR, times counted as there."""
    alpha, sigma = (f(torch.tensor(times, dtype=torch.float64)).tolist() for f in (problem.process.alpha,
                                                                                   problem.process.sigma))  # fmt: skip
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    h = [float("nan"), *(b - a for a, b in pairwise(lam))]
    buffer = [problem.x0(u, times[0])]
    u = sigma[1] / sigma[0] * u - alpha[1] * (math.exp(-h[1]) - 1) * buffer[0]
    for i in range(2, len(times)):
        buffer.append(problem.x0(u, times[i - 1]))
        r = h[i - 1] / h[i]
        D = (1 + 1 / (2 * r)) * buffer[i - 1] - 1 / (2 * r) * buffer[i - 2]
        u = sigma[i] / sigma[i - 1] * u - alpha[i] * (math.exp(-h[i]) - 1) * D
    return u


def edm_heun_of_the_paper(denoiser, y, sigmas):
    """Karras et al. 2022, algorithm 1 with s(t) = 1, sigma(t) = t: the slope is (y - D)/t."""
    for t, s in pairwise(sigmas):
        d = (y - denoiser(y, t)) / t
        new = y + (s - t) * d
        if s != 0:
            d2 = (new - denoiser(new, s)) / s
            new = y + (s - t) * (d / 2 + d2 / 2)
        y = new
    return y


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
def test_dpmpp_2m_is_the_formula_of_the_paper(process, n):
    problem = dn.Problem(process, smooth())
    u = process.prior((8, 4), dtype=torch.float64)
    times = grids.karras(process, n)
    paper = dpmpp_2m_of_the_paper(problem, u, times.tolist())
    checks.assert_close(dn.solve(problem, "dpmpp_2m", u, times).u, paper, checks.rounding(process, times))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("t_end", [None, 0.0])
def test_edm_heun_is_the_algorithm_of_the_paper(process, t_end):
    """On VE as it stands; on VP for y = x/alpha, sigma/alpha in place of sigma."""
    u = process.prior((8, 4), dtype=torch.float64)
    times = grids.karras(process, 20, t_end=t_end)
    alpha, rho = process.alpha(times), process.rho(times)
    y = edm_heun_of_the_paper(smooth(), u / alpha[0], rho.tolist())
    got = dn.solve(dn.Problem(process, smooth()), "edm_heun", u, times).u
    checks.assert_close(got, alpha[-1] * y, checks.rounding(process, times, stages=2))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras], ids=["log_snr", "karras"])
@pytest.mark.parametrize("process", [PROCESSES["linear"], PROCESSES["ve"]], ids=["vp", "ve"])
def test_order_two_within_a_tenth(process, grid, name):
    u = process.prior((8, 4), dtype=torch.float64)
    result = checks.measure(
        dn.Problem(process, smooth()), name, u, ladder(grid, process), (80, 160, 320, 640), within=0.1
    )
    assert result.claim == 2 and all(1.9 < slope < 2.1 for slope in result.slopes[-2:]), result.table()


def floor_of(process, name, grid, t_end=0.0, steps=(320, 640, 1280)):
    problem = dn.Problem(process, smooth())
    u = process.prior((8, 4), dtype=torch.float64)
    return convergence(problem, name, u, ladder(grid, process, t_end=t_end), steps)


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_from_a_fixed_level_to_zero_leaves_a_floor(name):
    """The floor is rho^2/2 d eps/d rho at the last level: the same for both methods, and a hundredth at a tenth."""
    process = PROCESSES["linear"]
    fixed = floor_of(process, name, grids.log_snr)
    assert abs(fixed.slopes[-1]) < 0.1, fixed.table()

    problem = dn.Problem(process, smooth())
    u = process.prior((8, 4), dtype=torch.float64)
    t = process.t_end
    before = dn.analysis.reference(problem, u, [process.t_max, t], rtol=1e-13)
    truth = dn.analysis.reference(problem, u, [process.t_max, 0.0], rtol=1e-13)
    assert fixed.errors[-1] == pytest.approx(dn.analysis.rms(problem.x0(before, t) - truth), rel=0.1)

    # VE's last level is a fifteenth of VP's: the floor shows later and lies lower by about the square
    ve = floor_of(PROCESSES["ve"], name, grids.karras, steps=(1280, 2560))
    ratio = (PROCESSES["ve"].rho(0.002) / process.rho(1e-3)) ** 2
    assert 0.3 < ve.errors[-1] / fixed.errors[-1] / ratio < 3, (ve.table(), fixed.table(), ratio)


@pytest.mark.parametrize(("name", "grid", "low", "high"), [
    ("edm_heun", grids.quadratic, 1.95, 2.05),
    ("dpmpp_2m", grids.quadratic, 1.90, 2.00),  # a factor log n
    ("edm_heun", grids.uniform, 1.0, 1.15),
], ids=lambda v: getattr(v, "__name__", str(v)))  # fmt: skip
def test_order_to_zero_when_the_last_level_falls(name, grid, low, high):
    result = floor_of(PROCESSES["linear"], name, grid)
    assert low < result.slopes[-1] < high, result.table()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("grid", [grids.log_snr, grids.uniform], ids=["log_snr", "uniform"])
def test_a_point_mass_is_exact_down_to_zero(process, grid, name):
    for n in (1, 2, 7):
        checks.assert_exact(process, name, grid(process, n, t_end=0.0))


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_evaluations_with_a_step_to_zero(vp, n):
    for name, cost in (("dpmpp_2m", n), ("edm_heun", 2 * n - 1)):
        times = grids.uniform(vp.process, n, t_end=0.0)
        assert checks.assert_nfe(vp.problem, name, vp.u[:1], times) == cost
        assert evaluations(vp.process, name, n, 0.0) == cost
    assert evaluations(vp.process, "edm_heun", n) == evaluations(vp.process, "edm_heun", n, 1e-3) == 2 * n


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_to_zero_lands_on_the_clean_prediction(vp, name):
    times = grids.log_snr(vp.process, 10, t_end=0.0)
    run = dn.solve(vp.problem, name, vp.u, times, trajectory=True)
    checks.assert_close(run.u, vp.problem.x0(run.trajectory[-2], times[-2].item()))
    stopped = dn.solve(vp.problem, name, vp.u, times[:-1], denoise=True)
    checks.assert_close(run.u, stopped.u)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("t_end", [None, 0.0])
def test_float32_is_close_to_float64(process, name, t_end):
    u, times = process.prior((8, 4), dtype=torch.float64), grids.karras(process, 40, t_end=t_end)
    problem = dn.Problem(process, smooth())
    double, single = (dn.solve(problem, name, u.to(d), times).u for d in (torch.float64, torch.float32))
    assert single.dtype == torch.float32
    checks.assert_close(double, single, 5e-5)


def test_one_step_is_ddim(vp):
    for t_end in (None, 0.0):
        times = grids.uniform(vp.process, 1, t_end=t_end)
        checks.assert_reduces_to(vp.problem, "dpmpp_2m", "ddim", vp.u, times)
    checks.assert_reduces_to(vp.problem, "edm_heun", "ddim", vp.u, grids.uniform(vp.process, 1, t_end=0.0))


def test_heun_in_time_is_not_heun_in_rho_except_on_ve(vp):
    ve = PROCESSES["ve"]
    problem, u = dn.Problem(ve, smooth()), ve.prior((8, 4), dtype=torch.float64)
    checks.assert_reduces_to(problem, "heun", "edm_heun", u, grids.karras(ve, 20))
    checks.assert_catches(
        lambda: checks.assert_reduces_to(vp.problem, "heun", "edm_heun", vp.u, grids.karras(vp.process, 20), 1e-3)
    )


def dpmpp_2m_with(mistake):
    """The method with one wrong line; its pictures would not show it."""

    @dn.method(order=2, nfe=lambda n: n, paper="broken on purpose")
    def broken(problem, u, times):
        lam = (problem.process.log_snr(times) / (1 if mistake == "log-SNR not halved" else 2)).tolist()
        old = before = None
        for (t, s), (a, b) in zip(pairwise(times), pairwise(lam), strict=True):
            x0, h = problem.x0(u, t), b - a
            (_, sigma_t), (alpha_s, sigma_s) = map(problem.process.levels, (t, s))
            c = 0.0 if old is None else (before / h if mistake == "r upside down" else h / before) / 2
            c *= mistake != "no correction"
            D = x0 if old is None else (1 + c) * x0 - c * old
            u, old, before = sigma_s / sigma_t * u - alpha_s * math.expm1(-h) * D, x0, h
            yield u

    return broken


@pytest.mark.parametrize("mistake", ["no correction", "log-SNR not halved"])
def test_a_broken_dpmpp_2m_is_caught(vp, mistake):
    grid = ladder(grids.karras, vp.process)
    report = checks.assert_catches(lambda: checks.measure(vp.problem, dpmpp_2m_with(mistake), vp.u, grid, within=0.1))
    assert "slopes" in report


def test_a_step_ratio_upside_down_keeps_the_order_and_only_the_formula_tells(vp):
    """The ratio of neighbouring steps tends to 1 on a smooth grid, so no order test can see which way it stands."""
    grid = ladder(grids.karras, vp.process)
    checks.measure(vp.problem, dpmpp_2m_with("r upside down"), vp.u, grid, within=0.1)
    compare = partial(checks.assert_reduces_to, vp.problem, other="dpmpp_2m", u=vp.u, times=grid(10))
    compare(dpmpp_2m_with("no mistake"))
    checks.assert_catches(lambda: compare(dpmpp_2m_with("r upside down")))
