r"""The training task ``guide``: log odds of classes, and of real images against those that our denoiser draws.

A batch has real images (two thirds), from where the denoiser took them at that noise, and pictures that the denoiser
drew by the samplers in :data:`SAMPLERS`; both are mirrored every other time and shifted by up to SHIFT pixels. The
network minimises the cross-entropy of eleven classes. In the loss the logit of 'drawn' is shifted by log(1/2), the
odds in the batch, so that the logits themselves are at equal odds. Noise levels are log-normal (0, 1.3) in the range
of the guide, stratified over either part of the batch.

Convolutions take orthogonal steps (Muon), all else Adam's (0.9, 0.98), the head at three times the rate.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from diffnum.denoisers import guide as guides
from diffnum.denoisers import network as nets
from diffnum.denoisers.guide import DRAWN, RANGE, GuideNet
from diffnum.denoisers.unet import Config
from diffnum.errors import DiffnumError
from diffnum.images import data as datasets
from diffnum.images import quality, shards
from diffnum.images.features import pixels
from diffnum.images.optimisers import Both, Muon, kernels_and_rest
from diffnum.images.tasks import Denoising, Pixels

SAMPLERS = (  # solver, steps, process, grid: of either kind, from 14 to 24 evaluations
    ("er_sde", 14, "ve", "karras"),
    ("f_pndm", 12, "vp", "log_snr"),
    ("ddim", 24, "vp", "log_snr"),
    ("er_sde", 24, "vp", "log_snr"),
    ("edm_heun", 10, "ve", "karras"),
    ("gddim", 15, "vp", "log_snr"),
)
SEED = 1600  # of the first sampler; no measurement of this book uses these
ASIDE = 100  # pictures of every sampler that are kept for the test
SHIFT = 2
LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def drawings(
    network: str, n: int, folder: str | os.PathLike[str], say: Callable[[str], object] = lambda text: None
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """n pictures (n, 32, 32, 3) uint8 drawn by a denoiser with all SAMPLERS, ASIDE more of each for the test, recipes.

    Those that ``folder`` lacks are drawn, 50 at a time, each file whole or not there: a killed run goes on.

    Raises:
        ValueError: n is less than one for each sampler. DiffnumError: the folder cannot be used.
    """
    each = n // len(SAMPLERS)
    if each < 1:
        raise ValueError(f"pictures={n} must be at least {len(SAMPLERS)}, one of every sampler")
    train, test, about = [], [], []
    for i, (solver, steps, process, grid) in enumerate(SAMPLERS):
        recipe = quality.recipe(solver, steps, process, grid, network=network, seed=SEED + i)
        if (missing := ASIDE + each - shards.drawn(recipe, folder)) > 0:
            say(f"drawing {missing:,} pictures by {solver}, {steps} steps on {process}, into {folder}")
        found, nfe, lost = quality.images(recipe, ASIDE + each, folder)
        if lost:
            raise DiffnumError(f"{lost} pictures of {solver} have NaN or infinity; the denoiser {network} is broken")
        test.append(found[:ASIDE])
        train.append(found[ASIDE:])
        about.append({"recipe": recipe, "images": len(found), "nfe": nfe,
                      "sha256": hashlib.sha256(found.tobytes()).hexdigest()})  # fmt: skip
    return np.concatenate(train), np.concatenate(test), about


def noise_levels(n: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Sigma (n,): log-normal (0, 1.3) in the range of the guide, stratified quantiles."""
    ends = torch.tensor(RANGE, dtype=torch.float64, device="cpu").log() / 1.3
    low, high = (float(v) for v in torch.special.ndtr(ends))
    u = (torch.arange(n, device=device) + torch.rand(n, device=device, generator=generator)) / n
    return torch.exp(1.3 * torch.special.ndtri(low + (high - low) * u)).clamp(*RANGE)


def shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) shifted by up to ``most`` pixels either way, mirrored at the edges."""
    n, size, device = len(x), x.shape[-1], x.device
    i, j = (torch.rand(2, n, 1, device=device, generator=generator) * (2 * most + 1)).long()
    i, j = (k + torch.arange(size, device=device) for k in (i, j))
    x = fn.pad(x, (most,) * 4, "reflect")
    return x[torch.arange(n, device=device)[:, None, None], :, i[:, :, None], j[:, None, :]].permute(0, 3, 1, 2)


class Guiding:
    """The task ``guide`` of :func:`diffnum.images.train.train`."""

    kind = "guide"
    defaults = 96, 1e-3, 20_000  # batch, peak rate, half-life of the average
    clip = 1.0  # of the gradient's norm

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        where: torch.device,
        network: str = "cifar10",
        drawn: str | os.PathLike[str] = ".runs/drawn",
        pictures: int = 12_000,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.denoiser = self.knows(network)
        self.card = {"denoiser": {"name": network, "sha256": self.denoiser}}
        self.pixels = Pixels.find(root, where)
        test = datasets.cifar10(root, "test", exact=True)
        self.test = pixels(test.images).to(where), torch.from_numpy(test.labels).to(where)
        train, aside, recipes = drawings(network, pictures, drawn, say)
        self.drawn, self.aside = pixels(train).to(where), pixels(aside).to(where)
        self.about = {**self.pixels.about, "drawn": recipes}

    @staticmethod
    def knows(network: str) -> str:
        """Checksum of the denoiser whose drawings it shall know."""
        return nets.read(network, ("edm",))[1]

    @staticmethod
    def start(init: str) -> Any:
        """The guide that ``init`` names, or the denoiser, whose encoder is then taken."""
        blob, sha256, card, source = nets.read(init, ("guide", "edm"))
        try:
            return guides.from_bytes(blob, source, sha256, card)
        except DiffnumError:
            return nets.from_bytes(blob, source, sha256, card)

    config = staticmethod(Denoising.config)

    @staticmethod
    def network(config: dict[str, Any], start: Any) -> GuideNet:
        """A new network, or one that has what ``start`` knows of it."""
        net = GuideNet(Config.from_dict(config))
        if start:
            own = net.state_dict()
            net.load_state_dict({k: v.float() for k, v in start._state.items() if k in own}, strict=False)
        return net

    def prepare(self, net: GuideNet) -> None:
        """What a new network takes from the data: nothing."""

    @staticmethod
    def optimiser(net: GuideNet, lr: float) -> Both:
        """Muon for the kernels but the stem's, Adam for the rest, the head at three times the rate."""
        kernels, rest = kernels_and_rest(net, "stem")
        head = list(net.head.parameters())
        rest = [p for p in rest if not any(p is other for other in head)]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": head, "scale": 3.0}]
        return Both(Muon(kernels, lr=lr), torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.98), fused=True))

    def loss(self, net: Any, n: int, generator: torch.Generator, *place: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy per row (n,) and the noise levels (n,)."""
        drawn, device = n // 3, self.drawn.device
        real = n - drawn
        s = torch.cat([noise_levels(part, device, generator) for part in (real, drawn)])
        x, y = self.pixels.labelled(real, s[:real], generator)
        u, flip = torch.rand(2, drawn, device=device, generator=generator)
        w = self.drawn[(u * len(self.drawn)).long()]
        w = torch.where((flip < 0.5)[:, None, None, None], w, w.flip(3)).float() / 127.5 - 1
        x0 = shifted(torch.cat([x, w]), SHIFT, generator)
        z, t = torch.randn(x0.shape, device=device, generator=generator), s[:, None, None, None]
        l = net((x0 + t * z) / (t * t + nets.SIGMA_DATA**2).sqrt(), s.log() / 4).float()
        odds = l.new_tensor([0.0] * DRAWN + [math.log(drawn / real)])
        return fn.cross_entropy(l + odds, torch.cat([y, y.new_full((drawn,), DRAWN)]), reduction="none"), s

    def blob(self, net: GuideNet) -> bytes:
        """The weight file, in half precision."""
        return guides.to_bytes(net, self.denoiser)

    def validate(self, blob: bytes, count: int | None) -> list[dict[str, float]]:
        """How well the file tells classes, and real from drawn, on the first ``count`` test images and pictures."""
        return validate(guides.from_bytes(blob), *(part[:count] for part in (*self.test, self.aside)))


@torch.no_grad()
def validate(guide: guides.Guide, images: Tensor, labels: Tensor, drawn: Tensor) -> list[dict[str, float]]:
    """By noise level: cross-entropy of the ten classes, accuracy, and the area under the curve real against drawn.

    uint8 images (N, 3, 32, 32) with labels (N,), and drawn pictures (M, 3, 32, 32); one fixed noise per level. ``odds``
    is the cross-entropy of real and drawn at equal odds; knowing nothing has log 2.
    """
    rows = []
    for index, level in enumerate(LEVELS):
        generator = torch.Generator().manual_seed(index)

        def logits(pictures: Tensor) -> Tensor:
            parts = []
            for part in pictures.split(256):
                x0 = part.float() / 127.5 - 1
                z = torch.randn(x0.shape, generator=generator, device="cpu").to(x0)  # noqa: B023 - called at once
                parts.append(guide.logits(x0 + level * z, level).double())  # noqa: B023
            return torch.cat(parts)

        real, other = logits(images), logits(drawn)
        r, d = (l[:, :DRAWN].logsumexp(1) - l[:, DRAWN] for l in (real, other))
        rows.append(
            {
                "sigma": level,
                "loss": float(fn.cross_entropy(real[:, :DRAWN], labels)),
                "accuracy": float((real[:, :DRAWN].argmax(1) == labels).double().mean()),
                "auc": float((r[:, None] > d).double().mean()),
                "odds": float((fn.softplus(-r).mean() + fn.softplus(d).mean()) / 2),
            }
        )
    return rows
