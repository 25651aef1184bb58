"""What guidance does to squared error, to the order of solvers and to pictures, and what it costs.

    python -m tests.benchmarks.guidance --data FOLDER

writes ``book/results/guidance.json`` and the sheet ``book/images/guided.png``, from which the chapter on guidance is
drawn. The images are those with exact
pixels among the test images of :func:`diffnum.images.data.cifar10`; each gets the same noise under all denoisers, and
its own label. Weight 1 must not raise the error. The order is that of differences of halved steps in double precision,
on VE between two noise levels where the windows are open. Pictures of every scheme start from the same noise; they are
kept under ``.runs/quality`` as those of the quality chapter are. About half an hour of one core in all.
"""

import argparse
import datetime
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

import diffnum as dn
from diffnum import plots
from diffnum.files import write
from diffnum.images import data, features, quality
from diffnum.images.quality import guiding
from diffnum.measure.analysis import rms
from tests.benchmarks import overhead

BOOK = Path(__file__).parents[2] / "book"
OUT = BOOK / "results" / "guidance.json"
SHEET = BOOK / "images" / "guided.png"
LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 28.0, 40.0)
BATCH = 64
START, END = 3.0, 0.5  # noise levels between which the order is measured
STEPS = (20, 40, 80, 160)
SOLVERS: tuple[tuple[str, dict[str, Any]], ...] = (("ddim", {}), ("s_pndm", {}), ("gddim", {"order": 3}))

#: What the pictures are drawn with, and how they are guided: weight and label, as `dn.load` takes them.
DRAWN = {"solver": "er_sde", "steps": 20, "process": "ve", "grid": "karras", "half": True}
SCHEMES: dict[str, tuple[float | None, tuple[str, ...] | None]] = {
    "unguided": (None, None), "realism 3": (3, None), "realism and class 3": (3, data.CLASSES),
}  # fmt: skip
ROWS = 4  # of every scheme on the sheet, a column for every class


def squares(found: data.Images, sigma: float, seed: int = 0) -> dict[str, Tensor]:
    """Mean squared error of every image, float64 (N,): unguided, guided by realism, and by realism and its label.

    The guided field is linear in the weights, so the third with weights 2 comes from the first two.
    """
    labels = [int(label) for label in found.labels]
    parts: dict[str, list[Tensor]] = {"unguided": [], "realism": [], "both": [], "both, weight 2": []}
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(found), BATCH):
        rows = slice(start, start + BATCH)
        x0 = found.tensor(rows)
        x = x0 + sigma * torch.randn(x0.shape, generator=generator)
        plain = dn.load("cifar10")(x, sigma)
        means = {"unguided": plain, "realism": dn.load("cifar10", guidance=1)(x, sigma)}
        means["both"] = dn.load("cifar10", guidance=1, label=labels[rows])(x, sigma)
        means["both, weight 2"] = 2 * means["both"] - plain
        for name, mean in means.items():
            parts[name].append((mean.double() - x0).square().flatten(1).mean(1))
    return {name: torch.cat(part) for name, part in parts.items()}


def measured(found: data.Images, sigma: float) -> dict[str, Any]:
    """One noise level: the unguided error, and the relative change by guidance with its standard error, in per cent."""
    errors = squares(found, sigma)
    plain = errors.pop("unguided")
    row: dict[str, Any] = {"sigma": sigma, "error": plain.mean().item()}
    for name, guided in errors.items():
        change = 100 * (guided - plain) / plain.mean()
        row[name] = {"percent": change.mean().item(), "standard_error": change.std().item() / len(found) ** 0.5}
    return row


def orders(weight: float) -> list[dict[str, Any]]:
    """Root mean square differences of runs with n and 2n steps, one image guided to a ship, float64."""
    process = dn.VE()
    problem = dn.Problem(process, dn.load("cifar10", guidance=weight, label="ship"))
    generator = torch.Generator().manual_seed(0)
    u = START * torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=generator)
    rows = []
    for solver, options in SOLVERS:
        grids = (dn.grids.log_snr(process, n, t_start=START, t_end=END) for n in STEPS)
        ends = [dn.solve(problem, solver, u, times, **options).x for times in grids]
        differences = [rms(b - a) for a, b in pairwise(ends)]
        rows.append({"solver": solver, "options": options, "weight": weight, "differences": differences})
    return rows


def nearest(pictures: np.ndarray, train: np.ndarray) -> Tensor:
    """Root mean square distance in [0, 255] of each picture from the nearest training image or its mirror image."""
    flat = torch.from_numpy(pictures.reshape(len(pictures), -1)).float()
    best = torch.full((len(flat),), float("inf"))
    for part in np.array_split(train, 50):
        for image in (part, part[:, :, ::-1]):
            known = torch.from_numpy(np.ascontiguousarray(image).reshape(len(part), -1)).float()
            best = torch.minimum(best, torch.cdist(flat, known).amin(1))
    return best / flat.shape[1] ** 0.5


def pictures(n: int, train: data.Images, test: data.Images) -> tuple[dict[str, Any], np.ndarray]:
    """For every scheme the distance in our features, the share recognised, the nearest training image; and a sheet."""
    network, rows, shown = features.load(), {}, []
    for name, (weight, label) in SCHEMES.items():
        recipe = quality.recipe(**DRAWN, guidance=weight, label=label and list(label))
        drawn, nfe, lost = quality.images(recipe, n, BOOK.parent / ".runs" / "quality")
        row = quality.score(recipe, drawn, nfe, lost)
        if label:  # images take the classes in turn
            row["recognised"] = float((network.logits(drawn).argmax(1) == torch.arange(n) % 10).double().mean())
        row["nearest"] = nearest(drawn, train.images).median().item()
        rows[name] = row
        shown.append(drawn[: 10 * ROWS])
    some = test.images[np.random.default_rng(0).permutation(len(test))[:n]]
    about = {"schemes": rows, "nearest_test": nearest(some, train.images).median().item()}
    return about, np.concatenate(shown)


def save(shown: np.ndarray) -> None:
    """The sheet: a block of rows for every scheme, a column for every class where there is a label."""
    figure, axes = plt.subplots(len(SCHEMES), 1, figsize=(6.4, 2.8 * len(SCHEMES)), layout="constrained")
    images = torch.from_numpy(shown).permute(0, 3, 1, 2) / 127.5 - 1
    for ax, part, (name, (_, label)) in zip(axes, images.chunk(len(SCHEMES)), SCHEMES.items(), strict=True):
        plots.images(part, ax, list(data.CLASSES) if label else None, columns=10)
        ax.set_title(name, fontsize="small")
    figure.savefig(SHEET, dpi=110)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.guidance", description=__doc__)
    parser.add_argument("--data", help="folder or file with CIFAR-10; by default it is found or fetched")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("-n", type=int, default=500, help="pictures of every scheme")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = data.cifar10(given.data, "test", exact=True)
    guided = dn.load("cifar10", guidance=1)
    about = {"date": datetime.date.today().isoformat(), "torch": torch.__version__, "images": len(found)}
    about |= {"images_sha256": found.sha256, "weights_sha256": guided.sha256, "windows": guided.windows}
    result = {"about": {**about, "guide_sha256": guiding(guided)["guide_sha256"]}, "cost": overhead.guided()}
    result["order"] = {"steps": STEPS, "start": START, "end": END, "rows": [*orders(0.0), *orders(3.0)]}
    result["pictures"], sheet = pictures(given.n, data.cifar10(given.data, "train"), data.cifar10(given.data, "test"))
    save(sheet)
    result["levels"] = []
    with Progress() as bar:
        for sigma in bar.track(LEVELS, description="noise levels"):
            result["levels"].append(measured(found, sigma))
    write(given.out, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    for row in result["levels"]:
        changes = ((name, row[name]) for name in ("realism", "both", "both, weight 2"))
        text = ", ".join(f"{name} {c['percent']:+.2f} ({c['standard_error']:.2f})" for name, c in changes)
        print(f"sigma {row['sigma']:5g}: squared error {row['error']:.5f}, per cent: {text}")
    for name, row in result["pictures"]["schemes"].items():
        found, seen = row["frechet"], f", {100 * row['recognised']:.0f} % recognised" if "recognised" in row else ""
        span = f"{found['limit']:.0f} ({found['low']:.0f} to {found['high']:.0f})"
        print(f"{name}: distance {span}, nearest training image {row['nearest']:.1f}{seen}")
    print(f"test images: nearest training image {result['pictures']['nearest_test']:.1f}")
    for row in result["order"]["rows"]:
        print(row["solver"], row["options"], f"weight {row['weight']:g}:", *(f"{d:.2e}" for d in row["differences"]))
    print(f"a guided evaluation takes {result['cost']['ratio']:.2f} times an unguided one -> {given.out}")


if __name__ == "__main__":
    main()
