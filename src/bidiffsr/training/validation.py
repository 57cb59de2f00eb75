"""Scores and sample grids while training, through the upscaling that users get."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.config import ModelConfig, ValidationConfig
from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation import METRICS, Method, bicubic, evaluate, summarize
from bidiffsr.evaluation.benchmark import Benchmark
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.inspection.layers import NetworkStatistics
from bidiffsr.inspection.statistics import Inspection
from bidiffsr.upscaling.upscaler import Upscaler

# Rows of the sample grid and side of its cells: a glance, not an archive.
_GRID_ROWS = 4
_GRID_SIDE = 192
_INSPECTED_SIDE = 128


class Validation:
    """Scores a network on the first pictures of some folders.

    Args:
        config: what is scored.
        model: describes the network.
        output: the run's folder; grids go into its ``samples``.
    """

    def __init__(self, config: ValidationConfig, model: ModelConfig, output: Path) -> None:
        self._config = config
        self._model = model
        self._output = output / "samples"
        self._benchmarks = [Benchmark.open(folder) for folder in config.folders]

    def due(self, iteration: int, last: int) -> bool:
        """Whether ``iteration`` is scored; the ``last`` one always is."""
        return bool(self._benchmarks) and (iteration % self._config.every == 0 or iteration == last)

    def run(self, network: nn.Module, iteration: int) -> dict[str, float]:
        """Score ``network``, leaving its mode as it is, and save a sample grid.

        Returns:
            Means by name, such as ``kodak24/psnr``; those that are defined.
        """
        training = network.training
        device = next(network.parameters()).device
        upscaler = Upscaler(TorchBackend(network, device), self._model)
        scale = self._model.scale

        def upscale(low: NDArray[np.uint8], _: int) -> NDArray[np.uint8]:
            return upscaler(low)

        results: dict[str, float] = {}
        for folder, benchmark in zip(self._config.folders, self._benchmarks, strict=True):
            scores = islice(evaluate(folder, upscale, scale), self._config.pictures)
            for mean in summarize(scores):
                for metric in METRICS:
                    value = mean[metric.name]
                    if value is not None:
                        results[f"{mean.set}/{metric.name}"] = value
            self._output.mkdir(parents=True, exist_ok=True)
            grid = _grid(benchmark, upscale, scale)
            name = f"{benchmark.name}-{iteration:07d}.png"
            write_image(self._output / name, Image(grid), overwrite=True)
        network.train(training)
        return results

    def inspect(self, network: nn.Module) -> NetworkStatistics | None:
        """What happens inside of ``network`` with the first picture, leaving its mode as it is.

        Returns:
            None where nothing is binarized, or the picture is too small.
        """
        training = network.training
        try:
            inspection = Inspection(network, self._model, _INSPECTED_SIDE)
            inspection.add(next(self._benchmarks[0].pairs(self._model.scale)))
        except (ConfigError, ImageError):
            return None
        finally:
            network.train(training)
        return inspection.result()


def _grid(benchmark: Benchmark, upscale: Method, scale: int) -> NDArray[np.uint8]:
    """Rows of bicubic, result and original: the central crops of the first pictures."""
    rows = []
    side = _GRID_SIDE // scale * scale
    for pair in islice(benchmark.pairs(scale), _GRID_ROWS):
        top, left = ((size - side // scale) // 2 for size in pair.low.shape[:2])
        low = pair.low[max(top, 0) :, max(left, 0) :][: side // scale, : side // scale]
        high = pair.high[max(top, 0) * scale :, max(left, 0) * scale :]
        cells = [bicubic(low, scale), upscale(low, scale), high[:side, :side]]
        rows.append(np.concatenate([_padded(cell, side) for cell in cells], axis=1))
    return np.concatenate(rows)


def _padded(cell: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = cell.shape[:2]
    return np.pad(cell, ((0, side - height), (0, side - width), (0, 0)))
