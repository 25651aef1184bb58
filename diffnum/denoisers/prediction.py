r"""A trained model u, t -> eps | x0 | v | score, made into a denoiser D(x, sigma).

With :math:`u = \alpha x_0 + \sigma_t n` the ratio :math:`u/\alpha = x_0 + (\sigma_t/\alpha) n` is data at VE level
:math:`\sigma = \sigma_t/\alpha`, so one level is one time, :math:`\log \mathrm{snr}(t) = -2 \log \sigma`:

=======  ============================================  ==========================
kind     D = x0                                        eps
=======  ============================================  ==========================
`eps`    x - (sigma_t/alpha) m                         m
`x0`     m                                             (u - alpha m)/sigma_t
`v`      alpha u - sigma_t m                           sigma_t u + alpha m
`score`  x + (sigma_t^2/alpha) m                       -sigma_t m
=======  ============================================  ==========================

where m = model(u, t). v = alpha eps - sigma_t x0 is Salimans & Ho 2022, arXiv:2202.00512, section 4; its two rows need
alpha^2 + sigma_t^2 = 1. Only an x0 model leaves a difference of near-equal numbers in eps at small sigma: the model
itself does not carry the missing digits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen, unrounded
from diffnum.denoisers.exact import level, spread
from diffnum.errors import WrongKind

__all__ = ["from_prediction"]

KINDS = ("eps", "x0", "v", "score")


def from_prediction(model: Callable, process: Any, kind: str = "eps") -> "Prediction":
    """The denoiser of `model(u, t)`, trained to predict `kind` on `process` (VP or VE).

    model: u (B, *event), t -> (B, *event), where t is a float when the denoiser is given a float sigma, else a float64
    tensor () or (B,). It may return the prediction as an attribute ``sample`` or as the only entry of a tuple, as the
    networks of diffusers do. It is called outside ``torch.autocast``; one that is to use it says so inside. Raises
    ValueError (unknown kind; v where alpha^2 + sigma^2 is not 1; a model that returns another shape) or TypeError
    (model not callable; a process without scalar alpha and sigma; a model that returns no floating tensor).
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: use one of {', '.join(map(repr, KINDS))}")
    if not callable(model):
        raise WrongKind(f"model is {type(model).__name__}: give a callable model(u, t)")
    if not all(hasattr(process, name) for name in ("alpha", "sigma", "time_of_log_snr")) or isinstance(process, type):
        raise WrongKind(f"process is {type(process).__name__}: predictions are converted on VP and VE only")
    if kind == "v":
        t = process.time_of_log_snr(0.0)
        if abs(process.alpha(t) ** 2 + process.sigma(t) ** 2 - 1) > 1e-6:
            raise ValueError("kind is 'v', which needs alpha^2 + sigma^2 = 1 (VP): on VE use 'eps', 'x0' or 'score'")
    return Prediction(model, process, kind)


class Prediction(Frozen):
    """What `from_prediction` returns: `D(x, sigma)`, `.eps(x, sigma)`; shape is None because the model decides."""

    shape = None

    def __init__(self, model: Callable, process: Any, kind: str):
        self.model, self.process, self.kind = model, process, kind

    def __repr__(self) -> str:
        return f"from_prediction({self.model!r}, {self.process!r}, kind={self.kind!r})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x]. x: (B, *event), sigma > 0: a float, () or (B,). Errors: `from_prediction`'s."""
        u, m, alpha, sigma_t = self._predict(x, sigma)
        match self.kind:
            case "eps":
                x0 = x - sigma_t / alpha * m
            case "x0":
                x0 = m
            case "v":
                x0 = alpha * u - sigma_t * m
            case _:
                x0 = x + sigma_t**2 / alpha * m
        return x0.to(x.dtype)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise (x - D)/sigma, straight from the model where it can be. Arguments as for a call."""
        u, m, alpha, sigma_t = self._predict(x, sigma)
        match self.kind:
            case "eps":
                eps = m
            case "x0":
                eps = (u - alpha * m) / sigma_t
            case "v":
                eps = sigma_t * u + alpha * m
            case _:
                eps = -sigma_t * m
        return eps.to(x.dtype)

    @unrounded
    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple:
        """u = alpha x, m = model(u, t), and alpha, sigma_t at that t, shaped to multiply; at least float32."""
        sigma = level(sigma, x)
        t = self.process.time_of_log_snr(-2 * (sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)))
        wide = torch.promote_types(x.dtype, torch.float32)
        # The levels of t itself, not sigma: the model was trained on them, and all four kinds then agree to rounding.
        alpha, sigma_t = self.process.alpha(t), self.process.sigma(t)
        if isinstance(t, Tensor):
            alpha, sigma_t = (spread(c.to(wide), x.ndim) for c in (alpha, sigma_t))
        u = alpha * x.to(wide)
        # a copy where u is needed once more: a network may begin with a layer that writes into its input
        given = u.clone() if self.kind in ("x0", "v") and u.dtype == x.dtype else u.to(x.dtype)
        m = prediction_in(self.model(given, t), x)
        return u, m.to(wide), alpha, sigma_t


def prediction_in(m: Any, x: Tensor, name: str = "model") -> Tensor:
    """The tensor in what a model returned for x.

    Raises:
        WrongKind: no floating tensor on the device of x. ValueError: another shape.
    """
    if not isinstance(m, Tensor):
        m = m[0] if isinstance(m, (tuple, list)) and len(m) == 1 else getattr(m, "sample", m)
    if not isinstance(m, Tensor) or not m.is_floating_point() or m.device != x.device:
        got = f"{arguments.shown(m)} on {m.device}" if isinstance(m, Tensor) else arguments.shown(m)
        raise WrongKind(f"{name} returned {got}: wrap it so that it returns a floating tensor on {x.device}")
    if m.shape != x.shape:
        raise ValueError(
            f"{name} returned shape {tuple(m.shape)} for u of shape {tuple(x.shape)}: "
            "wrap it so that it returns the prediction alone (no learned variance)"
        )
    return m
