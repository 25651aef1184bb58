"""The figures of the book that move: their data, computed by the library, and the still pictures beside them.

``python -m tests.benchmarks.figures [NAME ...]`` writes ``book/_static/moving/NAME.data.js``, which the script of the
figure reads, and ``book/images/moving_NAME.png``, what stands in print. A page holds nothing but the still picture;
``book/_static/moving.js`` puts the moving one in its place. Half a minute of one core.

``... figures labs`` takes the pictures of pages that a lab draws from the lab's stored outputs (`make execute` does so
at its end), and ``... figures commands`` draws those that a command makes.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import diffnum as dn
from diffnum import analysis, grids, plots, targets
from diffnum.coefficients import act, exponential_weights, lagrange
from diffnum.files import write
from diffnum.measure.analysis import ladder, rms
from diffnum.noise import Seeded
from tests.benchmarks.gallery import LABEL, STARTS, TOP

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "book" / "_static" / "moving"
STILLS = ROOT / "book" / "images"
LIMIT = 300_000  # bytes of one figure's data

#: Still pictures that a lab draws: picture -> lab, and which of the lab's pictures it is.
OF_LABS = {
    "ddim_straight": ("ddim_exponential", 1), "design_constants": ("design_your_own", 1),
    "er_sde_paths": ("er_sde_order", 2), "exponential_extrapolation": ("exponential_order", 1),
    "gddim_spinning": ("gddim_order", 1), "guidance_paths": ("guidance_order", 1),
    "linear_sde_images": ("linear_sde_images", 1), "need_walk": ("what_you_need", 1),
    "need_density": ("what_you_need", 2), "need_mean": ("what_you_need", 3), "order_bug": ("order_planted_bug", 1),
    "pndm_arc": ("pndm_manifold", 1), "psld_sweep": ("psld_conjugate", 1), "quality_bias": ("quality_claims", 1),
    "reverse_sde_sheet": ("reverse_sde_order", 3), "reversing_paths": ("reversing_exact", 1),
    "splitting_order": ("splitting_order", 2), "work_exact": ("work_precision", 1),
}  # fmt: skip
#: Still pictures that a command writes: picture -> the command, less its last option.
OF_COMMANDS = {
    "samples": "sample --out",
    "f_pndm_order": "order --solver f_pndm --steps 10,20,40,80,160,320,640 --out",
}

FIGURES: dict[str, Callable[[], dict[str, Any]]] = {}
DRAWN: dict[str, Callable[[dict[str, Any]], Any]] = {}


def figure(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Register the data of a figure under the name of its function."""
    FIGURES[function.__name__] = function
    return function


def still(function: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Register the picture that stands in print, drawn from the same data; `still_NAME`."""
    DRAWN[function.__name__.removeprefix("still_")] = function
    return function


def colour(name: str) -> str:
    """The solver's colour in every figure of the book."""
    return plots.style(name)["color"]


# ------------------------------------------------------------------------------------------------------ trajectories

BLOBS = {"weights": (0.3, 0.4, 0.3), "means": ((1.2, 0.9), (-1.1, 0.7), (0.1, -1.2)), "std": 0.15}
SOLVERS = ("euler", "heun", "rk4", "fon", "ddim", "s_pndm", "f_pndm", "plms")
STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 40)
GRIDS = {"uniform": "uniform in t", "log_snr": "log-SNR"}


def blobs() -> dn.Problem:
    """Three round Gaussians in the plane, on VP."""
    mixture = dn.GaussianMixture(BLOBS["weights"], BLOBS["means"], stds=(BLOBS["std"],) * 3)
    return dn.Problem(dn.VP(), mixture)


def flown(problem: dn.Problem, u: Tensor, solver: str, grid: str, steps: int) -> Any:
    """A run of the figure, with its path."""
    times = getattr(grids, grid)(problem.process, steps)
    return dn.solve(problem, solver, u, times, trajectory=True)


@figure
def trajectories() -> dict[str, Any]:
    """Paths of six particles under eight solvers, two grids and eleven numbers of steps, and the exact paths."""
    problem = blobs()
    u = problem.prior((6, 2), dtype=torch.float64, seed=4)
    fine = grids.log_snr(problem.process, 60)
    exact = analysis.reference(problem, u, fine, rtol=1e-11, trajectory=True)
    runs = {}
    for name in SOLVERS:
        for grid in GRIDS:
            for n in STEPS:
                run = flown(problem, u, name, grid, n)
                runs[f"{name} {grid} {n}"] = {
                    "path": run.trajectory.clamp(-99, 99).transpose(0, 1).tolist(),
                    "error": rms(run.u - exact[-1]),
                    "nfe": run.nfe,
                }
    return {
        "blobs": BLOBS, "steps": STEPS, "grids": GRIDS, "exact": exact.transpose(0, 1).tolist(), "runs": runs,
        "solvers": {name: colour(name) for name in SOLVERS},
    }  # fmt: skip


@still
def still_trajectories(data: dict[str, Any]) -> None:
    _, panels = plots.panels(2)
    for axes, name in zip(panels, ("euler", "plms"), strict=True):
        for mean in data["blobs"]["means"]:
            axes.add_patch(plt.Circle(mean, 2 * data["blobs"]["std"], color="0.9"))
        run = data["runs"][f"{name} log_snr 8"]
        for exact, path in zip(data["exact"], run["path"], strict=True):
            axes.plot(*np.transpose(exact), color="0.6", linewidth=3)
            axes.plot(*np.transpose(path), marker="o", markersize=3, color=data["solvers"][name], linewidth=1)
        axes.set(title=f"{name}, 8 steps, error {run['error']:.3f}", xlabel="$x_1$", ylabel="$x_2$")
        axes.set(xlim=(-3, 3), ylim=(-2.4, 2.4))


# ----------------------------------------------------------------------------------------------------- extrapolation

FINE, PLACE, HALVED = 560, 392, (10, 14, 20, 28, 40, 56, 80)
EXTRAPOLATED = (-2.0, 1.0, 0.5, -1.0)  # the start of the lab


@figure
def extrapolation() -> dict[str, Any]:
    """What a step of gDDIM with 1 to 4 nodes assumes about the noise, and what that costs."""
    problem = dn.Problem(dn.VP(), targets.smooth())
    u = torch.tensor([EXTRAPOLATED], dtype=torch.float64)
    fine = grids.log_snr(problem.process, FINE, t_end=0.03)
    path = analysis.reference(problem, u, fine, rtol=1e-12, trajectory=True)
    noise = torch.stack([problem.eps(x, t) for x, t in zip(path, fine.tolist(), strict=True)])[:, 0]
    steps = {}
    for n in HALVED:
        stride = FINE // n
        spots = [PLACE - stride * j for j in range(4)]
        inside = fine[PLACE : PLACE + stride + 1 : max(1, stride // 14)]
        orders = {}
        for q in (1, 2, 3, 4):
            values = lagrange(fine[spots[:q]].tolist(), inside).T @ noise[spots[:q], 0]
            nodes = [*fine[spots[:q]].tolist()[::-1], fine[PLACE + stride].item()]
            weights = exponential_weights(problem.process, nodes, q)[-1]
            end = act(problem.process.transition(nodes[-1], nodes[-2]), path[PLACE])
            end = end + sum(act(C, noise[i][None]) for C, i in zip(weights, spots[:q], strict=True))
            orders[q] = {"curve": values.tolist(), "error": rms(end - path[PLACE + stride])}
        steps[n] = {"spots": spots, "end": PLACE + stride, "t": inside.tolist(), "orders": orders}
    return {"t": fine.tolist(), "eps": noise[:, 0].tolist(), "place": PLACE, "steps": steps}


@still
def still_extrapolation(data: dict[str, Any]) -> None:
    _, panels = plots.panels(2)
    for axes, n in zip(panels, (10, 40), strict=True):
        step = data["steps"][n]
        axes.plot(data["t"], data["eps"], color="0.75", linewidth=4, label="exact solution")
        for q, line in zip((1, 2, 3, 4), ("-", "-.", "--", ":"), strict=True):
            label = f"order {q}, error {step['orders'][q]['error']:.0e}"
            axes.plot(step["t"], step["orders"][q]["curve"], color=f"C{q - 1}", linestyle=line, label=label)
        axes.plot([data["t"][i] for i in step["spots"]], [data["eps"][i] for i in step["spots"]], "ko", label="nodes")
        low, high = data["t"][step["end"]], data["t"][step["spots"][-1]]
        shown = data["eps"][step["spots"][-1] : step["end"] + 1]
        axes.axvspan(low, data["t"][data["place"]], color="0.95")
        axes.set(xlim=(low - 0.01, high + 0.01), ylim=(min(shown) - 0.05, max(shown) + 0.05))
        axes.set(title=f"{n} steps", xlabel="time t (sampling runs to the left)", ylabel=r"$\epsilon$")
        axes.legend(fontsize="x-small")


# -------------------------------------------------------------------------------------------------------- order plot

DOUBLED = (5, 10, 20, 40, 80, 160, 320, 640, 1280)


@figure
def order() -> dict[str, Any]:
    """Errors of classical methods on steps uniform in t, halved again and again, in two precisions."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    thin, cases = dn.Problem(process, targets.thin()), {}
    for label, name, dtype, end in (
        ("Euler", "euler", torch.float64, 0.01), ("Heun", "heun", torch.float64, 0.01),
        ("RK4", "rk4", torch.float64, 0.01), ("RK4, single precision", "rk4", torch.float32, 0.01),
        ("Adams-Bashforth 2", "ab2", torch.float64, 0.01), ("Heun on thin data", "heun", torch.float64, 1e-3),
    ):  # fmt: skip
        grid = ladder(grids.uniform, process, t_end=end)
        result = analysis.convergence(thin if "thin" in label else problem, name, u.to(dtype), grid, DOUBLED)
        cases[label] = {
            "steps": result.steps, "nfe": result.nfe, "errors": result.errors, "slopes": result.slopes,
            "claim": result.claim, "colour": colour(name),
        }  # fmt: skip
    return {"cases": cases}


@still
def still_order(data: dict[str, Any]) -> None:
    axes = plots.panels(1)[1]
    for (label, case), mark in zip(data["cases"].items(), "xv<o>s", strict=True):
        single = "single" in label or "thin" in label
        axes.loglog(case["nfe"], case["errors"], color=case["colour"], marker=mark, linestyle=":" if single else "-",
                    label=f"{label}: last slope {case['slopes'][-1]:.1f}")  # fmt: skip
    axes.set(xlabel="network evaluations", ylabel="error (root mean square)")
    axes.legend(fontsize="x-small")


# ------------------------------------------------------------------------------------------------------------ lambda

LAMBDAS, POINTS, EVERY = tuple(i / 10 for i in range(21)), 240, 6


def line() -> dn.Problem:
    """The mixture on a line of the chapter on reversing time."""
    return dn.Problem(dn.VP(), dn.GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], stds=[[0.2], [0.4]]))


def reversed_paths(problem: dn.Problem, lam: float) -> Any:
    """Twelve reverse paths from the same starts with the same noise, whatever lambda."""
    times = grids.log_snr(problem.process, POINTS)
    u = problem.prior((12, 1), dtype=torch.float64, seed=2)
    return dn.solve(problem, "euler_maruyama", u, times, lam=lam, noise=Seeded(7), trajectory=True)


@figure
def family() -> dict[str, Any]:
    """Reverse paths for lambda from 0 to 2: the same starts, the same noise, the same law at every time."""
    problem = line()
    paths, ends = {}, {}
    for lam in LAMBDAS:
        run = reversed_paths(problem, lam)
        paths[f"{lam:.1f}"] = run.trajectory[::EVERY, :, 0].T.tolist()
        ends[f"{lam:.1f}"] = run.trajectory[:, :, 0].diff(dim=0).abs().sum(0).mean().item()
    times = grids.log_snr(problem.process, POINTS)[::EVERY]
    return {"log_snr": problem.process.log_snr(times).tolist(), "t": times.tolist(), "paths": paths, "length": ends}


@still
def still_family(data: dict[str, Any]) -> None:
    _, panels = plots.panels(3)
    for axes, lam in zip(panels, ("0.0", "0.5", "1.0"), strict=True):
        for path in data["paths"][lam]:
            axes.plot(data["log_snr"], path, linewidth=1)
        axes.set(title=f"$\\lambda = {float(lam):g}$", xlabel="log-SNR (sampling runs to the right)", ylabel="x")
        axes.set(ylim=(-3.2, 3.2))


# ------------------------------------------------------------------------------------------------------- phase space

FRAMES = 60


@figure
def phase() -> dict[str, Any]:
    """Position and momentum along the exact reverse paths of CLD and PSLD."""
    spaces = {}
    for label, process in (("CLD", dn.CLD()), ("PSLD, Γ = 1", dn.PSLD(Gamma=1.0, nu=5.0))):
        problem = dn.Problem(process, dn.GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], stds=[[0.2], [0.4]]))
        u = problem.prior((12, 1), dtype=torch.float64, seed=3)
        times = grids.quadratic(process, FRAMES)
        path = analysis.reference(problem, u, times, rtol=1e-9, trajectory=True)[..., 0]
        spaces[label] = {
            "t": times.tolist(), "x": path[:, :, 0].T.tolist(), "m": path[:, :, 1].T.tolist(),
            "spread": process.cov(1.0).diagonal().sqrt().tolist(),
        }  # fmt: skip
    return {"spaces": spaces}


@still
def still_phase(data: dict[str, Any]) -> None:
    _, panels = plots.panels(2)
    space = data["spaces"]["CLD"]
    for axes, frame in zip(panels, (0, 40), strict=True):
        for x, m in zip(space["x"], space["m"], strict=True):
            axes.plot(x[: frame + 1], m[: frame + 1], linewidth=1, color="0.6")
            axes.plot(x[frame], m[frame], "o", markersize=5)
        axes.set(title=f"t = {space['t'][frame]:.2f}", xlabel="position x", ylabel="momentum m")
        axes.set(xlim=(-3, 3), ylim=(-2, 2))


# ----------------------------------------------------------------------------------------------------------- gallery


SIZE, PITCH, EDGE = 64, 66, 2  # of the small pictures of a sheet: how large, how far apart, how far from its edge


@figure
def gallery() -> dict[str, Any]:
    """Where the small pictures of the gallery's sheet lie, and the stored errors beside them."""
    stored = json.loads((ROOT / "book" / "results" / "gallery.json").read_text("utf-8"))
    with Image.open(STILLS / "gallery_pseudo.png") as picture:
        shape = picture.size
    rows = {
        row["name"]: [{"nfe": run["nfe"], "error": run.get("error"), "lost": run["lost"]} for run in row["runs"]]
        for row in stored["gallery"]["pseudo"]
    }
    names = [*rows, "reference"]
    tops = [TOP + EDGE + PITCH * i for i in range(len(names))]
    lefts = [LABEL + EDGE + PITCH * i for i in range(STARTS * len(stored["budgets"]))]
    if shape != (lefts[-1] + PITCH, tops[-1] + PITCH):
        raise ValueError(f"the sheet has {shape} pixels, which is not the size of {len(names)} rows; run make gallery")
    return {
        "budgets": stored["budgets"], "rows": rows, "top": dict(zip(names, tops, strict=True)), "left": lefts,
        "size": SIZE, "width": shape[0], "height": shape[1],
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- writing


def of_lab(name: str) -> bytes:
    """The picture that a lab's stored outputs hold for a page."""
    lab, number = OF_LABS[name]
    cells = json.loads((ROOT / "notebooks" / f"{lab}.ipynb").read_text("utf-8"))["cells"]
    found = [output.get("data", {}).get("image/png") for cell in cells for output in cell.get("outputs", [])]
    return base64.b64decode("".join([text for text in found if text][number - 1]))


def rounded(value: Any) -> Any:
    """Four significant digits, and at most four decimals for places on a page."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.4g}") if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value]


def read(name: str) -> dict[str, Any]:
    """The stored data of a figure."""
    text = (DATA / f"{name}.data.js").read_text("utf-8")
    found = re.fullmatch(rf'moving\.data\("{name}", (.*)\);\n', text, re.S)
    if found is None:
        raise ValueError(f"{name}.data.js is not what this module writes")
    return json.loads(found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute, write and draw the figures named, by default all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, "labs", "commands", []], default=[])
    names = parser.parse_args(arguments).names or list(FIGURES)
    for name in OF_LABS if "labs" in names else ():
        write(STILLS / f"{name}.png", lambda file, name=name: file.write(of_lab(name)))
    for name, command in OF_COMMANDS.items() if "commands" in names else ():
        subprocess.run([sys.executable, "-m", "diffnum", *command.split(), str(STILLS / f"{name}.png")], check=True)
    names = [name for name in names if name in FIGURES]
    torch.set_num_threads(1)
    plots.use()
    DATA.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = FIGURES[name]()
        text = f'moving.data("{name}", {json.dumps(rounded(data), separators=(",", ":"))});\n'
        if len(text) > LIMIT:
            raise ValueError(f"{name}: {len(text)} bytes of data; a page may have {LIMIT}")
        write(DATA / f"{name}.data.js", lambda file, text=text: file.write(text.encode()))
        if name in DRAWN:
            DRAWN[name](data)
            plt.savefig(STILLS / f"moving_{name}.png", metadata={"Software": None})
            plt.close()
        print(f"{name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
