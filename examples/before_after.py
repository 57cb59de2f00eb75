"""Make the README's pictures of the macaw.

One has bicubic interpolation beside the default model, one a sample beside how far eight are apart.
Run from the repository's root: python examples/before_after.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bidiffsr import Image, Upscaler, imresize, read_image, write_image
from bidiffsr.upscaling.draws import Draws, brightest, uncertainty_image

PICTURE = Path("examples/macaw.png")
IMAGES = Path("docs/images")
SAMPLES = 8
# Rows and columns of the enlarged picture that are shown: the macaw's head.
TOP, LEFT, SIDE = 168, 98, 184
# Each pixel is shown as a square, so that no browser's interpolation is added to ours.
ZOOM = 2


def main() -> None:
    """Upscale, crop, join."""
    small = read_image(PICTURE).pixels
    samples = Upscaler.from_pretrained("default")(small, samples=SAMPLES)
    draws = Draws()
    for sample in samples:
        draws.add(Image(sample))
    deviation = draws.deviation()
    uncertainty = uncertainty_image(deviation, brightest(deviation)).pixels
    join("before_after.png", imresize(small, 4), samples[0])
    join("uncertainty.png", samples[0], uncertainty)


def join(name: str, left: np.ndarray, right: np.ndarray) -> None:
    """Write the head in both pictures, side by side."""
    window = np.s_[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    shown = [crop[window].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for crop in (left, right)]
    gap = np.full((SIDE * ZOOM, 8, 3), 255, dtype=np.uint8)
    joined = np.concatenate([shown[0], gap, shown[1]], axis=1)
    write_image(IMAGES / name, Image(joined), overwrite=True)
    print(IMAGES / name)


if __name__ == "__main__":
    main()
