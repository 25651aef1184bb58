"""Numbers that are computed once and used again: one store for all tables of the library, bounded by its bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from sys import getsizeof
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from diffnum.ambient import unrounded

BYTES = 48 * 2**20  # of all tables together


class Kept:
    """A store in which the table that was used least recently makes room for a new one.

    Entries are float64 tensors on the CPU, floats, or lists and tuples of them. They are computed without regard to
    what surrounds the first call: outside inference mode and autocast, unknown to autograd.

    Args:
        most: bytes that all entries may take together; what is larger alone is not kept.
    """

    def __init__(self, most: int = BYTES) -> None:
        self.most, self.bytes = most, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The entry of that key, made if it is not there."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
        with torch.inference_mode(False), torch.no_grad():
            value = _made(make)
        size = weight(key) + weight(value)
        with self._lock:
            if key not in self._entries and size <= self.most:
                self._entries[key] = value, size
                self.bytes += size
                while self.bytes > self.most:
                    self.bytes -= self._entries.popitem(last=False)[1][1]
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0


@unrounded
def _made(make: Callable[[], Any]) -> Any:
    return make()


def weight(value: Any) -> int:
    """Bytes of a key or an entry; what Python shares is counted each time."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + 500
    if isinstance(value, list | tuple):
        inner = len(value) * 24 if value and type(value[0]) is float else sum(map(weight, value))
        return getsizeof(value) + inner
    return 50


kept = Kept()
