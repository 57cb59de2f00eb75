"""Planning a batch: where results go, and what is left out.

Results are named after their pictures, ``photo.jpg`` → ``photo_x4.jpg``, so that a folder can be
given again: what is there already is not made again, and results are not upscaled in their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bidiffsr.batch.sources import Source
from bidiffsr.errors import BidiffsrError, ConfigError, OutputError
from bidiffsr.images.find import IMAGE_SUFFIXES
from bidiffsr.system.files import is_file, is_folder, printable, real_path

_RESULT_STEM = re.compile(r"(?P<source>.+)_x\d+(\.\d+)?(_\d+)?")
# What nobody means as a folder's name, unlike that of v1.0.
_SUFFIX = re.compile(r"\.[a-z]\w{0,4}")


@dataclass(frozen=True)
class Job:
    """A picture and the files its results go to, one for each sample."""

    source: Path
    outputs: tuple[Path, ...]
    error: BidiffsrError | None = None
    """Why it cannot be done, where that is known; to be raised when it is its turn."""


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

    @property
    def folders(self) -> set[Path]:
        """Where results go."""
        jobs = (*self.jobs, *self.already_there)
        return {output.parent for job in jobs for output in job.outputs}


def plan_jobs(
    sources: Sequence[Source],
    output: Path | None = None,
    *,
    scale: float,
    samples: int = 1,
    overwrite: bool = False,
) -> Plan:
    """Decide what to upscale and where the results go; changes nothing.

    What stands in the way of one picture alone is its job's ``error``.

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
        OutputError: the output's suffix is of no picture that can be written.
        ConfigError: `output` is a file and there are several results.
    """
    if output is not None:
        _check_suffix(output)
    jobs = [_job(source, output, scale, samples) for source in sources]
    results = set() if _is_file(output) else _earlier_results(jobs, sources)
    jobs = [job for job in jobs if job.source not in results]
    if _is_file(output) and (len(jobs) > 1 or samples > 1):
        raise ConfigError(
            f"{output}: is one file for {len(jobs) * samples} results; expected a folder"
        )
    jobs = _kept_apart(jobs)
    batch = len(jobs) > 1 or any(source.folder is not None for source in sources)
    left, there = [], []
    for job in jobs:
        skip = batch and not overwrite and job.error is None
        skip = skip and all(is_file(output) for output in job.outputs)
        (there if skip else left).append(job)
    return Plan(tuple(left), tuple(there), tuple(sorted(results)), batch)


def _job(source: Source, output: Path | None, scale: float, samples: int) -> Job:
    picture = source.path
    if source.error is not None:
        return Job(picture, (), source.error)
    if output is not None and _is_file(output):
        return Job(picture, (output,) * samples)
    folder = picture.parent
    if output is not None:
        inside = Path() if source.folder is None else folder.relative_to(source.folder)
        folder = output / inside
    stem = f"{picture.stem}_x{scale:g}"
    stems = [stem] if samples == 1 else [f"{stem}_{index + 1}" for index in range(samples)]
    return Job(picture, tuple(folder / f"{stem}{picture.suffix}" for stem in stems))


def _earlier_results(jobs: Iterable[Job], sources: Iterable[Source]) -> set[Path]:
    """The pictures that an earlier run made, at whatever scale, from others of these."""
    pictures = {job.source for job in jobs if job.error is None}
    makers = {output: job.source for job in jobs for output in job.outputs}

    def is_result(source: Source) -> bool:
        if makers.get(source.path, source.path) != source.path:
            return True
        match = _RESULT_STEM.fullmatch(source.path.stem)
        if match is None:
            return False
        name = f"{match['source']}{source.path.suffix}"
        return any(folder / name in pictures for folder in _folders_of_origin(source))

    return {source.path for source in sources if source.path in pictures and is_result(source)}


def _folders_of_origin(result: Source) -> Iterable[Path]:
    """Where the picture may lie that a result was made from.

    In the same folder, or where it would be without the folder, inside the given one, that results
    were put into: ``in/large/trip/a_x4.jpg`` was made from ``in/trip/a.jpg``.
    """
    parent = result.path.parent
    yield parent
    if result.folder is not None:
        parts = parent.relative_to(result.folder).parts
        for start in range(len(parts)):
            for stop in range(start + 1, len(parts) + 1):
                yield result.folder.joinpath(*parts[:start], *parts[stop:])


def _is_file(output: Path | None) -> bool:
    return output is not None and output.suffix.lower() in IMAGE_SUFFIXES and not is_folder(output)


def _check_suffix(output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix in IMAGE_SUFFIXES or not _SUFFIX.fullmatch(suffix) or is_folder(output):
        return
    raise OutputError(
        f"{printable(output)}: suffix {output.suffix!r} is no picture format's; expected one of "
        f"{' '.join(IMAGE_SUFFIXES)}, or a folder, which has to exist if it is to have this name"
    )


def _kept_apart(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, with an error where a result would replace a picture or another result."""
    jobs = list(jobs)
    pictures = {real_path(job.source): job.source for job in jobs if job.error is None}
    taken: dict[Path, Path] = {}

    def collision(job: Job) -> OutputError | None:
        for output in job.outputs:
            place = real_path(output)
            if place in pictures:
                return OutputError(
                    f"{printable(output)}: is the picture {printable(pictures[place])} itself, "
                    "which upscaling does not replace; choose another output"
                )
            if place in taken:
                return OutputError(
                    f"{printable(output)}: would be the result of both {printable(taken[place])} "
                    f"and {printable(job.source)}; upscale them one after the other, into "
                    "different folders"
                )
        taken.update((real_path(output), job.source) for output in job.outputs)
        return None

    return [replace(job, error=job.error or collision(job)) for job in jobs]
