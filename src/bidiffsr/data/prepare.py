"""Folders of high-resolution pictures into pairs of sub-images, in the official layout.

``OUT/HR/{name}_s001.png`` and ``OUT/LR_bicubic/X4/{name}_s001x4.png``: small files, of which a crop
is decoded much faster than of the whole pictures. What is done is noted (`bidiffsr.data.notes`), so
that work that was interrupted goes on, and work that is done is not done again. Several scales may
be made in one folder, where they share the high-resolution files.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bidiffsr.data.notes import Note, Notes, Place, is_gone
from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, OutputError
from bidiffsr.evaluation.benchmark import Benchmark, Pair, read_pair
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.files import printable, real_path, reason


@dataclass(frozen=True)
class SubImages:
    """How pictures are cut.

    Args:
        scale: the factor between the two resolutions, 2 or more.
        side: of the square sub-images, in high-resolution pixels, a multiple of ``scale``; None for
            whole pictures.
        step: between two of them, a multiple of ``scale``; the last ones end with the picture and
            may overlap more.

    Raises:
        ConfigError: a number is out of range or no multiple.
    """

    scale: int
    side: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise ConfigError(f"scale: got {self.scale}, expected 2 or more")
        for name, value in (("side", self.side), ("step", self.step)):
            if value is not None and (value < self.scale or value % self.scale):
                raise ConfigError(
                    f"{name}: got {value}, expected a multiple of the scale, {self.scale}"
                )
        if self.step is not None and self.side is None:
            raise ConfigError("step: has no meaning for whole pictures; give a side too")

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each, in rows; none where the picture is smaller than one.

        Args:
            height, width: of the high-resolution picture, multiples of ``scale``.
        """
        if self.side is None:
            return [(0, 0)]
        return list(product(self._starts(height), self._starts(width)))

    def _starts(self, length: int) -> list[int]:
        assert self.side is not None
        last = length - self.side
        if last < 0:
            return []
        starts = range(0, last, self.step or self.side)
        return [*starts, last]


@dataclass(frozen=True)
class Prepared:
    """What became of a picture."""

    source: Path
    pairs: int = 0
    """How many pairs there are of it."""
    was_there: bool = False
    """Whether an earlier run had done it."""
    is_gone: bool = False
    """Whether it is no longer there, but the pairs of an earlier run were."""
    error: BidiffsrError | None = None


def find_sources(folders: Sequence[Path]) -> list[Path]:
    """The pictures of folders that may be in the official layout (`Benchmark`).

    Raises:
        ImageError: a folder is missing or has no pictures.
    """
    found = [path for folder in folders for path in Benchmark.open(folder).pictures]
    return list(dict.fromkeys(found))


def prepare(
    sources: Sequence[Path], output: Path, cut: SubImages, *, prune: bool = False, jobs: int = 0
) -> Iterator[Prepared]:
    """Cut pictures, several at once, yielding each when it is done; changes no source.

    What earlier runs made of a picture that has changed since is removed first. At the end come the
    pictures that earlier runs cut and that are gone.

    Args:
        sources: high-resolution pictures; low-resolution ones that lie where the official layout
            has them are taken, others made.
        output: a folder, made where it is missing. Where it holds pairs of another scale, sides
            are cropped to a multiple of both, and the high-resolution files are shared.
        cut: how.
        prune: remove the pairs of pictures that are gone.
        jobs: processes; 0 for one on each CPU that this process may use. With one, this one works.

    Raises:
        ConfigError: ``output`` holds pairs that were cut in another way, or one of the sources.
        OutputError: ``output`` cannot be written to.
    """
    place = real_path(output)
    if any(real_path(path).is_relative_to(place) for path in sources):
        raise ConfigError(f"{printable(output)}: holds pictures to prepare; choose another folder")
    notes = Notes(output, cut.scale, cut.side, cut.step)
    names: dict[str, Path] = {}
    waiting = []
    for path in sources:
        other = names.setdefault(path.stem, path)
        if other != path:
            yield Prepared(path, error=_twin(path, other))
        elif note := notes.whole(path):
            yield Prepared(path, note.pairs, was_there=True)
        else:
            if not is_gone(path):
                others = notes.others(path)
                notes.remove(path.stem, keep=lambda scale, _, others=others: scale in others)
            waiting.append(path)
    yield from _prepare_all(waiting, notes, cut, jobs)
    for note in notes.gone():
        if prune:
            notes.remove(Path(note.source).stem, keep=lambda _, note: not note.is_gone())
        yield Prepared(Path(note.source), note.pairs, is_gone=True)


def count_pairs(output: Path, cut: SubImages) -> int:
    """How many pairs of a scale a folder holds that `prepare` made.

    Raises:
        ConfigError, OutputError: as `prepare` does.
    """
    return Notes(output, cut.scale, cut.side, cut.step).count()


def _prepare_all(
    waiting: Sequence[Path], notes: Notes, cut: SubImages, jobs: int
) -> Iterator[Prepared]:
    works = {
        path: partial(_prepare_one, path, notes.place, notes.grid, cut, notes.others(path))
        for path in waiting
    }
    workers = min(jobs or usable_cpus(), len(works))
    if workers <= 1:
        for path, work in works.items():
            yield _result(path, work)
        return
    # Not a fork, which would copy the locks of libvips' threads but not the threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = {pool.submit(work): path for path, work in works.items()}
        try:
            for future in as_completed(running):
                yield _result(running[future], future.result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(path: Path, result: Callable[[], Prepared]) -> Prepared:
    try:
        return result()
    except (BrokenProcessPool, MemoryError):
        complaint = f"{printable(path)}: the memory ran out, or a process was ended; try fewer jobs"
        return Prepared(path, error=OutputError(complaint))


def _twin(path: Path, other: Path) -> ConfigError:
    return ConfigError(
        f"{printable(path)}: has the name of {printable(other)}; so would its results; rename it"
    )


def _prepare_one(
    path: Path, place: Place, grid: int, cut: SubImages, others: dict[int, Note]
) -> Prepared:
    """Cut one picture; in a process of its own."""
    try:
        pair = read_pair(path, cut.scale)
        height, width = (length // grid * grid for length in pair.high.shape[:2])
        corners = cut.corners(height, width) if min(height, width) else []
        if not corners:
            raise ImageError(
                f"{printable(path)}: {pair.high.shape[1]}x{pair.high.shape[0]} is smaller than a "
                f"sub-image of {cut.side or grid}; leave it out or choose a smaller side"
            )
        _check_shared(path, height, width, cut.scale, others)
        place.add(Note.of(path, height, width, len(corners), done=False))
        note = Note.of(path, height, width, len(corners), done=True)
        for (high, low), corner in zip(place.files(note), corners, strict=True):
            pixels = _cut(pair, corner, cut.side or (height, width), cut.scale)
            if not others or not high.is_file():
                write_image(high, Image(pixels[0]), overwrite=True)
            write_image(low, Image(pixels[1]), overwrite=True)
        place.add(note)
        return Prepared(path, len(corners))
    except OSError as error:
        return Prepared(path, error=ImageError(f"{printable(path)}: {reason(error)}"))
    except BidiffsrError as error:
        return Prepared(path, error=error)


def _check_shared(path: Path, height: int, width: int, scale: int, others: dict[int, Note]) -> None:
    """Refuse a picture whose high-resolution files another scale has cut in another place."""
    for other, note in others.items():
        if (note.height, note.width) != (height, width):
            first = f", or a new one for scale {scale} first" if scale % other == 0 else ""
            raise ConfigError(
                f"{printable(path)}: its pairs for scale {other} are of {note.width}x{note.height} "
                f"pixels, those for scale {scale} would be of {width}x{height}; choose another "
                f"folder{first}"
            )


def _cut(
    pair: Pair, corner: tuple[int, int], side: int | tuple[int, int], scale: int
) -> tuple[Any, Any]:
    """(high, low) of a part of a pair, which begins and ends on the low-resolution grid."""
    top, left = corner
    height, width = (side, side) if isinstance(side, int) else side
    high = pair.high[top : top + height, left : left + width]
    top, left, height, width = (length // scale for length in (top, left, height, width))
    return high, pair.low[top : top + height, left : left + width]
