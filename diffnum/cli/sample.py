"""``diffnum sample``."""

import time
from pathlib import Path
from typing import Any

import typer

from diffnum import named
from diffnum.arguments import weight, whole
from diffnum.cli import shared
from diffnum.cli.common import (
    Meter,
    app,
    classes,
    complain,
    explained,
    make_device,
    sheet_fits,
    solver_options,
    solver_with_options,
    writable,
)  # fmt: skip
from diffnum.images.processes import Team
from diffnum.named import GRIDS, PROCESSES

DTYPES = ("float32", "float64", "bfloat16")
BATCH = 32  # images per network call: larger batches are no faster on two cores, and the bar moves less often
FOLDER_BATCH = 50  # that of `diffnum quality`, which then scores the same files


@app.command()
@explained
def sample(
    solver: str = typer.Option(
        "exponential_adams:order=4",
        help="How to integrate, as NAME or NAME:key=value; `diffnum solvers` lists them. The default has the smallest "
        "error of all on average at 6 to 50 evaluations; F-PNDM, the book's example, spends 9 more than steps.",
    ),
    steps: int = typer.Option(20, help="Steps of the grid, for most methods as many network evaluations."),
    process: shared.Process = "vp",
    grid: shared.Grid = "log_snr",
    t_end: shared.End = None,
    denoise: shared.Denoise = False,
    number: int = typer.Option(64, "-n", "--number", help="How many images."),
    batch: int = typer.Option(
        None, help=f"Images per network call: speed and memory only, the images stay the same; {BATCH}, in a folder 50."
    ),
    seed: int = typer.Option(0, help="Image i depends on the seed and on i alone."),
    device: shared.Device = "cpu",
    dtype: str = typer.Option("float32", help=f"Precision of the states: {', '.join(DTYPES)}."),
    half: shared.Half = False,
    compile: shared.Compile = False,
    option: shared.Settings = [],
    network: shared.Network = "cifar10",
    guidance: shared.Guidance = None,
    label: shared.Label = [],
    columns: int = typer.Option(None, help="Images in a row of the sheet; by default one for each label, or a square."),
    scale: int = typer.Option(2, help="Enlarge each pixel of the sheet to a square of this size."),
    npz: bool = typer.Option(False, "--npz", help="Also write the images and how they were made to a .npz file."),
    out: Path = typer.Option(
        "samples.png",
        help="The sheet, a .png file; a name in .npz writes the arrays alone; a folder keeps many images, and goes on.",
    ),
    *,
    team: Team,
) -> None:
    """Draw images with a network and write them to one sheet.

    64 CIFAR-10 images in 20 network evaluations:

        diffnum sample

    The same start noise through DDIM at the same cost, and Heun's method on VE:

        diffnum sample --solver ddim --out ddim.png

        diffnum sample --solver heun --process ve --grid karras --out ve.png

    Clearer pictures from the same network with a guide, a column for each class:

        diffnum sample --guidance 3 --label all --solver er_sde --process ve --grid karras --steps 14 --out classes.png

    A solver's own options, and arrays to compute with (samples.npz):

        diffnum sample --solver pndm_variable --option order=3 --npz -n 16

    Many images, batch by batch in a folder with a manifest; the same command goes on where it was stopped. Several
    processes, on one machine or on several, share the work (torchrun --nproc-per-node 4 -m diffnum sample ...):

        diffnum sample -n 10000 --out drawn
    """
    into = out.suffix.lower() not in (".png", ".npz") and (not out.suffix or out.is_dir())  # a folder
    batch = (FOLDER_BATCH if into else BATCH) if batch is None else batch
    for name, value in (("-n", number), ("--steps", steps), ("--batch", batch), ("--scale", scale)):
        whole(name, value)
    whole("--seed", seed, 0, 2**64 - 1)
    if guidance is not None:
        weight("--guidance", guidance)
    if columns is not None:
        whole("--columns", columns)
    named.choose("dtype", dtype, DTYPES[:1] if into else DTYPES)
    named.choose("process", process, PROCESSES)
    named.choose("grid", grid, GRIDS)
    labels = classes(label)
    if columns is None and labels is not None and len(labels) > 1:
        columns = len(labels)
    if into and npz:
        raise ValueError(f"--npz goes with a sheet, and --out {out} is a folder of arrays; leave it out")
    arrays: Path | None = None
    if not into:
        out = writable(out, ".png", ".npz", size=number * 3072)
        arrays = out if out.suffix.lower() == ".npz" else None
        if arrays is None:
            sheet_fits(number, columns, scale, out)
            arrays = writable(out.with_suffix(".npz"), ".npz", option="--npz", size=number * 15360) if npz else None

    import numpy as np
    import torch

    from diffnum import Problem, __version__
    from diffnum.files import write
    from diffnum.images import quality, shards
    from diffnum.measure import plots
    from diffnum.measure.analysis import evaluations

    run, options = solver_with_options(solver)
    name = solver.partition(":")[0]
    where, options = make_device(device), options | solver_options(run, option)
    noising = named.process(process)
    times = named.grid(grid)(noising, steps, t_end=t_end)
    claimed = evaluations(noising, run, len(times) - 1, float(times[-1]), **options)
    begun = time.perf_counter()
    if into:
        recipe = quality.recipe(
            solver, steps, process, grid, t_end, options, denoise, network, half, seed, batch, str(where), labels,
            guidance, compile,
        )  # fmt: skip
        missing = team.told(max(number - shards.drawn(recipe, out), 0))
        with Meter("sampling", missing, "images", 1 / claimed, team=team) as meter:
            quality.draw(recipe, number, out, meter.watch, where, team)
        if team.first:
            nfe, lost, _ = shards.enter(recipe, number, out)
            tell(number, nfe, missing, time.perf_counter() - begun, str(shards.home(recipe, out)))
            if lost:
                complain(f"{lost} of {number} images were lost to NaN or infinity; they are grey")
            if 2 * lost > number:
                raise typer.Exit(1)
        return

    denoiser = named.network(network, process, labels, guidance, half, compile)
    problem, mine, nfe = Problem(noising, denoiser), [], 0
    with Meter("sampling", number, "images", 1 / claimed, team=team) as meter:
        for first in team.share(range(0, number, batch)):
            (solution,) = quality.batches(
                problem, meter.watch(run), times, min(first + batch, number), first=first, seed=seed, batch=batch,
                device=where, dtype=getattr(torch, dtype), denoise=denoise, **options,
            )  # fmt: skip
            x = solution.x.to("cpu", torch.float64 if dtype == "float64" else torch.float32)
            mine.append((first, x, solution.nfe))
        everything = team.gather(mine)
    if everything is None:
        return
    parts = sorted((part for some in everything for part in some), key=lambda part: part[0])
    x, nfe, seconds = torch.cat([x for _, x, _ in parts]), parts[0][2], time.perf_counter() - begun

    pixels = plots.to_uint8(x)  # refuses NaN before anything is written
    if arrays is not None:
        about: dict[str, Any] = {
            "images": pixels.numpy(), "x": x.numpy(), "seed": seed, "solver": name, "steps": steps, "nfe": nfe,
            "grid": grid, "times": times.numpy(), "process": process, "denoise": denoise, "options": repr(options),
            "dtype": dtype, "device": str(where), "network": network, "weights_sha256": getattr(denoiser, "sha256", ""),
            "half": half, "compile": compile,
            "diffnum": __version__, "torch": torch.__version__,
        }  # fmt: skip
        guide = quality.guiding(denoiser) or {"guidance": 0.0, "label": None, "guide_sha256": ""}
        turn = guide["label"] or [""]
        guide["label"] = [turn[i % len(turn)] for i in range(number)]  # of every image
        about |= {key: guide[key] for key in ("guidance", "label", "guide_sha256")}
        write(arrays, lambda file: np.savez_compressed(file, **about))
    if out != arrays:
        plots.sheet(x, columns, out, scale)
    written = " and ".join(str(path) for path in dict.fromkeys((out, arrays)) if path is not None)
    tell(number, nfe, number, seconds, written)
    if (share := quality.outside(x)) > quality.TOO_MANY:
        complain(
            f"{100 * share:.0f} % of the numbers are far out of range (beyond {-quality.FAR:g} ... {quality.FAR:g}): "
            "these are no images; use more --steps, or another --solver or --grid"
        )
        raise typer.Exit(1)


def tell(number: int, nfe: int, drawn: int, seconds: float, written: str) -> None:
    """What was done, in one line."""
    print(
        f"{number} image{'s' if number > 1 else ''}, {nfe} network evaluations each, "
        f"{seconds:.1f} s, {drawn / seconds:.2f} images/s -> {written}"
    )
