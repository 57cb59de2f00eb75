"""How much memory a picture will need, and what follows for its tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from bidiffsr.errors import MemoryEstimateError
from bidiffsr.upscaling.options import TileSize
from bidiffsr.upscaling.tiling import Tiling, lay_tiles, least_tile

# With attention, up to here a picture is one tile, where the memory allows: it compares all
# positions with each other, and its share of the work grows with the area. At a megapixel it adds
# half to a step of the shipped network in PyTorch, about as much as the overlaps of tiles would.
_LARGEST_WHOLE = 1 << 20

# Larger pictures get tiles of at most this side: attention adds a seventh to a step, overlaps a
# quarter, and the whole picture's group norms are still met well (docs/method.md, "Tiles").
_LARGEST_TILE = 512

# What is neither the network's nor grows with the picture: strips of rows, libraries' first use.
_FIXED_BYTES = 64_000_000

# For each pixel of a tile: what goes into the network and what comes out, in float32.
_TILE_BYTES = 60


@dataclass(frozen=True)
class MemoryPlan:
    """How a picture will be upscaled."""

    tiling: Tiling
    on_disk: bool
    """Whether the picture-sized arrays live in files."""
    needed: int
    """Estimated bytes beyond what the process holds already."""
    picture: int
    """Bytes of the picture-sized arrays, wherever they live."""


@dataclass(frozen=True)
class Room:
    """What upscaling a picture takes, in bytes, as estimated before it is decoded."""

    memory: int
    """At a time, beyond what the process holds already."""
    disk: int
    """Of files without names; 0 where the memory is enough."""


def plan_memory(
    network: Callable[[int, int], int],
    size: tuple[int, int],
    picture: int,
    *,
    multiple: int,
    tile: TileSize = "auto",
    attends: bool = True,
    limit: int | None,
    source: int = 0,
    saving: int = 0,
    disk: bool = False,
) -> MemoryPlan:
    """Choose the tiles, and where the picture-sized arrays live.

    Args:
        network: bytes that one run on a tile of (height, width) takes.
        size: height and width of the output, multiples of ``multiple``.
        picture: bytes of all arrays of the output's size.
        multiple: see ``lay_tiles``.
        tile: their largest side, or "auto": the whole picture or else the largest tiles, as far as
            the memory and the work allow.
        attends: whether the network's work for a pixel grows with the tile.
        limit: bytes there are; None where nobody knows.
        source: bytes of the picture that is upscaled, which is never kept in a file.
        saving: bytes that writing the result takes beside it, when sampling is over.
        disk: whether arrays of the output's size may live in files. They do where they would take
            half of ``limit``, or where nothing fits otherwise.

    Raises:
        MemoryEstimateError: not even the smallest tiles fit, with the estimate and what there is.
    """
    places = [False, True] if disk else [False]
    if disk and limit is not None and picture > limit / 2:
        places = [True]
    plans = []
    for on_disk, largest in product(places, _sides(size, multiple, tile, attends)):
        tiling = lay_tiles(*size, largest, multiple)
        height, width = tiling.tile
        sampling = network(height, width) + _TILE_BYTES * height * width
        held = 0 if on_disk else picture
        # Of the arrays, only the condition and the result are left when this is saved.
        needed = _FIXED_BYTES + source + max(sampling + held, saving + held // 2)
        plans.append(MemoryPlan(tiling, on_disk, needed, picture))
    for plan in plans:
        if limit is None or plan.needed <= limit:
            return plan
    least, (height, width) = min(plan.needed for plan in plans), size
    raise MemoryEstimateError(
        f"an output of {width}x{height} pixels needs about {least / 1e9:.1f} GB of memory and "
        f"{max(limit or 0, 0) / 1e9:.1f} GB are free or allowed; close other programs, allow more, "
        "or upscale a smaller picture"
    )


def _sides(size: tuple[int, int], multiple: int, tile: TileSize, attends: bool) -> list[int]:
    """Sides to try, the best first."""
    if tile != "auto":
        return [tile]
    height, width = size
    sides = [max(size)] if height * width <= _LARGEST_WHOLE or not attends else []
    side, least = max(_LARGEST_TILE, least_tile(multiple)), least_tile(multiple)
    while not attends and 2 * side < max(size):
        side *= 2
    while side > least:
        sides.append(side)
        side //= 2
    return [*sides, least]
