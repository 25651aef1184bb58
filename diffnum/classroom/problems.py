"""Exact problems on which students' solvers are graded. Their parameters may be secret: a TOML file has them.

================  ======================================================================================
``[mixture]``     two or more Gaussians: weights, means, stds; every order is measured on it
``[gaussian]``    mean and variances: the law of a stochastic solver is measured on it
``[point]``       where a point mass sits
``[ends]``        noise-to-signal ratios, or times on phase space, between which orders are asymptotic
``[vp]`` ...      parameters of the processes: ``vp``, ``ve``, ``cld``, ``psld``
``[assignment]``  ``solution``, a solver of the library or ``file.py:name``, whose claims are asked for;
                  ``points``, a table of checks and what each is worth
``seed``          start states, companions, and irregular grids follow from it
================  ======================================================================================
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from diffnum import files, grids
from diffnum.arguments import choose
from diffnum.classroom.session import MAKERS, make_process
from diffnum.denoisers import Gaussian, GaussianMixture, PointMass, targets
from diffnum.errors import DiffnumError
from diffnum.measure.analysis import convergence, ladder, reference
from diffnum.measure.checks import assert_order
from diffnum.noise import Seeded
from diffnum.problem import Problem

DEFAULT: dict[str, Any] = {
    "seed": 0,
    "mixture": {"weights": targets.WEIGHTS, "means": targets.MEANS, "stds": targets.STDS},
    "gaussian": {"mean": [0.5, -0.3], "variance": [0.25, 0.09]},
    "point": {"x": [0.7, -1.0, 0.2, 0.4]},
    "ends": {"isotropic": [3.0, 0.05], "sigma": [1.0, 0.1], "time": [0.8, 0.2]},
    "assignment": {},
}
IMAGE = (3, 4, 6)  # an event with three axes of different length
FAMILIES = {"isotropic": ("vp", "ve", "cosine", "table"), "phase_space": ("psld", "cld"), "blurring": ("blurring",)}
GRIDS = ("log_snr", "uniform", "quadratic", "sigma")  # smooth under refinement
_SPECS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
LADDER = (80, 160, 320)  # steps on which orders are judged; it goes on where slopes have not settled
OTHERS = ("karras", "from_table", "irregular")


def uneven(process: Any, steps: int, t_end: float, t_start: float) -> Tensor:
    """Steps in log-SNR of lengths 1, 3, 2, 1, 3, 2...: as rough as alternating ones, and no two steps apart alike."""
    rounds = torch.tensor([1, 3, 2], dtype=torch.float64).repeat(-(-steps // 3))[:steps]
    return _spread(process, rounds, t_end, t_start)


def irregular(process: Any, steps: int, t_end: float, t_start: float) -> Tensor:
    """Steps in log-SNR of lengths between 1 and 3 without a pattern, the same ones for the same number of steps."""
    lengths = 1 + 2 * torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    return _spread(process, lengths, t_end, t_start)


def _spread(process: Any, lengths: Tensor, t_end: float, t_start: float) -> Tensor:
    first, last = process.log_snr(t_start), process.log_snr(t_end)
    parts = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0) / lengths.sum()])
    times = process.time_of_log_snr(first + (last - first) * parts)
    times[0], times[-1] = t_start, t_end
    return times


@dataclass(frozen=True)
class Problems:
    """The problems of one grading; ``values`` as in the TOML file."""

    values: dict[str, Any] = field(default_factory=lambda: DEFAULT)
    folder: Path = Path()
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # problems, and exact solutions

    def copy(self) -> "Problems":
        """The same problems with counters and a memory of their own, for another thread."""
        return replace(self, _kept={})

    def of(self, solution: Path, name: str) -> "Problems":
        """The same problems for an assignment whose solution is the solver of that name in a file."""
        values = {
            **self.values,
            "assignment": {**self.values["assignment"], "solution": f"{solution.resolve()}:{name}"},
        }
        return replace(self, values=values)

    def spec(self, name: str) -> dict[str, Any]:
        """A process of that name with its parameters, as both sides make it."""
        spec = {"name": name, **self.values.get(name, {})}
        return {**spec, "shape": IMAGE[1:]} if name == "blurring" else spec

    def spec_of(self, process: Any) -> dict[str, Any]:
        """The description of a process that :meth:`problem` made."""
        return _SPECS[process]

    def problem(self, name: str, target: str = "mixture") -> Problem:
        """A process of that name with a target: ``mixture``, ``gaussian``, ``point``, ``image``...; see denoiser."""
        if (name, target) not in self._kept:
            process = make_process(self.spec(name))
            _SPECS[process] = self.spec(name)
            on_pixels = {"mixture": "image", "gaussian": "dct"} if name == "blurring" else {}
            self._kept[name, target] = Problem(process, self.denoiser(on_pixels.get(target, target)))
        return self._kept[name, target]

    def truth(self, problem: Problem, u: Tensor, times: Tensor, rtol: float = 1e-13) -> Tensor:
        """The exact end of the probability-flow ODE; it is remembered, for all solvers that are graded."""
        key = (id(problem), rtol, u.shape, u.flatten()[0].item(), times[0].item(), times[-1].item())
        if key not in self._kept:
            self._kept[key] = reference(problem, u, times[[0, -1]], rtol=rtol)
        return self._kept[key]

    def denoiser(self, target: str) -> Any:
        """The exact denoiser of a target; ``flat`` is ``image`` as vectors, ``small`` a fifth of ``mixture``."""
        v = self.values
        if target == "gaussian":
            return Gaussian(v["gaussian"]["mean"], v["gaussian"]["variance"])
        if target == "still":  # a Gaussian without width
            return Gaussian(v["gaussian"]["mean"], torch.zeros(len(v["gaussian"]["mean"])))
        if target == "point":
            return PointMass(v["point"]["x"])
        if target == "mixture":
            return GaussianMixture(v["mixture"]["weights"], v["mixture"]["means"], stds=v["mixture"]["stds"])
        if target == "small":
            small = {k: torch.as_tensor(v["mixture"][k], dtype=torch.float64) / 5 for k in ("means", "stds")}
            return GaussianMixture(v["mixture"]["weights"], small["means"], stds=small["stds"])
        if target == "dct":
            return Gaussian(torch.zeros(IMAGE[1:]), torch.full(IMAGE[1:], v["gaussian"]["variance"][0]), basis="dct")
        means = Seeded(v["seed"]).normal((2, prod(IMAGE))) / 2
        return GaussianMixture([0.4, 0.6], means if target == "flat" else means.reshape(2, *IMAGE), stds=[0.3, 0.5])

    def starts(self, problem: Problem, batch: int = 8, seed: int = 0) -> Tensor:
        """Start states, float64, for any start time: standard normal, or the prior of the process scaled to that."""
        process, event = problem.process, problem.denoiser.shape
        u = process.prior((batch, *event), dtype=torch.float64, seed=self.values["seed"] + seed)
        return u / getattr(process, "prior_std", 1.0)

    def ends(self, process: Any, grid: str = "log_snr") -> dict[str, float]:
        """First and last time of the range in which orders are asymptotic, by the names that grids use."""
        ends = self.values["ends"]
        if process.family == "isotropic":
            start, end = map(process.time_of_rho, ends["sigma" if grid == "sigma" else "isotropic"])
        else:
            start, end = ends["time"]
        return {"t_start": start, "t_end": end}

    def ladder(self, process: Any, grid: str = "log_snr", **ends: float) -> Callable[[int], Tensor]:
        """``steps -> times`` on a grid of that name, by default in the asymptotic range."""
        rules: dict[str, grids.Grid] = {"rough": grids.alternating, "uneven": uneven, "irregular": irregular}
        rule = rules.get(grid) or getattr(grids, grid)
        return ladder(rule, process, **(ends or self.ends(process, grid)))


def read(path: Path | None) -> Problems:
    """The problems of a TOML file; what it leaves out, or everything without a file, is as the public ones are.

    Raises:
        DiffnumError: the file cannot be read, or its values make no problem.
    """
    if path is None:
        return Problems()
    try:
        given = tomllib.loads(files.read(path).decode())
        for key in given:
            choose("entry", key, (*DEFAULT, *MAKERS))
        mixed = {k: {**v, **given.get(k, {})} if isinstance(v, dict) else given.get(k, v) for k, v in DEFAULT.items()}
        problems = Problems({**given, **mixed}, files.place(path).parent)
        for name in ("vp", "ve", "psld", "cld"):
            problems.starts(problems.problem(name))
            for grid in ("log_snr", "sigma"):
                problems.ladder(problems.problem(name).process, grid)(4)
        for target in ("gaussian", "point", "image"):
            problems.denoiser(target)
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise DiffnumError(f"{path} holds no problems: {error}; make a file with `diffnum problems FILE`") from error
    return problems


def make(path: Path, seed: int) -> Path:
    """Draw problems from a seed and write them to a TOML file.

    They are drawn again until solvers of the library show the orders they claim on them, so that a right solution
    cannot fail because of the problem.

    Raises:
        DiffnumError: twenty draws were not enough.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Any:
        drawn = low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)
        return (drawn * 1000).round().div(1000).tolist()

    for attempt in range(20):
        weight = between(0.3, 0.7)
        values = {
            "seed": seed + 1000 * attempt,
            "mixture": {
                "weights": [weight, round(1 - weight, 3)],
                "means": between(-1.5, 1.5, 2, 4),
                "stds": between(0.2, 0.5, 2, 4),
            },
            "gaussian": {"mean": between(-1, 1, 2), "variance": between(0.05, 0.3, 2)},
            "point": {"x": between(-1, 1, 4)},
            "vp": {"beta_min": between(0.08, 0.2), "beta_max": between(15, 22)},
            "ve": {"sigma_max": between(50, 90)},
            "psld": {"beta": between(7, 9), "nu": between(3.9, 4.1)},
            "ends": {
                "isotropic": [between(2.6, 3.2), between(0.05, 0.07)],
                "sigma": [between(0.9, 1.1), between(0.1, 0.13)],
                "time": [between(0.75, 0.85), between(0.2, 0.25)],
            },
        }
        problems = Problems({**DEFAULT, **values})
        if _fair(problems):
            return files.write(path, partial(_write, _toml(values)))
    raise DiffnumError(f"no fair problems in twenty draws from seed {seed}; try another seed")


def _fair(problems: Problems) -> bool:
    """Whether right solvers of orders 1 to 4 show them, on every smooth grid, on VE, and on phase space."""
    cases = [
        *(("vp", grid, name) for grid in GRIDS for name in ("s_pndm", "ab4")),
        *(("ve", "log_snr", name) for name in ("ddim", "edm_heun", "pndm_variable")),
        *(("psld", "uniform", name) for name in ("symplectic_euler", "verlet2")),
    ]
    for process, grid, name in cases:
        problem = problems.problem(process)
        result = convergence(
            problem, name, problems.starts(problem), problems.ladder(problem.process, grid), (160, 320, 640)
        )
        try:
            assert_order(result)
        except AssertionError:
            return False
    return True


def _write(text: str, file: Any) -> None:
    file.write(text.encode())


def _toml(values: dict[str, Any]) -> str:
    """Numbers and tables of one level as TOML."""
    plain = [f"{k} = {v}" for k, v in values.items() if not isinstance(v, dict)]
    tables = [
        "\n".join([f"\n[{name}]", *(f"{k} = {v}" for k, v in table.items())])
        for name, table in values.items()
        if isinstance(table, dict)
    ]
    return "\n".join(["# Problems for `diffnum check --problems`; keep this file to yourself.", *plain, *tables, ""])
