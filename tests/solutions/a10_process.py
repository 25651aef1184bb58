"""Assignment 10, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 10: a process that the library does not have
#
# **Level** project. **After** the chapters *Noise as a linear SDE* and *Measuring
# order honestly*. **Time** two to three days.
#
# **You learn** what a diffusion process has to say about itself before any solver can
# serve it, and that a solver written in these terms serves all of them.
#
# **You are given** the straight path of flow matching: $x_t = (1 - t)\, x_0 + t\, n$
# for $0 \le t < 1$, so $\alpha = 1 - t$ and $\sigma = t$. `Isotropic` makes a process
# of five statements, on float64 tensors. Its times end at `t_max`, a little before 1,
# where no signal is left.
#
# **You write**, first, these statements: the levels; $F$ and $G^2$ of the linear SDE
# with these marginals,
#
# $$
# F = \frac{\mathrm{d}}{\mathrm{d}t} \log \alpha, \qquad
# G^2 = \frac{\mathrm{d}\sigma^2}{\mathrm{d}t} - 2 F \sigma^2;
# $$
#
# the integral of $F$ over a step; $\alpha_s (\rho_s - \rho_t)$ without cancellation;
# and the time of a given log-SNR. Second, a solver of order 2 for *every* isotropic
# process, which on this one goes straight to a point mass: Heun's method in $\rho$
# for $y = x/\alpha$, in which $\mathrm{d}y/\mathrm{d}\rho = \epsilon$.
#
# {rubric}

# %%
from itertools import pairwise

import torch
from diffnum.checks import assert_close, assert_exact, measure, points

import diffnum as dn
from diffnum.classroom import points_for
from diffnum.processes.isotropic import Isotropic


# %% name=process
class Straight(Isotropic):
    """x_t = (1 - t) x_0 + t n."""

    t_end, t_max, prior_std = 1e-3, 0.999, 1.0

    def _signal(self, t):
        """(alpha, sigma)."""
        ### BEGIN SOLUTION
        return 1 - t, t
        ### END SOLUTION

    def _rates(self, t):
        """(F, G^2)."""
        ### BEGIN SOLUTION
        return -1 / (1 - t), 2 * t / (1 - t)
        ### END SOLUTION

    def _log_change(self, to, frm):
        """Integral of F from frm to to."""
        ### BEGIN SOLUTION
        return torch.log1p((frm - to) / (1 - frm))
        ### END SOLUTION

    def _noise_factor(self, to, frm):
        """alpha(to) (rho(to) - rho(frm))."""
        ### BEGIN SOLUTION
        return (to - frm) / (1 - frm)
        ### END SOLUTION

    def time_of_log_snr(self, log_snr):
        """The time of this log(alpha^2 / sigma^2); a float for a float."""
        ### BEGIN SOLUTION
        level = torch.as_tensor(log_snr, dtype=torch.float64)
        t = torch.sigmoid(-level / 2)
        return t if isinstance(log_snr, torch.Tensor) else t.item()
        ### END SOLUTION


# %% name=statements points=6
# What the process says about itself fits together.
process = Straight()
times = torch.linspace(0.01, 0.95, 95, dtype=torch.float64)


def rates():
    h = 1e-6
    alpha, sigma = process.alpha(times), process.sigma(times)
    slope = (process.alpha(times + h).log() - process.alpha(times - h).log()) / (2 * h)
    grown = (process.sigma(times + h) ** 2 - process.sigma(times - h) ** 2) / (2 * h)
    F, G = process.F(times)[:, 0, 0], process.G(times)[:, 0, 0]
    assert_close(F, slope, 1e-6, "F and d log(alpha)/dt")
    assert_close(
        G**2, grown - 2 * F * sigma**2, 1e-6, "G^2 and what the variance asks for"
    )
    assert_close(alpha, 1 - times, 1e-14, "alpha and 1 - t")
    assert_close(sigma, times, 1e-14, "sigma and t")


def steps():
    for t, s in pairwise(times.flip(0).tolist()):
        psi, c = process.step(t, s)
        (a, b), (f, g) = process.levels(t), process.levels(s)
        assert_close(
            torch.tensor([psi, c]),
            torch.tensor([f / a, g - f * b / a]),
            1e-13,
            "psi and c of a step",
        )


def inverse():
    assert_close(
        process.time_of_log_snr(process.log_snr(times)),
        times,
        1e-13,
        "the time of a log-SNR and the time",
    )
    assert isinstance(process.time_of_log_snr(0.0), float), "a float gives a float"


points(6, rates, steps, inverse)


# %% name=solver
@dn.method(
    order=2,
    nfe=lambda n: 2 * n,
    paper="assignment 10",
    exact_for="a point mass",
    reaches_zero=lambda n: False,
)
def heun_in_rho(problem, u, times):
    for t, s in pairwise(times):
        psi, c = problem.process.step(t, s)
        ### BEGIN SOLUTION
        e = problem.eps(u, t)
        u = psi * u + c / 2 * (e + problem.eps(psi * u + c * e, s))
        ### END SOLUTION
        yield u


# %% name=behaves points=3
# It runs on VP, yields its states, and costs what it claims.
points_for(
    heun_in_rho, "runs states own unchanged repeatable rows evaluations steps", most=3
)


# %% name=together points=4
# Order 2 on your own process, and a point mass in one step.
def order_here():
    grid = process.time_of_rho(torch.tensor([3.0, 0.05], dtype=torch.float64)).tolist()
    ends = {"t_start": grid[0], "t_end": grid[1]}
    data = dn.GaussianMixture([0.4, 0.6], [[1.0, -0.5], [-0.5, 0.3]], stds=[0.4, 0.3])
    starts = torch.randn(
        4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    measure(
        dn.Problem(process, data),
        heun_in_rho,
        starts,
        lambda n: dn.grids.log_snr(process, n, **ends),
        (80, 160, 320),
    )


points(
    4,
    order_here,
    lambda: assert_exact(process, heun_in_rho, dn.grids.uniform(process, 1)),
)

# %% name=hidden points=4
# Hidden: your solver on four other processes, rough grids, the error for its cost.
### BEGIN HIDDEN TESTS
points_for(
    heun_in_rho, "end limit order rough point grids processes precision error", most=4
)
### END HIDDEN TESTS

# %% [markdown] name=report points=3
# On this process, Euler's method for the raw equation in t and DDIM are the same
# method. Show it, and say for which other schedules that is so.
#
# With alpha = 1 - t and sigma = t the velocity is n - x_0, constant along a straight
# path, so one Euler step is the exact step with frozen noise. It holds where alpha
# and sigma are both linear in t; VE is one of them. (By eye.)
