"""How much memory a picture will need, and how much there is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.errors import MemoryEstimateError

# Control groups, version 2 and 1: limit, use, and the part of it that is file cache to be had.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
# Measured growth of the peak resident set over one step (`make bench`): full-size feature maps of
# `channels` float32 values, and what does not grow with the picture.
_FEATURE_MAPS = {"bidiffsr": 18, "sr3": 28}
_FIXED_BYTES = 250_000_000
# The picture, its condition, the latent and the prediction, in float32 and float64.
_PICTURE_BYTES = 200


def estimate_memory(config: BiDiffSRConfig | SR3Config, height: int, width: int) -> int:
    """Bytes one sampling step takes in PyTorch for an output of ``height`` × ``width`` pixels."""
    features = _FEATURE_MAPS[config.architecture] * config.channels * 4
    return _FIXED_BYTES + height * width * (features + _PICTURE_BYTES)


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


def require_memory(config: BiDiffSRConfig | SR3Config, height: int, width: int) -> None:
    """Refuse an output that cannot be computed here.

    Raises:
        MemoryEstimateError: with the estimate and what there is.
    """
    needed, available = estimate_memory(config, height, width), available_memory()
    if available is not None and needed > available:
        raise MemoryEstimateError(
            f"an output of {width}x{height} pixels needs about {needed / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are free; upscale a smaller picture or cut it into parts"
        )
