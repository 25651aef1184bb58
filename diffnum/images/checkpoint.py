"""Checkpoints: all that changes while training in one file, read back only if every part of it is right.

A plain checkpoint keeps every number as it is, so that a run that is resumed ends in the same bits. A *compact* one,
for training in the background and on from machine to machine, takes 7 bytes for each parameter of a denoiser instead
of 16. What is rounded is small beside what one step of training changes:

=====================  ==========================================================================================
part                   kept as
=====================  ==========================================================================================
weights                float16
average                its difference from the weights as they are kept, float16
first moment           float8 (e4m3) of its ratio to the largest; a mean over ten or twenty steps, soon forgotten
second moment          bfloat16
all else               as it is: offsets, gains and other tensors of less than 4,096 numbers, counts, the log
=====================  ==========================================================================================
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffnum import files
from diffnum.denoisers.network import parsed
from diffnum.errors import DiffnumError

SMALL = 4096  # tensors of fewer numbers are kept as they are
LARGEST = 448.0  # of float8_e4m3fn


@dataclass
class Run:
    """What changes while training; a checkpoint is this and nothing else."""

    net: torch.nn.Module
    average: torch.nn.Module
    optimiser: Any
    step: int = 0
    images: int = 0
    before: int = 0  # images that the network had seen when the run began
    seconds: float = 0.0
    bins: dict[str, list[float]] = field(default_factory=dict)  # by level: sum and number of losses since
    log: list[dict[str, Any]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor, by its name in the file; not copies."""
        found = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        found |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, p in self.net.named_parameters():
            for key, value in self.optimiser.state.get(p, {}).items():
                found[f"optimiser.{key}.{name}"] = value
        return {k: v.detach() for k, v in found.items()}

    def blob(self, settings: dict[str, Any], compact: bool = False) -> bytes:
        """The checkpoint, a safetensors file."""
        from safetensors.torch import save

        kept = self.tensors()
        scales = _compress(kept) if compact else None
        numbers = {k: getattr(self, k) for k in NUMBERS}
        text = {"numbers": json.dumps(numbers), "settings": json.dumps(settings), "scales": json.dumps(scales)}
        return save({k: v.cpu().contiguous() for k, v in kept.items()}, text)

    def restore(self, stored: Stored) -> None:
        """Continue from a checkpoint.

        Raises:
            DiffnumError: it lacks a tensor, or has one too many, of another shape, or with NaN or infinity.
        """
        # a step of rate 0 and without gradients makes the state of the optimiser, so that its names are known
        rates = [group["lr"] for group in self.optimiser.param_groups]
        for group in self.optimiser.param_groups:
            group["lr"] = 0.0
        for p in self.net.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        own, given = self.tensors(), stored.tensors
        wrong = [f"it lacks {k}" for k in own if k not in given] + [f"it has {k}" for k in given if k not in own]
        shapes = ((k, tuple(given[k].shape), tuple(own[k].shape)) for k in own if k in given)
        wrong += [f"{k} has shape {a}, not {b}" for k, a, b in shapes if a != b]
        if wrong:
            raise DiffnumError(f"cannot resume from {stored.path} ({wrong[0]}); {AGAIN}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(given[name])
        for name, number in stored.numbers.items():
            setattr(self, name, number)


NUMBERS: dict[str, Any] = {"step": int, "images": int, "before": int, "seconds": float, "bins": dict, "log": list}
AGAIN = "it is damaged or of another program: delete it to start anew, or take a copy of it"


@dataclass
class Stored:
    """A checkpoint as it was read: tensors in single precision, numbers and settings."""

    path: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    settings: dict[str, Any]


def read(path: Path) -> Stored:
    """A checkpoint that makes sense in itself.

    Raises:
        DiffnumError: it cannot be read, or is not what :meth:`Run.blob` writes.
    """
    from safetensors import SafetensorError

    try:
        tensors, text = parsed(files.read(path))
        numbers, settings, scales = (json.loads(text[k]) for k in ("numbers", "settings", "scales"))
        if not isinstance(settings, dict) or not settings:
            raise ValueError("its settings are empty")
        for name, kind in NUMBERS.items():
            value = numbers.pop(name)
            if type(value) is not kind or (kind in (int, float) and not 0 <= value < math.inf):
                raise ValueError(f"{name} is {str(value)[:40]}")
            numbers[name] = value
        if len(numbers) > len(NUMBERS) or not all(isinstance(entry, dict) for entry in numbers["log"]):
            raise ValueError("its numbers are not those of a run")
        if scales is not None:
            _expand(tensors, scales)
        if broken := [k for k, v in tensors.items() if not bool(v.isfinite().all())]:
            raise ValueError(f"NaN or infinity in {broken[0]}")
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        reason = reason.splitlines()[0]
        raise DiffnumError(f"cannot resume from {path} ({reason}); {AGAIN}") from None
    return Stored(path, tensors, numbers, settings)


def _compress(kept: dict[str, Tensor]) -> dict[str, float]:
    """Round the tensors of a run in place of the dictionary; the scales of the first moments."""
    scales: dict[str, float] = {}
    for name, value in list(kept.items()):
        part, _, rest = name.partition(".")
        if value.dtype != torch.float32 or value.numel() < SMALL:
            continue
        if part == "net":
            kept[name] = value.half()
            other = f"average.{rest}"
            kept[other] = (kept[other] - kept[name].float()).half()
        elif rest.startswith(("exp_avg.", "momentum_buffer.")):
            scales[name] = float(value.abs().max()) / LARGEST or 1.0
            kept[name] = (value / scales[name]).to(torch.float8_e4m3fn)
        elif rest.startswith("exp_avg_sq."):
            kept[name] = value.bfloat16()
    return scales


def _expand(tensors: dict[str, Tensor], scales: dict[str, float]) -> None:
    """What :func:`_compress` has rounded, in single precision again."""
    for name in [k for k, v in tensors.items() if v.is_floating_point() and v.dtype != torch.float32]:
        tensors[name] = tensors[name].float() * scales.get(name, 1.0)
    for name in [k for k, v in tensors.items() if k.startswith("average.") and v.numel() >= SMALL]:
        tensors[name] = tensors["net" + name.removeprefix("average")] + tensors[name]
