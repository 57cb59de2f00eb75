"""Files read with care, files that appear whole or not at all, and paths in messages."""

from __future__ import annotations

import errno
import functools
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bidiffsr.errors import BidiffsrError, ImageError, OutputError
from bidiffsr.system.memory import available_memory
from bidiffsr.system.process import here, started_at

StrPath = str | os.PathLike[str]

SETTLED = 2_000_000_000
"""Nanoseconds within which a file may change again without another time of change."""

# .bidiffsr-WHERE-PROCESS-START-RANDOM.tmp, which says who writes it; see `remove_leftovers`.
_TEMPORARY = re.compile(
    r"\.bidiffsr-(?:(?P<here>[0-9a-f]+)-(?P<process>\d+)-(?P<start>\d+)-)?[0-9a-f]+\.tmp"
)
# Seconds after which no file is still being written, whoever does it.
_ABANDONED = 24 * 60 * 60

# Bytes that tell what kind of file it is.
_START = 16

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_file(
    path: StrPath, *, max_bytes: int, check_start: Callable[[bytes], object] | None = None
) -> bytes:
    """The bytes of a picture's file, which is looked at before anything is read.

    Args:
        path: the file.
        max_bytes: of a larger one nothing is read.
        check_start: is given the first bytes, at most 16, before the others are read; what it
            raises is let through.

    Raises:
        ImageError: it is missing, no regular file, unreadable, or larger than `max_bytes` or than
            the memory there is.
    """
    check_path(path, ImageError)
    try:
        status = Path(path).stat()  # before opening, which may wait
        _check_readable(path, status, max_bytes)
        with Path(path).open("rb") as file:
            start = file.read(_START)
            if check_start is not None:
                check_start(start)
            return start + file.read(max(0, status.st_size - len(start)))
    except FileNotFoundError as error:
        raise ImageError(f"{printable(path)}: no such file; check the name") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{printable(path)}: cannot be read ({reason(error)})") from error


def check_path(path: object, error: type[BidiffsrError], name: str = "path") -> None:
    """Make sure that what a caller gave may be a path.

    Args:
        path: what was given.
        error: of what kind to raise.
        name: of the argument, for the message.

    Raises:
        BidiffsrError: it may not.
    """
    if not isinstance(path, str | os.PathLike):
        raise error(f"{name} is of type {type(path).__name__}; expected a str or a pathlib.Path")


def _check_readable(path: StrPath, status: os.stat_result, max_bytes: int) -> None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        raise ImageError(f"{printable(path)}: is {kind}; expected a picture file")
    if status.st_size > max_bytes:
        raise ImageError(
            f"{printable(path)}: has {status.st_size} bytes; expected at most {max_bytes}, "
            "more than any picture needs"
        )
    available = available_memory()
    if available is not None and status.st_size > available:
        raise ImageError(
            f"{printable(path)}: has {status.st_size} bytes, more than the {available} bytes of "
            "memory there are; free some or make it smaller"
        )


def write_atomically(
    path: StrPath, write: Callable[[Path], object], *, overwrite: bool = True
) -> None:
    """Let ``write`` make a file under a temporary name beside ``path``, then rename it.

    What is written is on the disk before it gets its name. If anything fails, the temporary file
    is removed and an older file at ``path`` is as it was. What killed processes left in the folder
    is removed when this one first writes there.

    Args:
        path: the file; where it is a symbolic link, what it points to is replaced.
        write: is called once with the temporary path.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the place cannot be written to, or the file exists.
    """
    # Through a symbolic link, rather than in place of it.
    target = real_path(path)
    _remove_leftovers_once(target.parent, os.getpid())
    temporary = target.with_name(f".bidiffsr-{_writer()}-{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if target.exists() and not overwrite:  # writing took a while
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        temporary.replace(target)
    except OSError as error:
        raise OutputError(
            f"{printable(path)}: cannot be written ({reason(error)}); nothing was changed"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: StrPath) -> None:
    """Remove what `write_atomically` left half-written in a folder when its process was killed.

    A file goes when its process runs no more, and, where that cannot be known from here (another
    machine or container), when it has not been touched for a day.
    """
    with suppress(OSError):  # whatever stays is hidden and in nobody's way
        for entry in os.scandir(folder):
            name = _TEMPORARY.fullmatch(entry.name)
            if name is not None and _is_left_over(name, entry.stat(follow_symlinks=False)):
                with suppress(OSError):
                    Path(entry.path).unlink()


def remove_own(folder: StrPath) -> None:
    """Remove what this process is writing in a folder, because it is about to end."""
    for path in Path(folder).glob(f".bidiffsr-{_writer()}-*.tmp"):
        with suppress(OSError):
            path.unlink()


def _writer() -> str:
    """What names of temporary files say of who writes them."""
    return f"{here()}-{os.getpid()}-{started_at(os.getpid()) or 0}"


@functools.cache
def _remove_leftovers_once(folder: Path, _: int) -> None:
    """As ``remove_leftovers``, for each process only once: folders may hold very many files."""
    remove_leftovers(folder)


def _is_left_over(name: re.Match[str], state: os.stat_result) -> bool:
    if name["here"] == here():
        return started_at(int(name["process"])) != int(name["start"])
    return time.time() - state.st_mtime > _ABANDONED


def is_file(path: StrPath) -> bool:
    """Whether there is such a file; False too where its name cannot be one."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: StrPath) -> bool:
    """Whether there is such a folder; False too where its name cannot be one."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def real_path(path: StrPath) -> Path:
    """Where symbolic links lead; the path itself where they lead in a circle."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):
        return Path(path).absolute()


def exists_already(path: StrPath, kind: type[OutputError] = OutputError) -> OutputError:
    """What to raise where there is a file that must not be overwritten."""
    return kind(f"{printable(path)}: exists already; remove it, or overwrite it (--overwrite)")


def printable(path: StrPath) -> str:
    """The path for a message, which stays one line whatever the path holds."""
    name = os.fspath(path)
    return name if name.isprintable() else repr(name)


def reason(error: OSError | ValueError) -> str:
    """Why, in the system's words."""
    return getattr(error, "strerror", None) or str(error)
