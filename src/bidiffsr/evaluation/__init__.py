"""Scores of pictures against originals (PSNR, SSIM), without (NIQE), and tables of them."""

from __future__ import annotations

from bidiffsr.evaluation.metrics import psnr, ssim
from bidiffsr.evaluation.niqe import niqe
from bidiffsr.evaluation.table import (
    Report,
    Score,
    SetMean,
    Upscaler,
    bicubic,
    evaluate,
    render,
    summarize,
)

__all__ = [
    "Report",
    "Score",
    "SetMean",
    "Upscaler",
    "bicubic",
    "evaluate",
    "niqe",
    "psnr",
    "render",
    "ssim",
    "summarize",
]
