"""Pictures that come from standard input and go to standard output.

Both pass through files in a folder of their own, so that they are read and written as all others
are: looked at before they are decoded, and whole or not there at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from bidiffsr.batch.plan import Job
from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images.formats import FORMATS, format_of, suffix_of
from bidiffsr.system.files import is_file, reason

PIPE = Path("-")
"""Standard input among pictures, standard output as output."""

_PIECE = 1 << 20
_START = 16  # bytes that tell a format


@dataclass(frozen=True)
class PipedJob:
    """A job whose picture or result is a pipe, by way of files."""

    job: Job
    _names: dict[str, str]

    def named(self, text: str) -> str:
        """A message, in which the files have the names of what they stand for."""
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text

    def send(self, stream: BinaryIO) -> None:
        """Write the result.

        Raises:
            OutputError: the stream cannot be written to.
        """
        try:
            with self.job.outputs[0].open("rb") as file:
                shutil.copyfileobj(file, stream, _PIECE)
            stream.flush()
        except OSError as error:
            raise OutputError(
                f"standard output: cannot be written to ({reason(error)}); the result is lost"
            ) from error


@contextmanager
def piped_job(
    picture: Path, output: Path, stream: BinaryIO, *, most: int, result_format: str | None
) -> Iterator[PipedJob]:
    """The job of one picture, from or to a pipe.

    Args:
        picture: the picture's file, or ``PIPE``.
        output: the result's file, or ``PIPE``.
        stream: where the picture comes from if it does not lie in a file; read to its end.
        most: bytes that it may have.
        result_format: of a result that is no file, see ``FileOptions.format``; None: the
            picture's own.

    Raises:
        ImageError: the stream has more bytes, or none.
    """
    with TemporaryDirectory(prefix="bidiffsr-", ignore_cleanup_errors=True) as folder:
        names = {}
        if picture == PIPE:
            picture = Path(folder, "input")
            names[str(picture)] = "standard input"
            _receive(stream, picture, most)
        if output == PIPE:
            output = Path(folder, f"output{_suffix(picture, result_format)}")
            names[str(output)] = "standard output"
        yield PipedJob(Job(picture, (output,)), names)


def _receive(stream: BinaryIO, path: Path, most: int) -> None:
    with path.open("wb") as file:
        while piece := stream.read(_PIECE):
            file.write(piece)
            if file.tell() > most:
                raise ImageError(
                    f"standard input: has more than {most} bytes, more than any picture needs"
                )
        if file.tell() == 0:
            raise ImageError("standard input: is empty; expected a picture")


def _suffix(picture: Path, result_format: str | None) -> str:
    """Of a result: by its format, or the picture's; PNG's where that is none."""
    if result_format is not None:
        return suffix_of(result_format)
    found = None
    with suppress(OSError):  # which is reported when the picture is read
        if is_file(picture):  # to open a pipe would wait
            with picture.open("rb") as file:
                found = format_of(file.read(_START))
    return (found or FORMATS[0]).suffixes[0]
