"""What a training run costs: multiply-accumulates, counted, and seconds, measured."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bidiffsr.config import NetworkConfig, TrainingConfig, ValidationConfig
from bidiffsr.models.packed import check_model
from bidiffsr.nn.counting import count
from bidiffsr.training.trainer import train

# A backward pass computes two gradients for each product of the forward pass.
_PASSES = 3
# Iterations before the first that is timed: they compile and fill caches.
_WARM_UP = 4


def iteration_macs(config: TrainingConfig) -> int:
    """Multiply-accumulates of one update: all samples, forward and backward, the teacher too.

    While training, a product of bits costs what any other does.
    """
    each = _PASSES * _forward_macs(config.model.network, config.data.crop)
    if config.teacher is not None:
        each += _forward_macs(check_model(config.teacher).network, config.data.crop)
    return each * config.batch


@dataclass(frozen=True)
class IterationTime:
    """Of one iteration, on average."""

    seconds: float
    cpu_seconds: float
    """Of all threads together."""


def iteration_time(config: TrainingConfig, iterations: int = 12) -> IterationTime:
    """Time a few iterations of a run from its beginning; its folder is not touched.

    Its crops are made by the process itself, so that their time counts, and weights are binarized.

    Args:
        config: the run, which is neither validated nor resumed.
        iterations: how many are timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        changes = {
            "output": Path(folder),
            "iterations": _WARM_UP + iterations + 1,  # the last one writes files
            "validation": ValidationConfig(),
            "checkpoint_every": 2**31,
            "log_every": 2**31,
            "resume_from": None,
            "binarize_weights_from": 0,
            "data": config.data.model_copy(update={"workers": 0}),
            "minutes": None,
        }
        with closing(train(config.model_copy(update=changes))) as progress:
            times = [(time.perf_counter(), time.process_time()) for _ in progress]
    first, last = times[_WARM_UP - 1], times[-2]
    return IterationTime((last[0] - first[0]) / iterations, (last[1] - first[1]) / iterations)


def _forward_macs(network: NetworkConfig, side: int) -> int:
    return sum(layer.macs + layer.binary_macs for layer in count(network, side, side))
