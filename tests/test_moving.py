"""The figures that move: stored data are what the library computes, and small; every figure is described in words."""

import re
from pathlib import Path

import pytest
import torch
from benchmarks import figures

import diffnum as dn
from diffnum import analysis, grids, targets
from diffnum.measure.analysis import ladder, rms

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path: path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")}


def close(stored, computed):
    """Equal in three digits; what is stored has four."""
    return computed == pytest.approx(stored, rel=1e-3, abs=1e-4)


def test_trajectories_are_those_of_the_solvers():
    stored = figures.read("trajectories")
    problem = figures.blobs()
    u = problem.prior((6, 2), dtype=torch.float64, seed=4)
    exact = analysis.reference(problem, u, [problem.process.t_max, 1e-3], rtol=1e-11)
    for solver, grid, n in (("euler", "uniform", 8), ("plms", "log_snr", 5), ("f_pndm", "log_snr", 40)):
        kept = stored["runs"][f"{solver} {grid} {n}"]
        run = figures.flown(problem, u, solver, grid, n)
        assert close(kept["error"], rms(run.u - exact)) and kept["nfe"] == run.nfe
        assert torch.allclose(torch.tensor(kept["path"]).double(), run.trajectory.transpose(0, 1), atol=1e-3, rtol=1e-3)


def test_extrapolation_is_a_step_of_gddim():
    """The error of a step with q nodes falls like the power q + 1 of its length, and order 1 is DDIM."""
    stored = figures.read("extrapolation")
    problem = dn.Problem(dn.VP(), targets.smooth())
    fine = grids.log_snr(problem.process, figures.FINE, t_end=0.03)
    start = torch.tensor([figures.EXTRAPOLATED], dtype=torch.float64)
    for n in ("10", "80"):
        here, there = fine[figures.PLACE], fine[figures.PLACE + figures.FINE // int(n)]
        x, end = analysis.reference(problem, start, [fine[0], here, there], rtol=1e-12, trajectory=True)[1:]
        one = dn.solve(problem, "ddim", x, [here, there]).u
        assert close(stored["steps"][n]["orders"]["1"]["error"], rms(one - end))
    for q in "1234":
        errors = [stored["steps"][n]["orders"][q]["error"] for n in ("40", "80")]
        assert abs(analysis.local_slopes([40, 80], errors)[0] - (int(q) + 1)) < 1.3


def test_order_is_what_convergence_measures():
    stored = figures.read("order")["cases"]
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    grid = ladder(grids.uniform, process, t_end=0.01)
    result = analysis.convergence(problem, "heun", u, grid, figures.DOUBLED[:4])
    assert close(stored["Heun"]["errors"][:4], result.errors) and stored["Heun"]["nfe"][:4] == list(result.nfe)
    for case in stored.values():
        assert analysis.local_slopes(case["steps"], case["errors"]) == pytest.approx(case["slopes"], abs=2e-2)


def test_family_has_one_start_and_one_noise():
    stored = figures.read("family")
    run = figures.reversed_paths(figures.line(), 0.7)
    kept = torch.tensor(stored["paths"]["0.7"]).double()
    assert torch.allclose(kept, run.trajectory[:: figures.EVERY, :, 0].T, atol=1e-3)
    assert len({tuple(p[0] for p in paths) for paths in stored["paths"].values()}) == 1


def test_phase_space_paths_are_the_reference():
    stored = figures.read("phase")["spaces"]["CLD"]
    problem = dn.Problem(dn.CLD(), dn.GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], stds=[[0.2], [0.4]]))
    u = problem.prior((12, 1), dtype=torch.float64, seed=3)
    end = analysis.reference(problem, u, [1.0, problem.process.t_end], rtol=1e-9)[..., 0]
    kept = [[x[-1], m[-1]] for x, m in zip(stored["x"], stored["m"], strict=True)]
    assert torch.allclose(torch.tensor(kept).double(), end, atol=1e-3)


def test_gallery_shows_the_stored_errors():
    assert figures.rounded(figures.gallery()) == figures.read("gallery")


@pytest.mark.parametrize("name", figures.OF_LABS)
def test_a_page_shows_what_its_lab_draws(name):
    stored = (figures.STILLS / f"{name}.png").read_bytes()
    assert stored == figures.of_lab(name), "python -m tests.benchmarks.figures labs takes the lab's picture"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_small_on_one_page_and_described(name):
    assert (figures.DATA / f"{name}.data.js").stat().st_size < figures.LIMIT
    assert (figures.DATA / f"{name}.js").is_file()
    directives = [
        text
        for page in PAGES.values()
        for text in re.findall(r"^```\{figure\}.*?^```$", page, re.M | re.S)
        if f"moving-{name}\n" in text
    ]
    assert len(directives) == 1, "on one page"
    assert len(re.search(r":alt: (.*)", directives[0])[1]) > 80, "a text that tells what it shows"
    picture = re.search(r"\{figure\} (\S+)", directives[0])[1]
    assert (ROOT / "book" / picture).is_file(), "a still picture for print"


def test_scripts_ask_for_nothing_from_outside():
    for script in (ROOT / "book" / "_static").rglob("*.js"):
        text = script.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|fetch\(|XMLHttp|import ", text), script.name
