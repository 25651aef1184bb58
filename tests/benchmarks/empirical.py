"""`Empirical` against the two matrix products it needs, in the same run: time and peak memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/empirical.py

50,000 points of 3 x 32 x 32 float32, batch 64, one thread. Data: noise (`randn`), or smooth images (`smooth`), whose
products have larger rounding errors. The products are interleaved with the denoiser, and medians are compared.
`measure` returns the numbers; this program prints them as JSON.
"""

import ctypes
import json
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import diffnum as dn

SIGMAS = (0.002, 0.05, 0.5, 2.0, 5.0, 10.0, 80.0)


def images(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 3, 32, 32) in about [-1, 1]; "smooth": brightness, colour and a gradient carry most of the variance."""
    x = torch.randn(count, 3, 32, 32, generator=generator).mul_(0.15 if kind == "smooth" else 0.5)
    if kind == "smooth":
        x += 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
        x += 0.2 * torch.randn(count, 3, 1, 1, generator=generator)
        x += 0.3 * torch.randn(count, 1, 1, 1, generator=generator) * torch.linspace(-1, 1, 32)
    return x


def resident(name: str) -> int:
    """VmRSS or VmHWM (its peak since `forget_peak`) of this process, in bytes; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def forget_peak() -> None:
    """Start VmHWM anew, and give freed memory back first, so that what a call allocates adds to the resident size."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def measure(count: int = 50_000, batch: int = 64, repeats: int = 7, kind: str = "smooth") -> dict[str, Any]:
    """Time of a call over that of the two products per sigma, the largest, and the memory a call adds at its peak."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = images(kind, count, generator)
    denoiser = dn.Empirical(data)
    flat, noise = data.flatten(1), torch.randn(batch, 3, 32, 32, generator=generator)
    inputs = {sigma: data[:batch] + sigma * noise for sigma in SIGMAS}
    weights = torch.softmax(torch.randn(batch, count, generator=generator), 1)
    times: dict[float, tuple[list[float], list[float]]] = {sigma: ([], []) for sigma in SIGMAS}
    added = dict.fromkeys(SIGMAS, 0)
    for turn in range(repeats + 1):
        for sigma, x in inputs.items():
            forget_peak()
            before, start = resident("VmRSS"), perf_counter()
            denoiser.eps(x, sigma)
            middle = perf_counter()
            added[sigma] = max(added[sigma], resident("VmHWM") - before)
            second = perf_counter()
            x.flatten(1) @ flat.mT
            weights @ flat
            if turn:  # the first turn warms up
                times[sigma][0].append(middle - start)
                times[sigma][1].append(perf_counter() - second)
    torch.set_num_threads(threads)
    ratios = {sigma: median(ours) / median(products) for sigma, (ours, products) in times.items()}
    return {
        "points": count,
        "batch": batch,
        "data": kind,
        "seconds_of_products": round(median(t for _, products in times.values() for t in products), 3),
        "ratio": {str(sigma): round(ratio, 2) for sigma, ratio in ratios.items()},
        "largest_ratio": round(max(ratios.values()), 2),
        "added_MiB": {str(sigma): round(size / 2**20, 1) for sigma, size in added.items()},
        "data_MiB": round(data.numel() * data.element_size() / 2**20, 1),
    }


if __name__ == "__main__":
    for kind in ("smooth", "randn"):
        print(json.dumps(measure(kind=kind), indent=2))
