"""The command line: parsing and printing; the work is done by the modules below.

Commands import what they need when they run, so that --help and a mistyped option answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from bidiffsr.errors import BidiffsrError, ConfigError, OutputError
from bidiffsr.files import write_atomically
from bidiffsr.process import keep_freed_memory, sigterm_interrupts, stop_requests
from bidiffsr.terminal import (
    complain,
    explanation,
    metric,
    note,
    output_console,
    print_config,
    print_counts,
    progress_bars,
    say,
    tally,
    training_display,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from bidiffsr.jobs import Job
    from bidiffsr.upscale import Upscaler


def _version() -> str:
    from bidiffsr import __version__

    return __version__


app = App(
    name="bidiffsr",
    help="Make pictures larger and sharper, on an ordinary computer.\n\n"
    "Try: `bidiffsr upscale photo.jpg`",
    version=_version,
    # A name may begin with a bracket: it is no JSON.
    default_parameter=Parameter(negative=(), show_default=False, json_list=False, json_dict=False),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

_Count = Parameter(validator=Number(gte=1))
_Steps = Annotated[int | None, Parameter(validator=Number(gte=1))]
_Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**64))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: by default the process's own.

    Returns:
        The exit code: 0, 1 for an error, 2 for a mistyped command, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:  # then the process is ours
        keep_freed_memory()
    try:
        with sigterm_interrupts():
            code = app(tokens)
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{error} (see bidiffsr --help)")
        return 2
    except KeyboardInterrupt as stop:
        note("stopped; what was finished is kept, nothing is half-written")
        return 128 + (stop.args[0] if stop.args else SIGINT)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        explained = explanation(error)
        if explained is None:
            raise
        complain(explained)
        return 1
    return code if isinstance(code, int) else 0


@app.command
def upscale(
    pictures: tuple[Path, ...],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    scale: Annotated[float | None, Parameter(name=["--scale", "-s"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-n"])] = "default",
    steps: _Steps = None,
    seed: _Seed = 0,
    samples: Annotated[int, _Count] = 1,
    overwrite: bool = False,
    recursive: Annotated[bool, Parameter(name=["--recursive", "-r"])] = False,
    device: str | None = None,
    quality: Annotated[int, Parameter(validator=Number(gte=1, lte=100))] = 95,
) -> int:
    """Make pictures four times larger, filling in detail.

    `bidiffsr upscale photo.jpg` writes photo_x4.jpg beside it.

    `bidiffsr upscale holiday -o large` does every picture of the folder holiday. Run it again
    after an interruption: what is there already is left out, and so are results (such as
    photo_x4.jpg) that lie among the pictures they were made from.

    Args:
        pictures: Pictures (PNG, JPEG, WebP or TIFF), or folders of them.
        output: Where to: a picture's name, or a folder, which is created. Default: beside
            the picture, as photo_x4.jpg.
        scale: How many times larger; fractions are fine. Default: the most the model can, 4.
        model: A model file, instead of the one that comes with bidiffsr.
        steps: Sampling steps: more take longer. Default: what the model was made for.
        seed: Another number gives other invented detail; the same number the same.
        samples: How many different results to make of each picture.
        overwrite: Replace results that exist.
        recursive: Look into folders inside folders.
        device: cpu, cuda, ... Default: a GPU where there is one.
        quality: 1 to 100, for JPEG and WebP. Default: 95.
    """
    from bidiffsr.jobs import find_sources, plan_jobs
    from bidiffsr.upscale import Upscaler

    sources = find_sources(pictures, recursive=recursive)
    upscaler = Upscaler.from_pretrained(model, device=device)
    factor = upscaler.check_settings(scale=scale, steps=steps, samples=samples)
    plan = plan_jobs(sources, output, scale=factor, samples=samples, overwrite=overwrite)
    for job in plan.already_there:
        note(f"{job.outputs[0]}: already there, not made again (--overwrite does)")
    if plan.earlier_results:
        count, first = len(plan.earlier_results), plan.earlier_results[0]
        note(f"{first}: left out, an earlier result ({count} in all; name one alone to upscale it)")
    failed = 0
    settings = {"scale": factor, "steps": steps, "seed": seed}
    settings |= {"overwrite": overwrite, "quality": quality}
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
    from bidiffsr.jobs import upscale_file

    task = bars.add_task(job.source.name, total=None, status="")
    started = time.perf_counter()
    try:
        for progress in upscale_file(upscaler, job, **settings):
            step = progress.step
            done = step.sample * step.steps + step.step
            bars.update(task, total=step.samples * step.steps, completed=done)
            if step.result is not None:
                size = f"{step.result.width}x{step.result.height}"
                finished = time.perf_counter()
                say(f"{job.source} -> {progress.written} ({size}, {finished - started:.1f} s)")
                started = finished
    finally:
        bars.remove_task(task)


@app.command(name="eval")
def evaluate(
    folders: tuple[Path, ...],
    /,
    *,
    scale: Annotated[int, Parameter(name=["--scale", "-s"], validator=Number(gte=2))] = 4,
    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-n"])] = ("default",),
    steps: _Steps = None,
    seed: _Seed = 0,
    limit: Annotated[int | None, _Count] = None,
    device: str | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
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
        device: cpu, cuda, ... Default: a GPU where there is one.
        json_file: Also write all scores to this file.
        markdown: Also write the table to this file.
    """
    from bidiffsr.evaluation import Score, bicubic, render
    from bidiffsr.evaluation import evaluate as scores_of
    from bidiffsr.evaluation.benchmark import Benchmark

    for file in filter(None, (json_file, markdown)):
        _check_text_output(file)
    counts = [len(Benchmark.open(folder).pictures[:limit]) for folder in folders]
    methods = {"bicubic": bicubic}
    for name in model:
        if name not in methods:
            methods[name] = _scored_model(name, device, scale=scale, steps=steps, seed=seed)
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
        _write_text(json_file, json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    if markdown is not None:
        _write_text(markdown, report.markdown())


def _scored_model(name: str, device: str | None, **settings: Any) -> Callable[[Any, int], Any]:
    from bidiffsr.upscale import Upscaler

    upscaler = Upscaler.from_pretrained(name, device=device)
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


@app.command(usage="Usage: bidiffsr convert CHECKPOINT -o MODEL [OPTIONS] [--KEY VALUE]...")
def convert(
    checkpoint: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: Path | None = None,
    packed: bool = False,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the published BI-DiffSR code into a model file, or pack a model.

    `bidiffsr convert net_g.pth --options test_BI_DiffSR_x4.yml -o model.safetensors --packed`

    `bidiffsr convert run/model.safetensors -o small.safetensors --packed --sampling.steps 2`

    Any key of what the model says of itself may be set so (see `bidiffsr inspect`); values are
    YAML.

    Args:
        checkpoint: A .pth file, a .safetensors file with the same names, or a model file.
        output: The model file to write; it ends in .safetensors.
        options: The option file it was trained or tested with, which describes the network.
        packed: Store binarized weights as single bits: all that upscaling needs, but training
            cannot go on from them.
        overwrite: Replace the output if it exists.
    """
    if output.suffix != ".safetensors":
        raise OutputError(f"{output}: expected a name that ends in .safetensors")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; remove it or pass --overwrite")
    from bidiffsr.checkpoint import convert_reference, is_model, load_model, save_model
    from bidiffsr.config import ModelConfig, parse_config
    from bidiffsr.overrides import with_overrides

    ours = options is None and is_model(checkpoint)
    network, config = load_model(checkpoint) if ours else convert_reference(checkpoint, options)
    values = with_overrides(config.model_dump(mode="json"), overrides, str(checkpoint))
    changed = parse_config(ModelConfig, values, str(checkpoint))
    if changed.network != config.network:
        raise ConfigError("--network: cannot be changed, since the weights are of this network")
    config = changed
    save_model(output, network, config, packed=packed)
    say(f"{output}: {metric(output.stat().st_size)}B")


@app.command
def inspect(model: str = "default", /, *, size: Annotated[int, _Count] = 256) -> None:
    """Show what a model is, and what each of its layers costs.

    Args:
        model: `default`, a model file, or `bidiffsr` or `sr3` for the published networks.
        size: Height and width of the output that operations are counted for. Default: 256.
    """
    from bidiffsr.checkpoint import load_model
    from bidiffsr.config import ModelConfig, SR3Config
    from bidiffsr.nn import build_network
    from bidiffsr.nn.counting import count, total
    from bidiffsr.upscale import find_model

    published = {"bidiffsr": ModelConfig(), "sr3": ModelConfig(network=SR3Config())}
    title = model
    if model in published:
        config = published[model]
        network = build_network(config.network)
    else:
        with find_model(model) as path:
            network, config = load_model(path)
            title = f"{model}: {metric(path.stat().st_size)}B"
    multiple = config.network.size_multiple
    if size % multiple:
        raise ConfigError(f"--size: {size} is not a multiple of {multiple}, as this network needs")
    layers = count(network, size, size)
    say(title)
    print_config(config)
    print_counts(layers, total(layers), size)


def _check_text_output(path: Path) -> None:
    """Find out before long work rather than after it."""
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that exists")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
