"""How much memory there is, and how much this process holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bidiffsr.errors import MemoryEstimateError
from bidiffsr.system.cgroups import control_groups

# Files of a control group, version 2 and 1: its limit, its use, and the name in memory.stat of that
# part of the use which is file cache to be had.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)

# Address space below which libraries end the process rather than report a shortage: measured, with
# threads' stacks, by upscaling a picture of 30 pixels under `ulimit -v` on one CPU (300 MB are
# enough there), and some more.
_LEAST_SPACE = 350_000_000

# Of the free memory, so that other programs keep some.
_SHARE = 0.8


def memory_limit(max_memory: int | None, held: int) -> int | None:
    """Bytes this process may take beyond those it holds; None where nobody knows.

    Args:
        max_memory: bytes the process may hold in all; None: a share of what is free.
        held: bytes it holds.
    """
    available = available_memory()
    if max_memory is None:
        return None if available is None else int(available * _SHARE)
    allowed = max_memory - held
    return allowed if available is None else min(allowed, available)


def held_memory() -> int:
    """Bytes this process holds: its resident set, or 0 where the system does not say."""
    return _own_pages(1) or 0


def check_address_space() -> None:
    """Make sure that the process may become large enough for its libraries, before they are loaded.

    Raises:
        MemoryEstimateError: a limit such as that of ``ulimit -v`` leaves too little.
    """
    left = _address_space()
    if left is not None and left < _LEAST_SPACE:
        raise MemoryEstimateError(
            f"this process is limited to {max(left, 0) / 1e6:.0f} MB of memory more (ulimit -v), "
            f"and needs {_LEAST_SPACE / 1e6:.0f} MB at least; allow more"
        )


def _address_space() -> int | None:
    """Bytes of address space that the process may still map; None where there is no limit."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _own_pages(0)
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _own_pages(column: int) -> int | None:
    """A column of the kernel's account of this process, in bytes: 0 mapped, 1 resident."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[column])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take, or None where the system does not say.

    Args:
        root: of the file system that tells of the machine and of control groups.
    """
    space = _address_space()
    found = [] if space is None else [max(space, 0)]
    with suppress(OSError, KeyError):
        found.append(_table(root / "proc/meminfo")["MemAvailable:"] * 1024)
    found += [free for group in control_groups("memory", root) for free in _left_to(group)]
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _left_to(group: Path) -> Iterator[int]:
    """Bytes that this group may still take, if it is limited."""
    for limit, use, cache in _GROUP_FILES:
        with suppress(OSError, ValueError):
            allowed = int((group / limit).read_text("ascii"))  # or "max", which is no number
            used = int((group / use).read_text("ascii"))
            with suppress(OSError):
                used -= _table(group / "memory.stat").get(cache, 0)
            yield max(0, allowed - used)


def _table(path: Path) -> dict[str, int]:
    """A file of lines "name number ..."."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy or PyTorch could not get the memory they asked for."""
    # PyTorch says so by a RuntimeError on the CPU and by a subclass of it on a GPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
