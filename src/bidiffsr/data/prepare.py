"""Folders of high-resolution pictures into pairs of sub-images, in the official layout.

``OUT/HR/{name}_s001.png`` and ``OUT/LR_bicubic/X4/{name}_s001x4.png``: small files, of which a crop
is decoded much faster than of the whole pictures. What is done is noted in ``OUT/prepared.jsonl``,
so that work that was interrupted goes on, and work that is done is not done again.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, OutputError
from bidiffsr.evaluation.benchmark import Benchmark, Pair, read_pair
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.files import printable, real_path, reason

NOTES_NAME = "prepared.jsonl"


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
    """How many pairs it gave."""
    was_there: bool = False
    """Whether an earlier run had done it."""
    error: BidiffsrError | None = None


def find_sources(folders: Sequence[Path]) -> list[Path]:
    """The pictures of folders that may be in the official layout (`Benchmark`).

    Raises:
        ImageError: a folder is missing or has no pictures.
    """
    found = [path for folder in folders for path in Benchmark.open(folder).pictures]
    return list(dict.fromkeys(found))


def prepare(
    sources: Sequence[Path], output: Path, cut: SubImages, *, jobs: int = 0
) -> Iterator[Prepared]:
    """Cut pictures, several at once, yielding each when it is done; changes no source.

    Args:
        sources: high-resolution pictures; low-resolution ones that lie where the official layout
            has them are taken, others made.
        output: a folder, made where it is missing.
        cut: how.
        jobs: processes; 0 for one on each CPU that this process may use.

    Raises:
        ConfigError: ``output`` holds pairs that were cut in another way, or one of the sources.
        OutputError: ``output`` cannot be written to.
    """
    place = real_path(output)
    if any(real_path(path).is_relative_to(place) for path in sources):
        raise ConfigError(f"{printable(output)}: holds pictures to prepare; choose another folder")
    notes = _Notes(output, cut)
    done = notes.read()
    names: dict[str, Path] = {}
    waiting = []
    for path in sources:
        other = names.setdefault(path.stem, path)
        note = done.get(path.stem, {})
        count = note.get("pairs", 0)
        if other != path:
            yield Prepared(path, error=_twin(path, other))
        elif note and note == _note(path, count) and _are_there(output, path, cut, count):
            yield Prepared(path, count, was_there=True)
        else:
            waiting.append(path)
    if not waiting:
        return
    # Not a fork, which would copy the locks of libvips' threads but not the threads.
    context = multiprocessing.get_context("spawn")
    workers = min(jobs or usable_cpus(), len(waiting))
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = {pool.submit(_prepare_one, path, output, cut): path for path in waiting}
        try:
            for future in as_completed(running):
                result = _result(running[future], future.result)
                if result.error is None:
                    notes.add(result)
                yield result
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


def _prepare_one(path: Path, output: Path, cut: SubImages) -> Prepared:
    """Cut one picture; in a process of its own."""
    try:
        pair = read_pair(path, cut.scale)
        corners = cut.corners(*pair.high.shape[:2])
        if not corners:
            height, width = pair.high.shape[:2]
            raise ImageError(
                f"{printable(path)}: {width}x{height} is smaller than a sub-image of {cut.side}; "
                "leave it out or choose a smaller side"
            )
        for (high, low), corner in zip(
            _files(output, path, cut, len(corners)), corners, strict=True
        ):
            for file, pixels in zip((high, low), _cut(pair, corner, cut), strict=True):
                write_image(file, Image(pixels), overwrite=True)
        return Prepared(path, len(corners))
    except BidiffsrError as error:
        return Prepared(path, error=error)


def _cut(pair: Pair, corner: tuple[int, int], cut: SubImages) -> tuple[Any, Any]:
    if cut.side is None:
        return pair.high, pair.low
    top, left = corner
    high = pair.high[top : top + cut.side, left : left + cut.side]
    top, left, side = (length // cut.scale for length in (top, left, cut.side))
    return high, pair.low[top : top + side, left : left + side]


def _files(output: Path, path: Path, cut: SubImages, count: int) -> list[tuple[Path, Path]]:
    """Where the pairs of a picture lie: (HR, LR) each."""
    stems = [path.stem]
    if cut.side is not None:
        stems = [f"{path.stem}_s{number:03}" for number in range(1, count + 1)]
    low = output / "LR_bicubic" / f"X{cut.scale}"
    return [(output / "HR" / f"{stem}.png", low / f"{stem}x{cut.scale}.png") for stem in stems]


def _are_there(output: Path, path: Path, cut: SubImages, count: int) -> bool:
    return all(file.is_file() for pair in _files(output, path, cut, count) for file in pair)


def _note(path: Path, pairs: int) -> dict[str, Any]:
    """What tells whether a picture has changed since it was cut; empty where it is gone."""
    try:
        status = path.stat()
    except OSError:  # which is reported when the picture is read
        return {}
    source = str(real_path(path))
    return {"source": source, "size": status.st_size, "time": status.st_mtime_ns, "pairs": pairs}


class _Notes:
    """The file of what is done: how pictures are cut, then a line for each.

    Raises:
        ConfigError: those that are there were cut in another way.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, output: Path, cut: SubImages) -> None:
        self._path = output / NOTES_NAME
        self._head = asdict(cut)
        try:
            self._check_head()
            for folder in (output / "HR", output / "LR_bicubic" / f"X{cut.scale}"):
                folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                if file.tell() == 0:
                    file.write(json.dumps(self._head).encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"{printable(output)}: cannot be written to ({reason(error)}); choose another"
            ) from error

    def _check_head(self) -> None:
        """Before anything is made: were the pictures that are there cut in the same way?"""
        head = self._lines()[0] if self._path.exists() else ""
        if head and head != json.dumps(self._head):
            raise ConfigError(
                f"{printable(self._path)}: the pairs there were made with {head[:80]}; "
                "choose another folder"
            )

    def _lines(self) -> list[str]:
        return self._path.read_text("utf-8", errors="replace").split("\n")

    def read(self) -> dict[str, dict[str, Any]]:
        """The notes by the pictures' stems; the last counts."""
        found = {}
        for line in self._lines()[1:]:
            with suppress(ValueError, KeyError, TypeError):  # cut short when a process was killed
                note = json.loads(line)
                found[Path(note["source"]).stem] = note
        return found

    def add(self, done: Prepared) -> None:
        """Note what is done, in one write, beginning on a line of its own."""
        line = json.dumps(_note(done.source, done.pairs))
        try:
            with self._path.open("ab") as file:
                file.write(f"\n{line}\n".encode())
        except OSError as error:
            raise OutputError(
                f"{printable(self._path)}: cannot be written to ({reason(error)})"
            ) from error
