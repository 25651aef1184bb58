"""The exceptions of our own. Every other refusal is a ``ValueError``, a ``TypeError`` or a ``KeyError``."""


class DiffnumError(RuntimeError):
    """What was asked for cannot be done; the message says what to do instead."""


class WrongKind(TypeError, ValueError):
    """An argument that is not even of the right kind, such as text for a number: a wrong type and a wrong value."""


class Unchangeable(DiffnumError, AttributeError):
    """An attribute of a process, schedule, denoiser or problem was to be changed; make a new one instead."""


class NotAsClaimed(AssertionError):
    """A check that failed after a measurement; ``result`` is what was measured, for those who go on."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class NotCaught(RuntimeError):
    """A check that should have failed on a solver broken on purpose passed."""


class StabilityWarning(UserWarning):
    """A solver magnifies errors of the noise prediction so much on a grid that those of single precision show."""
