"""How much memory a picture will need, how much there is, and what follows for its tiles."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bidiffsr.errors import ConfigError, MemoryEstimateError
from bidiffsr.tiling import Tiling, lay_tiles, least_tile

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
# Up to here a picture is one tile, where the memory allows: attention compares all positions with
# each other, and its share of the work grows with the area. At a megapixel it adds half to a step
# of the shipped network in PyTorch, about as much as the overlaps of tiles would.
_LARGEST_WHOLE = 1 << 20
# Larger pictures get tiles of at most this side: attention adds a seventh to a step, overlaps a
# quarter, and the whole picture's group norms are still met well (docs/method.md, "Tiles").
_LARGEST_TILE = 512
# What is neither the network's nor grows with the picture: strips of rows, libraries' first use.
_FIXED_BYTES = 64_000_000
# For each pixel of a tile: what goes into the network and what comes out, in float32.
_TILE_BYTES = 60
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

TileSize = int | Literal["auto"]


@dataclass(frozen=True)
class MemoryPlan:
    """How a picture will be upscaled."""

    tiling: Tiling
    on_disk: bool
    """Whether the picture-sized arrays live in files."""
    needed: int
    """Estimated bytes beyond what the process holds already."""


def plan_memory(
    network: Callable[[int, int], int],
    size: tuple[int, int],
    picture: int,
    *,
    multiple: int,
    tile: TileSize = "auto",
    limit: int | None,
    disk: bool = False,
) -> MemoryPlan:
    """Choose the tiles, and where the picture-sized arrays live.

    Args:
        network: bytes that one run on a tile of (height, width) takes.
        size: height and width of the output, multiples of ``multiple``.
        picture: bytes of all picture-sized arrays.
        multiple: see ``lay_tiles``.
        tile: their largest side, or "auto": the whole picture or else the largest tiles, as far as
            the memory and the work allow.
        limit: bytes there are; None where nobody knows.
        disk: whether arrays may live in files. They do where they would take half of ``limit``.

    Raises:
        MemoryEstimateError: not even the smallest tiles fit, with the estimate and what there is.
    """
    on_disk = disk and limit is not None and picture > limit / 2
    plans = []
    for largest in _sides(size, multiple, tile):
        tiling = lay_tiles(*size, largest, multiple)
        height, width = tiling.tile
        needed = _FIXED_BYTES + network(height, width) + _TILE_BYTES * height * width
        plans.append(MemoryPlan(tiling, on_disk, needed + (0 if on_disk else picture)))
    for plan in plans:
        if limit is None or plan.needed <= limit:
            return plan
    least, (height, width) = min(plan.needed for plan in plans), size
    raise MemoryEstimateError(
        f"an output of {width}x{height} pixels needs about {least / 1e9:.1f} GB of memory and "
        f"{max(limit or 0, 0) / 1e9:.1f} GB are free or allowed; close other programs, allow more, "
        "or upscale a smaller picture"
    )


def _sides(size: tuple[int, int], multiple: int, tile: TileSize) -> list[int]:
    """Sides to try, the best first."""
    if tile != "auto":
        return [tile]
    height, width = size
    sides = [max(size)] if height * width <= _LARGEST_WHOLE else []
    side, least = max(_LARGEST_TILE, least_tile(multiple)), least_tile(multiple)
    while side > least:
        sides.append(side)
        side //= 2
    return [*sides, least]


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


def parse_bytes(text: str) -> int:
    """``2G``, ``800M``, ``1.5GB`` or a plain number as bytes; G is 10⁹, and GiB 2³⁰.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"max_memory: got {text!r}, expected an amount such as 2G or 800M")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]])


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy or PyTorch could not get the memory they asked for."""
    # PyTorch says so by a RuntimeError on the CPU and by a subclass of it on a GPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
