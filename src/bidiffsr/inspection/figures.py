"""Figures on their way to files and logs; takes matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import OutputError
from bidiffsr.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")


def check_figure_output(path: Path) -> None:
    """Find out before long work rather than after it.

    Raises:
        OutputError: the name's ending is none of a format that figures are written in.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401

    if path.suffix not in FORMATS:
        raise OutputError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the file's name ends in."""
    kind = path.suffix.lstrip(".")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=120))


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """What a figure looks like: uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
