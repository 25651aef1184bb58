"""What nobody proved, but libraries and codes imply."""

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import converge, error, problem, table, truth
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.coefficients import adams_weights, combine
from diffnum.denoisers import targets
from diffnum.derive import er_sde as derive
from diffnum.measure import analysis


@claim(
    "DPM-Solver++(3M) is of third order",
    where="Lu et al. 2022, arXiv:2211.01095, and the released codes",
    kind="implicit",
    page="er-sde-claims",
    derived="diffnum.derive.er_sde.dpmpp_3m_local_error",
)
def dpmpp_3m_third_order() -> Verdict:
    found = {
        name: converge("dpmpp_3m", (160, 320, 640), "log_snr", process="ve", published=published).order
        for name, published in (("released", True), ("doubled", False))
    }
    power = min(k for k, term in derive.dpmpp_3m_local_error().items() if term != 0)
    saw = (
        f"slope {found['released']:.2f}, local error h^{power}; with the second difference doubled "
        f"{found['doubled']:.2f}"
    )
    return verdict(found["released"] > 2.7, saw, found)


@claim(
    "Every spacing of DDIM's steps converges: leading, trailing, linspace",
    where="code of a common library: the step goes to t - N//n, not to the next time of its grid",
    kind="implicit",
    page="ddim-theory",
)
def spacings_converge() -> Verdict:
    process = dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    exact, u, wrong = dn.Problem(process, targets.smooth()), targets.starts(process), {}
    for spacing in ("leading", "trailing"):
        for n in (80, 320):
            stride = 1000 // n
            if spacing == "leading":
                levels = [k * stride for k in range(n - 1, -1, -1)]
            else:
                levels = [round(1000 - k * 1000 / n) - 1 for k in range(n)]
            x = u
            for k in levels:
                t, s = (k + 1) / 1000, max(k + 1 - stride, 0) / 1000
                x = dn.solve(exact, "ddim", x, [t, s]).u  # what is computed next starts at another time
            end = max(levels[-1] + 1 - stride, 0) / 1000
            wrong[spacing, n] = analysis.rms(x - analysis.reference(exact, u, [(levels[0] + 1) / 1000, end]))
    gain = {spacing: wrong[spacing, 80] / wrong[spacing, 320] for spacing in ("leading", "trailing")}
    saw = (
        f"from 80 to 320 steps the error falls by {gain['leading']:.1f} (leading) and {gain['trailing']:.2f} (trailing)"
    )
    return conditional("the spacing is leading", gain["leading"] > 2, gain["trailing"] > 2, saw, gain)


@claim(
    "The repeated time at the start of PNDM is a bug: its evaluation is wasted",
    where="issues on the common libraries: 20 steps give 21 times",
    kind="implicit",
    page="pndm-claims",
)
def start_up_is_a_bug() -> Verdict:
    middle, ratio = problem().process.time_of_rho(3.0), {}
    for name, ends in (("prior", {}), ("middle", {"t_start": middle})):
        for n in (20, 80):
            pair = [error(s, n, "log_snr", **ends) for s in ("ipndm", "plms")]
            ratio[name, n] = pair[0] / pair[1]
    saw = "error of `ipndm` over that of `plms`, 20 and 80 steps: " + "; ".join(
        f"from {where} {ratio[name, 20]:.2f}, {ratio[name, 80]:.2f}"
        for name, where in (("prior", "the prior"), ("middle", "rho = 3"))
    )
    wasted = {name: max(ratio[name, n] for n in (20, 80)) < 1.1 for name in ("prior", "middle")}
    numbers = {f"{name}_{n}": r for (name, n), r in ratio.items()}
    return conditional(
        "the run starts from the prior, where the noise hardly moves; else it is the improved Euler step that "
        "starts the method",
        wasted["prior"],
        wasted["middle"],
        saw,
        numbers,
    )


@claim(
    "Tables in float32 suffice",
    where="code of the common libraries",
    kind="implicit",
    page="ddim-theory",
)
def float32_tables_suffice() -> Verdict:
    exact = problem()
    u, _ = truth("smooth", "vp", exact.process.t_max, exact.process.t_end)

    def rounded(problem, u, times, single=True):
        """Fourth-order weights in sigma/alpha with a Runge-Kutta-free ramp; levels pass through float32."""
        kind, past = torch.float32 if single else torch.float64, []
        levels = torch.tensor([problem.process.levels(t) for t in times], dtype=kind)
        rho = (levels[:, 1] / levels[:, 0]).tolist()
        for i, (t, (a, _), (b, _)) in enumerate(
            zip(times[:-1], levels[:-1].tolist(), levels[1:].tolist(), strict=True)
        ):
            past = [problem.eps(u, t), *past[:3]]
            w = adams_weights(rho[max(i - 3, 0) : i + 1][::-1], rho[i], rho[i + 1])
            u = combine((b / a, *(b * (rho[i + 1] - rho[i]) * x for x in w)), (u, *past))
            yield u

    share = {}
    for n in (20, 1280):
        times = grids.log_snr(exact.process, n)
        ends = [dn.solve(exact, rounded, u, times, single=single).u for single in (True, False)]
        share[n] = analysis.rms(ends[0] - ends[1]) / error(rounded, n, "log_snr", single=False)
    saw = (
        f"order 4: change by rounding over the error of the method {share[20]:.1e} in 20 steps, "
        f"{share[1280]:.1e} in 1280"
    )
    return conditional(
        "steps are few (20, not 1280)", share[20] < 1, share[1280] < 1, saw, {"20": share[20], "1280": share[1280]}
    )


@claim(
    "'Denoise to zero' at the end costs nothing",
    where="code: a last step to sigma = 0 of first order",
    kind="implicit",
    page="order",
)
def denoise_to_zero_costs_nothing() -> Verdict:
    exact = problem()
    process, u, wrong = exact.process, targets.starts(exact.process), {}
    clean = analysis.reference(exact, u, [process.t_max, 0.0])
    for n in (40, 160, 640):
        times = grids.log_snr(process, n)
        wrong["kept", n] = error("dpmpp_2m", n, "log_snr")
        to_zero = dn.solve(exact, "dpmpp_2m", u, torch.cat([times, times.new_zeros(1)])).u
        wrong["zero", n] = analysis.rms(to_zero - clean)
    excess = {n: wrong["zero", n] / wrong["kept", n] for n in (40, 160, 640)}
    saw = (
        f"error with the step to 0 over that without, at so many steps: {table(excess, '.2f')}; it "
        f"stops at {wrong['zero', 640]:.1e}"
    )
    return conditional(
        "steps are few (40, not 640)", excess[40] < 1.2, excess[640] < 1.2, saw, {str(n): r for n, r in excess.items()}
    )
