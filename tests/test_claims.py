"""Claims as data: every row is there, verdicts are computed, and those without a network are measured anew."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffnum import cli
from diffnum.claims import registry, rows, stored
from diffnum.claims.store import STORED, moved, store
from diffnum.claims.verdicts import KINDS, WORDS, conditional, interval, several, verdict

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
EXACT = [name for name, entry in registry.items() if entry.needs == "exact"]


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
    labels = set(re.findall(r"^\((\S+)\)=$", "\n".join(p.read_text("utf-8") for p in BOOK.rglob("*.md")), re.M))
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
    pages = ("pndm", "gddim", "er_sde", "psld", "splitting", "conjugate_splitting")  # the papers' own
    bad = {name: hand.findall((BOOK / f"{name}.md").read_text("utf-8")) for name in pages}
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
