"""Sample quality: draws the images of every cell below, scores them and judges the papers' claims in miniature.

``make quality`` writes ``book/results/quality.json``, from which the book's chapter on sample quality is drawn. Images
are kept under ``.runs/quality``: a run that was stopped goes on where it was, and a larger number goes on from a
smaller one. Options: ``-n 1000`` images from common seeds, ``--long 500`` for the cells above 260 evaluations,
``--device`` and ``--batch``, ``--score`` to score what is complete without drawing anything. Cells that are
not drawn stay blank. With ``--data`` (see :func:`diffnum.images.data.cifar10`) the metric itself is tried on real
images, and the results kept as long as the feature network is the same.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from diffnum import named
from diffnum.files import write
from diffnum.images import data, features, metrics, quality, shards
from diffnum.measure.analysis import steps_within

ROOT = Path(__file__).parents[2]
OUT = ROOT / "book" / "results" / "quality.json"
LONG = 260  # evaluations above which a cell is drawn with fewer images
FEWEST = 100  # images that are worth a score

#: name -> (what `quality.recipe` needs besides the steps, budgets of evaluations)
VP = {"process": "vp", "grid": "uniform"}
CLD = {"process": "cld", "grid": "quadratic"}
VE = {"process": "ve", "grid": "karras"}
PSLD = {"process": "psld", "grid": "quadratic"}
BLURRING = {"process": "blurring", "grid": "quadratic"}
SAMPLERS = {
    "F-PNDM": ({"solver": "f_pndm", **VP}, (20, 50)),
    "DDIM": ({"solver": "ddim", **VP}, (20, 50, 250, 1000)),
    "ER-SDE": ({"solver": "er_sde", **VE}, (10, 20, 50)),
    "ER-SDE, ODE": ({"solver": "er_sde", "options": {"phi": "x"}, **VE}, (10, 20, 50)),
    "ER-SDE, SDE": ({"solver": "er_sde", "options": {"phi": "x^2"}, **VE}, (10, 20, 50)),
    "gDDIM, K = R": ({"solver": "gddim", "options": {"order": 3, "K": "R"}, **CLD}, (20, 30, 50)),
    "gDDIM, K = L": ({"solver": "gddim", "options": {"order": 3, "K": "L"}, **CLD}, (20, 30, 50)),
    **{
        f"gDDIM, lambda {lam}": ({"solver": "gddim_sde", "options": {"lam": float(lam)}, **CLD}, (20, 50))
        for lam in (0, 1)
    },
    "blurring, gDDIM": ({"solver": "gddim", "options": {"order": 2}, **BLURRING}, (20, 50)),
    "blurring, ancestral": ({"solver": "gddim_sde", "options": {"lam": 1.0}, **BLURRING}, (20, 50)),
    "RVV": ({"solver": "reduced_velocity_verlet", **PSLD}, (50, 100)),
    "conjugate Verlet": (
        {"solver": "conjugate_velocity_verlet", "options": {"B": "lambda", "lam": -6.0}, **PSLD},
        (50, 100),
    ),
    "ROBA": ({"solver": "reduced_oba", **PSLD}, (50, 100)),
    "EM": ({"solver": "euler_maruyama", **PSLD}, (50, 100)),
    "SSCS": ({"solver": "sscs", **PSLD}, (50, 100)),
}

#: (paper, cell that is claimed to be better, the other cell)
CLAIMS = [
    *(("PNDM", ("F-PNDM", 50), ("DDIM", n)) for n in (250, 1000)),
    *(("gDDIM", ("gDDIM, K = R", n), ("gDDIM, K = L", n)) for n in (20, 30, 50)),
    *(("gDDIM", ("gDDIM, lambda 0", n), ("gDDIM, lambda 1", n)) for n in (20, 50)),
    *(("gDDIM", ("blurring, gDDIM", n), ("blurring, ancestral", n)) for n in (20, 50)),
    *(("ER-SDE", ("ER-SDE", n), (f"ER-SDE, {other}", n)) for n in (10, 20, 50) for other in ("ODE", "SDE")),
    *(("ER-SDE", ("ER-SDE, SDE", n), ("ER-SDE, ODE", n)) for n in (10, 20, 50)),
    *(("PSLD", ("conjugate Verlet", n), ("RVV", n)) for n in (50, 100)),
    *(("PSLD", (a, n), (b, n)) for a in ("RVV", "ROBA") for b in ("EM", "SSCS") for n in (50, 100)),
]


def recipe(name: str, budget: int, device: str = "cpu", batch: int = quality.BATCH) -> dict:
    """The recipe of a cell: as many steps as the budget of evaluations allows."""
    settings, _ = SAMPLERS[name]
    process = named.process(settings["process"])
    options = settings.get("options", {})
    steps = steps_within(budget, process, settings["solver"], process.t_end, **options)
    return quality.recipe(steps=steps, device=device, batch=batch, **settings)


def cells() -> list[tuple[str, int]]:
    """All cells, those that cost little first."""
    return sorted(((name, n) for name, (_, budgets) in SAMPLERS.items() for n in budgets), key=lambda cell: cell[1])


def sanity(root: str) -> dict:
    """What the metric says of real images: halves of the training set, test images, noise, blur, JPEG or not."""
    network = features.load()
    train, test = data.cifar10(root, "train"), data.cifar10(root, "test")
    rows = np.random.default_rng(0).permutation(len(train))
    halves = [network(train.images[np.sort(part)], exact=train.exact) for part in np.array_split(rows, 2)]
    reference, n = quality.statistics(), 2000
    half = metrics.Reference.of(halves[0])
    some = np.sort(np.random.default_rng(1).permutation(len(test))[:n])
    images, draw = test.images[some], np.random.default_rng(2).standard_normal((n, 32, 32, 3))

    def distance(changed: np.ndarray, exact: bool = True) -> dict:
        return vars(metrics.estimate(metrics.frechet, network(changed, exact), reference))

    def noisy(spread: float) -> np.ndarray:
        return np.clip(np.round(images + spread * draw), 0, 255).astype(np.uint8)

    def blurred(radius: float) -> np.ndarray:
        return np.stack([np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius))) for x in images])

    lossless = data.cifar10(root, "test", exact=True)
    return {
        "images": {"train": train.sha256, "test": test.sha256},
        "features_sha256": network.sha256,
        "halves": {"distance": metrics.frechet(halves[1], half), "floor": metrics.frechet_floor(half, len(halves[1]))},
        "test": vars(metrics.estimate(metrics.frechet, network(test.images, test.exact), reference)),
        "noise": {str(s): distance(noisy(s)) for s in (0, 4, 8, 16, 32, 64)},
        "blur": {str(r): distance(blurred(r)) for r in (0.0, 0.4, 0.6, 0.8, 1.2, 2.0)},
        "jpeg": {name: distance(lossless.images, exact) for name, exact in (("with", True), ("without", False))},
    }  # fmt: skip


def judge(found: dict[tuple[str, int], np.ndarray]) -> list[dict]:
    """Every claim whose two cells are drawn: paired difference of distances over the seeds that both have."""
    network, reference, known, out = features.load(), quality.statistics(), {}, []
    for paper, better, worse in CLAIMS:
        if better in found and worse in found:
            for cell in (better, worse):
                known.setdefault(cell, network(found[cell]))
            n = min(len(known[better]), len(known[worse]))
            d = metrics.difference(metrics.frechet, known[better][:n], known[worse][:n], reference)
            out.append({"paper": paper, "better": better, "worse": worse, **vars(d), "verdict": metrics.verdict(d)})
    return out


def main(arguments: list[str] | None = None) -> None:
    """Draw, score, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--long", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=quality.BATCH)
    parser.add_argument("--folder", default=str(ROOT / ".runs" / "quality"))
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--data")
    given = parser.parse_args(arguments)
    found, results = {}, []
    for name, budget in cells():
        plan, n = recipe(name, budget, given.device, given.batch), given.long if budget > LONG else given.n
        if given.score:
            n = min(n, shards.drawn(plan, given.folder))
            if n < FEWEST:
                continue
        begun = time.perf_counter()
        drawn, nfe, lost = quality.images(plan, n, given.folder, device=given.device)
        found[name, budget] = drawn
        print(f"{name:20} {nfe:5d} evaluations, {n} images: {time.perf_counter() - begun:6.0f} s", flush=True)
        if not given.score:
            continue
        first = (features.load()(drawn[:20]).mean(0) - quality.statistics().mean).norm().item()  # cheap to try again
        results.append({"name": name, "budget": budget, **quality.score(plan, drawn, nfe, lost), "first_20": first})
    if given.score:
        if not results:
            raise SystemExit(f"{given.folder} holds no images of these networks, {OUT.name} stays; run without --score")
        before = json.loads(OUT.read_text()).get("sanity") if OUT.is_file() else None
        current = before is not None and before.get("features_sha256") == features.load().sha256
        tried = sanity(given.data) if given.data else before if current else None
        about = {"cells": results, "claims": judge(found), "sanity": tried}
        write(OUT, lambda file: file.write((json.dumps(about, indent=1) + "\n").encode()))
        print(f"-> {OUT}")


if __name__ == "__main__":
    main()
