"""How much memory a picture will need, and how much there is."""

from __future__ import annotations

import os
from pathlib import Path

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.errors import MemoryEstimateError

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Measured peak of one float32 step in PyTorch, in float32 feature maps of `channels` at full
# size: the skips of all levels and the temporaries of a convolution.
_FEATURE_MAPS = 16.0
# Picture, condition, latent, prediction and their float copies: bytes a pixel.
_PICTURE_BYTES = 200


def estimate_memory(config: BiDiffSRConfig | SR3Config, height: int, width: int) -> int:
    """Bytes one sampling step needs in PyTorch for an output of ``height`` × ``width`` pixels."""
    features = _FEATURE_MAPS * config.channels * 4
    return int(height * width * (features + _PICTURE_BYTES))


def available_memory() -> int | None:
    """Bytes this process may still take, or None where the system does not say."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    for path in _CGROUP_LIMITS:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


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
