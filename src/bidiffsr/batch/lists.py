"""Lists of pictures, as programs write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from bidiffsr.batch.pipes import PIPE
from bidiffsr.errors import ConfigError
from bidiffsr.system.files import printable, reason


def read_list(path: Path, stream: BinaryIO) -> list[Path]:
    """The paths in a list, one a line; or between NUL bytes, where it has any.

    Args:
        path: the list's file, or ``PIPE``.
        stream: standard input; read to its end where ``path`` is ``PIPE``.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    name = "standard input" if path == PIPE else printable(path)
    expected = "expected a list of pictures, one a line"
    try:
        data = stream.read() if path == PIPE else path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read ({reason(error)}); {expected}") from error
    # Of lines alone the ends may be those of Windows; a name may end with any other byte.
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    found = [entry for entry in (data.split(b"\0") if b"\0" in data else lines) if entry]
    if not found:
        raise ConfigError(f"{name}: is empty; {expected}")
    return [Path(os.fsdecode(entry)) for entry in found]
