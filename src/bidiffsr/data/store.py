"""Decoded training pictures in one file, which processes map into memory and share.

The file is a cache: a line of JSON that says what lies where, then the bytes of all pictures and
their low-resolution partners. It is made anew wherever it is not of the pictures asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError
from bidiffsr.files import printable, write_atomically

Pixels: TypeAlias = NDArray[np.uint8]
Pair: TypeAlias = tuple[Pixels, Pixels]

_VERSION = 1


class PictureStore:
    """Pairs of pictures by number, read-only views of a mapped file.

    Args:
        path: the file; written if it is missing, damaged, or of other pictures.
        sources: the pictures' files, by number.
        scale: the factor between the two resolutions.
        read: decodes one: number → (high-resolution, low-resolution), uint8 (H, W, 3) each.

    Raises:
        OutputError: the file cannot be written.
        ConfigError: it cannot be read.
    """

    def __init__(
        self, path: Path, sources: Sequence[Path], scale: int, read: Callable[[int], Pair]
    ) -> None:
        of = {
            "version": _VERSION,
            "scale": scale,
            "sources": [[str(source), source.stat().st_size] for source in sources],
        }
        layout = _layout(path, of)
        if layout is None:
            write_atomically(path, lambda temporary: _write(temporary, of, read))
            layout = _layout(path, of)
        if layout is None:
            raise ConfigError(f"{printable(path)}: cannot be read back; choose another data.store")
        begin, self._shapes = layout
        self._pixels: Pixels = np.memmap(path, np.uint8, "r", begin)
        self._offsets = np.cumsum([0, *(height * width * 3 for height, width in self._shapes)])

    def __getitem__(self, number: int) -> Pair:
        """The pair of a source."""
        high, low = (self._picture(2 * number + part) for part in (0, 1))
        return high, low

    def _picture(self, index: int) -> Pixels:
        begin, end = self._offsets[index : index + 2]
        return self._pixels[begin:end].reshape(*self._shapes[index], 3)


def _write(path: Path, of: dict[str, Any], read: Callable[[int], Pair]) -> None:
    # The shapes are known only at the end, so the pixels come first and are copied behind them.
    shapes: list[tuple[int, ...]] = []
    pixels = path.with_name(f"{path.name}.pixels")
    try:
        with pixels.open("wb") as file:
            for picture in _pictures(len(of["sources"]), read):
                shapes.append(picture.shape[:2])
                file.write(np.ascontiguousarray(picture).data)
        with path.open("wb") as file, pixels.open("rb") as source:
            file.write(json.dumps(of | {"shapes": shapes}).encode() + b"\n")
            while block := source.read(2**24):
                file.write(block)
    finally:
        pixels.unlink(missing_ok=True)


def _pictures(count: int, read: Callable[[int], Pair]) -> Iterator[Pixels]:
    for number in range(count):
        yield from read(number)


def _layout(path: Path, of: dict[str, Any]) -> tuple[int, list[tuple[int, int]]] | None:
    """Where the pixels begin and the pictures' shapes, of a whole file of these pictures."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            begin = file.tell()
        shapes = [(int(height), int(width)) for height, width in header.pop("shapes")]
        length = begin + sum(height * width * 3 for height, width in shapes)
        is_whole = path.stat().st_size == length
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{printable(path)}: cannot be read ({error.strerror}); choose another data.store"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return (begin, shapes) if is_whole and header == of else None
