"""`bidiffsr replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.backends.options import MAX_THREADS
from bidiffsr.cli.app import Count, app
from bidiffsr.cli.terminal import print_result, progress_bars


@app.command
def replay(
    result: Path,
    /,
    *,
    source: Path,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: Annotated[str | None, Parameter(name=["--model", "-n"])] = None,
    threads: Annotated[int, Parameter(validator=Number(gte=0, lte=MAX_THREADS))] = 0,
    overwrite: bool = False,
    max_pixels: Annotated[int | None, Count] = None,
) -> None:
    """Make a result again from its picture, and see whether it is the same.

    `bidiffsr replay photo_x4.jpg --source photo.jpg` says that the pixels are the same, or what
    differs: the model, the picture, the version or the CPU's instruction set.

    Args:
        result: What `bidiffsr upscale` wrote, without --strip.
        source: The picture it was made from.
        output: Where to write the result again, if it is the same. Default: nowhere.
        model: The model's file, where it does not come with bidiffsr.
        threads: Of the engine. Default: one for each CPU that this process may use.
        overwrite: Replace the output if it exists.
        max_pixels: Refuse pictures of more pixels before decoding them. Default: 268 million.
    """
    from bidiffsr.batch.replay import naming, read_recorded, replay_file
    from bidiffsr.images.codec import MAX_PIXELS
    from bidiffsr.upscaling.replaying import recorded_upscaler

    most = max_pixels or MAX_PIXELS
    recorded = read_recorded(result, max_pixels=most)
    with naming(result):
        upscaler = recorded_upscaler(recorded.recipe, model, threads=threads)
    with progress_bars() as bars:
        task = bars.add_task(result.name, total=None, status="")
        for at in replay_file(
            upscaler, recorded, source, output, overwrite=overwrite, max_pixels=most
        ):
            bars.update(task, total=at.total, completed=at.done)
    written = "" if output is None else f" -> {output}"
    print_result(f"{result}: the same pixels again{written}")
