"""Processes, grids and networks by the names that the command line and the result files use.

Torch is imported inside the functions, so that ``diffnum --help`` does not wait for it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from diffnum.arguments import choose

PROCESSES = ("vp", "vp-cosine", "vp-ddpm", "ve", "rectified", "cld", "psld", "blurring")
GRIDS = ("log_snr", "quadratic", "uniform", "karras", "sigma", "alternating", "from_table")


def process(name: str) -> Any:
    """The process of that name, with its usual parameters; ``vp-ddpm`` has the table of Ho et al. (2020)."""
    import torch

    from diffnum.processes import CLD, PSLD, VE, VP, Blurring, RectifiedFlow

    choose("process", name, PROCESSES)
    makers: dict[str, Callable[[], Any]] = {
        "vp": VP,
        "vp-cosine": VP.cosine,
        "vp-ddpm": lambda: VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device="cpu")),
        "ve": VE,
        "rectified": RectifiedFlow,
        "cld": CLD,
        "psld": PSLD,
        "blurring": lambda: Blurring((32, 32)),
    }
    return makers[name]()


def grid(name: str) -> Callable[..., Any]:
    """The grid function of that name."""
    return getattr(import_module("diffnum.grids"), choose("grid", name, GRIDS))


def network(
    name: str,
    process: str,
    label: Any = None,
    guidance: float | None = None,
    half: bool = False,
    compile: bool = False,
) -> Any:
    """The network of that name, if the process can use it; blurring has a shipped network of its own.

    With ``guidance`` it is guided, to ``label`` if there is one; ``half`` and ``compile`` say how it is evaluated, as
    `dn.load` tells.

    Raises:
        KeyError: no such network. DiffnumError: it is of the wrong kind for the process, or its file is damaged.
    """
    from diffnum.denoisers import load
    from diffnum.errors import DiffnumError

    wanted = "blurring" if process == "blurring" else "edm"
    name = "cifar10-blurring" if wanted == "blurring" and name == "cifar10" else name
    denoiser = load(name, label=label, guidance=guidance, half=half, compile=compile)
    if denoiser.kind != wanted:
        raise DiffnumError(
            f"{name} is a {denoiser.kind} network, which {process} cannot use; take one of kind {wanted}"
        )
    return denoiser
