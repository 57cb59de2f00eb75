"""Does a packed model file give what its checkpoint gives, in PyTorch and in the engine?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bidiffsr.backends.base import engine_knows
from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.config import BiDiffSRConfig, ModelConfig
from bidiffsr.errors import NumericalError
from bidiffsr.system.files import printable

LARGEST_DIFFERENCE = 0.01
"""Of the engine from PyTorch: sums in another order flip signs of activations next to zero, which
changes the output of the published network by 0.005."""

_SIZE = 64
_MOST_GROUPS = 5


@dataclass(frozen=True)
class Comparison:
    """How far two ways to run a network are apart."""

    what: str
    difference: float
    """Relative L2, |found - expected| / |expected|, over all timesteps tried."""


def compare_backends(network: nn.Module, path: Path, seed: int = 0) -> Iterator[Comparison]:
    """Run a packed file in every backend there is, on random input.

    The input has 64×64 pixels, or what the network needs beyond that, and a timestep in the middle
    of each of at most five time groups.

    Args:
        network: of the checkpoint that the file was packed from; used as it is, in evaluation mode.
        path: the packed file.
        seed: of the input.

    Yields:
        PyTorch on the packed file against ``network``, whose weights may have been rounded; then,
        where the engine is built and knows the method, it in float32 against PyTorch on the same
        file.

    Raises:
        NumericalError: after yielding it, if the engine's difference is above
            ``LARGEST_DIFFERENCE``.
        CheckpointError: as ``load_packed``.
    """
    packed, config = TorchBackend.load(path, "cpu")
    inputs = list(_inputs(config, seed))
    found = [packed.predict(*one) for one in inputs]
    original = TorchBackend(network)
    expected = [original.predict(*one) for one in inputs]
    yield Comparison("PyTorch, packed file against checkpoint", _difference(found, expected))
    if not engine_knows(config.network):
        return
    try:
        from bidiffsr.backends.engine import Engine
    except ImportError:  # an installation without the compiled part
        return
    engine = Engine(path, precision="exact")
    difference = _difference([engine.predict(*one) for one in inputs], found)
    yield Comparison("engine against PyTorch, packed file", difference)
    if not difference <= LARGEST_DIFFERENCE:
        raise NumericalError(
            f"{printable(path)}: the engine's output differs by {difference:.2g} from PyTorch's, "
            f"expected at most {LARGEST_DIFFERENCE}; do not use it, and report this"
        )


def _inputs(
    config: ModelConfig, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
    network = config.network
    side = -(-_SIZE // network.size_multiple) * network.size_multiple
    random = np.random.default_rng(seed)
    x_t = random.standard_normal((1, 3, side, side), dtype=np.float32)
    cond = random.random((1, 3, side, side), dtype=np.float32)
    groups = network.time_groups if isinstance(network, BiDiffSRConfig) else 1
    count = min(groups, _MOST_GROUPS)
    timesteps = config.diffusion.schedule.timesteps
    for index in range(count):
        group = index * groups // count
        yield x_t, cond, np.array([(2 * group + 1) * timesteps // (2 * groups)])


def _difference(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> float:
    """Relative L2; NaN where any output is none."""
    reference = np.stack(expected).astype(np.float64)
    distance = float(np.linalg.norm(np.stack(found) - reference))
    return distance and distance / max(float(np.linalg.norm(reference)), 1e-30)
