"""What the benchmarks assert without a clock: memory, equal numbers of network calls, and the stored results."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks import overhead, peers, scaling
from benchmarks.__main__ import broken_scaling

import diffnum as dn
from diffnum.coefficients import combine

RESULTS = Path(__file__).parents[1] / "book" / "results" / "bench.json"
rows = pytest.mark.parametrize("row", overhead.ROWS, ids=lambda row: row.name)


@rows
def test_memory_is_the_history_and_three_states(row):
    assert overhead.peak_memory(row) <= row.history + 3.01  # a few numbers stand beside the states


@rows
def test_hand_written_forms_call_the_network_as_often_as_the_solver(row, monkeypatch):
    calls = []
    eps = overhead.Stored.eps
    monkeypatch.setattr(overhead.Stored, "eps", lambda self, x, sigma: calls.append(1) or eps(self, x, sigma))
    case = overhead.prepare(row)
    calls.clear()
    case.hand()
    assert len(calls) == case.nfe


def test_every_row_is_of_a_registered_solver_and_has_a_name_of_its_own():
    """A new solver needs no row: what has none stands under `not_measured` in the results."""
    names = [row.name for row in overhead.ROWS]
    assert len(set(names)) == len(names)
    assert {row.solver for row in overhead.ROWS} <= set(dn.solvers.registry)


@pytest.mark.parametrize("row", [r for r in overhead.ROWS if r.variable is not overhead.InRho], ids=lambda r: r.name)
def test_hand_written_forms_leave_the_state_before_a_step_alone(row):
    """The one rule of the library that costs memory; a form that broke it would be timed with fewer passes."""
    u = dn.noise.Seeded(0)(torch.empty(row.shape))
    start = row.variable.arranged(u)
    part = row.variable(overhead.Stored(), start, torch.zeros_like(start))
    row.form(part, start, 1)
    assert torch.equal(u, dn.noise.Seeded(0)(torch.empty(row.shape)))


def test_memory_does_not_grow_with_steps():
    few, many = (scaling.extra_memory("plms", n) for n in (20, 200))
    assert many <= few + 0.5, "states"


def test_limits_of_scaling_are_told_where_they_do_not_hold():
    good = {
        "import": {"diffnum_over_torch": 0.1, "help_s": 0.2}, "memory_states": {"ddim": {20: 5.0, 1000: 5.0}},
        "new_grid_ms": {"ddim": {20: 0.4, 1000: 9.0}, "gddim": {20: 1.9, 1000: 59.0}},
    }  # fmt: skip
    assert broken_scaling(good) == []
    for change in (
        {"import": {"diffnum_over_torch": 1.2, "help_s": 0.2}}, {"import": {"diffnum_over_torch": 0.1, "help_s": 0.5}},
        {"memory_states": {"ddim": {20: 5.0, 1000: 6.0}}}, {"new_grid_ms": {"ddim": {20: 0.6}}},
        {"new_grid_ms": {"er_sde": {1000: 61.0}}},
    ):  # fmt: skip
        assert len(broken_scaling(good | change)) == 1


def test_the_cheapest_peer_is_the_one_to_beat():
    found = {"a": {"cost": {"ddim": {"ratio": 3.0}, "lms": {"ratio": 0.9}}}, "b": {"cost": {"ddim": {"ratio": 2.0}}}}
    assert peers.fastest(found) == {"ddim": ("b", 2.0), "lms": ("a", 0.9)} and peers.fastest({}) == {}
    assert {solver for solver, *_ in peers.METHODS.values()} <= set(dn.solvers.registry)


def test_the_start_of_the_program_is_measured_in_cpu_time():
    assert scaling.start("import diffnum", rounds=1) > 0 and scaling.start(scaling.HELP, rounds=1) > 0


def test_cost_per_number_is_a_quotient_of_floors():
    named = {overhead.gddim("CLD", 2): {"lerps_min": 6.0}, overhead.gddim("VP", 2): {"lerps_min": 4.0}}
    assert overhead.per_number(named) == {"2": 1.5}


def test_stored_results_are_those_of_the_table_and_judged_by_their_numbers():
    text = RESULTS.read_text("utf-8")
    result = json.loads(text)
    assert list(result["overhead"]["solvers"]) == [row.name for row in overhead.ROWS]
    assert list(result["overhead"]["phase_space"]) == [str(order) for order in overhead.ORDERS]
    for name, row in result["overhead"]["solvers"].items():  # whether they hold is a matter of the processor, too
        beyond = any(line.startswith(f"{name}: ") and "hand-written" in line for line in result["broken"])
        assert beyond == (row["ratio_min"] > result["limits"]["ratio"])
    assert max(result["overhead"]["phase_space"].values()) < 2.75
    assert {"cpu", "cores", "threads", "torch", "date"} <= set(result["machine"])
    assert not any(part in text for part in ("/home", "/root", "/tmp", "/work", "/Users"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_combine_is_the_weighted_sum(dtype):
    x, y, z = dn.noise.Seeded(0).normal((3, 50)).to(dtype)
    for weights in ((0.3,), (1.0,), (0.3, -2.0), (1.0, 0.7), (1.0, 0.7, 1e-3), (0.0, 1.0, 5.0)):
        states = (x, y, z)[: len(weights)]
        plain = sum(w * s.double() for w, s in zip(weights, states, strict=True))
        got = combine(weights, states)
        assert got.dtype == dtype and got.data_ptr() not in [s.data_ptr() for s in states]
        torch.testing.assert_close(got.double(), plain, rtol=0, atol=8 * torch.finfo(dtype).eps * 8)
    with pytest.raises(ValueError, match="2 weights for 1 states"):
        combine((1.0, 2.0), (x,))


def test_combine_after_inference_mode_still_has_gradients():
    """Numbers are kept as tensors between calls; one made in inference mode must serve a run with gradients."""
    x = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        combine((0.123456,), (torch.ones(3),))
    combine((0.123456,), (x,)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 0.123456))
