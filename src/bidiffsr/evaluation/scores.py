"""Scoring upscalers on benchmark folders as the papers do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol, TypeVar

import numpy as np

from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation.benchmark import Benchmark, Pair
from bidiffsr.evaluation.pixels import Uint8Array, check_rgb8
from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.images.resize import imresize
from bidiffsr.system.files import StrPath

_Key = TypeVar("_Key")


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
    seed: int | None = None
    """Of the method's noise; None where it draws none."""

    def __getitem__(self, metric: str) -> float | None:
        return self.scores[metric]


@dataclass(frozen=True)
class SetMean:
    """Means over the pictures of one set, and over the seeds where there are several."""

    set: str
    pictures: int
    seeds: tuple[int | None, ...]
    """In the order of their appearance."""
    means: Mapping[str, float | None]
    """By name of the metric, over the pictures that have a score; None where none has."""
    deviations: Mapping[str, float | None]
    """By name of the metric, the sample standard deviation (n - 1) over seeds of the set's mean;
    None for less than two seeds with a finite mean."""
    scored: Mapping[str, int]
    """By name of the metric, how many pictures have a score; with the seed that has the fewest."""
    seconds: float
    """Sum over pictures and seeds."""
    megapixels: float
    """Sum over pictures and seeds."""

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


def score_picture(
    upscaled: Uint8Array, pair: Pair, scale: int, metrics: Sequence[Metric] = METRICS
) -> dict[str, float | None]:
    """Score one upscaled picture, by name of the metric; None where there is no score.

    Args:
        upscaled: uint8, of the shape of `pair.high`.
        pair: what it was made from, and what it is compared with.
        scale: the factor between these.
        metrics: what to score with.

    Raises:
        ImageError: the upscaled picture is of another form, or too small for a metric.
    """
    try:
        _check_upscaled(upscaled, pair)
        return {metric.name: _scored(metric, upscaled, pair.high, scale) for metric in metrics}
    except ImageError as error:
        raise ImageError(f"{pair.path}: {error}") from error


def summarize(scores: Iterable[Score]) -> list[SetMean]:
    """Means per set, in order of first appearance; no scores give an empty list."""
    return [_over_seeds(by_seed(members)) for members in by_set(scores).values()]


def by_set(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """The scores of each set, in order of first appearance."""
    return _grouped(scores, lambda score: score.set)


def by_seed(scores: Iterable[Score]) -> list[SetMean]:
    """Means of one set with each seed by itself, in order of first appearance."""
    return [_mean(members) for members in _grouped(scores, lambda score: score.seed).values()]


def _grouped(scores: Iterable[Score], key: Callable[[Score], _Key]) -> dict[_Key, list[Score]]:
    groups: dict[_Key, list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups


def _upscale_and_score(
    set_name: str, pair: Pair, method: Method, scale: int, metrics: Sequence[Metric]
) -> Score:
    start = time.perf_counter()
    upscaled = method(pair.low, scale)
    seconds = time.perf_counter() - start
    scores = score_picture(upscaled, pair, scale, metrics)
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


def _mean(scores: Sequence[Score]) -> SetMean:
    """Over the pictures of one set with one seed."""
    values = _known(scores[0].scores, scores)
    return SetMean(
        set=scores[0].set,
        pictures=len(scores),
        seeds=(scores[0].seed,),
        means=_averages(values),
        deviations=dict.fromkeys(values),
        scored={metric: len(found) for metric, found in values.items()},
        seconds=sum(score.seconds for score in scores),
        megapixels=sum(score.megapixels for score in scores),
    )


def _over_seeds(means: Sequence[SetMean]) -> SetMean:
    """Of one set, its means with each seed put together."""
    first = means[0]
    if len(means) == 1:
        return first
    values = _known(first.means, means)
    return SetMean(
        set=first.set,
        pictures=first.pictures,
        seeds=tuple(seed for mean in means for seed in mean.seeds),
        means=_averages(values),
        deviations={metric: _deviation(found) for metric, found in values.items()},
        scored={metric: min(mean.scored[metric] for mean in means) for metric in values},
        seconds=sum(mean.seconds for mean in means),
        megapixels=sum(mean.megapixels for mean in means),
    )


def _known(metrics: Iterable[str], scored: Sequence[Score | SetMean]) -> dict[str, list[float]]:
    """The scores that there are, by metric."""
    return {
        metric: [value for each in scored if (value := each[metric]) is not None]
        for metric in metrics
    }


def _averages(values: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    return {metric: sum(found) / len(found) if found else None for metric, found in values.items()}


def _deviation(values: Sequence[float]) -> float | None:
    enough = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) if enough else None
