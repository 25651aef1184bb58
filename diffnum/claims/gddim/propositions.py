"""What is proved: exactness, orders, the stochastic step's special cases."""

from math import log, sqrt

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.gddim.settings import cld_errors, noise_moves, point, spread
from diffnum.claims.measure import converge, gaussian_line, left, table, zero
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.derive import gddim as derive


@claim(
    "On VP the noise prediction of a point is constant along the exact path",
    where="section 3, proposition 1",
    kind="proposition",
    page="prop-gddim-exact",
    derived="diffnum.derive.gddim.point_mass_residuals",
)
def noise_constant_on_a_point() -> Verdict:
    moved = {"vp": noise_moves("vp", "R"), "cld_L": noise_moves("cld", "L")}
    saw = f"it moves by less than 1e-8 on VP; with the Cholesky root on CLD by {moved['cld_L']:.1f}"
    return verdict(moved["vp"] < 1e-8 < moved["cld_L"], saw, {"cld_L": moved["cld_L"]})


@claim(
    "Stochastic DDIM is the lambda-SDE with frozen data, eta^2 = P(lambda)/P(1)",
    where="section 3, proposition 2",
    kind="proposition",
    page="gddim-stochastic",
    derived="diffnum.derive.gddim.eta_residuals",
)
def stochastic_ddim_is_the_lambda_sde() -> Verdict:
    vp, t, s = dn.VP(), 0.6, 0.4
    (a, n), (b, m) = vp.levels(t), vp.levels(s)
    apart = []
    for lam in (0.3, 1.0):
        through, P = vp.reverse_step(s, t, lam)
        share = (P / vp.reverse_step(s, t, 1.0)[1]).item()
        variance = share * m**2 / n**2 * (1 - a**2 / b**2)  # Song et al.'s eta^2 times the posterior variance
        apart += [abs(variance - P.item()), abs(sqrt(m**2 - variance) - through.item() * n)]
    rest = zero(*derive.eta_residuals(), *derive.scalar_step_residuals())
    saw = f"{left(rest)}; printed and library's coefficients agree to 1e-12"
    return verdict(rest and max(apart) < 1e-12, saw, {})


@claim(
    "Every member of the lambda family of reverse equations keeps the marginals",
    where="section 2, equation 6",
    kind="proposition",
    page="thm-reversing-family",
    derived="diffnum.derive.gddim.marginal_residuals",
)
def lambda_keeps_marginals() -> Verdict:
    line, times = gaussian_line(0.5, dn.VP()), grids.log_snr(dn.VP(), 400)
    ratio = {lam: spread(line.process, "euler_maruyama", 0.5, times, lam=lam) for lam in (0.5, 1.0)}
    rest = zero(*derive.marginal_residuals())
    saw = f"{left(rest)}; deviation over the right one in 400 steps {table(ratio, '.3f')}"
    holds = rest and all(abs(r - 1) < 0.02 for r in ratio.values())
    return verdict(holds, saw, {f"lam_{k:g}": v for k, v in ratio.items()})


@claim(
    "With R' = (F + GG^T inv(Sigma)/2) R the noise prediction of a point is constant on any linear process",
    where="section 4, equation 15",
    kind="theorem",
    page="prop-gddim-exact",
    derived="diffnum.derive.gddim.root_identity_residual",
)
def equation_of_R() -> Verdict:
    moved = {K: noise_moves("cld", K) for K in ("R", "L")}
    rest = zero(derive.root_identity_residual(), *derive.point_mass_residuals())
    saw = f"{left(rest)}; on CLD eps_R moves by less than 1e-8, eps_L by {moved['L']:.1f}"
    return verdict(rest and moved["R"] < 1e-8 < moved["L"], saw, {"L": moved["L"]})


@claim(
    "One deterministic step is exact for a point, on any process",
    where="section 4, proposition 3",
    kind="proposition",
    page="prop-gddim-exact",
    derived="diffnum.derive.gddim.one_step_residual",
)
def one_step_exact() -> Verdict:
    exact, times, path = point("cld")
    runs = {K: dn.solve(exact, "gddim", path[0], [times[0], times[-1]], order=1, K=K).u for K in ("R", "L")}
    wrong = {K: (end - path[-1]).abs().max().item() for K, end in runs.items()}
    saw = f"one step from 1 to 1e-3 on CLD: right to 1e-8 with R, wrong by {wrong['L']:.1e} with the Cholesky root"
    return conditional("K = R", wrong["R"] < 1e-8, wrong["L"] < 1e-8, saw, {"L": wrong["L"]})


@claim(
    "R is the Cholesky root times a rotation, whose angle is one integral (ours)",
    where="not in the paper",
    kind="theorem",
    page="thm-gddim-rotation",
    derived="diffnum.derive.gddim.rotation_residuals",
)
def R_is_L_times_a_rotation() -> Verdict:
    process, wrong = dn.CLD(), []
    for t in (1.0, 0.3, 0.02, 1e-3):
        turn = torch.linalg.solve(process.cholesky(t), process.rotation_root(t))
        wrong.append((turn @ turn.mT - torch.eye(2, dtype=torch.float64)).abs().max().item())
    rest = zero(*derive.rotation_residuals())
    saw = f"{left(rest)}; inv(L) R is orthogonal to 1e-9 and has turned by {process.angle(1.0):.1f} rad at t = 1"
    return verdict(rest and max(wrong) < 1e-9, saw, {"angle": process.angle(1.0)})


@claim(
    "The multistep method with q nodes has order q",
    where="section 4, equations 19 to 21",
    kind="theorem",
    page="thm-exponential-order",
    derived="diffnum.derive.gddim.local_error",
)
def multistep_order() -> Verdict:
    found = {(K, q): cld_errors((100, 200, 400), order=q, K=K).order for K in ("R", "L") for q in (1, 2, 3, 4)}
    reached = {K: all(abs(found[K, q] - q) < 0.15 for q in (1, 2, 3, 4)) for K in ("R", "L")}
    saw = (
        "; ".join(f"K = {K}: {', '.join(f'{found[K, q]:.2f}' for q in (1, 2, 3, 4))}" for K in ("R", "L"))
        + " at 400 steps"
    )
    numbers = {f"{K}_{q}": p for (K, q), p in found.items()}
    return conditional("the first step is harmless (K = R)", reached["R"], reached["L"], saw, numbers)


@claim(
    "The order q shows however many steps are taken",
    where="section 4",
    kind="implicit",
    page="gddim-multistep",
    derived="diffnum.derive.gddim.start_defect",
)
def order_shows_for_ever() -> Verdict:
    result = cld_errors((200, 400, 800, 1600, 3200), count=64, order=4)
    few, many = result.slopes[0], result.slopes[-1]
    shown = ", ".join(f"{p:.2f}" for p in result.slopes)
    saw = f"order 4, K = R, 64 starts: slopes {shown} from 200 to 3200 steps: in the end the first step shows"
    numbers = dict(zip(("400", "800", "1600", "3200"), result.slopes, strict=True))
    return conditional("steps stay below about a thousand", few > 3.8, many > 3.5, saw, numbers)


@claim(
    "The order q holds down to t = 0",
    where="section 4; the steps of the code end close to 0",
    kind="implicit",
    page="gddim-multistep",
    derived="diffnum.derive.pndm.last_step_defect",
)
def order_down_to_zero() -> Verdict:
    found = {
        (g, q): converge("gddim", (320, 640), g, t_end=0.0, order=q).order
        for g in ("uniform", "quadratic")
        for q in (1, 2, 3, 4)
    }
    saw = "orders 1 to 4 on VP to t = 0, 640 steps: " + "; ".join(
        f"{g} {', '.join(f'{found[g, q]:.2f}' for q in (1, 2, 3, 4))}" for g in ("uniform", "quadratic")
    )
    held = {g: all(found[g, q] > min(q, 2) - 0.1 for q in (1, 2, 3, 4)) for g in ("uniform", "quadratic")}
    numbers = {f"{g}_{q}": p for (g, q), p in found.items()}
    return conditional(
        "steps are uniform in sqrt t, and q at most 2: the ramp shows", held["quadratic"], held["uniform"], saw, numbers
    )


@claim(
    "The first step of the ramp leaves -s^2 (rho'/rho^2)^2 h^2 / 2 and no later step adds to it (ours)",
    where="not in the paper",
    kind="proposition",
    page="prop-gddim-start",
    derived="diffnum.derive.gddim.start_defect",
)
def first_step_is_all() -> Verdict:
    std, ratio = 0.5, {}
    for name, process, first, grid in (
        ("cosine", dn.VP.cosine(), None, grids.uniform),
        ("linear", dn.VP(), 3.0, grids.log_snr),
    ):
        line, end = gaussian_line(std, process), process.time_of_rho(0.05)
        start = process.t_max if first is None else process.time_of_rho(first)
        (a, n), (b, m) = process.levels(start), process.levels(end)
        gain = sqrt((b**2 * std**2 + m**2) / (a**2 * std**2 + n**2))
        rho, later = n / a, process.rho(start * (1 - 1e-7))
        for order in (3, 4):
            left = []
            for steps in (400, 800):
                times = grid(process, steps, t_start=start, t_end=end)
                u = torch.ones(1, 1, dtype=torch.float64)
                wrong = dn.solve(line, "gddim", u, times, order=order).u.item() / gain - 1
                speed = (1 - later / rho) / (start * 1e-7) / rho  # rho'/rho^2, times rho below
                h = (start - end) / steps if first is None else log(rho / 0.05) / steps / (speed * rho)
                left.append(wrong / h**2 / (-((std * rho**2 * speed / (std**2 + rho**2)) ** 2) / 2))
            ratio[name, order] = 2 * left[1] - left[0]
    saw = "constant of h^2 over that of the first step, orders 3 and 4: " + "; ".join(
        f"{label} {ratio[name, 3]:.2f}, {ratio[name, 4]:.2f}"
        for name, label in (
            ("linear", "linear schedule, log-SNR steps from rho = 3"),
            ("cosine", "cosine, uniform steps"),
        )
    )
    held = {name: all(abs(ratio[name, q] - 1) < 0.1 for q in (3, 4)) for name in ("linear", "cosine")}
    numbers = {f"{name}_{q}": r for (name, q), r in ratio.items()}
    return conditional(
        "rho has no pole at the start, as on steps in log-SNR; at one steps 2 and 3 add to it",
        held["linear"],
        held["cosine"],
        saw,
        numbers,
    )


@claim(
    "A corrector adds an order",
    where="section 4, algorithm 1",
    kind="proposition",
    page="thm-exponential-ramp",
    derived="diffnum.derive.gddim.local_error",
)
def corrector_adds_an_order() -> Verdict:
    counts = (50, 100, 200)
    found = {(K, q): cld_errors(counts, order=q, K=K, corrector="pece").order for K in ("R", "L") for q in (1, 2, 3)}
    gained = {K: all(found[K, q] > q + 0.75 for q in (1, 2, 3)) for K in ("R", "L")}
    saw = "PECE of 1, 2, 3 nodes: " + "; ".join(
        f"K = {K} {', '.join(f'{found[K, q]:.2f}' for q in (1, 2, 3))}" for K in ("R", "L")
    )
    numbers = {f"{K}_{q}": p for (K, q), p in found.items()}
    return conditional(
        "the first step is harmless; after a ramp that shows the order is min(q + 1, 3)",
        gained["R"],
        gained["L"],
        saw,
        numbers,
    )
