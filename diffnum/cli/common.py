"""What the commands share: the application, refusals in one line, readers of options, and the progress bar."""

import ast
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

T = TypeVar("T")


# ------------------------------------------------------------------------------------------------------- errors


def explained(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command end with one line on stderr and status 1 where the library refuses."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> T:
        try:
            return command(*args, **options)
        except Exception as error:
            from diffnum.errors import DiffnumError

            memory = "out of memory" in str(error).lower() or isinstance(error, MemoryError)
            if not memory and not isinstance(error, (ValueError, TypeError, KeyError, OSError, DiffnumError)):
                raise
            complain("out of memory; use a smaller --batch or --scale" if memory else sentence(error))
            raise typer.Exit(1) from None

    return run


def sentence(error: Exception) -> str:
    """What an exception says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError puts its message in quotes
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"diffnum: {message}", err=True)


# ----------------------------------------------------------------------------------------------- reading options


def make_device(name: str) -> Any:
    """The device, if this machine has it; "auto" is a GPU where there is one."""
    import torch

    from diffnum.devices import existing

    return existing(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def solver_options(solver: Callable[..., Any], given: list[str]) -> dict[str, Any]:
    """Options of a solver from ``key=value`` texts; each value is read as the type of the option's default."""
    known = {p.name: p.default for p in list(inspect.signature(solver).parameters.values())[3:] if p.name != "noise"}
    name, options = getattr(solver, "__name__", "the solver"), {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text!r} is not of the form key=value, such as --option order=3")
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no option {key!r}; {there}")
        options[key] = read_value(key, value, known[key])
    return options


def read_value(key: str, text: str, default: Any) -> Any:
    """A text as a value of the default's type; without a typed default as a Python literal, or else as text."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool) or default is None or default is inspect.Parameter.empty:
        words = {"true": True, "false": False, "yes": True, "no": False, "none": None}
        if text.lower() in words:
            return words[text.lower()]
        if isinstance(default, bool):
            raise ValueError(f"option {key}={text!r} must be true or false")
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    try:
        return type(default)(text)
    except (TypeError, ValueError):
        raise ValueError(f"option {key}={text!r} must be of type {type(default).__name__}, like {default!r}") from None


def classes(given: list[str]) -> list[str | int] | None:
    """Labels from ``--label``, each a name or number or several with commas between; ``all`` are the ten in order."""
    from diffnum.denoisers.guide import NAMES

    texts = [text.strip() for one in given for text in one.split(",")]
    names = [name for text in texts for name in (NAMES if text == "all" else (text,))]
    return [int(name) if name.isdecimal() else name for name in names] or None


def writable(path: Path, *suffixes: str, option: str = "--out") -> Path:
    """The path, if a file can be put there: asked before the work, so that no result is lost for want of a folder."""
    folder = path.parent
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path} must end with {' or '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file in it")
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: the folder {folder} does not exist; create it first (mkdir -p {folder})")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot write into {folder} ({error.strerror}); choose another") from None
    return path


def increasing(option: str, values: list[int]) -> tuple[int, ...]:
    """Positive whole numbers in increasing order, each once."""
    if not values or min(values) < 1:
        raise ValueError(f"{option} {' '.join(map(str, values))} must be at least 1")
    return tuple(sorted(set(values)))


def solver_with_options(text: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A solver and its options from ``name`` or ``name:key=value,key=value``."""
    from diffnum.solvers import find

    name, _, rest = text.partition(":")
    run = find(name)
    return run, solver_options(run, rest.split(",") if rest else [])


# ----------------------------------------------------------------------------------------------------- progress


class Meter:
    """A progress bar on stderr over the steps of one or several runs, with a rate; silent off a terminal.

    It watches a solver from outside: a generator around the generator. What it counts are network evaluations of one
    image each, shown as ``total`` units of which one evaluation is the fraction ``each``.
    """

    def __init__(self, verb: str, total: float, unit: str, each: float = 1.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn(verb), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.total, self.unit, self.each, self.done, self.begun = total, unit, each, 0.0, time.perf_counter()
        self.task = self.bar.add_task("", total=total, state="first evaluation")

    def __enter__(self) -> "Meter":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def watch(
        self, solver: Callable[..., Iterator[Any]], ends: dict[int, Any] | None = None
    ) -> Callable[..., Iterator[Any]]:
        """The same solver; each of its steps moves the bar. Its last states are kept in ``ends`` by number of steps."""

        @wraps(solver)
        def watched(problem: Any, u: Any, times: Any, **options: Any) -> Iterator[Any]:
            before = counted = problem.nfe
            for i, state in enumerate(solver(problem, u, times, **options), 1):
                advance, counted = len(u) * self.each * (problem.nfe - counted), problem.nfe
                self.done += advance
                rate = self.done / (time.perf_counter() - self.begun)
                name = getattr(solver, "__name__", "step")
                text = (
                    f"{name} {i}/{len(times) - 1}  NFE {counted - before}  {self.done:.0f}/{self.total:.0f} {self.unit}"
                )
                self.bar.update(self.task, advance=advance, state=f"{text}  {rate:.2f} {self.unit}/s")
                if ends is not None and i == len(times) - 1:
                    ends[i] = state
                yield state

        return watched
