r"""The guide: a small network that knows which class a noisy image is, and whether it is real or drawn by a denoiser.

It is the encoder of the U-Net with a head of eleven logits l(x, sigma): 0 to 9 the classes of CIFAR-10 (in the order
of :data:`NAMES`) among real images, 10 'drawn' by the denoiser that the guide was trained
against, at equal prior odds. The best possible logits are log densities of the noisy images up to a common constant,
so that Bayes' and Tweedie's formulas give, with D the denoiser and y a class,

.. math::
    E_{real}[x_0 \mid x] = D + \sigma^2 \nabla_x \big(\operatorname{lse}(l_0, \dots, l_9) - l_{10}\big), \qquad
    E_{real}[x_0 \mid x, y] = D + \sigma^2 \nabla_x (l_y - l_{10})

(Dhariwal and Nichol 2021, arXiv:2105.05233; Kim et al. 2023, arXiv:2211.17091).
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from diffnum.denoisers import network as nets
from diffnum.denoisers.unet import Config, Encoder
from diffnum.errors import DiffnumError

#: The classes of CIFAR-10, in the order of their numbers.
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES, DRAWN = len(NAMES), len(NAMES)  # logits 0 to 9 are the classes, the last is 'drawn'
RANGE = (0.05, 40.0)  # noise levels that a guide is trained on
# Where its log odds of realism and of classes lower the squared error: above 10 realism raises it.
WINDOWS = ((0.2, 5.0), (0.1, 20.0))


class GuideNet(Encoder):
    """l(x, a): the raw network. x is scaled to unit variance, a = ln(sigma)/4 is the noise label of each row.

    The head sees the means over the pixels of two layers: the features of the last level but one, u, before they are
    halved, and the output of the middle, v.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        widths = config.channels[-2:]
        self.norms = nn.ModuleList(nn.GroupNorm(16, width) for width in widths)
        self.head = nn.Linear(sum(widths), CLASSES + 1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """x (B, 3, H, W) of unit variance, a (B,) or (1,) -> logits (B, 11)."""
        v, stack, _ = self.encode(x, a)
        u = stack[-2 - self.config.blocks]  # above it lie the halved features and the blocks of the last level
        return self.head(torch.cat([fn.silu(n(h)).mean((2, 3)) for n, h in zip(self.norms, (u, v), strict=True)], 1))


class Guide(nets.Weights):
    r"""Log odds of classes and of realism of a noisy image, ``logits(x, sigma)``; ``load()`` reads the shipped one.

    .. math:: l = l\Big(\frac{x}{\sqrt{\sigma^2 + s_d^2}}, \frac{\ln \sigma}{4}\Big), \qquad s_d = 0.5

    All operations are smooth. Float64 input runs in float64, all else in float32, whatever autocast says; the logits
    have the device and the dtype of x and can be differentiated by x (the weights cannot). Under
    :func:`torch.inference_mode` there are no gradients; a caller leaves it with ``torch.inference_mode(False)``, on a
    clone of x: the guide's own tensors are never made under it. A gradient of the log odds of realism is then::

        z = x.clone().requires_grad_()
        l = guide.logits(z, sigma)
        (g,) = torch.autograd.grad((l[:, :10].logsumexp(1) - l[:, 10]).sum(), z)

    Attributes:
        denoiser: SHA-256 of the weight file of the denoiser whose drawings the guide knows; another one's it does not.
        range: (lowest, highest) noise level of its training; outside of it the logits mean nothing.
        sha256: checksum of the guide's own weight file; card: its model card.
    """

    kind = "guide"
    classes, drawn = NAMES, True  # what the columns of its logits are, for diffnum.Guided
    windows = WINDOWS

    def __init__(
        self,
        net: GuideNet,
        denoiser: str = "",
        range: tuple[float, float] = RANGE,
        sha256: str = "",
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(net, sha256, card)
        self.denoiser, self.range = denoiser, range

    def logits(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """l(x, sigma): x (B, 3, 32, 32) in [-1, 1] plus noise, sigma a float, () or (B,), above 0 -> (B, 11) like x.

        Raises:
            ValueError: x or sigma has a wrong shape, or sigma is not above 0. TypeError: x is not floating point.
        """
        z = self._check(x)
        s = torch.as_tensor(sigma, dtype=torch.float64, device=z.device)
        if s.dim() > 1 or s.numel() not in (1, len(z)):
            raise ValueError(f"sigma must be a float, () or ({len(z)},); got shape {tuple(s.shape)}")
        if z.device.type == "cpu" and not bool((s > 0).all()):  # looking would make a GPU wait
            raise ValueError(f"sigma must be above 0 for the guide; got {float(s.min())}")
        s = s.reshape(-1, 1, 1, 1)
        # scalars are combined in float64 and rounded once, as in the denoiser
        l = self._F(z * (1 / (s * s + nets.SIGMA_DATA**2).sqrt()).to(z), (s.log() / 4).flatten().to(z))
        return l.to(x.dtype)


def load(
    name: str | os.PathLike[str] = "cifar10-guide",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Guide:
    """Read a shipped guide by name, or one written by ``diffnum train --kind guide`` by its path.

    ``device`` and ``dtype`` prepare a copy in advance, as for :func:`diffnum.load`.

    Raises:
        KeyError: no guide of that name; DiffnumError: the file is altered, truncated, or no guide.
    """
    blob, sha256, card, source = nets.read(name, ("guide",))
    guide = from_bytes(blob, source, sha256, card)
    return guide.to(device, dtype) if device is not None or dtype is not None else guide


def from_bytes(blob: bytes, source: str = "weights", sha256: str = "", card: dict[str, Any] | None = None) -> Guide:
    """Guide from the bytes of a safetensors file; ``source`` names it in errors.

    Raises:
        DiffnumError: the bytes are no guide, or a weight is missing, misshapen or not finite.
    """
    from safetensors import SafetensorError

    try:
        weights, texts = nets.parsed(blob)
        about = json.loads(texts.get("diffnum", "{}"))
        if not isinstance(about, dict) or about.get("kind") != "guide":
            raise ValueError("its metadata do not say that it is one")
        low, high = (float(level) for level in about["sigma"])
        if not (isinstance(about["denoiser_sha256"], str) and 0 < low < high):
            raise ValueError("its metadata name no denoiser or no range of noise levels")
        with torch.device("meta"):
            net = GuideNet(replace(Config.from_tensors(weights), heads=about["heads"]))
        net.load_state_dict(weights, assign=True)
        if broken := [k for k, v in weights.items() if not bool(v.isfinite().all())]:
            raise ValueError(f"NaN or infinity in {broken[0]}")
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise DiffnumError(f"{source} is not a guide ({reason}); get a fresh copy of the file") from None
    return Guide(net, about["denoiser_sha256"], (low, high), sha256, card)


def to_bytes(net: GuideNet, denoiser: str) -> bytes:
    """The safetensors file of a guide in half precision; ``denoiser`` is the checksum of the one that it knows."""
    from safetensors.torch import save

    about = {"kind": "guide", "denoiser_sha256": denoiser, "sigma": RANGE, "heads": net.config.heads}
    about |= {"classes": CLASSES, "drawn": DRAWN, "logits": CLASSES + 1}
    halves = {k: v.detach().half().cpu().contiguous() for k, v in net.state_dict().items()}
    return save(halves, {"diffnum": json.dumps(about, sort_keys=True)})
