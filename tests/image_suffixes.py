"""The suffixes of pictures as tests' parameters; those that need an extra skip without it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images.encode import format_for
from bidiffsr.images.find import IMAGE_SUFFIXES


def writable(suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Any]:
    """Those suffixes, each to be skipped where what writes or reads its format is not installed."""
    return [pytest.param(suffix, marks=_mark(suffix)) for suffix in suffixes]


def _mark(suffix: str) -> pytest.MarkDecorator:
    try:
        format_for(suffix, "").unpack()
    except (ImageError, OutputError) as error:
        return pytest.mark.skip(reason=str(error))
    return pytest.mark.skipif(False, reason="it is there")
