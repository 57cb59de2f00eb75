"""Which bidiffsr this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """As ``bidiffsr.__version__``."""
    try:
        return version("bidiffsr")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
