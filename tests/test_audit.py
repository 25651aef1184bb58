"""The audit: its judgement, its adapters on stand-ins, its workers, its pages."""

import json
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest
import torch

import diffnum as dn
from diffnum.interop.audit import bench as benches
from diffnum.interop.audit import environment, of_diffnum, of_file, of_k_diffusion, report, session

STORED = Path(__file__).parents[1] / "book" / "results" / "audit.json"
SAMPLERS = """
def euler(model, x, sigmas):
    for s, t in zip(sigmas, sigmas[1:]):
        x = x + (x - model(x, s.expand(len(x)))) / s * (t - s)
    return x

def broken(problem, u, times):
    raise ValueError("on purpose")
    yield

def half(problem, u, times):  # claims 2, is 1
    yield from __import__("diffnum").solvers.registry["ddim"](problem, u, times)
half.order = 2

def not_one(a, b): ...
"""


@pytest.fixture(scope="module")
def bench():
    return benches.Bench()


@pytest.mark.parametrize(("errors", "order", "floor"), [
    ([8.0, 4.0, 2.0, 1.0, 0.5], 1.0, None),
    ([16.0, 4.0, 1.0, 0.25, 0.24], 2.0, 0.24),
    ([16.0, 4.0, 1.0, 0.25, 0.9], 2.0, 0.25),
    ([8.0, 4.0, None, 1.0, 0.5], 1.0, None),
    ([1.0, None, None, None, None], None, None),
], ids=str)  # fmt: skip
def test_judgement(errors, order, floor):
    judged = benches.judge((10, 20, 40, 80, 160), errors)
    assert (judged["order"] is None) == (order is None) and judged["floor"] == floor
    if order is not None and floor is None:
        assert judged["order"] == pytest.approx(order)
    if floor == 0.25:
        assert judged["order"] == pytest.approx(2.0) and judged["last_pair"] < 0


def test_truth_between_any_levels_and_from_infinity(bench):
    """One stretch after another is the whole, and a start without data is the limit of high ones."""
    whole, above = bench.truth(100.0, 0.02), bench.truth(100.0, 1.0)
    process = dn.VE(1.0)
    problem = dn.Problem(process, bench.exact)
    rest = dn.analysis.reference(problem, above, [1.0, 0.02], rtol=1e-13)
    assert (whole - rest).abs().max() < 1e-10
    assert (bench.truth(inf, 0.0) - bench.truth(3e4, 0.0)).abs().max() < 1e-3


def test_no_start_state_decides_what_is_measured(bench):
    """Else the order is that of one state near the border between the modes, where it takes many more steps to show."""
    run = of_diffnum.run("ddim", {}, bench, 80)
    error = bench.error(run)
    run.y[0] += 1e3
    assert bench.error(run) == pytest.approx(error, rel=0.1)
    run.y[: benches.STATES[0] // 2 + 1] += 1e3
    assert bench.error(run) > 100


def test_own_solvers_are_measured_like_the_others(bench):
    rows = {}
    for sampler in of_diffnum.samplers():
        if sampler.name in ("ddim", "dpmpp_2m", "edm_heun") and sampler.variant == "to rho = 0.05":
            rows[sampler.name] = benches.measure(bench, "diffnum", "", sampler, (80, 160, 320, 640))
    for name, order in (("ddim", 1), ("dpmpp_2m", 2), ("edm_heun", 2)):
        assert rows[name].judged["order"] == pytest.approx(order, abs=0.1)
    assert rows["edm_heun"].nfe == [160, 320, 640, 1280] and "2 evaluations a step" in rows["edm_heun"].remarks
    assert json.loads(json.dumps(rows["ddim"].plain()))["claim"] == 1


def test_a_file_of_samplers_and_one_that_fails_among_them(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SAMPLERS)
    assert [s.name for s in of_file.samplers(path)] == ["euler", "euler", "broken", "half"]
    seen = []
    rows = list(session.rows(str(path), steps=(80, 160, 320), told=lambda i, n, name: seen.append((i, n))))
    assert [row["sampler"] for row in rows] == ["euler", "euler", "broken", "half"] and seen[-1] == (3, 4)
    assert rows[0]["order"] == pytest.approx(1, abs=0.1) and rows[0]["nfe"] == [80, 160, 320]
    assert rows[2]["order"] is None and "on purpose" in rows[2]["remarks"][0]
    assert rows[3]["claim"] == 2 and any("claims order 2, shows 1" in said for said in rows[3]["remarks"])
    for text in (report.markdown(rows), report.html(rows)):
        assert "on purpose" in text and "euler" in text
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(dn.DiffnumError, match="no sampler"):
        list(session.rows(str(tmp_path / "empty.py")))
    with pytest.raises(dn.DiffnumError, match="there are broken, euler, half"):
        list(session.rows(str(path), solver="nonsense"))


@pytest.mark.parametrize(
    "text", ["", "import torch\n", "def euler(x): return x\n", "def euler(model, x, sigmas)\n", "\0"]
)
def test_a_file_without_a_sampler_is_refused_before_anything_runs(text, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(dn.DiffnumError, match="no sampler"):
        list(session.rows(str(tmp_path / "mine.py")))


@pytest.mark.parametrize(("left", "said"), [
    ("import sys; sys.exit()", "line 1 of .*SystemExit"), ("raise ValueError", "line 1 of .*ValueError"),
    ("import os; os._exit(0)", "ended itself with status 0"),
], ids=str)  # fmt: skip
def test_a_file_that_ends_python_is_no_audit_of_nothing(left, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{left}\n{SAMPLERS}")
    with pytest.raises(dn.DiffnumError, match=said):
        list(session.rows(str(path), steps=(10,)))


@pytest.mark.parametrize("end", [
    None, 1.0, "x", torch.zeros(16, 4).numpy(), torch.zeros(1, 4), torch.zeros(()), torch.zeros(16, 4).long(), (),
], ids=lambda end: type(end).__name__ + str(getattr(end, "dtype", "")))  # fmt: skip
def test_what_is_no_end_state_is_not_measured(end, bench):
    run = lambda bench, n: benches.Run(end, 10.0, 0.1)  # noqa: E731
    row = benches.measure(bench, "mine", "", benches.Sampler("wrong", "", None, run), (10, 20))
    assert row.errors == [None, None] and "it returned" in row.remarks[0]


def test_end_points_are_those_used(bench):
    """A sampler that begins and ends elsewhere is not wrong, and a step to zero is told."""

    def exact(model, x, sigmas, disable=True):
        return bench.truth(sigmas[0].item(), sigmas[-1].item())

    shipped = lambda n, low, high: torch.cat([torch.linspace(high, low, n), torch.zeros(1)])  # noqa: E731
    for kind, end in (("log", of_k_diffusion.ENDS[1]), ("shipped", 0.0)):
        run = of_k_diffusion.run(exact, kind, {}, shipped, bench, 10)
        assert run.end == pytest.approx(end) and bench.error(run) == 0


def test_an_environment_is_told_to_be_made_where_nothing_can_be_installed(tmp_path, monkeypatch):
    class Failed:
        returncode, stderr = 1, "noise\nERROR: No matching distribution found\n"

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: Failed)
    monkeypatch.setattr(environment.metadata, "version", lambda name: "0")
    with pytest.raises(dn.DiffnumError, match=r"azula could not be installed.*pip install --no-deps --target"):
        environment.ready("azula", tmp_path)
    (tmp_path / f"azula-0.11.1-py{sys.version_info.major}{sys.version_info.minor}").mkdir(exist_ok=True)
    monkeypatch.setattr(environment.metadata, "version", lambda name: "0.11.1")
    assert environment.ready("azula", tmp_path) == []


def test_the_command(tmp_path, capsys):
    from typer.main import get_command

    from diffnum import cli

    path, app = tmp_path / "mine.py", get_command(cli.app)
    path.write_text(SAMPLERS)
    given = ["audit", "--library", str(path), "--steps", "10,20", "--json", str(tmp_path / "a.json"), "--out"]
    assert app.main([*given, str(tmp_path / "a.html")], standalone_mode=False) in (0, None)
    assert "3 samplers measured, 1 not" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 4
    assert "<table>" in (tmp_path / "a.html").read_text()
    for words, said in ((["--library", "nonsense"], "must be one of"), (["--steps", "x"], "whole numbers"),
                        (["--library", str(path), "--solver", "nonsense"], "no sampler")):  # fmt: skip
        assert app.main(["audit", *words], standalone_mode=False) == 1
        assert said in capsys.readouterr().err


def test_the_stored_audit_is_of_the_pinned_versions_and_of_every_solver():
    rows = json.loads(STORED.read_text("utf-8"))["rows"]
    versions = {row["library"]: row["version"] for row in rows}
    for library, pins in environment.PINS.items():
        assert pins[0].endswith(f"=={versions[library]}")
    ours = [row for row in rows if row["library"] == "diffnum"]
    names = {row["sampler"] for row in ours}
    assert names >= {s.name for s in of_diffnum.samplers()}, "run diffnum audit --json book/results/audit.json"
    for row in ours:
        if "to rho" in row["variant"]:  # where 1280 steps are many for every method
            # below 1e-10 what shows is the ramp, whose order is 2 as far as the noise moves at the start
            assert row["last_pair"] == pytest.approx(row["claim"], abs=0.13) or row["errors"][-1] < 1e-10, row
