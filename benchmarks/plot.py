"""The measured steps as a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bidiffsr.bench import Row

_COLOURS = {"bidiffsr": "tab:green", "OpenVINO": "tab:blue"}


def plot_steps(rows: Sequence[Row], path: Path) -> None:
    """One panel per size with the most threads, a bar for each system: median, from the fastest.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not rows:
        return
    threads = max(row.threads for row in rows)
    sizes = list(dict.fromkeys(row.size for row in rows))
    panels = {
        size: [row for row in rows if (row.size, row.threads) == (size, threads)] for size in sizes
    }
    height = 1.2 + 0.34 * max(map(len, panels.values()))
    figure, axes = pyplot.subplots(
        len(sizes), 1, figsize=(9, height * len(sizes)), squeeze=False, layout="constrained"
    )
    for axis, (size, shown) in zip(axes[:, 0], panels.items(), strict=True):
        names = [f"{row.model}: {row.system}" for row in shown]
        medians = [row.median_ms for row in shown]
        colours = [_COLOURS.get(row.system.split()[0], "tab:gray") for row in shown]
        spread = [row.median_ms - row.fastest_ms for row in shown]
        bars = axis.barh(names, medians, color=colours, xerr=[spread, [0] * len(shown)])
        axis.bar_label(bars, [f" {median:.0f}" for median in medians])
        axis.margins(x=0.12)
        axis.invert_yaxis()
        axis.set_xlabel("ms")
        axis.set_title(f"one step at 3×{size}×{size}, {threads} threads (median; line to fastest)")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
