r"""Denoisers in closed form: a point mass, a Gaussian, a Gaussian mixture.

All three are one formula. Data :math:`p_0 = \sum_k w_k N(m_k, Q_k\,\mathrm{diag}(v_k)\,Q_k^T)` seen at noise level
sigma, :math:`x = x_0 + \sigma n`, has (per component, in its own eigenbasis)

.. math::
   d_k = Q_k^T (x - m_k), \quad C_k = v_k + \sigma^2, \quad
   r_k = \mathrm{softmax}_k\bigl(\log w_k - \tfrac12 \sum_j \log C_{kj} - \tfrac12 \sum_j d_{kj}^2 / C_{kj}\bigr)

.. math::
   D(x, \sigma) = \sum_k r_k \bigl(m_k + Q_k \tfrac{v_k}{C_k} d_k\bigr), \qquad
   \varepsilon(x, \sigma) = \frac{x - D}{\sigma} = \sigma \sum_k r_k\, Q_k \frac{d_k}{C_k}

The second form of eps has no difference of near-equal numbers, so it is right to rounding at any sigma > 0.
Everything inside is float64 whatever x is (the log-weights need it, and the rest then costs no second pass); results
come back in x's dtype on x's device. Source: Bayes' rule; the same model is in Karras et al. 2022, arXiv:2206.00364,
appendix B.3, for a sum of point masses (v = 0).

The logarithms inside the softmax are those of the joint density of x and its component, up to a constant. So a mixture
knows the odds of its components at any noise level, and can be the guide of :mod:`diffnum.denoisers.guided`.
"""

import math
from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.arguments import array
from diffnum.dct import dct2, idct2
from diffnum.errors import WrongKind

__all__ = ["Gaussian", "GaussianMixture", "PointMass"]

# log weights (K,), means (K, d), variances (K, d), rotations (K, d, d)
Parameters = tuple[Tensor, Tensor, Tensor, Tensor | None]

# Noise levels are below this one: float64 holds their squares.
LARGEST = 1e150
# The least sigma^2: variances may be zero, and 0/0 must be the limit sigma -> 0 (D projects on the support).
TINY = 1e-200
# How far covariances may miss symmetry or positivity, relative to their largest entry: estimates made in float32.
SLACK = 1e-6
# The largest event for which covariances of pixels are turned into the DCT basis, d x d numbers per component.
DENSE = 1024


def row_by_row(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a method of coefficients y and levels sigma (H, W) take levels (B, H, W) as well: one row after another."""

    @wraps(method)
    def wrapper(self: Any, y: Tensor, sigma: Tensor) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.ndim == 3 and isinstance(y, Tensor) and len(sigma) == len(y):
            return torch.cat([method(self, row[None], levels) for row, levels in zip(y, sigma, strict=True)])
        return method(self, y, sigma)

    return wrapper


class _Mixture(Frozen):
    """The formula above; final classes below only read their arguments into it. Not to be changed once made."""

    def __init__(self, weights: Tensor, means: Tensor, stds: Any = None, covs: Any = None, basis: str = "pixel"):
        count, self.shape = len(means), tuple(means.shape[1:])  # event shape
        self.size = math.prod(self.shape)  # numbers in one event, d
        if self.size < 1:
            raise ValueError(f"means has shape {tuple(means.shape)}: there is no number in an event")
        if basis not in ("pixel", "dct"):
            raise ValueError(f"basis is {basis!r}: use 'pixel' or 'dct'")
        if basis == "dct" and len(self.shape) < 2:
            raise ValueError(f"basis='dct' needs events (..., H, W), got event shape {self.shape}")
        self.weights, self.means, self.basis = weights.clone(), means.clone(), basis  # to look at, not to compute with
        if covs is None:
            variances, rotations = _diagonal(stds, count, self.shape).square(), None
        else:
            variances, rotations = _eigen(covs, count, self.size)
        variances = variances.reshape(count, -1).expand(count, self.size)
        self._isotropic = rotations is None and bool((variances == variances[:, :1]).all())
        parameters: Parameters = (weights.log(), means.reshape(count, self.size), variances, rotations)
        self._copies: dict[torch.device, Parameters] = {torch.device("cpu"): parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(components={len(self.weights)}, shape={self.shape}, basis={self.basis!r})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x]. x: (B, *event); sigma >= 0: a float, () or (B,); at 0 the limit sigma -> 0.

        Raises TypeError (x or sigma of a wrong kind) or ValueError (wrong event shape, negative or non-finite float
        sigma). Values inside tensors on a GPU are not looked at: that would stall it at every call.
        """
        r, d, C, (_, means, variances, rotations) = self._parts(x, level(sigma, x, zero=True))
        return self._leave(_gather(r, variances / C * d, rotations) + r[..., 0] @ means, x.dtype)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise (x - D)/sigma without that difference. Arguments and errors as for a call, but sigma > 0."""
        sigma = level(sigma, x)
        r, d, C, (*_, rotations) = self._parts(x, sigma)
        return self._leave(spread(sigma, 2) * _gather(r, d / C, rotations), x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of log p(x; sigma) = -eps/sigma. Arguments and errors as for `eps`."""
        return (-self.eps(x, sigma) / spread(level(sigma, x), x.ndim)).to(x.dtype)

    @property
    def classes(self) -> int:
        """The number of components: the classes that a guide tells apart."""
        return len(self.weights)

    def logits(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        r"""Log densities of x with each component, :math:`\log w_k N(x;\, m_k, C_k + \sigma^2)`: (B, K), float64.

        Their log-softmax are the exact log odds :math:`\log p(k \mid x; \sigma)` of the components, their logsumexp is
        :math:`\log p(x; \sigma)`. They are float64 whatever x is, and autograd gives the gradients by x. Arguments and
        errors as for a call, but sigma > 0.
        """
        log_r, *_ = self._terms(x, level(sigma, x))
        return log_r - 0.5 * self.size * math.log(2 * math.pi)

    @row_by_row
    def posterior(self, y: Tensor, sigma: Tensor) -> Tensor:
        r"""E[y0 | y] where y = y0 + sigma n are DCT coefficients with a noise level per frequency.

        y: (B, ..., H, W) orthonormal DCT-II coefficients of the data plus noise; sigma: (H, W), positive, or (B, H, W)
        with levels for every row, which are then computed one by one. In the
        coordinates :math:`z_j = y_j/\sigma_j` the noise is white of level 1, and the formula at the top of the module
        holds with means :math:`m_j/\sigma_j` and the covariance scaled alike. Returns coefficients like y.

        Raises TypeError or ValueError: events without (H, W), wrong shapes, levels that are not positive, or pixel
        variances that differ between pixels where more than `DENSE` numbers make the d x d covariance too large.
        """
        r, d, C, (_, means, variances, rotations), scale = self._whitened(y, sigma)
        out = scale * _gather(r, variances / C * d, rotations) + r[..., 0] @ means
        return out.reshape(y.shape).to(y.dtype)

    @row_by_row
    def posterior_eps(self, y: Tensor, sigma: Tensor) -> Tensor:
        """(y - E[y0 | y])/sigma without that difference; arguments and errors as for `posterior`."""
        r, d, C, (*_, rotations), _ = self._whitened(y, sigma)
        return _gather(r, d / C, rotations).reshape(y.shape).to(y.dtype)

    def sample(self, n: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """n draws from the data distribution, (n, *event) on the CPU; without a generator those of seed 0."""
        n, generator = drawing(n, self.shape, generator, dtype)
        _, means, variances, rotations = self._copies[torch.device("cpu")]
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        y = variances[k].sqrt() * torch.randn(n, self.size, dtype=torch.float64, generator=generator, device="cpu")
        if rotations is not None:
            for i, rotation in enumerate(rotations):  # not rotations[k]: n matrices could fill the memory
                y[k == i] = y[k == i] @ rotation.mT
        return self._leave(means[k] + y, dtype)

    def _parts(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Parameters]:
        """r (B, K, 1), deviations d (B, K, d), variances C (1 or B, K, d), and the parameters on x's device."""
        log_r, d, C, parameters = self._terms(x, sigma)
        return log_r.softmax(-1)[..., None], d, C, parameters

    def _terms(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Parameters]:
        """As `_parts`, with log r up to a term common to all components, (B, K), in place of r."""
        log_weights, means, variances, rotations = parameters = self._on(x.device)
        squared = spread(sigma, 3) ** 2
        C = variances[None] + (max(squared, TINY) if isinstance(squared, float) else squared.clamp_min(TINY))
        return *_log_joint(self._enter(x)[:, None] - means, C, log_weights, rotations), C, parameters

    def _whitened(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Parameters, Tensor]:
        """As `_parts`, in coordinates y/sigma (means: not divided), and the scale sigma as (d,)."""
        sigma = frequencies(y, sigma, self.shape)
        log_weights, means, variances, rotations = self._on(y.device)
        if self.basis == "pixel":
            means = self._transform(means)
        scale = sigma.expand(self.shape).reshape(-1)
        if (self.basis == "dct" and rotations is None) or self._isotropic:
            variances = variances / scale.square()
        else:
            # Singular values of a root of the covariance, not eigenvalues of it: sigma over ten orders of magnitude
            # makes twenty in the covariance, and the small ones would drown.
            roots = variances.sqrt()[:, None] * rotations if rotations is not None else self._dense(variances.sqrt())
            if self.basis == "pixel":
                roots = self._transform(roots.mT).mT
            rotations, values, _ = torch.linalg.svd(roots / scale[:, None])
            variances = values.square()
        C = variances[None] + 1
        d = (y.to(torch.float64).reshape(len(y), 1, self.size) - means) / scale
        log_r, d = _log_joint(d, C, log_weights, rotations)
        return log_r.softmax(-1)[..., None], d, C, (log_weights, means, variances, rotations), scale

    def _dense(self, stds: Tensor) -> Tensor:
        """Standard deviations of pixels (K, d) as diagonal matrices, where that is not too much."""
        if self.size > DENSE:
            raise ValueError(
                f"stds differ between pixels, and posterior() would need {self.size} x {self.size} covariances in the "
                "DCT basis: give one std per component, or basis='dct'"
            )
        return stds.diag_embed()

    def _transform(self, pixels: Tensor) -> Tensor:
        """Rows (..., d) of pixels -> rows of DCT coefficients."""
        return dct2(pixels.reshape(*pixels.shape[:-1], *self.shape)).reshape(pixels.shape)

    def _enter(self, x: Tensor) -> Tensor:
        """Pixels (B, *event) in x's dtype -> coordinates (B, d) of the means, float64."""
        if tuple(x.shape[1:]) != self.shape or x.ndim == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (batch, *event) with event shape {self.shape}")
        x = x.to(torch.float64)
        return (dct2(x) if self.basis == "dct" else x).reshape(len(x), self.size)

    def _leave(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """The way back from `_enter`: (B, d) -> (B, *event) in dtype."""
        y = y.reshape(len(y), *self.shape)
        return (idct2(y) if self.basis == "dct" else y).to(dtype)

    def _on(self, device: torch.device) -> Parameters:
        if device not in self._copies:
            with torch.inference_mode(False):  # a cached inference tensor would break autograd later
                *numbers, rotations = self._copies[torch.device("cpu")]
                log_weights, means, variances = (p.to(device) for p in numbers)
                rotations = rotations if rotations is None else rotations.to(device)
                self._copies[device] = log_weights, means, variances, rotations
        return self._copies[device]


class PointMass(_Mixture):
    """All data at one point: D = x, eps(u, sigma) = (u - x)/sigma. x: (*event). Raises TypeError or ValueError."""

    def __init__(self, x: Any):
        super().__init__(array("weights", [1]), array("x", x)[None], stds=[0])


class Gaussian(_Mixture):
    r"""Data N(mean, cov): :math:`\varepsilon = \sigma (C + \sigma^2)^{-1} (x - m)`.

    mean: (*event); cov: a number (variance), (*event) (diagonal) or (d, d) (full); in the DCT basis both describe
    orthonormal DCT-II coefficients. Raises TypeError or ValueError with the argument's name.
    """

    def __init__(self, mean: Any, cov: Any, basis: str = "pixel"):
        mean, cov, one = array("mean", mean), array("cov", cov), array("weights", [1])
        size = mean.numel()
        if cov.ndim == 0 or cov.shape == mean.shape:
            if cov.numel() and cov.min() < 0:
                raise ValueError(f"cov has the variance {cov.min():.6g}: variances must be >= 0")
            super().__init__(one, mean[None], stds=cov.sqrt()[None], basis=basis)
        elif cov.shape == (size, size):
            super().__init__(one, mean[None], covs=cov[None], basis=basis)
        else:
            raise ValueError(
                f"cov has shape {tuple(cov.shape)}: give a number, the event shape {tuple(mean.shape)} (diagonal) "
                f"or {(size, size)} (full)"
            )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of the data in pixels, d the number of numbers in one event; float64."""
        _, means, variances, rotations = self._copies[torch.device("cpu")]
        root = torch.diag(variances[0].sqrt()) if rotations is None else rotations[0] * variances[0].sqrt()
        columns = self._leave(root.mT, torch.float64).reshape(self.size, self.size)
        return self._leave(means, torch.float64).flatten(), columns.mT @ columns


class GaussianMixture(_Mixture):
    """Data sum_k w_k N(m_k, C_k), the formula at the top of the module.

    weights: (K,), sum 1; means: (K, *event); either stds: (K,) isotropic or (K, *event) diagonal, zeros allowed
    (data on planes), or covs: (K, d, d) symmetric positive semidefinite, where d counts the numbers of one event.
    basis="dct": means and stds (or covs) describe orthonormal DCT-II coefficients of events (..., H, W), while the
    denoiser still takes pixels. Raises TypeError or ValueError with the argument's name.
    """

    def __init__(self, weights: Any, means: Any, stds: Any = None, covs: Any = None, basis: str = "pixel"):
        weights, means = array("weights", weights), array("means", means)
        if weights.ndim != 1 or len(weights) == 0:
            raise ValueError(f"weights has shape {tuple(weights.shape)}: give one number per component, (K,)")
        if weights.min() < 0:
            raise ValueError(f"weights contains {weights.min():.6g}: weights must be >= 0")
        if abs(weights.sum() - 1) > 1e-6:
            raise ValueError(f"weights sum to {weights.sum():.8g}, not 1: divide them by their sum")
        if means.ndim == 0 or len(means) != len(weights):
            raise ValueError(f"means has shape {tuple(means.shape)}: give ({len(weights)}, *event), one per weight")
        if (stds is None) == (covs is None):
            raise ValueError(f"{'neither' if stds is None else 'both'} of stds and covs given: give exactly one")
        super().__init__(weights, means, stds, covs, basis)


def level(sigma: Any, x: Any, zero: bool = False) -> float | Tensor:
    """sigma checked against x (B, *): a float stays a float, a tensor () or (B,) becomes float64 on x's device.

    Raises TypeError or ValueError. zero: whether a float sigma = 0 is allowed.
    """
    floating("x", x)
    if isinstance(sigma, Tensor):
        if sigma.is_complex() or sigma.shape not in ((), (1,), x.shape[:1]):
            raise ValueError(
                f"sigma has shape {tuple(sigma.shape)}: give a number or one per row, {tuple(x.shape[:1])}"
            )
        if sigma.device.type == "cpu" and not bool(((sigma >= 0 if zero else sigma > 0) & (sigma < LARGEST)).all()):
            raise ValueError(f"sigma holds a level that is not finite and {'>= 0' if zero else '> 0'}")
        return sigma.to(x.device, torch.float64)
    if not isinstance(sigma, Real) or isinstance(sigma, bool):
        raise WrongKind(f"sigma is {type(sigma).__name__}: give a float or a torch tensor")
    try:
        sigma = float(sigma)
    except OverflowError:
        sigma = math.inf
    if not (0 < sigma < LARGEST or (zero and sigma == 0)):
        raise ValueError(f"sigma is {sigma}: the noise level must be finite and {'>= 0' if zero else '> 0'}")
    return sigma


def floating(name: str, x: Any) -> None:
    """Refuse what is not an ordinary floating tensor.

    Raises:
        WrongKind: not a tensor, not floating, or without entries to compute with.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise WrongKind(f"{name} is {kind}: give a floating-point tensor (batch, *event)")
    if x.is_nested or x.layout != torch.strided:
        raise WrongKind(f"{name} is a {'nested' if x.is_nested else x.layout} tensor: give an ordinary dense one")


def frequencies(y: Any, sigma: Any, shape: tuple[int, ...]) -> Tensor:
    """sigma (H, W) checked against y (B, *shape) with shape (..., H, W) -> float64 on y's device.

    Raises TypeError or ValueError. Values on an accelerator are not looked at.
    """
    if len(shape) < 2:
        raise ValueError(f"events of shape {shape} have no DCT frequencies: posterior() needs events (..., H, W)")
    floating("y", y)
    if y.ndim == 0 or tuple(y.shape[1:]) != shape:
        raise ValueError(f"y has shape {tuple(y.shape)}: give (batch, *event) with event shape {shape}")
    if not isinstance(sigma, Tensor):
        raise WrongKind(f"sigma is {type(sigma).__name__}: give a tensor, one noise level per frequency, {shape[-2:]}")
    if tuple(sigma.shape) != shape[-2:]:
        raise ValueError(f"sigma has shape {tuple(sigma.shape)}: give one noise level per frequency, {shape[-2:]}")
    if sigma.device.type == "cpu" and not bool(((sigma > 0) & sigma.isfinite()).all()):
        raise ValueError("sigma contains levels that are not finite and > 0")
    return sigma.to(y.device, torch.float64)


def drawing(n: Any, event: tuple[int, ...], generator: Any, dtype: Any) -> tuple[int, Generator]:
    """How many draws of events, and the generator for them; by default one of seed 0.

    Raises:
        WrongKind: not a whole number, no generator of the CPU, or no floating dtype.
        ValueError, DiffnumError: none, or too many.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise WrongKind(f"dtype={arguments.shown(dtype)} is no floating dtype; use torch.float64")
    n = arguments.sizes("n", (n, *event), 1, "a number of draws")[0]
    if generator is None:
        return n, Generator(device="cpu").manual_seed(0)
    if not isinstance(generator, Generator) or generator.device.type != "cpu":
        raise WrongKind(f"generator={arguments.shown(generator)} is no torch.Generator of the CPU")
    return n, generator


def spread(value: float | Tensor, ndim: int) -> float | Tensor:
    """A number per row (B,) shaped to multiply (B, ...) with ndim axes; floats and 0-d tensors stay as they are."""
    return value.reshape(-1, *[1] * (ndim - 1)) if isinstance(value, Tensor) and value.ndim else value


def _log_joint(d: Tensor, C: Tensor, log_weights: Tensor, rotations: Tensor | None) -> tuple[Tensor, Tensor]:
    """log r (B, K) up to a term common to all components, and the deviations d (B, K, d) turned into the eigenbases."""
    if rotations is not None:
        d = torch.einsum("bki,kij->bkj", d, rotations)
    return log_weights - 0.5 * C.log().sum(-1) - 0.5 * (d * d / C).sum(-1), d


def _gather(r: Tensor, d: Tensor, rotations: Tensor | None) -> Tensor:
    """sum_k r_k Q_k d_k: r (B, K, 1), d (B, K, d) -> (B, d)."""
    return (r * d).sum(1) if rotations is None else torch.einsum("bkj,kij->bi", r * d, rotations)


def _diagonal(stds: Any, count: int, shape: tuple[int, ...]) -> Tensor:
    stds = array("stds", stds)
    if tuple(stds.shape) not in ((count,), (count, *shape)):
        raise ValueError(
            f"stds has shape {tuple(stds.shape)}: give {(count,)} (isotropic) or {(count, *shape)} (diagonal)"
        )
    if stds.numel() and stds.min() < 0:
        raise ValueError(f"stds contains {stds.min():.6g}: standard deviations must be >= 0")
    return stds


def _eigen(covs: Any, count: int, size: int) -> tuple[Tensor, Tensor]:
    """covs (K, d, d) = Q diag(v) Q^T -> v (K, d), Q (K, d, d)."""
    covs = array("covs", covs)
    if tuple(covs.shape) != (count, size, size):
        raise ValueError(f"covs has shape {tuple(covs.shape)}: give {(count, size, size)}")
    slack = SLACK * covs.abs().amax((1, 2))
    if ((covs - covs.mT).abs().amax((1, 2)) > slack).any():
        raise ValueError(f"covs is not symmetric (off by {(covs - covs.mT).abs().max():.3g}): use (C + C.mT)/2")
    variances, rotations = torch.linalg.eigh((covs + covs.mT) / 2)
    if (variances.amin(1) < -slack).any():
        raise ValueError(f"covs has the eigenvalue {variances.min():.6g}: covariances must be positive semidefinite")
    # Rounding leaves +-1e-17 where a plane has variance zero; at small sigma that dust would be a thickness.
    dust = size * torch.finfo(torch.float64).eps * variances.abs().amax(1, keepdim=True)
    return torch.where(variances <= dust, 0.0, variances), rotations
