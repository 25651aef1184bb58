"""The grader: right solvers pass, wrong ones are told why, and nothing that a file does takes it down.

What stands here is a selection. The whole trial, every right and every wrong solver, every harmful file and every
assignment with nbgrader, takes minutes: ``make trial``.
"""

import csv
import importlib.util
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffnum import checks, classroom, cli
from diffnum.classroom import assignments, check, course, points_for
from diffnum.classroom.bench import solution as solution_of
from diffnum.classroom.find import Cell, hopeless
from diffnum.classroom.grade import CHECKS, check_file, points_of
from diffnum.classroom.marks import Mark, asked, marks
from diffnum.classroom.problems import DEFAULT, Problems, read
from diffnum.classroom.report import FORMATS, dumps, html
from diffnum.classroom.sandbox import Limits, Sandbox
from diffnum.classroom.supervise import descendants, known
from diffnum.errors import DiffnumError

HERE = Path(__file__).parent / "classroom"
BOOK = Path(__file__).parents[1] / "book"
PUBLIC = Problems()
HARMFUL = runpy.run_path(str(HERE / "harmful.py"))["HARMFUL"]
MISTAKES = runpy.run_path(str(HERE / "mistakes.py"))["MISTAKES"]


def expected(path: Path) -> dict[str, str]:
    """The solvers of a file of wrong ones, each with the check that the comment above it names."""
    found, check = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if said := re.match(r"# (\w+): ", line):
            check = said.group(1)
        if (defined := re.match(r"def (\w+)\(", line)) and check:
            found[defined.group(1)], check = check, ""
    return found


WRONG = expected(HERE / "wrong.py")
RIGHT = {
    "ddim", "midpoint", "heun", "pseudo", "two_steps", "kutta", "family", "ralston", "by_numpy", "ancestral",
    "maruyama",
    "symplectic", "adaptive", "two_thirds", "taylor_free", "precomputed", "by_score", "adams_four", "configurable",
    "corrected", "recursive", "by_derivative", "delegating", "churned", "handed_over", "scripted",
}  # fmt: skip

# Right solvers and wrong ones that are quickly judged; the rest is the trial.
QUICK_RIGHT = {"pseudo", "maruyama"}
QUICK_WRONG = {
    "ddim_claiming_two", "in_place", "hidden_choice", "cached_grid", "one_too_many", "own_grid", "by_name", "stub",
    "a_list",
    "batch_of_four", "own_end", "weights_without_sum", "kept_on_the_process", "shared_noise", "turned_over", "squeezed",
    "odd_without_history", "four_digits", "kept_by_digits", "by_free_derivatives", "transplanted",
}  # fmt: skip
QUICK_HARM = {
    "exits at once",
    "kills itself",
    "prints for ever",
    "forks",
    "leaves Python",
    "syntax",
    "is a stub",
    "grows",
    "quits when run",
    "holds what raises when it is looked at",
}


def some(names, quick):
    """Parameters: the quick ones here, the others in the trial."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.trial) for name in sorted(names)]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits()) as box:
        yield box


@pytest.fixture(scope="module")
def strict():
    with Sandbox(Limits(seconds=20, run=3)) as box:
        yield box


def reasons(report) -> list[str]:
    """All that is said against a file, the first thing first."""
    return [*report.errors, *(f"{v.check}: {v.reason}" for grade in report.grades for v in grade.faults)]


def test_the_lists_of_the_trial_are_complete(sandbox):
    assert len(RIGHT) >= 20 and len(WRONG) >= 50 and len(HARMFUL) >= 40
    place = sandbox.open()
    try:
        text = (HERE / "right.py").read_text(encoding="utf-8")
        found, _ = place.ask({"do": "load", "cells": [{"label": "right.py", "text": text}]})
    finally:
        place.close()
    assert set(found["found"]) == RIGHT and not found["errors"]


@pytest.mark.parametrize("name", some(RIGHT, QUICK_RIGHT))
def test_a_right_solver_passes(name, sandbox):
    report = check_file(HERE / "right.py", name, PUBLIC, sandbox=sandbox)
    assert report.passed, "\n".join(reasons(report))


@pytest.mark.parametrize("name", some(WRONG, QUICK_WRONG))
def test_a_wrong_solver_is_told_what_is_wrong(name, sandbox):
    report = check_file(HERE / "wrong.py", name, PUBLIC, sandbox=sandbox)
    assert not report.passed, f"{name} passes"
    first = report.grades[0].faults[0]
    assert first.check == WRONG[name], "\n".join(reasons(report))


@pytest.mark.parametrize("name", some(HARMFUL, QUICK_HARM))
def test_a_harmful_file_is_told_what_is_wrong_and_leaves_nothing(name, strict, tmp_path, monkeypatch):
    text, words = HARMFUL[name]
    file = tmp_path / "work.py"
    file.write_text(text, encoding="utf-8")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))  # another grader on this machine has folders of its own
    report = check_file(file, None, PUBLIC, sandbox=strict)
    assert not report.passed, f"a file that {name} passes"
    assert re.search(words, reasons(report)[0]), "\n".join(reasons(report))
    assert not [*place.iterdir()], "a folder is left"
    assert {p.name for p in tmp_path.iterdir()} == {"work.py", "place"}, "a file is left beside the student's"
    assert not Path("/tmp/diffnum-was-here").exists(), "a file is left elsewhere"
    assert not zombies(), "a zombie is left"


HOPELESS = {
    "nothing": "", "blanks": " \n\n", "comments": "# def solver(problem, u, times): yield u\n", "no text": "\0",
    "imports": "import torch\nfrom diffnum.solvers import *\n", "an error of syntax": "def solver(problem, u, times)\n",
    "numbers": "x = 1\n", "helpers": "def half(x):\n    return x / 2\n", "two parameters": "def f(problem, u): yield\n",
    "too deep": "(" * 100_000, "a test alone": "# %% points=1\ndef solver(problem, u, times): yield u\n",
}  # fmt: skip


@pytest.mark.parametrize("what", HOPELESS)
def test_a_file_in_which_no_solver_can_stand_is_refused_before_anything_runs(what, tmp_path):
    (tmp_path / "work.py").write_text(HOPELESS[what], encoding="utf-8")
    report = check_file(tmp_path / "work.py", sandbox=None if what == "nothing" else Never())
    assert not report.grades and "no solver was found" in report.errors[-1]


class Never:
    """A sandbox that must not be opened."""


@pytest.mark.parametrize(
    "text", ["exec('def solver(problem, u, times): yield u')", "solver = lambda problem, u, times: 0"]
)
def test_a_file_in_which_one_may_stand_is_run(text):
    assert hopeless([Cell("work.py", text)]) is None


def test_a_hopeless_file_does_not_wait_for_torch(tmp_path):
    (tmp_path / "work.py").write_text("")
    words = [sys.executable, "-X", "importtime", "-m", "diffnum", "check", str(tmp_path / "work.py"), "--json", "-"]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 1 and json.loads(run.stdout)["passed"] is False
    assert " torch" not in run.stderr


def zombies() -> list[str]:
    """Processes below this one that have ended and were not reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.append(stat.parent.name)
    return found


def test_processes_below_one_are_found_in_both_ways():
    """From the lists of children, which is cheap, and from all processes, which misses none."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        grandchild = int(shell.stdout.readline())
        try:
            assert set(known(shell.pid)) == set(descendants(shell.pid)) == {grandchild}
        finally:
            shell.kill()
            os.kill(grandchild, signal.SIGKILL)


def test_a_broken_grader_would_be_seen(sandbox, monkeypatch):
    """The tests above can fail: with an order check that is content with anything, an over-claim passes."""
    from diffnum.classroom import orders

    monkeypatch.setattr(orders, "holds", lambda result, p: True)
    report = check_file(HERE / "wrong.py", "ddim_claiming_two", PUBLIC, sandbox=sandbox)
    assert "order" not in {v.check for v in report.grades[0].faults}


# ---------------------------------------------------------------------------------------------------------- the reports


@pytest.fixture(scope="module")
def report(sandbox):
    return check_file(HERE / "wrong.py", "ddim_claiming_two", PUBLIC, sandbox=sandbox)


def test_every_key_of_the_report_is_documented(report):
    said = (BOOK / "checking.md").read_text(encoding="utf-8")
    found = json.loads(dumps(report))
    keys = set(found) | set(found["solvers"][0]) | set(found["solvers"][0]["checks"][0])
    keys |= set(found["solvers"][0]["convergence"][0])
    assert not [key for key in keys if not re.search(rf"`[^`]*\b{key}\b[^`]*`", said)]


def test_the_formats_of_two_autograders(report):
    assert set(FORMATS) == {"diffnum", "gradescope", "prairielearn"}
    scope = json.loads(dumps(report, "gradescope"))
    assert {"name", "score", "max_score", "status", "output", "visibility"} <= set(scope["tests"][0])
    assert scope["score"] == sum(test["score"] for test in scope["tests"]) < sum(t["max_score"] for t in scope["tests"])
    learn = dumps(report, "prairielearn")
    found = json.loads(learn)
    assert found["gradable"] is True and 0 < found["score"] < 1 and len(learn) < 1e6
    assert {"name", "points", "max_points", "message", "output"} <= set(found["tests"][0])


def test_the_page_stands_alone_and_shows_plots(report):
    text = html(report, "https://example.org/book/")
    assert "<svg" in text and "https://example.org/book/book/order.html#order-theory" in text
    assert not re.search(r'(src|href)="(?!#|https://example\.org)', text), "it loads something from elsewhere"


def test_every_check_leads_to_a_section_of_the_book():
    for found in CHECKS.values():
        page, _, section = found.see.partition("#")
        assert f"({section})=" in (BOOK / f"{page}.md").read_text(encoding="utf-8"), found.see


def test_a_check_can_be_made_without_a_sandbox(capsys):
    spec = importlib.util.spec_from_file_location("right", HERE / "right.py")
    right = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(right)
    assert check(right.pseudo, only="runs states unchanged").passed
    assert points_for(right.pseudo, "runs states", most=4) == 4
    assert points_for(lambda problem, u, times: None, "runs states", most=4) == 0
    said = capsys.readouterr()
    assert "runs at all" in said.out and "book/checking.html#check-runs" in said.out and not said.err
    with pytest.raises(KeyError, match="no_such"):
        points_for(right.pseudo, "no_such", most=1)


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``diffnum ...`` in an empty folder, in this process: status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        return result.exit_code, result.stdout, result.stderr

    return run


def table_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_class_is_graded_and_goes_on_where_it_was_stopped(command, tmp_path):
    folder = tmp_path / "submissions"
    for student, text in (("ada", HARMFUL["is a stub"][0]), ("bob", HARMFUL["syntax"][0])):
        (folder / student).mkdir(parents=True)
        (folder / student / "work.py").write_text(text, encoding="utf-8")
    book = ("--book", "https://example.org/book/")
    status, out, err = command("check", "submissions", "--out", "table.csv", *book)
    assert status == 1 and "0 of 2 files passed" in out, out + err
    rows = table_of(tmp_path / "table.csv")
    assert [row["file"] for row in rows] == ["ada/work.py", "bob/work.py"]
    assert "stub" in rows[0]["reason"] and "SyntaxError" in rows[1]["reason"]
    page = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "bob/work.py" in page and 'href="https://example.org/book/book/checking.html#check-runs"' in page
    lines = (tmp_path / "table.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "table.jsonl").write_text(lines[0] + "\n" + lines[1][:40], encoding="utf-8")  # killed while it wrote
    _, out, err = command("check", "submissions", "--out", "table.csv")
    assert err.count("work.py") == 1, "only the file that was not finished is graded again"
    assert table_of(tmp_path / "table.csv") == rows


def test_what_is_no_file_is_refused_in_one_line(command, tmp_path):
    (tmp_path / "work.py").write_text(HARMFUL["is a stub"][0], encoding="utf-8")
    for words, part in (
        (["check", "nothing.py"], "does not exist"),
        (["check", "work.py", "--out", "t.csv"], "folder"),
        (["check", "work.py", "--format", "moodle"], "moodle"),
        (["check", "work.py", "--problems", "none.toml"], "none.toml"),
        (["check", "work.py", "--solution", "work.py"], "NAME"),
        (["course", "."], "exists"),
    ):
        status, out, err = command(*words)
        assert status not in (0, None) and part in err and len(err.strip().splitlines()) == 1, (words, out, err)


def test_problems_that_are_none_are_refused(tmp_path):
    file = tmp_path / "problems.toml"
    file.write_text("[mixture]\nweights = [1.0]\n", encoding="utf-8")
    with pytest.raises(DiffnumError, match=r"problems\.toml"):
        read(file)
    assert read(None).values == DEFAULT


# ------------------------------------------------------------------------------------------------------ the assignments

SOURCES = assignments.sources()
SOLVERS = {
    "a01_midpoint": "midpoint", "a02_start": "started", "a03_adams": "adams", "a04_corrector": "corrected",
    "a05_exponential": "exponential", "a06_noise_scale": "extended", "a07_third_order": "third", "a08_verlet": "verlet",
    "a09_adaptive": "adaptive", "a10_process": "heun_in_rho", "a11_guidance": "guided",
}  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_a_worked_solution_earns_the_points_of_its_own_cells(name, monkeypatch):
    """What an assignment tests beside the solver, a process or a formula, when the library changes under it."""
    earned, points = [], checks.points
    monkeypatch.setattr(checks, "points", lambda most, *tests: earned.append((points(most, *tests), most)))
    monkeypatch.setattr(classroom, "points_for", lambda *of, **more: None, raising=False)
    source = (Path(__file__).parent / "solutions" / f"{name}.py").read_text(encoding="utf-8")
    exec(compile(source, name, "exec"), {"__name__": name})
    assert all(got == most for got, most in earned), earned


def test_there_are_eleven_assignments_with_a_notebook_each(tmp_path):
    assert [path.stem for path in SOURCES] == list(SOLVERS) == list(MISTAKES)
    built = assignments.build(tmp_path)
    for path in built:
        stored = Path(__file__).parents[1] / "notebooks" / "assignments" / path.name
        assert stored.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), f"{stored}: run make assignments"


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_a_notebook_has_statement_starter_checks_and_rubric_and_no_solution(source):
    text = source.read_text(encoding="utf-8")
    student = "".join(line for cell in assignments.notebook(text, True)["cells"] for line in cell["source"])
    teacher = "".join(line for cell in assignments.notebook(text, False)["cells"] for line in cell["source"])
    assert "HIDDEN TESTS" in teacher and "SOLUTION" in teacher
    assert "HIDDEN TESTS" not in student and "SOLUTION" not in student and "(By eye" not in student
    for solved in re.findall(r"### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", text, re.DOTALL):
        assert solved in teacher and solved not in student
    assert "# %pip install ./book" in student
    for part in (
        "**Level**",
        "**After**",
        "**Time**",
        "**You learn**",
        "**You are given**",
        "**You write**",
        "| graded |",
    ):
        assert part in student, part
    assert sum(assignments.rubric(text).values()) == 20
    assert "raise NotImplementedError()" in student and "points_for(" in student
    names = [part.name for part in assignments.parts(text) if part.name]
    assert len(set(names)) == len(names)
    assert all(part.name for part in assignments.parts(text) if part.points is not None or part.solution)


IN_TURN = [
    pytest.param(path, id=path.stem, marks=() if path.stem == "a03_adams" else pytest.mark.trial) for path in SOURCES
]
# Mistakes that cost no run of a solver, and some that cost a short one; the rest is the trial.
QUICK_CELLS = {"statements", "posterior", "smooth", "admissible", "behaves", "evaluations"}
IN_EACH = [
    pytest.param(path, what, id=f"{path.stem}: {what}", marks=() if case[2] in QUICK_CELLS else pytest.mark.trial)
    for path in SOURCES
    for what, case in MISTAKES[path.stem].items()
]


def marked(text: str, source: Path, name: str, sandbox: Sandbox) -> Mark:
    """The mark of one test cell of a source whose text may have been changed; what it may need runs before it."""
    cells = [part for part in assignments.parts(text) if part.kind == "code"]
    at = [part.name for part in cells].index(name)
    kept = [c for i, c in enumerate(cells) if not c.test or i == at or (i < at and asked(c.text) is None)]
    worth = [part.points for part in kept if part.test]
    found = marks([Cell(part.name, part.text, part.test) for part in kept], worth, PUBLIC, sandbox, source)
    return dict(zip([part.name for part in kept if part.test], found, strict=True))[name]


@pytest.mark.parametrize("source", IN_TURN)
def test_the_worked_solution_passes(source, sandbox):
    name = SOLVERS[source.stem]
    report = check_file(source, name, PUBLIC.of(source, name), sandbox=sandbox)
    assert report.passed, "\n".join(reasons(report))


@pytest.mark.parametrize(("source", "what"), IN_EACH)
def test_a_usual_mistake_is_told_by_its_test_cell(source, what, sandbox):
    right, mistake, cell, words = MISTAKES[source.stem][what]
    text = source.read_text(encoding="utf-8")
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times in {source.name}"
    worth = assignments.rubric(text)[cell]
    mark = marked(text.replace(right, mistake), source, cell, sandbox)
    assert mark.points < worth and re.search(words, mark.text), f"{mark.points} of {worth}: {mark.text}"


def test_a_hidden_cell_tells_a_usual_mistake_in_some_assignments():
    """Somewhere the visible checks are not enough; where they are, what is hidden is problems and grids."""
    hidden = {name for name, cases in MISTAKES.items() if "hidden" in {cell for _, _, cell, _ in cases.values()}}
    assert len(hidden) >= 4, hidden


def test_a_student_who_claims_less_or_returns_the_reference_is_noticed(sandbox, tmp_path):
    source = SOURCES[2]
    text = source.read_text(encoding="utf-8")
    problems = PUBLIC.of(source, "adams")
    (tmp_path / "less.py").write_text(text.replace("order=2, nfe", "order=1, nfe"), encoding="utf-8")
    report = check_file(tmp_path / "less.py", "adams", problems, sandbox=sandbox)
    assert "claims order 1, and the assignment asks for order 2" in " ".join(reasons(report))
    (tmp_path / "more.py").write_text(text.replace("order=2, nfe", "order=3, nfe"), encoding="utf-8")
    report = check_file(tmp_path / "more.py", "adams", problems, sandbox=sandbox)
    assert "order 3 is claimed" in " ".join(reasons(report))
    by_name = 'yield from dn.solvers.registry["pndm_variable"](problem, u, times, order=2)'
    head = text[: text.index("    rho, old, h_old")]
    (tmp_path / "name.py").write_text(f"{head}    {by_name}\n", encoding="utf-8")
    report = check_file(tmp_path / "name.py", "adams", problems, sandbox=sandbox)
    assert "inside the library's pndm_variable" in reasons(report)[0], reasons(report)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return course.create(tmp_path_factory.mktemp("course") / "my_course", seed=3)


def test_a_course_has_all_that_its_readme_says(made):
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {"README.md", "nbgrader_config.py", "grade.sh", "secret.toml", ".github/workflows/solutions.yml"} <= names
    assert {f"student/{n}.ipynb" for n in SOLVERS} | {f"source/{n}/{n}.ipynb" for n in SOLVERS} <= names
    compile((made / "nbgrader_config.py").read_text(encoding="utf-8"), "nbgrader_config.py", "exec")
    assert read(made / "secret.toml").values["mixture"] != DEFAULT["mixture"]
    with pytest.raises(DiffnumError, match="exists already"):
        course.create(made)


PATCH = """\
import diffnum.checks, diffnum.classroom, diffnum.classroom.grade, diffnum.measure.checks
for place in (diffnum.checks, diffnum.measure.checks):
    place.points = lambda most, *tests: most
for place in (diffnum.classroom, diffnum.classroom.grade):
    place.points_for = lambda solver, checks, most: most
"""


@pytest.mark.parametrize(
    "names",
    [pytest.param(["a06_noise_scale"], id="one"), pytest.param(list(SOLVERS), id="all", marks=pytest.mark.trial)],
)
def test_nbgrader_grades_without_a_head(names, tmp_path):
    """Ada hands in the solution, Bob the starter; Eve patches what judges, and Dan's file ends the process."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install 'diffnum[classroom]'")
    made = course.create(tmp_path / "my_course", seed=3)
    (made / "home").mkdir()
    root = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": root,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # it starts alembic by name
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HOME": str(made / "home"),
        "OMP_NUM_THREADS": "1",
    }

    def nbgrader(*words):
        run = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=made, env=environment, capture_output=True,
                             text=True)  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]

    for name in names:
        nbgrader("generate_assignment", "--create", name)
        released = json.loads((made / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8"))
        ours = json.loads((made / "student" / f"{name}.ipynb").read_text(encoding="utf-8"))
        for theirs, cell in zip(released["cells"], ours["cells"], strict=True):
            assert "".join(theirs["source"]).strip() == "".join(cell["source"]).strip()
        solved, starter = (
            (made / kind / f"{name}.ipynb").read_text(encoding="utf-8") for kind in (f"source/{name}", "student")
        )
        hand_in = {"ada": solved, "bob": starter}
        if name in names[-1:]:  # the others say nothing more
            hand_in |= {"eve": with_line(starter, PATCH), "dan": with_line(solved, "import os; os._exit(0)")}
        for student, text in hand_in.items():
            place = made / "submitted" / student / name
            place.mkdir(parents=True)
            (place / f"{name}.ipynb").write_text(text, encoding="utf-8")
        nbgrader("autograde", name)
        nbgrader("generate_feedback", name)
        for student in hand_in:
            assert (made / "feedback" / student / name / f"{name}.html").exists()
    nbgrader("export")
    rows = {(row["student_id"], row["assignment"]): row for row in table_of(made / "grades.csv")}
    for (student, name), row in rows.items():
        parts = assignments.parts((made / "solutions" / f"{name}.py").read_text(encoding="utf-8"))
        by_machine, score = sum(part.points for part in parts if part.test), float(row["score"] or 0)
        if student == "ada":
            assert score == by_machine, row
        elif (student, name) in rows and student == "eve":
            assert score <= float(rows["bob", name]["score"]), row
        else:
            assert score < (0.4 if student == "bob" else 0.01) * by_machine, row
    assert {"ada", "bob", "eve", "dan"} == {student for student, _ in rows}


def with_line(notebook: str, line: str) -> str:
    """A notebook with a line more at the end of its first code cell."""
    read = json.loads(notebook)
    cell = next(cell for cell in read["cells"] if cell["cell_type"] == "code")
    cell["source"] = [*cell["source"], "\n", line]
    return json.dumps(read)


BAD_PROBLEMS = {
    "nested": "a = " + "[" * 5000,
    "an unknown table": "[mixtures]\nstds = 3",
    "a table that is none": "assignment = 1",
    "one end": "[ends]\nisotropic = [1.0]",
    "ends the wrong way round": "[ends]\ntime = [0.1, 0.9]",
    "an end that is none": '[ends]\nsigma = [1.0, "a"]',
    "an unknown parameter": "[vp]\nbeta = 1",
}


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_problems_that_are_none_are_no_fault_of_the_student(name, tmp_path):
    (tmp_path / "secret.toml").write_text(BAD_PROBLEMS[name])
    with pytest.raises(DiffnumError, match=r"secret\.toml holds no problems"):
        read(tmp_path / "secret.toml")


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("points = 3", points_of), ("points = {ordre = 3}", points_of), ("points = {order = nan}", points_of),
        ("solution = 3", solution_of), ('solution = "none.py:f"', solution_of),
        ('solution = "broken.py:f"', solution_of), ('solution = "no_such_solver"', solution_of),
    ],
)  # fmt: skip
def test_an_assignment_that_is_none_is_told_before_grading(text, ask, tmp_path):
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "secret.toml").write_text(f"[assignment]\n{text}\n")
    with pytest.raises(DiffnumError, match="the assignment's"):
        ask(read(tmp_path / "secret.toml"))


@pytest.mark.parametrize("limit", [{"seconds": 10**23}, {"seconds": 0}, {"memory": 2**70}, {"run": "3"}, {"file": 1.5}])
def test_no_limit_is_beyond_what_the_system_takes(limit):
    """The system would refuse it inside the student's process, and the student would be blamed."""
    with pytest.raises(ValueError, match=next(iter(limit))):
        Limits(**limit)
