"""An arithmetic of no processor: what processors round differently is off by up to ULPS units more.

    ULPS=8 PYTHONPATH=tests/ulps python -m pytest ...

Python reads this file at its start, so that kernels of notebooks and other programs that a test starts have the same
arithmetic. It moves the results of PyTorch in single and double precision

- of sums and products of matrices by up to k u times the sum of the magnitudes of their terms,
- of exp, log, pow and the like by up to k u times themselves,

u the unit roundoff and k = ULPS. Sums, products, quotients and roots of two numbers are rounded alike everywhere, and
are left alone; so are whole numbers, which are exact more often than not. A number always moves in the same way: a run
repeats itself, and rows of a batch do not see each other.
"""

import os

ULPS = int(os.environ.get("ULPS", 0))

if ULPS:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    UNIT = (torch.float64, torch.float32)
    FUNCTIONS, SUMS, SOLVERS = map(str.split, (
        "exp exp2 expm1 log log2 log10 log1p pow sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh "
        "erf erfc erfinv igamma special_gammainc sigmoid silu softplus rsqrt logsumexp logaddexp _softmax "
        "_log_softmax lerp addcmul addcdiv native_group_norm native_layer_norm",
        "mm bmm addmm addbmm baddbmm mv addmv dot vdot sum mean cumsum convolution index_add scatter_add std var "
        "linalg_vector_norm",
        # of these the argument is moved: their result is the exact one of a neighbouring matrix
        "linalg_inv_ex _linalg_solve_ex linalg_cholesky_ex _linalg_eigh linalg_eig _linalg_eigvals _linalg_det "
        "_linalg_slogdet _linalg_svd linalg_lu_factor_ex linalg_lstsq linalg_qr linalg_matrix_exp "
        "linalg_solve_triangular",
    ))  # fmt: skip
    EXACT = (-2, -1, -0.5, 0.5, 1, 2, 3)  # powers that are products and roots

    def real(x):
        return isinstance(x, torch.Tensor) and x.dtype in UNIT

    def moved(x, scale=None):
        """x, off by up to k units of the scale, by default of itself; which one its last digits say."""
        wide = x.dtype == torch.float64
        bits = x.contiguous().view(torch.int64 if wide else torch.int32)
        k = (bits & 2 * ULPS - 1) - ULPS
        off = (bits + k).view(x.dtype) if scale is None else x + scale.abs() * (k * 2.0 ** (-53 if wide else -24))
        return torch.where(x == x.round(), x, off)

    class Ulps(TorchDispatchMode):
        """Every operation passes here."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            name = func.overloadpacket.__name__
            name = name if name.startswith("_") else name.removesuffix("_")
            if name in SOLVERS:
                return func(*(moved(a) if i == 0 and real(a) else a for i, a in enumerate(args)), **kwargs)
            scale, exact = None, True
            if name in SUMS:
                size = lambda x: x.abs() if real(x) else x  # noqa: E731
                exact, scale = False, func(*tree_map(size, args), **tree_map(size, kwargs))
            elif name in ("add", "sub") and real(args[1]) and kwargs.get("alpha", 1) not in (1, -1):
                exact, scale = False, args[1] * kwargs["alpha"]
            elif name in FUNCTIONS:
                exact = name == "pow" and isinstance(args[1], int | float) and args[1] in EXACT
            out = func(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            if not exact and real(first) and first.numel():
                with torch.no_grad():
                    first.copy_(moved(first, scale))
            return out

    Ulps().__enter__()
