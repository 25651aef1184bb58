"""Claims as data: every row is there, verdicts are computed, and those without a network are measured anew."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffnum import cli
from diffnum.claims import registry, rows, stored
from diffnum.claims.store import STORED, moved, store
from diffnum.claims.verdicts import KINDS, WORDS, conditional, interval, quietly, several, verdict

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
EXACT = [name for name, entry in registry.items() if entry.needs == "exact"]


#: What the four papers' claims must cover, one row each; names may join and none may go.
REQUIRED = {
    "pndm": """
        ddim-tends-to-the-ode velocity-unbounded classical-methods-fail ddim-is-pseudo-euler transfer-is-exact
        local-error order-two order-down-to-zero ddim-order-one fourth-order-name stays-near-the-manifold
        f-pndm-better-than-s-pndm runge-kutta-start-is-needed released-code-is-the-method
        fifty-steps-beat-a-thousand cosine-works-as-well adaptive-baseline-is-worse a-step-costs-a-ddim-step
        fids""",
    "gddim": """
        noise-constant-on-a-point stochastic-ddim-is-the-lambda-sde lambda-keeps-marginals equation-of-R
        one-step-exact R-is-L-times-a-rotation multistep-order order-shows-for-ever order-down-to-zero
        first-step-is-all corrector-adds-an-order corrector-pays R-better-than-L higher-order-better
        stochastic-step-exact lambda-zero-is-deterministic lambda-one-is-the-posterior noise-hurts
        released-covariance blurring-is-linear blurring-faster network-must-be-trained-for-cld
        final-denoising-matters rectangles-suffice fids""",
    "er-sde": """
        any-noise-keeps-marginals phi-is-free exact-solution noise-is-exact single-integrals known-members
        vp-on-a-par solver-k-has-order-k third-order repaired-from-every-start arbitrarily-high-order
        hundred-points fei-ranks sdes-correct-errors sde-better-at-many-steps scale-in-between-best
        higher-order-better best-of-all weak-order-two""",
    "integrators": """
        conjugate-transform b-zero-on-vp-is-ddim b-zero-is-gddim b-zero-is-deis exponential-of-integral
        lambda-ddim-better second-type-best best-lambda-shrinks stability-theorem mixed-score
        naive-splitting-poor score-reuse fresh-last-time local-errors-of-verlet verlet-second-order
        weak-orders lambda-s-helps bias-of-lambda-s roba-beats conjugate-splitting-best
        conjugacy-hurts-stochastic fids""",
    "folklore": """
        dpmpp-3m-third-order spacings-converge start-up-is-a-bug float32-tables-suffice
        denoise-to-zero-costs-nothing""",
}
NAMES = [f"{paper}-{name}" for paper, names in REQUIRED.items() for name in names.split()]
QUICK = [
    name for name, row in stored().items() if name in registry and row["verdict"] != "not tried" and row["seconds"] < 3
]
FLIPPED = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip


class Reverse(ast.NodeTransformer):
    """Turns every comparison round but those that select: conditions of branches and filters."""

    def visit_comprehension(self, node):
        node.iter = self.visit(node.iter)
        return node

    def visit_If(self, node):
        node.body = [self.visit(line) for line in node.body]
        return node

    def visit_IfExp(self, node):
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if any(type(op) not in FLIPPED for op in node.ops):
            return node
        if len(node.ops) > 1:
            return ast.UnaryOp(ast.Not(), node)
        node.ops = [FLIPPED[type(node.ops[0])]()]
        return node


def reversed_verdict(entry):
    """What the claim would say if its comparisons and the intervals of the results file were others."""
    tree = ast.fix_missing_locations(Reverse().visit(ast.parse(entry.source)))
    scope = dict(inspect.unwrap(entry.measure).__globals__)
    if judge := scope.get("quality"):

        def quality(better, worse):
            found = judge(better, worse)
            if found.word == "not tried":
                return found
            if found.word == "not shown":  # turned round it would be the same; moved beyond zero it must count
                return interval(-1, -0.5, found.saw, found.numbers)
            return interval(-found.numbers["high"], -found.numbers["low"], found.saw, found.numbers)

        scope["quality"] = quality
    exec(compile(tree, entry.name, "exec"), scope)
    return quietly(scope[entry.measure.__name__])()


def test_every_claim_has_its_row():
    assert [name for name in NAMES if name not in registry] == []
    assert len(rows()) >= 75


@pytest.mark.parametrize("name", QUICK)
def test_a_reversed_comparison_turns_the_verdict(name):
    before = stored()[name]
    turned = reversed_verdict(registry[name])
    assert (turned.word, turned.condition) != (before["verdict"], before["condition"]), "decided by no comparison"


@pytest.mark.parametrize("name", EXACT)
def test_the_stored_verdict_is_what_is_measured(name):
    found, before = registry[name].measure(), stored()[name]
    assert (found.word, found.condition) == (before["verdict"], before["condition"]), found.saw
    assert set(found.numbers) == set(before["numbers"])


@pytest.mark.parametrize("name", [name for name, entry in registry.items() if entry.needs == "results"])
def test_results_are_read_as_stored(name):
    found, before = registry[name].measure(), stored()[name]
    assert (found.word, found.condition) == (before["verdict"], before["condition"]), found.saw


def test_verdicts_are_computed():
    """Turning the comparison turns the verdict."""
    assert [verdict(x < 1, "", {}).word for x in (0, 2)] == ["holds", "does not hold"]
    assert [conditional("c", a, b, "", {}).word for a, b in ((1, 0), (1, 1), (0, 0))] == [
        "holds if", "holds", "does not hold",
    ]  # fmt: skip
    assert [interval(*ends, "", {}).word for ends in ((-2, -1), (-1, 1), (1, 2))] == [
        "holds", "not shown", "does not hold",
    ]  # fmt: skip
    yes, no = verdict(True, "", {}), verdict(False, "", {})
    assert several({"a": yes, "b": no}, "", {}).text == "holds if a"
    assert several({"a": no, "b": no}, "", {}).word == "does not hold"
    with pytest.raises(ValueError, match="bad: not finite"):
        verdict(True, "", {"bad": float("nan")})


@pytest.mark.parametrize("path", sorted((ROOT / "diffnum" / "claims").rglob("*.py")), ids=lambda p: p.name)
def test_no_verdict_is_a_literal(path):
    """Only `verdicts.py` makes a Verdict, and no comparison is replaced by a constant."""
    if path.name == "verdicts.py":
        return
    for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        assert name != "Verdict", f"line {call.lineno}: let verdict(...) or its kin decide"
        if name in ("verdict", "conditional"):
            deciders = call.args[:1] if name == "verdict" else call.args[1:3]
            assert not any(isinstance(arg, ast.Constant) for arg in deciders), f"line {call.lineno}: a verdict by hand"


@pytest.mark.parametrize("entry", registry.values(), ids=registry)
def test_a_claim_says_where(entry):
    text = "\n".join(p.read_text("utf-8") for p in BOOK.rglob("*.md"))
    labels = re.findall(r"^\((\S+)\)=$", text, re.M) + re.findall(r"^:label: ((?:thm|prop)-\S+)$", text, re.M)
    assert entry.page in labels, f"no page has the label {entry.page}"
    if entry.derived:
        module, _, name = entry.derived.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    assert entry.kind in KINDS and not entry.sentence.endswith(".") and "def " in entry.source


def test_the_stored_file_is_whole():
    assert list(stored()) == list(registry), "run make claims"
    assert {row["verdict"] for row in stored().values()} <= set(WORDS)
    assert all(row["seconds"] is not None for row in stored().values())


def test_numbers_in_prose_are_those_of_a_claim():
    """The role {claim}`name:key` names a stored number."""
    for page in BOOK.rglob("*.md"):
        for name, key in re.findall(r"\{claim\}`([\w-]+):(\w+)", page.read_text("utf-8")):
            assert key in stored()[name]["numbers"], f"{page.name}: {name} has no number {key}"


def test_chapters_hold_no_verdict_by_hand():
    hand = re.compile(r"^  - (holds|does not hold|not shown|not in|not tested|not seen|makes little)\b", re.M)
    bad = {page.name: hand.findall(page.read_text("utf-8")) for page in BOOK.rglob("*.md")}
    assert not {name: found for name, found in bad.items() if found}


def test_command_line(tmp_path):
    run = lambda *words: CliRunner().invoke(cli.app, ["claims", *words])  # noqa: E731
    listed = json.loads(run("--json", "--paper", "pndm").stdout)
    assert [row["name"] for row in listed] == [n for n, c in registry.items() if c.paper == "pndm"]
    assert run("pndm-fids", "--why").stdout.count("def fids") == 1
    assert run("1").exit_code == 0 and run("0").exit_code == 1 and run("--paper", "pnd").exit_code == 1
    out = tmp_path / "claims.json"
    assert run("pndm-ddim-is-pseudo-euler", "--run", "--out", str(out)).exit_code == 0
    assert list(stored(out)) == ["pndm-ddim-is-pseudo-euler"]


def test_a_verdict_that_moves_is_told(tmp_path):
    row = rows()[0]
    turned = row | {"verdict": "does not hold" if row["verdict"] == "holds" else "holds"}
    assert moved({row["name"]: row}, [row]) == [] and len(moved({row["name"]: row}, [turned])) == 1
    assert stored(store([turned], tmp_path / "a.json"))[row["name"]]["verdict"] == turned["verdict"]
    assert STORED.name == "claims.json"
