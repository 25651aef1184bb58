"""How to train a denoiser in little time: optimisers, rates and batches, each with the same minutes of one core.

OMP_NUM_THREADS=1 python -m tests.benchmarks.recipes [--data FOLDER] [--minutes 4]

Writes the errors on the test images by noise level into ``book/results/training.json``, under ``recipes``.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from diffnum.files import write
from diffnum.images.optimisers import Both
from diffnum.images.tasks import Denoising
from diffnum.images.train import train

OUT = Path(__file__).parents[2] / "book" / "results" / "training.json"
RECIPES = (  # optimiser, peak rate, batch
    ("Adam", 7e-4, 128), ("Adam", 1e-3, 64), ("Muon", 5e-3, 128), ("Muon", 1e-2, 128), ("Muon", 5e-3, 64),
    ("Muon", 1e-2, 64),
)  # fmt: skip


def adam(net: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """For everything, as in Karras et al. (2022)."""
    return torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)


def muon(net: torch.nn.Module, lr: float) -> Both:
    """The task's own, with Adam's part at a rate of 1e-3."""
    both = Denoising.optimiser(net, lr)
    both.param_groups[-1]["scale"] = 1e-3 / lr
    return both


def row(optimiser: str, lr: float, batch: int, data: str | None, minutes: float) -> dict[str, Any]:
    """What one recipe reaches from nothing."""
    chosen = {"Adam": adam, "Muon": muon}[optimiser]
    with tempfile.TemporaryDirectory() as folder, patch.object(Denoising, "optimiser", staticmethod(chosen)):
        path = train(
            data, f"{folder}/net", batch=batch, lr=lr, warmup=30, average=20_000, minutes=minutes, device="cpu"
        )
        card = json.loads(path.with_suffix(".json").read_text())
    about = {"optimiser": optimiser, "lr": lr, "batch": batch, "minutes": minutes, "images": card["images"]}
    return about | {"amp": card["amp"], "validation": card["validation"]}


def main() -> None:
    """All recipes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data")
    parser.add_argument("--minutes", type=float, default=4.0)
    given = parser.parse_args()
    found = [row(*recipe, given.data, given.minutes) for recipe in RECIPES]
    results = json.loads(OUT.read_text()) | {"recipes": found}
    write(OUT, lambda file: file.write((json.dumps(results, indent=0) + "\n").encode()))


if __name__ == "__main__":
    main()
