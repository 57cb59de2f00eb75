"""Doing one job of a batch: read, upscale, check, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.errors import ConfigError, MemoryEstimateError, NumericalError, OutputError
from bidiffsr.images.codec import (
    MAX_PIXELS,
    check_output,
    read_image,
    write_image,
)
from bidiffsr.images.image import Image
from bidiffsr.images.resize import resized_length
from bidiffsr.system.files import exists_already, is_file, printable
from bidiffsr.system.memory import is_out_of_memory
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.upscaler import Upscaler

_PLAIN, _PLAIN_FILES = UpscaleOptions(), FileOptions()


class AlreadyThere(OutputError):  # noqa: N818  in a batch it is no error
    """Every result exists, perhaps made meanwhile by another run over the same folder."""


def upscale_file(
    upscaler: Upscaler,
    job: Job,
    options: UpscaleOptions = _PLAIN,
    files: FileOptions = _PLAIN_FILES,
) -> Iterator[Progress]:
    """Upscale one file, yielding after every tile of every step; folders are made as needed.

    Each result is saved whole, and only if it can have come from its picture; when it is yielded it
    lies at ``job.outputs[progress.sample]``. What does not fit into the memory goes to files
    without names in the folder of the first result.

    Args:
        upscaler: the model.
        job: from `plan_jobs`; it says how many samples there are, too.
        options: of the upscaling.
        files: how files are read and written.

    Raises:
        AlreadyThere: the results exist, or have come to exist, and must not be overwritten.
        BidiffsrError: of any other kind, its message beginning with the file's name. What can be
            known before the work is raised before it.
    """
    if job.error is not None:
        raise job.error
    if not files.overwrite and all(is_file(output) for output in job.outputs):
        raise exists_already(job.outputs[0], AlreadyThere)
    options = replace(options, samples=len(job.outputs))
    with _naming(job.source):
        scale = upscaler.check(options)
    source = read_image(
        job.source,
        max_pixels=files.max_pixels or MAX_PIXELS,
        check_header=lambda header: upscaler.check_memory(header, options, disk=True),
    )
    with _naming(job.source):
        _prepare(job, source, scale, files)
        scratch = job.outputs[0].parent
        for progress in upscaler.stream(source, scratch=scratch, **asdict(options)):
            if progress.result is not None:
                check_result(source, progress.result)
                _save(job.outputs[progress.sample], progress.result, files)
            yield progress


def _prepare(job: Job, source: Image, scale: float, files: FileOptions) -> None:
    """Make folders, and make sure that the results can be saved."""
    side = resized_length(max(source.height, source.width), scale)
    for output in job.outputs:
        _make_folder(output)
        format_ = check_output(output, overwrite=files.overwrite)
        if side > format_.largest_side:
            raise OutputError(
                f"{printable(output)}: the result would be {side} pixels long; {format_.name} "
                f"holds at most {format_.largest_side}; name a .png or .tif file as output"
            )


def _save(output: Path, result: Image, files: FileOptions) -> None:
    try:
        write_image(output, result, overwrite=files.overwrite, quality=files.file_quality)
    except OutputError as error:
        if not files.overwrite and is_file(output):
            raise exists_already(output, AlreadyThere) from error
        raise


def _make_folder(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{printable(output.parent)}: cannot be made a folder ({error.strerror}); choose "
            "another output"
        ) from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is said by the code below, which does not know it."""
    name = printable(path)
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
