"""How much memory there is, and how much this process holds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Control groups, version 2 and 1: limit, use, and the part of it that is file cache to be had.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)

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
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    return 0


def available_memory() -> int | None:
    """Bytes this process may still take, or None where the system does not say."""
    found = []
    with suppress(OSError, KeyError):
        found.append(_table(Path("/proc/meminfo"))["MemAvailable:"] * 1024)
    for limit, use, cache in _CGROUPS:
        with suppress(OSError, ValueError):
            free = int(Path(limit).read_text("ascii")) - int(Path(use).read_text("ascii"))
            found.append(free + _table(Path(use).with_name("memory.stat")).get(cache, 0))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


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
