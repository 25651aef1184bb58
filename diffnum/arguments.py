"""What a caller may give: one place where each kind of argument is read, so that every refusal names it alike.

A reader takes the argument's name and what was given, and returns the plain value: a float, an int, a tuple, a tensor
of our own. NumPy scalars and tensors without axes count as numbers; text, None, booleans and complex numbers do not.
Torch and NumPy are imported inside the functions, so that ``diffnum --help`` does not wait for them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from math import inf, prod
from numbers import Number, Real
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from diffnum.errors import DiffnumError, WrongKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST = 10**6  # steps of a grid, evaluations of a budget, and other counts: more would only fill the memory
LARGEST = 1000.0  # weight or rate
_repr = Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = 60


def shown(value: Any) -> str:
    """A value as an error message tells it: short and on one line."""
    if _is_array(value) and not is_scalar(value):
        return f"a {type(value).__name__} of {value.dtype}, {'nested' if _nested(value) else tuple(value.shape)}"
    return " ".join(_repr.repr(value).split())


def _nested(value: Any) -> bool:
    return getattr(value, "is_nested", False)


def is_scalar(value: Any) -> bool:
    """Whether it is a NumPy scalar, or an array or tensor without axes."""
    return _is_array(value) and not _nested(value) and value.ndim == 0


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "ndim") and not isinstance(value, type)


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without axes, as a Python value; all else as it is."""
    if not is_scalar(value):
        return value
    try:
        return value.item()
    except RuntimeError as error:
        raise WrongKind(f"{shown(value)} on {value.device} holds no number that could be read") from error


def number(
    name: str, value: Any, low: float = -inf, high: float = inf, above: float | None = None, usual: float | None = None
) -> float:
    """A finite number from ``low`` to ``high``, and above ``above`` where that is given.

    Raises:
        WrongKind: not a number. ValueError: NaN, infinite or out of range.
    """
    given, value = value, plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongKind(f"{name}={shown(given)} must be a number{_usually(usual)}")
    try:
        found = float(value)
    except OverflowError:
        found = inf
    if not (low <= found <= high and -inf < found < inf and (above is None or found > above)):
        raise ValueError(f"{name}={shown(given)} must be {_range(low, high, above)}{_usually(usual)}")
    return found


def _range(low: float, high: float, above: float | None) -> str:
    words = [] if above is None else ["positive" if above == 0 else f"above {above:g}"]
    words += [f"at least {low:g}"] if above is None and low > -inf else []
    words += [f"at most {high:g}"] if high < inf else []
    return " and ".join(["finite", ", ".join(words)] if words else ["finite"])


def _usually(usual: float | None) -> str:
    return "" if usual is None else f"; the usual value is {usual:g}"


def weight(name: str, value: Any) -> float:
    """The weight of a noise: with more than the upper limit, a run would be nothing else."""
    return number(name, value, 0.0, LARGEST)


def share(name: str, value: Any) -> float:
    """A part of a whole, from 0 to 1."""
    return number(name, value, 0.0, 1.0)


def rate(name: str, value: Any) -> float:
    """A rate of either sign, per unit time."""
    return number(name, value, -LARGEST, LARGEST)


def whole(name: str, value: Any, low: int = 1, high: int = MOST) -> int:
    """A whole number from ``low`` to ``high``; 2.0 is none.

    Raises:
        WrongKind: not a whole number. ValueError: out of range.
    """
    given, value = value, plain(value)
    if isinstance(value, bool) or not hasattr(value, "__index__") or hasattr(value, "shape"):
        raise WrongKind(f"{name}={shown(given)} is not a whole number; it must be from {low} to {high}")
    found = value.__index__()
    if not low <= found <= high:
        raise ValueError(f"{name}={shown(given)} must be a whole number from {low} to {high}")
    return found


def counts(name: str, values: Any) -> tuple[int, ...]:
    """Whole numbers from 1 on that increase, at least one.

    Raises:
        WrongKind: not a sequence of whole numbers. ValueError: out of range, none, or not increasing.
    """
    say = f"{name} must be positive and increase: {name}"
    found = tuple(whole(say, value) for value in _each(name, values, "10, 20, 40"))
    if not found or any(a >= b for a, b in pairwise(found)):
        raise ValueError(f"{name}={found} must be positive and increase")
    return found


def sizes(name: str, value: Any, least: int, example: str) -> tuple[int, ...]:
    """A shape: at least so many sizes, all positive, and together no more numbers than the memory holds in float64.

    Raises:
        WrongKind: not a sequence of whole numbers. ValueError: too few, or a size that is not positive.
        DiffnumError: more than the memory.
    """
    items = _each(name, value, example)
    if len(items) < least:
        raise ValueError(f"{name}={shown(value)} must be {example}, so at least {least} sizes")
    try:
        found = tuple(whole(name, n, 1, 2**62) for n in items)
    except ValueError as error:
        kind = WrongKind if isinstance(error, WrongKind) else ValueError
        raise kind(f"{name}={shown(value)} must be {example} with positive whole sizes") from None
    if 8 * prod(found) > memory():
        raise DiffnumError(
            f"{name}={shown(found)} would take {8 * prod(found) / 1e9:.3g} GB, and this machine has "
            f"{memory() / 1e9:.3g}; use smaller sizes"
        )
    return found


def memory() -> float:
    """Bytes of memory of this machine; where the system does not tell, infinite."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return inf


def _each(name: str, values: Any, example: str) -> list[Any]:
    try:
        if isinstance(values, (str, bytes, dict, set)) or is_scalar(values):
            raise TypeError
        return list(values.tolist() if hasattr(values, "tolist") else values)
    except (TypeError, RuntimeError):
        raise WrongKind(f"{name}={shown(values)} must be a sequence of whole numbers, such as {example}") from None


def array(name: str, value: Any) -> "Tensor":
    """Real numbers as a CPU float64 tensor of our own: writing into what was given changes nothing later.

    Raises:
        WrongKind: not an array of real numbers. ValueError: NaN or infinity inside, or numbers whose squares are none.
    """
    found = dense(name, value)
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} contains NaN or infinity; remove them")
    if found.numel() and found.abs().max() > 1e100:
        raise ValueError(f"{name} contains a number beyond 1e100; scale it down")
    return found


def dense(name: str, value: Any) -> "Tensor":
    """As :func:`array`, with NaN and infinity let through."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        if not is_ordinary(value) or value.device.type == "meta":
            raise WrongKind(f"{name}={_layout(value)} is no ordinary tensor of real numbers; make it dense and real")
        return value.detach().to("cpu", torch.float64, copy=True)
    try:
        # Through NumPy: torch would read a list of Python floats in its default dtype. A list of tensors is one of
        # arrays, on whatever device and whether or not they record gradients.
        if isinstance(value, (list, tuple)):
            value = [v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v for v in value]
        found = np.asarray(value)
        if found.dtype.kind == "O" and all(isinstance(v, Real) for v in found.flat):  # fractions, say
            found = found.astype(np.float64)
        if np.ma.is_masked(value):
            raise TypeError("entries are masked")
        if found.dtype.kind not in "fiu":
            raise TypeError(f"entries are of type {found.dtype}")
        return torch.from_numpy(np.array(found, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise WrongKind(
            f"{name}={shown(value)} is not an array of numbers ({why}); give a list, an array or a tensor of them"
        ) from None


def is_ordinary(value: "Tensor") -> bool:
    """Whether a tensor is a dense table of real numbers."""
    odd = value.is_nested or value.is_quantized or value.is_complex()
    return not odd and str(value.layout) == "torch.strided" and str(value.dtype) != "torch.bool"


def _layout(value: "Tensor") -> str:
    kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    return f"a {kind} tensor of {value.dtype} on {value.device}"


def state(name: str, value: Any) -> "Tensor":
    """A state: an ordinary dense tensor of float64, float32 or bfloat16 that holds numbers.

    Raises:
        WrongKind: anything else.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        raise WrongKind(f"{name} is {type(value).__name__}; a state is a floating tensor, as problem.prior gives")
    if value.layout != torch.strided or value.is_nested or value.device.type == "meta":
        raise WrongKind(f"{name} is {_layout(value)}; a state is an ordinary dense tensor")
    precision(f"{name} is a tensor of ", value.dtype)
    return value


def precision(what: str, dtype: Any) -> "torch.dtype":
    """A dtype for states: float64, float32 or bfloat16.

    Raises:
        WrongKind: another one; float16 has too few exponents for the noise levels of a run.
    """
    import torch

    if dtype in (torch.float32, torch.float64, torch.bfloat16):
        return dtype
    why = "overflows and underflows on the way" if dtype == torch.float16 else "is not a floating dtype of states"
    raise WrongKind(f"{what}{shown(dtype)}, which {why}; use torch.float32, torch.float64 or torch.bfloat16")


def choose(what: str, name: Any, known: Iterable[str], error: type[Exception] = ValueError) -> str:
    """The name, if it is known.

    Raises:
        WrongKind: not text. ``error``: an unknown name; the message gives the nearest ones.
    """
    known, name = list(known), plain(name)
    if not isinstance(name, str):
        raise WrongKind(f"{what}={shown(name)} is not a name; use one of {', '.join(known)}")
    if name in known:
        return name
    written = name.lower().replace("-", "_").replace(" ", "_")  # as papers write S-PNDM
    near = get_close_matches(written, known, n=3, cutoff=0.4) or (known if len(known) < 10 else [*known[:8], "..."])
    raise error(f"no {what} is called {shown(name)}; did you mean {', '.join(near)}?")


def process(value: Any) -> Any:
    """A noising process.

    Raises:
        WrongKind: something else.
    """
    if isinstance(value, type) or not all(hasattr(value, name) for name in ("family", "t_max", "check_time")):
        raise WrongKind(f"process={shown(value)} is not a process; use dn.VP() or dn.VE()")
    return value


def option(name: str, value: Any, known: Sequence[Any] | Callable[[str, Any], Any]) -> Any:
    """The value of an option: one of ``known``, or what the function ``known(name, value)`` makes of it.

    Raises:
        ValueError: none of them.
    """
    if type(value) is str and type(known) is tuple and value in known:  # at every step of a run
        return value
    if callable(known):
        return known(name, value)
    value = plain(value)
    if not any(type(value) is type(v) and value == v for v in known):
        raise ValueError(f"{name}={shown(value)} must be one of {', '.join(map(repr, known))}")
    return value


def is_value(value: Any) -> bool:
    """Whether it is a number, text, None, or a tuple of such: what cannot change after it was given."""
    return value is None or isinstance(value, (Number, str)) or (type(value) is tuple and all(map(is_value, value)))
