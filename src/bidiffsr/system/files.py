"""Files that appear whole or not at all, and paths in messages."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bidiffsr.errors import OutputError

StrPath = str | os.PathLike[str]


def write_atomically(
    path: StrPath, write: Callable[[Path], object], *, overwrite: bool = True
) -> None:
    """Let ``write`` make a file under a temporary name beside ``path``, then rename it.

    What is written is on the disk before it gets its name. If anything fails, the temporary file
    is removed and an older file at ``path`` is as it was.

    Args:
        path: the file; where it is a symbolic link, what it points to is replaced.
        write: is called once with the temporary path.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the place cannot be written to, or the file exists.
    """
    target = Path(path).resolve()  # through a symbolic link, rather than in place of it
    temporary = target.with_name(f".bidiffsr-{secrets.token_hex(8)}.tmp")
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


def printable(path: StrPath) -> str:
    """The path for a message, which stays one line whatever the path holds."""
    name = os.fspath(path)
    return name if name.isprintable() else repr(name)


def reason(error: OSError | ValueError) -> str:
    """Why, in the system's words."""
    return getattr(error, "strerror", None) or str(error)
