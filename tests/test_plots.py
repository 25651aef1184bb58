"""Pictures: the order plot says what was measured, and images survive the way into a file."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from diffnum import plots
from diffnum.measure.analysis import Convergence
from diffnum.runner import Solution, registry

STEPS = (20, 40, 80, 160)


@pytest.fixture(autouse=True)
def closed():
    with plt.rc_context():
        yield
    plt.close("all")


def result(name="f_pndm", order=2, claim=2, extra=9):
    """Errors that fall with exactly the given order in the number of steps."""
    errors = tuple(0.5 * n**-order for n in STEPS)
    return Convergence(name, STEPS, tuple(n + extra for n in STEPS), errors, torch.zeros(4, 1), claim)


def test_convergence_labels_axes_slopes_and_ideal_lines():
    ax = plots.convergence([result(), result("rk4", 4, 4, 0), result("mine", 1, None)])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "network evaluations" and "error" in ax.get_ylabel()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [f"{n}: observed order {p:.2f}" for n, p in (("f_pndm", 2), ("rk4", 4), ("mine", 1))]
    assert {text.get_text() for text in ax.texts} == {"order 1", "order 2", "order 4"}
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    for line, p in zip(dashed, (1, 2, 4), strict=True):
        x, y = (np.log(values) for values in line.get_data())
        assert (y[0] - y[1]) / (x[1] - x[0]) == pytest.approx(p)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [n + 9 for n in STEPS])
    assert ax.lines[0].get_color() == plots.STYLE["f_pndm"]["color"]
    ax.figure.canvas.draw()  # no warning: all text and ticks can be laid out


def test_convergence_draws_into_given_axes_and_survives_exact_results():
    _, (left, right) = plots.panels()
    assert plots.convergence(result(), ax=right) is right and not left.lines
    exact = Convergence("ddim", STEPS, STEPS, (1e-3, 1e-7, 0.0, 0.0), torch.zeros(4, 1), 1)
    ax = plots.convergence(exact, ax=left)
    assert ax.get_legend().get_texts()[0].get_text().startswith("ddim: ")
    assert len(ax.lines[0].get_xdata()) == 2
    with pytest.raises(ValueError, match="empty"):
        plots.convergence([])


def test_same_solver_twice_is_told_apart():
    ax = plots.convergence([result("prk"), result("prk, midpoint=sigma", 4, 4)])
    first, second = ax.lines[:2]
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_markerfacecolor() != second.get_markerfacecolor()


def test_every_solver_has_a_style_of_its_own():
    import diffnum.solvers  # noqa: F401

    looks = {tuple(sorted(plots.style(name).items())) for name in registry}
    assert len(looks) == len(registry)
    assert {look["marker"] for look in map(plots.style, ("f_pndm", "mine"))} != {""}
    assert plots.style("a reader's own") == plots.style("a reader's own, order=2")


def test_sheet_round_trip(tmp_path):
    x = torch.linspace(-1, 1, 5 * 3 * 4 * 6).reshape(5, 3, 4, 6)
    path = tmp_path / "sheet.png"
    image = plots.sheet(x, columns=3, path=path, scale=2, gap=1)
    with Image.open(path) as file:
        pixels = np.asarray(file)
    assert np.array_equal(pixels, np.asarray(image)) and pixels.shape == (1 + 2 * 9, 1 + 3 * 13, 3)
    expected = plots.to_uint8(x).numpy()
    for i in range(5):
        top, left = 1 + i // 3 * 9, 1 + i % 3 * 13
        assert np.array_equal(pixels[top : top + 8 : 2, left : left + 12 : 2], expected[i])
    assert (pixels[0] == 255).all() and (pixels[10:, 27:] == 255).all()
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_to_uint8():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).reshape(5, 1, 1, 1)
    assert plots.to_uint8(x).flatten().tolist() == [0, 0, 128, 255, 255]
    byte = torch.arange(256).reshape(256, 1, 1, 1)
    assert torch.equal(plots.to_uint8(byte.double() / 127.5 - 1).flatten(), byte.flatten().to(torch.uint8))
    assert plots.sheet(x.bfloat16()).mode == "L"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_images_are_refused_and_leave_no_file(tmp_path, bad):
    x = torch.zeros(4, 3, 8, 8)
    x[2, 1, 3, 3] = bad
    with pytest.raises(ValueError, match="1 image"):
        plots.sheet(x, path=tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(2, 4, 8, 8), torch.zeros(0, 3, 8, 8), None])
def test_sheet_refuses_what_is_not_images(x):
    with pytest.raises(ValueError):
        plots.sheet(x)
    with pytest.raises(TypeError):
        plots.to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        plots.write(path, fail)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_images_and_trajectory():
    plots.use()
    ax = plots.images(torch.zeros(3, 3, 8, 8), titles=["a", "b", "c"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    times = torch.linspace(1, 0.1, 6, dtype=torch.float64)
    pictures = torch.zeros(6, 2, 3, 8, 8)
    ax = plots.trajectory(Solution(pictures[-1], pictures[-1], 5, times, pictures), count=4)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert len(labels) == 4 and labels[0] == "t = 1" and labels[-1] == "t = 0.1"
    points = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0))
    assert len(plots.trajectory(Solution(points[-1], points[-1], 5, times, points)).lines) == 4
    with pytest.raises(ValueError, match="trajectory=True"):
        plots.trajectory(Solution(points[-1], points[-1], 5, times))
