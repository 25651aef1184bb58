"""Assignment 5, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 5: exponential Adams in log-SNR
#
# **Level** graduate. **After** the chapter on exponential multistep methods. **Time**
# four hours.
#
# **You learn** to derive an exponential integrator with SymPy, and to code it without
# cancellation.
#
# **You are given** the exact solution of the probability-flow ODE between $t$ and $s$
# in $\lambda = \log(\alpha/\sigma)$, half the log-SNR, with the clean prediction
# $x_0(\lambda)$ along it:
#
# $$
# x_s = \frac{\sigma_s}{\sigma_t} x_t +
# \sigma_s \int_{\lambda_t}^{\lambda_s} e^{\lambda} x_0(\lambda)
# \,\mathrm{d}\lambda .
# $$
#
# **You write** first `weights()`: replace $x_0(\lambda)$ by the line through $x_0$ at
# $\lambda_t$ and at $\lambda_t - k$, where $k$ is the step before, integrate over $0
# < \lambda - \lambda_t < h$, and write the integral as
# $\alpha_s (a\, x_0 + b\, (x_0 - x_0^{\mathrm{old}}))$.
# Return the SymPy expressions $a(h)$ and $b(h, k)$ in the
# symbols given. Then code the method. The first step has no old value; a step to $t =
# 0$ has $h = \infty$ and ends in $x_0$.
#
# {rubric}

# %%
from itertools import pairwise
from math import expm1, inf, log

import sympy as sp
from diffnum.checks import points

import diffnum as dn
from diffnum.classroom import points_for

h, k, z = sp.symbols(
    "h k z", positive=True
)  # this step, the step before, and lambda - lambda_t


# %% name=weights
def weights():
    """The factors a(h) and b(h, k)."""
    ### BEGIN SOLUTION
    gain = sp.exp(z - h)  # e^lambda sigma_s / alpha_s
    a = sp.integrate(gain, (z, 0, h))
    b = sp.integrate(gain * z / k, (z, 0, h))
    return sp.simplify(a), sp.simplify(b)
    ### END SOLUTION


# %% name=derived points=4
# The weights are the integrals of the line.
def integrals(e0, e1):
    a, b = weights()
    line = e0 + (e0 - e1) * z / k
    return sp.simplify(
        sp.integrate(sp.exp(z - h) * line, (z, 0, h)) - a * e0 - b * (e0 - e1)
    )


def is_zero(value):
    assert value == 0, f"the weights miss the integral by {value}"


points(4, lambda: is_zero(integrals(1, 1)), lambda: is_zero(integrals(0, 1)))


# %% name=exponential
@dn.method(order=2, nfe=lambda n: n, paper="assignment 5", exact_for="a point mass")
def exponential(problem, u, times):
    process, old, before = problem.process, None, None
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.levels(t), process.levels(s)
        step = log(alpha_s / sigma_s) - log(alpha_t / sigma_t) if sigma_s > 0 else inf
        x0 = problem.x0(u, t)
        ### BEGIN SOLUTION
        move = -expm1(-step) * x0
        if old is not None and step < inf:
            move = move + (step + expm1(-step)) / before * (x0 - old)
        u = sigma_s / sigma_t * u + alpha_s * move
        ### END SOLUTION
        old, before = x0, step
        yield u


# %% name=behaves points=3
# It runs, yields its states, and costs what it claims.
points_for(
    exponential, "runs states own unchanged repeatable rows evaluations steps", most=3
)

# %% name=order points=4
# The right limit, and order 2 on smooth grids.
points_for(exponential, "end limit order", most=4)

# %% name=rough points=3
# Order 2 on steps that alternate 1 : 3.
points_for(exponential, "rough", most=3)

# %% name=hidden points=4
# Hidden: a point mass, every grid and process, t = 0, precision, error for its cost.
### BEGIN HIDDEN TESTS
points_for(exponential, "point grids processes zero precision error", most=4)
### END HIDDEN TESTS

# %% [markdown] name=explain points=2
# DPM-Solver++(2M) has $h\,(1 - e^{-h})/(2k)$ in place of your $b$. Expand both in
# $h$. Why do both have order 2?
#
# Both are $h^2/(2k) + O(h^3)$; the difference is $O(h^3)$ in one step, the size of
# the local error. (By eye.)
