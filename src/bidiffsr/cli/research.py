"""`bidiffsr eval` and `bidiffsr train`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import RUNNING, Count, Running, app, check_text_output, write_text
from bidiffsr.cli.terminal import log, output_console, print_result, progress_bars, training_display
from bidiffsr.errors import ConfigError
from bidiffsr.system.process import stop_requests
from bidiffsr.upscaling.options import Quality, UpscaleOptions

if TYPE_CHECKING:
    from bidiffsr.backends.options import BackendOptions
    from bidiffsr.evaluation import Method, Metric


@app.command(name="eval")
def evaluate(
    folders: tuple[Path, ...],
    /,
    *,
    scale: Annotated[int | None, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = None,
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-n"])] = ("default",),
    quality: tuple[Quality, ...] = (),
    steps: int | None = None,
    seed: int = 0,
    limit: Annotated[int | None, Count] = None,
    lpips: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
    running: Running = RUNNING,
) -> None:
    """Score models on folders of high-resolution pictures, as the papers do.

    `bidiffsr eval Set5 Urban100 --markdown table.md`

    `bidiffsr eval Set5 -n default -n run/model.safetensors --quality fast --quality best`

    Each picture is made small, upscaled, and compared with itself: PSNR and SSIM on the luma
    (higher is better), NIQE and LPIPS (lower is better), and seconds for a million pixels. Bicubic
    interpolation is always scored too.

    Args:
        folders: Folders of pictures, or folders that contain HR and LR_bicubic.
        scale: The factor. Default: the most that all the models can; 4 for bicubic.
        model: The name of a model that comes with bidiffsr, a model file, or `bicubic`; may be
            given several times. Default: `default`, the best that comes with it for this scale.
        quality: As in `bidiffsr upscale`; may be given several times, which makes a row for each
            model and quality. Default: what each model was made for.
        steps: Sampling steps, in place of the quality's.
        seed: Of the sampling noise. Default: 0.
        limit: Score only so many pictures of each folder, the first ones.
        lpips: The weights of LPIPS. Default: those that are installed.
        json_file: Also write all scores to this file.
        markdown: Also write the table to this file.
    """
    from bidiffsr.evaluation import Score, render
    from bidiffsr.evaluation import evaluate as scores_of
    from bidiffsr.evaluation.benchmark import Benchmark

    for file in filter(None, (json_file, markdown)):
        check_text_output(file)
    metrics = _metrics(lpips)
    counts = [len(Benchmark.open(folder).pictures[:limit]) for folder in folders]
    asked = [
        UpscaleOptions(scale=scale, quality=each, steps=steps, seed=seed)
        for each in quality or (None,)
    ]
    methods, factor = _methods(model, running, asked)
    scores: dict[str, list[Score]] = {name: [] for name in methods}
    with progress_bars() as bars:
        task = bars.add_task("scoring", total=len(methods) * sum(counts), status="")
        for name, method in methods.items():
            for folder in folders:
                bars.update(task, description=f"{name}: {folder.name}")
                for score in islice(scores_of(folder, method, factor, metrics), limit):
                    scores[name].append(score)
                    first = metrics[0]
                    shown = f"{first.heading} {first.cell(score[first.name])}"
                    bars.update(task, advance=1, status=f"{score.name}: {shown}")
    report = render(scores, factor)
    output_console().print(report.table().rich())
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    if markdown is not None:
        write_text(markdown, report.table().markdown())


def _metrics(lpips: Path | None) -> tuple[Metric, ...]:
    """All metrics, with the weights of LPIPS in this file or with those that are installed."""
    from bidiffsr.evaluation import METRICS, Lpips, metrics_with
    from bidiffsr.evaluation.lpips import FETCH, installed

    if lpips is not None:
        return metrics_with(Lpips(lpips))
    if installed() is None:
        log(f"LPIPS is left out, its weights are not installed; {FETCH} and give --lpips its path")
    return METRICS


def _methods(
    models: Sequence[str], running: BackendOptions, asked: Sequence[UpscaleOptions]
) -> tuple[dict[str, Method], int]:
    """What is scored, by the names of the rows, and the scale, which all of ``asked`` share."""
    from bidiffsr.evaluation import bicubic
    from bidiffsr.upscaling.upscaler import Upscaler

    scale = asked[0].scale
    upscalers = {
        name: Upscaler.from_pretrained(name, scale=scale, **asdict(running))
        for name in dict.fromkeys(models)
        if name != "bicubic"
    }
    factor = scale or min((each.config.scale for each in upscalers.values()), default=4)

    def method(name: str, options: UpscaleOptions) -> Method:
        upscaler = upscalers[name]
        try:
            upscaler.check(options)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        upscale: Any = partial(upscaler, **asdict(options))
        return lambda low, _: upscale(low)

    methods: dict[str, Method] = {"bicubic": bicubic}
    for name in upscalers:
        for options in asked:
            row = name if options.quality is None else f"{name} ({options.quality})"
            methods[row] = method(name, replace(options, scale=factor))
    return methods, int(factor)


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

    from bidiffsr.training.trainer import MODEL_NAME
    from bidiffsr.training.trainer import train as iterations_of

    iterations = iterations_of(settings)
    reached: int | None = None
    with (
        stop_requests() as signals,
        progress_bars() as bars,
        closing(iterations),  # which saves
    ):
        show = training_display(bars, settings.iterations)
        for progress in iterations:
            reached = progress.iteration
            show(progress)
            if signals:
                break
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
