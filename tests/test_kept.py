"""What is computed once for a grid: bounded by bytes, the same for every batch, for the whole grid at once."""

import pytest
import torch

import diffnum as dn
from diffnum import grids
from diffnum.coefficients import adams_weights, panels
from diffnum.denoisers.targets import smooth
from diffnum.kept import BYTES, Kept, kept, weight
from diffnum.measure.checks import ROUNDED, assert_close
from diffnum.runner import draws_noise

MAKERS = {
    "vp": dn.VP, "ve": dn.VE, "cosine": dn.VP.cosine, "cld": dn.CLD, "psld": dn.PSLD,
    "table": lambda: dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "blurring": lambda: dn.Blurring((4, 4)),
}  # fmt: skip


def test_the_store_forgets_what_was_used_least_recently():
    store, made = Kept(3000), []

    def get(key):
        return store.get(key, lambda: made.append(key) or torch.full((100,), float(key), dtype=torch.float64))

    for key in (0, 1, 0, 2):  # 1350 bytes each: the third puts the least recent out
        assert get(key)[0] == key
    assert (made, len(store)) == ([0, 1, 2], 2)
    get(0)
    assert made == [0, 1, 2]
    get(1)
    assert made == [0, 1, 2, 1]
    assert store.bytes <= 3000
    store.get("large", lambda: torch.zeros(1000))  # more than all may take: not kept, and nothing else forgotten
    assert len(store) == 2
    assert weight(((0.5,) * 1000, [torch.zeros(8)])) > 24_000


def test_what_surrounds_the_first_call_leaves_no_trace():
    store = Kept()
    with torch.inference_mode(), torch.autocast("cpu"):
        found = store.get(0, lambda: torch.ones(2, 2) @ torch.ones(2, 2))
    assert not found.is_inference()
    assert found.dtype == torch.float32


@pytest.mark.parametrize("kind", MAKERS)
def test_a_thousand_new_grids_stay_within_the_bound(kind):
    process = MAKERS[kind]()
    name = "gddim_sde" if kind == "blurring" else "gddim"
    event = (1, 4, 4) if kind == "blurring" else (2,)
    problem = dn.Problem(process, dn.GaussianMixture([1.0], torch.zeros(1, *event), stds=[0.5]))
    u = problem.prior((1, *event), dtype=torch.float64)
    kept.clear()
    count = 1000 if kind in ("vp", "ve") else 100  # the others keep matrices: fewer of them fill the store
    for k in range(count):
        dn.solve(problem, name, u, grids.quadratic(process, 4, t_end=1e-3 * (1 + 1e-3 * k)))
    assert 0 < kept.bytes <= BYTES
    assert kept.bytes == sum(size for _, size in kept._entries.values())
    rows = len(kept)
    dn.solve(problem, name, u, grids.quadratic(process, 4, t_end=1e-3))
    assert len(kept) <= rows + 5


@pytest.mark.parametrize("kind", ["vp", "cld", "blurring"])
def test_a_last_smaller_batch_and_another_dtype_are_not_cold(kind, monkeypatch):
    process = MAKERS[kind]()
    event = (1, 4, 4) if kind == "blurring" else (2,)
    problem = dn.Problem(process, dn.GaussianMixture([1.0], torch.zeros(1, *event), stds=[0.5]))
    times = grids.quadratic(process, 5)
    for name, solver in dn.solvers.registry.items():
        if process.family not in solver.families:
            continue
        noise = {"noise": dn.noise.Seeded(0)} if draws_noise(solver) else {}
        dn.solve(problem, name, problem.prior((3, *event)), times, **noise)
        before = len(kept)
        for rows, dtype in ((2, torch.float32), (3, torch.float64)):
            noise = {"noise": dn.noise.Seeded(0)} if noise else {}
            dn.solve(problem, name, problem.prior((rows, *event), dtype=dtype), times, **noise)
        assert len(kept) == before, name


def test_nothing_is_computed_time_by_time(monkeypatch):
    """A grid of 200 steps asks the schedule no more often than one of 20."""
    calls = []
    plain = dn.VP._signal
    monkeypatch.setattr(dn.VP, "_signal", lambda self, t: calls.append(t.numel()) or plain(self, t))
    problem = dn.Problem(dn.VP(), smooth())
    u = problem.prior((2, 4), dtype=torch.float64)
    for name in ("ddim", "s_pndm", "f_pndm", "plms", "prk", "dpmpp_2m", "gddim", "er_sde", "ancestral", "heun"):
        counts = []
        for n in (20, 200):
            kept.clear()
            calls.clear()
            dn.solve(problem, name, u, grids.log_snr(problem.process, n))
            counts.append(len(calls))
        assert counts[1] <= counts[0] + 2 < 40, (name, counts)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_tables_of_a_grid_are_those_of_its_times(kind):
    """All at once or one by one: the same numbers to rounding."""
    process = MAKERS[kind]()
    times = grids.quadratic(process, 6).tolist()
    u = torch.zeros(2, *((1, 4, 4) if kind == "blurring" else (2, 3) if process.numbers == 4 else (3,))).double()
    for what in ("R", "L", "score", "velocity"):
        for t, whole in zip(times, process.forms(times, what, u), strict=True):
            for a, b in zip(whole, process.forms((t,), what, u)[0], strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
                    assert_close(a, b, ROUNDED * (1 + b.abs().max().item()))


def test_panels_cover_their_intervals():
    edges = [(0.0, 1.0), (2.0, 0.5), (1e-3, 1.1e-3), (5.0, 5.0)]
    pieces, owner = panels(edges, [0.25, 0.7, 1.5, 9.0])
    for i, (a, b) in enumerate(edges):
        own = pieces[owner == i]
        assert (own[0, 0], own[-1, 1]) == (a, b)
        assert (own[1:, 0] == own[:-1, 1]).all()
        assert ((own[:, 1] - own[:, 0]) * (b - a) >= 0).all()
        inside = [x for x in (0.25, 0.7, 1.5) if min(a, b) < x < max(a, b)]
        assert set(inside) <= set(own[:, 0])
    assert adams_weights([0.0, -1.0], 0.0, 1.0) == pytest.approx((1.5, -0.5), rel=ROUNDED)
