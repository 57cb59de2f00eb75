"""`bidiffsr data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import app
from bidiffsr.cli.terminal import counted, log, print_error, progress_bars, tally
from bidiffsr.system.files import printable

if TYPE_CHECKING:
    from bidiffsr.data.prepare import Prepared

data = App(name="data", help="Make training data.")
app.command(data)


@data.command(name="prepare")
def _prepare(
    folders: tuple[Path, ...],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    scale: Annotated[int, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = 4,
    side: int | None = None,
    step: int | None = None,
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"], validator=Number(gte=0))] = 0,
    skip_bad: bool = False,
    prune: bool = False,
) -> int:
    """Cut high-resolution pictures into pairs of sub-images.

    `bidiffsr data prepare DF2K/HR -o DF2K_sub --scale 4 --side 480 --step 240`

    writes DF2K_sub/HR/0001_s001.png and DF2K_sub/LR_bicubic/X4/0001_s001x4.png, and so on.
    Low-resolution pictures are MATLAB's bicubic of whole pictures, or those of the folder
    LR_bicubic beside HR where there is one. Run it again after an interruption: what is done is
    not done again, what has changed is, and what was made of the old picture is removed. Run it
    with another scale to have its LR_bicubic/X2 in the same folder, beside the same HR.

    Args:
        folders: Folders of pictures, or folders that contain HR and LR_bicubic.
        output: A folder, which is created.
        scale: The factor between the two resolutions.
        side: Of the square sub-images, in pixels, a multiple of the scale. Default: whole pictures.
        step: From one sub-image to the next. Default: the side, so that they do not overlap.
        jobs: How many processes work at once. Default: one for each CPU.
        skip_bad: Pictures that cannot be used are named and left out, and that is no failure.
        prune: Remove the pairs of pictures that are gone. Default: say that they are there.
    """
    from bidiffsr.data.prepare import SubImages, count_pairs, find_sources, prepare

    cut = SubImages(scale, side, step)
    sources = find_sources(folders)
    done = there = failed = 0
    gone: list[Prepared] = []
    with progress_bars() as bars:
        task = bars.add_task("pictures", total=len(sources), status="")
        for result in prepare(sources, output, cut, prune=prune, jobs=jobs):
            if result.is_gone:
                gone.append(result)
                continue
            bars.advance(task)
            if result.error is not None:
                failed += 1
                (log if skip_bad else print_error)(str(result.error))
            elif result.was_there:
                there += 1
            else:
                done += 1
    counts = [(there, "already there"), (failed, "left out" if skip_bad else "failed")]
    if gone:
        log(_what_became_of(gone, prune))
    pairs = counted(count_pairs(output, cut), "pair")
    log(f"{tally([(done, 'done'), *counts])}; {pairs} in {output}")
    return 1 if failed and not skip_bad else 0


def _what_became_of(gone: Sequence[Prepared], pruned: bool) -> str:
    names = [printable(each.source) for each in gone[:3]]
    of = counted(len(gone), "picture")
    pairs = f"{counted(sum(each.pairs for each in gone), 'pair')} of {of} no longer there"
    listed = ", ".join(names + ["..."] * (len(gone) > len(names)))
    if pruned:
        return f"{pairs} removed: {listed}"
    return f"{pairs} would be trained on, too: {listed}; --prune removes them"
