r"""The feature network behind our sample-quality distances: a small classifier of CIFAR-10.

A distance between sets of images (:mod:`diffnum.images.metrics`) compares the distributions of *features*: here the
last hidden layer, 256 numbers, of a classifier trained on CIFAR-10 by ``diffnum train --kind features``. The distances
are ours, then, and comparable only with each other: they are not the FID, whose features come from another network
(Heusel et al. 2017, arXiv:1706.08500).

**Like with like.** The training images of the shipped network, and of its reference statistics, were JPEG copies.
A classifier sees whether an image went through JPEG, so every image that has exact pixels, a sample above all, goes
through the same compression (:func:`jpeg`) before its features are computed. Features and logits are means over an
image and its mirror image.
"""

from __future__ import annotations

import copy
import io
import os
from functools import cache
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from diffnum.denoisers import network as nets
from diffnum.devices import existing
from diffnum.errors import DiffnumError
from diffnum.images import data as datasets
from diffnum.images.optimisers import Both, Muon

QUALITY = 75  # of the JPEG copies; with it Pillow halves the resolution of the colours (4:2:0), as theirs is
WIDTHS = (24, 96, 288, 256)
SHIFT, HOLE = 4, 8  # training images are shifted by up to so many pixels, and lose a square of so many


def jpeg(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) uint8 after JPEG compression at quality 75 with halved colour resolution; like the input."""
    from PIL import Image

    out = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        out[i] = np.asarray(Image.open(file).convert("RGB"))
    return out


class Convolution(nn.Module):
    """3x3 convolution, optionally the maximum over 2x2 pixels, batch normalisation without gain, and GELU.

    The weights are a matrix, a filter a row.
    """

    def __init__(self, cin: int, cout: int, halve: bool = False) -> None:
        super().__init__()
        weight = nn.Conv2d(cin, cout, 3).weight.detach()
        nn.init.dirac_(weight[:cin])  # what comes in is passed on at first: training starts faster
        self.weight, self.norm, self.halve = nn.Parameter(weight.flatten(1)), nn.BatchNorm2d(cout, momentum=0.4), halve
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, cin, h, w) -> (B, cout, h, w), or half of h and w."""
        x = fn.conv2d(x, self.weight.unflatten(1, (-1, 3, 3)), padding=1)
        return fn.gelu(self.norm(fn.max_pool2d(x, 2) if self.halve else x))


class Classifier(nn.Module):
    """Three stages of convolutions behind a frozen one (after K. Jordan 2024, arXiv:2404.00498); 2.4 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 2).requires_grad_(False)
        stages = ((Convolution(a, b, halve=True), Convolution(b, b)) for a, b in pairwise(WIDTHS))
        self.stages = nn.Sequential(*chain.from_iterable(stages))
        self.head = nn.Linear(WIDTHS[-1], len(datasets.CLASSES), bias=False)

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Make the stem the principal directions, of either sign, of the 2x2 patches of images x (B, 3, H, W)."""
        patches = fn.unfold(2 * x, 2).mT.flatten(0, 1)
        values, vectors = torch.linalg.eigh(patches.T.cov())
        axes = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat([axes, -axes]))

    def features(self, x: Tensor) -> Tensor:
        """x (B, 3, 32, 32) in [-1, 1] -> (B, 256): the last stage, its maximum over the pixels."""
        x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        return self.stages(fn.gelu(self.stem(2 * x))).amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, 32, 32) in [-1, 1] -> logits (B, 10)."""
        return self.head(self.features(x)) / 9


class Features:
    """Feature map: images (N, 32, 32, 3) uint8 -> (N, 256) float64, ``load()`` reads the shipped one.

    Attributes:
        sha256: checksum of the weight file; card: its model card.
    """

    def __init__(self, net: Classifier, sha256: str = "", card: dict[str, Any] | None = None) -> None:
        self.net, self.sha256, self.card = net.eval().requires_grad_(False), sha256, card or {}

    def to(self, device: torch.device | str) -> Features:
        """The same map on another device; a copy, since what ``load`` returns is shared."""
        return Features(copy.deepcopy(self.net).to(existing(device)), self.sha256, self.card)

    def __call__(self, images: np.ndarray, exact: bool = True, batch: int = 500) -> Tensor:
        """Features (N, 256), float64 on the CPU, of uint8 images (N, 32, 32, 3).

        ``exact`` images go through :func:`jpeg` first; pass False for images that are JPEG copies already.

        Raises:
            ValueError: the images have another shape or type, or there are none.
        """
        return self._map(self.net.features, images, exact, batch)

    def logits(self, images: np.ndarray, exact: bool = True, batch: int = 500) -> Tensor:
        """Logits (N, 10) of the classes in :data:`diffnum.images.data.CLASSES`; arguments as for a call."""
        return self._map(self.net, images, exact, batch)

    @torch.inference_mode()
    def _map(self, function: Any, images: np.ndarray, exact: bool, batch: int) -> Tensor:
        array = isinstance(images, np.ndarray)
        if not array or images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images):
            got = f"{images.dtype} {images.shape}" if array else type(images).__name__
            raise ValueError(f"images must be a uint8 array (N, 32, 32, 3), N at least 1; got {got}")
        where, out = self.net.stem.weight.device, []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            x = pixels(jpeg(part) if exact else part).to(where).float() / 127.5 - 1
            out.append(((function(x) + function(x.flip(3))) / 2).double().cpu())
        return torch.cat(out)


def pixels(images: np.ndarray) -> Tensor:
    """uint8 (N, 32, 32, 3) -> uint8 (N, 3, 32, 32)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@cache
def load(name: str | os.PathLike[str] = "cifar10-features") -> Features:
    """The shipped feature map, or one written by ``diffnum train --kind features``, by its path.

    Raises:
        KeyError: no network of that name; DiffnumError: the file is altered, truncated, or no feature network.
    """
    blob, sha256, card, source = nets.read(name, ("features",))
    return from_bytes(blob, source, sha256, card)


def from_bytes(blob: bytes, source: str = "weights", sha256: str = "", card: dict[str, Any] | None = None) -> Features:
    """Feature map from the bytes of a safetensors file; ``source`` names it in errors."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in parse(blob).items()}
        with torch.device("meta"):  # and then in float32, whatever torch's default type is
            net = Classifier()
        net.load_state_dict(tensors, assign=True)
        if broken := [k for k, v in tensors.items() if not bool(v.isfinite().all())]:
            raise ValueError(f"NaN or infinity in {broken[0]}")
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffnumError(f"{source} is not a feature network ({reason}); get a fresh copy of the file") from None
    return Features(net, sha256, card)


class Classification:
    """The training task ``features`` of :func:`diffnum.images.train.train`: smoothed cross-entropy on JPEG copies.

    The recipe is that of K. Jordan 2024 (arXiv:2404.00498), with Muon for the convolutions; images are shifted by up to
    SHIFT pixels, lose a square of HOLE, and are mirrored every other time.
    """

    defaults = 1000, 0.2, 10_000  # batch, peak rate, half-life of the average
    clip = float("inf")  # of the gradient's norm
    card: ClassVar[dict[str, Any]] = {}  # what a model card says of this kind alone

    def __init__(self, root: str | os.PathLike[str] | None, where: torch.device) -> None:
        self.about: dict[str, Any] = {}
        for split in ("train", "test"):
            found = datasets.cifar10(root, split)
            self.about[split] = {"source": found.source, "images": len(found), "sha256": found.sha256}
            images = jpeg(found.images) if found.exact else found.images
            setattr(self, split, (pixels(images).to(where), torch.from_numpy(found.labels).to(where)))
        self.train: tuple[Tensor, Tensor]
        self.test: tuple[Tensor, Tensor]

    @staticmethod
    def start(init: Any) -> None:
        """Refused."""
        raise ValueError(f"init={init!r} is for denoisers and guides; a feature network starts anew, leave it out")

    @staticmethod
    def config(size: Any, start: Any) -> dict[str, Any]:
        """The size of the network, for the record."""
        if size != "small":
            raise ValueError(f"size={size!r} is for denoisers; a feature network has one size, leave it out")
        return {"widths": list(WIDTHS)}

    @staticmethod
    def network(config: dict[str, Any], start: Any) -> nn.Module:
        """A new network."""
        return Classifier()

    def prepare(self, net: Any) -> None:
        """A new network's first convolution follows from the images."""
        net.whiten(self.train[0][:5000].cpu().float() / 127.5 - 1)

    @staticmethod
    def optimiser(net: Any, lr: float) -> Both:
        """Muon for the convolutions, stochastic gradients for their offsets and the head; Nesterov's momentum 0.85."""
        head, moving = net.head.weight, [p for p in net.parameters() if p.requires_grad]
        convolutions = [p for p in moving if p.ndim == 2 and p is not head]
        groups = [  # rates relative to Muon's; decay is what the recipe has per step
            {"params": [p for p in moving if p.ndim == 1], "scale": 320.0, "weight_decay": 1.6e-5},
            {"params": [head], "scale": 5.0, "weight_decay": 1e-3},
        ]
        return Both(
            Muon(convolutions, lr=lr, momentum=0.85, ns_steps=3, normalise=True),
            torch.optim.SGD(groups, lr=lr, momentum=0.85, nesterov=True),
        )

    def rows(self, first: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Which images are numbers ``first`` to ``first`` + n of an endless row of shuffled copies of the set.

        And in which copy each of them lies, (n,) both.
        """
        count = len(self.train[0])
        epoch, at = divmod(first, count)
        epochs = range(epoch, epoch + (at + n - 1) // count + 1)
        order = [
            torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + e), device="cpu")
            for e in epochs
        ]
        return torch.cat(order)[at : at + n], (at + torch.arange(n, device="cpu")) // count + epoch

    def loss(self, net: Any, n: int, generator: torch.Generator, first: int, seed: int) -> tuple[Tensor, Tensor]:
        """Loss per row (n,), and ones: the log sorts losses by noise level, and there is no noise here."""
        images, labels = self.train
        device = images.device
        row, epoch = (k.to(device) for k in self.rows(first, n, seed))
        pixel, place = torch.arange(32, device=device), torch.rand(4, n, device=device, generator=generator)
        x = fn.pad(images[row].float() / 127.5 - 1, (SHIFT,) * 4, "reflect")
        i, j = ((shift * (2 * SHIFT + 1)).long()[:, None] + pixel for shift in place[:2])
        j = torch.where(((row + epoch) % 2 == 0)[:, None], j, j.flip(1))
        x = x[torch.arange(n, device=device)[:, None, None], :, i[:, :, None], j[:, None, :]].permute(0, 3, 1, 2)
        up, left = ((pixel - ((32 - HOLE) * corner).round()[:, None]) // HOLE == 0 for corner in place[2:])
        x = x.masked_fill((up[:, :, None] & left[:, None, :])[:, None], 0.0)
        logits = net(x).float()
        return fn.cross_entropy(logits, labels[row], reduction="none", label_smoothing=0.2), torch.ones(n, device="cpu")

    def blob(self, net: nn.Module) -> bytes:
        """The weight file, in half precision."""
        from safetensors.torch import save

        halves = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        return save({k: v.cpu().contiguous() for k, v in halves.items()}, {"diffnum": '{"kind": "features"}'})

    def validate(self, blob: bytes, count: int | None) -> list[dict[str, float]]:
        """Accuracy and cross-entropy of the file on the first ``count`` test images."""
        images, labels = (part[slice(None) if count is None else slice(None, 10 * count)] for part in self.test)
        found = from_bytes(blob).to(images.device).logits(images.permute(0, 2, 3, 1).cpu().numpy(), exact=False)
        loss = float(fn.cross_entropy(found, labels.cpu()))
        return [
            {"images": len(labels), "accuracy": float((found.argmax(1) == labels.cpu()).double().mean()), "loss": loss}
        ]
