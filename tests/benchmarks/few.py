"""Few evaluations: our solvers and those of other libraries, side by side in one process, 6 to 50 evaluations.

    python -m tests.benchmarks.few [--peers] [--starts 8]
    python -m tests.benchmarks.few --tried

writes ``book/results/few.json``: the shipped network and two mixtures, grids uniform in log-SNR and of Karras, the same
start states and the same reference for all. With ``--peers`` the samplers of k-diffusion and azula run from their own
code (installed as `diffnum audit` does); where one of them ends where one of ours does, to rounding, the network is
asked once for both. UniPC and DPM-Solver++ of diffusers are `unipc` and `dpmpp_3m(published=True)` here: the audit
measures their own code. From this table comes the default of `diffnum sample`. ``--tried`` adds what was tried and not
kept (`linear_part`) to a table that is there.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Collection
from math import exp, log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffnum as dn
from diffnum import grids
from diffnum.denoisers.targets import smooth
from diffnum.files import write
from diffnum.interop.audit.bench import Bench
from diffnum.interop.audit.environment import ready
from diffnum.measure.analysis import reference, rms, steps_within
from tests.benchmarks.linear_part import gaussian_part

OUT = Path(__file__).parents[2] / "book" / "results" / "few.json"
BUDGETS = (6, 8, 10, 12, 15, 20, 30, 50)
GRIDS = {"log_snr": grids.log_snr, "karras": grids.karras}
PROCESS = dn.VP()
Run = Callable[[Any, Tensor, Tensor], Tensor]

#: Ours: name of the row -> solver and options. Those with a star are methods that other libraries have, too.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim*": ("ddim", {}), "plms*": ("plms", {}), "ipndm*": ("ipndm", {}), "f_pndm*": ("f_pndm", {}),
    "dpmpp_2m*": ("dpmpp_2m", {}), "dpmpp_3m, published*": ("dpmpp_3m", {"published": True}),
    "lms*": ("lms", {}), "unipc, order 2*": ("unipc", {"order": 2}), "unipc, order 3*": ("unipc", {"order": 3}),
    "deis, order 3*": ("deis", {"order": 3}), "deis, order 4*": ("deis", {"order": 4}),
    "noise in log_snr, order 3*": ("exponential_adams", {"order": 3}),
    "noise in log_snr, order 4*": ("exponential_adams", {"order": 4}),
    "dpmpp_3m": ("dpmpp_3m", {}),
    "gddim, order 3, pec": ("gddim", {"order": 3, "corrector": "pec"}),
    "noise in log_snr, order 3, corrected": ("exponential_adams", {"order": 3, "corrector": True}),
    "noise in log_snr, order 4, corrected": ("exponential_adams", {"order": 4, "corrector": True}),
}  # fmt: skip


#: What was tried, outside the library: name of the row -> width of the Gaussian and order.
TRIED = {"Gaussian part 0.25, order 3": (0.25, 3), "Gaussian part 0.5, order 4": (0.5, 4)}


def tried(name: str) -> Run:
    """A row of what was tried."""
    s0, order = TRIED[name]
    return lambda problem, u, times: dn.solve(problem, gaussian_part, u, times, s0=s0, order=order).u


def ours(name: str) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """A row of ours as a function of problem, start and grid."""
    solver, options = OURS[name]
    return lambda problem, u, times: dn.solve(problem, solver, u, times, **options).u


def peers() -> dict[str, Run]:
    """Samplers of k-diffusion and azula from their own code, on a grid of ours."""
    for library in ("k-diffusion", "azula"):
        sys.path += [str(folder) for folder in ready(library)]
    from diffnum.interop.audit import of_azula, of_k_diffusion

    module = of_k_diffusion.sampling()
    import azula.denoise
    import azula.sample

    def sampled(name: str, **options: Any) -> Run:
        def run(problem: Any, u: Tensor, times: Tensor) -> Tensor:
            sigmas, alphas = PROCESS.rho(times), PROCESS.alpha(times)

            def model(x: Tensor, sigma: Tensor) -> Tensor:
                t = PROCESS.time_of_rho(sigma.flatten()[0].item())
                return problem.x0(PROCESS.levels(t)[0] * x, t)

            out = getattr(module, name)(model, u / alphas[0].item(), sigmas, disable=True, **options)
            return alphas[-1].item() * out

        return run

    def stepped(name: str, order: int) -> Run:
        def run(problem: Any, u: Tensor, times: Tensor) -> Tensor:
            class Exact(azula.denoise.Denoiser):
                schedule = of_azula.Linear()

                def forward(self, x_t: Tensor, t: Tensor, **rest: Any) -> Any:
                    return azula.denoise.DiracPosterior(mean=problem.x0(x_t.to(u.dtype), t.item()))

            kind = type("OnGrid", (getattr(azula.sample, name),), {"timesteps": property(lambda self: times)})
            return kind(Exact(), order=order, steps=len(times) - 1, silent=True)(u).to(u.dtype)

        return run

    zero = {"eta": 0.0, "noise_sampler": lambda *levels: 0.0}
    found = {f"k-diffusion {n}": sampled(n) for n in ("sample_lms", "sample_dpmpp_2m")}
    found["k-diffusion sample_dpmpp_3m_sde"] = sampled("sample_dpmpp_3m_sde", **zero)
    for name in ("zAB", "vAB", "zEAB", "xEAB"):
        found |= {f"azula {name}, order {q}": stepped(f"{name}Sampler", q) for q in (2, 3, 4)}
    return found


def problems(starts: int) -> dict[str, tuple[Any, Tensor]]:
    """Name -> problem and start states."""
    made = {}
    for name, denoiser, dtype in (
        ("network", dn.load("cifar10"), torch.float32),
        ("smooth", smooth(), torch.float64),
        ("mixture", Bench().exact, torch.float64),
    ):
        problem = dn.Problem(PROCESS, denoiser)
        batch = starts if name == "network" else 16
        made[name] = (problem, problem.prior((batch, *denoiser.shape), dtype=dtype, seed=0))
    return made


def truth(name: str, problem: Any, u: Tensor) -> tuple[Tensor, float]:
    """The end of the ODE, and about how wrong it is."""
    if name != "network":
        return reference(problem, u, [PROCESS.t_max, PROCESS.t_end], rtol=1e-12), 1e-12
    runs = [
        dn.solve(problem, "exponential_adams", u, grids.log_snr(PROCESS, n), order=4, corrector=True).u
        for n in (120, 240)
    ]
    return runs[1].double(), rms(runs[1] - runs[0])


def table(starts: int, rows: dict[str, Run], others: Collection[str] = ()) -> dict[str, Any]:
    """Errors by problem, grid and row, one for each budget (None where it pays for no step).

    Of the ``others`` among the rows those that end where one of ours does are left out with the network.
    """
    result: dict[str, Any] = {"errors": {}, "reference": {}, "same": {}}
    made = problems(starts)
    for name in ("smooth", "mixture", "network"):
        problem, u = made[name]
        exact, wrong = truth(name, problem, u)
        result["reference"][name] = wrong
        for grid, spaced in GRIDS.items():
            found: dict[str, list[float | None]] = {}
            for row, run in rows.items():
                if name == "network" and row in result["same"]:
                    continue
                counts = [steps_within(b, PROCESS, OURS[row][0], **OURS[row][1]) if row in OURS else b for b in BUDGETS]
                with torch.no_grad():
                    ends = [None if n is None else run(problem, u, spaced(PROCESS, n)).double() for n in counts]
                found[row] = [None if end is None else rms(end - exact) for end in ends]
                told = "".join(f"{e:9.1e}" if e else "        -" for e in found[row])
                print(f"{name:8} {grid:8} {row:38}{told}", flush=True)
            result["errors"].setdefault(name, {})[grid] = found
        if name == "mixture":
            result["same"] = {row: twin for row in others if (twin := same(result["errors"], row))}
            print("the same to rounding:", result["same"])
    return result


def same(errors: dict[str, Any], row: str) -> str | None:
    """The row of ours whose errors those of a peer are, on both mixtures and both grids."""
    for name in OURS:
        pairs = [
            (a, b) for grids_of in errors.values() for found in grids_of.values()
            for a, b in zip(found[row], found[name], strict=True)
        ]  # fmt: skip
        if all(a is not None and b is not None and abs(a / b - 1) < 1e-3 for a, b in pairs):
            return name
    return None


def scores(errors: dict[str, Any]) -> dict[str, float]:
    """For every row the geometric mean, over problems, grids and budgets, of its error over the best there."""
    places = [
        (found, i) for by_grid in errors.values() for found in by_grid.values() for i in range(len(BUDGETS))
        if any(row[i] is not None for row in found.values())
    ]  # fmt: skip
    best = [min(row[i] for row in found.values() if row[i] is not None) for found, i in places]
    out = {}
    for name in OURS:
        ratios = [found[name][i] / b for (found, i), b in zip(places, best, strict=True) if found[name][i] is not None]
        if len(ratios) == len(places):
            out[name] = exp(sum(map(log, ratios)) / len(ratios))
    return dict(sorted(out.items(), key=lambda item: item[1]))


def rounded(value: Any) -> Any:
    """Three significant digits, in everything."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.few", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also run k-diffusion's and azula's own code")
    parser.add_argument("--starts", type=int, default=8, help="start states of the network")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--tried", action="store_true", help="add the rows of what was tried to the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.tried:
        result = json.loads(given.out.read_text("utf-8"))
        more = table(result["starts"], {name: tried(name) for name in TRIED})["errors"]
        for name, by_grid in more.items():
            for grid, found in by_grid.items():
                result["errors"][name][grid] |= found
        write(given.out, lambda file: file.write((json.dumps(rounded(result), indent=1) + "\n").encode()))
        return
    others = peers() if given.peers else {}
    result = table(given.starts, {**{name: ours(name) for name in OURS}, **others}, others)
    result |= {"budgets": list(BUDGETS), "starts": given.starts, "score": scores(result["errors"]),
               "weights_sha256": dn.load("cifar10").sha256, "date": datetime.date.today().isoformat()}  # fmt: skip
    text = json.dumps(rounded(result), indent=1) + "\n"
    write(given.out, lambda file: file.write(text.encode()))
    for name, score in result["score"].items():
        print(f"{name:40} {score:.2f}")


if __name__ == "__main__":
    main()
