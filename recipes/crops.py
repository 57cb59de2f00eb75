"""A page of crops: bicubic, every quality of a model, and the original, side by side.

python recipes/crops.py MODEL page.png PICTURE:LEFT,TOP [PICTURE:LEFT,TOP]... [--side 128]

The pictures are originals; they are made small, then upscaled. LEFT, TOP and side are in pixels of
the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bidiffsr import Upscaler, imresize, read_image
from bidiffsr.cli.terminal import exit_code
from bidiffsr.evaluation import bicubic
from bidiffsr.images.resize import mod_crop

Column = tuple[str, Any]


def columns(upscaler: Upscaler, path: Path) -> list[Column]:
    """What is shown of one picture, whole: (title, pixels)."""
    scale = upscaler.config.scale
    high = mod_crop(read_image(path).pixels, scale)
    low = imresize(high, 1 / scale)
    shown: list[Column] = [("bicubic", bicubic(low, scale))]
    for quality in upscaler.config.qualities:
        shown.append((quality, upscaler(low, quality=quality)))
    return [*shown, ("original", high)]


def page(model: str, crops: list[tuple[Path, int, int]], side: int, output: Path) -> None:
    """Draw the crops, each twice as large or so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    upscaler = Upscaler.from_pretrained(model)
    rows = [(columns(upscaler, path), left, top) for path, left, top in crops]
    count = len(rows[0][0])
    figure, axes = pyplot.subplots(
        len(rows), count, figsize=(2.4 * count, 2.5 * len(rows)), squeeze=False
    )
    for row, (shown, left, top) in enumerate(rows):
        for axis, (title, pixels) in zip(axes[row], shown, strict=True):
            window = pixels[top : top + side, left : left + side]
            axis.imshow(np.ascontiguousarray(window), interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.02, hspace=0.02)
    figure.savefig(output, dpi=110)


def _crop(text: str) -> tuple[Path, int, int]:
    path, _, place = text.rpartition(":")
    left, top = place.split(",")
    return Path(path), int(left), int(top)


def main() -> int:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("crops", type=_crop, nargs="+", metavar="PICTURE:LEFT,TOP")
    parser.add_argument("--side", type=int, default=128)
    chosen = parser.parse_args()
    page(chosen.model, chosen.crops, chosen.side, chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
