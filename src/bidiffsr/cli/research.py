"""`bidiffsr eval` and `bidiffsr train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import (
    DEFAULT_RUNNING,
    Count,
    Running,
    Seed,
    Steps,
    app,
    check_text_output,
    write_text,
)
from bidiffsr.process import stop_requests
from bidiffsr.terminal import note, output_console, progress_bars, say, training_display


@app.command(name="eval")
def evaluate(
    folders: tuple[Path, ...],
    /,
    *,
    scale: Annotated[int, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = 4,
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-n"])] = ("default",),
    steps: Steps = None,
    seed: Seed = 0,
    limit: Annotated[int | None, Count] = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
    running: Running = DEFAULT_RUNNING,
) -> None:
    """Score models on folders of high-resolution pictures, as the papers do.

    `bidiffsr eval Set5 Urban100 --markdown table.md`

    `bidiffsr eval Set5 -n default -n run/model.safetensors --limit 2`

    Each picture is made small, upscaled, and compared with itself: PSNR and SSIM on the luma
    (higher is better), NIQE (lower is better), and seconds for a million pixels. Bicubic
    interpolation is always scored too.

    Args:
        folders: Folders of pictures, or such with HR and LR_bicubic inside.
        scale: The factor. Default: 4.
        model: A model file, `default` or `bicubic`; may be given several times.
        steps: Sampling steps. Default: what the model was made for.
        seed: Of the sampling noise. Default: 0.
        limit: Score so many pictures of each folder only.
        json_file: Also write all scores to this file.
        markdown: Also write the table to this file.
    """
    from bidiffsr.evaluation import Score, bicubic, render
    from bidiffsr.evaluation import evaluate as scores_of
    from bidiffsr.evaluation.benchmark import Benchmark

    for file in filter(None, (json_file, markdown)):
        check_text_output(file)
    counts = [len(Benchmark.open(folder).pictures[:limit]) for folder in folders]
    methods = {"bicubic": bicubic}
    for name in model:
        if name not in methods:
            methods[name] = _scored_model(name, running, scale=scale, steps=steps, seed=seed)
    scores: dict[str, list[Score]] = {name: [] for name in methods}
    with progress_bars() as bars:
        task = bars.add_task("scoring", total=len(methods) * sum(counts), status="")
        for name, method in methods.items():
            for folder in folders:
                bars.update(task, description=f"{name}: {folder.name}")
                for score in islice(scores_of(folder, method, scale), limit):
                    scores[name].append(score)
                    bars.update(task, advance=1, status=f"{score.name} {score.psnr:.2f} dB")
    report = render(scores, scale)
    output_console().print(report.table())
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    if markdown is not None:
        write_text(markdown, report.markdown())


def _scored_model(name: str, running: Running, **settings: Any) -> Callable[[Any, int], Any]:
    from bidiffsr.upscale import Upscaler

    upscaler = Upscaler.from_pretrained(name, **asdict(running))
    upscaler.check_settings(scale=settings["scale"], steps=settings["steps"])
    return lambda low, _: upscaler(low, **settings)


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
    from bidiffsr.overrides import with_overrides

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
        note(f"{settings.output}: holds all {settings.iterations} iterations already")
        return 0
    if reached < settings.iterations:
        note(
            f"stopped after iteration {reached} of {settings.iterations}, saved in "
            f"{settings.output}; the same command goes on"
        )
        return 128 + signals[0] if signals else 0
    say(f"{settings.output / MODEL_NAME}: trained for {reached} iterations")
    return 0
