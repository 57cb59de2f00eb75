"""Doing one job of a batch: read, upscale, check, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path

import numpy as np

from bidiffsr.batch.needs import (
    AlreadyThere,
    Needs,
    check_file,
    naming_picture,
    needs_of,
    pages_of,
    samples_of,
)
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import existing, location, storage_of
from bidiffsr.errors import OutputError
from bidiffsr.images.compression import Compression
from bidiffsr.images.decode import MAX_PIXELS, HeaderCheck
from bidiffsr.images.image import Image
from bidiffsr.images.join import Joined, check_join
from bidiffsr.images.metadata import NO_METADATA
from bidiffsr.images.pages import Pages
from bidiffsr.system.files import exists_already
from bidiffsr.upscaling.consistency import Consistency, consistency
from bidiffsr.upscaling.draws import Draws, brightest, deviation_image, uncertainty_image
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.planning import Room
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.record import recorded
from bidiffsr.upscaling.upscaler import Upscaler

_PLAIN, _PLAIN_FILES = UpscaleOptions(), FileOptions()
_Written = Callable[[Path, Path], object]
# Whatever the picture's size: strips of floats that it is compared by.
_CHECKING_BYTES = 32_000_000


class Turn:
    """What the caller of ``draw_file`` has a say in; here, where nothing else is going on."""

    def make_room(self, room: Callable[[int], Room]) -> None:
        """Is called before the picture is decoded, or used if it is.

        Args:
            room: says what the picture takes if so many bytes of memory more are free, and raises
                where there is no room.
        """
        room(0)

    def read_image(self, path: Path, *, max_pixels: int, check_header: HeaderCheck) -> Image:
        """See `Storage.read_image`."""
        return storage_of(path).read_image(path, max_pixels=max_pixels, check_header=check_header)

    def under_way(self) -> None:
        """Is called when the memory for the picture is decided on; not of files of pages."""


_ALONE = Turn()


@dataclass(frozen=True)
class Made:
    """A sample that has been drawn, with all that is to be saved now."""

    progress: Progress
    """Its ``saved`` names the files, which are not there yet."""
    save: Callable[[_Written | None], Progress]
    """Checks and saves them; see ``upscale_file`` for what it takes, and raises."""
    last: bool
    """Whether nothing follows it."""
    size: int
    """Bytes of memory that it holds, and takes to be checked and saved."""
    on_disk: bool
    """Whether its pixels live in a file."""


def upscale_file(
    upscaler: Upscaler,
    job: Job,
    options: UpscaleOptions = _PLAIN,
    files: FileOptions = _PLAIN_FILES,
    written: _Written | None = None,
    *,
    compare: bool = False,
) -> Iterator[Progress]:
    """Upscale one file, yielding after every tile of every step; folders are made as needed.

    Each result is saved whole, and only if it can have come from its picture; when it is yielded it
    lies at ``job.outputs[progress.sample]``, and ``progress.saved`` names what is new. Samples
    whose files are there, of a run that was interrupted, are not made again, unless what is made
    of all of them is missing. What does not fit into the memory goes to files
    without names in the folder of the first result, or the system's where that is on no disk.

    With ``files.pages``, a file of several pictures becomes one of as many, which does not say how
    it was made.

    Args:
        upscaler: the model.
        job: from `plan_jobs`; it says how many samples there are, too.
        options: of the upscaling.
        files: how files are read and written.
        written: is given each result's name, and the temporary name of its whole file, just before
            that is renamed.
        compare: whether ``progress.consistency`` says of what is saved how it compares with the
            picture.

    Raises:
        AlreadyThere: the results exist, or have come to exist, and must not be overwritten.
        BidiffsrError: of any other kind, its message beginning with the file's name. What can be
            known before the work is raised before it.
    """
    for at in draw_file(upscaler, job, options, files, compare=compare):
        yield at.save(written) if isinstance(at, Made) else at


def draw_file(
    upscaler: Upscaler,
    job: Job,
    options: UpscaleOptions = _PLAIN,
    files: FileOptions = _PLAIN_FILES,
    turn: Turn = _ALONE,
    *,
    compare: bool = False,
) -> Iterator[Progress | Made]:
    """As ``upscale_file``, but checking and saving are up to the caller.

    Args:
        upscaler: see ``upscale_file``, as all others.
        job: from `plan_jobs`.
        options: of the upscaling.
        files: how files are read and written.
        turn: the caller's say.
        compare: see ``upscale_file``.
    """
    needs = needs_of(upscaler, job, options, files)
    pages = pages_of(job, files)
    if pages is not None:
        yield from _draw_pages(upscaler, job, pages, needs, files, turn, compare=compare)
        return
    storage = storage_of(job.source)
    modified = storage.modified(job.source) if files.keep_times else None
    source = turn.read_image(
        job.source,
        max_pixels=files.max_pixels or MAX_PIXELS,
        check_header=lambda header: turn.make_room(partial(needs.room, upscaler, header)),
    )
    if files.strip:
        source = replace(source, metadata=NO_METADATA, dpi=None)

    def save(path: Path, image: Image, written: _Written | None) -> tuple[str, ...]:
        note = None if written is None else partial(written, path)
        return _save(path, recorded(image, {}) if files.strip else image, files, modified, note)

    with naming_picture(job.source):
        longest = max(upscaler.result_size(source.header, needs.options))
        for output in needs.missing:
            storage_of(output).make_folder(output.parent)
            check_file(output, longest, files)
        yield from _results(upscaler, job, source, needs, turn, save, compare=compare)


def _draw_pages(
    upscaler: Upscaler,
    job: Job,
    pages: Pages,
    needs: Needs,
    files: FileOptions,
    turn: Turn,
    *,
    compare: bool,
) -> Iterator[Progress | Made]:
    """Upscale every page of a file into one file for each sample, a page at a time.

    The last page of a sample is yielded as its result.
    """
    modified = storage_of(job.source).modified(job.source) if files.keep_times else None
    compression = Compression(files.file_quality, files.subsampling)
    headers = pages.headers()
    with naming_picture(job.source):
        for header in headers:
            turn.make_room(partial(needs.room, upscaler, header))
        sizes = {upscaler.result_size(header, needs.options) for header in headers}
        for output in needs.missing:
            check_join(output, sizes, len(pages))
            storage_of(output).make_folder(output.parent)
            check_file(output, max(map(max, sizes)), files)
        timing = pages.timing()
        wanted = [(n, path) for n, path in enumerate(job.outputs) if path in needs.missing]
        for sample, output in wanted:
            with Joined(output, compression) as joined:
                notes: tuple[str, ...] = ()
                compared: list[Consistency] = []
                for number, source in enumerate(pages):
                    if files.strip:
                        source = replace(source, metadata=NO_METADATA, dpi=None)
                    notes += source.metadata.left_out
                    progress = None
                    for progress in _page(upscaler, source, sample, output.parent, needs):
                        if progress.result is None:
                            yield _of_pages(progress, number, len(pages))
                    assert progress is not None
                    assert progress.result is not None
                    if compare:
                        compared.append(consistency(source, progress.result))
                    notes += joined.add(recorded(progress.result, {}))
                    progress = _of_pages(progress, number, len(pages))
                    if number + 1 < len(pages):
                        yield replace(progress, result=None)
                        continue
                    whole = {output: reduce(add, compared)} if compared else {}
                    progress = replace(progress, saved=(output,), consistency=whole)

                    def save(
                        written: _Written | None,
                        joined: Joined = joined,
                        progress: Progress = progress,
                        notes: tuple[str, ...] = notes,
                    ) -> Progress:
                        (path,) = progress.saved
                        with _meanwhile(path, files):
                            more = joined.write(
                                timing,
                                overwrite=files.overwrite,
                                modified=modified,
                                written=None if written is None else partial(written, path),
                            )
                        return replace(progress, notes=tuple(dict.fromkeys(notes + more)))

                    last = (sample, output) == wanted[-1]
                    # What is joined lies on the disk, beside the result.
                    yield Made(progress, save, last, size=0, on_disk=True)


def _page(
    upscaler: Upscaler, source: Image, sample: int, scratch: Path, needs: Needs
) -> Iterator[Progress]:
    for progress in upscaler.stream(
        source, scratch=scratch, only=[sample], **asdict(needs.options)
    ):
        if progress.result is not None:
            check_result(source, progress.result)
        yield progress


def _of_pages(progress: Progress, number: int, count: int) -> Progress:
    """Of a page as part of the whole, were all pages equal."""
    finished = number * progress.runs + progress.finished
    return replace(progress, finished=finished, runs=count * progress.runs)


def _results(
    upscaler: Upscaler,
    job: Job,
    source: Image,
    needs: Needs,
    turn: Turn,
    save: Callable[[Path, Image, _Written | None], tuple[str, ...]],
    *,
    compare: bool,
) -> Iterator[Progress | Made]:
    """Make those results that are missing."""
    missing = needs.missing
    summaries = {name: path for name, path in job.summaries.items() if path in missing}
    samples = samples_of(job, missing)
    notes = source.metadata.left_out
    first = job.outputs[0]
    scratch, draws = storage_of(first).working_folder(first), None
    began = time.perf_counter()
    asked = {"only": samples, "kept": needs.kept, "under_way": turn.under_way}
    for progress in upscaler.stream(source, scratch=scratch, **asked, **asdict(needs.options)):
        progress = replace(progress, seconds=time.perf_counter() - began)
        result = progress.result
        if result is not None:
            files = {job.outputs[progress.sample]: result}
            if summaries:
                draws = draws or Draws(scratch if isinstance(result.pixels, np.memmap) else None)
                draws.add(result)
                if progress.sample == samples[-1]:
                    made, more = _summarised(draws, summaries)
                    files |= made
                    notes += more
            files = {path: image for path, image in files.items() if path in missing}
            progress = replace(progress, saved=tuple(files), notes=notes)
            notes = ()
            like_source = {job.outputs[progress.sample], summaries.get("mean")} if compare else ()
            saving = partial(_save_all, job, source, progress, files, like_source, save)
            size = _bytes_to_save(source, result, files.values(), needs)
            on_disk = isinstance(result.pixels, np.memmap)
            yield Made(progress, saving, progress.sample == samples[-1], size, on_disk)
            del saving, files  # so that their memory is there for the next sample
        else:
            yield progress
        began = time.perf_counter()


def _bytes_to_save(source: Image, result: Image, files: Collection[Image], needs: Needs) -> int:
    """What it takes to check and save a sample and what is made of all of them."""
    held = sum(image.pixels.nbytes * 4 // 3 for image in {source, result, *files})
    together = 0 if result.alpha is None else result.pixels.nbytes * 4 // 3
    saving = needs.saving * result.height * result.width
    return held + max(saving, _CHECKING_BYTES + together)


def _save_all(
    job: Job,
    source: Image,
    progress: Progress,
    files: dict[Path, Image],
    like_source: Collection[Path | None],
    save: Callable[[Path, Image, _Written | None], tuple[str, ...]],
    written: _Written | None,
) -> Progress:
    notes = progress.notes
    with naming_picture(job.source):
        assert progress.result is not None
        check_result(source, progress.result)
        compared = {
            path: consistency(source, image) for path, image in files.items() if path in like_source
        }
        for path in progress.saved:
            notes += save(path, files.pop(path), written)
    return replace(progress, notes=notes, consistency=compared)


def _summarised(
    draws: Draws, summaries: Mapping[str, Path]
) -> tuple[dict[Path, Image], tuple[str, ...]]:
    """The contents of the files of all samples together, and a line that explains them."""
    made, notes = {}, ()
    if "mean" in summaries:
        made[summaries["mean"]] = draws.mean()
    apart = {name for name in summaries if name != "mean"}
    deviation = draws.deviation() if apart else None
    if deviation is not None and "uncertainty" in apart:
        path, white = summaries["uncertainty"], brightest(deviation)
        made[path] = uncertainty_image(deviation, white)
        notes = (f"{path.name}: white is a standard deviation of {255 * white:.1f} of 255 or more",)
    if deviation is not None and "deviation" in apart:
        made[summaries["deviation"]] = deviation_image(deviation)
    return made, notes


def _save(
    output: Path,
    result: Image,
    files: FileOptions,
    modified: int | None,
    written: Callable[[Path], object] | None,
) -> tuple[str, ...]:
    """Write a result; returns a line for each thing that could not be kept."""
    with _meanwhile(output, files):
        return storage_of(output).write_image(
            *(output, result),
            overwrite=files.overwrite,
            quality=files.file_quality,
            subsampling=files.subsampling,
            modified=modified,
            written=written,
        )


@contextmanager
def _meanwhile(output: Path, files: FileOptions) -> Iterator[None]:
    """Tell a result that somebody else has made from one that cannot be written."""
    try:
        yield
    except OutputError as error:
        if not files.overwrite and existing([output]):
            raise exists_already(location(output), AlreadyThere) from error
        raise
