"""Several pictures into one file, as its pages or frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from bidiffsr.errors import OutputError
from bidiffsr.images.compression import Compression
from bidiffsr.images.encode import encoded, format_for
from bidiffsr.images.formats import FORMATS, Format
from bidiffsr.images.image import Image
from bidiffsr.images.metadata import NO_METADATA
from bidiffsr.images.timing import Join, Timing
from bidiffsr.system.files import StrPath, printable, reason, write_atomically

PAGE_SECONDS = Fraction(1)
"""How long what was a page is shown as a frame."""


def check_join(path: StrPath, sizes: set[tuple[int, int]], count: int) -> Join:
    """Make sure that a file can hold several pictures.

    Args:
        path: the file; its suffix names the format.
        sizes: the heights and widths that occur.
        count: how many pictures there are.

    Returns:
        What joins files of its format.

    Raises:
        OutputError: its format holds but one, or frames of one size.
    """
    name = printable(path)
    format_ = format_for(Path(path).suffix, name)
    if format_.join is None:
        several = " ".join(known.suffixes[0] for known in FORMATS if known.join is not None)
        raise OutputError(
            f"{name}: {format_.name} holds one picture, and there are {count}; "
            f"write one of {several}"
        )
    if format_.timed and len(sizes) > 1:
        raise OutputError(
            f"{name}: {format_.name} holds frames of one size, and the pages are of "
            f"{len(sizes)}; write .tif instead"
        )
    return format_.join


class Joined:
    """Pictures that become the pages or frames of a file; use as a context manager.

    They are kept compressed, in a file without a name beside it, until all are there.

    Args:
        path: the file; its suffix names the format.
        compression: of each.
    """

    def __init__(self, path: Path, compression: Compression) -> None:
        self._path, self._compression = path, compression
        self._ends: list[int] = [0]
        self._kind: tuple[Any, ...] | None = None
        self._format: Format = format_for(path.suffix, printable(path))
        try:
            self._spool = tempfile.TemporaryFile(dir=path.parent, prefix=".bidiffsr-")  # noqa: SIM115
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, image: Image) -> tuple[str, ...]:
        """Put a picture behind the others.

        Returns:
            A line for each part of the picture's metadata that the format has no place for.

        Raises:
            OutputError: it cannot be encoded, or, of frames, is of another kind than the others.
        """
        kind = image.pixels.dtype, image.alpha is None, image.grey, image.icc
        if self._format.timed:
            if self._kind not in (None, kind):
                raise OutputError(
                    f"{printable(self._path)}: {self._format.name} holds frames of one kind, and "
                    f"page {len(self._ends)} has another depth, alpha or colour space than the "
                    "first; write .tif instead"
                )
            if self._kind is not None:  # there is one place for all frames'
                image = replace(image, metadata=NO_METADATA)
        self._kind = kind
        data, left_out = encoded(
            image, self._path.suffix, self._compression, name=printable(self._path)
        )
        try:
            self._spool.write(data)
        except OSError as error:
            raise self._unwritten(error) from error
        self._ends.append(self._ends[-1] + len(data))
        return left_out

    def write(
        self,
        timing: Timing | None,
        *,
        overwrite: bool,
        modified: int | None,
        written: Callable[[Path], object] | None = None,
    ) -> tuple[str, ...]:
        """Write the file, all of it or nothing.

        Args:
            timing: of frames; None of pages.
            overwrite, modified, written: see `write_image`.

        Returns:
            A line for what the format has no place for.

        Raises:
            OutputError: see `write_image`; or it would be larger than the format allows.
        """
        join = check_join(self._path, set(), len(self._ends) - 1)
        shown = timing or Timing((PAGE_SECONDS,) * (len(self._ends) - 1))

        def write(temporary: Path) -> None:
            with temporary.open("w+b") as file:
                join(file, self._pictures(), shown)
            if modified is not None:
                os.utime(temporary, ns=(modified, modified))
            if written is not None:
                written(temporary)

        write_atomically(self._path, write, overwrite=overwrite)
        if timing is not None and not self._format.timed:
            return (f"timing is left out: {self._format.name} has no place for it",)
        return ()

    def _pictures(self) -> Iterator[bytes]:
        self._spool.seek(0)
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            yield self._spool.read(end - start)

    def _unwritten(self, error: OSError) -> OutputError:
        return OutputError(
            f"{printable(self._path)}: cannot be written ({reason(error)}); nothing was changed"
        )
