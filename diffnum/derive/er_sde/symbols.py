r"""The symbols of `derive.er_sde`."""

import sympy as sp

x, t, s, u = sp.symbols("x t s u", positive=True)
h, a, b = sp.symbols("h a b", positive=True)  # a step; the steps before it are a h and b h
c, p, r = sp.symbols("c p r", positive=True)  # variance of Gaussian data, a power, a ratio phi(s)/phi(t)
N = sp.Symbol("N", positive=True, integer=True)
y, x0, e = sp.symbols("y x_0 epsilon", real=True)
X1, X2, X3, X4 = x_derivatives = sp.symbols("X1:5", real=True)  # of the data prediction along the path
q0, q1, q2 = q_derivatives = sp.symbols("q0:3", real=True)  # q = phi'/phi = (1 + eta)/x and its derivatives, at t
