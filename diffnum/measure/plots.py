"""Pictures: what :mod:`diffnum.measure.analysis` measured and what a solver made. Nothing is measured here.

One figure size (6.4 x 4 in), one colour, marker and line style per solver (:data:`STYLE`), one plot for orders
(:func:`convergence`), one for cost (:func:`work_precision`). Matplotlib is imported here and nowhere else in the
library.
"""

import io
import os
import zlib
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from math import ceil, isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffnum.files import write

if TYPE_CHECKING:
    from diffnum.runner import Solution

Point = tuple[float, float]
SIZE, WIDE = (6.4, 4.0), (9.6, 4.0)  # inches: one figure, and its two-panel variant
GREY = "0.45"

# Okabe and Ito's colours, which all readers can tell apart, and a dark grey; neighbours differ in lightness as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_MARKERS = "osD^vP*X<>ph"
_LINES = ("-", "-.", ":")

#: Colour, marker and line style of every solver, the same in each figure of the book and readable in grey.
STYLE: dict[str, dict[str, str]] = {
    name: {"color": _COLOURS[colour], "marker": marker, "linestyle": line}
    for name, colour, marker, line in (
        ("ddim", 6, "o", "-"), ("s_pndm", 5, "s", "-"), ("f_pndm", 1, "D", "-"), ("plms", 4, "P", "-."),
        ("prk", 3, "^", "-"), ("pndm_variable", 2, "*", "-"),
        ("euler", 6, "x", ":"), ("heun", 5, "v", ":"), ("rk4", 3, "<", ":"), ("ab2", 0, ">", ":"),
        ("ab4", 2, "h", ":"), ("fon", 0, "p", "-."), ("dpmpp_2m", 0, "X", "-"), ("edm_heun", 3, "d", "-."),
        ("exponential_adams", 2, "o", "-"), ("deis", 5, "*", "-"), ("lms", 4, "^", "-"), ("dpmpp_3m", 0, "P", "-."),
        ("unipc", 3, "X", "-"), ("ipndm", 4, "o", "-."),
        ("gddim", 1, "o", "-"), ("gddim_sde", 1, "s", ":"), ("euler_maruyama", 6, "D", "-."),
        ("ancestral", 5, "^", "-."), ("er_sde", 2, "P", "-"), ("conjugate", 3, "*", "-."),
        ("conjugate_symplectic_euler", 3, "v", ":"), ("conjugate_velocity_verlet", 3, "<", "-"),
        ("symplectic_euler", 0, "s", ":"), ("reduced_symplectic_euler", 0, "^", "-."), ("velocity_verlet", 2, "x", ":"),
        ("reduced_velocity_verlet", 2, "D", "-."), ("verlet2", 2, "v", "-"), ("oba", 4, "o", ":"),
        ("reduced_oba", 4, "s", "-"), ("bao", 4, "D", ":"), ("reduced_bao", 4, "^", "-."), ("obab", 5, "o", ":"),
        ("reduced_obab", 5, "P", "-"), ("sscs", 6, "h", "-"),
    )
}  # fmt: skip


def style(name: str) -> dict[str, str]:
    """Keywords for ``ax.plot``: the entry of :data:`STYLE`, or one that depends on the name alone for other solvers."""
    name = name.split(",")[0]  # the name of a result also tells its options
    key = zlib.crc32(name.encode())
    other = {"color": _COLOURS[key % 7], "marker": _MARKERS[key // 7 % 12], "linestyle": _LINES[key // 84 % 3]}
    return dict(STYLE.get(name, other))


def use() -> None:
    """Set the book's look for all figures of a notebook; call it once, in the first cell."""
    plt.rcParams.update(
        {
            "figure.figsize": SIZE, "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True,
            "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium",
            "axes.prop_cycle": plt.cycler(color=_COLOURS), "legend.frameon": False, "legend.fontsize": "small",
            "lines.markersize": 5, "image.interpolation": "nearest",
        }
    )  # fmt: skip


def panels(n: int = 2) -> tuple[Any, Any]:
    """A figure of n panels side by side: ``(figure, axes)``; with n = 1 the one axes itself."""
    if n < 1:
        raise ValueError(f"n={n} must be a positive number of panels")
    width = SIZE[0] + (n - 1) * (WIDE[0] - SIZE[0])
    return plt.subplots(1, n, figsize=(width, SIZE[1]), layout="constrained")


# ------------------------------------------------------------------------------------------------------- orders


def convergence(results: Any, ax: Any = None) -> Any:
    """The order plot: error against network evaluations, log-log, with dashed ideal slopes.

    The legend gives each solver's observed order, the slope at the fine end. An ideal slope is drawn for every order
    claimed, or for the nearest whole number where nothing is claimed, below the finest points it should be parallel to.

    Args:
        results: from :func:`diffnum.measure.analysis.convergence`, one or several.
        ax: axes to draw into; by default a new figure.

    Returns:
        the axes.

    Raises:
        ValueError: no result.
    """
    results = list(results) if isinstance(results, Sequence) else [results]
    if not results:
        raise ValueError("results is empty; give what analysis.convergence returned")
    ax = panels(1)[1] if ax is None else ax
    guides: dict[int, list[Point]] = {}
    curves = _curves(ax, results, _observed)
    for result, points in zip(results, curves, strict=True):
        p = result.claim if result.claim is not None else round(result.order) if isfinite(result.order) else 0
        if p > 0 and len(points) > 1:
            guides.setdefault(p, []).extend(points)
    for p, points in sorted(guides.items()):
        _ideal(ax, p, points)
    if len(results) == 1:
        _ticks(ax, sorted(set(results[0].nfe)))
    ax.legend()
    return ax


def work_precision(work: Any, ax: Any = None) -> Any:
    """The cost plot: error against network evaluations for several solvers, log-log; lower and further left is better.

    Runs that ended in NaN or infinity have no point, and the legend says so.

    Args:
        work: from :func:`diffnum.measure.analysis.work_precision`.
        ax: axes to draw into; by default a new figure.

    Returns:
        the axes.
    """
    ax = panels(1)[1] if ax is None else ax
    lost = {name for name, _ in work.lost}
    _curves(ax, work.results, lambda result: f"{result.name} (lost in part)" if result.name in lost else result.name)
    _ticks(ax, work.columns if work.by == "nfe" else ())
    ax.legend(ncols=1 + (len(work.results) > 6))
    return ax


def _observed(result: Any) -> str:
    observed = f"observed order {result.order:.2f}" if isfinite(result.order) else "no order observed"
    return f"{result.name}: {observed}"


def _curves(ax: Any, results: Sequence[Any], label: Callable[[Any], str]) -> list[list[Point]]:
    """Error against evaluations, one line per result in the style of its solver; returns the finite points."""
    seen: dict[str, int] = {}
    curves = []
    for result in results:
        points = [(float(n), e) for n, e in zip(result.nfe, result.errors, strict=True) if isfinite(e) and e > 0]
        look = style(result.name)
        base = result.name.split(",")[0]
        again = seen[base] = seen.get(base, -1) + 1
        if again:  # the same solver with other options: its colour, hollow markers, another line
            look |= {"markerfacecolor": "white", "linestyle": _LINES[again % 3]}
        ax.plot(*_columns(points), label=label(result), **look)
        curves.append(points)
    ax.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="error (root mean square)")
    ax.grid(which="major", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    return curves


def _ticks(ax: Any, ticks: Sequence[int]) -> None:
    """Numbers of evaluations along the bottom as they are, if there are few."""
    if 0 < len(ticks) <= 9:
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.set_xticks([], minor=True)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [n for n, _ in points], [e for _, e in points]


def _ideal(ax: Any, p: int, points: Sequence[Point]) -> None:
    """A dashed line of slope -p along the finer part of the points, half a decade below all of them."""
    n, e = (np.array(column) for column in _columns(points))
    scale = (e * n**p).min() * 10**-0.5
    ends = np.array([n.max() / (n.max() / n.min()) ** 0.6, n.max()])
    ends[0] = max(ends[0], (scale / e.max()) ** (1 / p))  # not above the picture
    ax.plot(ends, scale * ends**-p, color=GREY, linestyle="--", linewidth=1, label=f"_order {p}")
    at = sqrt(ends[0] * ends[1])
    ax.annotate(
        f"order {p}", (at, scale * at**-p), (-4, -3), textcoords="offset points", ha="right", va="top", color=GREY,
        fontsize="small",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- images


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes: ``(..., C, H, W)`` floating -> ``(..., H, W, C)`` uint8 on the CPU.

    Values outside are clipped, as is usual for samples: -1 becomes 0, 1 becomes 255.

    Raises:
        TypeError: not a floating tensor.
        ValueError: a number of channels other than 1 or 3, or a NaN or infinity.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {x.dtype if isinstance(x, Tensor) else type(x).__name__}; images are floating tensors")
    if x.ndim < 3 or x.shape[-3] not in (1, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}; images are (..., 3, height, width) or (..., 1, height, width)")
    bad = int((~torch.isfinite(x)).flatten(-3).any(-1).sum())
    if bad:
        raise ValueError(f"{bad} image(s) contain NaN or infinity; use more steps, or another solver or grid")
    x = x.detach().to("cpu", torch.float64).movedim(-3, -1)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sheet(
    x: Tensor, columns: int | None = None, path: str | os.PathLike[str] | None = None, scale: int = 1, gap: int = 2
) -> Image.Image:
    """Images side by side on one white sheet.

    Args:
        x: ``(B, 3, H, W)`` or ``(B, 1, H, W)`` in [-1, 1].
        columns: images in a row; by default as square as possible.
        path: write a PNG file there, whole or not at all.
        scale: enlarge every pixel to a square of this size.
        gap: white pixels around each image, after enlarging; image i begins at
            ``(gap + (i // columns) * (scale * H + gap), gap + (i % columns) * (scale * W + gap))``.

    Returns:
        the sheet, a Pillow image.

    Raises:
        TypeError, ValueError: as :func:`to_uint8`, or no image, or numbers out of range.
        OSError: the file cannot be written.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or not len(x):
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is {found}; a sheet needs a tensor of images (batch, channels, height, width)")
    columns = ceil(sqrt(len(x))) if columns is None else columns
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns={columns} and scale={scale} must be positive, gap={gap} not negative")
    columns = min(columns, len(x))
    tiles = to_uint8(x).numpy().repeat(scale, 1).repeat(scale, 2)
    n, height, width, channels = tiles.shape
    rows = ceil(n / columns)
    canvas = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    image = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    if path is not None:
        write(path, lambda file: image.save(file, format="PNG"))
    return image


def images(x: Tensor, ax: Any = None, titles: Sequence[str] | None = None, columns: int | None = None) -> Any:
    """Show images in a notebook, by default in one row, with a title over each column.

    Args:
        x: ``(B, C, H, W)`` in [-1, 1].
        ax: axes to draw into; by default a new figure as wide as the book's.
        titles: one per column.
        columns: images in a row.

    Returns:
        the axes.
    """
    columns = len(x) if columns is None else columns
    picture = np.asarray(sheet(x, columns))
    if ax is None:
        rows = ceil(len(x) / columns)
        height = (WIDE[0] * picture.shape[0] / picture.shape[1]) + (0.3 if titles else 0)
        size = (WIDE[0], height) if height <= SIZE[1] or rows == 1 else (SIZE[0], SIZE[0] * height / WIDE[0])
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    if titles is not None:
        width = x.shape[-1] + 2
        centres = [1 + (i + 0.5) * width for i in range(len(titles))]
        ax.set_xticks(centres, titles, fontsize="small")
        ax.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
    return ax


def trajectory(solution: "Solution", count: int = 8, ax: Any = None) -> Any:
    """A run from noise to data: rows of images, one column per time, or paths in the plane.

    The states are shown in data space: pixels for DCT coefficients, positions for phase space.

    Args:
        solution: from ``solve(..., trajectory=True)``. Data ``(B, C, H, W)`` are shown as images; of data
            ``(B, d)`` the first two coordinates are drawn as paths.
        count: columns of images, spread evenly over the steps, both ends included.
        ax: axes to draw into.

    Raises:
        ValueError: the run kept no trajectory, or its states are neither images nor points.
    """
    states = solution.trajectory
    if states is None:
        raise ValueError("the solution has no trajectory; call solve(..., trajectory=True)")
    states = solution.decode(states.flatten(0, 1)).unflatten(0, states.shape[:2])
    if states.ndim == 3 and states.shape[-1] > 1:
        ax = panels(1)[1] if ax is None else ax
        for path, colour in zip(states.double().cpu().unbind(1), islice(cycle(_COLOURS), states.shape[1]), strict=True):
            ax.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.8, marker=".", markersize=3)
            ax.plot(path[-1, 0], path[-1, 1], color=colour, marker="o")
        ax.set(xlabel="coordinate 0", ylabel="coordinate 1")
        return ax
    if states.ndim != 5:
        raise ValueError(f"states are {tuple(states.shape[1:])}; give images (B, C, H, W) or points (B, d)")
    chosen = np.unique(np.linspace(0, len(states) - 1, count).round().astype(int)).tolist()
    titles = [f"t = {solution.times[min(i, len(solution.times) - 1)]:.3g}" for i in chosen]
    return images(states[chosen].transpose(0, 1).flatten(0, 1), ax, titles, columns=len(chosen))


# -------------------------------------------------------------------------------------------------------- files


def save(ax: Any, path: str | os.PathLike[str]) -> Path:
    """Write the figure of an axes as a PNG file (dpi 150), whole or not at all."""
    return write(path, lambda file: ax.figure.savefig(file, format="png", dpi=150))


def svg(ax: Any) -> str:
    """The figure of an axes as the text of an ``<svg>`` element, for a page that stands alone; the figure is closed."""
    file = io.StringIO()
    ax.figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(ax.figure)
    text = file.getvalue()
    return text[text.index("<svg") :]
