"""Arrays as large as a picture: in memory, or in a file that vanishes with them.

Whoever works on one does so by strips of rows, so that no second array of its size is needed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bidiffsr.errors import OutputError
from bidiffsr.system.files import printable, reason

_STRIP_PIXELS = 1 << 18  # a few megabytes for each float array


def strips(height: int, width: int) -> Iterator[slice]:
    """Consecutive rows, all of them, that are worked on together."""
    step = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def pieces(buffer: NDArray[Any], height: int, width: int) -> Iterator[slice]:
    """As ``strips``; but all rows at once where the buffer is in memory anyway."""
    if _file_of(buffer) is None:
        yield slice(0, height)
    else:
        yield from strips(height, width)


def new_buffer(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """An array of zeros.

    Args:
        shape: of the array.
        dtype: of the array.
        folder: where there is to be a file for it; None keeps it in memory. The file has no name,
            so nothing of it is left when the array is gone or the process is killed.

    Raises:
        OutputError: the file cannot be made, for example because the disk is full.
    """
    if folder is None:
        return np.zeros(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved now: a disk that fills up later would kill the process that writes.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
    except OSError as error:
        raise OutputError(
            f"{printable(folder)}: has no room for {size / 1e9:.1f} GB of working data "
            f"({reason(error)}); choose another output, or allow more memory"
        ) from error


def release(*buffers: NDArray[Any]) -> None:
    """Let the system take back the memory that shows the files; the data stay."""
    for buffer in buffers:
        file = _file_of(buffer)
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def _file_of(buffer: NDArray[Any]) -> mmap.mmap | None:
    return getattr(buffer, "_mmap", None)
