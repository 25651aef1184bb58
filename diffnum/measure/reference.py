"""Reference solutions of the probability-flow ODE, and the norm in which errors are told."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from diffnum import arguments
from diffnum.coefficients import act
from diffnum.errors import DiffnumError
from diffnum.grids import check_times
from diffnum.problem import Problem, given_problem


def reference(
    problem: Problem, u: Tensor, times: Tensor | list[float], rtol: float = 1e-12, trajectory: bool = False
) -> Tensor:
    r"""The probability-flow ODE solved by an adaptive Runge-Kutta method of order 8 (DOP853), in float64.

    On VP and VE it integrates :math:`dy/d\rho = \epsilon` with :math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha`,
    which is not singular where the raw ODE is, and is what a denoiser takes: data plus noise of level :math:`\rho`.
    Where the grid ends without noise the last stretch, from :math:`\rho = 10^{-9}`, is one straight line. On other
    processes the variable is :math:`\sqrt t`, and the velocity :math:`F u - \tfrac12 G G^T \mathrm{score}`, which asks
    for no root of the covariance.

    Args:
        problem: process and denoiser; its count of evaluations is left alone.
        u: start state at ``times[0]``, ``(batch, *event)``.
        times: decreasing times.
        rtol: relative tolerance per step; the absolute one is a tenth of it.
        trajectory: return the states at all times, stacked on a new first axis.

    Returns:
        float64 state at the last time, or at all times.

    Raises:
        DiffnumError: the integrator gave up.
    """
    process = given_problem(problem).process
    twin, (_, noise) = Problem(process, problem.denoiser), process.calls(problem.denoiser)
    rtol = arguments.number("rtol", rtol, 1e-15, 0.1)
    problem.check(u)
    times = check_times(times, process)
    isotropic = process.family == "isotropic"
    exact = (process.rho(times) if isotropic else times.sqrt()).numpy()
    ends = np.maximum(exact, 1e-9) if process.singular(times[-1].item()) else exact
    scale = process.alpha(times) if isotropic else torch.ones_like(times)

    def field_of(at: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y).reshape(u.shape).to(u.device)
        if isotropic:
            return noise(state, float(at)).double().cpu().numpy().ravel()
        t = float(at) ** 2
        F, G = process.F(t), process.G(t)
        velocity = act(F, state) - act(G @ G.mT / 2, twin.score(state, t))
        return 2 * at * velocity.double().cpu().numpy().ravel()

    with torch.no_grad():
        y0 = (u.double().cpu() / scale[0]).numpy().ravel()
        run = solve_ivp(
            field_of, (ends[0], ends[-1]), y0, method="DOP853", t_eval=ends, rtol=max(rtol, 3e-14), atol=rtol / 10
        )
        if not run.success:
            raise DiffnumError(f"the reference solution stopped early ({run.message}); use a larger rtol than {rtol:g}")
        states = run.y.T.copy()
        states[-1] += (exact[-1] - ends[-1]) * field_of(ends[-1], states[-1]) if exact[-1] < ends[-1] else 0.0
    states = scale.reshape(-1, *(1,) * u.ndim) * torch.from_numpy(states).reshape(len(times), *u.shape)
    return (states if trajectory else states[-1]).to(u.device)


def rms(x: Tensor) -> float:
    """Root mean square of all entries."""
    return x.double().square().mean().sqrt().item()
