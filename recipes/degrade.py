"""Makes a benchmark of degraded low-resolution pictures, for `bidiffsr eval`.

python recipes/degrade.py data/validation/kodak24 runs/kodak24_strong --strength strong

The pictures are copied, and for each a low-resolution one is written that has gone through what
models for everyday pictures are trained on (`bidiffsr.data.degradation`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np

from bidiffsr.cli.terminal import exit_code, print_result
from bidiffsr.config import DegradationConfig
from bidiffsr.data.degradation import degrade
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import Benchmark
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.system.files import write_atomically

STRENGTHS = {
    "plain": DegradationConfig(),
    "camera": DegradationConfig(probability=1, blur=0, noise=0, jpeg=90),
    "web": DegradationConfig(probability=1, blur=0, noise=0, jpeg=60),
    "mild": DegradationConfig(probability=0.5, blur=0.5, noise=3, jpeg=80, sharpen=0.3, resize=0.9),
    "medium": DegradationConfig(
        probability=0.7, blur=0.8, noise=8, jpeg=60, sharpen=0.6, resize=0.75
    ),
    "strong": DegradationConfig(
        probability=0.8, blur=1.2, noise=15, jpeg=40, sharpen=1, resize=0.5, rounds=2
    ),
}


def make(folder: Path, out: Path, scale: int, seed: int, config: DegradationConfig) -> int:
    """Write the benchmark; the number of its pictures."""
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; expected a whole number from 0 up")
    benchmark = Benchmark.open(folder)
    low = out / "LR_bicubic" / f"X{scale}"
    for number, pair in enumerate(benchmark.pairs(scale)):
        for each in (out / "HR", low):
            each.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([seed, number])
        write_atomically(out / "HR" / pair.path.name, partial(shutil.copy, pair.path))
        degraded = Image(degrade(pair.low, config, random))
        write_image(low / f"{pair.path.stem}x{scale}.png", degraded, overwrite=True)
    return len(benchmark.pictures)


def main() -> int:
    """Read the arguments, write the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strength", choices=STRENGTHS, default="plain")
    chosen = parser.parse_args()
    count = make(chosen.folder, chosen.out, chosen.scale, chosen.seed, STRENGTHS[chosen.strength])
    print_result(f"{chosen.out}: {count} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
