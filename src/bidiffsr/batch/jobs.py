"""Upscaling files: where results go, what is left out, and the work itself.

Results are named after their pictures, ``photo.jpg`` → ``photo_x4.jpg``, so that a folder can be
given again: what is there already is not made again, and results are not upscaled in their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from bidiffsr.errors import ConfigError, MemoryEstimateError, NumericalError, OutputError
from bidiffsr.images.codec import StrPath, check_output, read_image, write_image
from bidiffsr.images.find import IMAGE_SUFFIXES, find_images
from bidiffsr.images.image import Image
from bidiffsr.images.resize import resized_length
from bidiffsr.system.memory import is_out_of_memory
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.upscaler import Settings, Upscaler, UpscaleStep

# Pictures' suffixes that nobody means as a folder's name, though we do not write them.
_FOREIGN_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pdf"),
    *(".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga"),
)
_RESULT_STEM = re.compile(r"(?P<source>.+)_x\d+(\.\d+)?(_\d+)?")


@dataclass(frozen=True)
class Source:
    """A picture to upscale."""

    path: Path
    folder: Path | None
    """The given folder it was found in; None where it was named itself."""


@dataclass(frozen=True)
class Job:
    """A picture and the files its results go to, one for each sample."""

    source: Path
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """What will be done, and what will not."""

    jobs: tuple[Job, ...]
    already_there: tuple[Job, ...]
    """Left out, because all their outputs exist."""
    earlier_results: tuple[Path, ...]
    """Left out, because they were made from other pictures of the same plan."""
    batch: bool
    """Whether there are, or could have been, several pictures: then one failure is not the end."""


@dataclass(frozen=True)
class FileStep:
    """What is known after one run of the network for a job."""

    step: UpscaleStep
    written: Path | None
    """Where the finished picture was saved, with the last step of each sample."""


def find_sources(paths: Iterable[StrPath], *, recursive: bool = False) -> list[Source]:
    """Expand files and folders as `find_images` does, remembering the folders.

    Raises:
        ImageError: see `find_images`.
    """
    given = [Path(path) for path in paths]
    folders = [path for path in given if path.is_dir()]
    named = set(given)

    def folder_of(picture: Path) -> Path | None:
        if picture in named:
            return None
        return next(folder for folder in folders if picture.is_relative_to(folder))

    pictures = find_images(given, recursive=recursive)
    return [Source(picture, folder_of(picture)) for picture in pictures]


def plan_jobs(
    sources: Sequence[Source],
    output: Path | None = None,
    *,
    scale: float,
    samples: int = 1,
    overwrite: bool = False,
) -> Plan:
    """Decide what to upscale and where the results go; changes nothing.

    Args:
        sources: at least one picture.
        output: a file, if it has a picture's suffix, which takes one picture and one sample;
            else a folder, inside which the structure of the given folders is kept. By default
            results go beside their pictures.
        scale: for the names: ``{stem}_x{scale}{suffix}``.
        samples: where there are several, ``_1``, ``_2``, ... follows the scale.
        overwrite: whether existing results are made again. Without it a batch leaves them out;
            of a single picture's job they are left for `upscale_file` to refuse.

    Raises:
        OutputError: two results would have one name, or a result would replace a picture.
        ConfigError: `output` is a file and there are several results.
    """
    if output is not None and output.suffix.lower() in _FOREIGN_SUFFIXES:
        check_output(output)  # says what may be written
    jobs = [Job(source.path, _outputs(source, output, scale, samples)) for source in sources]
    results = set() if _is_file(output) else _earlier_results(jobs)
    jobs = [job for job in jobs if job.source not in results]
    if _is_file(output) and (len(jobs) > 1 or samples > 1):
        raise ConfigError(
            f"{output}: is one file for {len(jobs) * samples} results; expected a folder"
        )
    _check_apart(jobs)
    batch = len(jobs) > 1 or any(source.folder is not None for source in sources)
    left, there = [], []
    for job in jobs:
        skip = batch and not overwrite and all(output.exists() for output in job.outputs)
        (there if skip else left).append(job)
    return Plan(tuple(left), tuple(there), tuple(sorted(results)), batch)


def upscale_file(
    upscaler: Upscaler,
    job: Job,
    *,
    overwrite: bool = False,
    file_quality: int = 95,
    **settings: Unpack[Settings],
) -> Iterator[FileStep]:
    """Upscale one file, yielding after every tile of every step; folders are made as needed.

    Each result is saved whole, and only if it can have come from its picture. What does not fit
    into the memory goes to files without names in the folder of the first result.

    Args:
        upscaler: the model.
        job: from `plan_jobs`.
        overwrite: see `write_image`.
        file_quality: the `quality` of `write_image`.
        settings: see `Upscaler`; the job says how many samples there are.

    Raises:
        BidiffsrError: of any kind, its message beginning with the file's name. What can be known
            before the work is raised before it.
    """
    for output in job.outputs:
        _make_folder(output)
        check_output(output, overwrite=overwrite)
    source = read_image(job.source)
    with _naming(job.source):
        settings["samples"] = len(job.outputs)
        scale = upscaler.check_settings(
            scale=settings.get("scale"),
            quality=settings.get("quality"),
            steps=settings.get("steps"),
            samples=settings["samples"],
            tile=settings.get("tile", "auto"),
        )
        _check_size(job, source, scale)
        scratch = job.outputs[0].parent
        for step in upscaler.stream(source, scratch=scratch, **settings):
            written = None
            if step.result is not None:
                check_result(source, step.result)
                written = job.outputs[step.sample]
                write_image(written, step.result, overwrite=overwrite, quality=file_quality)
            yield FileStep(step, written)


def _outputs(source: Source, output: Path | None, scale: float, samples: int) -> tuple[Path, ...]:
    if output is not None and _is_file(output):
        return (output,) * samples
    picture = source.path
    folder = picture.parent
    if output is not None:
        inside = Path() if source.folder is None else folder.relative_to(source.folder)
        folder = output / inside
    stem = f"{picture.stem}_x{scale:g}"
    stems = [stem] if samples == 1 else [f"{stem}_{index + 1}" for index in range(samples)]
    return tuple(folder / f"{stem}{picture.suffix}" for stem in stems)


def _earlier_results(jobs: Sequence[Job]) -> set[Path]:
    """The pictures that an earlier run made, at whatever scale, from others of these."""
    pictures = {job.source for job in jobs}
    maker = {output: job.source for job in jobs for output in job.outputs}

    def is_result(picture: Path) -> bool:
        if maker.get(picture, picture) != picture:
            return True
        match = _RESULT_STEM.fullmatch(picture.stem)
        return match is not None and picture.with_stem(match["source"]) in pictures

    return {picture for picture in pictures if is_result(picture)}


def _is_file(output: Path | None) -> bool:
    return output is not None and output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()


def _check_apart(jobs: Sequence[Job]) -> None:
    pictures = {job.source.resolve(): job.source for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for output in job.outputs:
            place = output.resolve()
            if place in pictures:
                raise OutputError(
                    f"{output}: is the picture {pictures[place]} itself, which upscaling does not "
                    "replace; choose another output"
                )
            if place in taken:
                raise OutputError(
                    f"{output}: would be the result of both {taken[place]} and {job.source}; "
                    "upscale them one after the other, into different folders"
                )
            taken[place] = job.source


def _make_folder(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output.parent}: cannot be made a folder ({error.strerror}); choose another output"
        ) from None


def _check_size(job: Job, source: Image, scale: float) -> None:
    side = resized_length(max(source.height, source.width), scale)
    for output in job.outputs:
        format_ = check_output(output, overwrite=True)
        if side > format_.largest_side:
            raise OutputError(
                f"{output}: the result would be {side} pixels long; {format_.name} holds at most "
                f"{format_.largest_side}; name a .png or .tif file as output"
            )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is said by the code below, which does not know it."""
    try:
        yield
    except (ConfigError, MemoryEstimateError, NumericalError) as error:
        raise type(error)(f"{path}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryEstimateError(
            f"{path}: the memory ran out; close other programs, or upscale a smaller picture"
        ) from error
