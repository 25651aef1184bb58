"""Find the solvers in a Python file or a notebook.

A solver is a generator function ``(problem, u, times, **options)``: every parameter after the third has a default, or
is called ``noise``. A file is read here and run only by :mod:`diffnum.classroom.session`.
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

from diffnum.errors import DiffnumError

SIGNATURE = ("problem", "u", "times")
NO_SOLVER = (
    "no solver was found: a solver is a generator function (problem, u, times, **options), "
    "at the top level of the file, that yields the state after each step"
)


@dataclass(frozen=True)
class Cell:
    """A piece of a student's work: a whole file, or one cell of a notebook.

    Attributes:
        label: what a message calls it, ``solver.py`` or ``work.ipynb, cell 3``.
        text: its Python text, magics left out.
        test: whether it is a test cell of nbgrader, which is not part of the work.
    """

    label: str
    text: str
    test: bool = False


def cells(path: Path) -> list[Cell]:
    """The Python text of a file, in pieces.

    Raises:
        DiffnumError: not a readable ``.py`` file or notebook.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".py":
            return list(blocks(path.name, text))
        if path.suffix != ".ipynb":
            raise DiffnumError(f"{path} is neither a .py file nor a notebook (.ipynb)")
        notebook = json.loads(text)
        found = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        return [cell_of(f"{path.name}, cell {i}", cell) for i, cell in enumerate(found, 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise DiffnumError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DiffnumError(f"{path} is not a notebook: {type(error).__name__}: {error}") from error


def blocks(label: str, text: str) -> Iterator[Cell]:
    """A Python file cut at its marks ``# %%``, test cells told from the rest; each keeps the numbers of its lines."""
    above = 0
    for block in re.split(r"^(?=# %%)", text, flags=re.MULTILINE):
        head = block.partition("\n")[0]
        yield Cell(label, "\n" * above + block, head.startswith("# %%") and "points=" in head)
        above += block.count("\n")


def cell_of(label: str, cell: Any) -> Cell:
    """A code cell of a notebook, with its magics turned into ``pass``; a cell in another language is empty."""
    source = cell["source"]
    text = source if isinstance(source, str) else "".join(source)
    nbgrader = cell.get("metadata", {}).get("nbgrader", {})
    if text.lstrip().startswith("%%"):
        text = ""
    text = re.sub(r"^([ \t]*)[%!?].*$", r"\1pass", text, flags=re.MULTILINE)
    return Cell(label, text, bool(nbgrader.get("grade")) and not nbgrader.get("solution"))


def hopeless(pieces: Sequence[Cell]) -> list[str] | None:
    """What is wrong with work in which no solver can stand, in sentences; None where it has to be run to know.

    A solver takes three arguments. Where no function does, none is made from text either, nothing need be run.
    """
    said = []
    for piece in pieces:
        if piece.test:
            continue
        try:
            nodes = list(ast.walk(ast.parse(piece.text, piece.label)))
        except SyntaxError as error:
            said.append(f"line {error.lineno or 1} of {piece.label}: {type(error).__name__}: {error.msg}")
            continue
        except (ValueError, RecursionError, MemoryError) as error:  # not text, or deeper than Python reads
            said.append(f"{piece.label}: {type(error).__name__}: {error}")
            continue
        for node in nodes:
            if isinstance(node, ast.Name) and node.id in ("exec", "eval"):
                return None
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            if len(names) >= len(SIGNATURE):
                return None
            if isinstance(node, ast.FunctionDef) and names[:1] == [SIGNATURE[0]]:
                said.append(f"{node.name}({ast.unparse(node.args)}) takes {len(names)} parameters")
    return [*said, NO_SOLVER]


def solvers_in(namespace: dict[str, Any], module: str) -> dict[str, Callable[..., Any]]:
    """The solvers that a file defines, by the names it gives them; imported ones and ``_private`` names are not his.

    Args:
        namespace: the names that the file has defined.
        module: the name under which it was run.
    """
    found: dict[str, Callable[..., Any]] = {}
    for name, value in namespace.items():
        if not name.startswith("_") and at_home(value, module) and is_solver(value) and value not in found.values():
            found[name] = value
    return found


def near_misses(namespace: dict[str, Any], module: str) -> list[str]:
    """Why generators, and functions of a problem, are no solvers, in sentences."""
    said = []
    for name, value in namespace.items():
        if name.startswith("_") or not at_home(value, module) or is_solver(value):
            continue
        try:
            parameters = inspect.signature(value).parameters
        except (TypeError, ValueError):
            continue
        if is_generator(value) or next(iter(parameters), "") == SIGNATURE[0]:
            free = [p.name for p in list(parameters.values())[3:] if p.default is p.empty and p.name != "noise"]
            lacks = f"gives {' and '.join(free)} no default" if free else f"takes {len(parameters)} parameters"
            said.append(f"{name}{inspect.signature(value)} {lacks}")
    return said


def answered(test: Callable[..., bool]) -> Callable[..., bool]:
    """A question about an object of a student's: one that raises when it is looked at, whatever, is none of ours."""

    @wraps(test)
    def ask(*given: Any) -> bool:
        try:
            return test(*given)
        except BaseException:  # a mock that is its own attribute, or an attribute that ends Python
            return False

    return ask


@answered
def at_home(value: Any, module: str) -> bool:
    """Whether a function, or the class of a callable, was defined in the file itself."""
    if isinstance(value, type) or not callable(value):
        return False
    bare = inspect.unwrap(value.func if isinstance(value, partial) else value)
    return getattr(bare if inspect.isroutine(bare) else type(bare), "__module__", None) == module


@answered
def is_solver(value: Any) -> bool:
    """Whether a callable looks like a solver: by its claims, as a generator, or by the names of its parameters.

    The last catches a stub: a function whose body only raises has no ``yield`` and so is not a generator.
    """
    parameters = list(inspect.signature(value).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    free = [p for p in positional[3:] if p.default is p.empty and p.name != "noise"]
    free += [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "noise"]
    if len(positional) < 3 or free:
        return False
    declared = hasattr(value, "reaches_zero") and hasattr(value, "paper")
    return declared or is_generator(value) or tuple(p.name for p in positional[:3]) == SIGNATURE


def is_generator(value: Any) -> bool:
    """Whether a callable is a generator function, or an object whose ``__call__`` is one, decorated or not."""
    bare = inspect.unwrap(value.func if isinstance(value, partial) else value)
    bare = bare if inspect.isroutine(bare) else type(bare).__call__
    return inspect.isgeneratorfunction(bare)
