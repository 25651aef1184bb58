"""Noise: a function of seed, stream, index, draw and place alone; its quality; what goes on and what starts anew."""

import copy
import math
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

import diffnum as dn
from diffnum import grids, noise
from diffnum.measure.analysis import law
from diffnum.noise import PERTURB, PRIOR, STEPS, Replay, Seeded
from diffnum.runner import draws_noise

WORD = 2**64
LARGEST = math.sqrt(64 * math.log(2))  # at u = 2^-32
BAND = 4.5  # standard deviations: of 1000 fair statistics one is beyond with probability 0.7 %


# ------------------------------------------------------------------------------------------------------ the numbers
def word(seed, stream, index, draw, place):
    """The 64 bits of the definition, in Python's integers."""

    def mixed(z, key=0):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
        z = (z + key) % WORD
        return (z ^ z >> 27) * 0x94D049BB133111EB % WORD

    keys = []
    for key in (0x243F6A8885A308D3, 0x13198A2E03707344):
        for part in (seed, stream, index * 0x9E3779B97F4A7C15):
            key = mixed((key + part) % WORD)
            key ^= key >> 32
        keys.append(key)
    a, b = keys
    return mixed((a + 0x9E3779B97F4A7C15 * ((draw << 32) + place // 2)) % WORD, b)


def formula(w):
    """Radius and both numbers of a word, in float64."""
    u, lower = ((w >> 33 ^ 1 << 30) + 0.5) / 2**31, (w ^ w >> 32) % 2**32
    angle = math.pi * (lower - (lower >> 31 << 32)) / 2**31
    radius = math.sqrt(-2 * math.log(u))
    return radius, (radius * math.cos(angle), radius * math.sin(angle))


def arithmetic(w):
    """The same in NumPy's float32, operation by operation: IEEE 754 leaves no choice in any of them."""

    def polynomial(coefficients, x):
        value = np.float32(coefficients[-1])
        for c in coefficients[-2::-1]:
            value = value * x + np.float32(c)
        return value

    t = np.float32((w >> 33) ^ (1 << 30)) + np.float32(0.5)
    below = (158 << 23) - int(t.view(np.int32))
    h = np.float32(below % 2**23) * np.float32(2.0**-23)
    square = np.float32(below) * np.float32(math.log(2) * 2.0**-22) - polynomial(noise.LOGARITHM, h) * h
    one = np.float32(1)
    radius = one / (one / np.sqrt(square))
    lower = (w ^ w >> 32) % 2**32
    y = np.float32(np.uint32(2 * lower % 2**32).view(np.int32)) * np.float32(2.0**-31)
    radius = -radius if (lower ^ 2 * lower) >> 31 & 1 else radius
    sine, cosine = polynomial(noise.SINE, y * y) * y, polynomial(noise.COSINE, y * y)
    return radius - sine * (sine * radius), cosine * (sine * radius)


def test_the_definition():
    """Bit for bit that of IEEE arithmetic, and as near to the formula as u and the angle in 24 bits allow."""
    indices = (0, 1, 2**63, WORD - 1)
    for seed, stream in ((0, STEPS), (5, PRIOR), (WORD - 1, 2**63 + 1)):
        source = Seeded(seed, indices, stream)
        for draw in range(30):
            z = source.normal((4, 5)).tolist()
            for row, i in zip(z, indices, strict=True):
                for j, number in enumerate(row):
                    w = word(seed, stream, i, draw, j)
                    radius, exact = formula(w)
                    assert number == arithmetic(w)[j % 2]
                    assert abs(number - exact[j % 2]) <= 4e-7 * (radius + 1 / radius)


def test_the_polynomials():
    """Against the functions they stand for; coefficients of float32 allow half a unit of the first one more."""
    x = np.linspace(1e-9, 1, 100_001)
    root = np.sqrt(x)
    exact = {
        "LOGARITHM": (2 * (np.log1p(-x / 2) + x * math.log(2)) / x, 2e-7),
        "SINE": (math.sqrt(2) * np.sin(math.pi / 4 * root) / root, 3e-8),
        "COSINE": (math.sqrt(2) * np.cos(math.pi / 4 * root), 6e-8),
    }
    for name, (values, bound) in exact.items():
        coefficients = [float(c) for c in getattr(noise, name)]
        assert abs(np.polynomial.polynomial.polyval(x, coefficients) - values).max() < bound, name


@pytest.mark.parametrize("shape", [(40_001, 1), (20_011, 3), (301, 515), (3, 70_001)])
def test_any_part_of_a_batch_is_the_same_bit_for_bit(shape, monkeypatch):
    """In every layout and with every cut into blocks; an event is the beginning of a longer one."""
    batch, size = shape
    whole = Seeded(9).normal(shape)
    assert torch.equal(Seeded(9)(torch.zeros(shape)), whole.float())
    assert torch.equal(Seeded(9)(torch.zeros(shape, dtype=torch.bfloat16)), whole.bfloat16())
    for block, start, rows, part in ((7, 1, 100, size), (2**15, 0, 1, size), (1000, batch // 3, 1500, (size + 1) // 2)):
        monkeypatch.setattr(noise, "BLOCK", block)
        index = range(start, min(start + rows, batch))
        assert torch.equal(Seeded(9, index).normal((len(index), part)), whole[start : index.stop, :part])


def test_the_ends_of_the_generator_are_finite():
    """u from 2^-32 to 1, all angles: no infinity, no NaN, and nothing beyond 6.67."""
    words = torch.tensor([-(2**63), -1, 0, 2**63 - 1, 2**62, -(2**62), 2**31, -(2**31)])
    memory = torch.empty(5, len(words))
    memory[:2] = words.view(torch.float32).reshape(2, -1)
    word, spare = memory[:4].view(torch.int64).reshape(2, -1)
    assert torch.equal(word, words)
    radius = torch.hypot(*noise._normals(word, spare, *memory))
    assert radius.isfinite().all()
    assert radius.max().item() == pytest.approx(LARGEST, rel=4e-7)
    assert 0 <= radius.min().item() < 1e-4


def test_what_is_made_ahead_changes_no_number():
    """Small draws are made for several calls: as one by one, whatever was expected, asked in between or begun anew."""
    shape = (3, 7)
    single = [noise._numbers(noise._keys(4, STEPS, torch.arange(3)), d, 1, shape)[0].double() for d in range(200)]
    for draws in (1, 5, 10**6):
        source = Seeded(4, draws=draws)
        assert all(torch.equal(source.normal(shape), z) for z in single[:100])
        source.restart()
        assert torch.equal(source.normal(shape).zero_() + source.normal(shape), single[1])
        assert torch.equal(source.normal((3, 5)), single[2][:, :5])
        assert torch.equal(source(torch.zeros(3, 7)), single[3].float())
        source.restart()
        assert all(torch.equal(source.normal(shape), z) for z in single)


def test_a_copy_of_a_source_goes_on_where_it_stood():
    u = torch.zeros(3, 5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            source = Seeded(1, draws=4)
            source(u)
        copies = [copy.deepcopy(source), pickle.loads(pickle.dumps(source))]
        z = source(u)
        assert all(torch.equal(twin(u), z) for twin in copies)
        (torch.ones(3, 5, requires_grad=True) * z).sum().backward()  # made in a mode without gradients, used outside


def ordinary(name, value, deviation):
    assert abs(value) < BAND * deviation, f"{name}: {value / deviation:.1f} standard deviations"


def standard_normal(name, z):
    """Moments, and the Kolmogorov-Smirnov test at 0.1 %."""
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        ordinary(f"{name}, moment {power}", (z**power).mean().item() - moment, math.sqrt(variance / z.numel()))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3, name


def independent(name, a, b):
    """Correlations of the numbers, their squares and their absolute values."""
    deviation, size = 1 / math.sqrt(a.numel()), math.sqrt(2 / math.pi)
    ordinary(f"{name}, numbers", (a * b).mean().item(), deviation)
    ordinary(f"{name}, squares", ((a**2 - 1) * (b**2 - 1)).mean().item() / 2, deviation)
    ordinary(f"{name}, one and square", (a * (b**2 - 1)).mean().item() / math.sqrt(2), deviation)
    ordinary(f"{name}, sizes", ((a.abs() - size) * (b.abs() - size)).mean().item() / (1 - size**2), deviation)


def test_noise_is_standard_normal_and_neighbours_are_independent():
    source = Seeded(1)
    sets = {
        "place": Seeded(12345).normal((4, 2**16)).mT,
        "index": Seeded(7).normal((2**16, 4)),
        "draw": torch.stack([source.normal((2**10, 8)) for _ in range(32)]),
        "seed": torch.stack([Seeded(seed).normal((32, 32)) for seed in range(256)]),
        "seed and index": torch.cat([Seeded(k, [k]).normal((1, 1024)) for k in range(256)]),
        "stream": torch.stack([Seeded(0, stream=k).normal((32, 32)) for k in range(256)]),
    }
    for name, z in sets.items():
        standard_normal(name, z)
        for lag in (1, 2, 3, 4, 8, 16):
            independent(f"{name}, {lag} apart", z[lag:], z[:-lag])
        standard_normal(f"sum over {name}", z.sum(0) / math.sqrt(len(z)))


def test_every_bit_of_a_key_matters():
    z = Seeded(0).normal((64, 256))
    for bit in range(0, 64, 3):
        independent(f"bit {bit} of the seed", Seeded(1 << bit).normal((64, 256)), z)
        independent(f"bit {bit} of the stream", Seeded(0, stream=1 << bit).normal((64, 256)), z)
        independent(f"bit {bit} of the index", Seeded(0, [1 << bit] * 64).normal((64, 256))[:1], z[:1])


def test_no_word_comes_twice():
    """A birthday test: of 2^20 words of 64 bits, seen as pairs of 24 bits each, two agree with probability 2e-3."""
    source, u = Seeded(0), torch.empty(128, 512)
    drawn = torch.cat([source(u).view(torch.int64).flatten() for _ in range(32)])
    assert len(drawn.unique()) == 2**15 * 32


def test_noise_depends_on_seed_and_index_alone():
    whole = dn.VP().prior((7, 5), seed=3, dtype=torch.float64)
    for a, b in ((0, 3), (3, 7), (6, 7)):
        part = dn.VP().prior((b - a, 5), seed=3, indices=range(a, b), dtype=torch.float64)
        assert torch.equal(part, whole[a:b])
    assert torch.equal(dn.VP().prior((7, 5), seed=3), whole.float())
    assert not torch.equal(dn.VP().prior((7, 5), seed=4, dtype=torch.float64), whole)
    one, two = (dn.VP().prior((k, 5), torch.Generator().manual_seed(0)) for k in (4, 9))
    assert torch.equal(one, two[:4])


def test_streams_do_not_share_numbers():
    u = torch.zeros(4, 6, dtype=torch.float64)
    first, second = (noise.Seeded(0)(u) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, dn.VP().prior((4, 6), seed=0, dtype=torch.float64))
    source = noise.Seeded(0)
    a, b = source(u), source(u)
    assert not torch.equal(a, b)
    source.restart()
    assert torch.equal(source(u), a)


def test_streams_of_the_library_are_independent():
    process = dn.VP()
    streams = {"steps": STEPS, "prior": PRIOR, "perturb": PERTURB}
    streams |= {f"a run from {t}": noise.stream_of(t, process) for t in (0.9, 0.9 - 1e-12, 0.5)}
    drawn = {name: Seeded(0, stream=stream).normal((64, 1024)) for name, stream in streams.items()}
    for one, other in combinations(drawn, 2):
        independent(f"{one} and {other}", drawn[one], drawn[other])
    assert noise.stream_of(1.0, process) == STEPS


def test_replay():
    draws = [torch.full((2, 3), float(i)) for i in range(2)]
    source, u = noise.Replay(draws), torch.zeros(2, 3, dtype=torch.float64)
    assert source(u).dtype == torch.float64
    source(u)
    with pytest.raises(ValueError, match="2 entries"):
        source(u)
    source.restart()
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        source(torch.zeros(5, 3))


def test_bad_noise():
    with pytest.raises(ValueError, match="seed holds -1"):
        noise.Seeded(-1)
    with pytest.raises(TypeError, match="whole number"):
        noise.Seeded(1.5)
    source = noise.Seeded(0)
    source(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one source per batch"):
        source(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="indices"):
        noise.Seeded(0, [-1])
    with pytest.raises(ValueError, match="one index per row"):
        noise.Seeded(0, [0, 1])(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="is not a torch"):
        dn.VP().prior((2, 2), generator=42)
    with pytest.raises(ValueError, match="leave one out"):
        dn.VP().prior((2, 2), torch.Generator(), seed=1)


# ---------------------------------------------------------------------------------------------- who goes on, who not
def test_a_stochastic_solver_gets_its_noise(vp):
    def jitter(problem, u, times, noise):
        for _ in times[1:]:
            u = u + noise(u)
            yield u

    draws = [torch.ones_like(vp.u), 2 * torch.ones_like(vp.u)]
    replay = noise.Replay(draws)
    for _ in range(2):  # a replay starts anew with each solve
        torch.testing.assert_close(dn.solve(vp.problem, jitter, vp.u, [1.0, 0.5, 0.2], noise=replay).u, vp.u + 3)
    runs = [
        dn.solve(vp.problem, jitter, vp.u, [1.0, 0.5], generator=torch.Generator().manual_seed(s)).u for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    with pytest.raises(TypeError, match="deterministic"):
        dn.solve(vp.problem, "ddim", vp.u, [1.0, 0.5], noise=replay)


def test_a_source_goes_on_from_run_to_run(vp):
    """A ``Seeded`` source given to two runs does not repeat itself; ``restart`` is there for who wants that."""
    source = Seeded(3)
    runs = [dn.solve(vp.problem, "ancestral", vp.u, [1.0, 0.5], noise=source).u for _ in range(2)]
    source.restart()
    assert not torch.equal(runs[0], runs[1])
    assert torch.equal(dn.solve(vp.problem, "ancestral", vp.u, [1.0, 0.5], noise=source).u, runs[0])
    source.restart()
    whole = dn.solve(vp.problem, "ancestral", vp.u, [1.0, 0.5, 0.2], noise=source).u
    source.restart()
    middle = dn.solve(vp.problem, "ancestral", vp.u, [1.0, 0.5], noise=source).u
    assert torch.equal(dn.solve(vp.problem, "ancestral", middle, [0.5, 0.2], noise=source).u, whole)


SOURCES = {
    "default": dict,
    "one source": lambda: {"noise": Seeded(0)},
    "one generator": lambda: {"generator": torch.Generator().manual_seed(0)},
}
STOCHASTIC = [
    name for name, f in dn.solvers.registry.items()
    if draws_noise(f) and "isotropic" in f.families and name != "dpmpp_2m_sde"  # in pieces it has no history
]  # fmt: skip
ONE_NODE = {"er_sde": {"order": 1, "phi": "x^2"}, "sa_solver": {"order": 1, "corrector": False}}


@pytest.mark.parametrize("pieces", [2, 100])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_run_in_pieces_has_new_noise_in_each(name, source, pieces):
    """Data N(0, 1), 100 steps of VP: the variance is that of the method, within 4.5 of its standard deviations.

    One that saw the same noise in each of 100 pieces had a standard deviation of 6.4 to 6.8 in place of 1.
    """
    problem, rows = dn.Problem(dn.VP(), dn.Gaussian([0.0], [1.0])), 4000
    times = grids.uniform(problem.process, 100)
    options = ONE_NODE.get(name, {})  # of first order every piece is as good as the run
    variance = law(problem, name, times, **options)[1].item()
    u, given = problem.prior((rows, 1), dtype=torch.float64), SOURCES[source]()
    stride = 100 // pieces
    for start in range(0, 100, stride):
        u = dn.solve(problem, name, u, times[start : start + stride + 1], **given, **options).u
    assert 0.8 < variance < 1.2
    ordinary("variance", u.var().item() / variance - 1, math.sqrt(2 / rows))
    ordinary("mean", u.mean().item(), math.sqrt(variance / rows))


def test_a_default_run_is_reproducible(vp):
    for times in ([1.0, 0.5], [0.8, 0.5]):
        one, two = (dn.solve(vp.problem, "ancestral", vp.u, times).u for _ in range(2))
        assert torch.equal(one, two)
    given = Seeded(0, stream=noise.stream_of(0.8, vp.process))
    assert torch.equal(dn.solve(vp.problem, "ancestral", vp.u, [0.8, 0.5], noise=given).u, two)


@pytest.mark.parametrize("make", [dn.VP, dn.VE, dn.CLD, lambda: dn.Blurring((8, 8))], ids=["vp", "ve", "cld", "blur"])
def test_perturb_goes_on_with_a_source(make):
    process = make()
    x0, t = torch.zeros(3, 8, 8, dtype=torch.float64), 0.5 * process.t_max
    root = process.cholesky(t)

    def drawn(**given):
        return process.perturb(x0, t, **given)

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), dn.coefficients.act(root, process.prior(drawn().shape, dtype=torch.float64)))
    assert torch.equal(drawn(), dn.coefficients.act(root, Seeded(0, stream=PERTURB)(drawn())))
    for given in ({"generator": torch.Generator().manual_seed(1)}, {"noise": Seeded(1)}):
        assert not torch.equal(drawn(**given), drawn(**given))
    n = torch.ones_like(drawn())
    assert torch.equal(drawn(noise=Replay([n])), dn.coefficients.act(root, n))
    with pytest.raises(ValueError, match="leave one out"):
        drawn(noise=Seeded(1), generator=torch.Generator())


def test_threads_that_share_a_source_repeat_no_draw():
    """In which order they take them is theirs; together they have those of one thread, each once."""
    u, times = torch.zeros(2, 4000, dtype=torch.float64), grids.log_snr(dn.VP(), 64)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:

            def drawn(source, count):
                return sorted(pool.map(lambda _: tuple(source(u)[0, :2].tolist()), range(count)))

            for make in (lambda: Seeded(3), lambda: Replay([torch.full_like(u, i) for i in range(200)])):
                alone = make()
                assert drawn(make(), 200) == sorted(tuple(alone(u)[0, :2].tolist()) for _ in range(200))
            for _ in range(20):
                path = noise.Brownian(times, lambda t: -t)
                first = list(pool.map(lambda _: path.on(times[::8])(u[:, :3]), range(8)))
                assert all(torch.equal(z, noise.Brownian(times, lambda t: -t).on(times[::8])(u[:, :3])) for z in first)
    finally:
        sys.setswitchinterval(before)


def test_a_source_has_its_seed_for_good():
    source = Seeded(0, [1, 2])
    source(torch.zeros(2, 3))
    for name, value in {"seed": 1, "indices": [3, 4], "stream": 5}.items():
        with pytest.raises(dn.errors.Unchangeable, match="make a new Seeded"):
            setattr(source, name, value)
    with pytest.raises(TypeError):
        source.indices[0] = 9
