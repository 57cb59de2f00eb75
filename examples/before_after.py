"""Make docs/images/before_after.png: bicubic beside the shipped model, on the demo picture.

Run from the repository's root: python examples/before_after.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bidiffsr
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image

PICTURE = Path("examples/demo.png")
RESULT = Path("docs/images/before_after.png")
# Rows and columns of the enlarged picture that are shown: the bird's head and breast.
TOP, LEFT, SIDE = 100, 300, 480


def main() -> None:
    """Upscale, crop, join."""
    small = bidiffsr.read_image(PICTURE).pixels
    bicubic = bidiffsr.imresize(small, 4)
    sharp = bidiffsr.Upscaler.from_pretrained("default")(small)
    window = np.s_[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    gap = np.full((SIDE, 8, 3), 255, dtype=np.uint8)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    joined = np.concatenate([bicubic[window], gap, sharp[window]], axis=1)
    write_image(RESULT, Image(joined), overwrite=True)
    print(RESULT)


if __name__ == "__main__":
    main()
