"""Error against cost: budgets are met and not exceeded, one reference serves all, and a failure loses nothing else."""

import math
from itertools import pairwise

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch

import diffnum as dn
from diffnum import analysis, grids, plots
from diffnum.measure.analysis import evaluations, ladder, steps_within, work_precision
from diffnum.solvers import registry, transfer

BUDGETS = (7, 12, 30)


@pytest.fixture(scope="module")
def work(vp):
    names = ("ddim", "edm_heun", "f_pndm", "rk4", ("pndm_variable", {"order": 3}))
    return work_precision(vp.problem, names, vp.u, ladder(grids.log_snr, vp.process), BUDGETS)


@pytest.fixture(autouse=True)
def closed():
    with plt.rc_context():
        yield
    plt.close("all")


def exploding(vanish=math.nan, after=4):
    """DDIM, until its state is replaced by something that is not a number."""

    @dn.method(order=1, nfe=lambda n: n, paper="broken on purpose")
    def broken(problem, u, times):
        for i, (t, s) in enumerate(pairwise(times)):
            u = transfer(problem, u, problem.eps(u, t), t, s)
            u = u * vanish if i == after else u
            yield u

    return broken


@pytest.mark.parametrize("name", [name for name, solver in registry.items() if solver.nfe is not None])
@pytest.mark.parametrize("end", [None, 0.0])
def test_the_most_steps_within_a_budget(vp, name, end):
    for budget in range(1, 40):
        n = steps_within(budget, vp.process, name, end)
        assert n is None or evaluations(vp.process, name, n, end) <= budget
        assert evaluations(vp.process, name, (n or 0) + 1, end) > budget


def test_budgets_are_met_and_counted(work, vp):
    for result in work.results:
        for budget in BUDGETS:
            i = work.entry(result, budget)
            solver, options = result.name.partition(",")[0], {"order": 3} if "order" in result.name else {}
            n = steps_within(budget, vp.process, solver, **options)
            assert (result.steps[i], result.nfe[i]) == (n, evaluations(vp.process, solver, n, **options))
    assert [r.name for r in work.results][-1] == "pndm_variable, order=3"


def test_errors_are_those_of_convergence(work, vp):
    alone = analysis.convergence(vp.problem, "edm_heun", vp.u, ladder(grids.log_snr, vp.process), (3, 6, 15))
    assert work.results[1] == alone


def test_one_reference_serves_all(vp, monkeypatch):
    calls = []
    original = analysis.reference
    monkeypatch.setattr("diffnum.measure.work.reference", lambda *a, **k: calls.append(a) or original(*a, **k))
    work_precision(vp.problem, ("ddim", "heun"), vp.u, ladder(grids.quadratic, vp.process), (10, 20))
    assert len(calls) == 1
    truth = torch.zeros_like(vp.u)
    given = work_precision(vp.problem, ["ddim"], vp.u, ladder(grids.quadratic, vp.process), (10,), truth=truth)
    end = dn.solve(vp.problem, "ddim", vp.u, grids.quadratic(vp.process, 10)).u
    assert len(calls) == 1 and given.results[0].errors[0] == pytest.approx(analysis.rms(end))


def test_best_looks_at_every_run_within_the_budget(work):
    for budget in (*BUDGETS, 1000):
        name, nfe, error = work.best(budget)
        runs = [(r.errors[i], r.nfe[i], r.name) for r in work.results for i in range(len(r.nfe)) if r.nfe[i] <= budget]
        assert (error, nfe, name) == min(runs)
    with pytest.raises(ValueError, match="at most 3"):
        work.best(3)


def test_a_solver_too_dear_for_a_budget_has_a_gap(vp):
    work = work_precision(vp.problem, ("prk", "ddim", "heun"), vp.u, ladder(grids.log_snr, vp.process), (1, 3, 8))
    assert [r.nfe for r in work.results] == [(8,), (1, 3, 8), (2, 8)]
    lines = work.table().splitlines()
    assert lines[0].split() == ["solver", "NFE", "<=", "1", "NFE", "<=", "3", "NFE", "<=", "8"]
    assert lines[1].split()[:4] == ["prk", "-", "-", "8"] and lines[3].split()[:3] == ["heun", "-", "2"]
    only = work_precision(vp.problem, ("prk", "ddim"), vp.u, ladder(grids.log_snr, vp.process), (3,))
    assert [r.name for r in only.results] == ["ddim"]


def test_step_counts_in_place_of_budgets(vp):
    work = work_precision(vp.problem, ("ddim", "rk4"), vp.u, ladder(grids.log_snr, vp.process), steps=(4, 8))
    assert [r.nfe for r in work.results] == [(4, 8), (16, 32)]
    assert "steps = 8" in work.table() and "  32 " in work.table()
    assert work.entry(work.results[1], 4) == 0 and work.entry(work.results[1], 5) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_a_run_that_blows_up_loses_nothing_else(vp, value):
    work = work_precision(
        vp.problem, ("ddim", exploding(value), "s_pndm"), vp.u, ladder(grids.log_snr, vp.process), (4, 8, 12)
    )
    assert work.lost == [("broken", 8), ("broken", 12)]
    assert all(math.isfinite(e) for r in (work.results[0], work.results[2]) for e in r.errors)
    assert math.isfinite(work.results[1].errors[0])
    *_, row, _, note = work.table().splitlines()
    assert row.split()[3:] == ["8", "lost", "12", "lost"] and "broken with 8" in note
    assert work.best(12)[0] == "s_pndm"
    ax = work.plot()
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 1, 3]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ddim", "broken (lost in part)", "s_pndm"]
    ax.figure.canvas.draw()


def test_the_plot_has_the_style_of_the_book(work):
    _, (left, right) = plots.panels()
    ax = work.plot(right)
    assert ax is right and not left.lines
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "network evaluations" and ax.get_ylabel().startswith("error")
    for line, result in zip(ax.lines, work.results, strict=True):
        assert line.get_color() == plots.style(result.name)["color"]
        assert list(line.get_xdata()) == list(result.nfe) and list(line.get_ydata()) == list(result.errors)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [str(b) for b in BUDGETS]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("solvers", "options", "error", "says"),
    [
        ([], {}, ValueError, "empty"),
        (["rk4"], {"nfe": (3,)}, ValueError, "no solver fits"),
        (["ddim"], {"nfe": (20, 10)}, ValueError, "increase"),
        (["ddim"], {"nfe": ()}, ValueError, "increase"),
        (["ddim"], {"steps": (0, 10)}, ValueError, "increase"),
        (["ddim", "f_pmdn"], {}, KeyError, "f_pndm"),
        ([("prk", {"midpoint": "x"})], {}, ValueError, "midpoint"),
        ([("ddim", {"speed": 2})], {}, TypeError, "speed"),
        (["ddim", lambda problem, u, times: iter(())], {}, ValueError, "claims no evaluations"),
    ],
)  # fmt: skip
def test_refusals_come_before_any_evaluation(vp, solvers, options, error, says):
    before = vp.problem.nfe
    with pytest.raises(error, match=says):
        work_precision(vp.problem, solvers, vp.u, ladder(grids.log_snr, vp.process), **options)
    assert vp.problem.nfe == before


def test_a_grid_that_a_solver_cannot_end_on_is_refused_before_the_others_run(vp):
    before = vp.problem.nfe
    with pytest.raises(dn.DiffnumError, match="heun"):
        work_precision(vp.problem, ["ddim", "heun"], vp.u, ladder(grids.uniform, vp.process, t_end=0.0))
    with pytest.raises(ValueError, match="different ends"):
        work_precision(vp.problem, ["ddim"], vp.u, lambda n: torch.tensor([1.0, 0.5 / n]), (5, 10))

    @dn.method(order=1, nfe=lambda n: n, paper="x", kind="sde")
    def walk(problem, u, times, noise):
        yield u

    with pytest.raises(ValueError, match="stochastic"):
        work_precision(vp.problem, ["ddim", walk], vp.u, ladder(grids.uniform, vp.process))
    assert vp.problem.nfe == before
