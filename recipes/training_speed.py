"""Times the iterations of a training run, without touching its folder.

python recipes/training_speed.py recipes/x4_small.yml [--key value]...

prints the seconds of one iteration and the megapixels of high-resolution picture that training sees
in a second; the number of threads is what OMP_NUM_THREADS says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bidiffsr.cli.terminal import exit_code, print_result
from bidiffsr.config import TrainingConfig, load_yaml, parse_config
from bidiffsr.config.overrides import with_overrides
from bidiffsr.training.cost import iteration_time


def main() -> int:
    """Time the run that is named."""
    if len(sys.argv) < 2:
        print_result(__doc__.strip())
        return 2
    path, *overrides = sys.argv[1:]
    values = with_overrides(load_yaml(Path(path)), overrides, path)
    config = parse_config(TrainingConfig, values, path)
    found = iteration_time(config)
    megapixels = config.batch * config.data.crop**2 / 1e6
    print_result(
        f"{path}: {found.seconds:.3f} s an iteration of {config.batch} crops of "
        f"{config.data.crop}x{config.data.crop}, {megapixels / found.seconds:.4f} megapixels/s, "
        f"{megapixels / found.cpu_seconds:.4f} per CPU second; {torch.get_num_threads()} threads"
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
