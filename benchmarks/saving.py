"""Measure the memory that writing a picture takes beside the picture.

python -m benchmarks.saving [HEIGHT WIDTH]

A process of its own for each format writes noise, which compresses worst. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bidiffsr.images import Image, write_image
from bidiffsr.images.formats import FORMATS


def _peak() -> int:
    """Bytes, since the last reset."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def _write(suffix: str, height: int, width: int) -> None:
    """Print what writing adds to the peak, and how large the file is."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder, f"small{suffix}"), Image(noise[:8, :8].copy()))  # loads libvips
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak()
        path = Path(folder, f"noise{suffix}")
        write_image(path, Image(noise))
        taken, pixels = _peak() - before, height * width
        print(
            f"{suffix}: {taken / 1e6:.0f} MB, {taken / pixels:.1f} bytes a pixel, for a file of "
            f"{path.stat().st_size / 1e6:.0f} MB"
        )


def main() -> int:
    """Measure every format."""
    if len(sys.argv) == 4:
        _write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return 0
    size = sys.argv[1:] or ["4000", "6000"]
    for format_ in FORMATS:
        command = [sys.executable, "-m", "benchmarks.saving", format_.suffixes[0], *size]
        subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
