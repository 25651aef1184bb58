"""The exceptions of our own. Every other refusal is a ``ValueError``, a ``TypeError`` or a ``KeyError``."""


class DiffnumError(RuntimeError):
    """What was asked for cannot be done; the message says what to do instead."""


class WrongKind(TypeError, ValueError):
    """An argument that is not even of the right kind, such as text for a number: a wrong type and a wrong value."""


class Unchangeable(DiffnumError, AttributeError):
    """An attribute of a process, schedule, denoiser or problem was to be changed; make a new one instead."""


class StabilityWarning(UserWarning):
    """A solver magnifies errors of the noise prediction so much on a grid that those of single precision show."""
