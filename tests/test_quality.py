"""Many images of one sampler: kept, continued, scored; and the feature network that scores them."""

import io
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import diffnum as dn
from diffnum import cli
from diffnum.errors import DiffnumError
from diffnum.images import features, metrics, quality, shards
from diffnum.images import train as training

SMALL = {"solver": "ddim", "steps": 2, "half": True, "batch": 2}
weights = pytest.mark.weights


def pictures(n, seed=0):
    """Smooth pictures that differ: (n, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.BICUBIC)) for c in coarse])


# ----------------------------------------------------------------------------------------------------- features


def test_jpeg_is_what_an_image_file_of_that_quality_holds():
    images = pictures(3)
    copies = features.jpeg(images)
    file = io.BytesIO()
    Image.fromarray(images[1]).save(file, "JPEG", quality=75)
    assert np.array_equal(copies[1], np.asarray(Image.open(file)))
    error = np.abs(copies.astype(int) - images).mean()
    assert 0.1 < error < 8, "close, and not the same"
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    assert np.abs(features.jpeg(noise).astype(int) - noise).mean() > 20, "noise does not survive"


def test_shipped_feature_network():
    network = features.load()
    assert network.card["validation"][-1]["images"] == 10_000 and network.card["validation"][-1]["accuracy"] >= 0.905
    images = pictures(7)
    found = network(images)
    assert found.shape == (7, 256) and found.dtype == torch.float64
    assert torch.allclose(network(images, batch=2), found, atol=1e-5), "rows do not see each other"
    copies = features.jpeg(images)
    assert torch.equal(network(copies, exact=False), found), "like with like"
    mirrored = np.ascontiguousarray(copies[:, :, ::-1])
    assert torch.allclose(network(mirrored, exact=False), found, atol=1e-5), "a mirror image has the same features"
    assert not torch.allclose(network(images, exact=False), found, atol=1e-3)
    assert network.logits(images).shape == (7, 10)


@pytest.mark.parametrize(
    "bad", [pictures(2).astype(float), pictures(2)[:, :16], pictures(2)[:0], torch.zeros(2, 32, 32, 3)]
)
def test_features_refuse_what_is_no_image(bad):
    with pytest.raises(ValueError, match="uint8 array"):
        features.load()(bad)


def test_a_denoiser_is_no_feature_network_and_the_other_way_round():
    with pytest.raises(DiffnumError, match="not a feature network"):
        features.load("cifar10")
    with pytest.raises(DiffnumError, match="not a diffnum network"):
        dn.load("cifar10-features")
    with pytest.raises(KeyError, match="cifar10-features"):
        features.load("nonsense")


def test_training_names_its_files_after_the_folder_and_looks_at_it_first(tmp_path, monkeypatch):
    class Few(features.Classification):
        def __init__(self, root, where):
            self.about = {}
            self.train = self.test = features.pixels(pictures(8)), torch.arange(8)

    monkeypatch.setitem(training.TASKS, "features", Few)
    settings = {"kind": "features", "images": 8, "batch": 4, "device": "cpu", "progress": False}
    path = training.train(out=tmp_path / "rate 0.4", **settings)
    ends = ("checkpoint.safetensors", "json", "log.json", "safetensors")
    assert sorted(f.name for f in tmp_path.glob("*/*")) == [f"rate 0.4.{end}" for end in ends]
    assert features.load(path).card["name"] == "rate 0.4"
    with pytest.raises(ValueError, match="seed must be"):
        training.train(out=tmp_path / "b", seed=-1, **settings)

    def forbidden(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(training.tempfile, "TemporaryFile", forbidden)
    monkeypatch.setattr(Few, "__init__", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(DiffnumError, match="cannot write to"):
        training.train(out=tmp_path, **settings)


def classification(n):
    """The task of the feature network, with n pictures."""
    task = features.Classification.__new__(features.Classification)
    task.train = task.test = features.pixels(pictures(n)), torch.arange(n) % 10
    return task


def test_training_sees_every_image_once_an_epoch_in_a_new_order():
    task = classification(10)
    row, epoch = task.rows(0, 35, seed=3)
    assert epoch.tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5
    orders = [row[10 * e : 10 * e + 10].tolist() for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders) and orders[0] != orders[1] != orders[2]
    parts = [task.rows(first, 7, seed=3) for first in range(0, 35, 7)]
    assert torch.equal(torch.cat([r for r, _ in parts]), row) and torch.equal(torch.cat([e for _, e in parts]), epoch)
    assert not torch.equal(task.rows(0, 35, seed=4)[0], row)


def test_the_optimiser_of_the_feature_network_does_not_see_the_size_of_a_filter():
    def step(scale):
        torch.manual_seed(0)
        task = classification(20)
        net = task.network({}, None)
        task.prepare(net)
        optimiser = task.optimiser(net, 0.1)
        for layer in net.stages:
            layer.weight.data *= scale
        task.loss(net, 20, torch.Generator().manual_seed(0), 0, 0)[0].mean().backward()
        before = net.stages[1].weight.detach().clone()
        optimiser.step()
        return before * len(before) ** 0.5 / before.norm(), net.stages[1].weight.detach()

    (before, after), (_, again) = step(1.0), step(10.0)
    assert torch.allclose(after, again, atol=1e-3) and not torch.allclose(before, after, atol=1e-3)
    size = torch.linalg.svdvals(after - before) / 0.1
    assert size.max() < 1.5 and size.median() > 0.3, "a step goes as far in every direction"


# ---------------------------------------------------------------------------------------------------- sampling


@weights
def test_a_killed_run_goes_on_and_gives_the_same_images(tmp_path):
    plan = quality.recipe(**SMALL)
    whole, nfe, lost = quality.images(plan, 6, tmp_path / "whole")
    assert whole.shape == (6, 32, 32, 3) and (nfe, lost) == (2, 0)
    begun = []

    def die(solver):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return solver

    with pytest.raises(KeyboardInterrupt):
        quality.images(plan, 6, tmp_path / "cut", die)
    assert shards.drawn(plan, tmp_path / "cut") == 4
    again, _, _ = quality.images(plan, 6, tmp_path / "cut", lambda solver: begun.append(1) or solver)
    assert np.array_equal(again, whole) and len(begun) == 4, "two batches were kept, one was drawn"
    some, _, _ = quality.images(plan, 3, tmp_path / "few")
    assert np.array_equal(some, whole[:3]), "more images go on from fewer"


@weights
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_changes_nothing_that_can_be_seen(tmp_path, device):
    plan = quality.recipe(**{**SMALL, "half": False})
    here, there = (quality.images({**plan, "device": d}, 4, tmp_path / d)[0] for d in ("cpu", device))
    assert np.abs(here.astype(int) - there).mean() < 0.5
    network = features.load()
    assert torch.allclose(network.to(device)(here), network(here), rtol=0, atol=0.02)


@weights
def test_recipes_that_differ_do_not_share_images(tmp_path):
    first, second = (quality.images(quality.recipe(**{**SMALL, **more}), 2, tmp_path)[0] for more in ({}, {"seed": 1}))
    assert not np.array_equal(first, second) and len(list(tmp_path.iterdir())) == 2


@weights
def test_a_damaged_file_says_what_to_do(tmp_path):
    plan = quality.recipe(**SMALL)
    quality.images(plan, 2, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    whole, fewer = file.read_bytes(), io.BytesIO()
    np.savez(fewer, images=np.zeros((1, 32, 32, 3), np.uint8), finite=np.ones(1, bool), nfe=2)
    method = whole.index(b"PK\x01\x02") + 10  # of the compression: 99 is none that zipfile knows
    for blob in (whole[:200], b"", whole[:method] + b"\x63" + whole[method + 1 :], fewer.getvalue()):
        file.write_bytes(blob)
        with pytest.raises(DiffnumError, match=r"000000.npz is damaged .+ delete it"):
            quality.images(plan, 2, tmp_path)


@weights
def test_weights_that_have_changed_are_not_drawn_with(tmp_path):
    plan = quality.recipe(**SMALL)
    old = {**plan, "weights_sha256": "0" * 64}
    with pytest.raises(DiffnumError, match="but the recipe says 000000000000"):
        quality.images(old, 2, tmp_path)
    assert not list(tmp_path.rglob("*.npz"))
    quality.images(plan, 2, tmp_path)
    relabel(shards.home(plan, tmp_path) / "000000.npz", shards.home(old, tmp_path) / "000000.npz",
            recipe=json.dumps(old, sort_keys=True))  # fmt: skip
    assert len(quality.images(old, 2, tmp_path)[0]) == 2, "what was drawn with them is still read"


def relabel(source, target, **changes):
    """A copy of a file of images with other contents."""
    with np.load(source) as file:
        held = {**file, **changes}
    np.savez(target, **{key: value for key, value in held.items() if value is not None})


@weights
def test_a_file_of_another_recipe_or_another_place_is_refused(tmp_path):
    plan, other = quality.recipe(**SMALL), quality.recipe(**{**SMALL, "seed": 1})
    quality.images(plan, 4, tmp_path)
    quality.images(other, 2, tmp_path)
    first, second = (shards.home(plan, tmp_path) / f"{i:06d}.npz" for i in (0, 2))
    good = first.read_bytes()
    forged = [
        lambda: first.write_bytes((shards.home(other, tmp_path) / "000000.npz").read_bytes()),
        lambda: first.write_bytes(second.read_bytes()),
        *(lambda changes=changes: relabel(first, first, **changes) for changes in (
            {"recipe": None}, {"first": None}, {"images": np.zeros((2, 32, 32, 3))}, {"finite": np.ones(2)},
            {"images": np.zeros((2, 16, 32, 3), np.uint8)}, {"finite": np.ones(3, bool)}, {"nfe": np.array("x")},
        )),
    ]  # fmt: skip
    for forge in forged:
        first.write_bytes(good)
        forge()
        with pytest.raises(DiffnumError, match=r"000000.npz is damaged .+ delete it"):
            quality.images(plan, 4, tmp_path)
    if hasattr(os, "mkfifo"):
        first.unlink()
        os.mkfifo(first)
        with pytest.raises(DiffnumError, match="a pipe"):
            quality.images(plan, 4, tmp_path)


def test_no_distance_of_images_that_were_lost():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    for lost in (4, 3):
        with pytest.raises(DiffnumError, match=f"{lost} of 4 images were lost"):
            quality.score({}, grey, 2, lost)


@weights
def test_guidance_is_part_of_the_recipe(tmp_path):
    """It names the guide; without guidance a recipe does not mention it, so that older ones stay what they are."""
    plain = quality.recipe(**SMALL)
    assert not {"guidance", "label", "guide_sha256"} & set(plain)
    plan = quality.recipe(**{**SMALL, "half": False}, guidance=2.0, label=["ship", 7, "cat"])
    assert plan["label"] == ["ship", "horse", "cat"] and plan["guidance"] == 2.0 and len(plan["guide_sha256"]) == 64
    drawn = quality.images(plan, 4, tmp_path)[0]
    ship = quality.images({**plan, "label": ["ship"]}, 4, tmp_path)[0]
    same = [int(np.abs(a.astype(int) - b).max()) <= 1 for a, b in zip(drawn, ship, strict=True)]
    assert same == [True, False, False, True], "labels are taken in turn, across batches"
    with pytest.raises(DiffnumError, match=r"guide_sha256 .*, but the recipe says 000000000000"):
        quality.images({**plan, "guide_sha256": "0" * 64}, 4, tmp_path)
    with pytest.raises(ValueError, match="needs guidance"):
        quality.recipe(**SMALL, label="cat")
    (tmp_path / "a.json").write_text(json.dumps({"recipe": plain, "n": 4, "nfe": 2}))
    assert quality.result(tmp_path / "a.json")["recipe"] == plain


@weights
def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffnumError, match=r"folder=.*file'"):
        quality.images(quality.recipe(**SMALL), 2, tmp_path / "file", lambda solver: pytest.fail("it was drawn"))
    with pytest.raises(ValueError, match="n=0"):
        quality.images(quality.recipe(**SMALL), 0, tmp_path)


@weights
def test_lost_images_are_counted_and_grey(tmp_path):
    def lose(solver):
        def run(problem, u, times):
            for i, state in enumerate(solver(problem, u, times), 1):
                rows = torch.arange(len(state))[:, None, None, None]
                yield torch.where((rows == 1) & (i == len(times) - 1), torch.nan, state)

        return run

    images, _, lost = quality.images(quality.recipe(**SMALL), 2, tmp_path, lose)
    assert lost == 1 and (images[1] == 128).all() and not (images[0] == 128).all()


@weights
def test_half_precision_is_close_and_not_the_same(tmp_path):
    half, full = (quality.images(quality.recipe(**{**SMALL, "half": h}), 2, tmp_path)[0].astype(int) for h in (1, 0))
    assert 0 < np.abs(half - full).mean() < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "dddim"}, "ddim"), ({"process": "vpp"}, "vp"), ({"grid": "log"}, "log_snr"),
        ({"seed": -1}, "seed"), ({"batch": 0}, "batch=0"),
        ({"steps": 0}, "steps"), ({"network": "nonsense"}, "cifar10"), ({"process": "blurring", "network": "x"}, "x"),
    ],
)  # fmt: skip
def test_recipes_refuse_unknown_names(change, message):
    with pytest.raises((ValueError, KeyError, DiffnumError), match=message):
        quality.recipe(**{**SMALL, **change})


# ------------------------------------------------------------------------------------------------------ scoring


def test_statistics_belong_to_the_features(monkeypatch):
    assert quality.statistics().count == 50_000
    with monkeypatch.context() as patch:
        blob = quality.read(quality.STATISTICS, ("reference",))[0]
        patch.setattr(quality, "read", lambda *_: (blob, "", {}, "file"))
        with pytest.raises(DiffnumError, match=r"file .* \.json is missing"):
            quality.statistics()
    monkeypatch.setattr(features, "load", lambda: features.Features(features.Classifier(), "other"))
    with pytest.raises(DiffnumError, match="another feature network"):
        quality.statistics()


@weights
def test_command_writes_all_that_repeats_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(
        cli.app, ["quality", "--solver", "ddim", "--steps", "2", "-n", "50", "--half", "--out", "a.json"]
    )
    assert run.exit_code == 0, run.output
    found = json.loads((tmp_path / "a.json").read_text())
    recipe = found["recipe"]
    assert recipe["weights_sha256"] == dn.load("cifar10").sha256 and found["features_sha256"] == features.load().sha256
    images, nfe, _ = quality.images(recipe, 50, tmp_path / "other")
    assert found["images_sha256"] == quality.score(recipe, images, nfe, 0)["images_sha256"]
    assert found["frechet"]["low"] < found["frechet"]["limit"] < found["frechet"]["high"]

    pair = ["quality", "--solver", "ddim", "--steps", "3", "-n", "50", "--half", "--against", "a.json"]
    run = CliRunner().invoke(cli.app, [*pair, "--out", "b.json"])
    assert run.exit_code == 0 and "that it is better" in run.output
    both = json.loads((tmp_path / "b.json").read_text())
    assert both["against"]["verdict"] in ("holds", "not shown", "does not hold")
    assert both["against"]["value"] == pytest.approx(both["frechet"]["value"] - found["frechet"]["value"])

    run = CliRunner().invoke(cli.app, [*pair, "--seed", "1"])
    assert run.exit_code == 1 and "pairs need the same" in run.output


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        "[" * 100_000,
        "\x00",
        '{"recipe": "ddim", "n": 4, "nfe": 1}',
        '{"recipe": {"seed": 0}, "n": 4, "nfe": 1}',
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DiffnumError, match=r"a\.json is no result of diffnum quality: it has no .*; name another"):
        quality.result(tmp_path / "a.json")
    with pytest.raises(DiffnumError, match="cannot read the result"):
        quality.result(tmp_path / "b.json")


@weights
def test_command_refuses_before_it_draws(tmp_path, monkeypatch):
    """A result is not overwritten by its comparison, and what --against lacks is found before the work."""
    monkeypatch.chdir(tmp_path)
    plan = quality.recipe(**{**SMALL, "batch": 50})
    (tmp_path / "a.json").write_text(json.dumps({"recipe": {**plan, "weights_sha256": "0"}, "n": 4, "nfe": 2}))
    for more, says in (
        (["-n", "3"], "-n=3"), (["--out", "a.json"], "overwrite --against a.json"), ([], "the recipe says"),
    ):  # fmt: skip
        run = CliRunner().invoke(
            cli.app, ["quality", "--solver", "ddim", "--steps", "3", "-n", "4", "--against", "a.json", *more]
        )
        assert run.exit_code == 1 and says in run.stderr and run.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.npz")) and len(list(tmp_path.glob("*.json"))) == 1


def test_metric_grows_under_noise_and_under_blur():
    """On pictures that every machine has; the lab does it on CIFAR-10."""
    network, images = features.load(), pictures(400)
    reference = metrics.Reference.of(network(images))
    rng = np.random.default_rng(1)

    def blur(image, size):
        return np.asarray(Image.fromarray(image).resize((size, size), Image.BOX).resize((32, 32), Image.BICUBIC))

    noisy = [np.clip(images + s * rng.standard_normal(images.shape), 0, 255).astype(np.uint8) for s in (0, 10, 30, 90)]
    blurred = [np.stack([blur(image, size) for image in images]) for size in (32, 16, 8, 4)]
    for damaged in (noisy, blurred):
        scores = [metrics.frechet(network(x), reference) for x in damaged]
        assert scores == sorted(scores) and scores[0] < 1e-6 < scores[1]


@weights
def test_256_images_need_less_than_2_gb(tmp_path):
    command = [sys.executable, "-m", "diffnum.cli", "sample", "--solver", "ddim", "--steps", "1", "-n", "256"]
    code = (
        f"import resource, subprocess; subprocess.run({[*command, '--out', str(tmp_path / 'x.png')]!r}, check=True)\n"
    )
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak = int(run.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert 5e7 < peak < 2e9, resource.getrusage(resource.RUSAGE_SELF)
