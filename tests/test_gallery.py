"""The gallery's rows, and the stored results: they are of the shipped networks and of every registered solver."""

import json
from itertools import pairwise

import pytest
from benchmarks import gallery

import diffnum as dn
from diffnum.measure.analysis import evaluations

ROWS = [row for rows in gallery.SHEET.values() for row in rows]


@pytest.fixture(scope="module")
def stored():
    return json.loads(gallery.OUT.read_text("utf-8"))


def test_every_row_is_of_a_registered_solver_on_a_process_it_can_integrate():
    """A new solver needs no row: a sheet of pictures is drawn when there is something to see."""
    assert {row.solver for row in ROWS} <= set(dn.solvers.registry)
    assert len({(row.name, row.process) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        families = dn.solvers.registry[row.solver].families
        assert gallery.named.process(row.process).family in families, row.name


def test_stored_runs_are_those_of_the_rows_and_of_the_shipped_networks(stored):
    for process, checksum in stored["about"]["weights_sha256"].items():
        assert checksum == gallery.named.network("cifar10", process).sha256, f"run make gallery: {process}"
    kept = [row for rows in stored["gallery"].values() for row in rows]
    assert [row["name"] for row in kept] == [row.name for row in ROWS]
    for row in kept:
        process = gallery.named.process(row["process"])
        for run in row["runs"]:
            assert run["nfe"] == evaluations(process, row["solver"], run["steps"], **row["options"]) <= run["budget"]
            assert ("error" in run) is not (row["stochastic"] or run["lost"])


def test_averaging_the_noise_label_removes_the_ripple_and_little_else():
    net = gallery.problem("vp").denoiser
    smooth = gallery.smoothed(net)
    device, dtype = gallery.torch.device("cpu"), gallery.torch.float64
    label = gallery.torch.linspace(-1, 1, 81, dtype=dtype)[:, None]

    def embedded(denoiser):
        inner = denoiser._net(device, dtype)
        p = label * inner.freq
        return inner.embed(gallery.torch.cat([p.cos(), p.sin()], 1))

    before, after = embedded(net), embedded(smooth)
    sixth = [gallery.rms(values.diff(6, 0)) for values in (before, after)]
    assert sixth[1] < sixth[0] / 100
    assert gallery.rms(after - before) < 0.3 * gallery.rms(before)
    assert net._net(device, dtype).freq.numel() > 1, "the network itself is left alone"


def test_stored_slopes_are_the_orders(stored):
    claims = {"ddim": 1, "s_pndm": 2, "f_pndm": 2, "dpmpp_2m": 2, "gddim, order=2": 2, "gddim, order=3": 3}
    rows = {row["name"]: row for row in stored["order"]["rows"]}
    assert rows.keys() == claims.keys()
    for name, order in claims.items():
        errors = rows[name]["float64"]
        assert all(a > b for a, b in pairwise(errors))
        assert gallery.log(errors[-2] / errors[-1]) / gallery.log(2) == pytest.approx(order, abs=0.15)
