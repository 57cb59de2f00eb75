"""Where pictures lie and results go: on disks, or in storage that URIs such as s3://... name."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

from bidiffsr.errors import ConfigError, ImageError, OutputError
from bidiffsr.images.codec import check_output, read_header, read_image, write_image
from bidiffsr.images.decode import HeaderCheck
from bidiffsr.images.encode import format_for
from bidiffsr.images.find import Listing, list_folder
from bidiffsr.images.formats import Format
from bidiffsr.images.image import Header, Image
from bidiffsr.system.files import (
    SETTLED,
    is_file,
    is_folder,
    printable,
    real_path,
    reason,
    remove_leftovers,
)

# Longer than the letter of a Windows drive.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")


class Storage(Protocol):
    """Keeps files; paths of the same storage make one tree."""

    keeps_times: bool
    """Whether files can be given a time of their last change."""

    def text(self, path: Path) -> str:
        """The path as users write it."""
        ...

    def is_folder(self, path: Path) -> bool:
        """Whether there is such a folder."""
        ...

    def leads_to_folder(self, path: Path) -> bool:
        """Whether what is there is a folder.

        Raises:
            ImageError: nothing is there, or it cannot be looked at.
        """
        ...

    def existing(self, paths: Iterable[Path]) -> set[Path]:
        """Those of the paths that are files."""
        ...

    def listing(self, folder: Path, *, recursive: bool) -> Listing:
        """What is in a folder, see `list_folder`."""
        ...

    def real_path(self, path: Path) -> Path:
        """What another path to the same file has in common with this one."""
        ...

    def modified(self, path: Path) -> int | None:
        """When a file was last changed, in nanoseconds since 1970; None where nobody knows."""
        ...

    def state(self, path: Path) -> tuple[int, ...] | None:
        """A file's size, and numbers that are others once it has changed.

        None where nobody knows, where there is no file, and where it has changed so lately that it
        may change again and have the same numbers.
        """
        ...

    def read_image(
        self, path: Path, *, max_pixels: int, check_header: HeaderCheck | None = None
    ) -> Image:
        """See `images.codec.read_image`."""
        ...

    def read_header(self, path: Path, *, max_pixels: int) -> Header:
        """See `images.codec.read_header`."""
        ...

    def write_image(
        self,
        path: Path,
        image: Image,
        *,
        overwrite: bool,
        quality: int,
        subsampling: str,
        modified: int | None,
        written: Callable[[Path], object] | None = None,
    ) -> tuple[str, ...]:
        """See `images.codec.write_image`: all of it, or nothing."""
        ...

    def check_output(self, path: Path, *, overwrite: bool) -> Format:
        """See `images.codec.check_output`."""
        ...

    def foresee_output(self, path: Path, *, overwrite: bool) -> Format:
        """As ``check_output``, where the folder may have to be made; makes none."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Make sure that there is such a folder.

        Raises:
            OutputError: it cannot be made.
        """
        ...

    def working_folder(self, path: Path) -> Path:
        """A folder on a disk for working files without names, while this file is made."""
        ...

    def remove_leftovers(self, folder: Path) -> None:
        """Remove what killed processes left half-written in a folder."""
        ...


class Disk:
    """The file systems of this machine."""

    keeps_times = True

    is_folder = staticmethod(is_folder)
    real_path = staticmethod(real_path)
    listing = staticmethod(list_folder)
    read_image = staticmethod(read_image)
    read_header = staticmethod(read_header)
    write_image = staticmethod(write_image)
    check_output = staticmethod(check_output)
    remove_leftovers = staticmethod(remove_leftovers)

    def text(self, path: Path) -> str:
        """See `Storage`."""
        return str(path)

    def leads_to_folder(self, path: Path) -> bool:
        """See `Storage`."""
        try:
            path.stat()
        except FileNotFoundError:
            raise ImageError(f"{printable(path)}: no such file or folder; check the name") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"{printable(path)}: cannot be read ({reason(error)})") from error
        return is_folder(path)

    def existing(self, paths: Iterable[Path]) -> set[Path]:
        """See `Storage`."""
        return {path for path in paths if is_file(path)}

    def modified(self, path: Path) -> int | None:
        """See `Storage`."""
        try:
            return path.stat().st_mtime_ns
        except (OSError, ValueError):  # reading it will say why
            return None

    def state(self, path: Path) -> tuple[int, ...] | None:
        """See `Storage`."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(found.st_mode) or time.time_ns() - found.st_mtime_ns <= SETTLED:
            return None
        times = found.st_mtime_ns, found.st_ctime_ns
        return found.st_size, *times, found.st_dev, found.st_ino

    def foresee_output(self, path: Path, *, overwrite: bool) -> Format:
        """See `Storage`."""
        if is_folder(path.parent):
            return check_output(path, overwrite=overwrite)
        there = next(folder for folder in path.parents if _exists(folder))
        if not is_folder(there) or not os.access(there, os.W_OK | os.X_OK):
            raise OutputError(
                f"{printable(path.parent)}: cannot be made a folder inside {printable(there)}; "
                "choose another output"
            )
        return format_for(path.suffix, printable(path))

    def make_folder(self, folder: Path) -> None:
        """See `Storage`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{printable(folder)}: cannot be made a folder ({error.strerror}); choose "
                "another output"
            ) from None

    def working_folder(self, path: Path) -> Path:
        """See `Storage`."""
        return path.parent


def _exists(folder: Path) -> bool:
    try:
        return folder.exists() or folder == folder.parent
    except (OSError, ValueError):
        return False


DISK: Storage = Disk()


def storage_of(path: Path) -> Storage:
    """What keeps the file or folder.

    ``Path("s3://bucket/a.png")``, of which Python makes ``s3:/bucket/a.png``, is an S3 object,
    unless there is a folder ``s3:`` here.
    """
    first, *others = path.parts or ("",)
    if others and _SCHEME.fullmatch(first) and not os.path.lexists(first):
        return _remote()
    return DISK


@cache
def _remote() -> Storage:
    from bidiffsr.batch.remote import Remote

    return Remote()


def location(path: Path) -> str:
    """A path or URI as users write it."""
    return storage_of(path).text(path)


def shown(path: Path) -> str:
    """As ``location``, for a message, which stays one line whatever the path holds."""
    return printable(location(path))


def existing(paths: Iterable[Path]) -> set[Path]:
    """Those of the paths that are files, wherever they lie."""
    kept: dict[Storage, list[Path]] = {}
    for path in paths:
        kept.setdefault(storage_of(path), []).append(path)
    return {path for storage, some in kept.items() for path in storage.existing(some)}


def check_on_disk(option: str, paths: Iterable[Path]) -> None:
    """Make sure that files are this machine's, as an option needs them to be.

    Raises:
        ConfigError: one lies in storage.
    """
    for path in paths:
        if storage_of(path) is not DISK:
            raise ConfigError(f"{shown(path)}: {option} works on files of this machine; copy it")
