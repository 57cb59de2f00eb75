"""Packages that read and write what libvips may not: installed by those who want them."""

from __future__ import annotations

import importlib
from types import ModuleType

from bidiffsr.errors import ImageError


def optional(module: str, extra: str, name: str) -> ModuleType:
    """A package that one of ours' extras installs.

    Args:
        module: its name.
        extra: what installs it.
        name: of the format that needs it, for the message.

    Raises:
        ImageError: it is not installed, or cannot be loaded; the message is without a file's name.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImageError(
            f"is {name}, which this libvips does not know and {module} is not there for; "
            f"pip install 'bidiffsr[{extra}]', or convert it"
        ) from error
