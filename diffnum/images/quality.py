"""Sampling for measurement: many images from common seeds, kept batch by batch, and their distance from CIFAR-10.

Image i depends on the seed and on i alone, so two samplers that are given the same seed start from the same noise, and
1,000 images continue what 500 began. What decides the images is a *recipe* (a dict of plain values); a folder keeps
them batch by batch (:mod:`diffnum.images.shards`), so a run that was killed goes on where it was, with as many
processes as there are then, and nothing is drawn twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum import files, named
from diffnum.denoisers.guided import Guided
from diffnum.denoisers.network import read
from diffnum.errors import DiffnumError
from diffnum.files import write
from diffnum.grids import at_prior, check_times
from diffnum.images import data, features, metrics, shards
from diffnum.images.processes import ALONE, Team
from diffnum.images.provenance import code_version
from diffnum.images.shards import FOLDER, Shard
from diffnum.measure.plots import to_uint8
from diffnum.noise import Seeded
from diffnum.problem import Problem
from diffnum.runner import Solution, Solver, draws_noise
from diffnum.solvers import find, solve

BATCH = 50  # images per network call; part of a recipe, since rounding depends on it
STATISTICS = "cifar10-reference"

# Images lie in [-1, 1]. Standard normal noise, what VP starts from, is beyond 2 in 4.6 % of its numbers. Coarse steps
# that still gave pictures reached 2 %, noise of size 1 left on purpose 7 %, runs that blew up 13 % to 99 %.
FAR, TOO_MANY = 2.0, 0.1


def batches(
    problem: Problem,
    solver: str | Solver,
    times: Tensor,
    n: int,
    *,
    first: int = 0,
    seed: int = 0,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    denoise: bool = False,
    **options: Any,
) -> Iterator[Solution]:
    """Solutions for the starts ``first`` to ``n - 1`` of a seed, ``batch`` at a time; options are the solver's.

    Where the denoiser is guided to a list of labels they are taken in turn: image i has that of i modulo their number.
    """
    times = at_prior(check_times(times, problem.process), problem.process)
    run, labels = find(solver), getattr(problem.denoiser, "label", None)
    for start in range(first, n, batch):
        rows = range(start, min(start + batch, n))
        shape = (len(rows), *problem.denoiser.shape)
        if isinstance(labels, list):
            turn = [labels[i % len(labels)] for i in rows]
            problem = Problem(problem.process, problem.denoiser.labelled(turn))
        u = problem.prior(shape, dtype=dtype, device=device, seed=seed, indices=rows)
        noise = Seeded(seed, rows) if draws_noise(run) else None
        yield solve(problem, run, u, times, noise=noise, denoise=denoise, **options)


def recipe(
    solver: str,
    steps: int,
    process: str = "vp",
    grid: str = "log_snr",
    t_end: float | None = None,
    options: dict[str, Any] | None = None,
    denoise: bool = False,
    network: str = "cifar10",
    half: bool = False,
    seed: int = 0,
    batch: int = BATCH,
    device: str = "cpu",
    label: Any = None,
    guidance: float | None = None,
    compile: bool = False,
) -> dict[str, Any]:
    """Everything that decides the images of a sampler, in plain values, with the checksum of the network.

    Names are those of the command line; ``half``, ``compile``, ``label`` and ``guidance`` are those of `dn.load`;
    several labels are taken in turn. A recipe without guidance, or without ``compile``, does not mention it.

    Raises:
        KeyError, ValueError, DiffnumError: an unknown name, a bad grid, network, seed or batch, or no such class.
    """
    find(solver)
    Seeded(seed)  # refuses a bad one
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    times = named.grid(grid)(named.process(process), steps, t_end=t_end)
    denoiser = named.network(network, process, label, guidance)
    return {
        "solver": solver, "options": options or {}, "process": process, "grid": grid, "steps": steps,
        "t_end": float(times[-1]), "denoise": denoise, "network": network,
        "weights_sha256": denoiser.sha256, "half": half, "seed": seed, "batch": batch,
        "device": torch.device(device).type, **({"compile": True} if compile else {}), **guiding(denoiser),
    }  # fmt: skip


def guiding(denoiser: Any) -> dict[str, Any]:
    """How a network is guided, in plain values: weight, classes by name, the guide and its windows; {} if it is not."""
    if not isinstance(denoiser, Guided):
        return {}
    label = denoiser.label
    classes = None if label is None else [denoiser.names[k] for k in (label if isinstance(label, list) else [label])]
    real, odds = denoiser.weights
    windows = [span and list(span) for span in denoiser.windows]
    return {
        "guidance": real if real == odds else [real, odds], "label": classes, "guide_sha256": denoiser.guide.sha256,
        "windows": windows,
    }  # fmt: skip


def outside(x: Tensor) -> float:
    """The share of the numbers of images (B, 3, H, W) that are farther than :data:`FAR` from 0, or not finite.

    Above :data:`TOO_MANY` the run has gone wrong, although its sheet, clipped to the range, may look like something.
    """
    return 1 - (x.abs() <= FAR).double().mean().item()


def draw(
    recipe: dict[str, Any],
    n: int,
    folder: str | os.PathLike[str] = FOLDER,
    watch: Callable[[Solver], Solver] = lambda solver: solver,
    device: torch.device | str | None = None,
    team: Team = ALONE,
) -> None:
    """Draw those of the first n images of a recipe that ``folder`` lacks: batch by batch, each file whole or not there.

    Lost images, those with NaN or infinity, are grey. ``watch`` may wrap the solver, to show progress. The processes of
    a ``team`` share the batches; the folder must be the same for all of them.

    Raises:
        ValueError: n below 1, or what the solver refuses. DiffnumError: the folder cannot be written, or the network is
            not the one of the recipe.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    noising, size = named.process(recipe["process"]), recipe["batch"]
    solver = find(recipe["solver"])
    denoiser = named.network(
        recipe["network"], recipe["process"], recipe.get("label"), recipe.get("guidance"), recipe["half"],
        recipe.get("compile", False),
    )  # fmt: skip
    problem = Problem(noising, denoiser)
    times = named.grid(recipe["grid"])(noising, recipe["steps"], t_end=recipe["t_end"])
    missing = team.told(shards.prepare(recipe, n, folder) if team.first else [])
    if not shards.home(recipe, folder).is_dir():
        raise DiffnumError(f"folder={str(folder)!r} is not the same for all processes; name one on a shared disk")
    found = {"weights_sha256": denoiser.sha256, **guiding(denoiser)}
    for what in ("weights_sha256", "guide_sha256", "windows") if missing else ():
        if found.get(what) != recipe.get(what):
            raise DiffnumError(
                f"network={recipe['network']!r} has {what} {found.get(what)!s:.12}..., but the recipe says "
                f"{recipe.get(what)!s:.12}...: restore those weights, or make the recipe anew"
            )
    for first in team.share(missing):  # always a whole batch, so that n does not change the rounding
        (solution,) = batches(
            problem, watch(solver), times, first + size, first=first, seed=recipe["seed"],
            batch=size, device=device or recipe["device"], denoise=recipe["denoise"], **recipe["options"],
        )  # fmt: skip
        finite = solution.x.isfinite().flatten(1).all(1).cpu()
        grey = torch.where(finite[:, None, None, None], solution.x.float().cpu().nan_to_num(), 0.0)
        shards.write(recipe, folder, Shard(first, to_uint8(grey).numpy(), finite.numpy(), solution.nfe))
    team.wait()


def images(
    recipe: dict[str, Any],
    n: int,
    folder: str | os.PathLike[str] = FOLDER,
    watch: Callable[[Solver], Solver] = lambda solver: solver,
    device: torch.device | str | None = None,
) -> tuple[np.ndarray, int, int]:
    """The first n images (n, 32, 32, 3) uint8 of a recipe, their evaluations, and how many were lost.

    Images that ``folder`` holds already are read; the others are drawn first, see :func:`draw`.

    Raises:
        ValueError: as :func:`draw`. DiffnumError: as :func:`draw`, or a file is damaged or of another recipe.
    """
    draw(recipe, n, folder, watch, device)
    nfe, lost, _ = shards.enter(recipe, n, folder)
    return np.concatenate([shard.images for shard in shards.read(recipe, n, folder)]), nfe, lost


def kept_features(recipe: dict[str, Any], n: int, folder: str | os.PathLike[str], team: Team = ALONE) -> Tensor | None:
    """Features (n, 256) of the first n images that ``folder`` keeps; None for all of a ``team`` but the first.

    The processes share the files, and of no more than one file each the images are in memory.
    """
    network, mine = features.load(), team.part(-(-n // recipe["batch"]))
    found = team.gather([network(shard.images) for shard in shards.read(recipe, n, folder, mine)])
    return None if found is None else torch.cat([part for parts in found for part in parts])


def score(recipe: dict[str, Any], pictures: np.ndarray, nfe: int, lost: int) -> dict[str, Any]:
    """What a result file holds about the images of a recipe: the recipe, what it cost, and the distances.

    Raises:
        DiffnumError: most images were lost, so the distance would be that of grey.
    """
    enough_left(lost, len(pictures))
    digest = hashlib.sha256(pictures.tobytes()).hexdigest()
    return scored(recipe, features.load()(pictures), nfe, lost, digest)


def enough_left(lost: int, n: int) -> None:
    """Refuse a set of images of which most were lost."""
    if 2 * lost > n:
        raise DiffnumError(
            f"{lost} of {n} images were lost to NaN or infinity, and a distance would be that of grey in "
            "their place; use more steps, or another solver or grid"
        )


def scored(recipe: dict[str, Any], found: Tensor, nfe: int, lost: int, images_sha256: str) -> dict[str, Any]:
    """As :func:`score`, from the features (n, 256) of the images and their checksum."""
    reference = statistics()
    return {
        "recipe": recipe,
        "n": len(found),
        "nfe": nfe,
        "lost": lost,
        "dtype": {"state": "float32", "network": "bfloat16" if recipe["half"] else "float32"},
        "images_sha256": images_sha256,
        "features_sha256": features.load().sha256,
        "statistics_sha256": reference.sha256,
        "frechet": asdict(metrics.estimate(metrics.frechet, found, reference)),
        "kernel": asdict(metrics.estimate(metrics.kernel_distance, found, reference)),
        "torch": torch.__version__,
        "version": code_version(),
    }


def compare(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Fréchet distance of features a less that of b, row by row from common seeds, and if it shows that a is closer."""
    found = metrics.difference(metrics.frechet, a, b, statistics())
    return {**asdict(found), "verdict": metrics.verdict(found)}


def result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result file of ``diffnum quality``.

    Raises:
        DiffnumError: it is missing, or no such file.
    """
    try:
        blob = files.read(path)
    except OSError as error:
        raise DiffnumError(f"cannot read the result {path} ({error.strerror}); run diffnum quality first") from None
    try:
        found = json.loads(blob)
        wanted = [*signature(recipe).parameters, "weights_sha256"]
        wanted = [key for key in wanted if key not in ("label", "guidance", "compile")]  # only where used
        missing = [key for key in wanted if key not in found["recipe"]]
        missing += [key for key in ("n", "nfe") if key not in found]
    except (ValueError, KeyError, TypeError, RecursionError):  # no JSON, or of another shape
        missing = ["recipe"]
    if missing:
        raise DiffnumError(f"{path} is no result of diffnum quality: it has no {', '.join(missing)}; name another file")
    return found


def statistics(name: str = STATISTICS) -> metrics.Reference:
    """The shipped statistics of the 50,000 training images, in the shipped features.

    Raises:
        DiffnumError: the file is altered, or was made with other features.
    """
    blob, _, card, source = read(name, ("reference",))
    if card.get("features_sha256") != features.load().sha256:
        raise DiffnumError(
            f"{source} was made with another feature network, or its .json is missing; restore both, or write them "
            "anew with write_statistics"
        )
    return metrics.Reference.from_bytes(blob, source)


def write_statistics(
    root: str | os.PathLike[str] | None = None, folder: str | os.PathLike[str] = "diffnum/weights"
) -> Path:
    """Compute the reference statistics of the training images (:func:`diffnum.images.data.cifar10`) and write them.

    Beside the file goes its card: the checksums of file, images and features.
    """
    found, network = data.cifar10(root, "train"), features.load()
    path = files.place(folder) / f"{STATISTICS}.safetensors"
    reference = metrics.Reference.of(network(found.images, exact=found.exact), source=found.source)
    reference.save(path)
    card = {
        "name": STATISTICS, "kind": "reference", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "features_sha256": network.sha256, "images": len(found), "images_sha256": found.sha256, "source": found.source,
    }  # fmt: skip
    write(path.with_suffix(".json"), lambda file: file.write(json.dumps(card, indent=1).encode()))
    return path
