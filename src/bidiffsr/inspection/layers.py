"""Statistics of a network's binarized convolutions, as data and as tables; no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from bidiffsr.tables import TextTable

BINS = 400


@dataclass(frozen=True)
class Spread:
    """Of numbers, one for each channel."""

    mean: float
    deviation: float
    least: float
    greatest: float


@dataclass(frozen=True)
class ActivationStatistics:
    """What reaches an activation's binarizer: over pictures, positions and channels."""

    mean: float
    deviation: float
    positive: float
    """The share that becomes more than 0: +1, or for DoReFa-Net a level above 0."""
    dead: float
    """The share of channels that become the same everywhere: their signs say nothing."""
    histogram: tuple[int, ...]
    """Counts in `BINS` bins of equal width from -``reach`` to ``reach``."""
    reach: float
    """4 times a power of 2, as far as there are values."""


@dataclass(frozen=True)
class GroupStatistics:
    """Of a layer at the timesteps of one group."""

    shifts: Spread | None
    """TaR's or RSign's; None where the method has none."""
    slopes: Spread | None
    """RPReLU's; None where the method has none."""
    activations: ActivationStatistics | None
    """None where nothing was looked at."""


@dataclass(frozen=True)
class LayerStatistics:
    """Of one binarized convolution."""

    name: str
    positive: float
    """The share of weights whose sign is +1."""
    scales: Spread
    """The magnitudes of binarized weights, one for each output channel."""
    groups: tuple[GroupStatistics, ...]


@dataclass(frozen=True)
class NetworkStatistics:
    """Of all binarized convolutions, in the order of the network."""

    pictures: int
    timesteps: tuple[int | None, ...]
    """What each time group was looked at with."""
    layers: tuple[LayerStatistics, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def group_means(self) -> list[dict[str, float]]:
        """Of each time group: the means over layers of what is known of activations, by name."""
        found = []
        for index in range(len(self.timesteps)):
            groups = (layer.groups[index].activations for layer in self.layers)
            seen = [each for each in groups if each is not None]
            found.append(
                {name: fmean(getattr(each, name) for each in seen) for name in _OF_ACTIVATIONS}
                if seen
                else {}
            )
        return found

    def tables(self) -> tuple[TextTable, TextTable]:
        """Of time groups, over all layers; of layers, over all time groups."""
        return self._group_table(), self._layer_table()

    def _group_table(self) -> TextTable:
        rows = []
        for index, timestep in enumerate(self.timesteps):
            groups = [layer.groups[index] for layer in self.layers]
            middle = "-" if timestep is None else str(timestep)
            rows.append([str(index), middle, *_learned_and_seen(groups)])
        columns = ("Group", "Timestep", *_MEANS)
        return TextTable(columns, rows, text=(), title="time groups: means over layers")

    def _layer_table(self) -> TextTable:
        rows = [
            [
                layer.name,
                f"{layer.positive:.3f}",
                f"{layer.scales.mean:.3g}",
                *_learned_and_seen(layer.groups),
            ]
            for layer in self.layers
        ]
        columns = ("Layer", "w = +1", "scale", *_MEANS)
        return TextTable(columns, rows, text=("Layer",), title="layers: means over time groups")


_OF_ACTIVATIONS = ("mean", "deviation", "positive", "dead")
_MEANS = ("shift", "± channels", "slope", "± channels ", "a: mean", "a: dev.", "a > 0", "dead")


def _learned_and_seen(groups: Iterable[GroupStatistics]) -> list[str]:
    groups = list(groups)
    cells = []
    for learned in (
        [group.shifts for group in groups if group.shifts is not None],
        [group.slopes for group in groups if group.slopes is not None],
    ):
        cells += [_mean(each.mean for each in learned), _mean(each.deviation for each in learned)]
    seen = [group.activations for group in groups if group.activations is not None]
    return cells + [_mean(getattr(each, name) for each in seen) for name in _OF_ACTIVATIONS]


def _mean(values: Iterable[float]) -> str:
    values = list(values)
    return f"{fmean(values):.3f}" if values else "-"
