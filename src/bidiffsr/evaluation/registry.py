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
    heading: str
    decimals: int
    score: Callable[[Uint8Array, Uint8Array, int], float | None]
    """Of the upscaled picture and the original, both uint8 (height, width, 3), and the scale; None
    where it cannot be had. ImageError of pictures that it is not made for."""
    optional: bool = False
    """Whether a picture that it is not made for goes without, rather than being refused."""
    lower_is_better: bool = False
    no_reference: bool = False
    """Whether it looks at the upscaled picture alone, so that originals have a score too."""

    def cell(self, value: float | None) -> str:
        """A score for a table."""
        return "-" if value is None else f"{value:.{self.decimals}f}"


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
        Metric("psnr", "PSNR (dB)", 2, lambda made, original, scale: psnr(made, original, scale)),
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
