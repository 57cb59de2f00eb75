"""Statistics of a network, drawn; takes matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bidiffsr.inspection.layers import (
    BINS,
    GroupStatistics,
    NetworkStatistics,
    Spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_TAIL = 0.002  # of a distribution, at each end, that is not drawn
Panel = Callable[[Any], None]


def statistics_figure(statistics: NetworkStatistics) -> Figure:
    """Each layer at each time group, and the distributions in three layers.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    panels = [
        *_activation_panels(statistics),
        *_learned_panels(statistics),
        _scale_panel(statistics),
        *_distribution_panels(statistics),
    ]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for panel, axis in zip(panels, axes, strict=False):
        panel(axis)
    for axis in list(axes)[len(panels) :]:
        axis.set_axis_off()
    return figure


def _colours(count: int) -> list[Any]:
    """One a time group, from little noise to much."""
    from matplotlib import colormaps

    return [colormaps["viridis"](index / max(count - 1, 1) * 0.9) for index in range(count)]


def _label(statistics: NetworkStatistics, group: int) -> str:
    return f"group {group}, t = {statistics.timesteps[group]}"


def _lines(
    statistics: NetworkStatistics,
    title: str,
    value: Callable[[GroupStatistics], float | Spread | None],
) -> Panel:
    """A line for each time group over the layers; channels that differ make it a band."""

    def draw(axis: Any) -> None:
        colours = _colours(len(statistics.timesteps))
        for group, colour in enumerate(colours):
            found = [
                (number, each)
                for number, layer in enumerate(statistics.layers)
                if (each := value(layer.groups[group])) is not None
            ]
            numbers = [number for number, _ in found]
            means = [each.mean if isinstance(each, Spread) else each for _, each in found]
            axis.plot(numbers, means, ".-", color=colour, label=_label(statistics, group))
            spreads = [each for _, each in found if isinstance(each, Spread)]
            if spreads:
                axis.fill_between(
                    numbers,
                    [each.mean - each.deviation for each in spreads],
                    [each.mean + each.deviation for each in spreads],
                    color=colour,
                    alpha=0.12,
                    linewidth=0,
                )
        axis.set_title(title)
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)

    return draw


def _activation_panels(statistics: NetworkStatistics) -> list[Panel]:
    titles = {
        "mean": "activations before their signs: mean",
        "deviation": "activations before their signs: deviation",
        "dead": "share of channels of one sign everywhere",
    }
    if not statistics.pictures:
        return []
    return [
        _lines(
            statistics,
            title,
            lambda group, name=name: getattr(group.activations, name, None),
        )
        for name, title in titles.items()
    ]


def _learned_panels(statistics: NetworkStatistics) -> list[Panel]:
    groups = [group for layer in statistics.layers for group in layer.groups]
    panels = []
    if any(group.shifts for group in groups):
        title = "learned shifts: mean ± deviation over channels"
        panels.append(_lines(statistics, title, lambda group: group.shifts))
    if any(group.slopes for group in groups):
        title = "learned slopes of RPReLU: mean ± deviation over channels"
        panels.append(_lines(statistics, title, lambda group: group.slopes))
    return panels


def _scale_panel(statistics: NetworkStatistics) -> Panel:
    scales = [layer.scales for layer in statistics.layers]

    def draw(axis: Any) -> None:
        numbers = range(len(scales))
        axis.plot(numbers, [each.mean for each in scales], "k.-", label="mean")
        least, greatest = ([getattr(each, end) for each in scales] for end in ("least", "greatest"))
        axis.fill_between(numbers, least, greatest, color="k", alpha=0.15, linewidth=0)
        axis.set_title("scales of binarized weights: mean, least to greatest")
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)

    return draw


def _distribution_panels(statistics: NetworkStatistics) -> list[Panel]:
    """The first, the middle and the last layer."""
    if not statistics.pictures:
        return []
    last = len(statistics.layers) - 1
    return [_distribution(statistics, number) for number in sorted({0, last // 2, last})]


def _distribution(statistics: NetworkStatistics, number: int) -> Panel:
    layer = statistics.layers[number]

    def draw(axis: Any) -> None:
        ends: list[float] = []
        for group, colour in enumerate(_colours(len(statistics.timesteps))):
            seen = layer.groups[group].activations
            if seen is not None:
                width = 2 * seen.reach / BINS
                centres = (np.arange(BINS) + 0.5) * width - seen.reach
                shares = np.array(seen.histogram) / max(sum(seen.histogram), 1)
                axis.plot(centres, shares / width, color=colour, label=_label(statistics, group))
                below = np.cumsum(shares)
                ends += [
                    float(centres[np.searchsorted(below, share)]) for share in (_TAIL, 1 - _TAIL)
                ]
        axis.axvline(0, color="gray", linestyle=":")
        axis.set_title(f"layer {number}, {layer.name}: before the signs")
        axis.set_xlim(min(ends), max(ends))
        axis.set_ylim(bottom=0)
        axis.set_yticks([])
        axis.legend(fontsize=7)

    return draw
