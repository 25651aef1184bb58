r"""Guidance: a denoiser whose noise prediction is moved along the gradient of log odds.

.. math::
    \epsilon_w(x, \sigma) = \epsilon(x, \sigma) - \sigma \nabla_x \Big[ w_{real}\, m(\sigma)
        \log \frac{p(x; \sigma)}{q(x; \sigma)} + w_{class}\, m'(\sigma) \log p(y \mid x; \sigma) \Big]

with q the noisy density of what the denoiser draws, p that of the data, y a class, and m, m' windows in sigma. Where
they are open, weights of 1 give the posterior mean, by Bayes' and Tweedie's formulas: with realism alone :math:`E_p[x_0
\mid x]`, with the class as well :math:`E_p[x_0 \mid x, y]`. Other weights belong to no density of data plus noise
(:mod:`diffnum.derive.guidance`); there we speak of the *guided field*. Sources: Dhariwal and Nichol 2021,
arXiv:2105.05233, algorithm 2, for the class; Kim et al. 2023, arXiv:2211.17091, for realism, their discriminator.

A *guide* is one of two things:

- a function ``guide(x, sigma) -> (B,)`` of log odds, with one weight;
- an object with ``guide.logits(x, sigma) -> (B, K)`` and ``guide.classes``, K or the K names: column k is the log
  density of x and class k, up to a term that all columns share. With ``guide.drawn = True`` there is one column more,
  the log density of what the denoiser draws, and so the log odds of realism. It may say where its log odds can be
  trusted (``guide.windows``, as below) and whose drawings it knows (``guide.denoiser``, the SHA-256 of the weights).

Autograd must be able to follow either to x, and a row must depend on its own row of x alone. An exact denoiser such as
:class:`~diffnum.denoisers.GaussianMixture` is a guide to its components, and two of them give the log odds of realism:
``lambda x, sigma: p.logits(x, sigma).logsumexp(1) - q.logits(x, sigma).logsumexp(1)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from math import inf, log2
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.denoisers import guide as guides
from diffnum.denoisers import network
from diffnum.denoisers.exact import level, spread
from diffnum.denoisers.network import BlurringNetwork, Network, smootherstep
from diffnum.errors import DiffnumError, WrongKind

Label = str | int | Sequence[str | int] | Tensor
Window = tuple[float, float]

# The least sigma that a guide is asked about: its square is the least variance of the exact denoisers.
LEAST = 1e-100


class Guided(Frozen):
    r"""A denoiser guided by log odds, the formula at the top of the module: ``D(x, sigma)`` and ``.eps(x, sigma)``.

    .. math:: D_w(x, \sigma) = x - \sigma\,\epsilon_w = D + \sigma^2\,\nabla_x [\,\cdots]

    One evaluation of it counts as one. It costs the denoiser's and, where a window is open, one of the guide and of its
    gradient. Gradients stay inside: it works under ``no_grad``, ``inference_mode`` and autocast, in the dtype of x, and
    the guide is asked in float32 or float64. An autograd from outside, as in ``solve(..., gradients=True)``, goes
    through it to x, to sigma and to parameters of the guide, with second derivatives of the log odds.

    Args:
        denoiser: any denoiser for white noise.
        guide: log odds, as described at the top of the module.
        label: a class, by name or number, or a list with one for every row of x; by default none, and realism alone.
        weights: a number, or the pair (realism, class); at least 0.
        windows: the levels at which log odds are used, a pair for (realism, class) of (lo, hi), or None for all
            levels: not below lo and above 2 hi, in full from 2 lo to hi. By default those of the guide, else all.

    Raises:
        TypeError: the denoiser has no ``eps``, the guide no log odds, or an argument is of a wrong kind.
        ValueError: a weight, window or class that there is not, or another event shape.
        DiffnumError: the guide knows another denoiser.
    """

    def __init__(
        self,
        denoiser: Any,
        guide: Any,
        label: Label | None = None,
        weights: float | tuple[float, float] = 1.0,
        windows: tuple[Window | None, Window | None] | None = None,
    ) -> None:
        if isinstance(denoiser, type) or not callable(denoiser) or not hasattr(denoiser, "eps"):
            raise TypeError(f"denoiser={denoiser!r} has no D(x, sigma) and eps(x, sigma) for white noise")
        self._function = not hasattr(guide, "logits")
        if isinstance(guide, type) or (self._function and (not callable(guide) or hasattr(guide, "eps"))):
            raise TypeError(f"guide={guide!r} has no log odds: give a function (x, sigma) -> (B,), or logits")
        self.denoiser, self.guide, self.sha256 = denoiser, guide, getattr(denoiser, "sha256", "")
        known = getattr(guide, "denoiser", "")
        if known and known != self.sha256:
            this = f"that of sha256 {self.sha256[:12]}..." if self.sha256 else repr(denoiser)
            raise DiffnumError(
                f"the guide knows the denoiser of sha256 {known[:12]}..., and this is {this}: take the guide that "
                "belongs to it, or train one"
            )
        shapes = [tuple(shape) for part in (denoiser, guide) if (shape := getattr(part, "shape", None)) is not None]
        if len(set(shapes)) > 1:
            raise ValueError(f"guide knows events of shape {shapes[1]}, and those of the denoiser are {shapes[0]}")
        self.shape = shapes[0] if shapes else None
        self.drawn = self._function or bool(getattr(guide, "drawn", False))  # whether the guide knows realism
        self.names = () if self._function else _names(guide)
        self.label = None if label is None else _label(label, self.names)
        if self.label is None and not self.drawn:
            raise ValueError(f"label is missing: this guide knows classes alone, so give one of {_listed(self.names)}")
        if self._function and isinstance(weights, (tuple, list)):
            raise ValueError(f"weights={weights!r}: a guide that is a function has one weight")
        self.weights = _weights(weights)
        self.windows = _windows(getattr(guide, "windows", None) if windows is None else windows)

    def __repr__(self) -> str:
        return f"Guided({self.denoiser!r}, {self.guide!r}, label={self.label}, weights={self.weights})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D_w: x (B, *event); sigma a float, () or (B,) -> like x.

        Raises what the denoiser raises, and ValueError: labels for another number of rows, or log odds of a wrong shape
        or without gradients. Values of a sigma on an accelerator are not looked at: no window is known to be closed.
        """
        return self._move(self.denoiser(x, sigma), x, sigma, lambda s: s * s)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise prediction (x - D_w)/sigma without that difference. Arguments and errors as for a call."""
        return self._move(self.denoiser.eps(x, sigma), x, sigma, lambda s: -s)

    def labelled(self, label: Label | None) -> Guided:
        """The same with another label. Errors as for the constructor."""
        label = None if label is None else _label(label, self.names)
        if label is None and not self.drawn:
            raise ValueError(f"label is missing: this guide knows classes alone, so give one of {_listed(self.names)}")
        return self.changed(label=label)

    @property
    def kind(self) -> str:
        """The kind of the denoiser; of a network ``"edm"``."""
        return getattr(self.denoiser, "kind", "")

    @property
    def device(self) -> Any:
        """Where the denoiser lives, if that is fixed."""
        return getattr(self.denoiser, "device", None)

    def in_bfloat16(self) -> Guided:
        """The same with both networks evaluated in bfloat16: faster, and wrong by about 1 %."""
        return self.changed(denoiser=self.denoiser.in_bfloat16(), guide=self.guide.in_bfloat16())

    def _move(self, out: Tensor, x: Tensor, sigma: float | Tensor, factor: Callable[[Any], Any]) -> Tensor:
        """Out + factor(sigma) times the gradient of the weighted log odds at x."""
        if isinstance(self.label, list) and len(self.label) != len(x):
            raise ValueError(f"label has {len(self.label)} classes, and x has {len(x)} rows: give one, or one per row")
        s, wide = level(sigma, x, zero=True), torch.promote_types(x.dtype, torch.float32)
        recording = torch.is_grad_enabled()
        # whether an autograd from outside has a way through the gradient of the log odds
        outside = recording and (x.requires_grad or (isinstance(s, Tensor) and s.requires_grad))
        # Tensors made under inference_mode know no gradients, so nothing of it may enter.
        with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
            s = (s if recording else s.detach()).clone() if isinstance(s, Tensor) else s
            terms = [(form, weight * window(s, span)) for form, weight, span in self._terms()]
            if all(_zero(weight) for _, weight in terms):
                return out
            s = self._within(s)
            z = x.to(wide) if recording and x.requires_grad else x.detach().to(wide, copy=True).requires_grad_()
            logits = None if outside else self._logits(z, s)
            if logits is not None and recording and _depends_on_more(logits, z):
                outside, logits = True, None
            # the attention of a network has second derivatives only in its plain form
            with sdpa_kernel(SDPBackend.MATH) if outside else nullcontext():
                logits = self._logits(z, s) if logits is None else logits
                odds = torch.stack([(weight * form(logits)).sum() for form, weight in terms]).sum()
                (gradient,) = torch.autograd.grad(odds, z, create_graph=outside)
            by = spread(factor(s), x.ndim)
            shift = (by.to(gradient) if isinstance(by, Tensor) else by) * gradient
        return (out + shift).to(x.dtype)

    def _terms(self) -> Iterator[tuple[Callable[[Tensor], Tensor], float, Window | None]]:
        """Log odds as a function of the logits, weight and window: of realism and of the class, where there are."""
        if self.drawn:
            yield self._realism, self.weights[0], self.windows[0]
        if self.label is not None:
            yield self._class, self.weights[1], self.windows[1]

    def _realism(self, logits: Tensor) -> Tensor:
        return logits if self._function else logits[:, :-1].logsumexp(1) - logits[:, -1]

    def _class(self, logits: Tensor) -> Tensor:
        column = torch.as_tensor(self.label, device=logits.device).expand(len(logits))
        return logits[:, : len(self.names)].log_softmax(1).gather(1, column[:, None])[:, 0]

    def _within(self, s: float | Tensor) -> float | Tensor:
        """The level that the guide is asked about: inside the open windows, for rows outside have weight 0."""
        spans = [span or (LEAST, inf) for *_, span in self._terms()]
        low, high = min(lo for lo, _ in spans), 2 * max(hi for _, hi in spans)
        return s.clamp(low, high) if isinstance(s, Tensor) else min(max(s, low), high)

    def _logits(self, x: Tensor, s: float | Tensor) -> Tensor:
        """What the guide says, if it is what guides promise."""
        logits = self.guide(x, s) if self._function else self.guide.logits(x, s)
        shape = (len(x),) if self._function else (len(x), len(self.names) + self.drawn)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"guide returned {found}; its log odds must be a tensor of shape {shape}")
        if not logits.requires_grad:
            raise ValueError("guide returned log odds that autograd cannot follow to x; compute them with gradients")
        return logits


def load(
    name: str | os.PathLike[str] = "cifar10",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    label: Label | None = None,
    guidance: float | tuple[float, float] | None = None,
    half: bool = False,
    compile: bool = False,
) -> Network | BlurringNetwork | Guided:
    """Read a shipped network by name, or any network written by ``diffnum train`` by its path (.safetensors only).

    The file is compared with the SHA-256 in the model card beside it (NAME.json), and so is that of its guide,
    NAME-guide.safetensors, whose card names the network that it knows.

    Args:
        name: of the network, or its path.
        device, dtype: prepare a copy in advance; every call follows the device and dtype of its input anyway.
        guidance: weight w of the log odds of realism and, with a label, of the class; or a pair. w = 1 is the guide's
            estimate of the posterior mean, at the levels of its windows; for pictures take 2 or 3. Without it the
            network is as it is.
        label: a class by name or number, or a list with one per row; only with ``guidance``.
        half: evaluate the network in bfloat16; states stay as they are. Faster where the processor is fast at it, and
            wrong by about 1 %, which no number of steps removes.
        compile: compile the network (``Network.compiled``): a minute at the start, faster calls after it.

    Raises:
        KeyError: no network of that name. DiffnumError: a file is missing or altered, or the guide is another's.
        TypeError, ValueError: a weight or class that there is not.
    """
    if guidance is None and label is not None:
        raise ValueError(f"label={label!r} needs guidance: give guidance=3 for clear pictures, 1 for the class mean")
    denoiser = network.load(name, device, dtype)
    denoiser = denoiser.in_bfloat16() if half else denoiser
    denoiser = denoiser.compiled() if compile else denoiser
    if guidance is None:
        return denoiser
    if not isinstance(denoiser, Network):
        raise DiffnumError(f"guidance={guidance!r}: {os.fspath(name)} is a {denoiser.kind} network, which has no guide")
    stem, dot, suffix = os.fspath(name).partition(".safetensors")
    try:
        guide = guides.load(f"{stem}-guide{dot}{suffix}", device, dtype)
    except KeyError:
        how = f"train one with diffnum train --kind guide --network {stem}, and give both to dn.Guided"
        raise DiffnumError(f"guidance={guidance!r}: no guide is shipped that knows {stem}; {how}") from None
    return Guided(denoiser, guide.in_bfloat16() if half else guide, label, guidance)


def window(sigma: float | Tensor, span: Window | None) -> float | Tensor:
    """How far a window (lo, hi) is open: 0 below lo, 1 from 2 lo to hi, 0 above 2 hi; no window is open everywhere.

    Between them it is smootherstep in log2(sigma), which has two continuous derivatives. sigma: a float or tensor.
    """
    if span is None:
        return 1.0
    where, (lo, hi) = sigma.device if isinstance(sigma, Tensor) else "cpu", span
    octave = torch.as_tensor(sigma, dtype=torch.float64, device=where).log2()
    opening = smootherstep(octave - log2(lo)) * (1 - smootherstep(octave - log2(hi)))
    return opening if isinstance(sigma, Tensor) else opening.item()


def _depends_on_more(logits: Tensor, z: Tensor) -> bool:
    """Whether the graph of the logits ends in a leaf beside z: a parameter of the guide that is being trained."""
    nodes: list[Any] = [logits.grad_fn]
    seen: set[Any] = {None}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", z) is not z:
            return True
        nodes += [before for before, _ in node.next_functions]
    return False


def _zero(weight: float | Tensor) -> bool:
    """Whether a weight is known to be 0 in every row; an accelerator is not asked."""
    if isinstance(weight, Tensor):
        return weight.device.type == "cpu" and not weight.any()
    return not weight


def _names(guide: Any) -> tuple[str | int, ...]:
    """The classes of a guide: their names, or their numbers."""
    classes = getattr(guide, "classes", None)
    if isinstance(classes, Integral):
        return tuple(range(int(classes)))
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        raise TypeError(f"guide={guide!r} has logits but no classes: set guide.classes to their number or names")
    return tuple(classes)


def _label(label: Any, names: tuple[str | int, ...]) -> int | list[int]:
    """A label as a number, or as a list of them where it is one per row."""
    label = label.tolist() if hasattr(label, "tolist") else label  # a tensor or an array
    if not names:
        raise ValueError(f"label={label!r}: a guide that is a function of (x, sigma) knows no classes")
    if isinstance(label, Sequence) and not isinstance(label, str):
        return [_number(one, names) for one in label]
    return _number(label, names)


def _number(label: Any, names: tuple[str | int, ...]) -> int:
    if isinstance(label, bool) or not isinstance(label, (str, Integral)):
        raise TypeError(f"label={label!r} is {type(label).__name__}: give a class by name or number")
    number = names.index(label) if label in names else -1 if isinstance(label, str) else int(label)
    if not 0 <= number < len(names):
        near = get_close_matches(str(label), [name for name in names if isinstance(name, str)], n=1)
        raise ValueError(f"label={label!r} is no class; {f'did you mean {near[0]}?' if near else _listed(names)}")
    return number


def _listed(names: tuple[str | int, ...]) -> str:
    """The classes in words."""
    numbers = f"0 to {len(names) - 1}"
    return numbers if not names or isinstance(names[0], int) else f"{', '.join(map(str, names))}, or {numbers}"


def _weights(given: Any) -> tuple[float, float]:
    """The weights of realism and of the class."""
    pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(pair) != 2:
        raise WrongKind(f"weights={given!r} must be a number, or the pair (realism, class)")
    realism, odds = (arguments.weight("weights", w) for w in pair)
    return realism, odds


def _windows(given: Any) -> tuple[Window | None, Window | None]:
    """The windows of realism and of the class."""
    if given is None:
        return None, None
    try:
        pair = tuple(None if span is None else (float(span[0]), float(span[1])) for span in given)
        if len(pair) != 2 or any(span and not (len(span) == 2 and 0 < 2 * span[0] <= span[1] < inf) for span in pair):
            raise ValueError
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"windows={given!r} must be two, of realism and of the class: (lo, hi) with 0 < 2 lo <= hi, or None"
        ) from None
    return pair[0], pair[1]
