"""Devices by name, checked before anything is computed on them."""

from warnings import catch_warnings, simplefilter

import torch

from diffnum.arguments import shown
from diffnum.errors import DiffnumError


def existing(device: torch.device | str | None) -> torch.device | None:
    """The device of that name, None for None.

    Raises:
        DiffnumError: this machine, or this build of PyTorch, has no such device.
    """
    if device is None:
        return None
    try:
        with catch_warnings():
            simplefilter("ignore")  # of devices that went out of use
            found = torch.device(device)
            torch.ones(1, device=found).item()
    except Exception as error:  # every device fails in a way of its own: seven types on one machine
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise DiffnumError(f"device={shown(device)} does not exist here; available: {', '.join(available)}") from error
    return found
