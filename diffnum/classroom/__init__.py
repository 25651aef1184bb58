"""The classroom kit: check a student's solver, in a process of its own, with measured reasons; assignments; courses.

``check`` and ``points_for`` are those of :mod:`diffnum.classroom.grade`, loaded when they are asked for.
"""

from typing import Any

__all__ = ["check", "points_for"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diffnum.classroom import grade

    return getattr(grade, name)
