"""`bidiffsr eval`, `bidiffsr compare` and `bidiffsr train`."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import RUNNING, Count, Running, app, check_text_output, write_text
from bidiffsr.cli.terminal import (
    counted,
    log,
    output_console,
    print_error,
    print_result,
    progress_bars,
    storing_display,
    tally,
    training_display,
)
from bidiffsr.errors import BidiffsrError, OptionError
from bidiffsr.system.process import stop_requests
from bidiffsr.upscaling.options import Quality, UpscaleOptions

if TYPE_CHECKING:
    from bidiffsr.evaluation import Metric


@app.command(name="eval")
def evaluate(
    folders: tuple[Path, ...],
    /,
    *,
    scale: Annotated[int | None, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = None,
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-n"])] = ("default",),
    quality: tuple[Quality, ...] = (),
    steps: int | None = None,
    ensemble: bool = False,
    seed: tuple[int, ...] = (0,),
    limit: Annotated[int | None, Count] = None,
    lpips: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
    latex: Path | None = None,
    csv: Path | None = None,
    running: Running = RUNNING,
) -> None:
    """Score models on folders of high-resolution pictures, as the papers do.

    `bidiffsr eval Set5 Urban100 --markdown table.md`

    `bidiffsr eval Set5 -n default -n run/model.safetensors --quality fast --quality best`

    `bidiffsr eval Set5 B100 -n x4-small --seed 0 --seed 1 --seed 2 --latex table.tex`

    `bidiffsr eval Set5 -n BI-DiffSR=seed0/model.safetensors -n BI-DiffSR=seed1/model.safetensors`

    Each picture is made small, upscaled, and compared with itself: PSNR and SSIM on the luma
    (higher is better), NIQE and LPIPS (lower is better), and seconds for a million pixels. Bicubic
    interpolation is always scored too. With several seeds a score is the mean over them ± the
    standard deviation of the set's mean. Models are named in the tables by their files, or by the
    folders of files that training wrote, if these names differ; `LABEL=FILE` gives another name.
    The files of a label that is given several times, such as those of several trainings, make one
    row: means over the files ± their standard deviation.

    Args:
        folders: Folders of pictures, or folders that contain HR and LR_bicubic.
        scale: The factor. Default: the most that all the models can; 4 for bicubic.
        model: The name of a model that comes with bidiffsr, a model file, `LABEL=FILE`, or
            `bicubic`; may be given several times. Default: `default`, the best that comes with it
            for this scale.
        quality: As in `bidiffsr upscale`; may be given several times, which makes a row for each
            model and quality. Default: what each model was made for.
        steps: Sampling steps, in place of the quality's.
        ensemble: Average eight turned and mirrored results, as in `bidiffsr upscale`.
        seed: Of the sampling noise; may be given several times. Default: 0.
        limit: Score only so many pictures of each folder, the first ones.
        lpips: The weights of LPIPS. Default: those that are installed.
        json_file: Also write all scores to this file.
        markdown: Also write the tables to this file: in the papers' layout, and what is printed.
        latex: Also write the table in the papers' layout to this file, for LaTeX with booktabs,
            the best of each column bold and the second underlined.
        csv: Also write the mean of each method, set, metric and seed to this file, unrounded.
    """
    from bidiffsr.cli.contenders import contenders
    from bidiffsr.evaluation import Score, render
    from bidiffsr.evaluation import evaluate as scores_of
    from bidiffsr.evaluation.benchmark import Benchmark

    for file in filter(None, (json_file, markdown, latex, csv)):
        check_text_output(file)
    metrics = _metrics(lpips)
    counts = [len(Benchmark.open(folder).pictures[:limit]) for folder in folders]
    asked = [
        UpscaleOptions(scale=scale, quality=each, steps=steps, ensemble=ensemble)
        for each in quality or (None,)
    ]
    rows, factor = contenders(model, running, asked, seed)
    scores: dict[str, list[Score]] = {row.name: [] for row in rows}
    work = ((row, draw, folder) for row in rows for draw in row.draws.items() for folder in folders)
    with progress_bars() as bars:
        total = sum(len(row.draws) for row in rows) * sum(counts)
        task = bars.add_task("scoring", total=total, status="")
        for row, (drawn, method), folder in work:
            bars.update(task, description=f"{row.name}: {folder.name}")
            for score in islice(scores_of(folder, method, factor, metrics), limit):
                scores[row.name].append(replace(score, seed=drawn))
                first = metrics[0]
                shown = f"{first.heading} {first.cell(score[first.name])}"
                bars.update(task, advance=1, status=f"{score.name}: {shown}")
    report = render(scores, factor, {row.name: row.cost for row in rows if row.cost})
    output_console().print(report.table().rich())
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    if markdown is not None:
        tables = (report.paper_table(), report.table())
        write_text(markdown, "\n".join(table.markdown() for table in tables))
    if latex is not None:
        write_text(latex, report.paper_table().latex())
    if csv is not None:
        write_text(csv, report.csv())


@app.command
def compare(
    pictures: tuple[Path, ...],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-n"])] = ("default",),
    quality: tuple[Quality, ...] = (),
    scale: Annotated[int | None, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = None,
    steps: int | None = None,
    seed: int = 0,
    side: Annotated[int, Count] = 96,
    at: tuple[tuple[int, int], ...] = (),
    tradeoff: Path | None = None,
    perception: Literal["lpips", "niqe"] = "lpips",
    lpips: Path | None = None,
    running: Running = RUNNING,
) -> int:
    """Draw crops of models' results side by side, as papers do.

    `bidiffsr compare butterfly.png baby.png -n x4-small -n run/model.safetensors -o figure.png`

    Each picture is made small and upscaled by bicubic interpolation and every model. The figure has
    a part for each: the whole original, and a square of it beside what the methods made of it, with
    their scores of the whole picture. A picture that cannot be used is named and left out. Takes
    matplotlib.

    Args:
        pictures: High-resolution pictures, or folders of such.
        output: The figure to write; its ending is the format: png, pdf or svg.
        model: As in `bidiffsr eval`; may be given several times, a label once.
        quality: As in `bidiffsr eval`; may be given several times.
        scale: The factor. Default: the most that all the models can.
        steps: Sampling steps, in place of the quality's.
        seed: Of the sampling noise. Default: 0.
        side: Of the square, in pixels of the original. Default: 96.
        at: Its left and top, `--at 250 270`; given once for each picture. Default: where bicubic
            interpolation is farthest from the original.
        tradeoff: Also draw the perception-distortion plot to this file: each method's means over
            the pictures.
        perception: What PSNR is set against: lpips, or niqe, which is also used where the weights
            of LPIPS are not installed. Default: lpips.
        lpips: The weights of LPIPS. Default: those that are installed.
    """
    from bidiffsr.cli.contenders import contenders
    from bidiffsr.evaluation.benchmark import read_pair
    from bidiffsr.images.find import find_images
    from bidiffsr.inspection.comparison import compare as compared
    from bidiffsr.inspection.comparison_figures import comparison_figure, tradeoff_figure
    from bidiffsr.inspection.figures import check_figure_output, save_figure

    for file in filter(None, (output, tradeoff)):
        check_text_output(file)
        check_figure_output(file)
    paths = find_images(pictures)
    if at and len(at) != len(paths):
        raise OptionError("at", f"given {len(at)} times for {counted(len(paths), 'picture')}")
    metrics = _metrics(lpips)
    names = {metric.name: metric for metric in metrics}
    drawn = names["niqe" if lpips is None and not _has_lpips() else perception]
    asked = [UpscaleOptions(scale=scale, quality=each, steps=steps) for each in quality or (None,)]
    rows, factor = contenders(model, running, asked, (seed,))
    for row in rows:
        if len(row.draws) > 1:
            raise OptionError("model", f"{row.name} is given twice; a figure shows one of them")
    methods = {row.name: method for row in rows for method in row.draws.values()}
    made, failed = [], 0
    with progress_bars() as bars:
        task = bars.add_task("pictures", total=len(paths), status="")
        for path, place in bars.track(list(zip_longest(paths, at)), task_id=task):
            try:
                pair = read_pair(path, factor)
                made.append(compared(pair, methods, factor, side, place, (names["psnr"], drawn)))
            except BidiffsrError as error:
                print_error(error)
                failed += 1
    if not made:
        return 1
    save_figure(comparison_figure(made, drawn), output)
    if tradeoff is not None:
        save_figure(tradeoff_figure(made, drawn), tradeoff)
    counts = [(len(made), "compared"), (failed, "left out")]
    print_result(f"{output}: {tally(counts)}")
    return 1 if failed else 0


def _has_lpips() -> bool:
    from bidiffsr.evaluation.lpips import installed

    return installed() is not None


def _metrics(lpips: Path | None) -> tuple[Metric, ...]:
    """All metrics, with the weights of LPIPS in this file or with those that are installed."""
    from bidiffsr.evaluation import METRICS, Lpips, metrics_with
    from bidiffsr.evaluation.lpips import FETCH, installed

    if lpips is not None:
        return metrics_with(Lpips(lpips))
    if installed() is None:
        log(f"LPIPS is left out, its weights are not installed; {FETCH} and give --lpips its path")
    return METRICS


@app.command(usage="Usage: bidiffsr train CONFIG [--KEY VALUE]...")
def train(
    config: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
) -> int:
    """Train a model as a YAML file describes.

    `bidiffsr train run.yml --optimizer.learning_rate 2e-4 --data.folders "[DIV2K, Flickr2K]"`

    Any key of the file may be overridden so; values are YAML. Ctrl-C stops after the running
    iteration and saves; the same command goes on where it stopped, to the very same weights.
    Relative paths start from the current folder.

    Args:
        config: The YAML file.
    """
    from bidiffsr.config import TrainingConfig, load_yaml, parse_config
    from bidiffsr.config.overrides import with_overrides

    values = with_overrides(load_yaml(config), overrides, str(config))
    settings = parse_config(TrainingConfig, values, str(config))

    from bidiffsr.training.processes import Processes
    from bidiffsr.training.trainer import MODEL_NAME
    from bidiffsr.training.trainer import train as iterations_of

    first = Processes.here().first
    reached: int | None = None
    with stop_requests() as signals, progress_bars() as bars:
        show = training_display(bars, settings.iterations)
        stored = storing_display(bars, str(settings.data.store)) if first else None
        trained = iterations_of(settings, stop=lambda: bool(signals), stored=stored)
        with closing(trained) as iterations:
            for progress in iterations:
                reached = progress.iteration
                if first:
                    show(progress)
    if not first:
        return 128 + signals[0] if signals else 0
    if reached is None:
        log(f"{settings.output}: holds all {settings.iterations} iterations already")
        return 0
    if reached < settings.iterations:
        log(
            f"stopped after iteration {reached} of {settings.iterations}, saved in "
            f"{settings.output}; the same command goes on"
        )
        return 128 + signals[0] if signals else 0
    print_result(f"{settings.output / MODEL_NAME}: trained for {reached} iterations")
    return 0
