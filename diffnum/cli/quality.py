"""``diffnum quality``."""

from pathlib import Path

import typer

from diffnum import named
from diffnum.arguments import weight, whole
from diffnum.cli import shared
from diffnum.cli.common import Meter, app, classes, complain, explained, make_device, solver_options, writable
from diffnum.files import place, write
from diffnum.images.processes import Team
from diffnum.named import GRIDS, PROCESSES


@app.command()
@explained
def quality(
    solver: str = typer.Option("f_pndm", help="How to integrate; `diffnum solvers` lists them."),
    steps: int = typer.Option(20, help="Steps of the grid."),
    process: shared.Process = "vp",
    grid: shared.Grid = "log_snr",
    t_end: shared.End = None,
    denoise: shared.Denoise = False,
    number: int = typer.Option(1000, "-n", "--number", help="How many images; more go on from those drawn before."),
    seed: int = typer.Option(0, help="Image i depends on the seed and on i alone: equal seeds make paired runs."),
    device: shared.Device = "cpu",
    batch: int = typer.Option(50, help="Images per network call; a part of what decides the last bits of an image."),
    half: shared.Half = False,
    compile: shared.Compile = False,
    option: shared.Settings = [],
    network: shared.Network = "cifar10",
    guidance: shared.Guidance = None,
    label: shared.Label = [],
    folder: Path = typer.Option(".runs/quality", help="Keeps the images; an interrupted run goes on from there."),
    against: Path = typer.Option(
        None, help="A result of another run with the same seed, to compare with image by image."
    ),
    out: Path = typer.Option(None, help="The result, a .json file; by default SOLVER_quality.json."),
    *,
    team: Team,
) -> None:
    """Draw many images and measure their distance from CIFAR-10, with an interval.

    The Frechet distance is that of the features of the shipped classifier, extrapolated to infinitely many images: it
    compares samplers with each other, and is no FID. The result holds all that is needed to repeat it:

        diffnum quality --solver f_pndm --steps 20 -n 1000 --out f_pndm.json

    A paired comparison, from the same start noise:

        diffnum quality --solver ddim --steps 29 -n 1000 --against f_pndm.json

    Several processes, on one machine or on several with a common disk, share the images:

        torchrun --nproc-per-node 4 -m diffnum quality -n 50000
    """
    whole("-n", number, 4)  # an interval needs halves of two images
    for name, value in (("--steps", steps), ("--batch", batch)):
        whole(name, value)
    whole("--seed", seed, 0, 2**64 - 1)
    if guidance is not None:
        weight("--guidance", guidance)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS)
    path = writable(Path(f"{Path(solver).name}_quality.json") if out is None else out, ".json")
    if against is not None and place(against).resolve() == path.resolve():
        raise ValueError(f"the result would overwrite --against {against}; name another --out")

    import json

    from diffnum.images import quality as measuring
    from diffnum.images import shards
    from diffnum.measure.analysis import evaluations
    from diffnum.solvers import find

    run, where = find(solver), make_device(device)
    options = solver_options(run, option)
    recipe = measuring.recipe(
        solver, steps, process, grid, t_end, options, denoise, network, half, seed, batch, str(where),
        label=classes(label), guidance=guidance, compile=compile,
    )  # fmt: skip
    other = measuring.result(against) if against is not None else None
    if other is not None and (other["recipe"]["seed"], other["n"]) != (seed, number):
        raise ValueError(
            f"--against {against} has seed {other['recipe']['seed']} and {other['n']} images; pairs need the same "
            f"(--seed {other['recipe']['seed']} -n {other['n']})"
        )
    noising = named.process(process)
    claimed = evaluations(noising, run, steps, recipe["t_end"], **options)
    measuring.statistics()  # refused before the work, as is what --against needs
    plans = [plan for plan in (other and other["recipe"], recipe) if plan is not None]
    counts = []
    for plan in plans:
        missing = team.told(max(number - shards.drawn(plan, folder), 0))
        each = 1 / (claimed if plan is recipe or other is None else other["nfe"])
        with Meter("sampling", missing, "images", each, team=team) as meter:
            measuring.draw(plan, number, folder, meter.watch, where if plan is recipe else None, team)
        counts.append(shards.enter(plan, number, folder) if team.first else (0, 0, ""))
    nfe, lost, digest = counts[-1]
    measuring.enough_left(lost, number)
    with Meter("scoring", team=team):
        features = [measuring.kept_features(plan, number, folder, team) for plan in plans]
        if (own := features[-1]) is None:
            return
        found = measuring.scored(recipe, own, nfe, lost, digest)
        if other is not None and features[0] is not None:
            found["against"] = {"recipe": other["recipe"], **measuring.compare(own, features[0])}
    write(path, lambda file: file.write(json.dumps(found, indent=1).encode()))

    print(f"{number} images, {nfe} network evaluations each")
    for name, key in (("Frechet distance", "frechet"), ("kernel distance", "kernel")):
        d = found[key]
        print(f"{name}: {d['limit']:.4g}, 95 % interval {d['low']:.4g} to {d['high']:.4g} (as drawn {d['value']:.4g})")
    if other is not None:
        d = found["against"]
        print(
            f"difference from {other['recipe']['solver']} at {other['nfe']}: {d['limit']:.4g}, 95 % interval "
            f"{d['low']:.4g} to {d['high']:.4g}; that it is better: {d['verdict']}"
        )
    print(f"-> {path}")
    if lost:
        complain(f"{lost} of {number} images were lost to NaN or infinity; they are scored as grey")
