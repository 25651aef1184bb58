"""No solver waits for the device inside its loop, and what a grid needs is brought there once.

A GPU computes behind the host's back until the host asks for a value: `float(x)`, `if x:`, `x.item()`, `x.cpu()`, an
array of NumPy. On a machine without one nothing waits, but the questions can be heard: the state, and with it all that
is computed from it, is of a class of its own here, and asking it for a value is counted. So is bringing a tensor of the
host to the state's device.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import diffnum as dn
from diffnum.denoisers.network import Network
from diffnum.denoisers.unet import Config, UNet

ASKING = {"item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__", "nonzero",
          "equal", "allclose", "__contains__", "unique", "masked_select"}  # fmt: skip
BRINGING = {"to", "cuda", "tensor", "as_tensor", "from_numpy", "copy_"}
DCT = (8, 8)


class OnDevice(torch.Tensor):
    """A tensor on the device of the state; what is computed from it is one too."""


class Guard(TorchFunctionMode):
    """Counts questions to tensors of the device, and tensors of the host that are brought to it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.brought: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        there = [isinstance(x, OnDevice) for x in args]
        if name in ASKING and any(there):
            self.asked.append(name)
        if name in BRINGING and not (there and there[0]) and ("device" in kwargs or name in ("to", "cuda")):
            target = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.device | OnDevice)]
            if target:
                self.brought.append(name)
        return func(*args, **kwargs)


class Plain:
    """A denoiser that computes with the state alone."""

    def __init__(self, shape):
        self.shape = shape

    def __call__(self, x, sigma):
        return 0.5 * x

    def eps(self, x, sigma):
        return 0.1 * x

    posterior, posterior_eps = __call__, eps


# A solver without a claim of evaluations chooses its steps by errors that it has to read.
CASES = [
    (name, family)
    for name, solver in dn.solvers.registry.items()
    for family in solver.families
    if solver.nfe is not None
]


def made(family, **more):
    """Problem, a state on the "device", and a grid."""
    process = {"isotropic": dn.VP, "phase_space": dn.PSLD, "blurring": lambda: dn.Blurring(DCT)}[family]()
    problem = dn.Problem(process, Plain((1, *DCT)))
    u = problem.prior((3, 1, *DCT), dtype=torch.float32).as_subclass(OnDevice)
    return problem, u, dn.grids.log_snr(process, 8) if family != "blurring" else dn.grids.quadratic(process, 8)


def heard(solver, problem, u, times):
    """What the guard hears in the steps after the first of a run, noise included."""
    options = {"noise": torch.randn_like} if solver.draws else {}
    run, guard = solver(problem, u, times.tolist(), **options), Guard()
    next(run)
    with guard, torch.no_grad():
        states = list(run)
    assert all(isinstance(state, OnDevice) for state in states), "the guard did not see all"
    return guard


@pytest.mark.parametrize(("name", "family"), CASES)
def test_no_step_asks_the_device_for_a_value_nor_brings_it_any(name, family):
    problem, u, times = made(family)
    first, again = (heard(dn.solvers.registry[name], problem, u, times) for _ in range(2))
    assert not first.asked and not again.asked
    assert not again.brought


@pytest.mark.parametrize("ask", [
    lambda u: float(u.max()), lambda u: bool((u > 9).any()), lambda u: u.cpu(), lambda u: np.asarray(u).sum(),
    lambda u: u.mean().item(), lambda u: u.sum((1, 2, 3)).tolist(), lambda u: 1 if u.abs().max() > 9 else 2,
    lambda u: int(u.argmax()),
])  # fmt: skip
def test_the_guard_hears_every_question(ask):
    def asking(problem, u, times):
        for state in dn.solvers.registry["ddim"](problem, u, times):
            ask(state)
            yield state

    asking.draws = False
    assert heard(asking, *made("isotropic")).asked


def test_the_guard_hears_what_is_brought():
    def bringing(problem, u, times):
        for state in dn.solvers.registry["ddim"](problem, u, times):
            yield state * torch.ones(1).to(u.device)

    bringing.draws = False
    assert len(heard(bringing, *made("isotropic")).brought) == 7


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "family"), CASES)
def test_no_step_waits_for_a_gpu(name, family):
    """The same, asked of CUDA itself: there every wait in a second run on the grid is an error."""
    problem, u, times = made(family)
    u, solver = u.as_subclass(torch.Tensor).cuda(), dn.solvers.registry[name]
    options = {"noise": torch.randn_like} if solver.draws else {}
    for mode in ("default", "error"):
        run = solver(problem, u, times.tolist(), **options)
        next(run)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            assert len(list(run)) == len(times) - 2
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_network_does_not_wait_either():
    torch.manual_seed(0)
    network = Network(UNet(Config((16, 32), (False, True), 1, 1, 32, 8)))
    u = torch.randn(2, 3, 32, 32).as_subclass(OnDevice)
    network.eps(u, 1.0)
    for sigma in (1.0, 300.0, 600.0):
        network.eps(u, sigma)
        with Guard() as guard:
            network.eps(u, sigma)
        assert not guard.asked and not guard.brought, sigma
