"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


def write(path: str | os.PathLike[str], content: Callable[[BinaryIO], Any]) -> Path:
    """Let ``content(file)`` write into a temporary neighbour, then give it its name: no partial file, ever.

    Raises:
        OSError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        with open(temporary, "xb") as file:
            content(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
