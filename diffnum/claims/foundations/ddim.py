"""The step of DDIM: its names, what it freezes, where it is exact, and where it is better than Euler's."""

from functools import lru_cache
from itertools import pairwise
from math import sqrt

import numpy as np
import sympy as sp
import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import error, gaussian_line, table
from diffnum.claims.verdicts import Verdict, claim, conditional, several, verdict
from diffnum.derive import ddim as derive


@lru_cache(maxsize=8)
def freeze(quantity: str):
    """The solver that freezes ``eps``, ``x0``, ``score`` or ``v`` over a step on VP."""
    factors = sp.lambdify((derive.rho_t, derive.rho_s), derive.in_noise("vp", quantity), "math")

    def frozen(problem, u, times):
        for t, s in pairwise(times):
            X, E = factors(problem.process.rho(t), problem.process.rho(s))
            u = X * u + E * problem.eps(u, t)
            yield u

    return frozen


@claim(
    "DDIM is exponential Euler, DPM-Solver-1 and Euler's method of EDM",
    where="Lu et al. 2022, arXiv:2206.00927; Karras et al. 2022, arXiv:2206.00364",
    kind="proposition",
    page="prop-ddim",
    derived="diffnum.derive.ddim.dpm_solver_residual",
)
def ddim_has_many_names() -> Verdict:
    rest = [
        derive.integrand_residual(),
        derive.song_residual(),
        derive.dpm_solver_residual(),
        derive.edm_euler_residual(),
    ]
    gap = 0.0
    for process, kind in ((dn.VP(), "vp"), (dn.VP.cosine(), "vp"), (dn.VE(), "ve")):
        factors = sp.lambdify((derive.rho_t, derive.rho_s), derive.in_noise(kind, "eps"), "math")
        for t, s in ((0.9, 0.7), (0.4, 0.39), (0.1, 0.01)):
            t, s = t * process.t_max, s * process.t_max
            pair = process.step(t, s), factors(process.rho(t), process.rho(s))
            gap = max(gap, *(abs(a / b - 1) for a, b in zip(*pair, strict=True)))
    saw = f"SymPy leaves {sorted(set(rest))}; the library's factors on three schedules agree to 1e-11"
    return verdict(all(r == 0 for r in rest) and gap < 1e-11, saw, {})


@claim(
    "It matters what is frozen over a step",
    where="Salimans and Ho 2022, arXiv:2202.00512",
    kind="implicit",
    page="ddim-claims",
    derived="diffnum.derive.ddim.in_noise",
)
def what_is_frozen_matters() -> Verdict:
    wrong = {q: error(freeze(q), 20) for q in ("eps", "x0", "score", "v")}
    ratio = {q: wrong[q] / wrong["eps"] for q in ("x0", "score", "v")}
    saw = f"mixture, 20 uniform steps: {table(wrong)}"
    parts = {
        f"{q} against noise": verdict(abs(r - 1) > 1e-6, "", {}) for q, r in ratio.items()
    }  # fmt: skip
    return several(parts, saw, wrong)


@claim(
    "DDIM is exact",
    where="Song et al. 2021, arXiv:2010.02502; gDDIM, section 3",
    kind="proposition",
    page="prop-ddim-exact",
    derived="diffnum.derive.ddim.gaussian_step",
)
def ddim_is_exact() -> Verdict:
    vp, wrong, u = dn.VP(), {}, torch.ones(1, 1, dtype=torch.float64)
    for std in (0.0, 0.5):
        got = dn.solve(gaussian_line(std, vp), "ddim", u, [0.5, 0.3]).u.item()
        (a, n), (b, m) = vp.levels(0.5), vp.levels(0.3)
        wrong[std] = got / sqrt((b**2 * std**2 + m**2) / (a**2 * std**2 + n**2)) - 1
    saw = f"one step from t = 0.5 to 0.3: right to 1e-12 for a point, wrong by {wrong[0.5]:.1e} for deviation 1/2"
    return conditional(
        "the data are one point", abs(wrong[0.0]) < 1e-12, abs(wrong[0.5]) < 1e-12, saw, {"half": wrong[0.5]}
    )


@claim(
    "DDIM is more accurate than Euler's method on the raw equation",
    where="everyday practice",
    kind="implicit",
    page="ddim-claims",
    derived="diffnum.derive.classical.global_error_constant",
)
def ddim_better_than_euler() -> Verdict:
    vp, crossing = dn.VP(), {}
    widths = torch.tensor([0.002 * 1.25**k for k in range(24)], dtype=torch.float64)
    lines = dn.Problem(vp, dn.Gaussian(torch.zeros(len(widths), dtype=torch.float64), widths**2))
    for name, rule, end in (("uniform to 0.01", grids.uniform, 0.01), ("uniform to 1e-3", grids.uniform, 1e-3),
                            ("log-SNR to 1e-3", grids.log_snr, 1e-3)):  # fmt: skip
        spread = [(widths**2 * vp.alpha(t) ** 2 + vp.sigma(t) ** 2).sqrt()[None] for t in (1.0, end)]
        wrong = [
            (dn.solve(lines, s, spread[0], rule(vp, 400, t_end=end)).u - spread[1]).abs()[0] for s in ("ddim", "euler")
        ]
        better = wrong[0] < wrong[1]
        crossing[name] = widths[better].max().item() if better.any() else 0.0
    wide = {"point": 0.002, "half": 0.5}
    saw = f"Gaussian data, 400 steps: DDIM has the smaller error up to a width of {table(crossing, '.3f')}"
    held = {k: all(c > w for c in crossing.values()) for k, w in wide.items()}
    numbers = dict(zip(("uniform_01", "uniform", "log_snr"), crossing.values(), strict=True))
    return conditional("the data are thin enough for the grid", held["point"], held["half"], saw, numbers)


@claim(
    "Euler's method on the raw equation is unstable near t = 0",
    where="PNDM, section 3.1; everyday practice",
    kind="implicit",
    page="ddim-claims",
    derived="diffnum.derive.ddim.thin_factor",
)
def euler_is_unstable() -> Verdict:
    vp = dn.VP()
    nothing, u = gaussian_line(0.0, vp), torch.full((1, 1), vp.sigma(1.0), dtype=torch.float64)
    left = {
        (s, n): dn.solve(nothing, s, u, grids.uniform(vp, n)).u.item() / vp.sigma(1e-3)
        for s in ("euler", "heun", "rk4") for n in (10, 50)
    }  # fmt: skip
    saw = "noise left of a point at t = 1e-3 over the right one, 10 and 50 steps: " + "; ".join(
        f"{s} {left[s, 10]:.1f}, {left[s, 50]:.1f}" for s in ("euler", "heun", "rk4")
    )
    blown = {s: abs(left[s, 10]) > 10 for s in ("euler", "heun", "rk4")}
    numbers = {f"{s}_{n}": v for (s, n), v in left.items()}
    return conditional(
        "a stage stands at the end of the step: Heun and Runge-Kutta, not Euler",
        blown["heun"] and blown["rk4"],
        blown["euler"],
        saw,
        numbers,
    )


@claim(
    "Rewriting the step avoids the cancellation of single precision",
    where="PNDM, equation 11",
    kind="implicit",
    page="ddim-claims",
)
def rewriting_avoids_cancellation() -> Verdict:
    vp, one, root = dn.VP(), np.float32(1), np.sqrt
    a, b = (np.float32(vp.alpha(t) ** 2) for t in (0.01, 0.00999))
    A, B = float(a), float(b)
    rounded = sqrt(1 - B) - sqrt(B * (1 - A) / A)  # what the rounded inputs say, in double precision
    true = vp.step(0.01, 0.00999)[1]
    forms = {
        "plain": root(one - b) - root(b) * root(one - a) / root(a),
        "rewritten": -(b - a) / (root(a) * (root((one - b) * a) + root((one - a) * b))),
    }
    wrong = {name: (abs(float(f) / true - 1), abs(float(f) / rounded - 1)) for name, f in forms.items()}
    saw = "a step of t/1000 from t = 0.01 in single precision, relative error of the factor of eps: " + "; ".join(
        f"{name} {x:.0e}, given its rounded inputs {y:.0e}" for name, (x, y) in wrong.items()
    )
    return verdict(wrong["rewritten"][0] < 1e-5, saw, {name: x for name, (x, _) in wrong.items()})
