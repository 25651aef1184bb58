r"""Training of the networks of this book: ``diffnum train``, or ``python -m diffnum.images.train``.

What is learned stands in the tasks: ``edm`` and ``blurring`` in :mod:`diffnum.images.tasks`, ``features`` in
:mod:`diffnum.images.features`, ``guide`` in :mod:`diffnum.images.guiding`. Here is the run: steps, average, log,
checkpoints, and the model card.

Every random number is a function of (seed, step, rank), so a resumed run draws what the uninterrupted one would.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # before torch is loaded: a request to stop is one line from the first moment on
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: (os.write(2, b"stopped before the start\n"), os._exit(128 + n)))

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from diffnum.denoisers.network import Config
from diffnum.devices import existing
from diffnum.errors import DiffnumError
from diffnum.files import place
from diffnum.images import checkpoint as checkpoints
from diffnum.images import data as datasets
from diffnum.images.background import Stopping, alone, told
from diffnum.images.checkpoint import Run
from diffnum.images.features import Classification
from diffnum.images.guiding import Guiding
from diffnum.images.job import Job
from diffnum.images.processes import Team, in_team, quiet
from diffnum.images.processes import place as process_place
from diffnum.images.provenance import code_version
from diffnum.images.tasks import SIZES, BlurredDenoising, Denoising, Pixels, noise_levels, validate

__all__ = ["SIZES", "TASKS", "Pixels", "code_version", "fast_bfloat16", "noise_levels", "train", "validate"]

TASKS: dict[str, Any] = {
    "edm": Denoising, "blurring": BlurredDenoising, "guide": Guiding, "features": Classification
}  # fmt: skip


@in_team
def train(
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    kind: str = "edm",
    minutes: float | None = None,
    images: int | None = None,
    size: str | Config = "small",
    init: str | None = None,
    batch: int | None = None,
    lr: float | None = None,
    warmup: int = 300,
    average: int | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str | None = None,
    compile: bool | None = None,
    amp: bool | None = None,
    save_every: float = 60.0,
    validate_every: float | None = None,
    validation_images: int = 128,
    progress: bool = True,
    background: bool = False,
    network: str = "cifar10",
    drawn: str | os.PathLike[str] = ".runs/drawn",
    pictures: int = 12_000,
    *,
    team: Team,
) -> Path:
    """Train a network on CIFAR-10 and return the path of its weights, NAME.safetensors, NAME being the folder's name.

    Beside it lie NAME.json (model card with checksum and validation loss), NAME.log.json (loss by noise level while
    training) and NAME.checkpoint.safetensors (for ``resume``).

    Parameters
    ----------
    data: folder or file, see :func:`diffnum.images.data.cifar10`; out: output folder, default ``.runs/cifar10-KIND``;
    kind: ``"edm"``, ``"blurring"`` (the denoisers), ``"guide"`` or ``"features"``, see the modules named above.
    minutes, images: the budget, whichever ends first (default 3 minutes); the rate follows a cosine over it to 0.
    size: ``"small"`` (5.0 M parameters), ``"large"`` (7.7 M), ``"tiny"``, or a :class:`Config`; init: name or path of a
    network to start from (its size is then used). A run that is resumed has its own weights: init is not read then.
    batch: images per step over all processes; lr: peak learning rate; warmup: steps of linear warm-up; average:
    half-life, in images, of the moving average of the weights, which is what is saved. The kind sets their defaults.
    device: default a GPU if there is one; compile: default on GPUs; amp: bfloat16 autocast, default where the processor
    is fast at it (:func:`fast_bfloat16`).
    save_every, validate_every: seconds between checkpoints, and between validations (default 300, in the background
    1800) on ``validation_images`` exact test images; the last validation uses all of them.
    background: every other process goes first; the rate stays constant and, without a budget, there is no end; a
    checkpoint in the folder is resumed, and is compact (:mod:`diffnum.images.checkpoint`). SIGTERM, SIGINT or a file
    NAME.stop in the folder **ends the process** within a second, with the state of the last step written down.
    Several processes, started by torchrun, train one network: each takes its part of every batch.
    network, drawn, pictures: for a guide, the denoiser whose drawings it shall know, the folder that keeps them, and
    their number; those that are missing are drawn first.

    Raises:
        ValueError, KeyError: an argument is wrong. DiffnumError: there is no data, the folder cannot be written or is
            another run's, or a checkpoint does not fit.
    """
    if kind not in TASKS:
        raise ValueError(f"kind must be {', '.join(map(repr, TASKS))}; got {kind!r}")
    usual = TASKS[kind].defaults
    batch = usual[0] if batch is None else batch
    lr = usual[1] if lr is None else lr
    average = usual[2] if average is None else average
    validate_every = (1800.0 if background else 300.0) if validate_every is None else validate_every
    positive = {"batch": batch, "lr": lr, "minutes": minutes, "images": images, "warmup": warmup, "average": average}
    for what, number in {**positive, "validation_images": validation_images, "pictures": pictures}.items():
        if number is not None and not number > 0:
            raise ValueError(f"{what} must be positive; got {number}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1; got {seed}")
    if minutes is None and images is None and not background:
        minutes = 3.0
    if isinstance(size, str) and size not in SIZES:
        raise KeyError(f"no size named {size!r}; available: {', '.join(SIZES)}")
    rank, world, where = team.rank, team.size, _device(device)
    if batch % world:
        raise ValueError(f"batch must be a multiple of the number of processes, {world}; got {batch}")
    folder = place(f".runs/cifar10-{kind}" if out is None else out)
    name = folder.resolve().name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # now, and not after the first minute
            pass
    except OSError as error:
        raise DiffnumError(f"cannot write to {folder} ({error.strerror}); choose another out folder") from None

    with ExitStack() as stack:
        if team.first:
            stack.enter_context(alone(folder))
        stopping = Stopping(folder / f"{name}.stop", team)
        if background:
            stack.enter_context(stopping.listening())
        stack.enter_context(_plain_torch(where))
        checkpoint = folder / f"{name}.checkpoint.safetensors"
        stored = checkpoints.read(checkpoint) if checkpoint.is_file() else None
        if stored and not (resume or background):
            raise DiffnumError(
                f"{checkpoint} is of an earlier run; go on with it (resume=True, --resume) or choose another out"
            )
        if not stored and (folder / f"{name}.safetensors").exists():
            raise DiffnumError(f"{folder} holds the weights of an earlier run; choose another out folder")
        kinds: Any = TASKS[kind]
        start: Any = kinds.start(init) if init and not stored else None
        config = stored.settings.get("config") if stored and init else kinds.config(size, start)
        settings = {
            "kind": kind, "config": config, "batch": batch, "lr": lr, "warmup": warmup, "average": average,
            "seed": seed, "images": images, "init": start.sha256 if start else None,
        }  # fmt: skip
        about: dict[str, Any] = {"network": network, "drawn": drawn, "pictures": pictures} if kind == "guide" else {}
        if about:
            settings["network"] = kinds.knows(network)
        if stored and init:
            settings["init"] = stored.settings.get("init")
        if stored:
            _same(stored, settings)
        with torch.random.fork_rng(devices=[]):  # torch's initial weights know no generator of their own
            torch.manual_seed(seed)
            net = kinds.network(config, start).to(where)
        mean = copy.deepcopy(net).requires_grad_(False)
        other = start is None or (start.kind == "guide") != (kind == "guide")  # what a denoiser saw no guide did
        run = Run(net, mean, kinds.optimiser(net, lr), before=0 if other else start.card.get("images", 0))
        if stored:
            run.restore(stored)
        if about and progress:
            about["say"] = lambda text: print(text, flush=True)
        task = kinds(data, where, **about)
        if not stored:
            task.prepare(net)
            mean.load_state_dict(net.state_dict())
        job = Job(
            run, task, settings, folder / name, stopping, where, rank, world, minutes=minutes, background=background,
            amp=fast_bfloat16(where) if amp is None else amp,
            compile=where.type == "cuda" if compile is None else compile, save_every=save_every,
            validate_every=validate_every, validation_images=validation_images, progress=progress,
        )  # fmt: skip
        job.go()
    return folder / f"{name}.safetensors"


def fast_bfloat16(where: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: on GPUs and on CPUs that have instructions for it.

    AMX makes training three times faster, AVX-512 BF16 1.7 times. On other CPUs autocast is correct but three to
    twenty times slower.
    """
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if where.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # from PyTorch 2.12 on
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16"))
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(ask and ask()) for ask in asked)


@contextmanager
def _plain_torch(where: torch.device) -> Iterator[None]:
    """PyTorch as it is by default, whatever the caller has set: float32, gradients, no autocast, no default device."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    if device.type != "cpu":
        torch.set_default_device("cpu")
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(where.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":
            torch.set_default_device(device)


def _same(stored: checkpoints.Stored, settings: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run; the rate alone may change."""
    before, missing = stored.settings, object()
    changed = [k for k in sorted({*before, *settings}) if before.get(k, missing) != settings.get(k, missing)]
    if changed := [k for k in changed if k != "lr"]:
        were = ", ".join(f"{k}={before[k]}" if k in before else f"no {k}" for k in changed)
        raise DiffnumError(
            f"{stored.path} was written with other settings ({were}); resume with the same ones, or choose another "
            "output folder"
        )


def _device(device: str | None) -> torch.device:
    """The device of this process."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _, world, local = process_place()
    where = existing(f"cuda:{local}" if name == "cuda" and world > 1 else name) or torch.device("cpu")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    return where


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m diffnum.images.train``: every argument of :func:`train` as --name value; also ``pack FOLDER``."""
    import argparse
    import inspect

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="diffnum.images.train", description=(train.__doc__ or "").split("\n")[0])
    for name, parameter in inspect.signature(train).parameters.items():
        flag, default = "--" + name.replace("_", "-"), parameter.default
        if isinstance(default, bool) or name in ("compile", "amp"):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            numbers = {
                "minutes": float,
                "lr": float,
                "images": int,
                "batch": int,
                "average": int,
                "validate_every": float,
            }
            parser.add_argument(flag, type=numbers.get(name, type("" if default is None else default)), default=default)
    try:
        with told():
            if arguments[:1] == ["pack"]:
                print(datasets.pack(*arguments[1:2]))
            else:
                path = train(**vars(parser.parse_args(arguments)))
                if not quiet():
                    print(path)
    except (DiffnumError, ValueError, KeyError) as error:
        sys.exit(f"error: {error.args[0]}")


if __name__ == "__main__":
    main()
