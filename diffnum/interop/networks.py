r"""Networks of other libraries as denoisers.

==================  ==========================================================  ==================================
from                what the network is                                         here
==================  ==========================================================  ==================================
diffusers           ``unet(u, k) -> eps | x0 | v`` at index k of a table        :func:`from_diffusers`
EDM, k-diffusion    ``net(x, sigma) -> D``                                      :func:`from_edm`
score_sde           ``model(u, t) -> score | eps``                              ``from_prediction(model, process)``
==================  ==========================================================  ==================================

A table of betas is a piecewise linear :math:`\log \alpha`, and index k stands at :math:`t = (k + 1)/N`
(``VP.from_betas``). Between two indices the network is asked at a fractional one, :math:`N t - 1`: its time embedding
is a smooth function. Below index 0 it knows nothing: end the grid at ``t_end = 1/N``.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen, unrounded
from diffnum.denoisers import from_prediction
from diffnum.denoisers.exact import level, spread
from diffnum.denoisers.prediction import Prediction, prediction_in
from diffnum.errors import DiffnumError, WrongKind
from diffnum.processes import VP

KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

#: What a conditional network gets beside state and time: keywords, or a function of the batch that gives them.
Condition = Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]


def betas_of(scheduler: Any) -> Tensor:
    """The table of betas that a scheduler's configuration describes, in float64 (its own tables are float32).

    Args:
        scheduler: a scheduler of diffusers, or its configuration as a mapping.

    Raises:
        DiffnumError: a schedule that is no such table.
    """
    config = getattr(scheduler, "config", scheduler)
    get = config.get if isinstance(config, Mapping) else lambda key, default=None: getattr(config, key, default)
    if get("rescale_betas_zero_snr"):
        raise DiffnumError("rescale_betas_zero_snr=True ends where no data are left, and no ODE starts there")
    n, name = get("num_train_timesteps", 1000), get("beta_schedule", "linear")
    if get("trained_betas") is not None:
        return arguments.array("trained_betas", get("trained_betas"))
    n = arguments.whole("num_train_timesteps", n)
    low, high = (arguments.share(key, get(key, usual)) for key, usual in (("beta_start", 1e-4), ("beta_end", 0.02)))
    if name == "linear":
        return torch.linspace(low, high, n, dtype=torch.float64, device="cpu")
    if name == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, n, dtype=torch.float64, device="cpu") ** 2
    if name == "squaredcos_cap_v2":
        bar = [math.cos((k / n + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(n + 1)]
        return torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(bar)], dtype=torch.float64, device="cpu")
    table = getattr(scheduler, "betas", None)
    if table is None:
        raise DiffnumError(f"beta_schedule={name!r} is not known here; give the scheduler trained_betas")
    return arguments.array("betas", table)


def from_diffusers(
    unet: Any,
    scheduler: Any,
    condition: Condition | None = None,
    guidance: float | None = None,
    null: Condition | None = None,
) -> Any:
    r"""A network of diffusers as a denoiser, with the process that it was trained on as its ``process``.

    .. code-block:: python

        unet, scheduler = UNet2DModel.from_pretrained(path), DDIMScheduler.from_pretrained(path)
        denoiser = dn.from_diffusers(unet, scheduler)
        problem = dn.Problem(denoiser.process, denoiser)

    States are channels first, ``(batch, C, H, W)``, of any size the network takes. It is called in its own dtype.

    Args:
        unet: called as ``unet(u, k, **condition)`` with one index k per row; what it returns has the prediction as
            ``sample``, or is a tuple with it, or it. Channels of a learned variance behind those of u are left out.
        scheduler: tells table and ``prediction_type`` (epsilon, sample or v_prediction): a scheduler, or its config.
        condition: keywords for a conditional network, such as ``{"class_labels": labels}``, or a function of the batch
            that returns them.
        guidance: weight of classifier-free guidance; 1 is the conditional network itself.
        null: what ``condition`` is without a condition; with ``guidance``.

    Raises:
        TypeError: an argument of a wrong kind. DiffnumError: a prediction type or table that is not known here.
        ValueError: guidance without both conditions.
    """
    if isinstance(unet, type) or not callable(unet):
        raise WrongKind(f"unet={arguments.shown(unet)} is not a network; give one that is called as unet(u, k)")
    config = getattr(scheduler, "config", scheduler)
    get = config.get if isinstance(config, Mapping) else lambda key, default=None: getattr(config, key, default)
    said = get("prediction_type", "epsilon")
    if said not in KINDS:
        raise DiffnumError(f"prediction_type={said!r} is not known here; it is one of {', '.join(KINDS)}")
    process = VP.from_betas(betas_of(scheduler))
    size = round(1 / process.unit)  # type: ignore[operator]  # of a table
    parts = [from_prediction(Indexed(unet, size, given), process, KINDS[said]) for given in (condition, null)]
    if guidance is None:
        if null is not None:
            raise ValueError("null was given without guidance; give a weight, or leave it out")
        return parts[0]
    if condition is None or null is None:
        raise ValueError("guidance needs both condition and null: it moves from the one prediction past the other")
    return ClassifierFree(parts[0], parts[1], guidance)


class Indexed(Frozen):
    """``model(u, t)`` from a network that is asked at indices of a table with N entries."""

    def __init__(self, unet: Any, size: int, condition: Condition | None) -> None:
        if not (condition is None or isinstance(condition, Mapping) or callable(condition)):
            raise WrongKind(f"condition={arguments.shown(condition)} must be keywords, or a function of the batch")
        self.unet, self.size, self.condition = unet, size, condition

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The prediction for u (B, *event) at time t, a float, () or (B,)."""
        kind = getattr(self.unet, "dtype", None)
        x = u.to(kind) if isinstance(kind, torch.dtype) else u
        where = t.device if isinstance(t, Tensor) else "cpu"
        k = (torch.as_tensor(t, dtype=torch.float64, device=where).to(u.device) * self.size - 1).to(torch.float32)
        nearest = k.round()
        k = torch.where((k - nearest).abs() < 1e-3, nearest, k).clamp_min(0).expand(len(u))
        given = self.condition(x) if callable(self.condition) else self.condition or {}
        out = self.unet(x, k, **given)
        out = getattr(out, "sample", out)
        out = out[0] if isinstance(out, (tuple, list)) else out
        if isinstance(out, Tensor) and out.ndim > 1 and out.shape[1] == 2 * x.shape[1]:
            out = out[:, : x.shape[1]]  # the other half is a learned variance
        return out


class ClassifierFree(Frozen):
    r"""Classifier-free guidance as a denoiser.

    .. math:: \epsilon_w = \epsilon_{\text{null}} + w (\epsilon_{\text{cond}} - \epsilon_{\text{null}})

    It asks two networks, or one twice, and so an evaluation of it counts as two (``evaluations``); for w = 1 and w = 0
    it asks one, and counts one. Source: Ho and Salimans 2022, arXiv:2207.12598, equation 6 (there w is w - 1 of ours).

    Args:
        conditional, null: two denoisers.
        weight: w.
    """

    def __init__(self, conditional: Any, null: Any, weight: float) -> None:
        for part in (conditional, null):
            if not callable(part) or not hasattr(part, "eps"):
                raise WrongKind(f"{arguments.shown(part)} is no denoiser: it has no D(x, sigma) and eps(x, sigma)")
        self.conditional, self.null = conditional, null
        self.weight = arguments.number("weight", weight, -1e6, 1e6, usual=2)
        self.evaluations = 1 if self.weight in (0.0, 1.0) else 2
        self.shape = getattr(conditional, "shape", None)
        if getattr(conditional, "process", None) is not None:
            self.process = conditional.process

    def __repr__(self) -> str:
        return f"ClassifierFree({self.conditional!r}, {self.null!r}, {self.weight})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The guided clean prediction: x (B, *event), sigma a float, () or (B,)."""
        return self._mixed(self.conditional, self.null, x, sigma)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The guided noise prediction. Arguments as for a call."""
        return self._mixed(self.conditional.eps, self.null.eps, x, sigma)

    def _mixed(self, conditional: Any, null: Any, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self.evaluations == 1:
            return (conditional if self.weight else null)(x, sigma)
        return torch.lerp(null(x, sigma), conditional(x, sigma), self.weight)


def from_edm(net: Callable[..., Any], condition: Condition | None = None) -> "Preconditioned":
    """A network ``net(x, sigma) -> D`` as a denoiser: EDM's preconditioned ones, and what k-diffusion's samplers take.

    Its noise prediction is (x - D)/sigma, a difference of near-equal numbers at small sigma: in float32 about
    1e-7 x/sigma of it is rounding.

    Args:
        net: called as ``net(x, sigma, **condition)`` with one float32 level per row; returns the clean prediction like
            x, in any floating dtype.
        condition: keywords such as ``{"class_labels": one_hot}``, or a function of the batch that returns them.
    """
    if isinstance(net, (type, Prediction)) or not callable(net):
        raise WrongKind(f"net={arguments.shown(net)} is not a network; give one that is called as net(x, sigma)")
    return Preconditioned(net, condition)


class Preconditioned(Frozen):
    """What :func:`from_edm` returns: ``D(x, sigma)`` and ``.eps(x, sigma)``."""

    shape = None

    def __init__(self, net: Any, condition: Condition | None) -> None:
        self.net, self.condition = net, condition

    @unrounded
    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean prediction: x (B, *event), sigma a float, () or (B,)."""
        rows = torch.as_tensor(level(sigma, x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        given = self.condition(x) if callable(self.condition) else self.condition or {}
        return prediction_in(self.net(x.clone(), rows.expand(len(x)), **given), x, "net").to(x.dtype)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise (x - D)/sigma. Arguments as for a call."""
        s = level(sigma, x)
        return (x - self(x, sigma)) / (spread(s.to(x.dtype), x.ndim) if isinstance(s, Tensor) else s)
