"""What the commands share: the application, streams, refusals in one line, readers of options, the progress bar."""

import ast
import errno
import inspect
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import isqrt
from pathlib import Path
from typing import Any, TypeVar

import typer

from diffnum import files
from diffnum.arguments import whole
from diffnum.images import processes

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

T = TypeVar("T")
PIXELS = 2**30 // 12  # of a sheet: above this many Pillow takes a picture for an attack when it is opened


# ------------------------------------------------------------------------------------------------------ streams


class Stream:
    """stdout or stderr, for every reader: what its code page lacks is escaped, and one that has gone is no error."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._quiet():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        with self._quiet():
            self.stream.flush()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # `| head -1`, or a full disk: what is still buffered goes nowhere, and so does all that follows
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is what Windows says
                raise OSError(error.errno, error.strerror, "standard output") from None


# ------------------------------------------------------------------------------------------------------- errors


def explained(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command end with one line on stderr and status 1 where the library refuses, or where memory ends.

    A command with a parameter ``team`` is given the processes that share its work.
    """
    flags = {"batch": "--batch", "number": "-n", "nfe": "--nfe", "steps": "--steps", "scale": "--scale"}
    parameters = inspect.signature(command).parameters
    smaller = [flag for name, flag in flags.items() if name in parameters]
    command = processes.in_team(command) if "team" in parameters else command

    @wraps(command)
    def run(*args: Any, **options: Any) -> T:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *about, **more: complain(sentence(message))
                return command(*args, **options)
        except Exception as error:
            from diffnum.errors import DiffnumError

            if of_memory(error):
                less = f"out of memory; use a smaller {' or '.join(smaller)}" if smaller else "out of memory"
                complain(processes.signature() + less)
            elif isinstance(error, (ValueError, TypeError, KeyError, OSError, OverflowError, DiffnumError)):
                complain(processes.signature() + sentence(error))
            else:
                raise
            raise typer.Exit(1) from None

    return run


def of_memory(error: Exception) -> bool:
    """Whether there was too little memory, on a GPU or a CPU: torch has a class for the first alone."""
    words = ("out of memory", "not enough memory", "allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def sentence(error: Any) -> str:
    """What an exception or a warning says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError puts its message in quotes
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"diffnum: {message}", file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------- reading options


def make_device(name: str) -> Any:
    """The device, if this machine has it; "auto" is a GPU where there is one. Of several processes each has its own."""
    import torch

    from diffnum.devices import existing

    _, size, local = processes.place()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    return existing(f"cuda:{local}" if name == "cuda" and size > 1 else name)


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


def sheet_fits(number: int, columns: int | None, scale: int, out: Path) -> None:
    """Refuse a sheet of so many pictures of 32 x 32 pixels that is too large for a file anybody opens."""
    columns = min(columns or isqrt(number - 1) + 1, number)
    width, height = (n * (32 * scale + 2) + 2 for n in (columns, -(-number // columns)))
    if width * height > PIXELS:
        raise ValueError(
            f"{out} would have {width} x {height} pixels, more than the {PIXELS} that image readers open; use a "
            "smaller --scale or -n, or write arrays to a .npz file"
        )


def writable(path: Path, *suffixes: str, option: str = "--out", size: int = 0) -> Path:
    """The path, if a file of so many bytes can be put there: asked before the work, so that no result is lost.

    Raises:
        ValueError: another suffix, or no place to write to; the message says what to do.
    """
    path = files.place(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path} must end with {' or '.join(suffixes)}")
    try:
        files.probe(path, size)
    except OSError as error:
        raise ValueError(f"{option} {path}: {error.strerror}") from None
    return path


def increasing(option: str, values: list[int]) -> tuple[int, ...]:
    """Positive whole numbers in increasing order, each once."""
    return tuple(sorted({whole(option, value) for value in values}))


def solver_with_options(text: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A solver and its options from ``name`` or ``name:key=value,key=value``."""
    from diffnum.solvers import find

    name, _, rest = text.partition(":")
    run = find(name)
    return run, solver_options(run, rest.split(",") if rest else [])


# ----------------------------------------------------------------------------------------------------- progress


class Meter:
    """A progress bar on stderr over the steps of one or several runs, with a rate; silent off a terminal.

    Of a ``team`` the first shows it, for what all have done. It watches a solver from outside: a generator around the
    generator. What it counts are network evaluations of one row of a state each, shown as ``total`` units of which one
    evaluation is the fraction ``each``; with ``each`` None the evaluations of whole states. Without a total it only
    shows that work goes on.
    """

    def __init__(
        self,
        verb: str,
        total: float | None = None,
        unit: str = "evaluations",
        each: float | None = 1.0,
        state: str = "",
        team: processes.Team | None = None,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console, self.team = Console(stderr=True), team or processes.Team()
        self.bar = Progress(
            TextColumn(verb), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
            disable=not (console.is_terminal and self.team.first),
        )  # fmt: skip
        self.total, self.unit, self.each, self.begun = total, unit, each, time.perf_counter()
        self.task = self.bar.add_task("", total=total, state=state)
        self.team.wait()
        self.before = self.team.told(self.team.progress(0.0))  # what another bar has counted

    def __enter__(self) -> "Meter":
        if not self.bar.disable:
            self.bar.start()
        self.team.tick = lambda: self.bar.update(self.task, completed=self.done())  # others go on, too
        return self

    def __exit__(self, *error: object) -> None:
        self.team.tick = lambda: None
        if not self.bar.disable:  # it would print an empty line
            self.bar.stop()

    def done(self, more: float = 0.0) -> float:
        """Count what was done just now; the sum over the team."""
        return self.team.progress(more) - self.before

    def watch(
        self, solver: Callable[..., Iterator[Any]], ends: dict[int, Any] | None = None
    ) -> Callable[..., Iterator[Any]]:
        """The same solver; each of its steps moves the bar. Its last states are kept in ``ends`` by number of steps."""

        @wraps(solver)
        def watched(problem: Any, u: Any, times: Any, **options: Any) -> Iterator[Any]:
            return follow(solver(problem, u, times, **options), problem, u, len(times) - 1)  # refuses before a step

        def follow(steps: Iterator[Any], problem: Any, u: Any, n: int) -> Iterator[Any]:
            before = counted = problem.nfe
            weight = 1.0 if self.each is None else len(u) * self.each
            for i, state in enumerate(steps, 1):
                advance, counted = weight * (problem.nfe - counted), problem.nfe
                done = self.done(advance)
                rate = done / (time.perf_counter() - self.begun)
                name = getattr(solver, "__name__", "step")
                text = f"{name} {i}/{n}  NFE {counted - before}  {done:.0f}/{self.total or 0:.0f} {self.unit}"
                self.bar.update(self.task, completed=done, state=f"{text}  {rate:.2f} {self.unit}/s")
                if ends is not None and i == n:
                    ends[i] = state
                yield state

        return watched
