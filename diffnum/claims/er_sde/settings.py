"""What several claims of ER-SDE measure: the ODE, laws, paths, and a denoiser that is wrong on purpose."""

from functools import lru_cache

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import converge, gaussian_line
from diffnum.measure import analysis

DEFAULT = "x(exp(x^0.3)+10)"
PUBLISHED = {"quadrature": "riemann100", "derivative": "paper"}


@lru_cache(maxsize=64)
def ode(steps: tuple[int, ...], **options) -> analysis.Convergence:
    """`er_sde` with the ODE scale on VE from 80 to 0.002, log-SNR grid, smooth target."""
    return converge("er_sde", steps, "log_snr", process="ve", phi="x", **options)


@lru_cache(maxsize=64)
def weak(phi: str, order: int, steps: tuple[int, ...] = (80, 160, 320), grid: str = "") -> analysis.Convergence:
    """Error of mean and variance of Gaussian data, VE from 10 to 0.1."""
    process = dn.VE(10.0)
    rule = analysis.ladder(getattr(grids, grid or ("karras" if order == 3 else "log_snr")), process, t_end=0.1)
    exact = dn.Problem(process, dn.Gaussian([0.5], [0.25]))
    return analysis.weak_convergence(exact, "er_sde", rule, steps, order=order, phi=phi)


@lru_cache(maxsize=64)
def strong(phi: str, order: int, steps: tuple[int, ...] = (32, 128)) -> analysis.Convergence:
    """Error path by path on Gaussian data, VE from 5 to 0.1, against order 2 on the finest grid."""
    process = dn.VE(5.0)
    exact, paths = dn.Problem(process, dn.Gaussian([0.0], [0.25])), process.prior((400, 1), seed=1, dtype=torch.float64)
    rule = analysis.ladder(grids.log_snr, process, t_end=0.1)
    truth = {"order": 2, "phi": phi}
    return analysis.strong_convergence(
        exact, "er_sde", paths, rule, steps, finest=1024, order=order, phi=phi, truth=truth
    )


@lru_cache(maxsize=64)
def deficit(phi: str, steps: int, order: int = 1) -> float:
    """Relative error of the variance of N(0, 1/4) at the end, VE, Karras grid."""
    line = gaussian_line(0.5, dn.VE())
    found = analysis.law(line, "er_sde", grids.karras(line.process, steps), order=order, phi=phi)[1].item()
    return found / analysis.exact_law(line, line.process.t_end)[1].item() - 1


class Biased(dn.Gaussian):
    """The denoiser of N(0, 1/4), plus 0.05 for levels in a range."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__([0.0], [0.25])
        self.__dict__["range"] = (low, high)

    def __call__(self, x, sigma):
        """The clean prediction, wrong in the range."""
        low, high = self.__dict__["range"]
        return super().__call__(x, sigma) + 0.05 * (low < float(sigma) < high)
