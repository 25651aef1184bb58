"""``diffnum order``."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from diffnum import named
from diffnum.arguments import whole
from diffnum.cli import shared
from diffnum.cli.common import Meter, app, explained, solver_options, writable
from diffnum.named import GRIDS, PROCESSES


@app.command()
@explained
def order(
    solver: str = typer.Option(..., help="The solver to measure; `diffnum solvers` lists them."),
    grid: shared.SmoothGrid = "log_snr",
    process: shared.Process = "vp",
    steps: str = typer.Option(None, help="Increasing step counts; by default 40 to 640. Only the fine end is judged."),
    target: shared.Target = "smooth",
    t_start: float = typer.Option(
        None, help="First time; by default where sigma/alpha is 3. Prior: 1 (vp, cld, psld)."
    ),
    t_end: float = typer.Option(None, help="Last time; by default where it is 0.05. With 0, F-PNDM falls to order 1."),
    seed: int = typer.Option(0, help="Seed of the 8 start states."),
    option: shared.Settings = [],
    out: Path = typer.Option(None, help="The plot, a .png file; by default SOLVER_order.png."),
) -> None:
    """Measure the order of a solver on an exact problem, in float64, and compare it with its claim.

    Steps and ends are by default those on which the claims can be seen (a sigma grid runs from 1 to 0.1). The weak
    order of a stochastic solver is that of mean and covariance on Gaussian data, found without sampling.

    Prints errors and local slopes, writes the plot, and exits with status 0 if the last two slopes above rounding agree
    with the claim, 1 if not:

        diffnum order --solver f_pndm

    prk is of order 4 once its stages stand in the middle of sigma/alpha, not of t:

        diffnum order --solver prk --option midpoint=sigma
    """
    try:
        counts = tuple(int(n) for n in steps.split(",")) if steps is not None else ()
    except ValueError:
        raise ValueError(f"--steps {steps!r} must be whole numbers between commas, such as 40,80,160") from None
    if steps is not None and (len(counts) < 2 or counts[0] < 1 or any(a >= b for a, b in pairwise(counts))):
        raise ValueError(f"--steps {steps} must be at least two positive numbers that increase, such as 40,80,160")
    whole("--steps", counts[-1] if counts else 1)
    whole("--seed", seed, 0, 2**64 - 1)
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
    from diffnum.measure.analysis import convergence, evaluations, kind_of, ladder, weak_convergence
    from diffnum.measure.checks import assert_order
    from diffnum.measure.standard import RANGES
    from diffnum.solvers import find

    run = find(solver)
    options = solver_options(run, option)
    noising = named.process(process)
    if noising.family == "blurring":
        raise ValueError("--process blurring acts on images, and the exact problems here are vectors; use cld or psld")
    standard = RANGES.get(grid, RANGES["log_snr"])
    counts = counts or standard.steps
    first = noising.time_of_rho(standard.start) if t_start is None else t_start
    times = ladder(named.grid(grid), noising, t_start=first,
                   t_end=noising.time_of_rho(standard.end) if t_end is None else t_end)  # fmt: skip
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
    claims: Any = run
    try:
        assert_order(result)
        verdict, status = f"order {result.claim} is claimed, {result.order:.2f} observed: confirmed", 0
        above = claims.order(grid=kind_of(times(counts[-1]), noising), process=noising, **options)
        if above != result.claim and t_start is None:
            verdict += f" (started at the prior, --t-start {noising.t_max:g}, it claims {above})"
    except AssertionError as error:
        # slopes that still change say that the steps are too long, not that the claim is wrong
        moving = len(result.tail) > 1 and abs(result.tail[-1] - result.tail[-2]) > 0.15
        hint = "; the slopes still change, so try more --steps or another --grid" if moving else ""
        said = str(error).splitlines()
        verdict, status = f"not confirmed: {said[0]}{hint}", 1
        if said[1].startswith("the grids run"):
            verdict += f"; {said[1]}"
    print(f"{verdict} -> {path}")
    raise typer.Exit(status)
