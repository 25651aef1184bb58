"""What a claim is: a sentence of a paper, where it stands, and a function that measures it and returns a verdict.

A verdict is computed: the functions below turn comparisons of measured numbers into one of ``WORDS``, and nothing else
makes a :class:`Verdict`. Turn an inequality round, and the row turns.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import wraps
from inspect import getsource
from math import isfinite
from textwrap import dedent

from diffnum.errors import StabilityWarning

PAPERS = ("foundations", "pndm", "gddim", "er_sde", "integrators", "folklore")
KINDS = ("theorem", "proposition", "headline", "implicit")
NEEDS = ("exact", "network", "results")  # seconds without a network; a minute with one; a stored file with its command
WORDS = ("holds", "holds if", "does not hold", "not shown", "not tried")


@dataclass(frozen=True)
class Verdict:
    """What a claim's function found.

    Attributes:
        word: one of ``WORDS``.
        saw: one or two lines, built from the numbers.
        numbers: what was measured, by name.
        condition: for "holds if", the condition; the case where it fails was measured too.
    """

    word: str
    saw: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    condition: str = ""

    @property
    def text(self) -> str:
        """The verdict with its condition."""
        return f"{self.word} {self.condition}".strip()


def verdict(holds: bool, saw: str, numbers: Mapping[str, float]) -> Verdict:
    """Holds or does not, by one comparison."""
    return Verdict("holds" if holds else "does not hold", saw, _finite(numbers))


def conditional(condition: str, inside: bool, outside: bool, saw: str, numbers: Mapping[str, float]) -> Verdict:
    """Holds if a condition is met, when both sides were measured.

    Args:
        condition: what is true of the cases inside, as the end of "holds if ...".
        inside: whether the claim holds where the condition is met.
        outside: whether it holds where it is not.
        saw, numbers: what was measured on both sides.
    """
    if inside and not outside:
        return Verdict("holds if", saw, _finite(numbers), condition)
    return verdict(inside and outside, saw, numbers)


def interval(low: float, high: float, saw: str, numbers: Mapping[str, float]) -> Verdict:
    """For a claim that a difference is negative: holds if its interval is, not shown if the interval contains 0."""
    word = "holds" if high < 0 else "does not hold" if low > 0 else "not shown"
    return Verdict(word, saw, _finite(numbers))


def several(parts: Mapping[str, Verdict], saw: str, numbers: Mapping[str, float]) -> Verdict:
    """For a claim that several comparisons decide together: they all agree, or the verdict names those that hold.

    Args:
        parts: the verdict of each comparison, by what it compares, as the end of "holds if ...".
        saw, numbers: what was measured.
    """
    words = {part.word for part in parts.values()}
    if len(words) == 1:
        return Verdict(words.pop(), saw, _finite(numbers))
    held = [name for name, part in parts.items() if part.word == "holds"]
    if held:
        return Verdict("holds if", saw, _finite(numbers), " or ".join(held))
    return Verdict("not shown", saw, _finite(numbers))


def unresolved(saw: str, numbers: Mapping[str, float]) -> Verdict:
    """For a measurement that does not reach far enough to decide."""
    return Verdict("not shown", saw, _finite(numbers))


def not_tried(reason: str) -> Verdict:
    """For what nobody here can try, with the reason."""
    return Verdict("not tried", reason)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that can be tried.

    Attributes:
        name: identifier, ``paper-sentence``.
        sentence: what the paper says, in our words.
        paper: one of ``PAPERS``.
        where: section, equation or algorithm; "code" where only the code says it.
        kind: one of ``KINDS``.
        page: label in the book of the theorem that proves or refutes it, or of the section that discusses it.
        derived: dotted name of the derivation, or None.
        needs: one of ``NEEDS``.
        measure: the function; called without arguments, it returns a :class:`Verdict`.
    """

    name: str
    sentence: str
    paper: str
    where: str
    kind: str
    page: str
    derived: str | None
    needs: str
    measure: Callable[[], Verdict]

    @property
    def source(self) -> str:
        """The lines of Python that decide it."""
        text = dedent(getsource(self.measure))
        return text[text.index("def ") :].rstrip()

    @property
    def place(self) -> str:
        """Dotted name of the function."""
        return f"{self.measure.__module__}.{self.measure.__name__}"


#: Every claim by its name, in the order of papers and of their modules.
registry: dict[str, Claim] = {}


def quietly(measure: Callable[[], Verdict]) -> Callable[[], Verdict]:
    """The same function without warnings of unstable grids: some claims are about runs that fail."""

    @wraps(measure)
    def quiet() -> Verdict:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
            return measure()

    return quiet


def claim(
    sentence: str, *, where: str, kind: str, page: str, derived: str | None = None, needs: str = "exact"
) -> Callable[[Callable[[], Verdict]], Callable[[], Verdict]]:
    """Declare what a paper says; the decorated function measures it. See :class:`Claim`.

    Raises:
        ValueError: an unknown kind or need, or a second claim of the same name.
    """

    def decorate(function: Callable[[], Verdict]) -> Callable[[], Verdict]:
        paper = function.__module__.split(".")[2]  # the module, or the package of a long paper
        name = f"{paper}-{function.__name__}".replace("_", "-")
        for what, value, known in (("kind", kind, KINDS), ("needs", needs, NEEDS), ("paper", paper, PAPERS)):
            if value not in known:
                raise ValueError(f"{name}: {what}={value!r} must be one of {', '.join(known)}")
        if name in registry:
            raise ValueError(f"{name} is declared twice; give the function another name")
        function.__doc__ = function.__doc__ or f"{sentence}."
        registry[name] = Claim(name, sentence, paper, where, kind, page, derived, needs, quietly(function))
        return function

    return decorate


def find(name: str) -> Claim:
    """The claim of that name, or of that number, counted from 1.

    Raises:
        KeyError: no such claim; the message gives the nearest names.
    """
    if str(name).isdigit():
        if not 1 <= int(name) <= len(registry):
            raise KeyError(f"no claim has the number {name}; they run from 1 to {len(registry)}")
        return list(registry.values())[int(name) - 1]
    if name not in registry:
        near = get_close_matches(name, registry, n=3, cutoff=0.3) or ["diffnum claims lists them"]
        raise KeyError(f"no claim is called {name!r}; did you mean {', '.join(near)}?")
    return registry[name]


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    kept = {key: float(value) for key, value in numbers.items()}
    bad = [key for key, value in kept.items() if not isfinite(value)]
    if bad:
        raise ValueError(f"{', '.join(bad)}: not finite; a verdict needs numbers")
    return kept
