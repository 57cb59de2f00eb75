"""A ZIP archive, made while it is sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath


class _Sink(io.RawIOBase):
    """Takes what is written, and hands it on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What has been written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zipped(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The bytes of an archive of (name, contents), which are pictures: stored, not compressed.

    Of files of one name, the second is called "name (2)", and so on.
    """
    sink, taken = _Sink(), set[str]()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(_free_name(name, taken), data)
            yield sink.take()
    yield sink.take()


def _free_name(name: str, taken: set[str]) -> str:
    path, free, count = PurePosixPath(name), name, 1
    while free.casefold() in taken:
        count += 1
        free = f"{path.stem} ({count}){path.suffix}"
    taken.add(free.casefold())
    return free
