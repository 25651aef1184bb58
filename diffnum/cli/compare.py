"""``diffnum compare``."""

import os
from math import isfinite
from pathlib import Path
from typing import Any

import typer

from diffnum import named
from diffnum.arguments import whole
from diffnum.cli import shared
from diffnum.cli.common import (
    Meter,
    app,
    complain,
    explained,
    increasing,
    make_device,
    sheet_fits,
    solver_with_options,
    writable,
)  # fmt: skip
from diffnum.images.processes import Team
from diffnum.named import GRIDS, PROCESSES


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
    process: shared.Process = "vp",
    grid: str = typer.Option("log_snr", help=f"Where the steps stand, for all solvers: {', '.join(GRIDS[:-1])}."),
    t_end: shared.End = None,
    number: int = typer.Option(8, "-n", "--number", help="How many start states, or images."),
    seed: int = typer.Option(0, help="Seed of the start states, which all solvers share."),
    device: shared.Device = "cpu",
    scale: int = typer.Option(2, help="Enlarge each pixel of the images to a square of this size."),
    out: Path = typer.Option(None, help="Also draw error against evaluations, a .png file."),
    images: Path = typer.Option(
        None, help="Network only: images at the smallest budget, one row per solver, the reference last; a .png file."
    ),
    *,
    team: Team,
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
        whole(name, value)
    budgets = increasing("--nfe", nfe)
    whole("--seed", seed, 0, 2**64 - 1)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS[:-1])
    out, images = (
        None if path is None else writable(path, ".png", option=option)
        for path, option in ((out, "--out"), (images, "--images"))
    )  # fmt: skip
    if images is not None:
        sheet_fits((len(solver) + 1) * number, number, scale, images)
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
    from diffnum.images.quality import FAR, TOO_MANY, outside
    from diffnum.measure import plots
    from diffnum.measure.analysis import evaluations, ladder, name_of, rms, steps_within, work_precision

    entries = [solver_with_options(text) for text in solver]
    where, noising = make_device(device), named.process(process)
    exact = target in targets.targets
    if not target.endswith(".safetensors"):
        named.choose("target", target, (*targets.targets, *available()))
    if images is not None and exact:
        raise ValueError(f"--images needs a network; the states of the target {target!r} are no images")
    problem = Problem(noising, targets.target(target) if exact else named.network(target, process))
    mine = team.part(number)  # rows of this process
    u = problem.prior(
        (max(len(mine), 1), *problem.denoiser.shape), dtype=torch.float64 if exact else torch.float32, device=where,
        seed=seed, indices=mine or [0],
    )  # fmt: skip
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
    with Meter("comparing", number * (planned + 6 * fine), "evaluations", team=team) as meter:

        def truth() -> Any:
            reference.extend(network_reference(problem, u, last, fine, meter))
            return reference[0]

        watched = [(meter.watch(run, end), options) for (run, options), end in zip(entries, ends, strict=True)]
        work = work_precision(problem, watched, u, times, budgets, truth=truth if fine else None) if mine else None
        ends = [{n: state.cpu() for n, state in end.items()} for end in ends]
        found = team.gather((work, ends, [x.cpu() for x in reference[:1]] + reference[1:]))
    if found is None:
        return
    parts = [part for part in found if part[0] is not None]
    work = together([part[0] for part in parts])
    ends = [{n: torch.cat([part[1][i][n] for part in parts]) for n in end} for i, end in enumerate(parts[0][1])]
    if reference:
        reference = [torch.cat([part[2][0] for part in parts]), rms(torch.tensor([part[2][1] for part in parts]))]

    about = f"{target}, {process}, {grid} grid, {number} start{'s' if number > 1 else ''}"
    shown = {name_of(run, **options): end[min(end)] for (run, options), end in zip(entries, ends, strict=True) if end}
    if out is not None:
        plots.use()
        ax = plots.work_precision(work)
        ax.set_title(about)
        plots.save(ax, out)
    bad = []  # rows of the sheet that are no images
    if images is not None:
        drawn = [noising.decode(state).float().cpu() for state in (*shown.values(), reference[0])]
        plots.sheet(torch.cat(drawn).nan_to_num(0, 0, 0), number, images, scale)  # a lost image is grey
        bad = [name for name, x in zip((*shown, "reference"), drawn, strict=True) if outside(x) > TOO_MANY]

    header, *rows = work.cells()
    print(f"evaluations spent and error: {about}")
    table = Table(box=SIMPLE_HEAD)
    for i, text in enumerate(header):
        table.add_column(text, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)
    for line in work.notes():
        print(line)
    finite = [nfe for r in work.results for nfe, error in zip(r.nfe, r.errors, strict=True) if isfinite(error)]
    for budget in budgets:
        if finite and min(finite) <= budget:
            name, spent, error = work.best(budget)
            print(f"best within {budget}: {name} with {spent}, error {error:.1e}")
    if reference:
        print(f"reference: prk with {4 * fine} evaluations, itself wrong by about {reference[1]:.0e}")
    if images is not None:
        print(f"rows of {images}: {'; '.join(shown)}; reference")
    if out is not None or images is not None:
        print("->", " and ".join(str(path) for path in (out, images) if path is not None))
    if bad:
        complain(
            f"no images, but numbers far out of range (beyond {-FAR:g} ... {FAR:g}): the row{'s' * (len(bad) > 1)} of "
            f"{', '.join(bad)}; give more --nfe, or another --solver or --grid"
        )
        if set(shown) <= set(bad):
            raise typer.Exit(1)


def together(parts: list[Any]) -> Any:
    """One comparison from those of parts of the start states."""
    from dataclasses import replace

    import torch

    from diffnum.measure.analysis import rms

    results = []
    for several in zip(*(part.results for part in parts), strict=True):
        wrong = torch.cat([result.by_start for result in several], 1)
        results.append(replace(several[0], errors=tuple(rms(row) for row in wrong), by_start=wrong))
    return replace(parts[0], results=tuple(results))


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
