"""Which files are pictures, by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bidiffsr.errors import ImageError
from bidiffsr.images.formats import FORMAT_BY_SUFFIX
from bidiffsr.system.files import StrPath, printable, reason

IMAGE_SUFFIXES = tuple(FORMAT_BY_SUFFIX)
"""Lower-case suffixes of the pictures `write_image` writes and `find_images` finds."""


def find_images(paths: StrPath | Iterable[StrPath], *, recursive: bool = False) -> list[Path]:
    """Expand files and folders into picture files, each once.

    Args:
        paths: files, taken whatever their suffix, and folders, of which the files with one of
            `IMAGE_SUFFIXES` are taken in order of name; hidden files and folders are skipped.
        recursive: whether to look into folders inside folders (not through symbolic links).

    Raises:
        ImageError: a path does not exist, a folder cannot be listed, or there is no picture at all.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            found.update(dict.fromkeys(_pictures_in(path, recursive=recursive)))
        elif path.exists():
            found[path] = None
        else:
            raise ImageError(f"{printable(path)}: no such file or folder; check the name")
    if not found:
        where = ", ".join(map(printable, given)) or "no paths"
        raise ImageError(f"{where}: no pictures; expected files ending {' '.join(IMAGE_SUFFIXES)}")
    return list(found)


def _pictures_in(folder: Path, *, recursive: bool) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ImageError(f"{printable(error.filename)}: cannot be listed ({reason(error)})")

    pictures = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        pictures += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in FORMAT_BY_SUFFIX
        ]
    return sorted(pictures)
