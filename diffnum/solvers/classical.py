r"""Classical methods on the probability-flow ODE itself, :math:`du/dt = v(u, t)`: what PNDM is compared with."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

from torch import Tensor

from diffnum.coefficients import adams_bashforth, adams_table, combine
from diffnum.kept import kept
from diffnum.problem import Problem
from diffnum.runner import EVERY, method
from diffnum.solvers.ddim import improved_euler, runge_kutta, straight, transfer

TEXTBOOK = "Hairer, Norsett, Wanner 1993"
PNDM = "Liu et al. 2022, arXiv:2202.09778"


@method(order=1, nfe=lambda n: n, paper=f"{TEXTBOOK}, I.7", families=EVERY, exact_for=None, register=True)
def euler(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Euler's method on the probability-flow ODE.

    .. math:: u_{i+1} = u_i + h \, v(u_i, t_i), \qquad h = t_{i+1} - t_i

    Order 1, one evaluation a step. State ``(batch, *event)``.
    """
    for t, s in pairwise(times):
        u = straight(problem, u, problem.velocity(u, t), t, s)
        yield u


@method(
    order=2,
    nfe=lambda n: 2 * n,
    paper=f"{TEXTBOOK}, II.1",
    reaches_zero=lambda n: False,
    families=EVERY,
    exact_for=None,
    register=True,
)
def heun(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Heun's method (improved Euler) on the probability-flow ODE.

    .. math:: u_{i+1} = u_i + \tfrac{h}{2} (k_1 + k_2), \qquad k_1 = v(u_i, t_i), \quad k_2 = v(u_i + h k_1, t_{i+1})

    Order 2, two evaluations a step; it evaluates at the end, so it cannot end at t = 0. State ``(batch, *event)``.
    """
    move = partial(straight, problem)
    for t, s in pairwise(times):
        bar = improved_euler(problem.velocity, move, u, problem.velocity(u, t), t, s)
        u = straight(problem, u, bar, t, s)
        del bar
        yield u


@method(
    order=4,
    nfe=lambda n: 4 * n,
    paper=f"{TEXTBOOK}, II.1",
    reaches_zero=lambda n: False,
    families=EVERY,
    exact_for=None,
    register=True,
)
def rk4(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""The classical Runge-Kutta method on the probability-flow ODE.

    .. math:: u_{i+1} = u_i + \tfrac{h}{6} (k_1 + 2 k_2 + 2 k_3 + k_4)

    Order 4, four evaluations a step; it evaluates at the end, so it cannot end at t = 0. State ``(batch, *event)``.
    """
    problem = problem.on(u, times, _middles(times))
    move = partial(straight, problem)
    for t, s in pairwise(times):
        bar = runge_kutta(problem.velocity, move, u, problem.velocity(u, t), t, (t + s) / 2, s)
        u = straight(problem, u, bar, t, s)
        del bar
        yield u


def _middles(times: list[float]) -> list[float]:
    return [(t + s) / 2 for t, s in pairwise(times)]


def _adams(problem: Problem, u: Tensor, times: list[float], order: int) -> Iterator[Tensor]:
    """Adams-Bashforth with the weights of the actual times, started with Runge-Kutta."""
    weights = kept.get((adams_table, tuple(times), order), lambda: adams_table(times, order))
    problem = problem.on(u, times, _middles(times[:order]))
    move, past = partial(straight, problem), []
    for (t, s), w in zip(pairwise(times), weights, strict=True):
        past = [problem.velocity(u, t), *past]
        bar = combine(w, past) if w else runge_kutta(problem.velocity, move, u, past[0], t, (t + s) / 2, s)
        u, past = straight(problem, u, bar, t, s), past[: order - 1]
        del bar  # a state less in memory while the network runs
        yield u


@method(
    order=2,
    nfe=lambda n: n + 3,
    paper=f"{TEXTBOOK}, III.1 and III.5",
    reaches_zero=lambda n: n > 1,
    families=EVERY,
    exact_for=None,
    register=True,
)
def ab2(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Two-step Adams-Bashforth with the weights of the actual times.

    .. math:: u_{i+1} = u_i + \int_{t_i}^{t_{i+1}} \sum_{j<2} l_j(\tau) v_{i-j} \, d\tau

    Order 2 on any grid; one evaluation a step and three more for the Runge-Kutta start. State ``(batch, *event)``.
    """
    return _adams(problem, u, times, 2)


@method(
    order=4,
    nfe=lambda n: n + 3 * min(n, 3),
    paper=f"{TEXTBOOK}, III.1 and III.5",
    reaches_zero=lambda n: n > 3,
    families=EVERY,
    exact_for=None,
    register=True,
)
def ab4(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Four-step Adams-Bashforth with the weights of the actual times.

    .. math:: u_{i+1} = u_i + \int_{t_i}^{t_{i+1}} \sum_{j<4} l_j(\tau) v_{i-j} \, d\tau

    Order 4 on any grid; one evaluation a step and nine more for the Runge-Kutta start. State ``(batch, *event)``.
    """
    return _adams(problem, u, times, 4)


@method(
    order=lambda grid="log_snr", process=None, published=False: (
        1 if grid == "rough" else 4 if grid == "uniform" and not published else 2
    ),
    nfe=lambda n, published=False: n + 3 * min(n, 3),
    paper=f"{PNDM}, FON in section 4",
    reaches_zero=lambda n, published=False: n > 3,
    values={"published": (False, True)},
    exact_for=None,
    register=True,
)
def fon(problem: Problem, u: Tensor, times: list[float], published: bool = False) -> Iterator[Tensor]:
    r"""FON: PNDM's classical rival, AB4 with the weights of uniform steps and a Runge-Kutta start.

    .. math:: u_{i+1} = u_i + \tfrac{h}{24} (55 v_i - 59 v_{i-1} + 37 v_{i-2} - 9 v_{i-3})

    Order 4 on grids uniform in t, 2 on other smooth ones, 1 on rough ones; n + 9 evaluations. State
    ``(batch, *event)``.

    Args:
        published: as in the released code. The slope is a difference quotient over one entry of the noise table
            (where the process has one), and in the start-up every stage slope is taken at the step's own point and
            time, only its noise prediction at the stage. That start is not Runge-Kutta, and the order falls to 2.
    """
    problem = problem.on(u, times, _middles(times[:4]))
    weights, past, unit = adams_bashforth(4), [], problem.process.unit
    drift: Callable[..., Tensor] = problem.drift
    if published and unit is not None:

        def drift(u: Tensor, e: Tensor, t: float) -> Tensor:
            down = transfer(problem, u, e, t, max(t - unit, 0.0))
            return combine((-1 / unit, 1 / unit), (down, u))

    for i, (t, s) in enumerate(pairwise(times)):
        k = drift(u, problem.eps(u, t), t)
        past = [k, *past]
        if i < 3:
            at = partial(lambda u0, t0, u, m: drift(u0, problem.eps(u, m), t0), u, t) if published else problem.velocity
            bar = runge_kutta(at, partial(straight, problem), u, k, t, (t + s) / 2, s)
        else:
            bar = combine(weights, past)
        u, past = straight(problem, u, bar, t, s), past[:3]
        del bar
        yield u
