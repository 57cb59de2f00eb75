"""Comparisons, drawn; takes matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.inspection.comparison import Comparison, Result, mean_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTORTION = METRICS[0]

_SIDE = 1.7  # of a crop, inches
_ONE_LINE = 4  # crops that stand beside each other; more make two lines


def comparison_figure(comparisons: Sequence[Comparison], perception: Metric) -> Figure:
    """As in papers: whole originals, and of each the square to look at by every method.

    Below a crop stand the method and the scores of its whole picture.

    Args:
        comparisons: at least one, all with the same methods.
        perception: the metric beside `DISTORTION`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    count = 1 + len(comparisons[0].results)
    lines = 1 if count <= _ONE_LINE else 2
    columns = -(-count // lines)
    height = lines * (_SIDE + 0.45)
    whole = 1.5 * lines
    figure = Figure(
        figsize=((whole + columns) * _SIDE, height * len(comparisons)), layout="constrained"
    )
    parts = figure.subfigures(len(comparisons), 1, squeeze=False)[:, 0]
    for part, comparison in zip(parts, comparisons, strict=True):
        grid = part.add_gridspec(lines, columns + 1, width_ratios=[whole, *[1] * columns])
        _draw_whole(part.add_subplot(grid[:, 0]), comparison)
        shown = [("HR", comparison.original), *comparison.results.items()]
        for index, (name, result) in enumerate(shown):
            axis = part.add_subplot(grid[index // columns, index % columns + 1])
            _show(axis, comparison.place.cut(result.pixels))
            # The original's caption says what the others' numbers are.
            caption = _heading if result is comparison.original else _scores
            axis.set_xlabel(f"{name}\n{caption(result, perception)}", fontsize=8)
    return figure


def tradeoff_figure(comparisons: Sequence[Comparison], perception: Metric) -> Figure:
    """The perception-distortion plot: each method's means over the pictures; left and up is better.

    Methods without one of the scores are left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axis = figure.subplots()
    points: list[tuple[str, float, float]] = []
    for name in comparisons[0].results:
        results = [comparison.results[name] for comparison in comparisons]
        x, y = (mean_scores(results, metric) for metric in (perception, DISTORTION))
        if x is not None and y is not None:
            points.append((name, x, y))
            axis.plot(x, y, "o")
    originals = mean_scores([comparison.original for comparison in comparisons], perception)
    if originals is not None:
        label = f"{perception.label} of the originals"
        axis.axvline(originals, color="gray", linestyle=":", label=label)
        axis.legend()
    axis.margins(x=0.1, y=0.1)
    middle = sum(axis.get_xlim()) / 2
    for name, x, y in points:
        # Towards the middle, where there is room for a long name.
        side, offset = ("right", -5) if x > middle else ("left", 5)
        axis.annotate(name, (x, y), (offset, 4), textcoords="offset points", fontsize=9, ha=side)
    axis.grid(alpha=0.3)
    axis.set_xlabel(f"{perception.heading} (lower is better)")
    axis.set_ylabel(f"{DISTORTION.heading} (higher is better)")
    pictures = comparisons[0].name if len(comparisons) == 1 else f"{len(comparisons)} pictures"
    axis.set_title(pictures)
    return figure


def _draw_whole(axis: Any, comparison: Comparison) -> None:
    from matplotlib.patches import Rectangle

    place = comparison.place
    _show(axis, comparison.original.pixels)
    corner = place.left - 0.5, place.top - 0.5
    axis.add_patch(Rectangle(corner, place.side, place.side, fill=False, color="red", linewidth=2))
    axis.set_xlabel(comparison.name, fontsize=8)


def _show(axis: Any, pixels: Any) -> None:
    axis.imshow(np.ascontiguousarray(pixels), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _heading(_: Result, perception: Metric) -> str:
    return f"{DISTORTION.heading} / {perception.heading}"


def _scores(result: Result, perception: Metric) -> str:
    metrics = DISTORTION, perception
    return " / ".join(metric.cell(result.scores.get(metric.name)) for metric in metrics)
