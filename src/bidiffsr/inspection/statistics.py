"""What happens inside a binarized network: its weights, what it learned, and its activations.

A time group is looked at with pictures that are noised as in training, at the timestep in the
group's middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import lcm, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bidiffsr.binary import ConvBlock
from bidiffsr.config import ModelConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation.benchmark import Pair
from bidiffsr.images.image import to_float
from bidiffsr.inspection.layers import (
    BINS,
    ActivationStatistics,
    GroupStatistics,
    LayerStatistics,
    NetworkStatistics,
    Spread,
)
from bidiffsr.nn import BiDiffSRUNet
from bidiffsr.upscaling.sampling import upscaled_condition


class Inspection:
    """Gathers the statistics of a network, picture by picture.

    Args:
        network: as ``load_model`` gives it, on any device; is left in evaluation mode.
        config: of the same file.
        side: of what is looked at, pixels of the output; the picture's where that is smaller.

    Raises:
        ConfigError: the network has no binarized convolutions, or the side is too small for it.
    """

    def __init__(self, network: nn.Module, config: ModelConfig, side: int) -> None:
        blocks = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, ConvBlock) and module.conv.is_binary
        }
        if not isinstance(network, BiDiffSRUNet) or not blocks:
            raise ConfigError("the network has no binarized convolutions; inspect one that has")
        self._unit = lcm(config.scale, network.config.size_multiple)
        if side < self._unit:
            raise ConfigError(
                f"size: {side} is too small for the network; choose {self._unit} or more"
            )
        self._network, self._config, self._blocks = network.eval(), config, blocks
        self._device = next(network.parameters()).device
        self._side = side
        self._diffusion = Diffusion(config.diffusion)
        self._timesteps = _middle_timesteps(network)
        self._seen = {name: [_Seen() for _ in self._timesteps] for name in blocks}
        self._pictures = 0

    def add(self, pair: Pair) -> None:
        """Run the network on the centre of a picture, once for each time group.

        Raises:
            ImageError: the picture is smaller than the network takes.
        """
        picture, cond = self._centre(pair)
        noise = normal_noise(0, self._pictures, *picture.shape)
        clean = self._diffusion.to_variable(picture, cond)
        for group, timestep in enumerate(self._timesteps):
            if timestep is None:
                continue
            signal, level = map(np.float32, self._diffusion.schedule.levels(timestep))
            noisy = self._diffusion.network_input(signal * clean + level * noise, signal)
            arrays = (noisy, cond)
            inputs = (torch.from_numpy(array)[None].to(self._device) for array in arrays)
            with self._watched(group), torch.inference_mode():
                self._network(*inputs, torch.tensor([timestep], device=self._device))
        self._pictures += 1

    def result(self) -> NetworkStatistics:
        """What has been gathered; without pictures, nothing of activations."""
        return NetworkStatistics(
            pictures=self._pictures,
            timesteps=self._timesteps,
            layers=tuple(self._layer(name, block) for name, block in self._blocks.items()),
        )

    def _centre(self, pair: Pair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scale, multiple = self._config.scale, self._network.config.size_multiple
        unit = self._unit
        sides = [min(self._side, length) // unit * unit for length in pair.high.shape[:2]]
        if not all(sides):
            height, width = pair.high.shape[:2]
            raise ImageError(
                f"{pair.path}: {width}x{height} is too small; expected {unit} pixels a side or more"
            )
        height, width = (length // scale for length in sides)
        top, left = ((a - b) // 2 for a, b in zip(pair.low.shape, (height, width), strict=False))
        low = pair.low[top:, left:][:height, :width]
        high = pair.high[top * scale :, left * scale :][: sides[0], : sides[1]]
        cond = upscaled_condition(to_float(low).transpose(2, 0, 1), scale, multiple)
        return to_float(high).transpose(2, 0, 1).copy(), np.asarray(cond)

    @contextmanager
    def _watched(self, group: int) -> Iterator[None]:
        """What reaches the activations' binarizers counts for this group."""
        with ExitStack() as hooks:
            for name, block in self._blocks.items():
                see: Any = partial(self._seen[name][group].add)
                hooks.callback(block.conv.register_forward_pre_hook(see).remove)
            yield

    def _layer(self, name: str, block: ConvBlock) -> LayerStatistics:
        assert block.conv.binarize_weight is not None
        weight = block.conv.binarize_weight(block.conv.weight).detach()
        return LayerStatistics(
            name=name,
            positive=float((weight >= 0).double().mean()),
            scales=_spread(weight.abs().amax(dim=(1, 2, 3))),
            groups=tuple(
                GroupStatistics(
                    shifts=None if block.shift is None else _learned(block.shift.bias, group),
                    slopes=None
                    if block.activation is None
                    else _learned(block.activation.slope, group),
                    activations=seen.result(),
                )
                for group, seen in enumerate(self._seen[name])
            ),
        )


_REACH = 4.0


@dataclass
class _Seen:
    """Sums over what reached one binarizer."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    positive: float = 0.0
    reach: float = _REACH
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    least: Tensor | None = None
    greatest: Tensor | None = None
    """Of each channel, binarized."""

    def add(self, module: Any, inputs: tuple[Tensor]) -> None:
        """A forward pre-hook of a binarized convolution."""
        (x,) = inputs
        active = module.binarize_activation(x)
        values = x.double()
        self.count += x.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())
        self.positive += float((active > 0).sum())
        finite = values[values.isfinite()]
        while len(finite) and float(finite.abs().amax()) > self.reach:
            self._widen()
        self.histogram += torch.histc(finite, BINS, -self.reach, self.reach).cpu()
        least, greatest = active.amin(dim=(0, 2, 3)), active.amax(dim=(0, 2, 3))
        self.least = least if self.least is None else torch.minimum(self.least, least)
        self.greatest = (
            greatest if self.greatest is None else torch.maximum(self.greatest, greatest)
        )

    def _widen(self) -> None:
        """Twice as far, every two bins becoming one."""
        pairs = self.histogram.view(-1, 2).sum(1)
        self.histogram = nn.functional.pad(pairs, (BINS // 4, BINS // 4))
        self.reach *= 2

    def result(self) -> ActivationStatistics | None:
        if self.least is None or self.greatest is None:
            return None
        mean = self.total / self.count
        return ActivationStatistics(
            mean=mean,
            deviation=sqrt(max(self.squares / self.count - mean**2, 0.0)),
            positive=self.positive / self.count,
            dead=float((self.least == self.greatest).double().mean()),
            histogram=tuple(int(each) for each in self.histogram),
            reach=self.reach,
        )


def _middle_timesteps(network: BiDiffSRUNet) -> tuple[int | None, ...]:
    """The timestep in the middle of each group; None of a group that has none."""
    groups = network.group_of(torch.arange(network.config.timesteps))
    members = (torch.nonzero(groups == k).flatten() for k in range(network.config.time_groups))
    return tuple(int(each[len(each) // 2]) if len(each) else None for each in members)


def _learned(sets: Tensor, group: int) -> Spread:
    """Over channels, of a group's set; a single set serves every group."""
    return _spread(sets.detach()[min(group, len(sets) - 1)])


def _spread(values: Tensor) -> Spread:
    values = values.double()
    return Spread(
        mean=float(values.mean()),
        deviation=float(values.std(correction=0)),
        least=float(values.min()),
        greatest=float(values.max()),
    )
