"""The command line: ``diffnum sample | solvers | order | compare | quality | train``.

Torch is imported inside the commands, so ``diffnum --help`` answers at once. Every refusal is one line on stderr that
begins with ``diffnum:`` and says what to do; the exit status is 0 for success, 1 for a refusal (or an order that is not
confirmed), 2 for a mistake in the command itself.
"""

import ast
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import typer

from diffnum import named
from diffnum.named import GRIDS, PROCESSES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

DTYPES = ("float32", "float64", "bfloat16")
BATCH = 32  # images per network call: larger batches are no faster on two cores, and the bar moves less often
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


def main() -> None:
    """The entry point ``diffnum``: usage mistakes, too, are one line, and none is a traceback."""
    try:
        status = app(standalone_mode=False)
        if status == 130:
            complain("interrupted")
    except KeyboardInterrupt:
        complain("interrupted")
        status = 130
    except Exception as error:
        # Typer's usage errors know how to word themselves; its own copy of click has no public name to catch.
        if type(error).__name__ == "Abort":
            complain("interrupted")
            sys.exit(130)
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
        else:
            complain(f"{' '.join(error.format_message().split())} (diffnum --help shows what there is)")
        status = error.exit_code
    sys.exit(status if isinstance(status, int) else 0)


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
    from diffnum.runner import find

    name, _, rest = text.partition(":")
    run = find(name)
    return run, solver_options(run, rest.split(",") if rest else [])


# ------------------------------------------------------------------------------------------------------ commands


def _version(asked: bool) -> None:
    if asked:
        from diffnum import __version__

        typer.echo(f"diffnum {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Diffusion samplers as numerical methods: draw images, list the solvers, measure their orders.

    [bold]diffnum sample[/bold] draws 64 images; [bold]diffnum order --solver f_pndm[/bold] measures an order.
    """
    # Idle threads sleep instead of spinning: no slower on a free machine, and many times faster on a busy one. It is
    # read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command()
@explained
def sample(
    solver: str = typer.Option("f_pndm", help="How to integrate; `diffnum solvers` lists them."),
    steps: int = typer.Option(20, help="Steps of the grid. F-PNDM spends steps + 9 network evaluations."),
    process: str = typer.Option(
        "vp", help=f"Noising process: {', '.join(PROCESSES)}. One network serves all but blurring."
    ),
    grid: str = typer.Option("log_snr", help=f"Where the steps stand: {', '.join(GRIDS)}."),
    t_end: float = typer.Option(None, help="Last time. By default 0.001 (VP) or 0.002 (VE), almost no noise."),
    denoise: bool = typer.Option(False, help="End with the predicted clean image: one more evaluation."),
    number: int = typer.Option(64, "-n", "--number", help="How many images."),
    batch: int = typer.Option(BATCH, help="Images per network call: speed and memory only, the images stay the same."),
    seed: int = typer.Option(0, help="Image i depends on the seed and on i alone."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..., or auto: a GPU where there is one."),
    dtype: str = typer.Option("float32", help=f"Precision of the states: {', '.join(DTYPES)}."),
    option: list[str] = typer.Option([], help="Option of the solver as key=value; repeat for several."),
    network: str = typer.Option("cifar10", help="A shipped network, or a .safetensors file of `diffnum train`."),
    columns: int = typer.Option(None, help="Images in a row of the sheet; by default as square as possible."),
    scale: int = typer.Option(2, help="Enlarge each pixel of the sheet to a square of this size."),
    npz: bool = typer.Option(False, "--npz", help="Also write the images and how they were made to a .npz file."),
    out: Path = typer.Option("samples.png", help="The sheet, a .png file; a name in .npz writes the arrays alone."),
) -> None:
    """Draw images with a network and write them to one sheet.

    64 CIFAR-10 images by F-PNDM in 20 steps (29 network evaluations):

        diffnum sample

    The same start noise through DDIM at the same cost, and Heun's method on VE:

        diffnum sample --solver ddim --steps 29 --out ddim.png

        diffnum sample --solver heun --process ve --grid karras --out ve.png

    A solver's own options, and arrays to compute with (samples.npz):

        diffnum sample --solver pndm_variable --option order=3 --npz -n 16
    """
    for name, value in (("-n", number), ("--steps", steps), ("--batch", batch), ("--scale", scale)):
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    if columns is not None and columns < 1:
        raise ValueError(f"--columns {columns} must be at least 1")
    named.choose("dtype", dtype, DTYPES)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS)
    writable(out, ".png", ".npz")
    arrays = out if out.suffix.lower() == ".npz" else writable(out.with_suffix(".npz"), ".npz") if npz else None

    import numpy as np
    import torch

    from diffnum import Problem, __version__
    from diffnum.files import write
    from diffnum.images.quality import batches
    from diffnum.measure import plots
    from diffnum.measure.analysis import evaluations
    from diffnum.runner import find

    run, where = find(solver), make_device(device)
    options = solver_options(run, option)
    noising = named.process(process)
    times = named.grid(grid)(noising, steps, t_end=t_end)
    denoiser = named.network(network, process)
    problem = Problem(noising, denoiser)

    claimed = evaluations(noising, run, len(times) - 1, float(times[-1]), **options)
    parts, begun, nfe = [], time.perf_counter(), 0
    with Meter("sampling", number, "images", 1 / claimed) as meter:
        for solution in batches(
            problem, meter.watch(run), times, number, seed=seed, batch=batch, device=where,
            dtype=getattr(torch, dtype), denoise=denoise, **options,
        ):  # fmt: skip
            nfe = solution.nfe
            parts.append(solution.x.to("cpu", torch.float64 if dtype == "float64" else torch.float32))
    seconds, x = time.perf_counter() - begun, torch.cat(parts)

    pixels = plots.to_uint8(x)  # refuses NaN before anything is written
    if arrays is not None:
        about: dict[str, Any] = {
            "images": pixels.numpy(), "x": x.numpy(), "seed": seed, "solver": solver, "steps": steps, "nfe": nfe,
            "grid": grid, "times": times.numpy(), "process": process, "denoise": denoise, "options": repr(options),
            "dtype": dtype, "device": str(where), "network": network, "weights_sha256": getattr(denoiser, "sha256", ""),
            "diffnum": __version__, "torch": torch.__version__,
        }  # fmt: skip
        write(arrays, lambda file: np.savez_compressed(file, **about))
    if out != arrays:
        plots.sheet(x, columns, out, scale)
    written = " and ".join(str(path) for path in dict.fromkeys((out, arrays)) if path is not None)
    typer.echo(
        f"{number} image{'s' if number > 1 else ''}, {nfe} network evaluations each, "
        f"{seconds:.1f} s, {number / seconds:.2f} images/s -> {written}"
    )


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


@app.command()
@explained
def solvers() -> None:
    """List the solvers with what each claims: order, cost, and where it is from.

    The order is that on the log_snr grid; where it differs on another grid or with an option, that is added. Claims are
    measured by the library's tests, and by you:

        diffnum order --solver ddim
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from diffnum.solvers import registry

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("solver", "order", "NFE", "kind", "processes", "what it is", "source"):
        table.add_column(header, no_wrap=header in ("solver", "NFE", "kind"))
    for name, run in registry.items():
        claims: Any = run
        summary = (inspect.getdoc(run) or "").splitlines()[0].rstrip(".").replace(":math:", "").replace("`", "")
        table.add_row(
            name, orders(claims), cost(claims), claims.kind, ", ".join(claims.families), summary, claims.paper
        )
    console = Console()
    console.print(table, markup=False) if console.is_terminal else Console(width=220).print(table, markup=False)


def orders(run: Any) -> str:
    """The claimed order on the log_snr grid, then where it differs: ``2 (sigma grid: 4; midpoint=sigma: 4)``."""
    usual = run.order(grid="log_snr")
    cases = [(f"{grid} grid", run.order(grid=grid)) for grid in GRIDS]
    cases += [(f"{k}={v}", run.order(grid="log_snr", **{k: v})) for k, known in run.values.items() for v in known]
    if "phi" in inspect.signature(run.order).parameters:
        cases.append(("phi=x", run.order(grid="log_snr", phi="x")))
    elsewhere = "; ".join(f"{case}: {p}" for case, p in cases if p != usual)
    return f"{'weak ' if run.kind == 'sde' else ''}{usual}{f' ({elsewhere})' if elsewhere else ''}"


def cost(run: Any) -> str:
    """Evaluations for n steps as a formula, from the claim at 20 and 40 steps: ``n + 9``."""
    a, b = run.nfe(20), run.nfe(40)
    slope = (b - a) // 20
    offset = a - 20 * slope
    return f"{'' if slope == 1 else f'{slope}'}n" + (f" + {offset}" if offset else "")


@app.command()
@explained
def order(
    solver: str = typer.Option(..., help="The solver to measure; `diffnum solvers` lists them."),
    grid: str = typer.Option("log_snr", help=f"Where the steps stand: {', '.join(GRIDS[:-1])}."),
    process: str = typer.Option("vp", help=f"Noising process: {', '.join(PROCESSES)}."),
    steps: str = typer.Option("10,20,40,80,160,320,640", help="Increasing step counts. Only the fine end is judged."),
    target: str = typer.Option("smooth", help="Exact problem in R^4: smooth (a mixture), thin (on planes), gaussian."),
    t_end: float = typer.Option(None, help="Last time; claims hold for the default. With 0, F-PNDM falls to order 1."),
    seed: int = typer.Option(0, help="Seed of the 8 start states."),
    option: list[str] = typer.Option([], help="Option of the solver as key=value; repeat for several."),
    out: Path = typer.Option(None, help="The plot, a .png file; by default SOLVER_order.png."),
) -> None:
    """Measure the order of a solver on an exact problem, in float64, and compare it with its claim.

    The weak order of a stochastic solver is that of mean and covariance on Gaussian data, found without sampling.

    Prints errors and local slopes, writes the plot, and exits with status 0 if the last two slopes above rounding agree
    with the claim, 1 if not:

        diffnum order --solver f_pndm

    prk is of order 4 once its stages stand in the middle of sigma/alpha, not of t:

        diffnum order --solver prk --option midpoint=sigma
    """
    try:
        counts = tuple(int(n) for n in steps.split(","))
    except ValueError:
        raise ValueError(f"--steps {steps!r} must be whole numbers between commas, such as 40,80,160") from None
    if len(counts) < 2 or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        raise ValueError(f"--steps {steps} must be at least two positive numbers that increase, such as 40,80,160")
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS[:-1])
    path = writable(Path(f"{solver}_order.png") if out is None else out, ".png")
    os.environ.setdefault("MPLBACKEND", "agg")  # a file, not a window

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from diffnum import Problem
    from diffnum.denoisers import targets
    from diffnum.measure import plots
    from diffnum.measure.analysis import convergence, ladder, weak_convergence
    from diffnum.measure.checks import assert_order
    from diffnum.runner import find

    run = find(solver)
    options = solver_options(run, option)
    noising = named.process(process)
    if noising.family == "blurring":
        raise ValueError("--process blurring acts on images, and the exact problems here are vectors; use cld or psld")
    times = ladder(named.grid(grid), noising, t_end=t_end)
    if getattr(run, "kind", "ode") == "sde":
        target = "gaussian"
        result = weak_convergence(Problem(noising, targets.gaussian()), run, times, counts, **options)
    else:
        problem = Problem(noising, targets.target(target))
        result = convergence(problem, run, targets.starts(noising, seed=seed), times, counts, **options)

    title = f"{result.name}: {target} target, {process}, {grid} grid"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for header in ("steps", "NFE", "error", "slope"):
        table.add_column(header, justify="right")
    slopes = ["", *(f"{slope:.2f}" for slope in result.slopes)]
    for n, nfe, error, slope in zip(result.steps, result.nfe, result.errors, slopes, strict=True):
        table.add_row(str(n), str(nfe), f"{error:.2e}", slope)
    Console().print(table, markup=False)
    plots.use()
    ax = plots.convergence(result)
    ax.set_title(f"{result.name} on the {grid} grid ({process}, {target} target)")
    plots.save(ax, path)
    try:
        assert_order(result)
        verdict, status = f"order {result.claim} is claimed, {result.order:.2f} observed: confirmed", 0
    except AssertionError as error:
        # slopes that still change say that the steps are too long, not that the claim is wrong
        moving = len(result.tail) > 1 and abs(result.tail[-1] - result.tail[-2]) > 0.15
        hint = "; the slopes still change, so try more --steps or another --grid" if moving else ""
        verdict, status = f"not confirmed: {str(error).splitlines()[0]}{hint}", 1
    typer.echo(f"{verdict} -> {path}")
    raise typer.Exit(status)


@app.command()
@explained
def compare(
    solver: list[str] = typer.Option(
        ["ddim", "f_pndm", "dpmpp_2m", "edm_heun"], help="A solver, as NAME or NAME:key=value,key=value; repeat."
    ),
    nfe: list[int] = typer.Option([10, 20, 50], help="Budget of network evaluations; repeat for several."),
    target: str = typer.Option(
        "smooth", help="Exact problem (smooth, thin, gaussian), or a network: cifar10 or a .safetensors file."
    ),
    process: str = typer.Option("vp", help=f"Noising process: {', '.join(PROCESSES)}."),
    grid: str = typer.Option("log_snr", help=f"Where the steps stand, for all solvers: {', '.join(GRIDS[:-1])}."),
    t_end: float = typer.Option(None, help="Last time. By default 0.001 (VP) or 0.002 (VE), almost no noise."),
    number: int = typer.Option(8, "-n", "--number", help="How many start states, or images."),
    seed: int = typer.Option(0, help="Seed of the start states, which all solvers share."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..., or auto: a GPU where there is one."),
    scale: int = typer.Option(2, help="Enlarge each pixel of the images to a square of this size."),
    out: Path = typer.Option(None, help="Also draw error against evaluations, a .png file."),
    images: Path = typer.Option(
        None, help="Network only: images at the smallest budget, one row per solver, the reference last; a .png file."
    ),
) -> None:
    """Compare solvers on one problem and one grid rule: error against network evaluations.

    Each solver takes as many steps as a budget allows. The error is the distance from the exact solution of the same
    ODE, in float64; with a network, from the network's own reference solution, in float32:

        diffnum compare --solver ddim --solver f_pndm --solver dpmpp_2m --nfe 10 --nfe 20 --nfe 50 --out work.png

    Options of a solver follow its name:

        diffnum compare --solver f_pndm --solver pndm_variable:order=3 --solver prk:midpoint=sigma --grid karras

    Eight images by three solvers from the same start noise:

        diffnum compare --target cifar10 --solver ddim --solver plms --solver dpmpp_2m --nfe 10 --images rows.png
    """
    for name, value in (("-n", number), ("--scale", scale)):
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    budgets = increasing("--nfe", nfe)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS[:-1])
    for path, option in ((out, "--out"), (images, "--images")):
        if path is not None:
            writable(path, ".png", option=option)
    if images is not None and out is not None and images.resolve() == out.resolve():
        raise ValueError(f"--out and --images are both {out}; name two files")
    os.environ.setdefault("MPLBACKEND", "agg")  # a file, not a window

    import torch
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from diffnum import Problem
    from diffnum.denoisers import targets
    from diffnum.denoisers.network import available
    from diffnum.measure import plots
    from diffnum.measure.analysis import evaluations, ladder, name_of, steps_within, work_precision

    entries = [solver_with_options(text) for text in solver]
    where, noising = make_device(device), named.process(process)
    exact = target in targets.targets
    if not target.endswith(".safetensors"):
        named.choose("target", target, (*targets.targets, *available()))
    if images is not None and exact:
        raise ValueError(f"--images needs a network; the states of the target {target!r} are no images")
    problem = Problem(noising, targets.target(target) if exact else named.network(target, process))
    u = problem.prior(
        (number, *problem.denoiser.shape), dtype=torch.float64 if exact else torch.float32, device=where, seed=seed
    )
    times = ladder(named.grid(grid), noising, t_end=t_end)
    last = float(times(1)[-1])
    fine = 0 if exact else 2 * max(10, budgets[-1] // 4)  # steps of the reference of a network
    if fine and noising.singular(last):
        raise ValueError("--t-end 0: a network's reference solution cannot end there; leave --t-end out")
    planned = 0
    for run, options in entries:
        counts = {steps_within(budget, noising, run, last, **options) for budget in budgets}
        planned += sum(evaluations(noising, run, n, last, **options) for n in counts if n)

    ends: list[dict[int, Any]] = [{} for _ in entries]
    reference: list[Any] = []  # the solution and how wrong it is, once it has been computed
    with Meter("comparing", number * (planned + 6 * fine), "evaluations") as meter:

        def truth() -> Any:
            reference.extend(network_reference(problem, u, last, fine, meter))
            return reference[0]

        watched = [(meter.watch(run, end), options) for (run, options), end in zip(entries, ends, strict=True)]
        work = work_precision(problem, watched, u, times, budgets, truth=truth if fine else None)

    about = f"{target}, {process}, {grid} grid, {number} start{'s' if number > 1 else ''}"
    header, *rows = work.cells()
    typer.echo(f"evaluations spent and error: {about}")
    table = Table(box=SIMPLE_HEAD)
    for i, text in enumerate(header):
        table.add_column(text, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)
    for line in work.notes():
        typer.echo(line)
    finite = [nfe for r in work.results for nfe, error in zip(r.nfe, r.errors, strict=True) if isfinite(error)]
    for budget in budgets:
        if finite and min(finite) <= budget:
            name, spent, error = work.best(budget)
            typer.echo(f"best within {budget}: {name} with {spent}, error {error:.1e}")
    if reference:
        typer.echo(f"reference: prk with {4 * fine} evaluations, itself wrong by about {reference[1]:.0e}")
    if out is not None:
        plots.use()
        ax = plots.work_precision(work)
        ax.set_title(about)
        plots.save(ax, out)
    if images is not None:
        shown = {
            name_of(run, **options): end[min(end)] for (run, options), end in zip(entries, ends, strict=True) if end
        }
        x = torch.cat([*map(noising.decode, shown.values()), noising.decode(reference[0])]).float().cpu()
        plots.sheet(x.nan_to_num(0, 0, 0), number, images, scale)  # a lost image is grey
        typer.echo(f"rows of {images}: {'; '.join(shown)}; reference")
    written = " and ".join(str(path) for path in (out, images) if path is not None)
    if written:
        typer.echo(f"-> {written}")


def network_reference(problem: Any, u: Any, end: float, steps: int, meter: Any) -> tuple[Any, float]:
    """The solution of a network's ODE by a fourth-order method, and about how wrong it is: a fifteenth of the change
    from half the steps."""
    from diffnum import grids, solve
    from diffnum.measure.analysis import rms
    from diffnum.solvers import prk

    watched = meter.watch(prk)
    coarse, fine = (
        solve(problem, watched, u, grids.log_snr(problem.process, n, t_end=end), midpoint="sigma").u
        for n in (steps // 2, steps)
    )
    return fine.double(), rms(fine - coarse) / 15


@app.command()
@explained
def quality(
    solver: str = typer.Option("f_pndm", help="How to integrate; `diffnum solvers` lists them."),
    steps: int = typer.Option(20, help="Steps of the grid."),
    process: str = typer.Option("vp", help=f"Noising process: {', '.join(PROCESSES)}."),
    grid: str = typer.Option("log_snr", help=f"Where the steps stand: {', '.join(GRIDS)}."),
    t_end: float = typer.Option(None, help="Last time. By default 0.001 (VP) or 0.002 (VE), almost no noise."),
    denoise: bool = typer.Option(False, help="End with the predicted clean image: one more evaluation."),
    number: int = typer.Option(1000, "-n", "--number", help="How many images; more go on from those drawn before."),
    seed: int = typer.Option(0, help="Image i depends on the seed and on i alone: equal seeds make paired runs."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..., or auto: a GPU where there is one."),
    half: bool = typer.Option(False, help="Evaluate the network in bfloat16: faster, and wrong by about 1 %."),
    option: list[str] = typer.Option([], help="Option of the solver as key=value; repeat for several."),
    network: str = typer.Option("cifar10", help="A shipped network, or a .safetensors file of `diffnum train`."),
    folder: Path = typer.Option(".runs/quality", help="Keeps the images; an interrupted run goes on from there."),
    against: Path = typer.Option(
        None, help="A result of another run with the same seed, to compare with image by image."
    ),
    out: Path = typer.Option(None, help="The result, a .json file; by default SOLVER_quality.json."),
) -> None:
    """Draw many images and measure their distance from CIFAR-10, with an interval.

    The Fréchet distance is that of the features of the shipped classifier, extrapolated to infinitely many images: it
    compares samplers with each other, and is no FID. The result holds all that is needed to repeat it:

        diffnum quality --solver f_pndm --steps 20 -n 1000 --out f_pndm.json

    A paired comparison, from the same start noise:

        diffnum quality --solver ddim --steps 29 -n 1000 --against f_pndm.json
    """
    for name, value, least in (("-n", number, 4), ("--steps", steps, 1)):  # an interval needs halves of two images
        if value < least:
            raise ValueError(f"{name} {value} must be at least {least}")
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS)
    path = writable(Path(f"{solver}_quality.json") if out is None else out, ".json")
    if against is not None and against.resolve() == path.resolve():
        raise ValueError(f"the result would overwrite --against {against}; name another --out")

    import json

    from diffnum.files import write
    from diffnum.images import quality as measuring
    from diffnum.measure.analysis import evaluations
    from diffnum.runner import find

    run, where = find(solver), make_device(device)
    options = solver_options(run, option)
    recipe = measuring.recipe(
        solver, steps, process, grid, t_end, options, denoise, network, half, seed, device=str(where)
    )
    other = measuring.result(against) if against is not None else None
    if other is not None and (other["recipe"]["seed"], other["n"]) != (seed, number):
        raise ValueError(
            f"--against {against} has seed {other['recipe']['seed']} and {other['n']} images; pairs need the same "
            f"(--seed {other['recipe']['seed']} -n {other['n']})"
        )
    noising = named.process(process)
    claimed = evaluations(noising, run, steps, recipe["t_end"], **options)
    measuring.statistics()  # refused before the work, as is what --against needs
    before = None if other is None else measuring.images(other["recipe"], number, folder)[0]
    missing = max(number - measuring.drawn(recipe, folder), 0)
    with Meter("sampling", missing, "images", 1 / claimed) as meter:
        drawn, nfe, lost = measuring.images(recipe, number, folder, meter.watch, where)
    found = measuring.score(recipe, drawn, nfe, lost)
    text = f"{number} images, {nfe} network evaluations each"
    typer.echo(text + (f", {lost} lost to NaN or infinity" if lost else ""))
    for name, key in (("Fréchet distance", "frechet"), ("kernel distance", "kernel")):
        d = found[key]
        typer.echo(
            f"{name}: {d['limit']:.4g}, 95 % interval {d['low']:.4g} to {d['high']:.4g} (as drawn {d['value']:.4g})"
        )
    if other is not None and before is not None:
        d = measuring.compare(drawn, before)
        found["against"] = {"recipe": other["recipe"], **d}
        typer.echo(
            f"difference from {other['recipe']['solver']} at {other['nfe']}: {d['limit']:.4g}, 95 % interval "
            f"{d['low']:.4g} to {d['high']:.4g}; that it is better: {d['verdict']}"
        )
    write(path, lambda file: file.write(json.dumps(found, indent=1).encode()))
    typer.echo(f"-> {path}")


@app.command()
@explained
def train(
    data: str = typer.Option(None, help="Folder or file with CIFAR-10; by default it is found or fetched."),
    out: str = typer.Option(None, help="Folder for weights, card, log and checkpoint; by default .runs/cifar10-KIND."),
    kind: str = typer.Option(
        "edm", help="edm (white noise), blurring (a level per frequency) or features (classifier)."
    ),
    minutes: float = typer.Option(None, help="Stop after this long; by default 3 minutes."),
    images: int = typer.Option(None, help="Stop after this many images."),
    size: str = typer.Option("small", help="tiny, small (5.0 M parameters) or large (7.7 M)."),
    init: str = typer.Option(None, help="Start from this network (a name or a .safetensors file)."),
    batch: int = typer.Option(None, help="Images per step; by default 128, for features 1000."),
    lr: float = typer.Option(None, help="Peak learning rate; by default 0.0007, for features 0.2."),
    warmup: int = typer.Option(300, help="Steps until the peak rate."),
    average: int = typer.Option(
        None, help="Half-life, in images, of the moving average; by default 180000, for features 10000."
    ),
    seed: int = typer.Option(0, help="Seed of weights, noise and order of images."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the checkpoint in the folder."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto: a GPU where there is one."),
) -> None:
    """Train a denoiser on CIFAR-10; better weights need a GPU and some hours.

    diffnum train --minutes 30 --out .runs/mine

    diffnum sample --network .runs/mine/mine.safetensors
    """
    where = None if device == "auto" else str(make_device(device))
    from diffnum.images.train import train as run

    path = run(
        data, out, kind, minutes=minutes, images=images, size=size, init=init, batch=batch, lr=lr, warmup=warmup,
        average=average, seed=seed, resume=resume, device=where,
    )  # fmt: skip
    typer.echo(f"-> {path}")


if __name__ == "__main__":
    main()
