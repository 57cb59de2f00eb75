"""Scoring upscalers on benchmark folders as the papers do, and the table of their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import numpy as np

from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation.benchmark import Benchmark, Pair
from bidiffsr.evaluation.pixels import Uint8Array, check_rgb8
from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.images.resize import imresize
from bidiffsr.system.files import StrPath
from bidiffsr.tables import TextTable


class Method(Protocol):
    """Whatever is scored: a function from a picture to one `scale` times its size."""

    def __call__(self, low: Uint8Array, scale: int, /) -> Uint8Array:
        """Upscale uint8 (height, width, 3) RGB to uint8 (scale height, scale width, 3) RGB."""
        ...


def bicubic(low: Uint8Array, scale: int, /) -> Uint8Array:
    """The tables' "Bicubic" row, a `Method`: MATLAB's imresize of the 8-bit picture."""
    return imresize(low, scale)


@dataclass(frozen=True)
class Score:
    """How one picture came out."""

    set: str
    name: str
    scores: Mapping[str, float | None]
    """By name of the metric; an infinite PSNR for a perfect picture, None where there is none, as
    NIQE for less than 96x96 pixels after the crop."""
    seconds: float
    """Wall-clock time of the upscaler alone."""
    megapixels: float
    """Size of the upscaled picture, in millions of pixels."""

    def __getitem__(self, metric: str) -> float | None:
        return self.scores[metric]


@dataclass(frozen=True)
class SetMean:
    """Means over the pictures of one set."""

    set: str
    pictures: int
    means: Mapping[str, float | None]
    """By name of the metric, over the pictures that have a score; None where none has."""
    scored: Mapping[str, int]
    """By name of the metric, how many pictures have a score."""
    seconds: float
    """Sum over the pictures."""
    megapixels: float
    """Sum over the pictures."""

    def __getitem__(self, metric: str) -> float | None:
        return self.means[metric]

    @property
    def seconds_per_megapixel(self) -> float:
        """Time of the upscaler for a million pixels of its output."""
        return self.seconds / self.megapixels


def evaluate(
    directories: StrPath | Iterable[StrPath],
    method: Method,
    scale: int,
    metrics: Sequence[Metric] = METRICS,
) -> Iterator[Score]:
    """Upscale every picture of the benchmarks and score it.

    Args:
        directories: benchmark folders as in `bidiffsr.evaluation.benchmark`.
        method: what to score; called in the thread that iterates.
        scale: a whole number from 2 up.
        metrics: what to score with: those of `bidiffsr.evaluation.registry`.

    Returns:
        An iterator that does the work, one picture at a time, in order of folder and file name.

    Raises:
        ConfigError: at once, if `scale` is not such a number or no folder is given.
        ImageError: at once, if a folder is missing or without pictures; while iterating, if a
            picture cannot be read, is not 8-bit or is too small, if an LR picture does not fit its
            HR picture, or if the upscaler returns something else than promised.
        CheckpointError: while iterating, if the installed weights of LPIPS are damaged.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or scale < 2:
        raise ConfigError(f"scale is {scale!r}; expected a whole number from 2 up")
    if isinstance(directories, str | PathLike):
        directories = [directories]
    benchmarks = [Benchmark.open(directory) for directory in directories]
    if not benchmarks:
        raise ConfigError("no benchmark folder is given; expected one at least, such as Set5")
    return (
        _upscale_and_score(benchmark.name, pair, method, int(scale), metrics)
        for benchmark in benchmarks
        for pair in benchmark.pairs(int(scale))
    )


def summarize(scores: Iterable[Score]) -> list[SetMean]:
    """Means per set, in order of first appearance; no scores give an empty list."""
    sets: dict[str, list[Score]] = {}
    for score in scores:
        sets.setdefault(score.set, []).append(score)
    return [_mean(name, members) for name, members in sets.items()]


def render(scores: Mapping[str, Iterable[Score]], scale: int) -> ScoreReport:
    """A table with a row for each method and set.

    Args:
        scores: of each method, by its name, in the order of the rows.
        scale: what they were upscaled by.
    """
    return ScoreReport(scale, {method: tuple(members) for method, members in scores.items()})


@dataclass(frozen=True)
class ScoreReport:
    """The scores of some methods, to be shown, pasted or processed further."""

    scale: int
    scores: Mapping[str, Sequence[Score]]
    """By name of the method."""

    def table(self) -> TextTable:
        """A row for each method and set."""
        heads = [metric.heading for metric in METRICS]
        return TextTable(
            [*_TEXT_COLUMNS, "Pictures", *heads, "s/megapixel"],
            list(self._rows()),
            text=_TEXT_COLUMNS,
            title=f"x{self.scale}",
        )

    def as_dict(self) -> dict[str, Any]:
        """For a program: the means and the scores of every picture, unrounded.

        Strict JSON can hold it: an infinite PSNR is None.
        """
        methods = [
            {
                "method": method,
                "sets": [_mean_as_dict(mean) for mean in summarize(members)],
                "pictures": [_score_as_dict(score) for score in members],
            }
            for method, members in self.scores.items()
        ]
        return {"scale": self.scale, "methods": methods}

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for method, members in self.scores.items():
            for mean in summarize(members):
                yield (
                    method,
                    mean.set,
                    str(mean.pictures),
                    *(_cell(metric, mean) for metric in METRICS),
                    f"{mean.seconds_per_megapixel:.3g}",
                )


_TEXT_COLUMNS = ("Method", "Set")


def _upscale_and_score(
    set_name: str, pair: Pair, method: Method, scale: int, metrics: Sequence[Metric]
) -> Score:
    start = time.perf_counter()
    upscaled = method(pair.low, scale)
    seconds = time.perf_counter() - start
    try:
        _check_upscaled(upscaled, pair)
        scores = {metric.name: _scored(metric, upscaled, pair.high, scale) for metric in metrics}
    except ImageError as error:
        raise ImageError(f"{pair.path}: {error}") from error
    height, width = upscaled.shape[:2]
    return Score(
        set=set_name,
        name=pair.path.stem,
        scores=scores,
        seconds=seconds,
        megapixels=height * width / 1e6,
    )


def _scored(metric: Metric, upscaled: Uint8Array, high: Uint8Array, scale: int) -> float | None:
    try:
        return metric.score(upscaled, high, scale)
    except ImageError:
        if metric.optional:  # its form has been checked, so the metric is not defined for it
            return None
        raise


def _check_upscaled(upscaled: Any, pair: Pair) -> None:
    check_rgb8(upscaled, "the upscaler's picture")
    if upscaled.shape != pair.high.shape:
        (height, width), (high_height, high_width) = upscaled.shape[:2], pair.high.shape[:2]
        raise ImageError(
            f"the upscaler's picture is {width}x{height}; expected {high_width}x{high_height}"
        )


def _mean(name: str, scores: Sequence[Score]) -> SetMean:
    values = {
        metric: [value for score in scores if (value := score[metric]) is not None]
        for metric in scores[0].scores
    }
    return SetMean(
        set=name,
        pictures=len(scores),
        means={
            metric: sum(found) / len(found) if found else None for metric, found in values.items()
        },
        scored={metric: len(found) for metric, found in values.items()},
        seconds=sum(score.seconds for score in scores),
        megapixels=sum(score.megapixels for score in scores),
    )


def _cell(metric: Metric, mean: SetMean) -> str:
    value, scored = mean.means.get(metric.name), mean.scored.get(metric.name, 0)
    partial = 0 < scored < mean.pictures
    return metric.cell(value) + (f" ({scored} of {mean.pictures})" if partial else "")


def _score_as_dict(score: Score) -> dict[str, Any]:
    scores = {metric: _finite(value) for metric, value in score.scores.items()}
    size = {"seconds": score.seconds, "megapixels": score.megapixels}
    return {"set": score.set, "name": score.name} | scores | size


def _mean_as_dict(mean: SetMean) -> dict[str, Any]:
    record: dict[str, Any] = {"set": mean.set, "pictures": mean.pictures}
    for metric in METRICS:
        record[metric.name] = _finite(mean.means.get(metric.name))
        if metric.optional:
            record[f"{metric.name}_pictures"] = mean.scored.get(metric.name, 0)
    return record | {"seconds": mean.seconds, "megapixels": mean.megapixels}


def _finite(value: float | None) -> float | None:
    return None if value == math.inf else value
