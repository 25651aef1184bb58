"""The checks that look at arithmetic, the extrapolation that needs no reference, and the bugs of the book's lab."""

from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import analysis, checks, grids
from diffnum.coefficients import combine
from diffnum.denoisers.targets import smooth, starts
from diffnum.derive import classical
from diffnum.measure.analysis import ladder
from diffnum.solvers import registry, transfer


@dn.method(order=2, nfe=lambda n: 2 * n, paper="broken on purpose", reaches_zero=lambda n: False)
def heun_through_single(problem, u, times):
    """Heun's method that stores its state in single precision."""
    for t, s in pairwise(times):
        k = problem.velocity(u, t)
        k = (k + problem.velocity(u + (s - t) * k, s)) / 2
        u = (u + (s - t) * k).float().to(u.dtype)
        yield u


@pytest.mark.parametrize("grid", [grids.log_snr, grids.uniform])
@pytest.mark.parametrize("name", registry)
def test_solvers_compute_in_double_precision(vp, name, grid):
    problem, u = vp.problem, vp.u
    if "isotropic" not in registry[name].families:
        process = dn.PSLD()
        problem, u = dn.Problem(process, smooth()), starts(process)
    # a score near t = 1e-3 magnifies rounding where a substep takes it at the end of a long step
    times = grid(problem.process, 12, t_end=None if problem is vp.problem else 0.05)
    checks.assert_precision(problem, name, u, times)


def test_only_the_precision_check_sees_a_cast(vp):
    times, rung = grids.log_snr(vp.process, 12), ladder(grids.log_snr, vp.process)
    checks.measure(vp.problem, heun_through_single, vp.u, rung)
    checks.assert_nfe(vp.problem, heun_through_single, vp.u, times)
    checks.assert_pure(vp.problem, heun_through_single, vp.u, times)
    report = checks.assert_catches(lambda: checks.assert_precision(vp.problem, heun_through_single, vp.u, times))
    assert "heun_through_single" in report


def test_precision_needs_a_double_state(vp):
    with pytest.raises(ValueError, match="float64"):
        checks.assert_precision(vp.problem, "ddim", vp.u.float(), grids.log_snr(vp.process, 4))


@pytest.mark.parametrize(("order", "ratio"), [(1, 2), (2, 2), (4, 3)])
def test_richardson_removes_the_leading_error(order, ratio):
    exact, constant = torch.tensor([[[1.0, -2.0]], [[3.0, 0.5]]], dtype=torch.float64)
    coarse, fine = exact + constant * 0.1**order, exact + constant * (0.1 / ratio) ** order
    extrapolated, error = analysis.richardson(coarse, fine, order, ratio)
    checks.assert_close(extrapolated, exact)
    checks.assert_close(error, fine - exact, checks.ROUNDED * 4)  # a difference of numbers up to 4
    assert extrapolated.dtype == torch.float64


@pytest.mark.parametrize("order", [1, 2, 4])
def test_richardson_has_the_derived_weights(order):
    coarse, fine = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = map(float, classical.richardson_weights(order))
    checks.assert_close(analysis.richardson(coarse, fine, order)[0], a * coarse + b * fine)


@pytest.mark.parametrize(("name", "gain"), [("ddim", 1), ("s_pndm", 1), ("rk4", 1)])
def test_richardson_estimates_the_true_error(vp, name, gain):
    rung = ladder(grids.log_snr, vp.process)
    truth = analysis.reference(vp.problem, vp.u, rung(1), rtol=1e-13)
    runs = [dn.solve(vp.problem, name, vp.u, rung(n)).u for n in (160, 320, 640)]
    order = registry[name].order()
    better = [analysis.richardson(a, b, order) for a, b in pairwise(runs)]
    for run, (_, error) in zip(runs[1:], better, strict=True):
        assert analysis.rms(error) == pytest.approx(analysis.rms(run - truth), rel=0.05)
    errors = [analysis.rms(extrapolated - truth) for extrapolated, _ in better]
    assert analysis.local_slopes((320, 640), errors)[0] > order + gain - 0.2


def test_richardson_refuses():
    u = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one state"):
        analysis.richardson(u, u[:1], 1)
    with pytest.raises(ValueError, match="order"):
        analysis.richardson(u, u, 0)
    with pytest.raises(ValueError, match="ratio"):
        analysis.richardson(u, u, 1, 1.0)


def s_pndm_keeping(older):
    """S-PNDM with ``older`` noises in memory, of which it takes the oldest: right for 1."""

    @dn.method(order=2, nfe=lambda n: n + 1, paper="broken on purpose", exact_for="a point mass")
    def planted(problem, u, times):
        past = []
        for t, s in pairwise(times):
            e = problem.eps(u, t)
            past = [e, *past[:older]]
            if len(past) == 1:
                bar = combine((1 / 2, 1 / 2), (e, problem.eps(transfer(problem, u, e, t, s), s)))
            else:
                bar = combine((3 / 2, -1 / 2), (e, past[-1]))
            u = transfer(problem, u, bar, t, s)
            yield u

    return planted


def test_the_planted_bug_of_the_book(vp):
    """One digit: every check but the order passes, and the error is that of DDIM with the other sign."""
    times, rung, bug = grids.log_snr(vp.process, 12), ladder(grids.log_snr, vp.process), s_pndm_keeping(2)
    checks.assert_reduces_to(vp.problem, s_pndm_keeping(1), "s_pndm", vp.u, times)
    checks.assert_exact(vp.process, bug, times)
    checks.assert_nfe(vp.problem, bug, vp.u, times)
    checks.assert_pure(vp.problem, bug, vp.u, times)
    checks.assert_precision(vp.problem, bug, vp.u, times)
    checks.assert_catches(lambda: checks.measure(vp.problem, bug, vp.u, rung))
    truth = analysis.reference(vp.problem, vp.u, rung(1))
    wrong, ddim = (dn.solve(vp.problem, s, vp.u, rung(1280)).u - truth for s in (bug, "ddim"))
    assert analysis.rms(wrong + ddim) < 0.05 * analysis.rms(ddim)


def test_a_few_starts_that_hide_the_order_are_told():
    """An rms error is that of the worst start; where the median shows the order, the message says so."""
    steps, others = (10, 20, 40), [(10 / n) ** 2 for n in (10, 20, 40)]
    by_start = torch.tensor([[e, e, e, 100 * (10 / n) ** 3] for e, n in zip(others, steps, strict=True)])
    errors = tuple(by_start.square().mean(1).sqrt().tolist())
    curve = analysis.Convergence("heun", steps, (20, 40, 80), errors, by_start, 2)
    assert "the median start shows 2.00, 2.00" in checks.assert_catches(lambda: checks.assert_order(curve))
    assert "median" not in checks.assert_catches(lambda: checks.assert_order(curve, 4))
