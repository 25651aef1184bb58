r"""Training of the networks of this book: ``diffnum train``, or ``python -m diffnum.images.train``.

``edm`` (Karras et al. 2022, arXiv:2206.00364, table 1 and section 5): with x = x0 + sigma n the U-Net F learns

.. math:: \min_F E\, \| F(c_{in} x, \tfrac14 \ln \sigma) - F^* \|^2, \qquad
          F^* = \frac{\sigma x_0 / s_d - s_d n}{\sqrt{\sigma^2 + s_d^2}},

which is their denoising loss with weight (sigma^2 + s_d^2)/(sigma s_d)^2. Noise levels: 80 % log-normal
(-1.2, 1.2), 20 % log-uniform on [0.001, 260], both stratified over the batch.

``blurring``: the same per DCT frequency k, with the data's second moment v_k for s_d^2 and the level
sigma_k = tan(theta_t)/D_k(t) of the blurring process at a random time t (see
:class:`diffnum.denoisers.network.BlurringNetwork`). A frequency that the noise hides weighs v_k/(sigma_k^2 + v_k).

``features``: the classifier behind our sample-quality distances, see :mod:`diffnum.images.features`.

Every random number is a function of (seed, step, rank), so a resumed run draws what the uninterrupted one would.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diffnum.dct import dct2, idct2
from diffnum.denoisers import network as nets
from diffnum.denoisers.network import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, BlurringNetwork, Config, Network, UNet
from diffnum.devices import existing
from diffnum.errors import DiffnumError
from diffnum.files import write
from diffnum.images import data as datasets
from diffnum.images.features import Classification, pixels

LEVELS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 250)
TIMES = (1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
SIZES = {"small": Config(), "large": Config(blocks=2, middle=3), "tiny": Config((16, 32), (False, True), 1, 1, 32, 8)}
COPIES_FROM, COPIES_ONLY = 0.2, 0.8  # noise levels: below the first exact pixels only, above the second copies only


# ------------------------------------------------------------------------------------------------------- data


@dataclass
class Pixels:
    """uint8 images (N, 3, 32, 32) on the training device: exact ones, and lossy copies for high noise if needed."""

    exact: Tensor
    copies: Tensor | None
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, root: str | os.PathLike[str] | None, device: torch.device) -> Pixels:
        """All 50,000 exact images if they are at hand; else the exact subset, and the copies for high noise."""
        full = datasets.cifar10(root, "train")
        exact = full if full.exact else datasets.cifar10(root, "train", exact=True)
        about = {"exact": {"source": exact.source, "images": len(exact), "sha256": exact.sha256}}
        if full is not exact and len(full) > len(exact):
            about["copies"] = {"source": full.source, "images": len(full), "sha256": full.sha256}
        lossy = pixels(full.images).to(device) if "copies" in about else None
        return cls(pixels(exact.images).to(device), lossy, about)

    def draw(self, n: int, level: Tensor, generator: torch.Generator) -> Tensor:
        """Random flipped images (n, 3, 32, 32) in [-1, 1]; row i suits the noise ``level[i]``."""
        device = self.exact.device
        u, v, flip = torch.rand(3, n, device=device, generator=generator)
        x = self.exact[(u * len(self.exact)).long()]
        if self.copies is not None:
            # JPEG errors (0.06 rms) are learned as if they were image where the noise does not hide them
            share = ((COPIES_ONLY / level).log() / math.log(COPIES_ONLY / COPIES_FROM)).clamp(0, 1)
            copies = self.copies[(u * len(self.copies)).long()]
            x = torch.where((v < share)[:, None, None, None], x, copies)
        x = torch.where((flip < 0.5)[:, None, None, None], x, x.flip(3))
        return x.float() / 127.5 - 1


def statistics(pixels: Pixels) -> dict[str, Tensor]:
    """Mean image and colour covariance per DCT frequency (most images), second moment per frequency (exact pixels)."""

    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        total, square = torch.zeros(3, 32, 32, dtype=torch.float64), torch.zeros(32, 32, 3, 3, dtype=torch.float64)
        for part in images.split(5000):
            y = dct2(part.cpu().double() / 127.5 - 1)
            total, square = total + y.sum(0), square + torch.einsum("bcij,blij->ijcl", y, y)
        return total / len(images), square / len(images)

    mean, square = moments(pixels.exact if pixels.copies is None else pixels.copies)
    exact = square if pixels.copies is None else moments(pixels.exact)[1]
    return {
        "mean": idct2(mean),
        "cov": square - torch.einsum("cij,lij->ijcl", mean, mean),
        "spectrum": torch.diagonal(exact, dim1=-2, dim2=-1).mean(-1),
    }


# ------------------------------------------------------------------------------------------------------- losses


def noise_levels(n: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Sigma (n,): 80 % log-normal(-1.2, 1.2), 20 % log-uniform on [SIGMA_MIN, SIGMA_MAX]; stratified quantiles."""
    u = (torch.arange(n, device=device) + torch.rand(n, device=device, generator=generator)) / n
    normal = torch.exp(-1.2 + 1.2 * torch.special.ndtri((u / 0.8).clamp(1e-6, 1 - 1e-6)))
    uniform = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** ((u - 0.8) / 0.2).clamp(0, 1)
    return torch.where(u < 0.8, normal, uniform).clamp(SIGMA_MIN, SIGMA_MAX)


class Denoising:
    """The task ``edm``: the denoiser of white noise. A task holds its data and knows network, loss, file and test."""

    kind = "edm"
    defaults = 128, 7e-4, 180_000  # batch, peak rate, half-life of the average
    clip = 1.0  # of the gradient's norm

    def __init__(self, root: str | os.PathLike[str] | None, where: torch.device) -> None:
        self.pixels = Pixels.find(root, where)
        self.about = self.pixels.about
        self.test = pixels(datasets.cifar10(root, "test", exact=True).images).to(where)
        self.stats = statistics(self.pixels)
        self.spectrum = self.stats["spectrum"].to(where)

    def network(self, size: str | Config, start: Any) -> tuple[UNet, dict[str, Any]]:
        """A U-Net with the weights of ``start``, or new ones, and its configuration for the record."""
        config = start.config if start else SIZES[size] if isinstance(size, str) else size
        net = UNet(config)
        if start:
            net.load_state_dict({k: v.float() for k, v in start._state.items()})
        return net, json.loads(json.dumps(asdict(config)))

    def optimiser(self, net: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
        """Adam with the decay rates of Karras et al. (2022)."""
        return torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)

    def loss(self, net: Any, n: int, generator: torch.Generator, *place: int) -> tuple[Tensor, Tensor]:
        """Loss per row (n,) and the noise levels (n,)."""
        s = noise_levels(n, self.test.device, generator)
        x0 = self.pixels.draw(n, s, generator)
        z = torch.randn(x0.shape, device=x0.device, generator=generator)
        t = s[:, None, None, None]
        root = (t * t + SIGMA_DATA**2).sqrt()
        target = (t * x0 / SIGMA_DATA - SIGMA_DATA * z) / root
        return (net((x0 + t * z) / root, s.log() / 4).float() - target).square().mean((1, 2, 3)), s

    def blob(self, net: Any) -> bytes:
        """The weight file, in half precision."""
        return nets.to_bytes(net, {k: self.stats[k] for k in ("mean", "cov")}, {"kind": self.kind})

    def validate(self, blob: bytes, count: int | None) -> list[dict[str, float]]:
        """Error by noise level of the file, on the first ``count`` test images."""
        return validate(nets.from_bytes(blob), self.test[:count])


class BlurredDenoising(Denoising):
    """The task ``blurring``: the denoiser of the blurring process."""

    kind = "blurring"

    def loss(self, net: Any, n: int, generator: torch.Generator, *place: int) -> tuple[Tensor, Tensor]:
        """Loss per row (n,) and tan(theta) of their times (n,); times u^1.5 with u uniform on [0, 1], stratified."""
        device, spectrum = self.test.device, self.spectrum
        u = (torch.arange(n, device=device) + torch.rand(n, device=device, generator=generator)) / n
        t = u.double() ** 1.5
        level = nets.blurring_level(t)
        y0 = dct2(self.pixels.draw(n, level.float(), generator))
        z = torch.randn(y0.shape, device=device, generator=generator)
        sigma = level[:, None, None] / nets.blur_damping(t)
        c_in, label, _, _, _, _ = (c.float() for c in nets.blurring_coefficients(sigma, level, spectrum))
        s, v = sigma[:, None].float(), spectrum.float()
        target = (s * y0 / v.sqrt() - v.sqrt() * z) / (s * s + v).sqrt()
        f = dct2(net(idct2(c_in * (y0 + s * z)), label).float())
        weight = 0.01 + 0.99 * v / (s * s + v)  # a little everywhere, so that no frequency of F drifts off
        weight = weight / weight.mean((2, 3), keepdim=True).sqrt()
        return (weight * (f - target).square()).mean((1, 2, 3)), level.float()

    def blob(self, net: Any) -> bytes:
        """The weight file, in half precision."""
        extra = {"kind": self.kind, "blurring": {"blur_max": 10.0, "d_min": 1e-3}}
        return nets.to_bytes(net, {"spectrum": self.stats["spectrum"]}, extra)


TASKS: dict[str, Any] = {"edm": Denoising, "blurring": BlurredDenoising, "features": Classification}


@torch.no_grad()
def validate(
    denoiser: Network | BlurringNetwork,
    images: Tensor,
    levels: Sequence[float] | None = None,
    seed: int = 0,
    batch: int = 256,
) -> list[dict[str, float]]:
    """Mean squared error on ``images`` (uint8, (N, 3, 32, 32)) by noise level, one fixed noise per level and seed.

    ``edm``: ``weighted`` is mse (s^2 + s_d^2)/(s s_d)^2, the loss of F. ``blurring``: by time, ``eps_mse`` is the
    error of the noise prediction and ``mse`` that of the image.
    """
    rows = []
    for index, level in enumerate(levels or (TIMES if isinstance(denoiser, BlurringNetwork) else LEVELS)):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        total, total_eps = 0.0, 0.0
        for part in images.split(batch):
            x0 = part.float() / 127.5 - 1
            z = torch.randn(x0.shape, generator=generator).to(x0)
            if isinstance(denoiser, BlurringNetwork):
                sigma = nets.blurring_level(torch.tensor(level, dtype=torch.float64)) / nets.blur_damping(level)
                y0, s = dct2(x0), sigma.to(x0)
                e = denoiser.posterior_eps(y0 + s * z, sigma)
                total += float((s * (e - z)).square().double().sum())
            else:
                e = denoiser.eps(x0 + level * z, level)
                total += level**2 * float((e - z).square().double().sum())
            total_eps += float((e - z).square().double().sum())
        mse, eps_mse = total / images.numel(), total_eps / images.numel()
        if isinstance(denoiser, BlurringNetwork):
            rows.append({"t": level, "mse": mse, "eps_mse": eps_mse})
        else:
            weighted = mse * (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
            rows.append({"sigma": level, "mse": mse, "weighted": weighted})
    return rows


# ------------------------------------------------------------------------------------------------------ the run


@dataclass
class Run:
    """What changes while training; a checkpoint is this and nothing else."""

    net: torch.nn.Module
    average: torch.nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Write the checkpoint (safetensors) atomically."""
        from safetensors.torch import save

        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, p in self.net.named_parameters():
            for key, value in self.optimiser.state.get(p, {}).items():
                tensors[f"optimiser.{key}.{name}"] = torch.as_tensor(value)
        numbers = {"step": self.step, "images": self.images, "seconds": self.seconds, "log": self.log}
        text = {"numbers": json.dumps(numbers), "settings": json.dumps(settings)}
        blob = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, text)
        write(path, lambda file: file.write(blob))

    def restore(self, path: Path, settings: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same settings."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as f:
                text = f.metadata()
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
            numbers, before = json.loads(text["numbers"]), json.loads(text["settings"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DiffnumError(f"cannot resume from {path} ({error}); delete it to start anew") from None
        if changed := [k for k in before if before[k] != settings.get(k) and k != "lr"]:
            raise DiffnumError(
                f"{path} was written with other settings ({', '.join(f'{k}={before[k]}' for k in changed)}); "
                "resume with the same ones, or choose another output folder"
            )
        for prefix, module in (("net.", self.net), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        parameters = dict(self.net.named_parameters())
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part == "optimiser":
                key, _, owner = rest.partition(".")
                p = parameters[owner]
                # Adam counts its steps on the CPU, unless it is a GPU's
                self.optimiser.state[p][key] = value if key == "step" and not p.is_cuda else value.to(p.device)
        self.step, self.images, self.seconds = numbers["step"], numbers["images"], numbers["seconds"]
        self.log = numbers["log"]


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
    amp: bool = True,
    save_every: float = 60.0,
    validate_every: float = 300.0,
    validation_images: int = 128,
    progress: bool = True,
) -> Path:
    """Train a denoiser on CIFAR-10 and return the path of its weights, NAME.safetensors, NAME being the folder's name.

    Beside it lie NAME.json (model card with checksum and validation loss), NAME.log.json (loss by noise level while
    training) and NAME.checkpoint.safetensors (for ``resume``).

    Parameters
    ----------
    data: folder or file, see :func:`diffnum.images.data.cifar10`; out: output folder, default ``.runs/cifar10-KIND``;
    kind: ``"edm"``, ``"blurring"`` (the denoisers) or ``"features"`` (:mod:`diffnum.images.features`).
    minutes, images: the budget, whichever ends first (default 3 minutes); the rate follows a cosine over it to 0.
    size: ``"small"`` (5.0 M parameters), ``"large"`` (7.7 M), ``"tiny"``, or a :class:`Config`; init: name or path of a
    network to start from (its size is then used).
    batch: images per step over all processes; lr: peak learning rate; warmup: steps of linear warm-up; average:
    half-life, in images, of the moving average of the weights, which is what is saved. The kind sets their defaults.
    device: default a GPU if there is one; compile: default on GPUs; amp: bfloat16 autocast.
    save_every, validate_every: seconds between checkpoints, and between validations on ``validation_images`` exact
    test images; the last validation uses all of them.
    """
    if kind not in TASKS:
        raise ValueError(f"kind must be {', '.join(map(repr, TASKS))}; got {kind!r}")
    usual = TASKS[kind].defaults
    batch = usual[0] if batch is None else batch
    lr = usual[1] if lr is None else lr
    average = usual[2] if average is None else average
    positive = {"batch": batch, "lr": lr, "minutes": minutes, "images": images, "warmup": warmup, "average": average}
    for what, number in {**positive, "validation_images": validation_images}.items():
        if number is not None and not number > 0:
            raise ValueError(f"{what} must be positive; got {number}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1; got {seed}")
    if minutes is None and images is None:
        minutes = 3.0
    if isinstance(size, str) and size not in SIZES:
        raise KeyError(f"no size named {size!r}; available: {', '.join(SIZES)}")
    rank, world, where = _processes(device)
    if batch % world:
        raise ValueError(f"batch must be a multiple of the number of processes, {world}; got {batch}")
    folder = Path(f".runs/cifar10-{kind}" if out is None else out)
    name = folder.resolve().name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # now, and not after the first minute
            pass
    except OSError as error:
        raise DiffnumError(f"cannot write to {folder} ({error.strerror}); choose another out folder") from None

    start: Any = nets.load(init) if init else None
    task = TASKS[kind](data, where)
    with torch.random.fork_rng(devices=[]):  # torch's initial weights know no generator of their own
        torch.manual_seed(seed)
        net, config = task.network(size, start)
    net = net.to(where)
    mean = copy.deepcopy(net).requires_grad_(False)
    run = Run(net, mean, task.optimiser(net, lr))
    settings = {
        "kind": kind, "config": config, "batch": batch, "lr": lr, "warmup": warmup, "average": average, "seed": seed,
        "images": images, "init": start.sha256 if start else None,
    }  # fmt: skip
    checkpoint = folder / f"{name}.checkpoint.safetensors"
    if checkpoint.is_file():
        if not resume:
            raise DiffnumError(
                f"{checkpoint} is of an earlier run; go on with it (resume=True, --resume) or choose another out"
            )
        run.restore(checkpoint, settings)
    raw: Any = torch.compile(net) if (where.type == "cuda" if compile is None else compile) else net

    def forward(*inputs: Tensor) -> Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=amp):  # the network alone: a DCT needs its digits
            return raw(*inputs)

    def finish(rows: list[dict[str, float]], blob: bytes) -> None:
        write(folder / f"{name}.log.json", lambda file: file.write(json.dumps(run.log).encode()))
        card = {
            "name": name, "kind": kind, "sha256": hashlib.sha256(blob).hexdigest(),
            "params": sum(v.numel() for v in net.state_dict().values()),
            "images": run.images + (start.card.get("images", 0) if start else 0), "images_this_run": run.images,
            "minutes": run.seconds / 60, "settings": {**settings, "minutes": minutes}, "data": task.about,
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {os.cpu_count()} cores",
            "processes": world, "torch": torch.__version__, "version": code_version(), "validation": rows,
        }  # fmt: skip
        write(folder / f"{name}.safetensors", lambda file: file.write(blob))
        write(folder / f"{name}.json", lambda file: file.write(json.dumps(card, indent=1).encode()))

    def record(rate: float, bins: dict[int, list[float]]) -> dict[str, Any]:
        """An entry of the log: where the run is, and the mean loss at every noise level since the last one."""
        loss = {str(2.0**b): s / c for b, (s, c) in sorted(bins.items())}
        return {"images": run.images, "seconds": run.seconds, "rate": rate, "loss": loss}

    def diverged() -> DiffnumError:
        return DiffnumError(
            f"not finite at step {run.step}; the checkpoint, if there is one, is of before: resume with a lower lr "
            f"(now {lr:g})"
        )

    def check(count: int | None) -> tuple[list[dict[str, float]], bytes]:
        """Validate what would be shipped, half precision included."""
        blob = task.blob(mean)
        return task.validate(blob, count), blob

    end = (minutes or math.inf) * 60
    total = images or math.inf
    saved = checked = time.monotonic()
    # rank 0 decides when the time is up, so that all processes do the same number of steps
    with _Bar(progress and rank == 0, run, min(1.0, max(run.seconds / end, run.images / total))) as show:
        bins: dict[int, list[float]] = {}
        while (done := max(run.seconds / end, run.images / total)) < 1:
            tick = time.monotonic()
            rate = lr * min(1.0, (run.step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * done))
            for group in run.optimiser.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            generator = torch.Generator(where).manual_seed((seed * 1_000_003 + run.step) * 1024 + rank)
            n = batch // world
            losses, levels = task.loss(forward, n, generator, run.images + rank * n, seed)
            run.optimiser.zero_grad(set_to_none=True)
            losses.mean().backward()
            if world > 1:
                _average_gradients(net, world)
            torch.nn.utils.clip_grad_norm_(net.parameters(), task.clip)
            run.optimiser.step()
            run.step, run.images = run.step + 1, run.images + batch
            # a short run must not average over its start: at most a tenth of what has been seen
            decay = 0.5 ** (batch / min(average, 0.1 * run.images + batch))
            with torch.no_grad():
                torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)
                for kept, new in zip(mean.buffers(), net.buffers(), strict=True):
                    kept.copy_(new)
            if run.step % 20 == 0 or where.type == "cpu":
                for bin_, loss in zip((levels.log2().floor()).int().tolist(), losses.tolist(), strict=True):
                    entry = bins.setdefault(bin_, [0.0, 0.0])
                    entry[0], entry[1] = entry[0] + loss, entry[1] + 1
                if not math.isfinite(sum(e[0] for e in bins.values())):
                    raise diverged()
            run.seconds = _agree(run.seconds + time.monotonic() - tick, world, where)
            if rank == 0:
                show(done, losses, run)
                now = time.monotonic()
                due = now - checked > validate_every
                if due or now - saved > save_every:
                    if not all(bool(p.isfinite().all()) for p in net.parameters()):
                        raise diverged()
                    entry_ = record(rate, bins)
                    bins = {}
                    if due:
                        rows, blob = check(validation_images)
                        entry_["validation"] = rows
                    run.log.append(entry_)
                    run.save(checkpoint, settings)
                    if due:
                        finish(rows, blob)
                        checked = time.monotonic()
                    saved = time.monotonic()
    if rank == 0:
        if bins or not run.log:  # a run that was killed after its last step has nothing to add
            run.log.append(record(0.0, bins))
        run.save(checkpoint, settings)
        rows, blob = check(None)
        run.log[-1]["validation"] = rows
        finish(rows, blob)
    if world > 1:
        dist.destroy_process_group()
    return folder / f"{name}.safetensors"


def _processes(device: str | None) -> tuple[int, int, torch.device]:
    """(rank, number of processes, device), from the environment that torchrun sets."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local = os.environ.get("LOCAL_RANK")
    where = existing(f"cuda:{local}" if name == "cuda" and local else name) or torch.device("cpu")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if world > 1:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return rank, world, where


def _average_gradients(net: torch.nn.Module, world: int) -> None:
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / world).split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def _agree(seconds: float, world: int, where: torch.device) -> float:
    if world == 1:
        return seconds
    value = torch.tensor([seconds], dtype=torch.float64, device=where)
    dist.broadcast(value, 0)
    return float(value)


class _Bar:
    """Progress with loss and images per second, on a terminal; a plain line a minute elsewhere."""

    def __init__(self, on: bool, run: Run, done: float) -> None:
        self.on, self.start, self.images, self.told, self.done = on, time.monotonic(), run.images, 0.0, done

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar: Any = None
        if self.on and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.bar.start()
            self.task = self.bar.add_task("training", total=1.0, completed=self.done)

        def show(done: float, losses: Tensor, run: Run) -> None:
            now = time.monotonic()
            if not self.on or now - self.told < (1 if self.bar else 60):
                return
            self.told = now
            speed = (run.images - self.images) / (now - self.start)
            text = f"{run.images:,} images, {speed:,.0f}/s, loss {float(losses.detach().mean()):.4f}"
            if self.bar:
                self.bar.update(self.task, completed=done, description=text)
            else:
                print(f"{100 * done:5.1f} %  {text}", flush=True)

        return show

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()


def code_version() -> str:
    """`git describe` of the checkout this file is in, else the installed version."""
    try:
        here = Path(__file__).parent
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--tags"], cwd=here, capture_output=True, text=True, timeout=10
        )
        if found.returncode == 0:
            return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return metadata.version("diffnum")
    except metadata.PackageNotFoundError:
        return "unknown"


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m diffnum.images.train``: every argument of :func:`train` as --name value; also ``pack FOLDER``."""
    import argparse
    import inspect
    import sys

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["pack"]:
        try:
            print(datasets.pack(*arguments[1:2]))
        except DiffnumError as error:
            sys.exit(f"error: {error}")
        return
    parser = argparse.ArgumentParser(prog="diffnum.images.train", description=(train.__doc__ or "").split("\n")[0])
    for name, parameter in inspect.signature(train).parameters.items():
        flag, default = "--" + name.replace("_", "-"), parameter.default
        if isinstance(default, bool) or name == "compile":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            form = {"minutes": float, "lr": float, "images": int, "batch": int, "average": int}.get(
                name, type(default) if default is not None else str
            )
            parser.add_argument(flag, type=form, default=default)
    try:
        print(train(**vars(parser.parse_args(arguments))))
    except (DiffnumError, ValueError, KeyError) as error:
        sys.exit(f"error: {error.args[0]}")


if __name__ == "__main__":
    main()
