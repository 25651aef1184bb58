"""``diffnum golden``."""

import json
from pathlib import Path

import typer

from diffnum import named
from diffnum.arguments import number
from diffnum.cli import shared
from diffnum.cli.common import app, explained, solver_options, whole, writable
from diffnum.named import GRIDS, PROCESSES


@app.command()
@explained
def golden(
    solver: str = typer.Option(None, help="Write golden values of this solver; `diffnum solvers` lists them."),
    out: Path = typer.Option(None, help="The file, .json."),
    option: shared.Settings = [],
    process: str = typer.Option("vp", help=f"Noising process: {', '.join(PROCESSES[:4])}."),
    grid: shared.Grid = "log_snr",
    target: shared.Target = "smooth",
    steps: int = typer.Option(6, help="How many steps."),
    check: Path = typer.Option(None, help="Check a port against this file instead."),
    command: str = typer.Option(None, help="The port: a command line; see below."),
    tolerance: float = typer.Option(1e-10, help="Largest relative difference; 1e-5 for a port in single precision."),
) -> None:
    """Write golden values of a solver for a port to another language or library, or check a port against them.

    The file has the grid, its levels, start, draws, every evaluation, every state, and the coefficients of every state
    in start, predictions and draws; its entry "schema" explains it:

        diffnum golden --solver er_sde --out er_sde.json

    A port reads and writes JSON objects, one a line. It is first given solver, options, times, alpha, sigma, start and
    noise. It asks {"ask": "noise", "level": sigma/alpha, "x": x/alpha} (or "data"), is answered {"prediction": ...},
    and at last writes {"states": ...}. Exit status 0 only if all agrees:

        diffnum golden --check er_sde.json --command "node port.js"
    """
    if (solver is None) == (check is None):
        raise ValueError("give either --solver NAME and --out FILE.json, or --check FILE.json and --command")
    number("--tolerance", tolerance, above=0.0, high=1.0, usual=1e-10)
    from diffnum import files
    from diffnum.interop import golden as goldens

    if check is not None:
        if command is None:
            raise ValueError('--check needs --command, the port as a command line, such as --command "node port.js"')
        content = goldens.read(check)
        found = goldens.check(content, command, tolerance)
        for line in found:
            print(line)
        count = f"{len(content['evaluations'])} evaluations and {len(content['states'])} states"
        print(f"{content['solver']}: {count} " + ("differ" if found else "agree"))
        raise typer.Exit(1 if found else 0)
    if out is None:
        raise ValueError("--solver needs --out, the file to write, such as --out golden.json")
    whole("--steps", steps)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS)
    path = writable(out, ".json")
    from diffnum.solvers import find

    made = goldens.values(solver, solver_options(find(solver), option), process, grid, target, steps)
    text = json.dumps(made, indent=1) + "\n"
    files.write(path, lambda file: file.write(text.encode()))
    print(f"{solver}: {len(made['evaluations'])} evaluations, {len(made['states'])} states -> {path}")
