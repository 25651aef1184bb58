"""Assignment 11, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 11: guidance that follows the noise
#
# **Level** project. **After** the chapter *Guidance*. **Time** one to two days.
#
# **You learn** what guidance does to the equation, how smooth its weight has to be,
# and which method bears a strong one.
#
# **You are given** a mixture of Gaussians, which knows its classes exactly:
# `mixture.logits(x, sigma)` is the logarithm of density and share of each component
# under noise of level `sigma`, one column a component, and `mixture.eps(x, sigma)` its
# noise prediction.
#
# **You write** three things. First, the guided field with a weight that depends on the
# noise level,
#
# $$
# \epsilon_w(x, \sigma) = \epsilon(x, \sigma) -
# w(\sigma)\,\sigma\,\nabla_x \log p(y \mid x; \sigma) .
# $$
#
# Solvers run without gradients, so ask for yours inside `torch.enable_grad()`; and a
# row of $x$ has the log odds of that row alone. Second, the weight: 1 for $\sigma \le
# \tfrac14$ and for $\sigma \ge 4$, and 4 at $\sigma = 1$, with two continuous
# derivatives and a bounded third one in $\log\sigma$.
#
# Third, a solver of order 2 with two evaluations a step. Heun's method for the noise
# prediction is one, but with a few long steps on a strongly guided field it throws
# samples far away. With $\lambda = \log(\alpha/\sigma)$, $h = \lambda_s - \lambda_t$
# and the clean prediction $D$ along the solution,
#
# $$
# x_s = \frac{\sigma_s}{\sigma_t} x_t + \sigma_s \int_{\lambda_t}^{\lambda_s}
# e^{\lambda} D(\lambda) \,\mathrm{d}\lambda .
# $$
#
# Go to $s$ with $D$ kept at its value at $t$, ask for the second value there, and
# integrate the line through both. The linear part is then exact for steps of any
# length. No step ends at $t = 0$.
#
# {rubric}

# %%
from itertools import pairwise
from math import expm1, log, log2

import torch
from diffnum.checks import assert_close, measure, points

import diffnum as dn
from diffnum.classroom import points_for
from diffnum.measure.analysis import reference, rms


# %% name=field
class Field:
    """The field of a mixture, guided to one component; weight: sigma -> float."""

    def __init__(self, mixture, label, weight):
        self.mixture, self.label, self.weight = mixture, label, weight
        self.shape = mixture.shape

    def eps(self, x, sigma):
        """The guided noise prediction; sigma is a float."""
        ### BEGIN SOLUTION
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            odds = self.mixture.logits(z, sigma).log_softmax(1)[:, self.label]
            (slope,) = torch.autograd.grad(odds.sum(), z)
        return self.mixture.eps(x, sigma) - self.weight(sigma) * sigma * slope
        ### END SOLUTION

    def __call__(self, x, sigma):
        return x - sigma * self.eps(x, sigma)


# %% name=posterior points=4
# Weight 1 is the component alone, to rounding, and weight 0 the mixture.
shares, means, stds = [0.4, 0.6], [[1.0, -0.5], [-0.5, 0.3]], [0.4, 0.3]
mixture = dn.GaussianMixture(shares, means, stds=stds)


def compared(weight, sigma, exact, what):
    start = torch.Generator().manual_seed(1)
    x = (1 + sigma) * torch.randn(6, 2, dtype=torch.float64, generator=start)
    with torch.no_grad():
        found = Field(mixture, 1, lambda s: weight).eps(x, sigma)
    # numbers of the size of the noise x / sigma are subtracted
    size = 1 + 1 / sigma**2
    return assert_close(found, exact.eps(x, sigma), magnified=size, what=what)


def is_component(sigma):
    alone = dn.Gaussian(means[1], [stds[1] ** 2] * 2)
    compared(1.0, sigma, alone, f"the field of weight 1 at {sigma} and the component's")


points(
    4,
    lambda: is_component(0.1),
    lambda: is_component(1.0),
    lambda: is_component(10.0),
    lambda: compared(0.0, 1.0, mixture, "the field of weight 0 and the mixture's"),
)


# %% name=weight
def weight(sigma):
    """The weight at a noise level sigma > 0: a float."""
    ### BEGIN SOLUTION
    v = min(1.0, abs(log2(sigma)) / 2)
    return 1 + 3 * (1 - v**2) ** 3
    ### END SOLUTION


# %% name=smooth points=3
# The weight is 1 outside, 4 at 1, and smooth enough.
def values():
    for sigma, wanted in ((0.01, 1), (0.25, 1), (1.0, 4), (4.0, 1), (80.0, 1)):
        found = weight(sigma)
        assert abs(found - wanted) < 1e-12, f"weight({sigma}) is {found}, not {wanted}"


def differences(h):
    """The largest third difference of the weight over steps h in log2(sigma)."""
    w = [weight(2.0 ** (-4 + k * h / 8)) for k in range(round(64 / h))]
    triples = zip(w, w[8:], w[16:], w[24:], strict=False)
    return max(abs(d - 3 * c + 3 * b - a) for a, b, c, d in triples)


def rises():
    w = [weight(2.0 ** (k / 8)) for k in range(-16, 17)]
    assert w == sorted(w[:17]) + sorted(w[17:], reverse=True), "one rise and one fall"
    assert 1 < weight(0.5) < 4, f"weight(0.5) is {weight(0.5)}, not between 1 and 4"


def is_smooth():
    ratio = differences(1 / 64) / (differences(1 / 128) or 1.0)
    assert ratio > 6, (
        f"half the distance divides third differences of the weight by {ratio:.1f}, "
        "and a bounded third derivative by 8: it jumps (1), has a kink (2), or its "
        "second derivative jumps (4)"
    )


points(3, values, rises, is_smooth)


# %% name=solver
@dn.method(
    order=2, nfe=lambda n: 2 * n, paper="assignment 11", reaches_zero=lambda n: False
)
def guided(problem, u, times):
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(problem.process.levels, (t, s))
        ### BEGIN SOLUTION
        h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)
        first = problem.x0(u, t)
        u = sigma_s / sigma_t * u - alpha_s * expm1(-h) * first
        second = problem.x0(u, s)
        u = u + alpha_s * (1 + expm1(-h) / h) * (second - first)
        ### END SOLUTION
        yield u


# %% name=behaves points=2
# It runs, yields its states, and costs what it claims.
points_for(
    guided, "runs states own unchanged repeatable rows evaluations steps", most=2
)


# %% name=together points=3
# Order 2 on the field that your weight guides.
def on_field(strength):
    starts = torch.Generator().manual_seed(0)
    u = torch.randn(4, 2, dtype=torch.float64, generator=starts)
    return dn.Problem(dn.VP(), Field(mixture, 1, strength)), u


def order_here():
    problem, u = on_field(weight)
    measure(problem, guided, u, "log_snr")


points(3, order_here)


# %% name=stiff points=3
# With weight 8 and 4 to 10 steps from the prior the error stays below 0.4.
def bears():
    problem, u = on_field(lambda sigma: 8.0)
    steps = (4, 5, 6, 8, 10)
    grids = {n: dn.grids.log_snr(problem.process, n) for n in steps}
    exact = reference(problem, u, grids[4][[0, -1]], rtol=1e-9)
    errors = {n: rms(dn.solve(problem, guided, u, grids[n]).u - exact) for n in steps}
    worst = max(errors, key=errors.get)
    assert errors[worst] < 0.4, (
        f"with {worst} steps the error is {errors[worst]:.2g}, the data have size 1: "
        "the method overshoots"
    )


points(3, bears)

# %% name=hidden points=3
# Hidden: right limit and order without guidance, rough grids, processes, precision.
### BEGIN HIDDEN TESTS
points_for(guided, "end limit order rough grids processes precision error", most=3)
### END HIDDEN TESTS

# %% [markdown] name=explain points=2
# The largest rate $J$ of the guided field is about 1.6. Which part of it does your
# solver still see, and why does Heun's method for the noise prediction throw samples
# away when steps are long?
#
# The exact linear part takes 1, so D has the rate J - 1, about 0.6, at most. Heun's
# second value is divided by the noise at the end of the step: with a ratio r of noise
# levels the deviation grows like 1/r. (By eye: the rate, and the factor 1/r or a
# measured growth.)
