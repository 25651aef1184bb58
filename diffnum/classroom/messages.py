"""Messages between the grader and the process that runs a student's solver: a JSON head, then raw numbers.

Nothing in them is code: what comes from a student is never unpickled.
"""

import json
import socket
import struct
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

LARGEST = 1 << 28  # bytes of one message; the states of the longest run take a tenth of it
_SIZES = struct.Struct("!II")
_NAMES = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

Message = tuple[dict[str, Any], list[Tensor]]


class Broken(Exception):
    """The other side has gone, or what it sent is no message."""


def send(sock: socket.socket, head: dict[str, Any], *tensors: Tensor) -> None:
    """Send one message; tensors of other kinds than float64, float32 and float16 go as float64.

    Raises:
        Broken: nobody listens.
    """
    kept = [bare(t) for t in tensors]
    with torch._C._DisableFuncTorch():  # numbers are sent, whatever follows the tensor
        kept = [t if t.dtype in _NAMES else t.to(torch.float64) for t in kept]
        body = b"".join([t.numpy(force=True).tobytes() for t in kept])
    described = json.dumps([head, [[_NAMES[t.dtype], t.shape] for t in kept]]).encode()
    try:
        sock.sendall(_SIZES.pack(len(described), len(body)) + described + body)
    except OSError as error:
        raise Broken(f"the connection is closed ({error})") from error


def bare(x: Tensor) -> Tensor:
    """A tensor without the wrappers by which ``torch.func`` follows it."""
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def receive(sock: socket.socket, wait: Callable[[], None] = lambda: None) -> Message:
    """Receive one message.

    Args:
        sock: with a timeout, ``wait`` is called whenever it passes; it may raise.
        wait: by default the next attempt follows at once.

    Raises:
        Broken: the other side has closed, or sent what is no message.
    """
    described, body = _SIZES.unpack(_exactly(sock, _SIZES.size, wait))
    if described + body > LARGEST:
        raise Broken(f"a message of {described + body} bytes")
    raw = _exactly(sock, described + body, wait)
    try:
        head, kinds = json.loads(raw[:described])
        tensors, at, raw = [], 0, raw[described:]
        for name, shape in kinds:
            dtype, count = _DTYPES[name], prod(shape)
            flat = torch.frombuffer(raw, dtype=dtype, count=count, offset=at) if count else torch.empty(0, dtype=dtype)
            tensors.append(flat.reshape(shape))
            at += count * dtype.itemsize
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise Broken(f"not a message: {error}") from error
    return head, tensors


def _exactly(sock: socket.socket, size: int, wait: Callable[[], None]) -> bytearray:
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        try:
            count = sock.recv_into(view[got:])
        except TimeoutError:
            wait()
            continue
        except OSError as error:
            raise Broken(f"the connection is closed ({error})") from error
        if not count:
            raise Broken("the connection is closed")
        got += count
    return buffer
