"""Verdicts as they were stored, and rows for tables: what ``diffnum claims`` prints and the book renders."""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import diffnum
from diffnum.claims.verdicts import Claim, Verdict, registry
from diffnum.errors import DiffnumError
from diffnum.files import place, write

STORED = Path(diffnum.__file__).resolve().parents[1] / "book" / "results" / "claims.json"


def results(name: str) -> Any:
    """A results file of the book, for claims that need one; ``book/results`` of the checkout.

    Raises:
        DiffnumError: the file is not there, or is damaged.
    """
    path = STORED.with_name(name)
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DiffnumError(f"cannot read {path} ({error}); it is part of the repository, not of the package") from None


def stored(path: str | os.PathLike[str] | None = None) -> dict[str, dict[str, Any]]:
    """The rows of a file that :func:`store` wrote, by name; none where there is no such file.

    Raises:
        DiffnumError: the file is not one of ours.
    """
    path = STORED if path is None else place(path)
    if not path.is_file():
        return {}
    try:
        return {row["name"]: row for row in json.loads(path.read_text("utf-8"))["claims"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffnumError(
            f"{path} holds no claims ({type(error).__name__}: {error}); make it anew: make claims"
        ) from None


def row(claim: Claim, found: Verdict | None = None, seconds: float | None = None) -> dict[str, Any]:
    """A claim as data, with what was found."""
    about = {
        "name": claim.name, "paper": claim.paper, "claim": claim.sentence, "where": claim.where, "kind": claim.kind,
        "page": claim.page, "derived": claim.derived, "needs": claim.needs, "measured": claim.place,
    }  # fmt: skip
    if found is None:
        return {**about, "verdict": None, "saw": "", "numbers": {}, "condition": "", "seconds": None}
    return {
        **about, "verdict": found.word, "condition": found.condition, "saw": found.saw,
        "numbers": {key: float(f"{value:.4g}") for key, value in found.numbers.items()},
        "seconds": None if seconds is None else round(seconds, 1),
    }  # fmt: skip


def run(claims: Iterable[Claim], told: Callable[[Claim], Any] = lambda claim: None) -> list[dict[str, Any]]:
    """Measure claims anew, one after the other; ``told(claim)`` is called before each."""
    rows = []
    for claim in claims:
        told(claim)
        begun = time.perf_counter()
        found = claim.measure()
        rows.append(row(claim, found, time.perf_counter() - begun))
    return rows


def rows(claims: Iterable[Claim] | None = None) -> list[dict[str, Any]]:
    """Claims with their stored verdicts, in the order of the registry."""
    before = stored()
    kept = ("verdict", "condition", "saw", "numbers", "seconds")
    return [
        row(c) | {k: before[c.name][k] for k in kept if c.name in before}
        for c in (registry.values() if claims is None else claims)
    ]


def moved(before: dict[str, dict[str, Any]], now: Iterable[dict[str, Any]]) -> list[str]:
    """What differs from the stored verdicts, a line for each."""
    lines = []
    for new in now:
        old = before.get(new["name"])
        if old is None or (old["verdict"], old["condition"]) != (new["verdict"], new["condition"]):
            was = f"{old['verdict']} {old['condition']}".strip() if old else "not stored"
            lines.append(f"{new['name']}: {was} -> {new['verdict']} {new['condition']}".rstrip())
    return lines


def store(measured: Iterable[dict[str, Any]], path: str | os.PathLike[str] | None = None) -> Path:
    """Write rows; claims that were not measured now keep what is stored, those that are gone go."""
    path = STORED if path is None else place(path)
    kept = stored(path) | {new["name"]: new for new in measured}
    about = {"diffnum": diffnum.__version__, "torch": torch.__version__, "device": "cpu"}
    everything = {**about, "claims": [kept[name] for name in registry if name in kept]}
    text = json.dumps(everything, indent=1, ensure_ascii=False) + "\n"
    return write(path, lambda file: file.write(text.encode("utf-8")))
