"""Assignment 6, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 6: a noise scale of your own for ER-SDE
#
# **Level** graduate. **After** the chapter on ER-SDE. **Time** three to four hours.
#
# **You learn** which stochastic equations share their marginals with the diffusion,
# and how their laws are checked without drawing a single sample.
#
# **You are given** the extended reverse SDE of the chapter. With $\rho =
# \sigma/\alpha$, $y = x/\alpha$ and a noise scale $\phi(\rho)$, its solution with the
# clean prediction frozen over a step is
#
# $$
# y_s = r\, y_t + (1 - r)\, x_0(x_t, t) + \sqrt{\rho_s^2 - \rho_t^2 r^2}\; z, \qquad
# r = \frac{\phi(\rho_s)}{\phi(\rho_t)}, \qquad z \sim \mathcal N(0, I).
# $$
#
# **You write** a scale $\phi$ that is not in the table of the chapter, and the
# solver. A scale is admissible if the variance is never negative: that is a condition
# on $\phi(\rho)/\rho$. It is stochastic if the variance is not 0. Every draw comes
# from `noise(u)`.
#
# {rubric}

# %%
from itertools import pairwise
from math import sqrt

from diffnum.checks import points

import diffnum as dn
from diffnum.classroom import points_for


# %% name=scale
def phi(rho):
    """A noise scale: a function of a float >= 0 with phi(0) = 0."""
    ### BEGIN SOLUTION
    return rho * rho / sqrt(1 + rho)
    ### END SOLUTION


# %% name=admissible points=4
# phi(rho)/rho does not fall, phi(0) is 0, and the scale is not that of the ODE.
def rises():
    ratios = [phi(1.1**k) / 1.1**k for k in range(-60, 60)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(ratios)), (
        "phi(rho)/rho falls: a variance is negative"
    )


def starts_at_zero():
    assert phi(0.0) == 0, f"phi(0) is {phi(0.0)}"


def is_stochastic():
    assert phi(2.0) / 2 > 1.01 * phi(1.0), (
        "phi is proportional to rho between 1 and 2: that is the ODE"
    )


points(4, rises, starts_at_zero, is_stochastic)


# %% name=extended
@dn.method(
    weak_order=1,
    nfe=lambda n: n,
    paper="assignment 6",
    kind="sde",
    exact_for="a point mass",
)
def extended(problem, u, times, noise):
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            problem.process.levels(t),
            problem.process.levels(s),
        )
        rho_t, rho_s = sigma_t / alpha_t, sigma_s / alpha_s
        x0 = problem.x0(u, t)
        ### BEGIN SOLUTION
        r = phi(rho_s) / phi(rho_t)
        spread = sqrt(max(0.0, rho_s**2 - (rho_t * r) ** 2))
        u = alpha_s * (r / alpha_t * u + (1 - r) * x0 + spread * noise(u))
        ### END SOLUTION
        yield u


# %% name=behaves points=4
# It runs, draws with its argument noise alone, and costs what it claims.
points_for(
    extended, "runs states own unchanged repeatable rows evaluations steps", most=4
)

# %% name=law points=5
# Mean and covariance of what it returns tend to the right ones, with weak order 1.
points_for(extended, "end limit order", most=5)

# %% name=hidden points=4
# Hidden: a point mass, every grid and process, t = 0, float64 all the way.
### BEGIN HIDDEN TESTS
points_for(extended, "point grids processes zero precision", most=4)
### END HIDDEN TESTS

# %% [markdown] name=explain points=3
# Derive the condition on phi, and say what happens to the noise as phi(rho)/rho rises
# faster.
#
# rho_s^2 >= rho_t^2 phi_s^2 / phi_t^2 is phi_s/rho_s <= phi_t/rho_t for rho_s <
# rho_t. The faster the ratio rises, the smaller r is, and the more noise is drawn
# anew. (By eye.)
