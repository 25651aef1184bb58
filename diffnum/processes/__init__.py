"""Noising processes: linear SDEs :math:`du = F(t) u \\, dt + G(t) \\, dw` with everything about them in closed form."""

from diffnum.processes.isotropic import VE, VP

__all__ = ["VE", "VP"]
