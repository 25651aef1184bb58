"""Libraries that are only needed here, and what to install where one is missing."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from diffnum.errors import DiffnumError


def present(library: str) -> bool:
    """Whether it can be imported."""
    return find_spec(library) is not None


def needed(library: str, what: str) -> ModuleType:
    """The library, for a purpose told in words.

    Raises:
        DiffnumError: it is not installed; one line says what to do.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        lacking = f"{library} is not installed" if error.name == library else f"{library} needs {error.name}"
        raise DiffnumError(f"{what} needs {library}: {lacking}; pip install 'diffnum[interop]'") from None
