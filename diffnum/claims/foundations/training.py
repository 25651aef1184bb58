"""What is tried of how networks are trained."""

import numpy as np
import torch
from scipy.stats import spearmanr

from diffnum import grids
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.denoisers.network import load
from diffnum.measure.work import steps_within
from diffnum.problem import Problem
from diffnum.processes import VP
from diffnum.runner import solve


@claim(
    "Orthogonal steps (Muon) train a denoiser faster than Adam's",
    where="K. Jordan 2024, of other networks",
    kind="implicit",
    page="training-claims",
    needs="results",
)
def orthogonal_steps_learn_faster() -> Verdict:
    rows = results("training.json")["recipes"]
    for row in rows:
        row["loss"] = {v["sigma"]: v["weighted"] for v in row["validation"]}

    def best(what: str, value: object) -> dict[float, float]:
        return min((row["loss"] for row in rows if row[what] == value), key=lambda loss: loss[0.5])

    adam, muon = best("optimiser", "Adam"), best("optimiser", "Muon")
    ratio = {s: muon[s] / adam[s] for s in adam}
    small = best("batch", 64)[0.5] / best("batch", 128)[0.5]
    saw = (
        f"{rows[0]['minutes']:.0f} minutes of one core, from nothing: the loss of the best recipe with Muon over that "
        f"of the best with Adam is {ratio[0.5]:.2f} at a noise level of 0.5, and from {min(ratio.values()):.2f} to "
        f"{max(ratio.values()):.2f} over all; with batches of 64 instead of 128: {small:.2f}"
    )
    numbers = {"ratio": ratio[0.5], "least": min(ratio.values()), "largest": max(ratio.values()), "batch": small}
    return verdict(max(ratio.values()) < 1, saw, numbers)


@claim(
    "A guide gets better as long as it is trained",
    where="everyday practice; the shipped guide, and the same after as much training again",
    kind="implicit",
    page="training-claims",
    needs="results",
)
def guide_keeps_learning() -> Verdict:
    run = results("training.json")["cifar10-guide"]["continued"]
    before, after = ({row["sigma"]: row for row in run[key]} for key in ("validation_of_init", "validation"))
    loss, right = ((before[0.5][key], after[0.5][key]) for key in ("loss", "accuracy"))
    known = run["training_images"]
    saw = (
        f"{run['images_this_run']:,} images more, cross-entropy of the classes at a noise level of 0.5: {loss[0]:.2f}, "
        f"then {loss[1]:.2f} on test images, {100 * right[0]:.0f} and {100 * right[1]:.0f} % right; "
        f"{known['loss_of_init']:.2f}, then {known['loss']:.2f} on images that it was trained on"
    )
    numbers = {"loss_before": loss[0], "loss_after": loss[1], "known_before": known["loss_of_init"],
               "known_after": known["loss"], "images": run["images_this_run"]}  # fmt: skip
    return verdict(loss[1] < loss[0], saw, numbers)


SOLVERS = ("ddim", "s_pndm", "plms", "ipndm", "dpmpp_2m", "unipc", "deis", "edm_heun")


@claim(
    "Trained on, the denoiser errs less at every level and its pictures are closer to the data",
    where="everyday practice; `cifar10`, and `cifar10-further`, which goes on from it",
    kind="implicit",
    page="training-claims",
    needs="results",
)
def further_training_helps() -> Verdict:
    run = results("training.json")["cifar10-further"]
    pairs = zip(run["validation_of_init"], run["validation"], strict=True)
    change = {old["sigma"]: 100 * (new["weighted"] / old["weighted"] - 1) for old, new in pairs}
    limits, far = [run["distance"][key]["limit"] for key in ("init", "network")], run["distance"]["difference"]
    saw = (
        f"{run['images_this_run']:,} images more change the loss by {change[0.5]:.1f} % at a noise level of 0.5, by "
        f"{min(change.values()):.1f} to {max(change.values()):+.2f} % over all; the distance of {far['n']} pictures "
        f"falls from {limits[0]:.0f} to {limits[1]:.0f}, paired difference {far['low']:.0f} to {far['high']:.0f}"
    )
    numbers = {"change": change[0.5], "least": min(change.values()), "largest": max(change.values()),
               "difference": far["limit"], "images": run["images_this_run"]}  # fmt: skip
    less = [all(change[s] < 0 for s in change if (s <= 80) == low) for low in (True, False)]
    closer = far["high"] < 0
    return conditional("the noise level is at most 80", less[0] and closer, less[1] and closer, saw, numbers)


@claim(
    "Which solver errs less does not hang on the network",
    where="everyday practice; `cifar10` and `cifar10-further`",
    kind="implicit",
    page="training-claims",
    needs="network",
)
def ranking_survives_training() -> Verdict:
    found: list[list[float]] = []
    for name in ("cifar10", "cifar10-further"):
        problem = Problem(VP(), load(name))
        start = problem.prior((4, 3, 32, 32), generator=torch.Generator().manual_seed(7))
        right = solve(problem, "exponential_adams", start, grids.log_snr(problem.process, 200), order=4).x
        found.append([])
        for budget in (10, 20):
            for solver in SOLVERS:
                steps = steps_within(budget, problem.process, solver, problem.process.t_end) or 1
                drawn = solve(problem, solver, start, grids.log_snr(problem.process, steps)).x
                found[-1].append(float((drawn - right).square().mean().sqrt()))
    error = np.array(found)
    alike = [float(spearmanr(*error[:, part]).statistic) for part in (slice(len(SOLVERS)), slice(len(SOLVERS), None))]
    apart = float((error[1] / error[0]).max()), float((error[1] / error[0]).min())
    saw = (
        f"errors of eight solvers on `cifar10-further` over those on `cifar10`: {apart[1]:.2f} to {apart[0]:.2f}; rank "
        f"correlation {alike[0]:.2f} with 10 evaluations, {alike[1]:.2f} with 20"
    )
    numbers = {"correlation_10": alike[0], "correlation_20": alike[1], "least": apart[1], "largest": apart[0]}
    return verdict(min(alike) > 0.9, saw, numbers)
