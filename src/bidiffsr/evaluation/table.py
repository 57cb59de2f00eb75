"""Scoring upscalers on benchmark folders as the papers do, and the table of their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation._pixels import Uint8Array, check_rgb8
from bidiffsr.evaluation.benchmark import Benchmark, Pair
from bidiffsr.evaluation.metrics import psnr, ssim
from bidiffsr.evaluation.niqe import niqe
from bidiffsr.files import StrPath
from bidiffsr.resize import imresize

if TYPE_CHECKING:
    from rich.table import Table


class Upscaler(Protocol):
    """Whatever is scored: a function from a picture to one `scale` times its size."""

    def __call__(self, low: Uint8Array, scale: int, /) -> Uint8Array:
        """Upscale uint8 (height, width, 3) RGB to uint8 (scale height, scale width, 3) RGB."""
        ...


def bicubic(low: Uint8Array, scale: int, /) -> Uint8Array:
    """The tables' "Bicubic" row, an `Upscaler`: MATLAB's imresize of the 8-bit picture."""
    return imresize(low, scale)


@dataclass(frozen=True)
class Score:
    """How one picture came out."""

    set: str
    name: str
    psnr: float
    """dB, on the luma; infinite for a perfect picture."""
    ssim: float
    """-1 to 1, on the luma."""
    niqe: float | None
    """Lower is better; None where undefined, as for less than 96x96 pixels after the crop."""
    seconds: float
    """Wall-clock time of the upscaler alone."""
    megapixels: float
    """Size of the upscaled picture, in millions of pixels."""


@dataclass(frozen=True)
class SetMean:
    """Means over the pictures of one set."""

    set: str
    pictures: int
    psnr: float
    ssim: float
    niqe: float | None
    """Mean over the pictures that have one; None where none has."""
    niqe_pictures: int
    seconds: float
    """Sum over the pictures."""
    megapixels: float
    """Sum over the pictures."""

    @property
    def seconds_per_megapixel(self) -> float:
        """Time of the upscaler for a million pixels of its output."""
        return self.seconds / self.megapixels


def evaluate(
    directories: StrPath | Iterable[StrPath], upscaler: Upscaler, scale: int
) -> Iterator[Score]:
    """Upscale every picture of the benchmarks and score it, leaving out `scale` pixels of border.

    Args:
        directories: benchmark folders as in `bidiffsr.evaluation.benchmark`.
        upscaler: what to score; called in the thread that iterates.
        scale: a whole number from 2 up.

    Returns:
        An iterator that does the work, one picture at a time, in order of folder and file name.

    Raises:
        ConfigError: at once, if `scale` is not such a number or no folder is given.
        ImageError: at once, if a folder is missing or without pictures; while iterating, if a
            picture cannot be read, is not 8-bit or is too small, if an LR picture does not fit its
            HR picture, or if the upscaler returns something else than promised.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or scale < 2:
        raise ConfigError(f"scale is {scale!r}; expected a whole number from 2 up")
    if isinstance(directories, str | PathLike):
        directories = [directories]
    benchmarks = [Benchmark.open(directory) for directory in directories]
    if not benchmarks:
        raise ConfigError("no benchmark folder is given; expected one at least, such as Set5")
    return (
        _upscale_and_score(benchmark.name, pair, upscaler, int(scale))
        for benchmark in benchmarks
        for pair in benchmark.pairs(int(scale))
    )


def summarize(scores: Iterable[Score]) -> list[SetMean]:
    """Means per set, in order of first appearance; no scores give an empty list."""
    sets: dict[str, list[Score]] = {}
    for score in scores:
        sets.setdefault(score.set, []).append(score)
    return [_mean(name, members) for name, members in sets.items()]


def render(scores: Mapping[str, Iterable[Score]], scale: int) -> Report:
    """A table with a row for each method and set.

    Args:
        scores: of each method, by its name, in the order of the rows.
        scale: what they were upscaled by.
    """
    return Report(scale, {method: tuple(members) for method, members in scores.items()})


@dataclass(frozen=True)
class Report:
    """The scores of some methods, to be shown, pasted or processed further."""

    scale: int
    scores: Mapping[str, Sequence[Score]]
    """By name of the method."""

    def table(self) -> Table:
        """For the terminal: print it with rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"x{self.scale}")
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
        for row in self._rows():
            table.add_row(*map(Text, row))  # as Text: names may hold what rich takes for markup
        return table

    def markdown(self) -> str:
        """For a document: a GitHub-flavoured table, ending in a newline."""
        rule = ["---" if column in _TEXT_COLUMNS else "---:" for column in _COLUMNS]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self._rows()]
        return "".join(f"| {' | '.join(row)} |\n" for row in [_COLUMNS, rule, *rows])

    def as_dict(self) -> dict[str, Any]:
        """For a program: the means and the scores of every picture, unrounded.

        Strict JSON can hold it: an infinite PSNR is None.
        """
        methods = [
            {
                "method": method,
                "sets": [_jsonable(mean) for mean in summarize(members)],
                "pictures": [_jsonable(score) for score in members],
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
                    f"{mean.psnr:.2f}",
                    f"{mean.ssim:.4f}",
                    _niqe_cell(mean),
                    f"{mean.seconds_per_megapixel:.3g}",
                )


_TEXT_COLUMNS = ("Method", "Set")
_COLUMNS = (*_TEXT_COLUMNS, "Pictures", "PSNR (dB)", "SSIM", "NIQE", "s/megapixel")


def _upscale_and_score(set_name: str, pair: Pair, upscaler: Upscaler, scale: int) -> Score:
    start = time.perf_counter()
    upscaled = upscaler(pair.low, scale)
    seconds = time.perf_counter() - start
    try:
        _check_upscaled(upscaled, pair)
        decibels = psnr(upscaled, pair.high, crop=scale)
        similarity = ssim(upscaled, pair.high, crop=scale)
    except ImageError as error:
        raise ImageError(f"{pair.path}: {error}") from error
    try:
        naturalness = niqe(upscaled, crop=scale)
    except ImageError:  # its form has been checked, so NIQE is not defined for it
        naturalness = None
    height, width = upscaled.shape[:2]
    return Score(
        set=set_name,
        name=pair.path.stem,
        psnr=decibels,
        ssim=similarity,
        niqe=naturalness,
        seconds=seconds,
        megapixels=height * width / 1e6,
    )


def _check_upscaled(upscaled: Any, pair: Pair) -> None:
    check_rgb8(upscaled, "the upscaler's picture")
    if upscaled.shape != pair.high.shape:
        (height, width), (high_height, high_width) = upscaled.shape[:2], pair.high.shape[:2]
        raise ImageError(
            f"the upscaler's picture is {width}x{height}; expected {high_width}x{high_height}"
        )


def _mean(name: str, scores: Sequence[Score]) -> SetMean:
    natural = [score.niqe for score in scores if score.niqe is not None]
    return SetMean(
        set=name,
        pictures=len(scores),
        psnr=sum(score.psnr for score in scores) / len(scores),
        ssim=sum(score.ssim for score in scores) / len(scores),
        niqe=sum(natural) / len(natural) if natural else None,
        niqe_pictures=len(natural),
        seconds=sum(score.seconds for score in scores),
        megapixels=sum(score.megapixels for score in scores),
    )


def _niqe_cell(mean: SetMean) -> str:
    if mean.niqe is None:
        return "-"
    complete = mean.niqe_pictures == mean.pictures
    return f"{mean.niqe:.2f}" + ("" if complete else f" ({mean.niqe_pictures} of {mean.pictures})")


def _jsonable(record: Score | SetMean) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in asdict(record).items()}
