r"""What the denoisers of this book learn: images, losses, and how well a network does.

``edm`` (Karras et al. 2022, arXiv:2206.00364, table 1 and section 5): with x = x0 + sigma n the U-Net F learns

.. math:: \min_F E\, \| F(c_{in} x, \tfrac14 \ln \sigma) - F^* \|^2, \qquad
          F^* = \frac{\sigma x_0 / s_d - s_d n}{\sqrt{\sigma^2 + s_d^2}},

which is their denoising loss with weight (sigma^2 + s_d^2)/(sigma s_d)^2. Noise levels: 80 % log-normal
(-1.2, 1.2), 20 % log-uniform on [0.001, 260], both stratified over the batch. Kernels take orthogonal steps (Muon), all
else Adam's.

``blurring``: the same per DCT frequency k, with the data's second moment v_k for s_d^2 and the level
sigma_k = tan(theta_t)/D_k(t) of the blurring process at a random time t (see
:class:`diffnum.denoisers.network.BlurringNetwork`). A frequency that the noise hides weighs v_k/(sigma_k^2 + v_k).

A task holds its data and knows network, optimiser, loss, file and test; :mod:`diffnum.images.train` runs it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffnum.dct import dct2, idct2
from diffnum.denoisers import network as nets
from diffnum.denoisers.network import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, BlurringNetwork, Config, Network, UNet
from diffnum.images import data as datasets
from diffnum.images.features import pixels
from diffnum.images.optimisers import Both, Muon, kernels_and_rest

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
    labels: tuple[Tensor, ...] = ()  # of the exact ones and of the copies

    @classmethod
    def find(cls, root: str | os.PathLike[str] | None, device: torch.device) -> Pixels:
        """All 50,000 exact images if they are at hand; else the exact subset, and the copies for high noise."""
        full = datasets.cifar10(root, "train")
        exact = full if full.exact else datasets.cifar10(root, "train", exact=True)
        about = {"exact": {"source": exact.source, "images": len(exact), "sha256": exact.sha256}}
        if full is not exact and len(full) > len(exact):
            about["copies"] = {"source": full.source, "images": len(full), "sha256": full.sha256}
        lossy = pixels(full.images).to(device) if "copies" in about else None
        labels = tuple(torch.from_numpy(part.labels).to(device) for part in (exact, full))
        return cls(pixels(exact.images).to(device), lossy, about, labels)

    def draw(self, n: int, level: Tensor, generator: torch.Generator) -> Tensor:
        """Random flipped images (n, 3, 32, 32) in [-1, 1]; row i suits the noise ``level[i]``."""
        return self.labelled(n, level, generator)[0]

    def labelled(self, n: int, level: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same, and their classes (n,)."""
        device = self.exact.device
        u, v, flip = torch.rand(3, n, device=device, generator=generator)
        row = (u * len(self.exact)).long()
        x, y = self.exact[row], self.labels[0][row]
        if self.copies is not None:
            # JPEG errors (0.06 rms) are learned as if they were image where the noise does not hide them
            share = ((COPIES_ONLY / level).log() / math.log(COPIES_ONLY / COPIES_FROM)).clamp(0, 1)
            row, exact = (u * len(self.copies)).long(), v < share
            x = torch.where(exact[:, None, None, None], x, self.copies[row])
            y = torch.where(exact, y, self.labels[1][row])
        x = torch.where((flip < 0.5)[:, None, None, None], x, x.flip(3))
        return x.float() / 127.5 - 1, y


def statistics(pixels: Pixels) -> dict[str, Tensor]:
    """Mean image and colour covariance per DCT frequency (most images), second moment per frequency (exact pixels)."""

    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        total, square = (
            torch.zeros(shape, dtype=torch.float64, device="cpu") for shape in ((3, 32, 32), (32, 32, 3, 3))
        )
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
    defaults = 64, 1e-2, 180_000  # batch, peak rate, half-life of the average
    clip = 1.0  # of the gradient's norm
    card: ClassVar[dict[str, Any]] = {}  # what a model card says of this kind alone

    def __init__(self, root: str | os.PathLike[str] | None, where: torch.device) -> None:
        self.pixels = Pixels.find(root, where)
        self.about = self.pixels.about
        self.test = pixels(datasets.cifar10(root, "test", exact=True).images).to(where)
        self.stats = statistics(self.pixels)
        self.spectrum = self.stats["spectrum"].to(where)

    start = staticmethod(nets.load)  # reads the network that ``init`` names

    @staticmethod
    def config(size: str | Config, start: Any) -> dict[str, Any]:
        """The size of the network, for the record: that of ``start`` if there is one."""
        found = start.config if start else SIZES[size] if isinstance(size, str) else size
        return json.loads(json.dumps(asdict(found)))

    @staticmethod
    def network(config: dict[str, Any], start: Any) -> torch.nn.Module:
        """A U-Net of that size, with the weights of ``start`` or new ones."""
        net = UNet(Config.from_dict(config))
        if start:
            net.load_state_dict({k: v.float() for k, v in start._state.items()})
        return net

    def prepare(self, net: torch.nn.Module) -> None:
        """What a new network takes from the data: nothing."""

    @staticmethod
    def optimiser(net: torch.nn.Module, lr: float) -> Both:
        """Muon for the kernels between the first and the last, Adam at a tenth of the rate for all else.

        Adam's decay rates are those of Karras et al. (2022), who take it for everything.
        """
        kernels, rest = kernels_and_rest(net, "stem", "out")
        groups: list[dict[str, Any]] = [{"params": rest, "scale": 0.1}]
        return Both(Muon(kernels, lr=lr), torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.99), fused=True))

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
            z = torch.randn(x0.shape, generator=generator, device="cpu").to(x0)
            if isinstance(denoiser, BlurringNetwork):
                sigma = nets.blurring_level(torch.tensor(level, dtype=torch.float64, device="cpu")) / nets.blur_damping(
                    level
                )
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
