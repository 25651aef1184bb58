"""Training and data: a tiny network on made-up pictures, a kill in the middle, and data that is not there."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffnum.denoisers.network import BlurringNetwork, Config, load
from diffnum.errors import DiffnumError
from diffnum.images import data as datasets
from diffnum.images import train as training
from diffnum.images.features import pixels

TINY = Config((16, 32), (False, True), 1, 1, 32, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smooth pictures: 64 JPEG copies in class folders of a zip, 24 exact ones for training and 8 for testing."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    wave = rng.uniform(1, 6, (96, 2, 3)), rng.uniform(0, 6, (96, 3))
    pictures = 127 + 100 * np.sin(x[..., None] * wave[0][:, None, None, 0] + y[..., None] * wave[0][:, None, None, 1]
                                  + wave[1][:, None, None])  # fmt: skip
    pictures = pictures.astype(np.uint8)
    with zipfile.ZipFile(place / "cifar10-jpeg.zip", "w") as z:
        for i, picture in enumerate(pictures[:64]):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG")
            z.writestr(f"{'test' if i % 4 == 0 else 'train'}/{datasets.CLASSES[i % 10]}/{i:04d}.jpg", buffer.getvalue())
    labels = np.arange(32) % 10
    np.savez(place / datasets.LOSSLESS, train_x=pictures[64:88], train_y=labels[:24], test_x=pictures[88:],
             test_y=labels[24:])  # fmt: skip
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFNUM_DATA", raising=False)


def options(folder, out, **more):
    plain = {"data": folder, "out": out, "size": TINY, "batch": 8, "warmup": 2, "progress": False, "device": "cpu"}
    return {**plain, "amp": False, "average": 100, "lr": 2e-3, "validation_images": 8, **more}


@pytest.mark.parametrize("kind", ["edm", "blurring"])
def test_training_lowers_the_loss(folder, tmp_path, kind):
    path = training.train(**options(folder, tmp_path / "net", kind=kind, images=400))
    before = training.train(**options(folder, tmp_path / "start", kind=kind, images=8))
    card, start = (json.loads(p.with_suffix(".json").read_text()) for p in (path, before))
    column = "weighted" if kind == "edm" else "eps_mse"
    after, first = (np.mean([row[column] for row in c["validation"]]) for c in (card, start))
    assert after < 0.9 * first
    network = load(path)
    assert isinstance(network, BlurringNetwork) == (kind == "blurring")
    assert card["images"] == 400 and card["data"]["copies"]["images"] == 48 and card["data"]["exact"]["images"] == 24
    assert card["sha256"] == network.sha256
    rows = training.validate(network, pixels(datasets.cifar10(folder, "test", exact=True).images))
    assert rows == card["validation"]  # the card holds what the shipped file does


@pytest.mark.gpu
@pytest.mark.parametrize("kind", training.TASKS)
def test_training_on_a_gpu(folder, tmp_path, kind):
    size = TINY if kind != "features" else "small"
    given = options(folder, tmp_path / "net", kind=kind, images=16, device="cuda", amp=True, size=size)
    card = json.loads(training.train(**given).with_suffix(".json").read_text())
    assert card["images"] == 16 and np.isfinite([list(row.values()) for row in card["validation"]]).all()


@pytest.mark.parametrize("kind", ["edm", "features"])
def test_a_killed_run_continues_exactly(folder, tmp_path, monkeypatch, kind):
    task, steps, size = training.TASKS[kind], [], TINY if kind == "edm" else "small"
    whole = training.train(**options(folder, tmp_path / "a" / "net", kind=kind, images=64, size=size))
    loss = task.loss

    def die(*arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(task, "loss", die)
    again = options(folder, tmp_path / "b" / "net", kind=kind, images=64, save_every=0.0, size=size)
    with pytest.raises(KeyboardInterrupt):
        training.train(**again)
    monkeypatch.setattr(task, "loss", loss)
    resumed = training.train(**again, resume=True)
    assert json.loads(resumed.with_suffix(".json").read_text())["images"] == 64
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(resumed.parent.glob("*.part"))
    with pytest.raises(DiffnumError, match="batch=8"):
        training.train(**{**again, "batch": 4}, resume=True)


def test_the_documented_command_was_repeated():
    run = json.loads((Path(__file__).parents[1] / "book" / "results" / "training.json").read_text("utf-8"))["cifar10"]
    for again, first in zip(run["repeated"], run["log"], strict=False):
        assert again["images"] == first["images"] and set(again["loss"]) == set(first["loss"])
        assert all(abs(value / first["loss"][level] - 1) < 1.3e-3 for level, value in again["loss"].items())
    assert run["repeated"][-1]["images"] == 23_040


def test_starting_from_a_network(folder, tmp_path):
    path = training.train(**options(folder, tmp_path / "first", images=8))
    card = json.loads(training.train(**options(folder, tmp_path / "next", images=8, init=str(path), size="small"))
                      .with_suffix(".json").read_text())  # fmt: skip
    assert card["images"] == 16 and card["images_this_run"] == 8 and card["settings"]["config"]["channels"] == [16, 32]


def test_noise_levels_cover_the_range():
    s = training.noise_levels(10_000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert s.min() >= 1e-3 and s.max() <= 260 and (s > 100).float().mean() > 0.01 and (s < 0.002).float().mean() > 0.008
    assert 0.2 < s.median() < 0.5


def test_low_noise_sees_exact_pixels_only(folder):
    pixels = training.Pixels.find(folder, torch.device("cpu"))
    pixels.exact, pixels.copies = torch.zeros_like(pixels.exact), torch.full_like(pixels.copies, 255)
    x = pixels.draw(64, torch.full((64,), 0.19), torch.Generator().manual_seed(0))
    assert (x == -1).all()
    assert (pixels.draw(64, torch.full((64,), 0.81), torch.Generator().manual_seed(0)) == 1).all()


def test_missing_data_says_what_to_do(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DiffnumError, match="DIFFNUM_DATA"):
            training.train(**options(place, tmp_path / "out", images=8))
    with pytest.raises(ValueError, match="split"):
        datasets.cifar10(folder, "val")


def test_no_network_no_data(monkeypatch):
    import pooch

    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(DiffnumError, match=r"in a browser .*root=, --data or the environment variable DIFFNUM_DATA"):
        datasets.cifar10()


@pytest.mark.parametrize("name", ["batch", "lr", "minutes", "images", "average"])
def test_budgets_must_be_positive(name):
    with pytest.raises(ValueError, match=name):
        training.train(**{name: 0})


def test_classes_folder_zip_pack_and_batches_agree(folder, tmp_path):
    import pickle

    from_zip = datasets.cifar10(folder)
    with zipfile.ZipFile(folder / "cifar10-jpeg.zip") as z:
        z.extractall(tmp_path / "tree")
    tree = datasets.cifar10(tmp_path / "tree")
    packed = datasets.pack(tmp_path / "pack", folder)
    unpacked = datasets.cifar10(packed.parent)
    for other in (tree, unpacked, datasets.cifar10(folder)):  # the last comes from the cache
        assert (other.images == from_zip.images).all() and (other.labels == from_zip.labels).all()
    exact, again = datasets.cifar10(folder, "test", exact=True), datasets.cifar10(packed.parent, "test", exact=True)
    assert exact.exact and again.exact and (exact.images == again.images).all() and exact.sha256 == again.sha256
    assert datasets.cifar10(packed.parent, "test").exact  # the pack has no JPEG copies of them
    code = packed.parent / "diffnum"
    assert (code / "images" / "train.py").is_file() and not (code / "weights").exists()
    assert exact.tensor([0, 1]).shape == (2, 3, 32, 32) and exact.tensor().abs().max() <= 1

    batches = tmp_path / datasets.FOLDER
    batches.mkdir()
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        rows = np.ascontiguousarray(exact.images.transpose(0, 3, 1, 2)).reshape(len(exact), -1)
        (batches / name).write_bytes(pickle.dumps({b"data": rows, b"labels": exact.labels.tolist()}))
    canonical = datasets.cifar10(tmp_path)
    assert canonical.exact and (canonical.images[:8] == exact.images).all() and len(canonical) == 40


def test_a_batch_that_is_not_one(tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return os.getcwd, ()

    batches = tmp_path / datasets.FOLDER
    batches.mkdir()
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (batches / name).write_bytes(pickle.dumps({b"data": Harm()}))
    with pytest.raises(DiffnumError, match="cannot be read"):
        datasets.cifar10(tmp_path)


@pytest.mark.parametrize(
    ("name", "match"),
    [(datasets.ARCHIVE, "incomplete"), ("cifar10-jpeg.zip", "cannot be read"), (datasets.LOSSLESS, "cannot be read"),
     (datasets.PACK, "cannot be read")],
)  # fmt: skip
def test_damaged_files_are_one_line(folder, tmp_path, name, match):
    for blob in (b"", b"not it"):
        (tmp_path / name).write_bytes(blob)
        with pytest.raises(DiffnumError, match=match):
            datasets.cifar10(tmp_path)


def test_a_tree_that_grew_is_read_anew_and_pictures_without_loss_are_exact(tmp_path):
    for i in range(2):
        for name in datasets.CLASSES:
            place = tmp_path / "train" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (i, 0, 0)).save(place / f"{i}.png")
        found = datasets.cifar10(tmp_path)
        assert len(found) == 10 * (i + 1) and found.exact
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "cat" / "2.jpg")
    assert not datasets.cifar10(tmp_path).exact
    with pytest.raises(DiffnumError, match="no exact-pixel"):
        datasets.cifar10(tmp_path, exact=True)


def test_nothing_good_is_written_over(folder, tmp_path, monkeypatch):
    """Neither by a second run in the same folder, nor by one that diverges."""
    given = options(folder, tmp_path / "net", images=64, save_every=0.0)
    loss, seen = training.Denoising.loss, []

    def diverge(*arguments):
        seen.append(1)
        found, levels = loss(*arguments)
        return (found * float("nan") if len(seen) > 4 else found), levels

    monkeypatch.setattr(training.Denoising, "loss", diverge)
    with pytest.raises(DiffnumError, match="not finite at step 5"):
        training.train(**given)
    monkeypatch.setattr(training.Denoising, "loss", loss)
    kept = (tmp_path / "net" / "net.checkpoint.safetensors").read_bytes()
    with pytest.raises(DiffnumError, match="earlier run"):
        training.train(**given)
    assert (tmp_path / "net" / "net.checkpoint.safetensors").read_bytes() == kept
    path = training.train(**{**given, "lr": 1e-3}, resume=True)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["images"] == 64 and np.isfinite([row["mse"] for row in card["validation"]]).all()


def test_two_processes_train_one_network(folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "diffnum.images.train"]
    command += ["--size", "tiny", "--images", "32", "--batch", "16", "--device", "cpu", "--validation-images", "8"]
    command += ["--data", str(folder), "--out", str(tmp_path / "net")]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    card = json.loads((tmp_path / "net" / "net.json").read_text())
    assert card["processes"] == 2 and card["images"] == 32
