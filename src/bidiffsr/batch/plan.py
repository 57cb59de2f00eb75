"""Planning a batch: where results go, and what is left out.

Results are named after their pictures (`names`), so that a folder can be given again: what is
there already is not made again, and results are not upscaled in their turn.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bidiffsr.batch.names import SUMMARIES, Naming
from bidiffsr.batch.options import FileOptions, Selection
from bidiffsr.batch.sources import Source
from bidiffsr.batch.storage import existing, shown, storage_of
from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, OptionError, OutputError
from bidiffsr.images.find import IMAGE_SUFFIXES
from bidiffsr.images.formats import FORMAT_BY_NAME, FORMAT_BY_SUFFIX, suffix_of
from bidiffsr.upscaling.options import UpscaleOptions

_PLAIN, _PLAIN_FILES, _ALL = UpscaleOptions(), FileOptions(), Selection()
# What nobody means as a folder's name, unlike that of v1.0.
_SUFFIX = re.compile(r"\.[a-z]\w{0,4}")


@dataclass(frozen=True)
class Job:
    """A picture and the files its results go to."""

    source: Path
    outputs: tuple[Path, ...]
    """One for each sample."""
    error: BidiffsrError | None = None
    """Why it cannot be done, where that is known; to be raised when it is its turn."""
    summaries: Mapping[str, Path] = field(default_factory=dict)
    """Files of what is made of all samples together: "mean", "uncertainty", "deviation"."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it writes."""
        return (*self.outputs, *self.summaries.values())


@dataclass(frozen=True)
class Plan:
    """What will be done, and what will not."""

    jobs: tuple[Job, ...]
    already_there: tuple[Job, ...]
    """Left out, because all their outputs exist."""
    earlier_results: tuple[Path, ...]
    """Left out, because they were made from other pictures of the same plan."""
    unmatched: tuple[Path, ...]
    """Left out, because of the patterns, of all shards."""
    uninstalled: tuple[Path, ...]
    """Left out of folders, because what reads their formats is not installed, of all shards."""
    batch: bool
    """Whether there are, or could have been, several pictures: then one failure is not the end."""

    @property
    def folders(self) -> set[Path]:
        """Where results go."""
        jobs = (*self.jobs, *self.already_there)
        return {output.parent for job in jobs for output in job.files}


def plan_jobs(
    sources: Sequence[Source],
    output: Path | None = None,
    options: UpscaleOptions = _PLAIN,
    files: FileOptions = _PLAIN_FILES,
    selection: Selection = _ALL,
    *,
    several: bool = False,
) -> Plan:
    """Decide what to upscale and where the results go; changes nothing.

    What stands in the way of one picture alone is its job's ``error``.

    Args:
        sources: at least one picture.
        output: a file, if it has a picture's suffix, which takes one picture and one sample;
            else a folder, inside which the structure of the given folders is kept. By default
            results go beside their pictures.
        options: of the upscaling, as `Upscaler.check` returns them; for the names.
        files: how results are named. Those that exist are made again with ``overwrite``. Without
            it a batch leaves them out; of a single picture's job they are left for `upscale_file`
            to refuse.
        selection: which of the sources are planned. All shards together are the plan of the
            whole, whatever is there already.
        several: whether there could have been several pictures, though one was named.

    Raises:
        ImageError: the patterns leave nothing, or nothing that can be read.
        OutputError: the output's suffix is of no picture that can be written.
        ConfigError: `output` is a file, and there are several results, or a name or a format is
            asked for beside it; or a name's field is not known; or times cannot be kept.
    """
    if output is not None:
        _check_output(output, files)
    check_summaries(options, files)
    samples, overwrite = options.samples, files.overwrite
    naming = _naming(options, files)
    jobs = [_job(source, output, naming, files) for source in sources]
    marked = not _is_file(output) and not naming.keeps_stems
    results = _earlier_results(jobs, sources, naming) if marked else set[Path]()
    # Only now: a result may be wanted by its name where its picture is not.
    wanted = _wanted(sources, selection)
    jobs = [job for job in jobs if job.source not in results]
    unmatched = tuple(job.source for job in jobs if job.source not in wanted)
    jobs = [job for job in jobs if job.source in wanted]
    # Only now: results of theirs that are there already are no pictures, either.
    uninstalled = _uninstalled(sources) & wanted - results
    jobs = _installed(jobs, uninstalled)
    if output is not None and _is_file(output) and (len(jobs) > 1 or samples > 1):
        raise ConfigError(
            f"{shown(output)}: is one file for {len(jobs) * samples} results; expected a folder"
        )
    jobs = _kept_apart(jobs)
    if files.keep_times:
        _check_times(jobs)
    batch = len(jobs) > 1 or any(source.folder is not None for source in sources)
    batch = batch or several or selection.shard is not None
    # Only now: a result may be in another shard than its picture, and two of one name, too.
    part = selection.part
    here = {source.path for source in sources if part.has(source.name)} & wanted
    jobs = [job for job in jobs if job.source in here]
    skips = batch and not overwrite
    made = existing(path for job in jobs for path in job.files) if skips else set[Path]()
    left, there = [], []
    for job in jobs:
        skip = skips and job.error is None and made.issuperset(job.files)
        (there if skip else left).append(job)
    left_out = tuple(sorted(results & here)), unmatched, tuple(sorted(uninstalled))
    return Plan(tuple(left), tuple(there), *left_out, batch)


def _uninstalled(sources: Iterable[Source]) -> set[Path]:
    """The pictures of folders that nothing reads which is installed; those named are an error."""
    found = {source.path for source in sources if source.folder is not None and not source.error}
    suffixes = {path.suffix.lower() for path in found} & FORMAT_BY_SUFFIX.keys()
    unread = {suffix for suffix in suffixes if not FORMAT_BY_SUFFIX[suffix].is_read}
    return {path for path in found if path.suffix.lower() in unread}


def _installed(jobs: list[Job], uninstalled: set[Path]) -> list[Job]:
    """The jobs whose pictures can be read, of which there has to be one."""
    left = [job for job in jobs if job.source not in uninstalled]
    if jobs and not left:
        raise ImageError(
            f"{shown(jobs[0].source.parent)}: nothing is left but "
            f"{', '.join(extras_of(uninstalled))}"
        )
    return left


def extras_of(pictures: Iterable[Path]) -> list[str]:
    """How many pictures there are of each format that is not read here, and what reads it."""
    counts = Counter(FORMAT_BY_SUFFIX[path.suffix.lower()].name for path in pictures)
    return [
        f"{count} {name} {'file' if count == 1 else 'files'} "
        f"(pip install 'bidiffsr[{FORMAT_BY_NAME[name.lower()].extra}]')"
        for name, count in sorted(counts.items())
    ]


def _check_times(jobs: Iterable[Job]) -> None:
    """Make sure that results can be given times."""
    for output in (output for job in jobs for output in job.files):
        if not storage_of(output).keeps_times:
            raise OptionError(
                "keep_times",
                f"got it for {shown(output)}, whose time is that of its writing; leave it out",
            )


def _wanted(sources: Sequence[Source], selection: Selection) -> set[Path]:
    """The pictures that the patterns leave, and all that were named themselves."""
    patterns = selection.patterns
    wanted = {
        source.path
        for source in sources
        if source.folder is None or patterns.want(source.name, known=source.error is None)
    }
    if not wanted:
        raise ImageError(
            f"{shown(sources[0].path.parent)}: none of {len(sources)} pictures match; expected "
            "some that --include and --exclude leave"
        )
    return wanted


def _naming(options: UpscaleOptions, files: FileOptions) -> Naming:
    width, height = options.sides
    numbers = {"scale": options.scale, "width": width, "height": height, "seed": options.seed}
    known = {name: number for name, number in numbers.items() if number is not None}
    suffix = None if files.format is None else suffix_of(files.format)
    return Naming(files.name, known, options.samples, suffix)


def check_summaries(options: UpscaleOptions, files: FileOptions) -> None:
    """Make sure that there are samples for what is to be made of them.

    Raises:
        OptionError: there is but one, or files of several pages are made.
    """
    for name in ("mean", "uncertainty"):
        if getattr(files, name) and files.pages is not None:
            raise OptionError("pages", f"got it beside --{name}, which takes single pictures")
        if getattr(files, name) and options.samples < 2:
            raise OptionError(name, "got it with one sample, expected --samples 2 or more")


def _job(source: Source, output: Path | None, naming: Naming, files: FileOptions) -> Job:
    picture = source.path
    if source.error is not None:
        return Job(picture, (), source.error)
    if output is not None and _is_file(output):
        return Job(picture, (output,) * naming.samples)
    folder = picture.parent
    if output is not None:
        folder = output if source.folder is None else output / source.name.parent
    names = naming.names(picture.stem, picture.suffix)
    summaries = {
        word: folder / naming.summary(word, picture.stem, own or naming.suffix or picture.suffix)
        for word, own in files.summaries.items()
    }
    return Job(picture, tuple(folder / name for name in names), summaries=summaries)


def _earlier_results(jobs: Iterable[Job], sources: Iterable[Source], naming: Naming) -> set[Path]:
    """The pictures that an earlier run made, at whatever scale, from others of these."""
    pictures = {job.source for job in jobs if job.error is None}
    stems = {picture.with_suffix("") for picture in pictures}
    makers = {output: job.source for job in jobs for output in job.files}

    def is_result(source: Source) -> bool:
        if makers.get(source.path, source.path) != source.path:
            return True
        stem = naming.origin(source.path.stem)
        if stem is None:
            return False
        suffix = source.path.suffix
        # Of a format of its own, it may have been made from a picture of any.
        own = suffix == naming.suffix or source.path.stem.endswith(SUMMARIES)
        name, among = (stem, stems) if own else (f"{stem}{suffix}", pictures)
        return any(folder / name in among for folder in _folders_of_origin(source))

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
    return output is not None and output.suffix.lower() in IMAGE_SUFFIXES and not _is_folder(output)


def _is_folder(path: Path) -> bool:
    return storage_of(path).is_folder(path)


def _place(path: Path) -> Path:
    return storage_of(path).real_path(path)


def _check_output(output: Path, files: FileOptions) -> None:
    for option in ("format", "name"):
        if getattr(files, option) is not None and _is_file(output):
            raise OptionError(
                option, f"got it beside the file {shown(output)}; expected a folder as output"
            )
    suffix = output.suffix.lower()
    if suffix in IMAGE_SUFFIXES or not _SUFFIX.fullmatch(suffix) or _is_folder(output):
        return
    raise OutputError(
        f"{shown(output)}: suffix {output.suffix!r} is no picture format's; expected one of "
        f"{' '.join(IMAGE_SUFFIXES)}, or a folder, which has to exist if it is to have this name"
    )


def _kept_apart(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, with an error where a result would replace a picture or another result."""
    jobs = list(jobs)
    pictures = {_place(job.source): job.source for job in jobs if job.error is None}
    taken: dict[Path, Path] = {}

    def collision(job: Job) -> OutputError | None:
        for output in job.files:
            place = _place(output)
            if place in pictures:
                return OutputError(
                    f"{shown(output)}: is the picture {shown(pictures[place])} itself, "
                    "which upscaling does not replace; choose another output"
                )
            if place in taken:
                return OutputError(
                    f"{shown(output)}: would be the result of both {shown(taken[place])} "
                    f"and {shown(job.source)}; upscale them one after the other, into "
                    "different folders"
                )
        taken.update((_place(output), job.source) for output in job.files)
        return None

    return [replace(job, error=job.error or collision(job)) for job in jobs]
