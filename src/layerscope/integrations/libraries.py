"""Optional libraries: imported where they are used, and how to install one that is not there."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from layerscope.errors import LayerscopeError, unknown


def library(module: str, package: str, what: str) -> Any:
    """A module of an optional library.

    Args:
        module: What to import, e.g. ``"torch.utils.tensorboard"``.
        package: What pip installs.
        what: What needs it, for the error.

    Raises:
        LayerscopeError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(package, what, error) from error


def missing(package: str, what: str, error: ImportError) -> LayerscopeError:
    """The error where a library is not installed, or cannot be imported."""
    return LayerscopeError(
        f"{what} needs {package}, which cannot be imported: {error}.",
        f"Install it: pip install {package}",
    )


def check_arguments(function: Callable[..., Any], name: str, given: Iterable[str]) -> None:
    """Refuse arguments that a function of a library does not have.

    Raises:
        LayerscopeError: There is one.
    """
    known = inspect.signature(function).parameters
    for argument in given:
        if argument not in known:
            raise unknown(f"argument of {name}", argument, known)


def one_of(what: str, **given: Any) -> None:
    """Refuse both, or neither, of two ways to say where numbers go.

    Raises:
        LayerscopeError: Not exactly one is given.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        found = " and ".join(names) if names else f"neither {' nor '.join(given)}"
        raise LayerscopeError(f"{what} is given {found}.", f"Give one: {' or '.join(given)}.")
