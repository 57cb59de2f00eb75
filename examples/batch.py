"""Make the README's picture of a batch: six small pictures, and below each what becomes of it.

They are of the Kodak Lossless True Color Image Suite, whose files the folder has to hold.
Run from the repository's root: python examples/batch.py data/validation/kodak24
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bidiffsr import Image, imresize, read_image, write_image
from bidiffsr.cli import main as bidiffsr

SHEET = Path("docs/images/batch.jpg")
# Of each picture, reduced four times: the first row and column of what is enlarged.
WINDOWS = {3: (12, 16), 7: (34, 66), 15: (22, 80), 20: (18, 12), 21: (16, 40), 22: (14, 44)}
HEIGHT, WIDTH, SCALE = 54, 72, 4
COLUMNS, GAP = 3, 8


def main(folder: Path) -> None:
    """Cut, upscale, join."""
    with TemporaryDirectory() as scratch:
        small, large = Path(scratch, "small"), Path(scratch, "large")
        small.mkdir()
        for number, (top, left) in WINDOWS.items():
            reduced = imresize(read_image(folder / f"{number:02}.png").pixels, 1 / SCALE)
            cut = reduced[top : top + HEIGHT, left : left + WIDTH]
            write_image(small / f"{number:02}.png", Image(np.ascontiguousarray(cut)))
        if bidiffsr(["upscale", str(small), "-o", str(large)]):
            sys.exit("some were not upscaled")
        cells = [
            cell(read_image(path).pixels, read_image(large / f"{path.stem}_x4.png").pixels)
            for path in sorted(small.iterdir())
        ]
    rows = [np.hstack(cells[at : at + COLUMNS]) for at in range(0, len(cells), COLUMNS)]
    sheet = np.ascontiguousarray(np.vstack(rows))
    write_image(SHEET, Image(sheet), overwrite=True, quality=90)
    print(SHEET)


def cell(small: NDArray[np.uint8], large: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One above the other, both pixel for pixel, on white."""
    height, width = large.shape[:2]
    made = np.full((GAP + HEIGHT + GAP + height + GAP, GAP + width + GAP, 3), 255, np.uint8)
    made[GAP : GAP + HEIGHT, GAP : GAP + WIDTH] = small
    made[2 * GAP + HEIGHT : -GAP, GAP : GAP + width] = large
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
