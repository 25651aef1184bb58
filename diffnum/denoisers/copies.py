"""A network that a denoiser evaluates: its weights, kept once per device and dtype, and the ways to run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.denoisers.exact import floating
from diffnum.denoisers.unet import Config
from diffnum.devices import existing
from diffnum.errors import DiffnumError, WrongKind


class Weights(Frozen):
    """A network kept once per (device, dtype): float64 input runs in float64, all else in float32, without gradients.

    On a GPU, PyTorch's float32 convolutions round to ten bits (TF32) by default, which hides errors below 1e-3. Where
    that matters, set ``torch.backends.cudnn.conv.fp32_precision = "ieee"`` first.
    """

    half = False  # whether the network runs in bfloat16
    graph = False  # whether it is compiled

    def __init__(self, net: Any, sha256: str = "", card: dict[str, Any] | None = None) -> None:
        if not isinstance(getattr(net, "config", None), Config):
            raise WrongKind(f"net={arguments.shown(net)} is no network of diffnum.denoisers.unet")
        self.config, self.sha256, self.card = net.config, sha256, card or {}
        self.shape = (net.config.colours, 32, 32)
        self._state = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self._type, self._nets = type(net), {}

    def _net(self, device: torch.device, dtype: torch.dtype) -> Any:
        key = (device, dtype, self.graph)
        if key not in self._nets:
            with torch.device("meta"), torch.inference_mode(False):
                net = self._type(self.config)
                net.load_state_dict({k: v.to(device, dtype) for k, v in self._state.items()}, assign=True)
            net = net.requires_grad_(False).eval()
            if self.graph:  # on a GPU the kernels of a call are recorded for every shape, and replayed as one
                net = torch.compile(net, mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)
            self._nets[key] = net
        return self._nets[key]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
        """Prepare the copy of the weights for a device and dtype (calls do so on first use anyway); returns self."""
        device = existing("cpu" if device is None else device) or torch.device("cpu")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._net(device, torch.float64 if dtype == torch.float64 else torch.float32)
        return self

    def _check(self, x: Any) -> Tensor:
        floating("x", x)
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            needed = ", ".join(map(str, self.shape))
            raise ValueError(f"x must have shape (batch, {needed}) for this network; got {tuple(x.shape)}")
        return x if x.dtype == torch.float64 else x.float()

    def in_bfloat16(self) -> Any:
        """The same denoiser with the network evaluated in bfloat16: faster, and wrong by about 1 % of F."""
        return self.changed(half=True)

    def compiled(self) -> Any:
        """The same denoiser with the network compiled by ``torch.compile``, anew for every shape of its input.

        The first call of a shape takes up to a minute; the results differ from the others by rounding alone. On a GPU
        the call becomes one CUDA graph. Gradients by the input are not recorded through it.
        """
        return self.changed(graph=True)

    def _F(self, x: Tensor, label: Tensor) -> Tensor:
        net: Any = self._net(x.device, x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            if not self.graph:
                return net(x, label).to(x)
            try:
                with torch.no_grad():
                    if x.device.type == "cuda":
                        torch.compiler.cudagraph_mark_step_begin()  # the results of the call before are no longer used
                    return net(x, label).to(x)
            except Exception as error:  # of the compiler's tools, which fail in ways of their own
                reason = " ".join(str(error).split())[:120]
                needs = "it needs a C++ compiler (g++) on a CPU; leave compile out"
                raise DiffnumError(f"the network cannot be compiled here ({reason}); {needs}") from error
