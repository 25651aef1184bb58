"""Sampling with a network: what `make gallery` stored of the shipped network."""

from diffnum import grids
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.denoisers.network import load
from diffnum.measure import analysis
from diffnum.problem import Problem
from diffnum.processes import VP
from diffnum.runner import solve

ORDERS = {"ddim": 1, "s_pndm": 2, "f_pndm": 2, "dpmpp_2m": 2, "gddim, order=2": 2, "gddim, order=3": 3}


def slopes(kind: str = "float64") -> dict[str, list[float]]:
    """Slopes of the methods on the network, log-SNR grid, from 10 to 320 steps."""
    order = results("gallery.json")["order"]
    return {row["name"]: analysis.local_slopes(order["steps"], row[kind]) for row in order["rows"]}


@claim(
    "A network shows the orders 1, 2 and 3 of the methods",
    where="implicit in every paper on higher order",
    kind="implicit",
    page="sampling-claims",
    needs="results",
)
def network_shows_orders() -> Verdict:
    found = slopes()
    last, first = ({name: found[name][i] for name in ORDERS} for i in (-1, 0))
    saw = "slopes from 160 to 320 steps, and from 10 to 20: " + "; ".join(
        f"{name} {last[name]:.2f}, {first[name]:.2f}" for name in ORDERS
    )
    near = [all(abs(p[name] - q) < 0.2 for name, q in ORDERS.items()) for p in (last, first)]
    numbers = {f"{n}_{k}".replace(", order=", ""): p[n] for k, p in (("last", last), ("first", first)) for n in ORDERS}
    return conditional("steps are many (320, not 20)", near[0], near[1], saw, numbers)


@claim(
    "Single precision hides the order of a network",
    where="everyday practice",
    kind="implicit",
    page="sampling-claims",
    needs="results",
)
def single_precision_hides_the_order() -> Verdict:
    double, single = slopes(), slopes("float32")
    apart = max(abs(a - b) for name in ORDERS for a, b in zip(double[name], single[name], strict=True))
    saw = f"slopes of both precisions differ by at most {apart:.2f} up to 320 steps"
    return verdict(apart > 0.2, saw, {"apart": apart})


@claim(
    "Higher order is better with a network",
    where="every paper on higher order",
    kind="headline",
    page="sampling-claims",
    needs="results",
)
def higher_order_better_with_a_network() -> Verdict:
    rows = {r["name"]: {run["budget"]: run["errors"] for run in r["runs"] if "error" in run}
            for kind in ("pseudo", "classical") for r in results("gallery.json")["gallery"][kind]}  # fmt: skip
    weights = {"order 2": ("s_pndm", "plms", "dpmpp_2m"), "weights of order 4": ("ab4", "fon", "pndm_variable")}
    best = {
        (kind, n): min(sum(e) for name in names if (e := rows[name].get(n))) for kind, names in weights.items()
        for n in (10, 100)
    }  # fmt: skip
    ratio = {n: best["weights of order 4", n] / best["order 2", n] for n in (10, 100)}
    saw = (
        f"least error with weights of order 4 over that of order 2: {ratio[10]:.1f} with 10 evaluations, "
        f"{ratio[100]:.2f} with 100"
    )
    return conditional("evaluations are many (100, not 10)", ratio[100] < 1, ratio[10] < 1, saw,
                       {str(n): r for n, r in ratio.items()})  # fmt: skip


@claim(
    "All deterministic solvers draw the same picture",
    where="Song et al. 2021, arXiv:2011.13456, section 4.3",
    kind="implicit",
    page="sampling-claims",
    needs="results",
)
def same_picture() -> Verdict:
    worst = {}
    for n in (10, 100):
        runs = [run for kind in ("pseudo", "classical") for row in results("gallery.json")["gallery"][kind]
                for run in row["runs"] if run["budget"] == n and "error" in run]  # fmt: skip
        worst[n] = max(run["error"] for run in runs)
    saw = (
        f"largest distance from one reference over all solvers on VP: {worst[10]:.1e} with 10 evaluations, "
        f"{worst[100]:.1e} with 100"
    )
    return conditional("evaluations are many (100, not 10)", worst[100] < 0.05, worst[10] < 0.05, saw,
                       {str(n): w for n, w in worst.items()})  # fmt: skip


@claim(
    "A network may be evaluated in bfloat16",
    where="everyday practice; the state in single precision",
    kind="implicit",
    page="sampling-claims",
    needs="network",
)
def bfloat16_has_a_floor() -> Verdict:
    """PLMS with the shipped network, against order 3 in 80 steps: more steps help single precision alone."""
    process, network = VP(), load("cifar10")
    single, half = (Problem(process, net) for net in (network, network.in_bfloat16()))
    u = single.prior((1, 3, 32, 32), seed=0)
    best = solve(single, "gddim", u, grids.log_snr(process, 80), order=3).x

    def error(problem: Problem, steps: int) -> float:
        x = solve(problem, "plms", u, grids.log_snr(process, steps)).x
        return (x - best).square().mean().sqrt().item()

    found = {n: (error(single, n), error(half, n)) for n in (5, 20, 80)}
    saw = "error in single precision, in bfloat16: " + "; ".join(
        f"{a:.1e}, {b:.1e} with {n} steps" for n, (a, b) in found.items()
    )
    few, many = (found[n][1] < 1.5 * found[n][0] for n in (5, 80))
    kinds = ("float32", "bfloat16")
    numbers = {f"{kind}_{n}": e for n, pair in found.items() for kind, e in zip(kinds, pair, strict=True)}
    return conditional("steps are few (5, not 80)", few, many, saw, numbers)


#: The row of ``few.json`` with a grid that a pilot run makes for the problem, whatever its column says.
PILOT = "noise in log_snr, order 3, corrected, pilot's grid"


def in_libraries(method: str) -> bool:
    """Whether a row of ``few.json`` is of a method that other libraries have: a star, or their own code."""
    return method.endswith("*") or method.startswith(("k-diffusion", "azula"))


@claim(
    "A grid from a pilot run leaves 1.3 times less error than every library, with 20 evaluations",
    where="the goal of the chapter on work and precision",
    kind="implicit",
    page="work-claims",
    needs="results",
)
def pilot_grid_leads() -> Verdict:
    few = results("few.json")
    ratio = {}
    for problem, by_grid in few["errors"].items():
        for n in (15, 20):
            at = few["budgets"].index(n)
            theirs = min(e for rows in by_grid.values() for method, errors in rows.items()
                         if in_libraries(method) and (e := errors[at]) is not None)  # fmt: skip
            ratio[f"{problem}_{n}"] = theirs / by_grid["log_snr"][PILOT][at]
    saw = "least error of all libraries over that on the pilot's grid, 15 and 20 evaluations: " + "; ".join(
        f"{problem} {ratio[f'{problem}_15']:.2f}, {ratio[f'{problem}_20']:.2f}" for problem in few["errors"]
    )
    saw += "; gain predicted over the log-SNR grid: " + ", ".join(f"{p} {g:.2f}" for p, g in few["gain"].items())
    network, *mixtures = (ratio[f"{problem}_20"] for problem in ("network", "smooth", "mixture", "fresh"))
    return conditional("the data are one of the mixtures, not what the network has learned",
                       min(mixtures) > 1.3, network > 1.3, saw,
                       ratio | {f"{p}_gain": g for p, g in few["gain"].items()})  # fmt: skip
