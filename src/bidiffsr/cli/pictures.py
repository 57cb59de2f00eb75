"""`bidiffsr upscale`."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bidiffsr.cli.app import FILES, RUNNING, Files, Running, app
from bidiffsr.cli.terminal import (
    ResultLines,
    counted,
    explanation,
    log,
    print_error,
    progress_bars,
    tally,
)
from bidiffsr.upscaling.options import (  # noqa: F401  the types of inherited fields
    Quality,
    TileSize,
    UpscaleOptions,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from bidiffsr.batch.options import FileOptions
    from bidiffsr.batch.plan import Job, Plan
    from bidiffsr.batch.sources import Sources
    from bidiffsr.upscaling.upscaler import Upscaler


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Upscaling(UpscaleOptions):
    """With a short name for the scale."""

    scale: Annotated[float | None, Parameter(alias="-s")] = None


DEFAULTS = Upscaling()

# Of failed pictures, in the line that ends a batch.
_MOST_NAMES = 20


@app.command
def upscale(
    pictures: tuple[Path, ...],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-n"])] = "default",
    options: Upscaling = DEFAULTS,
    files: Files = FILES,
    recursive: Annotated[bool, Parameter(name=["--recursive", "-r"])] = False,
    running: Running = RUNNING,
) -> int:
    """Make pictures larger, filling in detail.

    `bidiffsr upscale photo.jpg` writes photo_x4.jpg beside it.

    `bidiffsr upscale holiday -o large` does every picture of the folder holiday. Run it again
    after an interruption: what is there already is left out, and so are results (such as
    photo_x4.jpg) that lie among the pictures they were made from.

    Args:
        pictures: Pictures (PNG, JPEG, WebP or TIFF), or folders of them.
        output: Where to: a picture's name, or a folder, which is created. Default: beside
            the picture, as photo_x4.jpg.
        model: The name of a model that comes with bidiffsr, such as x4-small, or a model file.
            Default: the best that comes with bidiffsr for this scale.
        recursive: Look into folders inside folders.
    """
    from bidiffsr.batch.plan import plan_jobs
    from bidiffsr.batch.sources import find_sources
    from bidiffsr.upscaling.upscaler import Upscaler

    sources = find_sources(pictures, recursive=recursive)
    upscaler = Upscaler.from_pretrained(model, scale=options.scale, **asdict(running))
    scale = upscaler.check(options)
    plan = plan_jobs(
        sources.pictures,
        output,
        scale=scale,
        samples=options.samples,
        overwrite=files.overwrite,
    )
    _log_left_out(sources, plan, output)
    return _upscale_all(upscaler, plan, replace(options, scale=scale), files)


def _log_left_out(sources: Sources, plan: Plan, output: Path | None) -> None:
    """A line for everything that its owner may miss among the results."""
    for job in plan.already_there:
        log(f"{job.outputs[0]}: already there, not made again (--overwrite does)")
    if plan.earlier_results:
        count, first = len(plan.earlier_results), plan.earlier_results[0]
        log(f"{first}: left out, an earlier result ({count} in all; name one alone to upscale it)")
    left_out = []
    if sources.unread:
        kinds = " ".join(sorted({path.suffix.lower() for path in sources.unread}))
        what = counted(len(sources.unread), "picture")
        left_out.append(
            f"{what} of {'a kind that is' if len(sources.unread) == 1 else 'kinds that are'} "
            f"not read ({kinds})"
        )
    folders = [folder for folder in sources.folders if output is None or not _same(folder, output)]
    if folders:
        left_out.append(f"{counted(len(folders), 'folder')} inside (--recursive looks there)")
    if left_out:
        log(f"left out: {', '.join(left_out)}")


def _same(path: Path, other: Path) -> bool:
    return path.absolute() == other.absolute()


def _upscale_all(
    upscaler: Upscaler, plan: Plan, options: UpscaleOptions, files: FileOptions
) -> int:
    """Do the jobs, whatever befalls one of them; returns the exit code."""
    from bidiffsr.batch.run import AlreadyThere
    from bidiffsr.system.files import remove_leftovers

    for folder in plan.folders:
        remove_leftovers(folder)
    failed: list[str] = []
    there = len(plan.already_there)
    lines = ResultLines()
    with progress_bars() as bars:
        overall = bars.add_task("all pictures", total=len(plan.jobs), status="")
        bars.update(overall, visible=len(plan.jobs) > 1)
        for job in plan.jobs:
            try:
                _upscale_one(bars, lines, upscaler, job, options, files)
            except BrokenPipeError:  # of standard output
                raise
            except Exception as error:
                if plan.batch and isinstance(error, AlreadyThere):
                    there += 1
                    log(f"{job.outputs[0]}: already there, made meanwhile by another run")
                else:
                    _print_failure(error, job, plan)
                    failed.append(str(job.source))
            bars.advance(overall)
    if plan.batch:
        done = len(plan.jobs) - len(failed) - (there - len(plan.already_there))
        results = len(plan.earlier_results)
        counts = [(there, "already there"), (results, "left out"), (len(failed), "failed")]
        # Their own lines may be a thousand pictures up.
        log(": ".join([tally([(done, "done"), *counts]), *_listed(failed)]))
    if lines.error is not None:
        why = lines.error.strerror
        print_error(f"standard output cannot be written to ({why}); results are kept")
    return 1 if failed or lines.error is not None else 0


def _listed(names: Sequence[str]) -> list[str]:
    """The names as one text, cut short; nothing where there are none."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return [f"{shown} and {more} more" if more > 0 else shown] if names else []


def _print_failure(error: Exception, job: Job, plan: Plan) -> None:
    """A line; for a bug of ours all there is to know, or the bug itself where it stops nothing."""
    explained = explanation(error)
    if explained is not None:
        print_error(explained)
    elif plan.batch:
        traceback.print_exception(error)
        print_error(f"{job.source}: {type(error).__name__}, which is a bug; please report it")
    else:
        raise error


def _upscale_one(
    bars: Bars,
    lines: ResultLines,
    upscaler: Upscaler,
    job: Job,
    options: UpscaleOptions,
    files: FileOptions,
) -> None:
    from bidiffsr.batch.run import upscale_file

    task = bars.add_task(job.source.name, total=None, status="")
    started = time.perf_counter()
    try:
        for progress in upscale_file(upscaler, job, options, files):
            bars.update(task, total=progress.total, completed=progress.done)
            if progress.result is not None:
                size = f"{progress.result.width}x{progress.result.height}"
                finished = time.perf_counter()
                written = job.outputs[progress.sample]
                lines.print(f"{job.source} -> {written} ({size}, {finished - started:.1f} s)")
                started = finished
    finally:
        bars.remove_task(task)
