"""`bidiffsr upscale`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import DEFAULT_RUNNING, Count, Quality, Running, Seed, Steps, app
from bidiffsr.cli.terminal import complain, note, progress_bars, say, tally
from bidiffsr.errors import BidiffsrError

if TYPE_CHECKING:
    from rich.progress import Progress

    from bidiffsr.batch.jobs import Job
    from bidiffsr.upscaling.upscaler import Upscaler


@app.command
def upscale(
    pictures: tuple[Path, ...],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    scale: Annotated[float | None, Parameter(name=["--scale", "-s"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-n"])] = "default",
    quality: Quality | None = None,
    steps: Steps = None,
    seed: Seed = 0,
    samples: Annotated[int, Count] = 1,
    overwrite: bool = False,
    recursive: Annotated[bool, Parameter(name=["--recursive", "-r"])] = False,
    tile: int | Literal["auto"] = "auto",
    max_memory: str | None = None,
    file_quality: Annotated[int, Parameter(validator=Number(gte=1, lte=100))] = 95,
    running: Running = DEFAULT_RUNNING,
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
        scale: How many times larger; fractions are fine. Default: the most the model can, which
            is 4 where none is chosen.
        model: The name of a model that comes with bidiffsr, such as x4-small, or a model file.
            Default: the best that comes with bidiffsr for this scale.
        quality: fast is most faithful: one step, nothing invented, smooth. best is sharpest: it
            invents detail. balanced lies between. Default: what the model was made for.
        steps: Sampling steps, in place of the quality's: more take longer.
        seed: Another number gives other invented detail; the same number the same.
        samples: How many different results to make of each picture.
        overwrite: Replace results that exist.
        recursive: Look into folders inside folders.
        tile: Side of the parts that large pictures are worked on in, in pixels, or auto, which
            is the default.
        max_memory: What the program may take, such as 2G or 800M. Default: most of what is free.
        file_quality: 1 to 100, for JPEG and WebP. Default: 95.
    """
    from bidiffsr.batch.jobs import find_sources, plan_jobs
    from bidiffsr.system.memory import parse_bytes
    from bidiffsr.upscaling.upscaler import Upscaler

    memory = None if max_memory is None else parse_bytes(max_memory)
    sources = find_sources(pictures, recursive=recursive)
    upscaler = Upscaler.from_pretrained(model, scale=scale, **asdict(running))
    factor = upscaler.check_settings(
        scale=scale, quality=quality, steps=steps, samples=samples, tile=tile
    )
    plan = plan_jobs(sources, output, scale=factor, samples=samples, overwrite=overwrite)
    for job in plan.already_there:
        note(f"{job.outputs[0]}: already there, not made again (--overwrite does)")
    if plan.earlier_results:
        count, first = len(plan.earlier_results), plan.earlier_results[0]
        note(f"{first}: left out, an earlier result ({count} in all; name one alone to upscale it)")
    failed = 0
    settings: dict[str, Any] = {"scale": factor, "quality": quality, "steps": steps}
    settings |= {"seed": seed, "tile": tile, "max_memory": memory}
    settings |= {"overwrite": overwrite, "file_quality": file_quality}
    with progress_bars() as bars:
        overall = bars.add_task("all pictures", total=len(plan.jobs), status="")
        bars.update(overall, visible=len(plan.jobs) > 1)
        for job in plan.jobs:
            try:
                _upscale_one(bars, upscaler, job, settings)
            except BidiffsrError as error:
                complain(error)
                failed += 1
            bars.advance(overall)
    if plan.batch:
        there, results = len(plan.already_there), len(plan.earlier_results)
        done = len(plan.jobs) - failed
        counts = [(failed, "failed"), (there, "already there"), (results, "left out")]
        note(tally([(done, "done"), *counts]))
    return 1 if failed else 0


def _upscale_one(bars: Progress, upscaler: Upscaler, job: Job, settings: dict[str, Any]) -> None:
    from bidiffsr.batch.jobs import upscale_file

    task = bars.add_task(job.source.name, total=None, status="")
    started = time.perf_counter()
    try:
        for progress in upscale_file(upscaler, job, **settings):
            step = progress.step
            done = (step.sample * step.steps + step.step) * step.tiles + step.tile
            bars.update(task, total=step.samples * step.steps * step.tiles, completed=done)
            if step.result is not None:
                size = f"{step.result.width}x{step.result.height}"
                finished = time.perf_counter()
                say(f"{job.source} -> {progress.written} ({size}, {finished - started:.1f} s)")
                started = finished
    finally:
        bars.remove_task(task)
