"""Make docs/images/before_after.png: bicubic interpolation beside the default model.

Run from the repository's root: python examples/before_after.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bidiffsr import Image, Upscaler, imresize, read_image, write_image

PICTURE = Path("examples/macaw.png")
RESULT = Path("docs/images/before_after.png")
# Rows and columns of the enlarged picture that are shown: the macaw's head.
TOP, LEFT, SIDE = 168, 98, 184
# Each pixel is shown as a square, so that no browser's interpolation is added to ours.
ZOOM = 2


def main() -> None:
    """Upscale, crop, join."""
    small = read_image(PICTURE).pixels
    bicubic = imresize(small, 4)
    sharp = Upscaler.from_pretrained("default")(small)
    window = np.s_[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    shown = [
        crop.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for crop in (bicubic[window], sharp[window])
    ]
    gap = np.full((SIDE * ZOOM, 8, 3), 255, dtype=np.uint8)
    joined = np.concatenate([shown[0], gap, shown[1]], axis=1)
    write_image(RESULT, Image(joined), overwrite=True)
    print(RESULT)


if __name__ == "__main__":
    main()
