"""`bidiffsr upscale`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bidiffsr.batch.options import (  # noqa: F401  the types of inherited fields
    FileFormat,
    PageChoice,
    Selection,
    Subsampling,
)
from bidiffsr.cli.app import FILES, RUNNING, Files, Running, app
from bidiffsr.cli.batches import foresee_all, shown, upscale_all
from bidiffsr.cli.terminal import counted, explanation, log, print_error, progress_bars
from bidiffsr.errors import ConfigError, OptionError
from bidiffsr.upscaling.options import (  # noqa: F401  the types of inherited fields
    Quality,
    TileSize,
    UpscaleOptions,
)

if TYPE_CHECKING:
    from bidiffsr.batch.options import FileOptions
    from bidiffsr.batch.plan import Plan
    from bidiffsr.batch.sources import Sources
    from bidiffsr.upscaling.upscaler import Upscaler


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Upscaling(UpscaleOptions):
    """With a short name for the scale."""

    scale: Annotated[float | None, Parameter(alias="-s")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selecting(Selection):
    """With a short name for looking into folders."""

    recursive: Annotated[bool, Parameter(alias="-r")] = False


DEFAULTS, ALL = Upscaling(), Selecting()


@app.command
def upscale(
    pictures: tuple[Path, ...] = (),
    /,
    *,
    listing: Annotated[Path | None, Parameter(name="--from")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-n"])] = "default",
    options: Upscaling = DEFAULTS,
    files: Files = FILES,
    selection: Selecting = ALL,
    dry_run: bool = False,
    ray: str | None = None,
    journal: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    running: Running = RUNNING,
) -> int:
    """Make pictures larger, filling in detail.

    `bidiffsr upscale photo.jpg` writes photo_x4.jpg beside it.

    `bidiffsr upscale holiday -o large` does every picture of the folder holiday. Run it again
    after an interruption: what is there already is left out, and so are results (such as
    photo_x4.jpg) that lie among the pictures they were made from.

    `bidiffsr upscale - -o - < photo.jpg > large.jpg` is for pipes.

    Args:
        pictures: Pictures, or folders of them; `-` for standard input.
        listing: A file that lists pictures and folders, one a line, or between NUL bytes as
            `find -print0` writes them; `-` for a list on standard input.
        output: Where to: a picture's name, or a folder, which is created; `-` for standard
            output. Default: beside the picture, as photo_x4.jpg.
        model: The name of a model that comes with bidiffsr, such as x4-small, or a model file.
            Default: the best that comes with bidiffsr for this scale and quality.
        dry_run: Write nothing; say what would be made and left out, what is wrong with pictures as
            far as that is known before they are decoded, and how much memory and disk it takes.
        ray: Have a Ray cluster do it: its address, `auto` for the one this machine is part of, or
            `local` to start one here. Each worker has --threads, by default one.
        journal: A file that says what has been made of which pictures, made where there is none.
            The same command goes on where it was, however it ended; what is there is checked;
            pictures that were moved or renamed are not done again; and several processes of a
            machine share the pictures.
        as_json: Say on standard output what happens while it happens, one JSON object a line, for
            programs.
    """
    if not pictures and listing is None:
        raise OptionError("from", "got no list, and no PICTURES; name a picture or a folder")
    from bidiffsr.batch.lists import read_list
    from bidiffsr.batch.pipes import PIPE
    from bidiffsr.batch.plan import plan_jobs
    from bidiffsr.batch.sources import find_sources
    from bidiffsr.upscaling.upscaler import Upscaler

    load = partial(
        Upscaler.from_pretrained,
        model,
        scale=options.scale,
        quality=options.quality,
        **asdict(running),
    )
    if PIPE in (*pictures, output):
        if listing is not None:
            raise OptionError("from", "got it with a pipe, which stands for one picture")
        not_of_pipes = {
            "dry-run": dry_run,
            "ray": ray is not None,
            "journal": journal is not None,
            "json": as_json,
        }
        for option, given in not_of_pipes.items():
            if given:
                raise OptionError(option, "got it with a pipe; expected pictures in files")
        _check_pipes(pictures, output, options, selection, files)
        upscaler = load()
        asked = upscaler.check(options)
        return _upscale_piped(upscaler, pictures[0], output or PIPE, asked, files)
    for option, given in (("journal", journal is not None), ("json", as_json)):
        if given and dry_run:
            raise OptionError(option, "got it with --dry-run, which only plans; leave one out")
    if ray is not None and journal is not None:
        raise OptionError("journal", "got it with --ray; it is for the processes of one machine")
    if listing is not None:
        pictures += tuple(read_list(listing, sys.stdin.buffer))
    sources = find_sources(pictures, recursive=selection.recursive)
    upscaler = load()
    asked = upscaler.check(options)
    plan = plan_jobs(
        *(sources.pictures, output, asked, files, selection), several=listing is not None
    )
    _log_left_out(sources, plan, output, named=journal is None)
    if dry_run:
        return foresee_all(upscaler, plan, asked, files)
    if ray is None:
        return upscale_all(upscaler, plan, asked, files, journal=journal, as_json=as_json)
    from bidiffsr.batch.ray import Cluster
    from bidiffsr.models.catalog import find_model

    with find_model(model, options.scale, options.quality) as path:
        cluster = Cluster(ray, path, upscaler, asdict(running), compare=as_json)
        return upscale_all(upscaler, plan, asked, files, workers=cluster, as_json=as_json)


def _log_left_out(sources: Sources, plan: Plan, output: Path | None, *, named: bool = True) -> None:
    """A line for everything that its owner may miss among the results.

    Args:
        sources: what was found.
        plan: what is made of it.
        output: where to.
        named: whether each is named that is already there; with a journal they are counted.
    """
    from bidiffsr.batch.plan import extras_of
    from bidiffsr.batch.storage import location

    for job in plan.already_there if named else ():
        log(f"{location(job.outputs[0])}: already there, not made again (--overwrite does)")
    if plan.earlier_results:
        count, first = len(plan.earlier_results), plan.earlier_results[0]
        more = f"({count} in all; name one alone to upscale it)"
        log(f"{location(first)}: left out, an earlier result {more}")
    left_out = []
    if sources.unread:
        kinds = " ".join(sorted({path.suffix.lower() for path in sources.unread}))
        what = counted(len(sources.unread), "picture")
        left_out.append(
            f"{what} of {'a kind that is' if len(sources.unread) == 1 else 'kinds that are'} "
            f"not read ({kinds})"
        )
    left_out += extras_of(plan.uninstalled)
    folders = [folder for folder in sources.folders if output is None or not _same(folder, output)]
    if folders:
        left_out.append(f"{counted(len(folders), 'folder')} inside (--recursive looks there)")
    if plan.unmatched:
        left_out.append(f"{counted(len(plan.unmatched), 'picture')} by --include or --exclude")
    if left_out:
        log(f"left out: {', '.join(left_out)}")


def _check_pipes(
    pictures: Sequence[Path],
    output: Path | None,
    options: UpscaleOptions,
    selection: Selection,
    files: FileOptions,
) -> None:
    """Make sure, before anything is read, that one picture goes in and one comes out."""
    from bidiffsr.batch.pipes import PIPE
    from bidiffsr.batch.plan import check_summaries

    if len(pictures) > 1 or options.samples > 1:
        raise ConfigError("-: stands for one picture; expected no others, and one sample")
    check_summaries(options, files)
    if selection.shard is not None:
        raise OptionError("shard", "got it with a pipe, whose one picture has no parts")
    if files.name is not None:
        raise OptionError("name", "names files that lie beside pictures; a pipe has none")
    if files.keep_times and PIPE in (*pictures, output):
        raise OptionError("keep-times", "a pipe has no times; name the picture and the result")
    if files.format is not None and output not in (None, PIPE):
        raise OptionError("format", f"got it beside {output}, whose suffix says what it is")
    if output in (None, PIPE) and sys.stdout.isatty():
        raise ConfigError("standard output is a terminal; name a file (-o), or send it into one")


def _upscale_piped(
    upscaler: Upscaler,
    picture: Path,
    output: Path,
    options: UpscaleOptions,
    files: FileOptions,
) -> int:
    """One picture from or to a pipe; standard output holds its bytes and nothing else."""
    from bidiffsr.batch.pipes import PIPE, piped_job
    from bidiffsr.batch.stream import upscale_job
    from bidiffsr.images.codec import MAX_PIXELS, most_bytes

    most = most_bytes(files.max_pixels or MAX_PIXELS)
    named: Callable[[str], str] = str
    try:
        with piped_job(
            picture, output, sys.stdin.buffer, most=most, result_format=files.format
        ) as piped:
            named = piped.named
            with progress_bars() as bars:
                for _ in shown(upscale_job(upscaler, piped.job, options, files), bars, named):
                    pass
            if output == PIPE:
                piped.send(sys.stdout.buffer)
    except Exception as error:
        explained = explanation(error)
        if explained is None:
            raise
        print_error(named(explained))
        return 1
    return 0


def _same(path: Path, other: Path) -> bool:
    return path.absolute() == other.absolute()
