"""Exercises of the book: each has a hint and a solution or is marked open; solutions by machine are code that runs."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from solutions import exercises_deterministic as deterministic
from solutions import exercises_practice as practice
from solutions import exercises_problems as problems
from solutions import exercises_stochastic as stochastic

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "solutions"
TEXT = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "book").glob("*.md")))
EXERCISES = re.findall(r"^```+\{exercise\} ([^\n]*)\n:label: (\S+)\n.*?^```+\n(.{0,60})", TEXT, re.M | re.S)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("title", "label", "after"), EXERCISES, ids=[e[1] for e in EXERCISES])
def test_every_exercise_has_hint_and_solution_or_is_open(title, label, after):
    assert re.search(r"\((by hand|by machine|extend), •{1,3}(, open)?\)$", title), (
        "kind, one to three dots, open or not"
    )
    if title.endswith(", open)"):
        return
    assert "{admonition} Hint" in after, "a folded hint follows"
    solution = re.search(rf"^(```+)\{{solution\}} {re.escape(label)}\n(.*?)^\1$", TEXT, re.M | re.S)
    assert solution and ":class: dropdown" in solution[2], "a folded solution"
    if "(by hand" not in title:
        assert "literalinclude" in solution[2], "a solution by machine shows code that this file runs"


def chapters():
    """Pages of the numbered parts, and those of chapter 0."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    return [Path(c["file"]).stem for part in parts if part.get("numbered") for c in part["chapters"]]


@pytest.mark.parametrize("name", chapters())
def test_a_chapter_opens_with_what_it_needs_and_ends_with_questions(name):
    text = (ROOT / "book" / f"{name}.md").read_text("utf-8")
    opening = re.search(r"\{admonition\} Before you start\n.*?^```", text, re.M | re.S)[0]
    assert re.search(r"\*\*Needs\*\*.*\{ref\}.*\*\*Afterwards\*\* (you|your)", opening, re.S), (
        "links, and what you can do"
    )
    assert f"**Takes** {{times}}`{name}`" in " ".join(opening.split()), "times are counted, not written"
    pattern = r"^## In five lines\n\n(.*?)^## Two questions for yourself\n\n(.*?)\n```\{admonition\} Answers\n"
    recap = re.search(pattern + ":class: dropdown", text, re.M | re.S)
    assert len(re.findall(r"^- ", recap[1], re.M)) == 5 and len(re.findall(r"^\d\. ", recap[2], re.M)) == 2


def test_a_number_of_a_chapter_is_that_of_the_table_of_contents():
    """In references and in the map, which knows every chapter."""
    pages = {p.stem: p.read_text("utf-8") for p in (ROOT / "book").glob("*.md")}
    labels = {label: name for name, text in pages.items() for label in re.findall(r"^\(([\w-]+)\)=$", text, re.M)}
    number = {name: i + 1 for i, name in enumerate(n for n in chapters() if not n.startswith("need_"))}
    said = re.findall(r"\{ref\}`(?:chapter )?(\d+) <([\w-]+)>`", "\n".join(pages.values()))
    said += re.findall(r"(\d+) \{ref\}`[^<`]+<([\w-]+)>`", pages["map"])
    assert [(n, label) for n, label in said if int(n) != number[labels[label]]] == []
    assert {labels[label] for _, label in said} == set(number)
    drawn = re.findall(r'href="(\w+)\.html".*?>(\d+) ', pages["map"])
    assert {name: int(n) for name, n in drawn} == number | {"need_noise": 0}


def test_times_follow_from_the_sources(monkeypatch):
    """A page, its lab and its exercises are counted; a formula, a cell and a dot more are minutes more."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    times = importlib.import_module("reading_times")
    said = times.sentence("order")
    assert re.fullmatch(r"\d+ minutes for the page, \d+ for the lab, 1 hour for all exercises", said)
    assert times.labs("pndm")[0] == "notebooks/pndm_order" and "labs" in times.sentence("pndm")
    text = (ROOT / "book" / "order.md").read_text("utf-8")
    before = times.page("order"), times.exercises("order")
    more = text + "\n$$\nx\n$$\n\n```{exercise} One more (by hand, ••)\n" + "word " * 900 + "\n```\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding=None: more)
    assert times.page("order") == pytest.approx(before[0] + times.FORMULA)
    assert times.exercises("order") == before[1] + 2 * times.DOT


def test_code_in_solutions_fits_a_page():
    for path in FOLDER.glob("exercises_*.py"):
        wide = [line for line in path.read_text("utf-8").splitlines() if len(line) > 88]
        assert not wide, f"{path.name}: {wide}"


def test_every_piece_of_code_that_the_book_shows_exists():
    shown = re.findall(r"literalinclude\} \.\./tests/solutions/(\S+)\n.*?:pyobject: (\S+)", TEXT, re.S)
    assert len(shown) > 40
    here = Path(__file__).read_text("utf-8")
    for name, piece in shown:
        code = (FOLDER / name).read_text("utf-8")
        assert re.search(rf"^def {piece}\(", code, re.M), f"{name}: {piece}"
        used = re.search(rf"\b{piece}\b", code.replace(f"def {piece}(", "")) or f".{piece}(" in here
        assert used, f"{name}: {piece} is shown and never run"


def test_problems():
    problems.semigroup()
    problems.sub_vp()
    assert problems.prior_forgotten() == 1.6
    levels = problems.basins()
    assert -4 < levels[10] < -1 and levels[4] > -5
    assert 5e-3 < problems.transport() < 2e-2
    end, half = problems.same_end()
    assert end == pytest.approx(80) and half == pytest.approx(0.917, abs=1e-3)
    errors, still = problems.bfloat_floors()
    assert errors[2] == min(errors) and errors[6] > 8 * errors[3], "much faster than the root of n"
    assert still[3:] == pytest.approx([0.40, 0.51, 0.64, 0.76], abs=0.03)
    fair = problems.bfloat_compensated()
    assert fair[-1] < 2.6 * fair[0] < 0.04, "near the root of n"


def test_deterministic():
    assert deterministic.euler_on_ve() < 1e-14
    rows = deterministic.overtaking((16, 20, 24, 28))
    assert [s < f for _, s, f, _ in rows.values()] == [True, True, False, False]
    measured, predicted = deterministic.two_points_on_a_line()
    assert measured == pytest.approx(predicted, rel=0.01) and predicted == pytest.approx(5.37, abs=0.01)
    assert deterministic.bug_ratio()[0] == pytest.approx(3, rel=0.05)
    width = deterministic.width_of_change()
    assert width["uniform to 0.01"] == pytest.approx(0.020, abs=1e-3)
    assert width["log-SNR to 0.001"] == pytest.approx(0.040, abs=2e-3)
    constants, ratios = deterministic.ratio_at_zero()
    predicted = constants[0] / constants[1]
    assert ratios[0] > ratios[1] > predicted == pytest.approx(1.354, abs=1e-3)
    assert ratios[1] == pytest.approx(predicted, rel=0.03)


@pytest.mark.slow
def test_deterministic_orders():
    found = deterministic.tiny_steps()
    assert found[2, 3][-1] > 2.8 and found[3, 3][-1] > 2.8, "order 3 returns, whatever the tiny steps are"
    assert found[2, 4][-1] < 2.2 and found[3, 4][-1] < found[2, 4][-1] - 1, "order 4 does not; shorter ones hurt"
    takes_over, (measured, predicted) = deterministic.cap()
    assert 1600 < takes_over < 2000 and measured[0] == pytest.approx(predicted[0], abs=0.05)
    assert 2 < deterministic.two_points_measured() < 4
    errors = deterministic.rectangles((40, 80, 160))
    assert errors[100][1] / errors[100][2] == pytest.approx(2, rel=0.05), "order 1"
    rows = deterministic.data_adams_measured()
    assert rows["order 2"][1] == pytest.approx(2, abs=0.1) and rows["order 3"][1] == pytest.approx(3.1, abs=0.3)
    assert rows["2M"][0][0] < rows["order 2"][0][0] and rows["order 3"][0][2] < rows["2M"][0][2]
    slopes = deterministic.cosine_slopes((40, 80, 160))
    assert all(abs(p - 2) < 0.15 for (kind, _), p in slopes.items() if kind != "log_snr")
    assert slopes["log_snr", 3] > 2.7 and slopes["log_snr", 4] > 3.2


def test_stochastic():
    slopes, errors = stochastic.two_m()
    assert slopes[-1] == pytest.approx(2, abs=0.1) and all(theirs < ours for ours, theirs in errors)
    apart = stochastic.two_clocks((64, 1024))[0]
    assert apart[0] > 8 * apart[1]
    wrong = {key: abs(error) for key, error in stochastic.langevin_errors().items()}
    assert 0.25 < wrong[10, 0.3] / wrong[10, 0.0] < 0.4 and wrong[160, 0.3] > wrong[160, 0.0]
    assert wrong[40, 0.1] < wrong[80, 0.0] / 2 and wrong[160, 0.1] > wrong[320, 0.0], "at equal evaluations"
    assert min(stochastic.heun_orders()) > 1.9
    stochastic.checked()
    ratios, steps = stochastic.rule_shows()
    assert 800 < steps < 1000 and 1.1 < ratios[0] < 1.3 and 1.6 < ratios[1] < 2, "twice the error near 900 steps"
    levels, longest, bound, growth = stochastic.stable_steps()
    assert levels == pytest.approx([-23.3, -0.14], rel=0.01) and longest == pytest.approx(0.086, abs=1e-3)
    assert growth["L"] == pytest.approx(bound, abs=0.02) and growth["R"] < 0.3
    for predicted, measured in stochastic.bought().values():
        assert measured == pytest.approx(predicted, rel=0.01)
    swept, plain = stochastic.another_grid()
    assert min(swept, key=swept.get) == -8 and swept[-6.0] == pytest.approx(plain["next"], rel=0.1)
    assert min(swept.values()) > 1.5 * plain["current"]
    ratios, radii = stochastic.fresh_time()
    assert all(0.9 < ratio < 1.1 for (kind, _), ratio in ratios.items() if kind == "quadratic")
    assert ratios["uniform", 60] > 50 and radii["uniform", 60] > 2 and ratios["uniform", 960] > 3
    assert all(radius < 1 for place, radius in radii.items() if place != ("uniform", 60))
    slopes = stochastic.damping(halvings=7)[1]
    assert slopes[0] > 2.9 and slopes[-1] < 2.6


@pytest.mark.slow
def test_stochastic_sweep():
    best = stochastic.psld_sweep()
    assert all(lam < 0 and gain < 1 for lam, gain in best.values())


@pytest.mark.slow
@pytest.mark.weights
def test_practice():
    found = practice.one_at_a_time()
    lowest = {variant: error for variant, (error, _) in found.items()}
    dropped = lowest.pop("last step to 0 dropped; dense table")
    assert dropped < 0.1 * min(lowest.values()) and all("stops" in str(found[v]) for v in lowest)
    errors, rates = practice.widths()
    assert all(1.4 < rate < 1.6 and sigma > 2 for rate, sigma in rates)
    assert all(row[0] > row[1] > row[2] for solver, row in errors.items() if solver != "f_pndm")
    assert min(errors["f_pndm"]) > 5
    slopes, said = practice.upside_down_judged()
    assert slopes[-1] == pytest.approx(2, abs=0.1) and "differ" in said
    seen = practice.eyes()
    assert seen[10][0] < 3e-2 and seen[20][0] < 1e-2 and seen[20][1] < 0.6 < seen[10][1] and seen[20][2] < 1
    rows = practice.window((2, 4, 64))
    assert rows[2][0] < 2 < rows[64][0] < rows[4][0] and rows[2][1] < rows[64][1]
    left = practice.wrong_shape()
    assert left[128][1] < 0 < left[128][0] and max(map(abs, left[512])) < 0.02
    lengths, covered = practice.wrong_pairs()
    assert 1.5 < lengths[1] / lengths[0] < 2 and min(covered) > 0.9
    delta, ends = practice.half_precision((5, 10))
    assert delta == sorted(delta) and all(abs(half / full - 1) < 0.2 for full, half in ends.values())
    rough, right = practice.texture((-1.0, 0.0), steps=25)
    assert rough[0.0][0] < rough[-1.0][0] and right < rough[-1.0][0]
