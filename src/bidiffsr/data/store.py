"""Decoded training pictures in one file, which processes map into memory and share.

The file is a cache: a line that says what it is, a line of JSON that says what lies where, then the
bytes of all pictures and their low-resolution partners. It is made anew where it is not of the
pictures asked for, as their paths, sizes and times tell.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError
from bidiffsr.system.files import printable, write_atomically

Pixels: TypeAlias = NDArray[np.uint8]
Pair: TypeAlias = tuple[Pixels, Pixels]
Written: TypeAlias = Callable[[int, int], object]

_MAGIC = b"bidiffsr pictures 1\n"
_LONGEST_HEADER = 2**28


def _ignore(_: int, __: int) -> None:
    pass


class PictureStore:
    """Pairs of pictures by number, read-only views of a mapped file.

    Args:
        path: the file; written if it is missing, damaged, or a store of other pictures.
        sources: the pictures' files, by number.
        scale: the factor between the two resolutions.
        read: decodes one: number → (high-resolution, low-resolution), uint8 (H, W, 3) each.
        written: where the file is written, is told how many pictures it holds, and of how many,
            before each.

    Raises:
        OutputError: the file cannot be written.
        ConfigError: it cannot be read, or is something else than a store.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[Path],
        scale: int,
        read: Callable[[int], Pair],
        written: Written = _ignore,
    ) -> None:
        of = {"scale": scale, "sources": [_identity(source) for source in sources]}
        found = _open(path, of)
        if found is None:
            write_atomically(path, lambda temporary: _write(temporary, of, read, written))
            found = _open(path, of)
        if found is None:
            raise ConfigError(f"{printable(path)}: cannot be read back; choose another data.store")
        self._pixels, self._shapes = found
        self._offsets = np.cumsum([0, *(height * width * 3 for height, width in self._shapes)])

    def __getitem__(self, number: int) -> Pair:
        """The pair of a source."""
        high, low = (self._picture(2 * number + part) for part in (0, 1))
        return high, low

    def _picture(self, index: int) -> Pixels:
        begin, end = self._offsets[index : index + 2]
        return self._pixels[begin:end].reshape(*self._shapes[index], 3)


def _identity(source: Path) -> list[str | int]:
    status = source.stat()
    return [str(source.resolve()), status.st_size, status.st_mtime_ns]


def _write(path: Path, of: dict[str, Any], read: Callable[[int], Pair], written: Written) -> None:
    # The shapes are known only at the end, so the pixels come first and are copied behind them.
    shapes: list[tuple[int, ...]] = []
    pixels = path.with_name(f"{path.name}.pixels")
    try:
        with pixels.open("wb") as file:
            total = len(of["sources"])
            for number in range(total):
                written(number, total)
                for picture in read(number):
                    shapes.append(picture.shape[:2])
                    file.write(np.ascontiguousarray(picture).data)
            written(total, total)
        with path.open("wb") as file, pixels.open("rb") as source:
            file.write(_MAGIC + json.dumps(of | {"shapes": shapes}).encode() + b"\n")
            shutil.copyfileobj(source, file, 2**24)
    finally:
        pixels.unlink(missing_ok=True)


def _open(path: Path, of: dict[str, Any]) -> tuple[Pixels, list[tuple[int, int]]] | None:
    """The pixels, mapped, and the pictures' shapes, of a whole store of these pictures."""
    try:
        with path.open("rb") as file:  # once: another run may rename its own store to this path
            beginning = file.read(len(_MAGIC))
            if beginning and beginning != _MAGIC:
                raise ConfigError(
                    f"{printable(path)}: is no store of pictures; choose another data.store"
                )
            header = json.loads(file.readline(_LONGEST_HEADER))
            shapes = [(int(height), int(width)) for height, width in header.pop("shapes")]
            begin = file.tell()
            length = begin + sum(height * width * 3 for height, width in shapes)
            is_right = header == of and len(shapes) == 2 * len(of["sources"])
            is_whole = min(min(shape) for shape in shapes) > 0 and (
                os.fstat(file.fileno()).st_size == length
            )
            if not is_right or not is_whole:
                return None
            return np.memmap(file, np.uint8, "r", begin), shapes
    except ConfigError:
        raise
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{printable(path)}: cannot be read ({error.strerror}); choose another data.store"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
