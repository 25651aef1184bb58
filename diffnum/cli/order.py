"""``diffnum order``."""

import os
from itertools import pairwise
from pathlib import Path

import typer

from diffnum import named
from diffnum.cli.common import Meter, app, explained, solver_options, whole, writable
from diffnum.named import GRIDS, PROCESSES


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
    whole("--steps", counts[-1])
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS[:-1])
    path = writable(Path(f"{Path(solver).name}_order.png") if out is None else out, ".png")
    os.environ.setdefault("MPLBACKEND", "agg")  # a file, not a window

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from diffnum import Problem
    from diffnum.denoisers import targets
    from diffnum.measure import plots
    from diffnum.measure.analysis import convergence, evaluations, ladder, weak_convergence
    from diffnum.measure.checks import assert_order
    from diffnum.solvers import find

    run = find(solver)
    options = solver_options(run, option)
    noising = named.process(process)
    if noising.family == "blurring":
        raise ValueError("--process blurring acts on images, and the exact problems here are vectors; use cld or psld")
    times = ladder(named.grid(grid), noising, t_end=t_end)
    weak = getattr(run, "kind", "ode") == "sde"
    target = "gaussian" if weak else target
    problem = Problem(noising, targets.target(target))
    planned = (1 + weak) * sum(evaluations(noising, run, n, float(times(n)[-1]), **options) for n in counts)
    with Meter("measuring", planned, "evaluations", None, state="" if weak else "reference solution") as meter:
        watched = meter.watch(run)
        if weak:
            result = weak_convergence(problem, watched, times, counts, **options)
        else:
            result = convergence(problem, watched, targets.starts(noising, seed=seed), times, counts, **options)

    plots.use()
    ax = plots.convergence(result)
    ax.set_title(f"{result.name} on the {grid} grid ({process}, {target} target)")
    plots.save(ax, path)

    title = f"{result.name}: {target} target, {process}, {grid} grid"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for header in ("steps", "NFE", "error", "slope"):
        table.add_column(header, justify="right")
    slopes = ["", *(f"{slope:.2f}" for slope in result.slopes)]
    for n, nfe, error, slope in zip(result.steps, result.nfe, result.errors, slopes, strict=True):
        table.add_row(str(n), str(nfe), f"{error:.2e}", slope)
    Console().print(table, markup=False)
    try:
        assert_order(result)
        verdict, status = f"order {result.claim} is claimed, {result.order:.2f} observed: confirmed", 0
    except AssertionError as error:
        # slopes that still change say that the steps are too long, not that the claim is wrong
        moving = len(result.tail) > 1 and abs(result.tail[-1] - result.tail[-2]) > 0.15
        hint = "; the slopes still change, so try more --steps or another --grid" if moving else ""
        verdict, status = f"not confirmed: {str(error).splitlines()[0]}{hint}", 1
    print(f"{verdict} -> {path}")
    raise typer.Exit(status)
