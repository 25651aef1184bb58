"""Few evaluations: our solvers and those of other libraries, side by side in one process, 6 to 50 evaluations.

    python -m tests.benchmarks.few [--peers] [--starts 8] [--up-to 20]
    python -m tests.benchmarks.few --go-on [--peers] [--up-to 20]
    python -m tests.benchmarks.few --tried

writes ``book/results/few.json``: the shipped network and three mixtures, grids uniform in log-SNR and of Karras, the
same start states and the same reference for all. The row of the pilot has a grid of its own, made from other start
states; the mixture "fresh" was drawn once, after all its settings stood. With ``--peers`` the samplers of k-diffusion
and azula run from their own code (installed as `diffnum audit` does); where one of them ends where one of ours does, to
rounding, the network is asked once for both. UniPC and DPM-Solver++ of diffusers are `unipc` and
`dpmpp_3m(published=True)` here: the audit measures their own code. The network takes long: the table is written after
every row, and ``--go-on`` asks only for what is missing, up to a budget. From this table comes the default of `diffnum
sample`. ``--tried`` adds what was tried and not kept (`linear_part`) to a table that is there.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Collection
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffnum as dn
from diffnum import analysis, grids
from diffnum.claims.foundations.network import PILOT
from diffnum.denoisers.targets import smooth
from diffnum.files import write
from diffnum.interop.audit.bench import Bench
from diffnum.interop.audit.environment import ready
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


@cache
def grid_of(problem: Any) -> analysis.Pilot:
    """The pilot of a problem, from start states that no row is measured on, for the row ``PILOT``."""
    shape = problem.denoiser.shape
    images = len(shape) == 3
    u = problem.prior((4 if images else 64, *shape), dtype=torch.float32 if images else torch.float64, seed=1)
    return analysis.equidistributed(problem, u)


def piloted(problem: Any, u: Tensor, times: Tensor) -> Tensor:
    """That row."""
    grid = grid_of(problem)(len(times) - 1)
    return dn.solve(problem, "exponential_adams", u, grid, order=3, corrector=True).u


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


def fresh() -> dn.GaussianMixture:
    """Six components in eight dimensions, with widths from 0.05 to 0.5, by one draw."""
    generator = torch.Generator("cpu").manual_seed(2027)
    weights, means, widths = (torch.rand(*s, generator=generator, dtype=torch.float64) for s in ((6,), (6, 8), (6, 8)))
    weights = (weights + 0.2) / (weights + 0.2).sum()
    return dn.GaussianMixture(weights.tolist(), 2 * means - 1, stds=0.05 * 10**widths)


def problems(starts: int) -> dict[str, tuple[Any, Tensor]]:
    """Name -> problem and start states."""
    made = {}
    for name, denoiser, dtype in (
        ("network", dn.load("cifar10"), torch.float32),
        ("smooth", smooth(), torch.float64),
        ("mixture", Bench().exact, torch.float64),
        ("fresh", fresh(), torch.float64),
    ):
        problem = dn.Problem(PROCESS, denoiser)
        batch = starts if name == "network" else 16
        made[name] = (problem, problem.prior((batch, *denoiser.shape), dtype=dtype, seed=0))
    return made


def truth(name: str, problem: Any, u: Tensor, known: float | None) -> tuple[Tensor, float]:
    """The end of the ODE, and about how wrong it is, where that is not known from before."""
    if name != "network":
        return analysis.reference(problem, u, [PROCESS.t_max, PROCESS.t_end], rtol=1e-12), 1e-12

    def fine(n: int) -> Tensor:
        return dn.solve(problem, "exponential_adams", u, grids.log_snr(PROCESS, n), order=4, corrector=True).u

    end = fine(240)
    return end.double(), analysis.rms(end - fine(120)) if known is None else known


def table(result: dict[str, Any], rows: dict[str, Run], others: Collection[str], most: int, out: Path) -> None:
    """Errors by problem, grid and row, one for each budget (None where it pays for no step, or was not asked).

    Of the ``others`` among the rows those that end where one of ours does are left out with the network.
    """
    made = problems(result["starts"])
    begun = rounded([u.flatten()[0].item() for _, u in made.values()])
    if result.setdefault("begun", begun) != begun:
        raise SystemExit(f"{out} was measured from other start states; make it anew")
    for name in ("smooth", "mixture", "fresh", "network"):
        by_grid = result["errors"].setdefault(name, {})
        if PILOT in rows:
            result.setdefault("gain", {})[name] = grid_of(made[name][0]).gain
        wanted = [row for row in rows if name != "network" or row not in result["same"]]
        exact: Tensor | None = None
        for grid, row in ((g, r) for g in GRIDS for r in wanted):
            found = by_grid.setdefault(grid, {}).setdefault(row, [None] * len(BUDGETS))
            for i, b in enumerate(BUDGETS):
                n = analysis.steps_within(b, PROCESS, OURS[row][0], **OURS[row][1]) if row in OURS else b
                if found[i] is not None or n is None or (name == "network" and b > most):
                    continue
                if exact is None:
                    exact, result["reference"][name] = truth(name, *made[name], result["reference"].get(name))
                problem, u = made[name]
                with torch.no_grad():
                    found[i] = analysis.rms(rows[row](problem, u, GRIDS[grid](PROCESS, n)).double() - exact)
            print(
                f"{name:8} {grid:8} {row:38}{''.join(f'{e:9.1e}' if e else 8 * ' ' + '-' for e in found)}", flush=True
            )
            save(result, out)
        if name == "fresh" and others:
            result["same"] = {row: twin for row in others if (twin := same(result["errors"], row))}
            print("the same to rounding:", result["same"])


def save(result: dict[str, Any], out: Path) -> None:
    """The table as it is, with the scores that follow from it."""
    result["score"] = scores(result["errors"])
    write(out, lambda file: file.write((json.dumps(rounded(result), indent=1) + "\n").encode()))


def same(errors: dict[str, Any], row: str) -> str | None:
    """The row of ours whose errors those of a peer are, on both mixtures and both grids."""
    for name in OURS:
        pairs = [
            (a, b) for grids_of in errors.values() for found in grids_of.values() if row in found
            for a, b in zip(found[row], found[name], strict=True)
        ]  # fmt: skip
        if all(a is not None and b is not None and abs(a / b - 1) < 1e-3 for a, b in pairs):
            return name
    return None


def scores(errors: dict[str, Any]) -> dict[str, float]:
    """For every row the geometric mean, over problems, grids and budgets, of its error over the best there."""
    asked = [found for by_grid in errors.values() for found in by_grid.values() if found.keys() >= OURS.keys()]
    places = [
        (found, i) for found in asked for i in range(len(BUDGETS))
        if all(found[name][i] is not None for name in OURS)
    ]  # fmt: skip
    best = [min(row[i] for row in found.values() if row[i] is not None) for found, i in places]
    out = {}
    for name in OURS:
        ratios = [found[name][i] / b for (found, i), b in zip(places, best, strict=True)]
        if places:
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
    parser.add_argument("--up-to", type=int, default=BUDGETS[-1], help="largest budget with the network")
    parser.add_argument("--go-on", action="store_true", help="complete the table that is there")
    parser.add_argument("--tried", action="store_true", help="add what was tried to the table that is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    digest = dn.load("cifar10").sha256
    result: dict[str, Any] = {"errors": {}, "reference": {}, "same": {}, "budgets": list(BUDGETS),
                              "starts": given.starts, "weights_sha256": digest}  # fmt: skip
    if given.go_on or given.tried:
        result = json.loads(given.out.read_text("utf-8"))
        if result["weights_sha256"] != digest or "begun" not in result:
            raise SystemExit(f"{given.out} was measured with another network or from other starts; make it anew")
    others = peers() if given.peers else {}
    rows = {name: tried(name) for name in TRIED}
    if not given.tried:
        rows = {**{name: ours(name) for name in OURS}, PILOT: piloted, **others}
    result["date"] = datetime.date.today().isoformat()
    table(result, rows, others, given.up_to, given.out)
    for name, score in result["score"].items():
        print(f"{name:40} {score:.2f}")


if __name__ == "__main__":
    main()
