"""What is tried of how networks are trained."""

from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, verdict


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
