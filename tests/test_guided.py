"""Guidance: exact at weight 1, orders, ambient state of torch, windows, labels, and what is refused."""

import math

import pytest
import torch

import diffnum as dn
from diffnum import analysis, checks, grids
from diffnum.denoisers import guide as guides
from diffnum.denoisers.guided import window
from diffnum.denoisers.targets import MEANS, STDS, THIN_STDS, WEIGHTS, smooth, starts, thin
from diffnum.errors import DiffnumError
from diffnum.measure.analysis import ladder

UNIT = 2.0**-53


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def covariances(count, d):
    a = draw(count, d, d, seed=5)
    return a @ a.mT / d + 0.1 * torch.eye(d, dtype=torch.float64)


def dct_mixture(k=None):
    """Three components that are diagonal in the DCT basis, or the k-th alone."""
    rows = slice(None) if k is None else slice(k, k + 1)
    means, stds = draw(3, 2, 4, 5, seed=1)[rows], draw(3, 2, 4, 5, seed=2).abs()[rows]
    weights = [0.2, 0.3, 0.5] if k is None else [1.0]
    return dn.GaussianMixture(weights, means, stds=stds, basis="dct")


def full_mixture(k=None):
    rows = slice(None) if k is None else slice(k, k + 1)
    weights = WEIGHTS if k is None else [1.0]
    return dn.GaussianMixture(weights, torch.tensor(MEANS, dtype=torch.float64)[rows], covs=covariances(2, 4)[rows])


def component(stds):
    return lambda k=None: (
        dn.GaussianMixture(WEIGHTS, MEANS, stds=stds) if k is None else dn.Gaussian(MEANS[k], [s**2 for s in stds[k]])
    )


MIXTURES = {"smooth": component(STDS), "thin": component(THIN_STDS), "full": full_mixture, "dct": dct_mixture}


class Exact:
    """A guide with a column for what is drawn: components of one mixture, and another mixture as the drawings."""

    def __init__(self, data, drawn):
        self.data, self.drawings, self.classes, self.drawn = data, drawn, data.classes, True

    def logits(self, x, sigma):
        return torch.cat([self.data.logits(x, sigma), self.drawings.logits(x, sigma).logsumexp(1, True)], 1)


def other():
    """What a denoiser might draw that is not quite right: both components, in wrong shares and a little off."""
    return dn.GaussianMixture([0.5, 0.5], torch.tensor(MEANS).double() + 0.1, stds=torch.tensor(STDS) + 0.1)


def bound(x, d, sigma):
    """Rounding of eps: the noises (x - m_k)/sigma of all components come in and cancel, each eight roundings deep;
    times d for sums over coordinates, and 4. No mean lies farther out than 3."""
    return 32 * d * UNIT * (x.abs().max().item() + 3) / sigma


# ------------------------------------------------------------------------------------------------ exact at weight 1


@pytest.mark.parametrize("sigma", [1e-4, 0.05, 0.7, 20.0, 1e3])
@pytest.mark.parametrize("name", MIXTURES)
def test_weight_one_is_the_component(name, sigma):
    """Bayes and Tweedie: eps - sigma grad log p(k | x) is the noise prediction of component k, to rounding."""
    mixture = MIXTURES[name]()
    x = (1 + sigma) * draw(5, *mixture.shape)
    limit = bound(x, mixture.size, sigma)
    for k in range(mixture.classes):
        alone, guided = MIXTURES[name](k), dn.Guided(mixture, mixture, k)
        assert (guided.eps(x, sigma) - alone.eps(x, sigma)).abs().max() < limit
        assert (guided(x, sigma) - alone(x, sigma)).abs().max() < sigma * limit
    rows = [i % mixture.classes for i in range(5)]
    together = dn.Guided(mixture, mixture, rows).eps(x, torch.full((5,), sigma, dtype=torch.float64))
    for i, k in enumerate(rows):
        one = dn.Guided(mixture, mixture, k).eps(x[i : i + 1], sigma)
        assert (together[i] - one[0]).abs().max() < limit


def test_logits_are_log_densities():
    x, sigma = draw(6, 4), 0.3
    parts = torch.distributions.MultivariateNormal(
        torch.tensor(MEANS, dtype=torch.float64), covariances(2, 4) + sigma**2 * torch.eye(4).double()
    )
    truth = torch.tensor(WEIGHTS, dtype=torch.float64).log() + parts.log_prob(x[:, None])
    torch.testing.assert_close(full_mixture().logits(x, sigma), truth, rtol=1e-12, atol=1e-12)
    single = smooth().logits(x.float(), sigma)
    assert single.dtype == torch.float64 and torch.equal(single, smooth().logits(x.float().double(), sigma))


def test_realism_turns_one_denoiser_into_another():
    """D_q + sigma^2 grad log p/q = D_p; with the class as well, the component of p. As a function, and as columns."""
    p, q, x, sigma = smooth(), other(), 2 * draw(6, 4), 0.4

    def ratio(x, sigma):
        return p.logits(x, sigma).logsumexp(1) - q.logits(x, sigma).logsumexp(1)

    limit = bound(x, 4, sigma)
    for guided in (dn.Guided(q, ratio), dn.Guided(q, Exact(p, q))):
        assert (guided.eps(x, sigma) - p.eps(x, sigma)).abs().max() < limit
    for guided in (dn.Guided(dn.Guided(q, ratio), p, label=1), dn.Guided(q, Exact(p, q), label=1)):
        assert (guided.eps(x, sigma) - component(STDS)(1).eps(x, sigma)).abs().max() < limit
    weighted = dn.Guided(q, Exact(p, q), 1, weights=(0.0, 2.0)).eps(x, sigma)
    classes = p.eps(x, sigma) - component(STDS)(1).eps(x, sigma)
    assert (weighted - (q.eps(x, sigma) - 2 * classes)).abs().max() < 4 * limit


def test_sigma_zero_is_the_limit():
    x = draw(4, 4)
    for k in (0, 1):
        guided = dn.Guided(thin(), thin(), k)
        for zero in (0.0, torch.zeros(4)):
            torch.testing.assert_close(guided(x, zero), component(THIN_STDS)(k)(x, zero), rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("weight", "windows"), [(1.0, None), (3.0, None), (2.0, (None, (0.1, 5.0)))], ids=["one", "three", "window"]
)
def test_guidance_keeps_the_order(weight, windows):
    """A window has two continuous derivatives, enough for order 3. At weight 1 the solution is the component's."""
    process = dn.VP()
    u, grid = starts(process, 4), ladder(grids.log_snr, process)
    problem = dn.Problem(process, dn.Guided(smooth(), smooth(), 1, weight, windows))
    alone = dn.Problem(process, component(STDS)(1))
    truth = analysis.reference(alone if weight == 1 else problem, u, grid(1), rtol=1e-11)
    for solver, options in (("ddim", {}), ("s_pndm", {}), ("gddim", {"order": 3})):
        checks.assert_order(analysis.convergence(problem, solver, u, grid, (80, 160, 320), truth=truth, **options))


@pytest.mark.parametrize("process", [dn.CLD(), dn.PSLD()], ids=["cld", "psld"])
def test_phase_space_is_guided_too(process):
    """At weight 1 every field is that of the component alone."""
    guided, alone = dn.Guided(smooth(), smooth(), 1), component(STDS)(1)
    u = process.prior((3, 4), dtype=torch.float64, seed=0)
    for t in (0.05, 0.5, 1.0):
        one, two = dn.Problem(process, guided).velocity(u, t), dn.Problem(process, alone).velocity(u, t)
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------------------ state of torch


def test_one_evaluation_counts_as_one():
    problem = dn.Problem(dn.VP(), dn.Guided(smooth(), smooth(), 0))
    solution = dn.solve(problem, "ddim", starts(problem.process), grids.log_snr(problem.process, 7))
    assert solution.nfe == problem.nfe == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ambient_state_of_torch_does_not_matter(dtype):
    guided = dn.Guided(other(), Exact(smooth(), other()), [0, 1, 0], 2.0)
    x, sigma = draw(3, 4).to(dtype), torch.tensor([0.3, 1.0, 5.0])
    truth = guided.eps(x, sigma)
    assert truth.dtype == dtype and not truth.requires_grad
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert torch.equal(guided.eps(x, sigma), truth)
    with torch.inference_mode():  # an input that was made there
        assert torch.equal(guided.eps(x + 0, sigma + 0), truth)
        problem = dn.Problem(dn.VP(), guided)
        end = dn.solve(problem, "plms", x + 0, [1.0, 0.5, 0.1]).u
    assert torch.equal(end, dn.solve(problem, "plms", x, [1.0, 0.5, 0.1]).u)
    assert torch.equal(x, draw(3, 4).to(dtype))


def test_float32_guidance_is_float64_guidance_rounded():
    guided, x = dn.Guided(smooth(), smooth(), 0, 2.0), draw(6, 4).float()
    for sigma in (1e-3, 0.5, 50.0):
        truth = guided.eps(x.double(), sigma)
        # eps and the shift are rounded once each, with both components' noises in them
        limit = 8 * 2**-24 * max(component(STDS)(k).eps(x.double(), sigma).abs().max() for k in (0, 1))
        assert (guided.eps(x, sigma) - truth).abs().max() < limit


def test_gradients_go_through_when_asked_for():
    """The Jacobian at weight 1 is that of the component; through a run it is the derivative of the end."""
    guided, alone, x = dn.Guided(smooth(), smooth(), 1), component(STDS)(1), draw(1, 4)
    jacobian = torch.autograd.functional.jacobian
    one, two = (jacobian(lambda x, d=d: d.eps(x, 0.6), x) for d in (guided, alone))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    problem, times = dn.Problem(dn.VP(), dn.Guided(smooth(), smooth(), 1, 2.5)), [1.0, 0.6, 0.3, 0.1]
    u, v = draw(1, 4, seed=3).requires_grad_(), draw(1, 4, seed=4)
    assert not dn.solve(problem, "s_pndm", u, times).u.requires_grad
    (gradient,) = torch.autograd.grad(dn.solve(problem, "s_pndm", u, times, gradients=True).u.sum(), u)
    h = 1e-5  # central difference: h^2 times a third derivative, and rounding over h
    ends = [dn.solve(problem, "s_pndm", u.detach() + s * h * v, times).u.sum() for s in (1, -1)]
    assert abs((gradient * v).sum() - (ends[0] - ends[1]) / (2 * h)) < 1e-8


# ------------------------------------------------------------------------------------------------------ windows


def test_window():
    lo, hi = 0.2, 20.0
    levels = torch.tensor([0.0, 1e-9, 0.2, 0.3, 0.4, 3.0, 20.0, 30.0, 40.0, 1e9], dtype=torch.float64)
    found = window(levels, (lo, hi))
    assert found[[0, 1, 2, 8, 9]].tolist() == [0] * 5 and found[[4, 5, 6]].tolist() == [1] * 3
    v = math.log2(1.5)
    rise = v**3 * (v * (6 * v - 15) + 10)
    assert found[3].item() == pytest.approx(rise, rel=1e-13) and found[7].item() == pytest.approx(1 - rise, rel=1e-13)
    assert [window(s, (lo, hi)) for s in levels.tolist()] == found.tolist() and window(7.0, None) == 1.0


class Counted(Exact):
    """Counts its calls and remembers the levels that it was asked about."""

    calls, levels = 0, ()

    def logits(self, x, sigma):
        self.calls, self.levels = self.calls + 1, torch.as_tensor(sigma).flatten().tolist()
        return super().logits(x, sigma)


def test_closed_windows_cost_nothing_and_change_nothing():
    q, x = other(), draw(4, 4)
    guide = Counted(smooth(), q)
    guided = dn.Guided(q, guide, 1, (3.0, 2.0), windows=((0.2, 20.0), (0.1, 10.0)))
    closed = (0.0, 0.05, 0.1, 40.0, 1e4)
    for sigma in closed[1:]:
        assert torch.equal(guided.eps(x, sigma), q.eps(x, sigma)) and torch.equal(guided(x, sigma), q(x, sigma))
    assert torch.equal(guided(x, torch.zeros(4)), q(x, 0.0)) and guide.calls == 0
    for weights in (0.0, (0.0, 0)):
        assert torch.equal(dn.Guided(q, guide, 1, weights).eps(x, 1.0), q.eps(x, 1.0)) and guide.calls == 0
    levels = torch.tensor([1e-6, 0.15, 1.0, 1e8], dtype=torch.float64)
    found = guided.eps(x, levels)
    assert guide.calls == 1 and guide.levels == [0.1, 0.15, 1.0, 40.0]  # asked only where a window is open
    assert torch.equal(found[[0, 3]], q.eps(x, levels)[[0, 3]])
    assert torch.equal(found[2:3], guided.eps(x[2:3], 1.0)) and not torch.equal(found[1], q.eps(x, levels)[1])
    with pytest.raises(DiffnumError, match="cannot be changed"):
        guided.label = 0
    assert torch.equal(guided.labelled(0).eps(x, 1.0), dn.Guided(q, guide, 0, (3.0, 2.0)).eps(x, 1.0))


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("error", "words", "make"),
    [
        (TypeError, "denoiser", lambda m: dn.Guided(dn.GaussianMixture, m, 0)),
        (TypeError, "denoiser", lambda m: dn.Guided(lambda x, sigma: x, m, 0)),
        (TypeError, "guide", lambda m: dn.Guided(m, dn.from_prediction(lambda u, t: u, dn.VP()))),
        (TypeError, "guide", lambda m: dn.Guided(m, "cat", 0)),
        (TypeError, "classes", lambda m: dn.Guided(m, type("G", (), {"logits": m.logits})(), 0)),
        (ValueError, "shape", lambda m: dn.Guided(m, dn.Gaussian([0.0], [1.0]), 0)),
        (ValueError, "label is missing.*0 to 1", lambda m: dn.Guided(m, m)),
        (ValueError, "label=0.*function", lambda m: dn.Guided(m, lambda x, sigma: x.sum(1), 0)),
        (ValueError, "label=2", lambda m: dn.Guided(m, m, 2)),
        (ValueError, "label=-1", lambda m: dn.Guided(m, m, -1)),
        (ValueError, "label='cat'", lambda m: dn.Guided(m, m, "cat")),
        (TypeError, "label=True", lambda m: dn.Guided(m, m, True)),
        (TypeError, "label=0.5", lambda m: dn.Guided(m, m, torch.tensor([0.5, 0.5]))),
        (ValueError, "weights=-1", lambda m: dn.Guided(m, m, 0, -1)),
        (ValueError, "weights=nan", lambda m: dn.Guided(m, m, 0, float("nan"))),
        (ValueError, "weights=1e\\+23", lambda m: dn.Guided(m, m, 0, 1e23)),
        (TypeError, "weights=True", lambda m: dn.Guided(m, m, 0, (True, 1))),
        (TypeError, "weights", lambda m: dn.Guided(m, m, 0, (1, 2, 3))),
        (TypeError, "weights='2'", lambda m: dn.Guided(m, m, 0, "2")),
        (TypeError, "weights", lambda m: dn.Guided(m, m, 0, (1, 2, 3))),
        (ValueError, "weights", lambda m: dn.Guided(m, lambda x, sigma: x.sum(1), weights=(1, 2))),
        (ValueError, "windows", lambda m: dn.Guided(m, m, 0, windows=(0.1, 20.0))),
        (ValueError, "windows", lambda m: dn.Guided(m, m, 0, windows=((20.0, 0.1), None))),
        (TypeError, "blurring", lambda m: dn.Problem(dn.Blurring((2, 2)), dn.Guided(m, m, 0))),
        (ValueError, "label has 3.*5 rows", lambda m: dn.Guided(m, m, [0, 1, 0]).eps(draw(5, 4), 1.0)),
        (ValueError, r"\(5, 4\).*\(5,\)", lambda m: dn.Guided(m, lambda x, sigma: x).eps(draw(5, 4), 1.0)),
        (ValueError, "autograd", lambda m: dn.Guided(m, lambda x, sigma: x.detach().sum(1)).eps(draw(5, 4), 1.0)),
        (ValueError, "sigma", lambda m: dn.Guided(m, m, 0).eps(draw(5, 4), -1.0)),
        (ValueError, "needs guidance", lambda m: dn.load("cifar10", label="cat")),
        (KeyError, "none", lambda m: dn.load("none", guidance=1)),
    ],
)
def test_what_is_refused(error, words, make):
    with pytest.raises(error, match=words):
        make(smooth())


def test_labels_by_name_and_by_number():
    class Named(Exact):
        def __init__(self):
            super().__init__(smooth(), other())
            self.classes = ("left", "right")

    for label in ("right", 1, torch.tensor(1)):
        assert dn.Guided(other(), Named(), label).label == 1
    for labels in (["right", 0], (1, "left"), torch.tensor([1, 0])):
        assert dn.Guided(other(), Named(), labels).label == [1, 0]
    with pytest.raises(ValueError, match="did you mean right"):
        dn.Guided(other(), Named(), "rigth")


# --------------------------------------------------------------------------------------------- the shipped guide


@pytest.fixture(scope="module")
def network():
    return dn.load("cifar10")


def images(rows, sigma, dtype=torch.float64):
    return (0.5 + sigma) * draw(rows, 3, 32, 32, dtype=dtype)


@pytest.mark.weights
def test_the_network_without_guidance_is_the_network(network):
    assert type(network) is type(dn.load("cifar10")) is dn.Network and dn.Guided is not dn.Network
    x, guided = images(2, 1.0, torch.float32), dn.load("cifar10", guidance=0, label="cat")
    assert torch.equal(guided.eps(x, 1.0), network.eps(x, 1.0)) and torch.equal(guided(x, 1.0), network(x, 1.0))
    assert guided.sha256 == network.sha256 and guided.shape == network.shape and guided.kind == "edm"


@pytest.mark.weights
def test_the_network_moves_along_the_gradient_of_its_guide(network):
    """The definition, written out: w for realism and the class, both windows open."""
    guide, w, sigma, x = guides.load(), 3.0, 1.0, images(2, 1.0)
    z = x.clone().requires_grad_()
    l = guide.logits(z, sigma)
    c = torch.tensor([7, 0])  # the shares of the ten classes cancel in the sum of both log odds
    odds = w * (l.gather(1, c[:, None])[:, 0] - l[:, 10])
    (gradient,) = torch.autograd.grad(odds.sum(), z)
    guided = dn.load("cifar10", label=["horse", "airplane"], guidance=w)
    torch.testing.assert_close(guided.eps(x, sigma), network.eps(x, sigma) - sigma * gradient, rtol=0, atol=1e-12)
    real = dn.load("cifar10", guidance=w)
    (gradient,) = torch.autograd.grad((l := guide.logits(z, sigma))[:, :10].logsumexp(1).sum() - l[:, 10].sum(), z)
    torch.testing.assert_close(real(x, sigma), network(x, sigma) + w * sigma**2 * gradient, rtol=0, atol=1e-12)


@pytest.mark.weights
def test_another_denoiser_is_refused(network):
    for denoiser in (smooth(), dn.load("cifar10-blurring")):
        with pytest.raises((DiffnumError, TypeError), match=r"guide|denoiser"):
            dn.Guided(denoiser, guides.load(), 0)
    stranger = guides.Guide.__new__(guides.Guide)
    vars(stranger).update({**vars(guides.load()), "denoiser": "ab" * 32})
    with pytest.raises(DiffnumError, match="abababab"):
        dn.Guided(network, stranger)
    with pytest.raises(DiffnumError, match="blurring"):
        dn.load("cifar10-blurring", guidance=1)
    with pytest.raises(DiffnumError, match="no guide is shipped that knows cifar10-further"):
        dn.load("cifar10-further", guidance=1)


@pytest.mark.weights
def test_the_guided_network_shows_order_two_in_float64():
    """Heun's method on VE from sigma = 3 to 1, where both windows are open: differences of halved steps."""
    problem = dn.Problem(dn.VE(), dn.load("cifar10", label="ship", guidance=3))
    u, grid = images(1, 3.0), ladder(grids.log_snr, problem.process, t_start=3.0, t_end=1.0)
    ends = [dn.solve(problem, "heun", u, grid(n)).u for n in (4, 8, 16)]
    slope = math.log2((ends[0] - ends[1]).abs().max() / (ends[1] - ends[2]).abs().max())
    assert abs(slope - 2) < 0.3, slope


@pytest.mark.weights
def test_gradients_go_through_the_guided_network():
    """Attention has second derivatives only in its plain form; autocast and inference mode change nothing."""
    guided, x, v = dn.load("cifar10", label="frog", guidance=2), images(1, 1.0), images(1, 1.0).flip(3)
    truth = guided.eps(x, 1.0)
    for context in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert torch.equal(guided.eps(x, 1.0), truth)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((guided.eps(z, 1.0) * v).sum(), z)
    h = 1e-5
    ends = [(guided.eps(x + s * h * v, 1.0) * v).sum() for s in (1, -1)]
    assert (gradient * v).sum().item() == pytest.approx(((ends[0] - ends[1]) / (2 * h)).item(), rel=1e-6)
