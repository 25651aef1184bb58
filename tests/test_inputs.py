"""What a caller gives, and what surrounds a call: nothing changes later, nothing fails from below, nothing in silence.

One test for each kind of fault. Numbers are compared bit for bit, or with finite differences.
"""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum import grids, noise
from diffnum.denoisers import network as nets
from diffnum.denoisers.prediction import KINDS
from diffnum.denoisers.unet import Config, UNet
from diffnum.devices import existing
from diffnum.errors import Unchangeable
from diffnum.kept import kept
from diffnum.measure import analysis, plots
from diffnum.measure.checks import assert_exact
from diffnum.processes.schedules import Cosine, Linear, Table
from diffnum.runner import draws_noise
from diffnum.solvers import registry

OURS = (ValueError, TypeError, KeyError, dn.DiffnumError)
EVENT = (2, 4, 4)  # of all data here: two channels of 4 x 4 pixels
MAKERS = {
    "vp": dn.VP,
    "cosine": dn.VP.cosine,
    "table": lambda: dn.VP.from_betas(torch.linspace(1e-4, 0.02, 100, dtype=torch.float64, device="cpu")),
    "ve": dn.VE,
    "cld": dn.CLD,
    "psld": dn.PSLD,
    "blurring": lambda: dn.Blurring((4, 4)),
}
SHORT = {"isotropic": ("vp", "table"), "phase_space": ("cld", "psld"), "blurring": ("blurring",)}
PAIRS = [(name, process) for name, run in registry.items() for family in run.families for process in SHORT[family]]


def rand(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, device="cpu").to(dtype)


def mixture():
    return dn.GaussianMixture([0.4, 0.6], rand(2, *EVENT, seed=1), stds=[0.3, 0.5])


def problem_of(process, denoiser=None):
    return dn.Problem(MAKERS[process]() if isinstance(process, str) else process, denoiser or mixture())


def forget():
    """Empty every cache of the library, so that what surrounds a call can reach what is computed in it."""
    modules = [module for name, module in sys.modules.items() if name.startswith("diffnum")]
    for value in [value for module in modules for value in vars(module).values()]:
        getattr(value, "cache_clear", lambda: None)()
    kept.clear()


# ------------------------------------------------------------------------------------------- nothing changes later
FROZEN = {
    **MAKERS,
    "linear schedule": lambda: Linear(0.1, 20),
    "cosine schedule": Cosine,
    "table schedule": lambda: Table([0.1, 0.2]),
    "point": lambda: dn.PointMass([1.0, 2.0]),
    "gaussian": lambda: dn.Gaussian([1.0], 1.0),
    "mixture": mixture,
    "empirical": lambda: dn.Empirical(rand(3, 2)),
    "prediction": lambda: dn.from_prediction(len, dn.VP()),
    "network": lambda: nets.Network(UNet(Config((16,), (True,), 1, 1, 16, 4))),
    "blurring network": lambda: nets.BlurringNetwork(UNet(Config((16,), (True,), 1, 1, 16, 4)), torch.ones(32, 32)),
    "problem": lambda: problem_of("vp"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_made_is_not_changed(name):
    """Numbers computed before are kept: an assignment would go on with the old ones."""
    made = FROZEN[name]()
    public = {key for key in dir(made) if not key.startswith("__")}
    for key in (*public, "another"):
        with pytest.raises(Unchangeable, match=rf"{type(made).__name__}\.{key} cannot be changed.*make a new"):
            setattr(made, key, 3)
    with pytest.raises(AttributeError, match="make a new"):
        del made.__dict__, made.family


def test_equal_numbers_make_equal_objects():
    assert dn.VP() == dn.VP(np.float64(0.1), beta_max=20) != dn.VP(0.2)
    assert hash(dn.VP.cosine()) == hash(dn.VP.cosine(0.008)) and dn.VP.cosine() != dn.VP()
    assert len({dn.PSLD(), dn.PSLD(8), dn.PSLD((8, 8.0)), dn.CLD(), dn.VE(), dn.VE(80)}) == 4
    betas = torch.full((3,), 0.1)
    one = dn.VP.from_betas(betas)
    betas[0] = 0.2  # the same tensor, another table
    assert one != dn.VP.from_betas(betas) and one == one

    class Own(dn.VP):
        def __init__(self, power):
            super().__init__()
            self.power = power

    assert Own(2) == Own(2) != Own(3) and Own(2) != dn.VP()
    with pytest.raises(Unchangeable):
        Own(2).power = 3


GIVEN = {
    "betas": (torch.full((5,), 0.1), dn.VP.from_betas, lambda p: p.alpha(0.7)),
    "array of betas": (np.full(5, 0.1), dn.VP.from_betas, lambda p: p.alpha(0.7)),
    "point": (rand(4), dn.PointMass, lambda d: d(rand(2, 4), 0.5)),
    "mean": (rand(4), lambda m: dn.Gaussian(m, 1.0), lambda d: d(rand(2, 4), 0.5)),
    "cov": (torch.ones(4).double(), lambda c: dn.Gaussian(rand(4), c), lambda d: d(rand(2, 4), 0.5)),
    "weights": (torch.tensor([0.5, 0.5]).double(), lambda w: dn.GaussianMixture(w, rand(2, 4), stds=[1, 1]),
                lambda d: d(rand(2, 4), 0.5)),
    "covs": (torch.eye(4).double()[None], lambda c: dn.GaussianMixture([1], rand(1, 4), covs=c),
             lambda d: d(rand(2, 4), 0.5)),
    "points": (rand(6, 4), dn.Empirical, lambda d: d(rand(2, 4), 0.5)),
    "array of points": (rand(6, 4).numpy(), dn.Empirical, lambda d: d(rand(2, 4), 0.5)),
    "wiener": (torch.eye(3).double().repeat(4, 4, 1, 1), lambda c: nets.Wiener(torch.zeros(3, 4, 4), c),
               lambda d: d.eps(rand(2, 3, 4, 4), torch.full((1, 1, 1, 1), 0.5).double())),
    "times": (grids.uniform(dn.VP(), 4), lambda t: dn.solve(problem_of("vp"), "ddim", rand(2, *EVENT), t),
              lambda s: s.times),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_writing_into_what_was_given_changes_nothing(name):
    given, make, use = GIVEN[name]
    made = make(given)
    before = use(made)
    given[:] = given.flip(0) * 0.3 if isinstance(given, torch.Tensor) else given * 0.3
    assert np.array_equal(use(made), before)


def test_threads_count_their_own_evaluations():
    problem, u = problem_of("vp"), rand(2, *EVENT)
    inside = []

    def watched(problem, u, times):
        for state in registry["heun"](problem, u, times):
            inside.append(problem.nfe)
            yield state

    times = grids.log_snr(problem.process, 50)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: dn.solve(problem, watched, u, times, denoise=True), range(8)))
    assert [run.nfe for run in runs] == [101] * 8 and problem.nfe == 8 * 101
    assert sorted(inside) == sorted([*range(2, 101, 2)] * 8)  # a solver sees the count of its own run
    problem.eps(u, 0.5)
    assert problem.nfe == 8 * 101 + 1


# ------------------------------------------------------------------------------------- what surrounds a call
@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "deterministic": deterministic,
    "numpy raises": lambda: np.errstate(all="raise"),
}


def everything(name, process, dtype=torch.float32):
    """A run from the first constructor to the last state, with nothing kept from another."""
    forget()
    kind = type(made := MAKERS[process]())
    problem = problem_of(made)
    times = grids.log_snr(made, 5)
    x0 = rand(3, *EVENT, dtype=dtype)
    u = problem.prior(x0.shape, seed=1, dtype=dtype)
    run = dn.solve(problem, name, u, times, trajectory=True, denoise=kind is not dn.Blurring)
    rows = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, device="cpu")
    return [times, u, run.trajectory, run.x, made.perturb(x0, rows), made.encode(x0), problem.velocity(u, rows)]


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_what_surrounds_a_run_changes_nothing(name, process):
    """Bit for bit: torch's modes and defaults reach neither coefficients nor states."""
    plain = everything(name, process)
    for mode, enter in AMBIENT.items():
        with enter():
            other = everything(name, process)
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True)), mode


def test_levels_off_the_path_are_refused_beside_kept_ones():
    """A key that is a part of what was given finds numbers of something else."""
    network, y = small_network("blurring"), rand(2, 3, 32, 32)
    sigma = dn.Blurring((32, 32)).statistic(0.4)[1]
    network.posterior_eps(y, sigma)
    other = sigma.clone()
    other[1:-1, 1:-1] *= 2
    with pytest.raises(ValueError, match="not on the path"):
        network.posterior_eps(y, other)


def small_network(kind):
    net = UNet(Config((16, 16), (False, True), 1, 1, 16, 4))
    if kind == "blurring":
        return nets.BlurringNetwork(net, torch.ones(32, 32, dtype=torch.float64, device="cpu"))
    gain = torch.linspace(3, 0.01, 32, dtype=torch.float64, device="cpu")
    cov = (gain[:, None] * gain)[..., None, None] * torch.eye(3, dtype=torch.float64, device="cpu")
    return nets.Network(net, nets.Wiener(torch.zeros(3, 32, 32, device="cpu"), cov))


class Timeless(torch.nn.Linear):
    def forward(self, u, t):
        return super().forward(u)


DENOISERS = {
    "point": lambda: dn.PointMass(rand(*EVENT)),
    "full": lambda: dn.Gaussian(rand(2), [[2.0, 1.0], [1.0, 3.0]]),
    "dct": lambda: dn.Gaussian(rand(*EVENT), 0.3, basis="dct"),
    "empirical": lambda: dn.Empirical(rand(300, *EVENT)),
    "network": lambda: small_network("edm"),
    "blurring network": lambda: small_network("blurring"),
    "prediction": lambda: dn.from_prediction(Timeless(2, 2, dtype=torch.float32, device="cpu"), dn.VP()),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_what_surrounds_a_denoiser_changes_nothing(name):
    def values():
        forget()
        torch.manual_seed(0)
        denoiser = make()
        x = rand(2, *(denoiser.shape or (2,)), dtype=torch.float32)
        if name == "blurring network":
            sigma = dn.Blurring((32, 32)).statistic(0.4)[1]
            return [denoiser.posterior(x, sigma), denoiser.posterior_eps(x, torch.stack([sigma, sigma]))]
        rows = torch.tensor([0.3, 400.0], dtype=torch.float64, device="cpu")
        out = [denoiser(x, 0.7), denoiser.eps(x, 0.7), denoiser.eps(x, rows)]
        return [*out, denoiser.posterior(x, torch.full_like(x[0, 0], 0.4))] if name in ("point", "empirical") else out

    made = DENOISERS[name]()  # outside: a new network draws its weights in the default dtype
    fixed = name in ("network", "blurring network", "prediction")
    make = (lambda: made) if fixed else DENOISERS[name]
    plain = values()
    for mode, enter in AMBIENT.items():
        if name == "prediction":
            make = lambda: dn.from_prediction(made.model, dn.VP())  # noqa: E731
        with enter(), torch.no_grad():
            other = values()
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True)), mode


def test_a_network_uses_autocast_only_if_it_says_so():
    network = small_network("edm")
    x = rand(2, 3, 32, 32, dtype=torch.float32)
    plain, rough = network.eps(x, 0.5), network.in_bfloat16().eps(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.eps(x, 0.5), plain) and torch.equal(network.in_bfloat16().eps(x, 0.5), rough)
    assert 0 < (rough - plain).abs().max() < 0.1 and not network.half


@pytest.mark.parametrize("process", ["vp", "cld", "psld", "blurring"])
@pytest.mark.parametrize("kind", ["exact", "network"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # a cast makes a new tensor, or none
def test_inference_mode_leaves_gradients_working(process, kind, dtype):
    """Everything that a run keeps is filled under inference_mode first, and made there too."""
    forget()
    with torch.inference_mode():
        made = dn.Blurring((32, 32)) if kind == "network" and process == "blurring" else MAKERS[process]()
        denoiser = mixture() if kind == "exact" else small_network("blurring" if process == "blurring" else "edm")
        problem = dn.Problem(made, denoiser)
        u = problem.prior((2, *denoiser.shape), dtype=dtype)
        times = grids.log_snr(made, 3)
        dn.solve(problem, "gddim", u, times)
        with pytest.raises(dn.DiffnumError, match="inference_mode"):
            dn.solve(problem, "gddim", u, times, gradients=True)
    dn.solve(problem, "gddim", u, times, gradients=True)
    start = u.clone().requires_grad_()
    dn.solve(problem, "gddim", start, times, gradients=True).x.sum().backward()
    assert start.grad.abs().max() > 0


# ---------------------------------------------------------------------------------------------------- gradients
class Scaled:
    """A denoiser with a parameter: its noise prediction is a multiple of the exact one."""

    def __init__(self):
        self.exact, self.shape = mixture(), EVENT
        self.scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)

    def __call__(self, x, sigma):
        return self.scale * self.exact(x, sigma)

    def eps(self, x, sigma):
        return self.scale * self.exact.eps(x, sigma)

    def posterior(self, y, sigma):
        return self.scale * self.exact.posterior(y, sigma)

    def posterior_eps(self, y, sigma):
        return self.scale * self.exact.posterior_eps(y, sigma)


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_gradients_are_those_of_finite_differences(name, process):
    """The end of a run with respect to its start and to a parameter of the denoiser.

    A central difference with step h errs by h^2 times the third derivative, which Richardson's extrapolation removes,
    and by roundoff/h: with h = 1e-5 1e-11 of the values, which a mixture magnifies by at most some thousands.
    """
    denoiser = Scaled()
    problem = dn.Problem(MAKERS[process](), denoiser)
    times = grids.quadratic(problem.process, 4, t_end=0.05)
    start, direction = problem.prior((2, *EVENT), seed=1, dtype=torch.float64), None
    direction, weights = rand(*start.shape, seed=3), rand(*start.shape, seed=4)

    def end(u, scale, **options):
        denoiser.scale = scale
        given = {"noise": noise.Seeded(5)} if draws_noise(registry[name]) else {}
        if name == "dpm_adaptive":
            given["tolerance"] = 1e3  # gradients are those of the steps as they were taken: take these whatever u is
        return (dn.solve(problem, name, u, times, **given, **options).u * weights).sum()

    u, scale, h = start.clone().requires_grad_(), torch.tensor(0.9).double().requires_grad_(), 1e-5
    by_u, by_scale = torch.autograd.grad(end(u, scale, gradients=True), (u, scale))
    at = scale.detach()

    def central(along, h):
        two = [(along(k * h) - along(-k * h)) / (2 * k * h) for k in (1, 2)]
        return (4 * two[0] - two[1]) / 3

    difference = central(lambda h: end(start + h * direction, at), h)
    torch.testing.assert_close((by_u * direction).sum(), difference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_scale, central(lambda h: end(start, at + h), h), rtol=1e-6, atol=1e-6)
    assert not end(u, scale).requires_grad


def slope(function, at, h=1e-5):
    """Derivative of a number along all entries of ``at`` alike: errs by h^2 times the third, which is of order one."""
    return (function(at + h) - function(at - h)) / (2 * h)


@pytest.mark.parametrize("process", [*MAKERS, "rectified"])
@pytest.mark.parametrize("rows", [False, True])
def test_gradients_with_respect_to_the_time(process, rows):
    """One time for all rows, or one per row: of every field, of noisy data and of what the process is made of.

    A table has kinks at its times.
    """
    made = dn.RectifiedFlow() if process == "rectified" else MAKERS[process]()
    problem, top = problem_of(made), made.t_max
    u = problem.prior((2, *EVENT), seed=1, dtype=torch.float64)
    at = torch.tensor([0.405, 0.605] if rows else 0.405, dtype=torch.float64) * (0.02 if process == "ve" else 1) * top
    fields = [getattr(problem, name) for name in ("eps", "x0", "score", "velocity")]
    functions = [lambda t, field=field: field(u, t) for field in fields]
    functions += [lambda t: problem.drift(u, u, t, 0.5), lambda t: made.perturb(rand(2, *EVENT), t), made.G]
    for function in functions:
        t = at.clone().requires_grad_()
        (found,) = torch.autograd.grad(function(t).sum() + 0 * t.sum(), t)  # the rates of a table are constant
        torch.testing.assert_close(found.sum(), slope(lambda t: function(t).sum(), at), rtol=1e-5, atol=1e-5)


class Trained:
    """A guide with a parameter."""

    classes = 2

    def __init__(self):
        self.matrix = rand(2, 2).requires_grad_()

    def logits(self, x, sigma):
        return torch.tanh(x @ self.matrix) / (1 + torch.as_tensor(sigma).reshape(-1, 1))


def test_gradients_with_respect_to_the_level_and_to_a_guide():
    """The gradient inside a guided denoiser must not end the one outside, whatever it is with respect to."""
    exact, guide, x = dn.Gaussian([0.0, 1.0], 0.5), Trained(), rand(3, 2)
    levels = torch.tensor([0.4, 0.7, 1.1], dtype=torch.float64)
    network, image = small_network("edm"), rand(2, 3, 32, 32)
    guided = dn.Guided(exact, guide, label=1, weights=2.0)
    for denoiser, x0, at in (
        (exact, x, levels),
        (guided, x, levels),
        (guided, x, levels[0]),
        (network, image, levels[0]),
    ):
        for function in (denoiser, denoiser.eps):
            s = at.clone().requires_grad_()
            (found,) = torch.autograd.grad(function(x0, s).sum(), s)
            torch.testing.assert_close(found.sum(), slope(lambda s: function(x0, s).sum(), at), rtol=1e-6, atol=1e-6)
    x, matrix = rand(3, 2), guide.matrix.detach().clone()

    def end(moved):
        guide.matrix = moved
        return guided.eps(x, 0.7).sum()

    (found,) = torch.autograd.grad(guided.eps(x, 0.7).sum(), guide.matrix)
    torch.testing.assert_close(found.sum(), slope(end, matrix), rtol=1e-6, atol=1e-6)
    guide.matrix = matrix.requires_grad_()
    with torch.no_grad():
        assert not guided.eps(x, levels).requires_grad


def test_what_has_no_gradient_refuses_one():
    """Without a refusal, a part would be taken for the whole."""
    problem = problem_of("vp")
    u, times = problem.prior((2, *EVENT)), grids.log_snr(problem.process, 3)
    with pytest.raises(dn.DiffnumError, match="times requires gradients"):
        dn.solve(problem, "ddim", u, times.clone().requires_grad_(), gradients=True)
    with pytest.raises(dn.DiffnumError, match="lam requires gradients"):
        dn.steps(problem, "gddim_sde", u, times, lam=torch.tensor(0.5, requires_grad=True), gradients=True)
    assert dn.solve(problem, "ddim", u, times, gradients=torch.tensor(True)).nfe == 3
    level = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(dn.DiffnumError, match="no gradient"):
        dn.Empirical(rand(9, *EVENT)).eps(rand(2, *EVENT), level)
    blurring = dn.Problem(dn.Blurring((32, 32)), small_network("blurring"))
    with pytest.raises(dn.DiffnumError, match="no gradient"):
        blurring.eps(rand(2, 3, 32, 32), level)


def test_empirical_refuses_gradients():
    """It has none: without a refusal those of the linear part would be taken for the whole."""
    for process in ("vp", "cld", "blurring"):
        problem = problem_of(process, dn.Empirical(rand(9, *EVENT)))
        u = problem.prior((2, *EVENT)).requires_grad_()
        times = grids.quadratic(problem.process, 3)
        assert dn.solve(problem, "gddim", u, times).u.isfinite().all()
        assert dn.solve(problem, "gddim", u.detach(), times, gradients=True).u.isfinite().all()
        with pytest.raises(dn.DiffnumError, match="no gradient"):
            dn.solve(problem, "gddim", u, times, gradients=True)
        with pytest.raises(dn.DiffnumError, match="no gradient"):
            problem.velocity(u, 0.5)


# --------------------------------------------------------------------------------------------- states and layouts
def odd_tensors(shape):
    dense = torch.zeros(shape)
    yield from (dense.to(dtype) for dtype in (torch.float16, torch.complex64, torch.int32, torch.bool))
    yield from (dense.to(dtype) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2))
    yield dense.to_sparse()
    with warnings.catch_warnings(action="ignore"):
        yield torch.nested.nested_tensor([torch.zeros(shape[1:])] * 2)
    yield torch.nested.nested_tensor([torch.zeros(shape[1:])] * 2, layout=torch.jagged)
    yield dense.to("meta")
    yield from (dense.numpy(), dense.tolist(), None, "noise", 0.0)


@pytest.mark.parametrize("process", MAKERS)
def test_states_of_another_kind_are_refused_by_name(process):
    problem, shape = problem_of(process), MAKERS[process]().state_shape((2, *EVENT), data=True)
    made, times = problem.process, grids.uniform(problem.process, 2)
    calls = (
        lambda u: dn.solve(problem, "gddim", u, times),
        lambda u: registry["gddim"](problem, u, times),
        lambda u: problem.eps(u, 0.5),
        lambda u: problem.x0(u, [0.5]),
        lambda u: problem.drift(u, u, 0.5),
        lambda u: made.perturb(u, 0.5),
        made.encode,
        made.decode,
    )
    for u in odd_tensors(shape):
        for call in calls:
            with pytest.raises(TypeError, match=r"^(u|x0) is "):
                call(u)
    for dtype in (torch.float16, torch.int32, torch.complex64, torch.float8_e5m2, "float32", np.float32, None):
        with pytest.raises(TypeError, match=r"^dtype=.*use torch\.float32"):
            problem.prior((2, *EVENT), dtype=dtype)
    assert problem.nfe == 0
    half = dn.solve(problem, "gddim", problem.prior((2, *EVENT), dtype=torch.bfloat16), times)
    assert half.x.dtype == torch.bfloat16 and half.x.isfinite().all()


ANSWERS = {
    "nothing": lambda x: None,
    "two": lambda x: (x, x),
    "array": lambda x: x.numpy(),
    "another batch": lambda x: x[:1],
    "a row": lambda x: x[0],
    "more channels": lambda x: torch.cat([x, x], 1),
    "another device": lambda x: x.to("meta"),
    "whole numbers": lambda x: x.int(),
    "complex": lambda x: x.to(torch.complex128),
    "half": lambda x: x.half(),  # a prediction is widened; of a bare denoiser it is refused
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_model_returns_is_checked_at_its_first_evaluation(answer):
    seen = []

    def model(x, *_):
        seen.append(x)
        return ANSWERS[answer](x)

    kinds = () if answer == "half" else ("eps", "x0", "v", "score")
    denoisers = [dn.from_prediction(model, dn.VP(), kind) for kind in kinds]
    bare = type("Bare", (), {"__call__": lambda self, x, s: model(x), "eps": lambda self, x, s: model(x)})()
    for denoiser in (*denoisers, bare):
        problem, u = dn.Problem(dn.VP(), denoiser), rand(2, *EVENT)
        for solver in ("ddim", "dpmpp_2m", None):
            seen.clear()
            with pytest.raises(OURS, match=r"(model|denoiser) returned"):
                dn.solve(problem, solver, u, [1.0, 0.5, 0.1]) if solver else problem.eps(u, 0.5)
            assert len(seen) == 1


def test_models_of_diffusers_are_understood():
    exact, u = mixture(), rand(2, *EVENT)
    vp = dn.VP()

    def eps(x, t):
        alpha, sigma = vp.levels(t)
        return exact.eps(x / alpha, sigma / alpha)

    forms = (eps, lambda x, t: SimpleNamespace(sample=eps(x, t)), lambda x, t: (eps(x, t),), lambda x, t: [eps(x, t)])
    ends = [dn.solve(dn.Problem(vp, dn.from_prediction(form, vp)), "ddim", u, [1.0, 0.5, 0.1]).u for form in forms]
    assert all(torch.equal(end, ends[0]) for end in ends)
    narrow = dn.from_prediction(lambda x, t: eps(x, t).to(torch.bfloat16), vp)
    assert dn.solve(dn.Problem(vp, narrow), "ddim", u, [1.0, 0.5]).u.dtype == torch.float64


@pytest.mark.parametrize("process", MAKERS)
def test_noise_of_a_wrong_shape_is_not_spread(process):
    """A draw of shape (4,) fits any batch of images 4 wide: torch would give all rows the same noise."""
    problem = problem_of(process)
    u, times = problem.prior((2, *EVENT)), grids.uniform(problem.process, 3)
    wrong = [lambda u: u[0], lambda u: u[..., :1], lambda u: u.double(), lambda u: u.numpy(), lambda u: None]
    for source in (*(noise.Replay([torch.zeros(4)]), noise.Replay([torch.zeros(())])), *wrong, 3, u, "noise"):
        with pytest.raises(OURS, match=r"noise|draws\[0\]"):
            dn.solve(problem, "euler_maruyama", u, times, noise=source)
        with pytest.raises(OURS, match=r"noise|draws\[0\]"):
            list(registry["euler_maruyama"](problem, u, times, noise=source))
    with pytest.raises(TypeError, match="noise"):
        registry["euler_maruyama"](problem, u, times)
    draws = np.random.default_rng(0).standard_normal((3, *u.shape))
    ends = [
        dn.solve(problem, "euler_maruyama", u, times, noise=noise.Replay(given)).u
        for given in (draws, list(draws), torch.from_numpy(draws), [torch.from_numpy(d).float() for d in draws])
    ]
    assert all(torch.equal(end, ends[0]) for end in ends)


# ------------------------------------------------------------------------------------------------ kinds of number
@pytest.mark.parametrize("process", MAKERS)
def test_a_time_in_any_form(process):
    """Floats, NumPy scalars, tensors, lists and arrays, one time or one per row, in every field of a problem."""
    problem = problem_of(process)
    u = problem.prior((3, *EVENT), dtype=torch.float64)
    rows = [0.3, 0.5, 0.9]
    one = [np.float64(0.5), [0.5], np.array(0.5), torch.tensor(0.5, dtype=torch.float64), Fraction(1, 2)]
    for field in (problem.eps, problem.x0, problem.score, problem.velocity):
        for t in one:
            torch.testing.assert_close(field(u, t), field(u, 0.5), rtol=1e-12, atol=1e-12)
        each = torch.cat([field(u[i : i + 1], t) for i, t in enumerate(rows)])
        for t in (rows, tuple(rows), np.array(rows), torch.tensor(rows, dtype=torch.float64)):
            torch.testing.assert_close(field(u, t), each, rtol=1e-12, atol=1e-11)
    x0 = rand(3, *EVENT)
    assert problem.process.perturb(x0, rows).shape == u.shape
    numbers = ("0.5", None, True, 1j, object(), {}, -0.1, float("nan"), float("inf"), 1e6, 10**400)
    tables = ([0.5, 0.5], [[0.5] * 3], ["0.5"] * 3, [0.5, -1, 0.5], [0.5, float("nan"), 0.5], torch.ones(3) * 1j)
    for bad in (*numbers, *tables):
        for field in (problem.eps, problem.velocity, lambda u, t: problem.process.perturb(x0, t)):
            with pytest.raises((TypeError, ValueError), match=r"\bt[ =]"):
                field(u, bad)
    coefficients = ("F", "G", "mean", "cov", "cholesky", "rotation_root", "rho", "log_snr")
    for name in coefficients:
        for bad in (
            "0.5",
            None,
            True,
            -0.1,
            float("nan"),
            float("inf"),
            [0.5, -0.5],
            torch.tensor([0.1, float("nan")]),
        ):
            with pytest.raises((TypeError, ValueError), match=r"\bt[ =]"):
                getattr(problem.process, name)(bad)
    for bad in ("1", None, -1.0, float("nan"), [1.0, -1.0]):
        with pytest.raises((TypeError, ValueError), match="rho"):
            problem.process.time_of_rho(bad)


@pytest.mark.parametrize("process", MAKERS)
def test_a_grid_in_single_precision_is_the_grid(process):
    """Rounding may put its first time above t_max by one part in 2^23."""
    problem = problem_of(process)
    u, exact = problem.prior((2, *EVENT), dtype=torch.float64), grids.log_snr(problem.process, 6)
    end = dn.solve(problem, "gddim", u, exact).u
    for times in (exact.float(), exact.float().numpy(), exact.float().tolist(), exact.numpy()[::1], list(exact)):
        run = dn.solve(problem, "gddim", u, times)
        assert run.times[0] <= problem.process.t_max and run.times.dtype == torch.float64
        # relative change 2^-24 of the levels, magnified by at most the number of steps and the size of the state
        torch.testing.assert_close(run.u, end, rtol=1e-4, atol=1e-4)
    rounded = np.nextafter(np.float32(problem.process.t_max), np.float32(np.inf))
    assert problem.process.check_time(rounded) == problem.process.t_max
    assert problem.eps(u, rounded).isfinite().all()
    for far in (problem.process.t_max * (1 + 1e-6), np.float32(problem.process.t_max * 1.001)):
        with pytest.raises(ValueError, match="lives on"):
            dn.solve(problem, "gddim", u, [far, 0.1])


def test_numpy_numbers_for_options_shapes_counts_and_seeds():
    problem = problem_of("cld")
    shape = np.array([3, *EVENT])
    u = problem.prior(shape, seed=np.int64(3), indices=np.arange(3), dtype=torch.float64)
    assert torch.equal(u, problem.prior((3, *EVENT), seed=3, dtype=torch.float64))
    times = grids.quadratic(problem.process, np.int8(100), t_end=np.float32(0.25), t_start=np.float64(1))
    assert len(times) == 101 and dn.Blurring(np.array([4, 4])).shape == (4, 4)
    for name, plain, same in (
        ("gddim", {"order": 3, "K": "R"}, {"order": np.int32(3), "K": np.str_("R")}),
        ("gddim", {"order": 2}, {"order": torch.tensor(2)}),
        ("gddim_sde", {"lam": 0.5}, {"lam": np.float32(0.5)}),
        ("gddim_sde", {"lam": 1.0}, {"lam": np.int64(1)}),
        ("conjugate", {"B": "lambda", "lam": 0.5}, {"B": np.str_("lambda"), "lam": Fraction(1, 2)}),
        ("oba", {"lam_s": 0.5}, {"lam_s": np.array(0.5)}),
    ):
        ends = [dn.solve(problem, name, u, times[::25], **options).u for options in (plain, same)]
        assert torch.equal(*ends), name
    options = {"published": np.bool_(True)}
    assert dn.solve(problem_of("vp"), "fon", rand(2, *EVENT), [1.0, 0.5, 0.2], **options).nfe == 8
    assert noise.Seeded(np.uint64(7))(u).shape == u.shape


NUMBERS = ["1", None, True, 1j, [1.0, 2.0, 3.0], float("nan"), float("inf"), -1.0, 10**400, 1e308, object(), b"1"]
WANTED = {
    "beta_min": lambda v: dn.VP(v),
    "beta_max": lambda v: dn.VP(0.1, v),
    "s": dn.VP.cosine,
    "sigma_max": dn.VE,
    "beta": dn.CLD,
    "mass": lambda v: dn.CLD(mass=v),
    "kappa": lambda v: dn.CLD(kappa=v),
    "eps": lambda v: dn.CLD(eps=v),
    "beta of PSLD": dn.PSLD,
    "a pair": lambda v: dn.PSLD((1, v)),
    "Gamma": lambda v: dn.PSLD(Gamma=v),
    "nu": lambda v: dn.PSLD(nu=v),
    "blur_max": lambda v: dn.Blurring((4, 4), v),
    "d_min": lambda v: dn.Blurring((4, 4), d_min=v),
    "t_end": lambda v: grids.uniform(dn.VP(), 3, v) if v is not None else dn.VP("1"),
    "t_start": lambda v: grids.uniform(dn.VP(), 3, t_start=v) if v is not None else dn.VP("1"),
    "rho": lambda v: grids.karras(dn.VP(), 3, rho=v),
    "lam": lambda v: dn.solve(problem_of("vp"), "gddim_sde", rand(2, *EVENT), [1, 0.5], lam=v),
    "lam of a rate": lambda v: dn.solve(
        problem_of("vp"), "conjugate", rand(2, *EVENT), [1, 0.5], lam=2000 if v == -1 else v
    ),
    "lam_s": lambda v: dn.solve(problem_of("cld"), "oba", rand(2, 2, *EVENT), [1, 0.5], lam_s=v),
    "sigma": lambda v: mixture()(rand(2, *EVENT), v) if v != 1e308 else dn.VE("1"),
    "mean": lambda v: dn.Gaussian([v, 1.0], 1.0) if v not in (-1, True) else dn.VE("1"),
    "cov": lambda v: dn.Gaussian([1.0], v),
    "weights": lambda v: dn.GaussianMixture([v], [[1.0]], stds=[1]) if v is not True else dn.VE("1"),
    "stds": lambda v: dn.GaussianMixture([1], [[1.0]], stds=[v]),
}


@pytest.mark.parametrize("name", WANTED)
def test_what_is_no_number_of_this_kind_is_refused(name):
    for value in NUMBERS:
        with pytest.raises((TypeError, ValueError)) as caught:
            WANTED[name](value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


UNIFORM = analysis.ladder(grids.uniform, dn.VP())
COUNTS = ["10", None, True, 2.0, float("nan"), 0, -1, 10**30, [3], object(), 2.5]


@pytest.mark.parametrize(
    "call",
    [
        lambda v: grids.log_snr(dn.VP(), v),
        lambda v: grids.from_table(dn.VP(), 3, size=v),
        lambda v: dn.Blurring((4, v)),
        lambda v: problem_of("vp").prior((v, *EVENT)),
        lambda v: dn.Empirical(rand(3, 2), chunk=v),
        lambda v: mixture().sample(v),
        lambda v: dn.Empirical(rand(3, 2)).sample(v),
        lambda v: noise.Seeded(v if v != 0 else -1),
        lambda v: noise.Seeded(0, [v if v != 0 else -1]),
        lambda v: analysis.convergence(problem_of("vp"), "ddim", rand(1, *EVENT), UNIFORM, [v]),
        lambda v: dn.solve(problem_of("vp"), "pndm_variable", rand(2, *EVENT), [1, 0.5], order=v),
    ],
)  # fmt: skip
def test_what_is_no_count_is_refused(call):
    for value in COUNTS:
        with pytest.raises(OURS) as caught:
            call(value)
        assert "\n" not in str(caught.value) and not isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("shape", [(10**6, 10**7), (10**30, 4), (2, 2**62), (2, 2**40, 2**40)])
def test_no_size_is_allocated_without_bound(shape):
    for call in (lambda: dn.VP().prior(shape), lambda: dn.Blurring(shape)):
        with pytest.raises(OURS, match="shape"):
            call()


def test_a_truth_that_is_none():
    problem, u = problem_of("vp"), rand(2, *EVENT)
    ladder = analysis.ladder(grids.log_snr, problem.process)
    for truth in (u * float("nan"), u * float("inf"), u[0], "truth", 3.0):
        for call in (analysis.convergence, lambda p, s, *a, **k: analysis.work_precision(p, [s], *a, **k)):
            with pytest.raises((TypeError, ValueError), match="truth"):
                call(problem, "ddim", u, ladder, (2, 4), truth=truth)
    assert problem.nfe == 0
    assert analysis.convergence(problem, "ddim", u, ladder, (2, 4), truth=u.float().numpy()).nfe == (2, 4)


@pytest.mark.parametrize("rate", [(2, 1), (1, 2), 1.0, 0.1, [3, 5], np.array([2.0, 1.0])])
def test_every_rate_of_phase_space_works(rate):
    """A clock that runs less than 4 in all had no place for the cuts of a quadrature."""
    assert_exact(dn.PSLD(rate), "gddim", grids.quadratic(dn.PSLD(rate), 10))


# --------------------------------------------------------------------------------------------------------- places
@pytest.mark.parametrize("device", [
    "hpu", "xpu", "mps", "xla", "vulkan", "mtia", "lazy", "ve", "opengl", "mkldnn", "privateuseone", "meta", "", "gpu",
    "cuda:99", "cuda:99999999999999999999", -1, 1.5, object(),
])  # fmt: skip
def test_a_device_that_is_not_here(device):
    for call in (existing, lambda d: dn.VP().prior((2, 2), device=d), lambda d: dn.load("cifar10", device=d)):
        with pytest.raises(dn.DiffnumError, match=r"does not exist here; available: cpu"):
            call(device)


def test_without_docstrings():
    """python -OO leaves docstrings out, and assertions."""
    env = {**os.environ, "PYTHONOPTIMIZE": "2"}
    out = subprocess.run([sys.executable, "-m", "diffnum", "solvers"], env=env, capture_output=True, text=True)
    assert not out.returncode and "f_pndm" in out.stdout and not out.stderr


def test_a_trajectory_is_drawn_in_data_space(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "images", lambda x, *_, **__: drawn.append(x))
    monkeypatch.setattr(
        plots, "panels", lambda n: (None, SimpleNamespace(plot=lambda *a, **k: drawn.append(a), set=len))
    )
    for process in ("vp", "blurring", "cld"):
        problem = problem_of(process, dn.PointMass(torch.full((1, 4, 4), 0.5)))
        u = problem.prior((2, 1, 4, 4))
        run = dn.solve(problem, "gddim", u, grids.uniform(problem.process, 3), trajectory=True)
        plots.trajectory(run, count=4)
        seen = drawn.pop().unflatten(0, (2, 4))
        assert torch.equal(seen[:, 0], problem.process.decode(u)) and torch.equal(seen[:, -1], run.x)


# ------------------------------------------------------------------------------------------------- damaged files
@pytest.fixture(scope="module")
def parts():
    """Tensors and metadata of a small network's file."""
    torch.manual_seed(0)
    net = UNet(Config((16, 32), (False, True), 1, 1, 16, 4))
    from safetensors.torch import load as parse

    gain = torch.ones(32, 32, 3, 3) * torch.eye(3)
    blob = nets.to_bytes(net, {"mean": torch.zeros(3, 32, 32), "cov": gain})
    return parse(blob), {"config": {**vars(net.config)}}


def file_of(tensors, about):
    import json

    from safetensors.torch import save

    text = about if isinstance(about, str) else json.dumps(about)
    return save({k: v.contiguous() for k, v in tensors.items()}, {"diffnum": text})


def size(**changed):
    return lambda tensors, about: (tensors, {"config": {**about["config"], **changed}})


def tensor(name, change):
    def damaged(tensors, about):
        new = change(tensors[name])
        return {**{k: v for k, v in tensors.items() if k != name}, **new}, about

    return damaged


DAMAGE = {
    "metadata of numbers": lambda t, about: (t, "[1, 2]"),
    "metadata of text": lambda t, about: (t, '"config"'),
    "no JSON": lambda t, about: (t, "{"),
    "nested": lambda t, about: (t, "[" * 100_000),
    "no sizes": lambda t, about: (t, {"config": {}}),
    "sizes of text": lambda t, about: (t, {"config": "large"}),
    "empty": size(channels=[]),
    "zero": size(channels=[0, 32]),
    "negative": size(blocks=-1),
    "mismatched": size(channels=[16, 64]),
    "too many levels": size(channels=[16] * 10**5, attention=[True] * 10**5),
    "enormous": size(channels=[2**40, 2**40]),
    "enormous depth": size(blocks=10**9),
    "no heads": size(heads=0),
    "odd heads": size(heads=7),
    "text for heads": size(heads="4"),
    "no patch": size(patch=0),
    "colours": size(colours=0),
    "unknown size": size(depth=3),
    "no tensors": lambda t, about: ({"other": torch.zeros(2)}, about),
    "unknown kind": lambda t, about: (t, {**about, "kind": "blurring"}),
    "bad blurring": lambda t, about: (t, {**about, "kind": "blurring", "blurring": {"blur_max": "x"}}),
    "missing": tensor("net.norm.weight", lambda v: {}),
    "renamed": tensor("net.norm.weight", lambda v: {"net.norm.wait": v}),
    "far level": tensor("net.norm.weight", lambda v: {"net.down.999999999.0.0.conv0.weight": v}),
    "misshapen": tensor("net.norm.weight", lambda v: {"net.norm.weight": v[:-1]}),
    "NaN": tensor("net.norm.weight", lambda v: {"net.norm.weight": v * float("nan")}),
    "infinite": tensor("net.freq", lambda v: {"net.freq": v / 0}),
    "whole numbers": tensor("net.norm.weight", lambda v: {"net.norm.weight": v.to(torch.int8)}),
    "NaN statistics": tensor("stats.cov", lambda v: {"stats.cov": v * float("nan")}),
    "misshapen statistics": tensor("stats.cov", lambda v: {"stats.cov": v[:5]}),
    "missing statistics": tensor("stats.mean", lambda v: {}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(damage, parts, tmp_path):
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(file_of(*parts))
    assert dn.load(whole).config.channels == (16, 32)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(file_of(*DAMAGE[damage](*parts)))
    with pytest.raises(
        dn.DiffnumError, match=r"damaged\.safetensors is not a diffnum network: .+; get a fresh"
    ) as caught:
        dn.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_pipe_is_no_weight_file(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(dn.DiffnumError, match="no regular file"):
        dn.load(path)


class Bare:
    """A denoiser without a wrapper."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x, sigma):
        return self.model(x, sigma)

    eps = __call__


DOORS = {
    "edm": lambda model: dn.from_edm(model),
    **{kind: (lambda model, kind=kind: dn.from_prediction(model, dn.VP(), kind)) for kind in KINDS},
}


@pytest.mark.parametrize("process", [dn.VP(), dn.VE(), dn.CLD()], ids=repr)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_that_writes_into_its_input_changes_nothing(process, mode):
    """Such as one that begins with a layer whose ``inplace`` is True; without a wrapper it is refused."""
    with mode():
        u, times = process.prior((2, 3), dtype=torch.float64), grids.log_snr(process, 3)
        before = u.clone()
        for make in DOORS.values():
            right, wrong = (
                dn.solve(dn.Problem(process, make(model)), "gddim", u, times).u
                for model in (lambda x, level: x * 0.1, lambda x, level: x.mul_(0.1))
            )
            assert torch.equal(right, wrong)
        with pytest.raises(dn.DiffnumError, match="wrote into the state"):
            dn.solve(dn.Problem(process, Bare(lambda x, sigma: x.mul_(0.1))), "gddim", u, times)
        assert torch.equal(u, before)


@pytest.mark.parametrize("answer", ["long", "cfloat", "bool", "numpy", "flatten"])
def test_a_network_of_levels_returns_real_numbers_too(answer):
    """Imaginary parts and fractions are not dropped in silence."""
    problem = dn.Problem(dn.VP(), dn.from_edm(lambda x, sigma: getattr(x, answer)()))
    with pytest.raises(ValueError, match="net returned"):
        dn.solve(problem, "ddim", torch.ones(2, 3, 1), [1.0, 0.5])
