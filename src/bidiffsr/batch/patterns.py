"""Which pictures of a folder are wanted, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bidiffsr.errors import OptionError


@dataclass(frozen=True)
class Patterns:
    """Patterns as of a shell, in which ``*`` stands for ``/``, too.

    One without ``/`` is for the picture's name or that of a folder it is in, one with it for the
    path, from its beginning, of the picture or of a folder it is in.
    """

    include: tuple[str, ...] = ()
    """Where there are any, pictures are wanted that one of them matches."""
    exclude: tuple[str, ...] = ()
    """Pictures that one of them matches are not wanted."""

    def want(self, name: Path, *, known: bool = True) -> bool:
        """Whether a picture is wanted.

        Args:
            name: its path inside the folder that was given.
            known: whether it is a picture, rather than a folder nobody can look into, in which
                there may be some.
        """
        included = not self.include or not known or _matches(name, self.include)
        return included and not _matches(name, self.exclude)


def _matches(name: Path, patterns: Iterable[str]) -> bool:
    paths = [str(path) for path in (name, *name.parents)]
    return any(
        fnmatchcase(text, pattern.rstrip("/"))
        for pattern in patterns
        for text in (paths if "/" in pattern.rstrip("/") else name.parts)
    )


def pattern_texts(option: str, value: Any) -> tuple[str, ...]:
    """Any number of patterns, none of them empty.

    Raises:
        OptionError: they are not; the message names the option.
    """
    if not isinstance(value, tuple) or not all(
        isinstance(text, str) and text.strip("/") for text in value
    ):
        raise OptionError(
            option, f"got {repr(value)[:60]}, expected patterns of names such as IMG_*.jpg or raw"
        )
    return value
