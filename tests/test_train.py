"""Training and data: a tiny network on made-up pictures, a kill in the middle, and data that is not there."""

import copy
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as parse
from safetensors.torch import save

from diffnum.denoisers import guide as guides
from diffnum.denoisers.network import BlurringNetwork, Config, UNet, load
from diffnum.errors import DiffnumError
from diffnum.images import checkpoint as checkpoints
from diffnum.images import data as datasets
from diffnum.images import features, guiding
from diffnum.images import train as training
from diffnum.images.background import alone
from diffnum.images.features import pixels
from diffnum.images.optimisers import Both, Muon

TINY = Config((16, 32), (False, True), 1, 1, 32, 8)
GUIDE = Config((32, 32), (False, True), 1, 1, 32, 8)
WEIGHTS = Path(training.__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


def small_data(place):
    """Smooth pictures: 64 JPEG copies in class folders of a zip, 24 exact ones for training and 8 for testing."""
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


def test_bfloat16_takes_the_steps_of_float32(folder, tmp_path):
    """A cast weight that outlives its step leaves the first network's gradients, and the loss where it was."""
    losses = []
    for amp in (False, True):
        path = training.train(**options(folder, tmp_path / str(amp), kind="edm", images=400, lr=2e-2, amp=amp))
        card = json.loads(path.with_suffix(".json").read_text())
        losses.append(np.mean([row["weighted"] for row in card["validation"]]))
    assert losses[1] < 1.05 * losses[0], "in bfloat16 the loss falls as in float32"


@pytest.mark.parametrize("kind", ["edm", "blurring"])
def test_training_lowers_the_loss(folder, tmp_path, kind):
    path = training.train(**options(folder, tmp_path / "net", kind=kind, images=400, lr=2e-2))
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


@pytest.fixture
def few(monkeypatch, tmp_path):
    """What a guide needs to be tried: few drawings, of one step."""
    monkeypatch.setattr(guiding, "SAMPLERS", (("ddim", 1, "vp", "log_snr"),))
    monkeypatch.setattr(guiding, "ASIDE", 8)
    return {"drawn": tmp_path / "drawn", "pictures": 42}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", training.TASKS)
def test_training_on_a_gpu(folder, tmp_path, kind, few):
    size = TINY if kind != "features" else "small"
    given = options(folder, tmp_path / "net", kind=kind, images=16, device="cuda", amp=True, size=size)
    card = json.loads(training.train(**given, **few).with_suffix(".json").read_text())
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


# ------------------------------------------------------------------------------------- stopping, and going on


SOON = "from diffnum.images import background, train; background.yield_to_all = lambda **_: None; train.main()"


def command(folder, out, *more):
    """A small training in a process of its own, with a checkpoint at every step.

    It does not give way to other processes: on a machine that is busy with tests it would never get its turn.
    """
    arguments = ["--size", "tiny", "--batch", "8", "--device", "cpu", "--warmup", "2", "--validation-images", "8"]
    arguments += ["--save-every", "0", "--data", folder, "--out", out, *more]
    return [sys.executable, "-c", SOON, *map(str, arguments)]


def started(arguments, checkpoint, images=0):
    """The process, once its checkpoint has seen more than so many images."""
    run = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while run.poll() is None and not (checkpoint.is_file() and checkpoints.read(checkpoint).numbers["images"] > images):
        time.sleep(0.05)
    assert run.poll() is None, run.communicate()[1]
    return run


def agreement(folder):
    """Images of card and log, which are written together, and whether the weights are those of the card."""
    log, card = (json.loads((folder / f"net.{kind}").read_text()) for kind in ("log.json", "json"))
    assert load(folder / "net.safetensors").sha256 == card["sha256"]
    return log[-1]["images"], card["images_this_run"], log[-1]["validation"] == card["validation"]


def test_a_background_run_stops_when_asked_and_goes_on(folder, tmp_path):
    place = tmp_path / "net"
    checkpoint, seen = place / "net.checkpoint.safetensors", 0
    for how, status in (("SIGTERM", 143), ("file", 0), ("SIGKILL", -9), ("SIGINT", 130)):
        run = started(command(folder, place, "--background", "--validate-every", "2"), checkpoint, seen)
        if how == "file":
            (place / "net.stop").touch()
        else:
            run.send_signal(getattr(signal, how))
        _, said = run.communicate(timeout=600)
        assert run.returncode == status
        if how != "SIGKILL":
            assert len(said.splitlines()) == 1 and "stopped by" in said and str(checkpoint) in said
            assert not (place / "net.stop").exists()
        if (place / "net.json").exists():
            logged, carded, same = agreement(place)
            assert logged == carded and same
        numbers = checkpoints.read(checkpoint).numbers
        assert numbers["images"] == 8 * numbers["step"] > seen  # it went on from there
        seen = numbers["images"]


def test_two_processes_in_the_background_stop_when_asked_and_go_on(folder, tmp_path):
    place = tmp_path / "net"
    checkpoint, seen = place / "net.checkpoint.safetensors", 0
    for how, status in (("SIGTERM", 143), ("file", 0)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        words = command(folder, place, "--background", "--validate-every", "1e9")
        runs = [
            subprocess.Popen(words, env={**os.environ, **about, "OMP_NUM_THREADS": "1", "RANK": rank},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for rank in "01"
        ]  # fmt: skip
        while not (checkpoint.is_file() and checkpoints.read(checkpoint).numbers["images"] > seen):
            assert all(run.poll() is None for run in runs), [run.communicate()[1] for run in runs]
            time.sleep(0.05)
        if how == "file":
            (place / "net.stop").touch()
        else:
            for run in runs:  # as torchrun does
                run.send_signal(signal.SIGTERM)
        said = [run.communicate(timeout=600)[1].splitlines() for run in runs]
        lines = [line for some in said for line in some if not line.startswith("[")]
        assert [run.returncode for run in runs] == [status] * 2, said
        assert len(lines) == 1 and "stopped by" in lines[0] and str(checkpoint) in lines[0]
        numbers = checkpoints.read(checkpoint).numbers
        assert numbers["images"] == 8 * numbers["step"] > seen
        seen = numbers["images"]


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux")
def test_every_thread_but_the_listening_one_gives_way():
    code = """if True:
        import os, threading
        from pathlib import Path
        from diffnum.images.background import Stopping
        def state(thread):
            return os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread) == os.SCHED_IDLE
        wait = threading.Event()
        for _ in range(2):
            threading.Thread(target=wait.wait, daemon=True).start()
        before = {t.native_id for t in threading.enumerate()}
        print(state(0))
        with Stopping(Path("stop")).listening():
            listening, = (t.native_id for t in threading.enumerate() if t.native_id not in before)
            print(state(listening), *(state(t) for t in before))
        wait.set()
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usual, during = run.stdout.splitlines()
    assert during == " ".join([usual] + ["(19, True)"] * 3)


def test_a_request_to_stop_is_one_line(folder, tmp_path):
    place = tmp_path / "net"
    run = started(command(folder, place, "--minutes", "60"), place / "net.checkpoint.safetensors")
    run.terminate()
    _, said = run.communicate(timeout=300)
    assert run.returncode == 143 and len(said.splitlines()) == 1 and "SIGTERM" in said


@pytest.mark.parametrize("module", ["diffnum.train", "diffnum.images.train"])
def test_control_c_in_the_first_moments(tmp_path, module):
    """Here it comes while torch is being imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n1/0\n")
    root = str(Path(training.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    run = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=env, timeout=300)
    assert run.returncode == 130 and len(run.stderr.splitlines()) == 1 and not run.stdout


def test_one_run_to_a_folder(folder, tmp_path):
    with alone(tmp_path), pytest.raises(DiffnumError, match="another run"):
        training.train(**options(folder, tmp_path, images=8))
    first = training.train(**options(folder, tmp_path / "net", images=8))
    kept = first.read_bytes()
    for seed in (0, 1):  # neither while its checkpoint is there nor without
        with pytest.raises(DiffnumError, match="earlier run"):
            training.train(**options(folder, tmp_path / "net", images=8, seed=seed))
        (tmp_path / "net" / "net.checkpoint.safetensors").unlink(missing_ok=True)
    assert first.read_bytes() == kept


# ---------------------------------------------------------------------------------------------- checkpoints


def trained(optimiser, config=TINY, steps=1):
    """A run after some steps, its average not equal to its weights."""
    torch.manual_seed(0)
    net = UNet(config)
    run = checkpoints.Run(net, copy.deepcopy(net), optimiser(net))
    for _ in range(steps):
        run.optimiser.zero_grad()
        (net(torch.randn(4, 3, 32, 32), torch.zeros(4)) - torch.randn(4, 3, 32, 32)).square().mean().backward()
        run.optimiser.step()
    return run


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)


def muon(net):
    kernels = [p for p in net.parameters() if p.ndim == 4]
    return Both(Muon(kernels, lr=1e-3), torch.optim.Adam([p for p in net.parameters() if p.ndim != 4], lr=1e-3))


@pytest.mark.parametrize("optimiser", [adam, muon])
def test_a_compact_checkpoint_loses_little(optimiser, tmp_path):
    """Weights and average to a float16, second moments to a bfloat16, first moments to an eighth or a 2^-9 of the
    largest: half a unit in the last place of what the table promises."""
    run = trained(optimiser, steps=3)
    path, other = tmp_path / "c.safetensors", trained(optimiser, steps=1)
    path.write_bytes(run.blob({"kind": "edm"}, compact=True))
    other.restore(checkpoints.read(path))
    for name, value in run.tensors().items():
        found, largest = other.tensors()[name], float(value.abs().max())
        size = value.abs()
        bound = {"exp_avg_sq": 2.0**-8 * size, "exp_avg": size / 16 + 2e-9 * 0 + largest * 2.0**-19,
                 "momentum_buffer": size / 16 + largest * 2.0**-19}.get(name.split(".")[1])  # fmt: skip
        bound = 2.0**-11 * size + 2.0**-24 if name.startswith("net") else bound
        if name.startswith("average"):
            bound = 2.0**-11 * (value - run.tensors()["net" + name[7:]]).abs() + 2.0**-11 * 2.0**-11 * size + 2.0**-24
        if value.numel() < checkpoints.SMALL:
            assert torch.equal(found, value), name
        else:
            assert ((found - value).abs() <= bound).all(), name


@pytest.mark.parametrize("optimiser", [adam, muon])
def test_a_compact_checkpoint_of_the_shipped_network_is_small(optimiser):
    run = trained(optimiser, Config(), steps=1)
    run.log = [{"loss": {str(2.0**i): 1 / 3 for i in range(-10, 9)}}] * 1000
    assert len(run.blob({"kind": "edm"}, compact=True)) < 38e6


def damage(tmp_path, folder):
    """(what is wrong, checkpoint) of a run of the test below."""
    blob = (folder / "net.checkpoint.safetensors").read_bytes()
    tensors = parse(blob)
    text = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
    numbers, settings = json.loads(text["numbers"]), json.loads(text["settings"])

    def file(tensors=tensors, numbers=numbers, settings=settings):
        return save(tensors, {**text, "numbers": json.dumps(numbers), "settings": json.dumps(settings)})

    yield "empty", b""
    yield "truncated", blob[:-100]
    yield "no metadata", save(tensors)
    yield "settings empty", file(settings={})
    yield "settings less", file(settings={k: v for k, v in settings.items() if k != "seed"})
    yield "no settings", file(settings=[1])
    yield "a number missing", file(numbers={k: v for k, v in numbers.items() if k != "step"})
    yield "a number of another type", file(numbers={**numbers, "images": "many"})
    yield "negative", file(numbers={**numbers, "step": -1})
    yield "log", file(numbers={**numbers, "log": [1]})
    yield "NaN seconds", file(numbers={**numbers, "seconds": float("nan")})
    for part in ("net.", "average.", "optimiser.exp_avg."):
        name = f"{part}stem.weight"
        yield f"{part} missing", file({k: v for k, v in tensors.items() if k != name})
        yield f"{part} renamed", file({k + "x" * (k == name): v for k, v in tensors.items()})
        yield f"{part} misshapen", file({**tensors, name: tensors[name][:1].contiguous()})
        yield f"{part} NaN", file({**tensors, name: tensors[name] * float("nan")})


def test_a_damaged_checkpoint_is_refused_before_the_work(folder, tmp_path, monkeypatch):
    given = options(folder, tmp_path / "net", images=16)
    training.train(**given)
    monkeypatch.setattr(training.TASKS["edm"], "__init__", lambda *_: pytest.fail("the data are read"))
    for what, blob in damage(tmp_path, tmp_path / "net"):
        (tmp_path / "net" / "net.checkpoint.safetensors").write_bytes(blob)
        try:
            training.train(**given, resume=True)
        except DiffnumError as error:
            assert "\n" not in str(error) and "checkpoint" in str(error), what
        else:
            pytest.fail(what)


# --------------------------------------------------------------------------- what surrounds a run must not matter


def test_ambient_state_of_torch_does_not_matter(folder, tmp_path):
    first = training.train(**options(folder, tmp_path / "a" / "net", images=16)).read_bytes()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert training.train(**options(folder, tmp_path / "b" / "net", images=16)).read_bytes() == first
            assert (
                features.from_bytes((WEIGHTS / "cifar10-features.safetensors").read_bytes())(
                    datasets.cifar10(folder, "test", exact=True).images
                )
                .isfinite()
                .all()
            )
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("has", "expected"), [("amx_bf16", True), ("avx512_bf16", True), ("avx512_f", False)])
def test_bfloat16_where_the_processor_is_fast_at_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, has: True}, raising=False)
    assert training.fast_bfloat16(torch.device("cpu")) is expected


def test_the_version_is_ours_or_the_installed_one(tmp_path):
    """A copy of the package in the repository of a stranger records the installed version, not the stranger's tag."""
    stranger = tmp_path / "stranger"
    shutil.copytree(Path(training.__file__).parents[1], stranger / "lib" / "diffnum",
                    ignore=shutil.ignore_patterns("weights", "__pycache__"))  # fmt: skip
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", stranger]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"], ["tag", "v9.9"]):
        subprocess.run([*git, *arguments], check=True, env=env)
    code = "from diffnum.images.provenance import code_version; print(code_version())"
    for lib in (stranger / "lib", stranger):
        if lib == stranger:  # at the top of the stranger's tree
            shutil.move(stranger / "lib" / "diffnum", stranger / "diffnum")
        for more in ({}, {"GIT_DIR": str(stranger / ".git")}):
            place = {"cwd": tmp_path, "env": {**env, **more, "PYTHONPATH": str(lib)}}
            found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **place)
            assert "9.9" not in found.stdout and found.stdout.strip()
    assert not training.code_version().startswith("v9.9")


# ---------------------------------------------------------------------------------------------------- the guide


def test_a_guide_learns_to_tell_drawn_from_real(folder, tmp_path, few):
    given = options(folder, tmp_path / "guide", kind="guide", size=GUIDE, images=1200, batch=24, lr=1e-2)
    given |= {**few, "warmup": 5}
    path = training.train(**given)
    card = json.loads(path.with_suffix(".json").read_text())
    drawn = card["data"]["drawn"][0]
    assert drawn["images"] == 50 and drawn["recipe"]["weights_sha256"] == load("cifar10").sha256
    found = guides.load(path)
    assert found.denoiser == load("cifar10").sha256 == card["settings"]["network"] and found.sha256 == card["sha256"]
    assert card["denoiser"] == {"name": "cifar10", "sha256": found.denoiser}
    at = {row["sigma"]: row for row in card["validation"]}
    assert at[0.5]["auc"] > 0.9 and at[0.5]["odds"] < 0.5  # one step of ddim draws grey blurs
    # from there, and from a denoiser, whose encoder it then has
    again = training.train(**{**given, "out": tmp_path / "next", "images": 24, "init": str(path), "size": "small"})
    assert json.loads(again.with_suffix(".json").read_text())["images"] == 1224
    start = guiding.Guiding.start("cifar10")
    net = guiding.Guiding.network(guiding.Guiding.config("small", start), start)
    assert torch.equal(net.mid[1].conv1.weight, start._state["mid.1.conv1.weight"].float())


def test_odds_of_the_guide_are_equal_odds():
    """A network that knows nothing learns logits of equal odds, though one in three of its images is drawn."""
    images = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
    task = object.__new__(guiding.Guiding)
    task.pixels = training.Pixels(images, None, {}, (torch.arange(10),))
    task.drawn = images
    constant = torch.zeros(11, requires_grad=True)
    optimiser = torch.optim.LBFGS([constant], line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        losses, _ = task.loss(lambda x, a: constant.expand(len(x), 11), 9000, torch.Generator().manual_seed(0))
        losses.mean().backward()
        return losses.mean()

    optimiser.step(closure)
    odds = constant.detach()
    assert abs(float(odds[:10].logsumexp(0) - odds[10])) < 0.01  # exact but for LBFGS: the counts in a batch are


def test_orthogonal_steps():
    """Muon moves a matrix along U V^T of its gradient: singular values of the step within (0.6, 1.3) of the rate."""
    for shape in ((8, 4, 3, 3), (64, 8, 1, 1)):
        p = torch.zeros(shape, requires_grad=True)
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        before = p.detach().clone()
        Muon([p], lr=0.1).step()
        step = (before - p.detach()).flatten(1)
        gain = max(1.0, len(step) / step.shape[1]) ** 0.5
        values = torch.linalg.svdvals(step) / (0.1 * gain)
        assert values.min() > 0.6 and values.max() < 1.3
        assert (step * p.grad.flatten(1)).sum() > 0
