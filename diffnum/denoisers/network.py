r"""The networks of the book: a small U-Net, preconditioned as in Karras et al. (2022, arXiv:2206.00364, table 1).

===================  ==================================================================================================
kind                 what it estimates
===================  ==================================================================================================
``edm``              :class:`Network`: :math:`D(x, \sigma) = E[x_0 \mid x_0 + \sigma n = x]` for white noise. Serves VP,
                     VE, CLD and PSLD.
``blurring``         :class:`BlurringNetwork`: the same mean when every DCT frequency has its own noise level
                     :math:`\sigma_t/\alpha_{t,k}`, conditioned on the time of the blurring process.
===================  ==================================================================================================

Images are (batch, 3, 32, 32) in [-1, 1]. Weights are stored in half precision and widened to the precision of the
input, so that a float64 run is an exact float64 run of one fixed smooth function and shows convergence orders.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments, files
from diffnum.ambient import Frozen, unrounded
from diffnum.dct import dct2, decay, idct2
from diffnum.denoisers.copies import Weights
from diffnum.denoisers.exact import level
from diffnum.denoisers.unet import Config, UNet
from diffnum.errors import DiffnumError

KINDS = ("edm", "blurring")  # of denoisers
LARGEST_FILE = 4 * 10**9  # bytes
SIGMA_DATA = 0.5
SIGMA_MIN, SIGMA_MAX = 1e-3, 260.0  # the noise levels the networks are trained on


# ----------------------------------------------------------------------------------- coefficients and statistics


def smootherstep(v: Tensor) -> Tensor:
    """6 v^5 - 15 v^4 + 10 v^3 on [0, 1], 0 below and 1 above: two continuous derivatives (Perlin, 2002)."""
    v = v.clamp(0, 1)
    return v**3 * (v * (6 * v - 15) + 10)


class Wiener(Frozen):
    r"""The best linear denoiser of data with mean m and, per DCT frequency k, colour covariance :math:`C_k` (3, 3).

    .. math:: D(x, \sigma) = m + C (C + \sigma^2)^{-1} (x - m), \qquad
              \epsilon(x, \sigma) = \sigma (C + \sigma^2)^{-1} (x - m)

    (N. Wiener, 1949.) It is the exact denoiser of Gaussian data, and of any data in the limit of large noise.
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        """Mean (3, H, W); cov (H, W, 3, 3), the covariance of the colours at each DCT frequency.

        Raises TypeError (not numbers) or ValueError (NaN, or shapes that do not belong together).
        """
        mean, cov = arguments.array("mean", mean), arguments.array("cov", cov)
        if mean.ndim != 3 or cov.shape != (*mean.shape[1:], len(mean), len(mean)):
            got = f"{tuple(mean.shape)} and {tuple(cov.shape)}"
            raise ValueError(f"mean and cov have shapes {got}: give (C, H, W) and (H, W, C, C)")
        values, vectors = torch.linalg.eigh(cov)
        self.parts = (mean, values.clamp_min(0).permute(2, 0, 1).contiguous(), vectors)
        self.cache: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def eps(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x (B, 3, H, W), sigma (B, 1, 1, 1) or a number -> noise prediction like x."""
        key = (x.device, x.dtype)
        if key not in self.cache:
            with torch.inference_mode(False):  # a cached inference tensor would break autograd later
                mean, values, vectors = (p.to(x.device, x.dtype) for p in self.parts)
            self.cache[key] = (mean, values, vectors)
        mean, values, vectors = self.cache[key]
        z = torch.einsum("ijcl,bcij->blij", vectors, dct2(x - mean))
        # divided by sigma first: sigma^2 would overflow float32 long before sigma does
        z = z / sigma / (values / sigma**2 + 1)
        return idct2(torch.einsum("ijcl,blij->bcij", vectors, z))


# --------------------------------------------------------------------------------------------------- denoisers


class Network(Weights):
    r"""Denoiser D(x, sigma) = E[x0 | x0 + sigma n = x] for white noise (Karras et al. 2022, arXiv:2206.00364, table 1).

    .. math:: D = \frac{s_d^2}{\sigma^2 + s_d^2} x + \frac{\sigma s_d}{\sqrt{\sigma^2 + s_d^2}} F, \qquad
              F = F\Big(\frac{x}{\sqrt{\sigma^2 + s_d^2}}, \frac{\ln \sigma}{4}\Big), \qquad s_d = 0.5

    Call: x (B, 3, 32, 32) in [-1, 1] plus noise; sigma a float, a 0-d tensor or (B,); returns x0 like x.

    Above ``SIGMA_MAX`` = 260, where it has not been trained, the network gives way to the best linear denoiser of the
    data (:class:`Wiener`), with weight smootherstep(log2(sigma/260)), entirely so from 520 on. Below ``SIGMA_MIN`` =
    0.001 the noise label stays at ln(0.001)/4, so that eps stays bounded and D(x, sigma) -> x as sigma -> 0.
    """

    kind = "edm"

    def __init__(
        self, net: UNet, wiener: Wiener | None = None, sha256: str = "", card: dict[str, Any] | None = None
    ) -> None:
        super().__init__(net, sha256, card)
        if wiener is None:
            zero = torch.zeros(self.shape, dtype=torch.float64, device="cpu")
            wiener = Wiener(zero, SIGMA_DATA**2 * torch.eye(3, dtype=zero.dtype, device="cpu").expand(32, 32, 3, 3))
        self.wiener = wiener

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x]: x (B, 3, 32, 32), sigma float, () or (B,) -> (B, 3, 32, 32)."""
        return self._predict(x, sigma, want_eps=False)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        r"""Noise prediction (x - D)/sigma from F, without the subtraction that loses digits at small sigma.

        .. math:: \epsilon = \frac{\sigma}{\sigma^2 + s_d^2} x - \frac{s_d}{\sqrt{\sigma^2 + s_d^2}} F
        """
        return self._predict(x, sigma, want_eps=True)

    @unrounded
    def _predict(self, x: Tensor, sigma: float | Tensor, want_eps: bool) -> Tensor:
        z = self._check(x)
        s, low, high = self._levels(z, sigma)

        def ready(c: Tensor) -> Any:
            """One level for all rows is a number, which a GPU is given with the call; several are a tensor there."""
            return c.item() if one else c.to(z)

        # scalars are combined in float64 and rounded once: a float32 run then differs from float64 by the network only
        one = s.device.type == "cpu" and s.numel() == 1 and not s.requires_grad
        root, label = (s * s + SIGMA_DATA**2).sqrt(), s.clamp_min(SIGMA_MIN).log() / 4
        w = ready(smootherstep((s / SIGMA_MAX).clamp(1, 2).log2()))
        out: Tensor | None = None
        if low:
            f = self._F(z * ready(1 / root), z.new_full((1,), ready(label)) if one else label.flatten().to(z))
            if want_eps:
                out = ready(s / root / root) * z - ready(SIGMA_DATA / root) * f
            else:
                out = ready(SIGMA_DATA**2 / root / root) * z + ready(s / root * SIGMA_DATA) * f
        if high:
            e = self.wiener.eps(z, ready(s.clamp_min(SIGMA_MIN)))  # a row at 0 has weight 0 here
            far = e if want_eps else z - ready(s) * e
            out = far if out is None else out + w * (far - out)
        assert out is not None
        return out.to(x.dtype)

    def _levels(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, bool, bool]:
        """Sigma as float64 (1 or B, 1, 1, 1), and whether the network and the linear denoiser are needed."""
        if isinstance(sigma, Tensor) and sigma.device.type == "cpu" and sigma.dim() == 0 and not sigma.requires_grad:
            sigma = sigma.item()
        value = level(sigma, x, zero=True)
        if isinstance(value, float):
            s = torch.full((1, 1, 1, 1), value, dtype=torch.float64, device="cpu")
            return s, value < 2 * SIGMA_MAX, value > SIGMA_MAX
        s = value.reshape(-1, 1, 1, 1)
        if s.device.type == "cpu":
            return s, bool((s < 2 * SIGMA_MAX).any()), bool((s > SIGMA_MAX).any())
        return s, True, True  # looking would make the GPU wait; the linear denoiser costs little


class BlurringNetwork(Weights):
    r"""Denoiser for the blurring process, y = y0 + diag(sigma_k) n in the DCT basis, with one level per frequency.

    The levels are those of the process at some time t (Hoogeboom and Salimans 2022, arXiv:2209.05557; constants of
    Zhang et al. 2022, arXiv:2206.05564): :math:`\sigma_k = \tan\theta_t / D_k(t)`, :math:`\theta_t = \frac{\pi}{2}
    \frac{t + 0.004}{1.008}`, :math:`D_k(t) = d + (1 - d) e^{-\Lambda_k \tau_t}`. The preconditioning is the one of
    :class:`Network` in every frequency, with the data's second moment :math:`v_k` there in place of :math:`s_d^2`:

    .. math:: \hat y_0 = \frac{v_k}{\sigma_k^2 + v_k} y + \frac{\sigma_k \sqrt{v_k}}{\sqrt{\sigma_k^2 + v_k}} F_k,
              \qquad \epsilon = \frac{\sigma_k}{\sigma_k^2 + v_k} y - \frac{\sqrt{v_k}}{\sqrt{\sigma_k^2 + v_k}} F_k

    with F = DCT of the U-Net applied to the pixels of :math:`D_k y / \sqrt{\tan^2\theta + s_d^2}` and the noise label
    :math:`\ln(\tan\theta)/4`. Blurred frequencies (:math:`\sigma_k \to \infty`) then give eps = y/sigma_k and a
    bounded :math:`\hat y_0`, whatever the network says.
    """

    kind = "blurring"

    def __init__(
        self,
        net: UNet,
        spectrum: Tensor,
        blur_max: float = 10.0,
        d_min: float = 1e-3,
        sha256: str = "",
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(net, sha256, card)
        self.spectrum = arguments.array("spectrum", spectrum)
        if self.spectrum.shape != self.shape[1:] or bool((self.spectrum <= 0).any()):
            got = tuple(self.spectrum.shape)
            raise ValueError(f"spectrum must be positive numbers of shape {self.shape[1:]}; got shape {got}")
        self.blur_max = arguments.number("blur_max", blur_max, 0.0)
        self.d_min = arguments.number("d_min", d_min, above=0, high=1.0)
        self._cache: dict[Any, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Not defined: this network knows the blurring process only."""
        raise DiffnumError(
            "this network is trained for the blurring process and has no D(x, sigma) for white noise; "
            "use it with diffnum.Blurring, or load('cifar10') for the other processes"
        )

    def posterior(self, y: Tensor, sigma: Tensor) -> Tensor:
        """E[y0 | y]: y (B, 3, H, W) DCT coefficients y0 + sigma n, sigma (H, W) or (B, H, W) of the process; like y."""
        return self._predict(y, sigma, want_eps=False)

    def posterior_eps(self, y: Tensor, sigma: Tensor) -> Tensor:
        """(y - E[y0 | y])/sigma without cancellation; arguments as for :meth:`posterior`."""
        return self._predict(y, sigma, want_eps=True)

    @unrounded
    def _predict(self, y: Tensor, sigma: Tensor, want_eps: bool) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.requires_grad and torch.is_grad_enabled():
            raise DiffnumError("a blurring network has no gradient with respect to its levels; give sigma.detach()")
        z, sigma = self._check(y), arguments.array("sigma", sigma)
        if sigma.shape not in (self.shape[1:], (len(z), *self.shape[1:])):
            raise ValueError(
                f"sigma must have shape {self.shape[1:]}, one level per frequency; got {tuple(sigma.shape)}"
            )
        c_in, label, eps_y, eps_f, x0_y, x0_f = self._coefficients(sigma.reshape(-1, *self.shape[1:]), z)
        f = dct2(self._F(idct2(c_in * z), label))
        out = eps_y * z - eps_f * f if want_eps else x0_y * z + x0_f * f
        return out.to(y.dtype)

    def _coefficients(self, sigma: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """:func:`blurring_coefficients` of levels (1 or B, H, W) on the path of the process, where z stands, kept."""
        key = (*sigma[:, 0, 0].tolist(), *sigma[:, -1, -1].tolist(), z.device, z.dtype)
        known, found = self._cache.get(key, (None, ()))
        if known is None or not torch.equal(known, sigma):
            if len(self._cache) >= 1024:  # a grid has tens of times; keep the cache bounded for adaptive integrators
                self._cache.clear()
            level = sigma[:, 0, 0]
            expected = level[:, None, None] / blur_damping(blurring_time(level), self.blur_max, self.d_min)
            if not torch.allclose(sigma, expected, rtol=1e-6):
                raise ValueError(
                    "sigma is not on the path of the blurring process this network is trained for "
                    f"(blur_max={self.blur_max:g}, d_min={self.d_min:g}); use diffnum.Blurring with these values"
                )
            with torch.inference_mode(False):  # a cached inference tensor would break autograd later
                sigma = sigma.clone()
                coefficients = blurring_coefficients(sigma, sigma[:, 0, 0], self.spectrum)
                found = tuple(c.to(z.device, z.dtype) for c in coefficients)
            if len(sigma) == 1:
                self._cache[key] = sigma, found
        return found


def blurring_level(t: Tensor) -> Tensor:
    """Noise-to-signal ratio tan(pi/2 (t + 0.004)/1.008) of the unblurred frequency at time t."""
    return torch.tan(math.pi / 2 * (t + 0.004) / 1.008)


def blurring_time(level: Tensor) -> Tensor:
    """Inverse of :func:`blurring_level`."""
    return 1.008 * 2 / math.pi * torch.atan(level) - 0.004


def blur_damping(t: float | Tensor, blur_max: float = 10.0, d_min: float = 1e-3, n: int = 32) -> Tensor:
    """D_k(t) = d_min + (1 - d_min) exp(-Lam_k tau), tau = (blur_max sin^2(pi t/2))^2/2; t (*,) -> float64 (*, n, n)."""
    t = torch.as_tensor(t, dtype=torch.float64, device=t.device if isinstance(t, Tensor) else "cpu")
    return d_min + (1 - d_min) * decay(blur_max * torch.sin(t * math.pi / 2) ** 2, (n, n))


def blurring_coefficients(sigma: Tensor, level: float | Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """(c_in, label, eps_y, eps_f, x0_y, x0_f) of :class:`BlurringNetwork`; sigma (*, H, W), level (*), v (H, W)."""
    level = torch.as_tensor(level, dtype=torch.float64, device=sigma.device).reshape(-1)
    damping = level[:, None, None] / sigma
    c_in = damping / (level**2 + SIGMA_DATA**2).sqrt()[:, None, None]
    total = sigma**2 + v
    eps_y, eps_f = sigma / total, (v / total).sqrt()
    return c_in.unsqueeze(-3), level.log() / 4, *(c.unsqueeze(-3) for c in (eps_y, eps_f, v / total, sigma * eps_f))


# ------------------------------------------------------------------------------------------------ reading files


def available(kinds: Sequence[str] = KINDS) -> list[str]:
    """Names of the networks of these kinds that are shipped with the package; by default the denoisers."""
    folder = resources.files("diffnum") / "weights"
    cards = [f for f in folder.iterdir() if f.name.endswith(".json")]
    return sorted(f.name.removesuffix(".json") for f in cards if json.loads(f.read_text("utf-8"))["kind"] in kinds)


def load(
    name: str | os.PathLike[str] = "cifar10", device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Network | BlurringNetwork:
    """Read a shipped network by name, or any network written by ``diffnum train`` by its path (.safetensors only).

    The file is compared with the SHA-256 in the model card beside it (NAME.json). ``device`` and ``dtype`` prepare a
    copy in advance; every call follows the device and dtype of its input anyway.
    """
    blob, sha256, card, source = read(name)
    network = from_bytes(blob, source, sha256, card)
    return network.to(device, dtype) if device is not None or dtype is not None else network


def read(name: str | os.PathLike[str], kinds: Sequence[str] = KINDS) -> tuple[bytes, str, dict[str, Any], str]:
    """``(content, sha256, model card, source)`` of a weight file, by name or path, compared with its card.

    Raises:
        KeyError: no network of that name; DiffnumError: the file is missing, truncated, altered or no safetensors file.
    """
    text = os.fspath(name)
    own = text.endswith(".safetensors") or "/" in text or os.sep in text
    if own:
        source: Any = files.place(text)
        if source.suffix != ".safetensors":
            raise DiffnumError(f"{source} is not a .safetensors file; no other format is read (pickles can run code)")
        card = source.with_suffix(".json")
    else:
        folder = resources.files("diffnum") / "weights"
        source, card = folder / f"{text}.safetensors", folder / f"{text}.json"
        if not card.is_file() and not source.is_file():
            raise KeyError(
                f"no network named {text!r}; available: {', '.join(available(kinds))}; or give a .safetensors path"
            )
    shipped = f"reinstall diffnum, or restore {source} from the repository"
    fix = "copy it anew together with its .json, or train it again with `diffnum train`" if own else shipped
    if source.exists() and not source.is_file():
        raise DiffnumError(f"{source} is no regular file; {fix}")
    try:
        if own and source.stat().st_size > LARGEST_FILE:
            raise DiffnumError(f"{source} is above {LARGEST_FILE / 1e9:g} GB, as no network of diffnum is; {fix}")
        blob = source.read_bytes()
    except OSError as error:
        raise DiffnumError(f"cannot read the weights {source} ({error.strerror}); {fix}") from None
    about: dict[str, Any] = {}
    if card.is_file():
        try:
            about = json.loads(card.read_text(encoding="utf-8"))
            if not isinstance(about, dict) or not isinstance(about.get("sha256", ""), str):
                raise ValueError("not a card")
        except (ValueError, RecursionError):
            raise DiffnumError(f"the model card {card} is not readable JSON; {fix}") from None
    found, wanted = hashlib.sha256(blob).hexdigest(), about.get("sha256")
    if wanted is not None and found != wanted:
        raise DiffnumError(
            f"{source} does not match its checksum (sha256 {found[:12]}..., expected {wanted[:12]}...): "
            f"the file is truncated or altered; {fix}"
        )
    return blob, found, about, str(source)


def from_bytes(
    blob: bytes, source: str = "weights", sha256: str = "", card: dict[str, Any] | None = None
) -> Network | BlurringNetwork:
    """Network from the bytes of a safetensors file; ``source`` names it in errors."""
    try:
        return _read_bytes(blob, sha256, card)
    except Exception as error:  # whatever goes wrong with a foreign file, it is not one of ours
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DiffnumError(
            f"{source} is not a diffnum network: {reason[:200]}; get a fresh copy of the file"
        ) from error


def parsed(blob: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts of a safetensors file.

    From its bytes: `safetensors.safe_open` opens a path twice. If a training run replaces the file in between, the
    names are of the old one and the numbers of the new one.
    """
    from safetensors.torch import load as parse

    tensors = parse(blob)
    head = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    return tensors, head.get("__metadata__", {})


def _read_bytes(blob: bytes, sha256: str, card: dict[str, Any] | None) -> Network | BlurringNetwork:
    tensors, texts = parsed(blob)
    about = json.loads(texts.get("diffnum", "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"its metadata are a {type(about).__name__} and no object")
    for name, values in tensors.items():
        if not values.is_floating_point() or not bool(values.isfinite().all()):
            raise ValueError(f"{name} holds what is no finite number")
    weights = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
    if not weights:
        raise ValueError("it holds no denoiser (features.load reads a feature network)")
    found = Config.from_tensors(weights)
    config = Config.from_dict(about["config"]) if "config" in about else found
    if replace(found, heads=config.heads, patch=config.patch, colours=config.colours) != config:
        raise ValueError(f"its metadata tell of {config}, its tensors of {found}")
    with torch.device("meta"):
        net = UNet(config)
    net.load_state_dict(weights, assign=True)
    if about.get("kind") == "blurring":
        return BlurringNetwork(net, tensors["stats.spectrum"], **about["blurring"], sha256=sha256, card=card)
    wiener = Wiener(tensors["stats.mean"], tensors["stats.cov"]) if "stats.cov" in tensors else None
    return Network(net, wiener, sha256, card)


def to_bytes(net: UNet, stats: dict[str, Tensor], about: dict[str, Any] | None = None) -> bytes:
    """The safetensors file of a network in half precision, with the statistics of its data in single precision."""
    from safetensors.torch import save

    tensors = {f"net.{k}": v.detach().half().cpu().contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"stats.{k}": v.float().cpu().contiguous() for k, v in stats.items()}
    # one entry: safetensors writes several in an order of chance, and the checksum would not be reproducible
    text = json.dumps({"config": asdict(net.config), **(about or {})}, sort_keys=True)
    return save(tensors, {"diffnum": text})
