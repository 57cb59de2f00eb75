"""What a job makes and needs, as far as that is known before its picture is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import check_on_disk, existing, location, shown, storage_of
from bidiffsr.errors import ConfigError, MemoryEstimateError, NumericalError, OutputError
from bidiffsr.images.decode import MAX_PIXELS, naming
from bidiffsr.images.formats import FORMAT_BY_SUFFIX, Format
from bidiffsr.images.image import Header
from bidiffsr.images.join import check_join
from bidiffsr.images.pages import Pages, open_pages
from bidiffsr.system.files import exists_already
from bidiffsr.system.memory import is_out_of_memory
from bidiffsr.upscaling.draws import KEPT_BYTES
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.planning import Room
from bidiffsr.upscaling.upscaler import Upscaler


class AlreadyThere(OutputError):  # noqa: N818  in a batch it is no error
    """Every result exists, perhaps made meanwhile by another run over the same folder."""


@dataclass(frozen=True)
class Needs:
    """What is to be made, and what it takes."""

    missing: tuple[Path, ...]
    """The files to be written."""
    options: UpscaleOptions
    """Checked, with as many samples as the job has."""
    kept: int
    """Bytes for each of the result's pixels that are kept of all samples together."""
    saving: int
    """Bytes for each of the result's pixels that writing it takes."""

    def room(self, upscaler: Upscaler, header: Header, more: int = 0) -> Room:
        """What upscaling such a picture takes.

        Args:
            upscaler: the model.
            header: of the picture.
            more: bytes of memory that will be free by then, beside those that are.

        Raises:
            MemoryEstimateError: more memory than there is.
        """
        return upscaler.check_memory(
            header, self.options, kept=self.kept, saving=self.saving, disk=True, more=more
        )


def needs_of(upscaler: Upscaler, job: Job, options: UpscaleOptions, files: FileOptions) -> Needs:
    """What a job needs, before its picture is looked at.

    Raises:
        AlreadyThere: the results exist, and must not be overwritten.
        BidiffsrError: the job's own error, or what the model cannot do.
    """
    if job.error is not None:
        raise job.error
    there = set[Path]() if files.overwrite else existing(job.files)
    missing = tuple(path for path in job.files if path not in there)
    if not missing:
        raise exists_already(location(job.outputs[0]), AlreadyThere)
    return needs_for(upscaler, job, missing, options)


def needs_for(
    upscaler: Upscaler, job: Job, missing: tuple[Path, ...], options: UpscaleOptions
) -> Needs:
    """As ``needs_of``, where it is known which files are to be written."""
    kept = KEPT_BYTES if set(missing) & set(job.summaries.values()) else 0
    with naming_picture(job.source):
        options = upscaler.check(replace(options, samples=len(job.outputs)))
    formats = [FORMAT_BY_SUFFIX.get(output.suffix.lower()) for output in job.files]
    saving = max(0 if format_ is None else format_.saving_bytes for format_ in formats)
    return Needs(missing, options, kept, saving)


@dataclass(frozen=True)
class Forecast:
    """What would become of a job."""

    missing: tuple[Path, ...]
    """The files that would be written."""
    size: tuple[int, int]
    """Height and width of the results, or of their first pages."""
    room: Room
    """What upscaling takes."""
    pixels: int
    """Of everything that would be sampled."""
    results: int
    """Bytes of the files before they are compressed."""


def foresee(upscaler: Upscaler, job: Job, options: UpscaleOptions, files: FileOptions) -> Forecast:
    """What `upscale_file` would do; writes nothing, and reads no more than the picture's file.

    Args:
        upscaler: see `upscale_file`, as all others.
        job: from `plan_jobs`.
        options: of the upscaling.
        files: how files are read and written.

    Raises:
        BidiffsrError: what `upscale_file` would raise before the picture is decoded.
    """
    needs = needs_of(upscaler, job, options, files)
    storage, most = storage_of(job.source), files.max_pixels or MAX_PIXELS
    pages = pages_of(job, files)
    if pages is None:
        headers = [storage.read_header(job.source, max_pixels=most)]
    else:
        headers = pages.headers()
    with naming(shown(job.source)):
        rooms = [needs.room(upscaler, header) for header in headers]
        sizes = [upscaler.result_size(header, needs.options) for header in headers]
    with naming_picture(job.source):
        for output in needs.missing:
            format_ = storage_of(output).foresee_output(output, overwrite=files.overwrite)
            _check_side(output, format_, max(map(max, sizes)))
            if pages is not None:
                check_join(output, set(sizes), len(pages))
    room = Room(max(room.memory for room in rooms), max(room.disk for room in rooms))
    each = sum(
        height * width * header.samples * header.sample_bytes
        for (height, width), header in zip(sizes, headers, strict=True)
    )
    pixels = sum(map(prod, sizes)) * len(samples_of(job, needs.missing))
    return Forecast(needs.missing, sizes[0], room, pixels, each * len(needs.missing))


def samples_of(job: Job, missing: tuple[Path, ...]) -> list[int]:
    """The numbers of the samples that have to be drawn for these files.

    What is made of all samples needs those, too, whose files are there.
    """
    every = any(path in missing for path in job.summaries.values())
    return [n for n, path in enumerate(job.outputs) if every or path in missing]


def pages_of(job: Job, files: FileOptions) -> Pages | None:
    """The pages of a job's picture; None where it is one picture, or is read as one.

    Raises:
        ConfigError: all pages are asked for, and something of the job does not lie on a disk.
        ImageError: see `open_pages`.
    """
    if files.pages is None:
        return None
    check_on_disk("--pages", (job.source, *job.outputs))
    return open_pages(job.source, max_pixels=files.max_pixels or MAX_PIXELS)


def check_file(output: Path, side: int, files: FileOptions) -> None:
    """Make sure that a result of this longer side could be written, in a folder that exists.

    Raises:
        OutputError: it could not.
    """
    format_ = storage_of(output).check_output(output, overwrite=files.overwrite)
    _check_side(output, format_, side)


def _check_side(output: Path, format_: Format, side: int) -> None:
    format_.check_side(shown(output), side, "name a .png or .tif file as output")


@contextmanager
def naming_picture(path: Path) -> Iterator[None]:
    """Put the file's name before what is said by the code below, which does not know it."""
    name = shown(path)
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except (MemoryEstimateError, NumericalError) as error:
        raise type(error)(f"{name}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryEstimateError(
            f"{name}: the memory ran out; close other programs, or upscale a smaller picture"
        ) from error
