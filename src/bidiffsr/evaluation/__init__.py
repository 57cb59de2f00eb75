"""Scores of pictures against originals (PSNR, SSIM, LPIPS), without (NIQE), and their tables."""

from __future__ import annotations

from bidiffsr.evaluation.lpips import Lpips
from bidiffsr.evaluation.metrics import psnr, ssim
from bidiffsr.evaluation.niqe import niqe
from bidiffsr.evaluation.registry import METRICS, Metric, metrics_with
from bidiffsr.evaluation.report import ScoreReport, render
from bidiffsr.evaluation.scores import Method, Score, SetMean, bicubic, evaluate, summarize

__all__ = [
    "METRICS",
    "Lpips",
    "Method",
    "Metric",
    "Score",
    "ScoreReport",
    "SetMean",
    "bicubic",
    "evaluate",
    "metrics_with",
    "niqe",
    "psnr",
    "render",
    "ssim",
    "summarize",
]
