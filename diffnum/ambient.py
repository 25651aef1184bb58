"""What surrounds a call must not change what it computes: neither torch's modes, nor what is assigned later."""

import copy
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar

import torch

from diffnum.arguments import is_value
from diffnum.errors import Unchangeable

F = TypeVar("F", bound=Callable[..., Any])


def unrounded(function: F) -> F:
    """Keep ``torch.autocast`` away from a function: it would round the products of float32 states to bfloat16."""

    @wraps(function)
    def kept(*args: Any, **options: Any) -> Any:
        on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        if not on:
            return function(*args, **options)
        with ExitStack() as stack:
            for device in on:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **options)

    return kept  # type: ignore[return-value]


class Frozen:
    """A class whose objects never change once they are made, and are made outside ``torch.inference_mode``.

    Numbers computed from an object are kept, so an assignment would go on with the old ones. Two objects of one class
    that were made from equal numbers, texts and frozen objects are equal; objects made from tensors, lists or functions
    are equal to themselves alone. A subclass need not do anything for it.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        setattr(cls, "__init__", _sealing(cls, cls.__init__))  # noqa: B010  a plain assignment is no method to mypy

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse(name)
        super().__delattr__(name)

    def _refuse(self, name: str) -> None:
        if "_identity" in vars(self):
            kind = type(self).__name__
            raise Unchangeable(
                f"{kind}.{name} cannot be changed, for numbers computed before are kept; make a new {kind}"
            )

    def changed(self, **values: Any) -> Any:
        """A copy with other attributes, equal to itself alone. For what belongs to no number that is kept already."""
        other = copy.copy(self)
        vars(other).update(values, _identity=object())
        return other

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and _identity(self) == _identity(other))

    def __hash__(self) -> int:
        return hash((type(self).__name__, _identity(self)))


def _identity(self: Frozen) -> Any:
    return vars(self).get("_identity", id(self))


def _sealing(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, after which an object of exactly this class is sealed."""

    @wraps(init)
    def sealing(self: Any, *args: Any, **options: Any) -> None:
        if type(self) is not cls:  # the constructor of a base class
            init(self, *args, **options)
            return
        with torch.inference_mode(False):  # tensors that are made under it know no gradients for good
            init(self, *args, **options)
        given = inspect.signature(init).bind(self, *args, **options)
        given.apply_defaults()
        values = tuple(given.arguments.values())[1:]
        plain = all(is_value(v) or isinstance(v, Frozen) for v in values)
        vars(self)["_identity"] = values if plain else object()

    return sealing
