"""The metrics that pictures are scored with. A new one gets its line here; all tables follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bidiffsr.evaluation.lpips import installed
from bidiffsr.evaluation.metrics import psnr, ssim
from bidiffsr.evaluation.niqe import niqe
from bidiffsr.evaluation.pixels import Uint8Array


@dataclass(frozen=True)
class Metric:
    """One column of every table."""

    name: str
    """In JSON and in training's log."""
    label: str
    decimals: int
    score: Callable[[Uint8Array, Uint8Array, int], float | None]
    """Of the upscaled picture and the original, both uint8 (height, width, 3), and the scale; None
    where it cannot be had. ImageError of pictures that it is not made for."""
    optional: bool = False
    """Whether a picture that it is not made for goes without, rather than being refused."""
    lower_is_better: bool = False
    no_reference: bool = False
    """Whether it looks at the upscaled picture alone, so that originals have a score too."""
    unit: str = ""

    @property
    def heading(self) -> str:
        """Of a column that stands alone: the label and the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def cell(self, value: float | None, deviation: float | None = None) -> str:
        """A score for a table, with its standard deviation if there is one."""
        if value is None:
            return "-"
        spread = "" if deviation is None else f" ± {deviation:.{self.decimals}f}"
        return f"{value:.{self.decimals}f}{spread}"


def _installed_lpips(upscaled: Uint8Array, original: Uint8Array) -> float | None:
    lpips = installed()
    return None if lpips is None else lpips(upscaled, original)


def metrics_with(
    lpips: Callable[[Uint8Array, Uint8Array], float | None],
) -> tuple[Metric, ...]:
    """All metrics, in the order of the columns, the most usual first.

    `lpips` is LPIPS of two pictures.

    As the papers do, PSNR, SSIM and NIQE leave out `scale` pixels of border, LPIPS does not.
    """
    return (
        Metric(
            "psnr",
            "PSNR",
            2,
            lambda made, original, scale: psnr(made, original, scale),
            unit="dB",
        ),
        Metric("ssim", "SSIM", 4, lambda made, original, scale: ssim(made, original, scale)),
        Metric(
            "niqe",
            "NIQE",
            2,
            lambda made, _, scale: niqe(made, scale),
            optional=True,
            lower_is_better=True,
            no_reference=True,
        ),
        Metric(
            "lpips",
            "LPIPS",
            4,
            lambda made, original, _: lpips(made, original),
            optional=True,
            lower_is_better=True,
        ),
    )


METRICS = metrics_with(_installed_lpips)
"""LPIPS with the weights that are installed; None of every picture where they are not."""
