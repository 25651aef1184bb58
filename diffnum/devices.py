"""Devices by name, checked before anything is computed on them."""

import torch

from diffnum.errors import DiffnumError


def existing(device: torch.device | str | None) -> torch.device | None:
    """The device of that name, None for None.

    Raises:
        DiffnumError: this machine, or this build of PyTorch, has no such device.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        if found.type == "meta":
            raise RuntimeError("tensors there hold no numbers")
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise DiffnumError(f"device={str(device)!r} does not exist here; available: {', '.join(available)}") from error
    return found
