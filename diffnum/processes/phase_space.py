r"""Critically damped diffusions on phase space: position x and momentum m, mixed by 2x2 matrices (CLD and PSLD).

With :math:`b(t) = \int_0^t \beta`, every coefficient is a function of b alone:

.. math:: F = \tfrac{\beta}{2} \begin{pmatrix} -\Gamma & M^{-1} \\ -1 & -\nu \end{pmatrix}, \qquad
          G G^T = \beta \begin{pmatrix} \Gamma & 0 \\ 0 & M \nu \end{pmatrix}, \qquad M^{-1} = \tfrac14 (\Gamma - \nu)^2

Critical damping makes the matrix of F a multiple of the identity plus a nilpotent N: exponentials end after two terms.

| paper | symbol there | here |
|---|---|---|
| CLD | Gamma, M | Gamma = 0 and nu = 2/sqrt(mass) in the matrix above, with twice its beta |
| PSLD | gamma (initial momentum) | kappa |
| gDDIM | v | m, the momentum |
"""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum import arguments
from diffnum.coefficients import GAUSS_WEIGHTS, propagators
from diffnum.processes.linear import LinearProcess, inverse, scalars
from diffnum.processes.schedules import LARGEST_RATIO

MOST = 1e6  # of a parameter; what any one of them leaves of the data decides
NODES = len(GAUSS_WEIGHTS)  # per panel, in all quadratures of this module


class PhaseSpace(LinearProcess):
    """What CLD and PSLD share: everything, once damping, mass, rate and initial covariance are given."""

    family = "phase_space"
    numbers = 4
    ending = "euler"
    t_max = 1.0
    t_end = 1e-3

    def __init__(self, beta: tuple[float, float], Gamma: float, nu: float, kappa: float, eps: float) -> None:
        self.beta_min, self.beta_max = beta
        self.Gamma, self.nu, self.mass = Gamma, nu, 4 / (nu - Gamma) ** 2
        eps = arguments.number("eps", eps, 0.0, MOST)
        self.start = eps, arguments.number("kappa", kappa, above=0, high=MOST, usual=0.04) * self.mass + eps
        ends = [self._level(_table(t)).item() for t in (self.t_end, self.t_max)]
        if not 1 / LARGEST_RATIO < ends[0] < ends[1] < LARGEST_RATIO:
            raise ValueError(
                f"beta={beta}, Gamma={Gamma:g}, nu={nu:g} (mass {self.mass:g}), kappa={kappa}, eps={eps:g}: the noise "
                f"would run from {ends[0]:g} to {ends[1]:g} times the data; take more usual numbers"
            )

    # Everything below is a function of b, the integral of beta.
    @scalars
    def beta(self, t: Tensor) -> Tensor:
        """Rate of the clock, per unit time."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    @scalars
    def clock(self, t: Tensor) -> Tensor:
        r"""Integral of the rate, :math:`b(t) = \int_0^t \beta`."""
        return t * self.beta(t / 2)

    def F(self, t: Tensor | float) -> Tensor:
        """Drift matrix ``(*t, 2, 2)``."""
        t = self.at(t)
        unit = _table([[-self.Gamma, 1 / self.mass], [-1.0, -self.nu]]) / 2
        return _spread(self.beta(t)) * unit.to(t.device)

    def G(self, t: Tensor | float) -> Tensor:
        """Diffusion matrix ``(*t, 2, 2)``, diagonal."""
        t = self.at(t)
        return _spread(self.beta(t).sqrt()) * self._noise.to(t.device).sqrt()

    def integral_F(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Integral of F from ``frm`` to ``to``, ``(*t, 2, 2)``, without cancellation."""
        to, frm = self.at(to), self.at(frm)
        return self.F((to + frm) / 2) * _spread(to - frm)

    def transition(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        r"""Fundamental matrix :math:`\Psi = e^{-(\Gamma + \nu) c/4} (I + \tfrac{c}{2} N)`, ``(*t, 2, 2)``.

        c is the integral of beta from ``frm`` to ``to``.
        """
        to, frm = self.at(to), self.at(frm)
        return self._psi((to - frm) * self.beta((to + frm) / 2))

    def propagator(self, c: Tensor | float) -> Tensor:
        """The transition over a change c of b, ``(*c, 2, 2)``."""
        return self._psi(c if isinstance(c, Tensor) else _table(c))

    def mean(self, t: Tensor | float) -> Tensor:
        """Factor on the clean data, ``(*t, 2, 1)``: the first column of the transition from 0."""
        return self._psi(self.clock(self.at(t)))[..., :1]

    def cov(self, t: Tensor | float) -> Tensor:
        """Covariance of the noise and of the initial momentum, ``(*t, 2, 2)``."""
        xx, xm, mm, _ = self._covariance(self.clock(self.at(t)))
        return _matrix([[xx, xm], [xm, mm]])

    def cholesky(self, t: Tensor | float) -> Tensor:
        """The lower triangular root L of the covariance, ``(*t, 2, 2)``."""
        a, b, c = self._lower(self.clock(self.at(t)))
        return _matrix([[a, torch.zeros_like(a)], [b, c]])

    def rotation_root(self, t: Tensor | float) -> Tensor:
        r"""The root R with :math:`R' = (F + \tfrac12 G G^T \Sigma^{-1}) R`, ``(*t, 2, 2)``: L times a rotation.

        .. math:: R_t = L_t \begin{pmatrix} \cos\varphi & \sin\varphi \\ -\sin\varphi & \cos\varphi \end{pmatrix},
                  \qquad \varphi' = (L^{-1} F L)_{12} + \tfrac12 (L^{-1} G G^T L^{-T})_{12}, \quad \varphi(0) = 0

        Source: the equation of R is that of Zhang, Tao and Chen 2023, arXiv:2206.05564; the rotation form is ours.
        """
        return self.cholesky(t) @ self._rotation(self.at(t))

    @scalars
    def angle(self, t: Tensor) -> Tensor:
        r"""The angle :math:`\varphi(t)` by which R is rotated against L, in radians."""
        return self._angle(self.clock(t))

    def gain(self, t: Tensor | float, K: str = "R") -> Tensor:
        r"""What the noise prediction contributes to the velocity, :math:`\tfrac12 G G^T K^{-T}`, ``(*t, 2, 2)``."""
        t = self.noisy(self.at(t))
        a, b, c = self._lower(self.clock(t))
        inverse = _matrix([[1 / a, -b / (a * c)], [torch.zeros_like(a), 1 / c]])  # L^{-T}, no difference inside
        self.root(0.5, K)  # refuses an unknown name
        root = inverse @ self._rotation(t) if K == "R" else inverse
        return self._diffusion(t) / 2 @ root

    def statistic(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""The sufficient statistic of a state and its noise level: ``(*t, 1, 2)`` and ``(*t)``.

        .. math:: y = \frac{a^T \Sigma^{-1} u}{a^T \Sigma^{-1} a}, \qquad s^2 = \frac{1}{a^T \Sigma^{-1} a}

        with a = :meth:`mean`. Given y the state says nothing more about the data, and y is data plus white noise of
        level s: one isotropic denoiser gives the exact score on phase space.
        """
        _, adjugate, normal, det = self._split(self.at(t))
        return (adjugate / normal[..., None])[..., None, :], (det / normal).sqrt()

    def expansion(self, t: Tensor | float, what: str) -> tuple[Tensor | None, Tensor | None]:
        r"""The split form of score and noise prediction: a part without network and a part with its noise prediction.

        .. math:: \mathrm{score} = -\frac{n (n \cdot u)}{n^T \Sigma n} - \Sigma^{-1} a \, s \, \hat\epsilon, \qquad
                  n = (-a_2, a_1), \qquad \epsilon_K = -K^T \mathrm{score}

        It keeps full precision in single precision, where :math:`\Sigma^{-1}(u - a D)` loses it.
        """
        a, adjugate, normal, det = self._split(self.at(t))
        n = torch.stack([-a[..., 1], a[..., 0]], -1)[..., None]
        b = (adjugate / (det * normal).sqrt()[..., None])[..., None]
        # K^T goes to the left factor: no entry is then a difference of large products
        left = -torch.eye(2, dtype=torch.float64, device=n.device) if what == "score" else self.root(t, what).mT
        return (left @ n) * n.mT / _spread(normal), left @ b

    def reverse_step(self, to: Tensor | float, frm: Tensor | float, lam: float) -> tuple[Tensor, Tensor]:
        r"""Exact step of the reverse SDE of weight lambda with the data prediction frozen: transition and covariance.

        .. math:: \hat\Psi' = \bigl(F + \tfrac{1 + \lambda^2}{2} G G^T \Sigma^{-1}\bigr) \hat\Psi, \qquad
                  P = \lambda^2 \int_s^t \hat\Psi(s, \tau) \, G G^T \hat\Psi(s, \tau)^T d\tau
                    = \Sigma_s - \hat\Psi \Sigma_t \hat\Psi^T

        The equation is solved by collocation at the Gauss points of the quadrature, to rounding, and P is the
        integral: as the difference it would lose its small eigenvalue to cancellation.
        """
        lam = arguments.weight("lam", lam)
        ends = torch.stack(torch.broadcast_tensors(self.at(to), self.at(frm)))
        shape, edges = ends.shape[1:], ends.reshape(2, -1).mT.tolist()

        def drift(tau: Tensor) -> Tensor:
            xx, xm, mm, det = self._covariance(self.clock(tau))
            inverse = _matrix([[mm, -xm], [-xm, xx]]) / _spread(det)
            return self.F(tau) + (1 + lam**2) / 2 * self._diffusion(tau) @ inverse

        through, tau, weights, owner, inside = propagators(drift, edges, self.knots.tolist())
        added = torch.einsum("mj,mjpq,mjqr,mjsr->mps", lam**2 * weights, inside, self._diffusion(tau), inside)
        P = torch.zeros_like(through).index_add_(0, owner, added)
        return through.reshape(*shape, 2, 2), P.reshape(*shape, 2, 2)

    @scalars
    def rho(self, t: Tensor) -> Tensor:
        """Noise level that the denoiser sees: that of the sufficient statistic."""
        return self._level(t)

    @inverse
    def time_of_rho(self, rho: Tensor) -> Tensor:
        """Time at which the denoiser sees a noise level, by bisection in sqrt(t): the inverse of :meth:`rho`."""
        low, high = torch.zeros_like(rho), torch.full_like(rho, self.t_max**0.5)
        for _ in range(60):
            middle = (low + high) / 2
            above = self._level(middle**2) > rho
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return high**2

    @property
    def knots(self) -> Tensor:
        """Times at which a quadrature is cut: where the integral of beta grows by 4, and while the start is felt.

        An initial variance e is overtaken by that of the momentum's motion at a time of order sqrt(e).
        """
        levels = torch.arange(1, ceil(self.clock(self.t_max) / 4), dtype=torch.float64, device="cpu") * 4
        late = 4.0 ** torch.arange(12, dtype=torch.float64, device="cpu")
        early = (self.start[0] / self.start[1]) ** 0.5 * 2 * self.mass * late
        levels = torch.cat([early[(early > 0) & (early < 0.01)], levels])
        slope = self.beta_max - self.beta_min
        return 2 * levels / (self.beta_min + (self.beta_min**2 + 2 * slope * levels).sqrt())

    def singular(self, t: float) -> bool:
        """Whether the noise has a direction without variance: only at t = 0, if the data start without noise."""
        return t == 0 and self.start[0] == 0

    def encode(self, x0: Tensor) -> Tensor:
        """Data as a state ``(batch, 2, *event)`` without momentum; TypeError for anything but a floating tensor."""
        x0 = arguments.state("x0", x0)
        return torch.stack([x0, torch.zeros_like(x0)], 1)

    def decode(self, u: Tensor) -> Tensor:
        """The position ``(batch, *event)``."""
        self.event_shape(arguments.state("u", u))
        return u[:, 0]

    def event_shape(self, u: Tensor) -> tuple[int, ...]:
        """Shape of one data point inside the state ``(batch, 2, *event)``.

        Raises:
            ValueError: axis 1 is not (position, momentum).
        """
        if u.ndim < 3 or u.shape[1] != 2:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; a state on phase space is (batch, 2, *event): position, momentum"
            )
        return tuple(u.shape[2:])

    def state_shape(self, shape: Sequence[int], data: bool = False) -> tuple[int, ...]:
        """Shape ``(batch, 2, *event)`` of the states; a shape whose axis 1 is 2 is taken for theirs unless ``data``."""
        own = len(shape) > 2 and shape[1] == 2 and not data
        return tuple(shape) if own else (shape[0], 2, *shape[1:])

    def prior_root(self) -> Tensor:
        """Root of the stationary covariance diag(1, M)."""
        return torch.diag(_table([1.0, self.mass**0.5]))

    # ------------------------------------------------------------------------------------------------ closed forms
    @cached_property
    def _noise(self) -> Tensor:
        """G G^T per unit of b."""
        return torch.diag(_table([self.Gamma, self.mass * self.nu]))

    def _diffusion(self, t: Tensor) -> Tensor:
        """G G^T, diagonal."""
        return _spread(self.beta(t)) * self._noise.to(t.device)

    def _psi(self, c: Tensor) -> Tensor:
        half, delta = c / 2, self.nu - self.Gamma
        N = [[1 + half * delta / 2, half / self.mass], [-half, 1 - half * delta / 2]]
        return _spread((-(self.Gamma + self.nu) * c / 4).exp()) * _matrix(N)

    def _covariance(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(xx, xm, mm, determinant) as sums of positive terms: regularised incomplete gamma functions P_k(x)."""
        x = (self.Gamma + self.nu) * b / 2
        p = (self.nu - self.Gamma) / (self.nu + self.Gamma)
        P1, P2, P3 = (torch.special.gammainc(torch.full_like(x, k), x) for k in (1.0, 2.0, 3.0))
        decay, M = torch.exp(-x), self.mass
        xx = (1 - p) * P1 + p * (1 - p) * P2 + p**2 * P3
        xm = p**2 * x**2 * decay / (self.nu - self.Gamma)
        # for p = 1 the first two terms of mm would cancel against the last where x is large
        mm = M * ((1 - p) * P1 + p * (1 - p) * P2 + p**2 * P3 + 2 * p * x * decay)
        psi, (s, q) = self._psi(b), self.start
        (c, d), (e, f) = ((psi[..., i, 0], psi[..., i, 1]) for i in (0, 1))
        Bxx, Bxm, Bmm = s * c**2 + q * d**2, s * c * e + q * d * f, s * e**2 + q * f**2
        det = (xx * mm - xm**2) + s * q * decay**2 + (xx * Bmm - 2 * xm * Bxm + mm * Bxx)
        return xx + Bxx, xm + Bxm, mm + Bmm, det

    def _lower(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries L_11, L_21, L_22.

        At a singular start they are the limits from above. The position is moved there by the initial momentum alone
        if it has no noise of its own (Gamma = 0, as on CLD), and then follows it; otherwise by its own noise.
        """
        xx, xm, mm, det = self._covariance(b)
        some, follows = xx > 0, self.Gamma == 0
        low = torch.where(some, xm / xx.sqrt(), mm.sqrt() if follows else 0.0)
        return xx.sqrt(), low, torch.where(some, det / xx, 0.0 if follows else mm).sqrt()

    def _split(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mean a, adj(Sigma) a, a^T adj(Sigma) a, det Sigma; the third is n^T Sigma n of the split form."""
        b = self.clock(t)
        xx, xm, mm, det = self._covariance(b)
        a = self._psi(b)[..., 0]
        adjugate = torch.stack([mm * a[..., 0] - xm * a[..., 1], xx * a[..., 1] - xm * a[..., 0]], -1)
        return a, adjugate, (adjugate * a).sum(-1), det

    def _level(self, t: Tensor) -> Tensor:
        """Noise level of the sufficient statistic."""
        _, _, normal, det = self._split(t)
        return (det / normal).sqrt()

    def _rotation(self, t: Tensor) -> Tensor:
        phi = self._angle(self.clock(t))
        return _matrix([[phi.cos(), phi.sin()], [-phi.sin(), phi.cos()]])

    def _spin(self, b: Tensor) -> Tensor:
        """d phi/db."""
        a, c21, c = self._lower(b)
        return c / (2 * self.mass * a) - self.Gamma * c21 / (2 * a**2 * c)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Panels of r = sqrt(b): their edges, the angle at their left ends, and its Chebyshev coefficients inside.

        The angle turns by pi/2 within sqrt(initial variance), so panels shrink geometrically towards 0.
        """
        top = self.clock(self.t_max) ** 0.5 * (1 + 1e-6)
        edges = torch.cat([_table([0.0]), torch.logspace(-9, 0, 73, dtype=torch.float64, device="cpu") * top])
        middle, half = (edges[1:] + edges[:-1]) / 2, edges.diff() / 2
        nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
        r = middle[:, None] + half[:, None] * torch.from_numpy(nodes)
        slope = (self._spin(r**2) * 2 * r * half[:, None]).numpy()
        chebyshev = np.polynomial.chebyshev
        inside = chebyshev.chebint(chebyshev.chebfit(nodes, slope.T, NODES - 1), lbnd=-1)  # (NODES + 1, panels)
        jumps = np.concatenate([[0.0], np.cumsum(inside.sum(0))[:-1]])
        return edges, torch.from_numpy(jumps), torch.from_numpy(np.ascontiguousarray(inside))

    def _angle(self, b: Tensor) -> Tensor:
        edges, jumps, inside = (part.to(b.device) for part in self._table)
        r = b.sqrt().contiguous()
        panel = (torch.searchsorted(edges, r, right=True) - 1).clamp(0, len(jumps) - 1)
        y = 2 * (r - edges[panel]) / (edges[panel + 1] - edges[panel]) - 1
        later, last = torch.zeros_like(y), torch.zeros_like(y)
        for row in inside[1:].flip(0):  # Clenshaw's recurrence
            later, last = row[panel] + 2 * y * later - last, later
        return jumps[panel] + inside[0][panel] + y * later - last


class CLD(PhaseSpace):
    r"""Critically damped Langevin diffusion: noise enters through the momentum alone.

    .. math:: F = \beta \begin{pmatrix} 0 & M^{-1} \\ -1 & -\Gamma M^{-1} \end{pmatrix}, \qquad
              G G^T = \beta \begin{pmatrix} 0 & 0 \\ 0 & 2 \Gamma \end{pmatrix}, \qquad \Gamma^2 = 4 M

    States are ``(batch, 2, *event)``, position and momentum; t runs from 0 to 1.

    Args:
        beta: rate, per unit time.
        mass: M.
        kappa: the initial momentum has variance kappa M + eps.
        eps: variance of the noise on the data themselves.

    Raises:
        ValueError: a value that is not positive and finite (eps may be 0).

    Source: Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068; constants of Zhang et al. 2022, arXiv:2206.05564.
    """

    final_lam = 1.0

    def __init__(self, beta: float = 4.0, mass: float = 0.25, kappa: float = 0.04, eps: float = 1e-6) -> None:
        rate = arguments.number("beta", beta, above=0, high=MOST, usual=4)
        mass = arguments.number("mass", mass, 1 / MOST, MOST, usual=0.25)
        super().__init__((2 * rate, 2 * rate), 0.0, 2 / mass**0.5, kappa, eps)


class PSLD(PhaseSpace):
    r"""Phase-space Langevin diffusion: critically damped, with noise in position and momentum.

    .. math:: F = \tfrac{\beta}{2} \begin{pmatrix} -\Gamma & M^{-1} \\ -1 & -\nu \end{pmatrix}, \qquad
              G G^T = \beta \begin{pmatrix} \Gamma & 0 \\ 0 & M \nu \end{pmatrix}, \qquad
              M^{-1} = \tfrac14 (\Gamma - \nu)^2

    States are ``(batch, 2, *event)``, position and momentum; t runs from 0 to 1.

    Args:
        beta: rate, per unit time: a number, or a pair for a rate that changes linearly from t = 0 to t = 1.
        Gamma: damping of the position.
        nu: damping of the momentum, above Gamma; together they fix the mass.
        kappa: the initial momentum has variance kappa M + eps.
        eps: variance of the noise on the data themselves.

    Raises:
        ValueError: a value that is not positive and finite (Gamma and eps may be 0), or Gamma not below nu.

    Source: Pandey and Mandt 2023, arXiv:2303.01748; the closed form of the covariance is ours.
    """

    def __init__(
        self,
        beta: float | tuple[float, float] = 8.0,
        Gamma: float = 0.01,
        nu: float = 4.01,
        kappa: float = 0.04,
        eps: float = 0.0,
    ) -> None:
        ends = beta if isinstance(beta, Sequence | np.ndarray) and not isinstance(beta, str) else (beta, beta)
        if len(ends) != 2:
            raise ValueError(f"beta={arguments.shown(beta)} must be a number or a pair (beta_min, beta_max)")
        low, high = (arguments.number("beta", b, above=0, high=MOST) for b in ends)
        Gamma = arguments.number("Gamma", Gamma, 0.0, MOST, usual=0.01)
        nu = arguments.number("nu", nu, above=0, high=MOST, usual=4.01)
        if not Gamma < nu:
            raise ValueError(f"Gamma={Gamma}, nu={nu}: critical damping needs Gamma < nu; the usual pair is 0.01, 4.01")
        super().__init__((low, high), Gamma, nu, kappa, eps)


def _table(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _spread(value: Tensor) -> Tensor:
    return value[..., None, None]


def _matrix(entries: list[list[Tensor]]) -> Tensor:
    """A table of tensors ``(*t)`` as one ``(*t, r, c)``."""
    return torch.stack([torch.stack(row, -1) for row in entries], -2)
