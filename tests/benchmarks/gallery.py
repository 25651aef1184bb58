"""The gallery: every registered solver on CIFAR-10 at 5 to 100 evaluations, and the order that the network shows.

``make gallery`` writes ``book/results/gallery.json`` and the contact sheets ``book/images/gallery_*.png``, from which
the book's chapter on sampling CIFAR-10 is drawn. It takes about twenty minutes of one core. Every run is kept
under ``.runs/gallery``: a command that was stopped goes on where it was.

Two measurements share one rule, from start states that depend on the seed and their index alone:

* *gallery*: single precision, as many steps as a budget of evaluations allows. The distance of a deterministic solver
  is measured from the solution of its own ODE with the same network; a stochastic solver has other paths and gets none.
* *order*: halved steps in double and single precision on two stretches of the VP grid, down to ``t_end`` or only to a
  higher noise level.
"""

import argparse
import copy
import datetime
import hashlib
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from diffnum import Problem, named, noise, plots, solve
from diffnum.denoisers.network import SIGMA_DATA, Network
from diffnum.denoisers.unet import UNet
from diffnum.files import write
from diffnum.measure.analysis import rms, steps_within
from diffnum.runner import draws_noise
from diffnum.solvers import find

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "book" / "results" / "gallery.json"
SHEETS = ROOT / "book" / "images"
KEPT = ROOT / ".runs" / "gallery"
SEED, STARTS = 0, 2
LABEL, TOP = 230, 40  # pixels of a contact sheet left of its pictures and above them
BUDGETS = (5, 10, 20, 50, 100)
PLACES = {"vp": "VP", "psld": "PSLD", "cld": "CLD"}
GRIDS = {"vp": "log_snr", "psld": "quadratic", "cld": "quadratic", "blurring": "quadratic"}


# ------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Row:
    """A solver with its options on a process."""

    solver: str
    process: str = "vp"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables: the solver, its options, and the process where it is not the usual one of the group."""
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        at_home = self.process in ("vp", "psld") and self.solver != "conjugate"
        return f"{self.solver}{options}" + ("" if at_home else f" on {PLACES.get(self.process, self.process)}")

    @property
    def stochastic(self) -> bool:
        """Whether its paths are random: ER-SDE with phi = x draws noise and multiplies it by 0."""
        return draws_noise(find(self.solver)) and self.options.get("phi") != "x"


#: contact sheet -> its rows. Every registered solver has a row on the process it is at home in, a few have another.
SHEET: dict[str, tuple[Row, ...]] = {
    "pseudo": (
        *(Row(name) for name in ("ddim", "s_pndm", "f_pndm", "plms", "prk", "pndm_variable", "gddim", "dpmpp_2m")),
        Row("er_sde", options={"phi": "x"}), Row("conjugate"),
    ),
    "exponential": (
        *(Row(name) for name in ("ipndm", "deis", "lms", "dpmpp_3m", "unipc")),
        Row("unipc", options={"order": 3}), Row("exponential_adams"),
        Row("exponential_adams", options={"order": 4}),
    ),
    "classical": tuple(Row(name) for name in ("euler", "heun", "edm_heun", "rk4", "ab2", "ab4", "fon")),
    "stochastic": tuple(Row(name) for name in ("euler_maruyama", "ancestral", "gddim_sde", "er_sde")),
    "phase": (
        *(Row(name, "psld") for name in ("symplectic_euler", "reduced_symplectic_euler", "velocity_verlet",
          "reduced_velocity_verlet", "verlet2", "conjugate_symplectic_euler", "conjugate_velocity_verlet")),
        Row("conjugate", "psld"), Row("gddim", "psld"), Row("gddim", "cld"), Row("gddim", "blurring"),
    ),
    "phase_stochastic": tuple(
        Row(name, "psld") for name in ("oba", "bao", "obab", "reduced_oba", "reduced_bao", "reduced_obab", "sscs")
    ),
}  # fmt: skip

#: The reference: higher order and more steps than the others, in double precision. Half the steps tell how good it is,
#: and on VP a method of another kind.
BEST = {"solver": "gddim", "options": {"order": 4, "corrector": "pec"}}
STEPS = {"vp": 640, "psld": 320, "cld": 320, "blurring": 320}
OTHER, OTHER_STEPS = Row("prk", options={"midpoint": "sigma"}), 80


@cache
def problem(process: str) -> Problem:
    """The process with the network that serves it."""
    if process == "smoothed":
        return Problem(named.process("vp"), smoothed(problem("vp").denoiser))
    return Problem(named.process(process), named.network("cifar10", process))


def ended(
    row: Row, steps: int, dtype: str = "float32", t_end: float | None = None, grid: str | None = None
) -> tuple[Tensor, int]:
    """Images in which a run ends, ``(STARTS, 3, 32, 32)``, and its evaluations; read, if the run is kept."""
    given = problem(row.process)
    grid = grid or GRIDS.get(row.process, GRIDS["vp"])
    times = named.grid(grid)(given.process, steps, t_end=t_end)
    recipe = {
        "solver": row.solver, "options": row.options, "process": row.process, "grid": grid,
        "steps": steps, "t_end": float(times[-1]), "dtype": dtype, "seed": SEED, "starts": STARTS,
        "weights_sha256": given.denoiser.sha256,
    }  # fmt: skip
    about = json.dumps(recipe, sort_keys=True)
    file = KEPT / f"{row.solver}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.npz"
    if not file.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        u = given.prior((STARTS, 3, 32, 32), dtype=getattr(torch, dtype), seed=SEED)
        draws = noise.Seeded(SEED, range(STARTS)) if draws_noise(find(row.solver)) else None
        run = solve(given, row.solver, u, times, noise=draws, **row.options)
        kept: dict[str, Any] = {"x": run.x.numpy(), "nfe": run.nfe, "recipe": about}
        write(file, lambda stream: np.savez(stream, **kept))
        print(f"{row.name:32} {steps:4d} steps, {run.nfe:4d} evaluations, {dtype}", flush=True)
    with np.load(io.BytesIO(file.read_bytes())) as stored:
        return torch.from_numpy(stored["x"]), int(stored["nfe"])


# ---------------------------------------------------------------------------------------------------------- gallery


def reference(process: str) -> tuple[Tensor, dict[str, Any]]:
    """Where the probability-flow ODE of a process ends with the network, and how it was found."""
    row, steps = Row(process=process, **BEST), STEPS[process]
    fine, coarse = (ended(row, n, "float64")[0] for n in (steps, steps // 2))
    about = {**BEST, "grid": GRIDS[process], "steps": steps, "halved": rms(fine - coarse)}
    if process == OTHER.process:
        about[OTHER.solver] = rms(fine - ended(OTHER, OTHER_STEPS, "float64")[0])
    return fine, about


def gallery() -> dict[str, list[dict[str, Any]]]:
    """For every sheet its rows, each with one run per budget: steps, evaluations, distance of every image, lost."""
    return {sheet: [measured(row) for row in rows] for sheet, rows in SHEET.items()}


def measured(row: Row) -> dict[str, Any]:
    """One row of the gallery; a budget that does not pay for one step has no run."""
    runs = []
    for budget in BUDGETS:
        steps = steps_within(budget, problem(row.process).process, row.solver, **row.options)
        if steps is None:
            continue
        x, nfe = ended(row, steps)
        lost = not bool(x.isfinite().all())
        run: dict[str, Any] = {"budget": budget, "steps": steps, "nfe": nfe, "lost": lost}
        if not row.stochastic and not lost:
            wrong = x.double() - reference(row.process)[0]
            run |= {"error": rms(wrong), "errors": [rms(image) for image in wrong]}
        runs.append(run)
    return {
        "name": row.name, "solver": row.solver, "options": row.options, "process": row.process,
        "grid": GRIDS[row.process], "stochastic": row.stochastic, "runs": runs,
    }  # fmt: skip


def draw(sheet: str) -> Path:
    """The contact sheet: a row per solver, a column of images per budget; grey where a run is lost, white if too dear.

    Pictures are enlarged exactly twice. The last row is the reference, where all rows have the same one.
    """
    rows, tiles = SHEET[sheet], []
    for row in rows:
        for budget in BUDGETS:
            steps = steps_within(budget, problem(row.process).process, row.solver, **row.options)
            x = torch.ones(STARTS, 3, 32, 32) if steps is None else ended(row, steps)[0]
            finite = x.isfinite().flatten(1).all(1)[:, None, None, None]
            tiles.append(torch.where(finite, x.nan_to_num(), 0.0).clamp(-1, 1))
    names = [row.name for row in rows]
    shared = {row.process for row in rows}
    if len(shared) == 1 and not rows[0].stochastic:
        names.append("reference")
        tiles += [reference(shared.pop())[0].float().clamp(-1, 1)] * len(BUDGETS)
    picture = plots.sheet(torch.cat(tiles), STARTS * len(BUDGETS), scale=2)
    width, height, dpi, label, top = *picture.size, 150, LABEL, TOP
    figure = plt.figure(figsize=((width + label) / dpi, (height + top) / dpi), dpi=dpi, layout="none")
    axes = figure.add_axes((label / (width + label), 0, width / (width + label), height / (height + top)))
    axes.imshow(np.asarray(picture), interpolation="nearest")
    axes.spines[:].set_visible(False)
    step = (height - 2) / len(names)
    axes.set_yticks([2 + step * (i + 0.5) for i in range(len(names))], names, fontsize=6.5)
    step = (width - 2) / len(BUDGETS)
    axes.set_xticks([2 + step * (i + 0.5) for i in range(len(BUDGETS))], [f"{n}" for n in BUDGETS], fontsize=6.5)
    for i in range(1, len(BUDGETS)):
        axes.axvline(0.5 + step * i, color="white", linewidth=1.5)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    path = plots.save(axes, SHEETS / f"gallery_{sheet}.png")
    plt.close(figure)
    return path


# ------------------------------------------------------------------------------------------------------------ order

LADDER = (10, 20, 40, 80, 160, 320)
ORDERS = (
    Row("ddim"), Row("s_pndm"), Row("f_pndm"), Row("dpmpp_2m"), *(Row("gddim", options={"order": q}) for q in (2, 3)),
)  # fmt: skip
PATH = 160  # steps of the path along which the noise prediction is looked at
ENDS, STRETCHED = (1e-3, 0.1), (Row("f_pndm"), Row("gddim"))  # the same on steps uniform in t, from two ends
SHORT = (20, 40, 80, 160)
LEVELS = (2.0, 0.2, 0.02)  # of noise, at which the network's derivatives are looked at
WIDTH = 0.3  # in log rho, over which the embedding of the noise label is averaged


def order() -> dict[str, Any]:
    """Errors over halved steps on the log-SNR grid of VP in both precisions, and what explains them."""
    truth, rows = reference("vp")[0], []
    for row in ORDERS:
        double, single = ([ended(row, n, dtype)[0].double() for n in LADDER] for dtype in ("float64", "float32"))
        rows.append(
            {
                "name": row.name, "solver": row.solver, "options": row.options,
                "nfe": [ended(row, n)[1] for n in LADDER],
                "float64": [rms(x - truth) for x in double], "float32": [rms(x - truth) for x in single],
                "rounding": [rms(a - b) for a, b in zip(double, single, strict=True)],
                "halved": [[rms(image) for image in a - b] for a, b in pairwise(double)],
            }
        )  # fmt: skip
    return {
        "grid": GRIDS["vp"], "t_end": problem("vp").process.t_end, "steps": list(LADDER), "rows": rows,
        "gddim_1_minus_ddim": max(same(n) for n in LADDER[:3]), "along": along(), "uniform": uniform(),
        "derivatives": {f"{level:g}": derivatives(level) for level in LEVELS}, "averaged": averaged(),
    }  # fmt: skip


def same(steps: int) -> float:
    """Largest difference between gDDIM of order 1 and DDIM, which are one method on VP."""
    first = ended(Row("gddim", options={"order": 1}), steps, "float64")[0]
    return (first - ended(Row("ddim"), steps, "float64")[0]).abs().max().item()


def along() -> dict[str, Any]:
    """What single precision changes in the noise prediction, root mean squares at the noise levels of a path."""
    given, row = problem("vp"), Row(**BEST)
    file = KEPT / f"along-{given.denoiser.sha256[:12]}-{STARTS}-{SEED}-{PATH}.npz"
    times = named.grid(GRIDS["vp"])(given.process, PATH)
    if not file.is_file():
        u = given.prior((STARTS, 3, 32, 32), dtype=torch.float64, seed=SEED)
        path = solve(given, row.solver, u, times, trajectory=True, **row.options).trajectory
        with torch.no_grad():
            double = torch.stack([given.eps(x, t) for x, t in zip(path, times.tolist(), strict=True)])
            single = torch.stack([given.eps(x.float(), t) for x, t in zip(path, times.tolist(), strict=True)])
        write(file, lambda stream: np.savez(stream, double=double.numpy(), single=single.numpy()))
    with np.load(file) as stored:
        wrong = torch.from_numpy(stored["single"]).double() - torch.from_numpy(stored["double"])
    return {"rho": given.process.rho(times)[::8].tolist(), "rounding": [rms(value) for value in wrong[::8]]}


def derivatives(level: float, process: str = "vp", count: int = 25, h: float = 0.02) -> dict[str, list[float]]:
    r"""Root mean squares of the first six derivatives in :math:`\lambda = \log\rho` of what the network returns.

    Along reference image plus :math:`\rho` times noise, around the given level: of the network with its noise label
    held fixed ("image"), with the image held fixed ("label"), and with both moving ("both").
    """
    net = problem(process).denoiser
    lam = log(level) + h * (torch.arange(count, dtype=torch.float64) - count // 2)
    clean = reference("vp")[0][:1]
    rho = lam.exp()[:, None, None, None]
    scaled = (clean + rho * noise.Seeded(SEED)(clean)) / (rho**2 + SIGMA_DATA**2).sqrt()
    middle = count // 2
    moves = {
        "image": (scaled, (lam[middle] / 4).expand(count)),
        "label": (scaled[middle].expand(count, -1, -1, -1), lam / 4),
        "both": (scaled, lam / 4),
    }
    found = {}
    for name, (images, labels) in moves.items():
        with torch.no_grad():
            values = torch.cat([net._F(images[i : i + 5], labels[i : i + 5]) for i in range(0, count, 5)])
        found[name] = [rms(values.diff(k, 0)) / h**k for k in range(1, 7)]
    return found


def smoothed(net: Network) -> Network:
    r"""The network with its embedding of the noise label averaged over :math:`\lambda` (a Gaussian of width WIDTH)."""
    inner = copy.deepcopy(net._net(torch.device("cpu"), torch.float64))
    inner.embed, inner.freq = Averaged(inner), torch.ones(1, dtype=torch.float64)
    nets = {(torch.device("cpu"), torch.float64, False): inner}
    return net.changed(_nets=nets, sha256=f"{net.sha256}, smoothed {WIDTH}")


class Averaged(torch.nn.Module):
    """Weighted mean of the embeddings of labels around the given one, of which it sees cosine and sine."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.embed, self.freq = net.embed, net.freq
        self.shifts = torch.linspace(-4, 4, 65, dtype=torch.float64)
        self.weights = torch.softmax(-(self.shifts**2) / 2, 0)

    def forward(self, turned: Tensor) -> Tensor:
        """(B, 2) -> (B, channels)."""
        label = torch.atan2(turned[:, 1], turned[:, 0])[:, None] + WIDTH / 4 * self.shifts
        p = label[..., None] * self.freq
        return torch.einsum("j,bjc->bc", self.weights, self.embed(torch.cat([p.cos(), p.sin()], -1)))


def averaged() -> dict[str, Any]:
    """Errors of the multistep methods of order 2 and 3 for the network with an averaged noise label."""
    truth, coarse = (ended(Row(process="smoothed", **BEST), n, "float64")[0] for n in (SHORT[-1] * 2, SHORT[-1]))
    rows = [Row("gddim", "smoothed", {"order": q}) for q in (2, 3)]
    return {
        "width": WIDTH, "steps": list(SHORT), "halved": rms(truth - coarse),
        "away": rms(truth - reference("vp")[0]), "derivatives": derivatives(LEVELS[1], "smoothed"),
        "rows": [
            {"name": f"gddim, order={row.options['order']}",
             "errors": [rms(ended(row, n, "float64")[0] - truth) for n in SHORT]} for row in rows
        ],
    }  # fmt: skip


def uniform() -> list[dict[str, Any]]:
    """Errors on steps uniform in t, which near the end are long in log rho, down to two end times."""
    out = []
    for t_end in ENDS:
        truth, coarse = (ended(Row(**BEST), n, "float64", t_end)[0] for n in (STEPS["vp"] // 2, STEPS["vp"] // 4))
        for row in STRETCHED:
            runs = [ended(row, n, "float64", t_end, "uniform")[0] for n in SHORT]
            out.append(
                {"name": row.name, "t_end": t_end, "steps": list(SHORT), "errors": [rms(x - truth) for x in runs],
                 "halved": rms(truth - coarse)}
            )  # fmt: skip
    return out


# ----------------------------------------------------------------------------------------------------------- result


def rounded(value: Any) -> Any:
    """Four significant digits, in everything."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not kept, write the result and the sheets."""
    argparse.ArgumentParser(prog="python -m tests.benchmarks.gallery", description=__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    result = {
        "about": {
            "seed": SEED, "images": STARTS, "device": "cpu", "dtype": "float32", "torch": torch.__version__,
            "python": platform.python_version(), "date": datetime.date.today().isoformat(),
            "weights_sha256": {name: problem(name).denoiser.sha256 for name in GRIDS},
        },
        "budgets": list(BUDGETS),
        "references": {name: reference(name)[1] for name in GRIDS},
        "gallery": gallery(),
        "order": order(),
    }  # fmt: skip
    for sheet in SHEET:
        print(f"-> {draw(sheet)}")
    write(OUT, lambda file: file.write((json.dumps(rounded(result), indent=1) + "\n").encode()))
    print(f"-> {OUT}")


if __name__ == "__main__":
    main()
