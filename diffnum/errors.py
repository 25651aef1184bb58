"""The one exception of our own: every refusal that is not plainly a wrong value, type or key."""


class DiffnumError(RuntimeError):
    """What was asked for cannot be done; the message says what to do instead."""
