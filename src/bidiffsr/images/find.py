"""Which files are pictures, by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
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
            listing = list_folder(path, recursive=recursive)
            for error in listing.errors.values():
                raise error
            found.update(dict.fromkeys(listing.pictures))
        elif path.exists():
            found[path] = None
        else:
            raise ImageError(f"{printable(path)}: no such file or folder; check the name")
    if not found:
        where = ", ".join(map(printable, given)) or "no paths"
        raise ImageError(f"{where}: no pictures; expected files ending {' '.join(IMAGE_SUFFIXES)}")
    return list(found)


@dataclass
class Listing:
    """What is in a folder, hidden files and folders left out."""

    pictures: list[Path] = field(default_factory=list)
    """In order of name."""
    others: list[Path] = field(default_factory=list)
    """Files whose suffix is not one of `IMAGE_SUFFIXES`."""
    folders: list[Path] = field(default_factory=list)
    """Folders that were not looked into."""
    errors: dict[Path, ImageError] = field(default_factory=dict)
    """Of folders that cannot be listed."""


def list_folder(folder: Path, *, recursive: bool) -> Listing:
    """Look into a folder, and into the folders inside (not through symbolic links)."""
    found = Listing()

    def unlisted(error: OSError) -> None:
        complaint = f"{printable(error.filename)}: cannot be listed ({reason(error)})"
        found.errors[Path(error.filename)] = ImageError(complaint)

    for parent, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if not recursive:
            found.folders += [Path(parent, name) for name in folders]
            folders.clear()
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            is_picture = path.suffix.lower() in FORMAT_BY_SUFFIX
            (found.pictures if is_picture else found.others).append(path)
    found.pictures.sort()
    return found
