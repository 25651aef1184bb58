"""What guidance does to squared error, and what it costs: exact test images at several noise levels, guided or not.

    python -m tests.benchmarks.guidance --data FOLDER

writes ``book/results/guidance.json``, from which the chapter on guidance is drawn. The images are those with exact
pixels among the test images of :func:`diffnum.images.data.cifar10`; each gets the same noise under all denoisers, and
its own label. Weight 1 must not raise the error. About eight minutes of one core for 1,016 images.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

import diffnum as dn
from diffnum.files import write
from diffnum.images import data
from diffnum.images.quality import guiding
from tests.benchmarks import overhead

OUT = Path(__file__).parents[2] / "book" / "results" / "guidance.json"
LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 28.0, 40.0)
BATCH = 64


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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.guidance", description=__doc__)
    parser.add_argument("--data", help="folder or file with CIFAR-10; by default it is found or fetched")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = data.cifar10(given.data, "test", exact=True)
    guided = dn.load("cifar10", guidance=1)
    about = {"date": datetime.date.today().isoformat(), "torch": torch.__version__, "images": len(found)}
    about |= {"images_sha256": found.sha256, "weights_sha256": guided.sha256, "windows": guided.windows}
    result = {"about": {**about, "guide_sha256": guiding(guided)["guide_sha256"]}, "cost": overhead.guided()}
    result["levels"] = []
    with Progress() as bar:
        for sigma in bar.track(LEVELS, description="noise levels"):
            result["levels"].append(measured(found, sigma))
    write(given.out, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    for row in result["levels"]:
        changes = ((name, row[name]) for name in ("realism", "both", "both, weight 2"))
        text = ", ".join(f"{name} {c['percent']:+.2f} ({c['standard_error']:.2f})" for name, c in changes)
        print(f"sigma {row['sigma']:5g}: squared error {row['error']:.5f}, per cent: {text}")
    print(f"a guided evaluation takes {result['cost']['ratio']:.2f} times an unguided one -> {given.out}")


if __name__ == "__main__":
    main()
