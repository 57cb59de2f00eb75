"""The command line: parsing and printing; the work is done by the modules below.

Commands import what they need when they run, so that --help and a mistyped option answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from signal import SIGINT
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from torch import nn

    from bidiffsr.config import ModelConfig
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


@Parameter(name="*")
@dataclass(frozen=True)
class _Running:
    """What runs the network; see `bidiffsr.backends.BackendOptions`."""

    backend: Annotated[
        Literal["auto", "engine", "torch"],
        Parameter(help="What runs the network. Default: the 1-bit engine, or torch on a GPU."),
    ] = "auto"
    precision: Annotated[
        Literal["fast", "exact"],
        Parameter(help="Of the engine: bfloat16 where it cannot be seen, or float32 throughout."),
    ] = "fast"
    threads: Annotated[
        int, Parameter(help="Of the engine. Default: one for each CPU.", validator=Number(gte=0))
    ] = 0
    device: Annotated[
        str | None, Parameter(help="Of torch: cpu, cuda, ... Default: the engine, on the CPU.")
    ] = None


_DEFAULT_RUNNING = _Running()


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
    tile: int | Literal["auto"] = "auto",
    max_memory: str | None = None,
    quality: Annotated[int, Parameter(validator=Number(gte=1, lte=100))] = 95,
    running: _Running = _DEFAULT_RUNNING,
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
        tile: Side of the parts that large pictures are worked on in, in pixels, or auto, which
            is the default.
        max_memory: What the program may take, such as 2G or 800M. Default: most of what is free.
        quality: 1 to 100, for JPEG and WebP. Default: 95.
    """
    from bidiffsr.jobs import find_sources, plan_jobs
    from bidiffsr.memory import parse_bytes
    from bidiffsr.upscale import Upscaler

    memory = None if max_memory is None else parse_bytes(max_memory)
    sources = find_sources(pictures, recursive=recursive)
    upscaler = Upscaler.from_pretrained(model, **asdict(running))
    factor = upscaler.check_settings(scale=scale, steps=steps, samples=samples, tile=tile)
    plan = plan_jobs(sources, output, scale=factor, samples=samples, overwrite=overwrite)
    for job in plan.already_there:
        note(f"{job.outputs[0]}: already there, not made again (--overwrite does)")
    if plan.earlier_results:
        count, first = len(plan.earlier_results), plan.earlier_results[0]
        note(f"{first}: left out, an earlier result ({count} in all; name one alone to upscale it)")
    failed = 0
    settings: dict[str, Any] = {"scale": factor, "steps": steps, "seed": seed}
    settings |= {"tile": tile, "max_memory": memory}
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
            done = (step.sample * step.steps + step.step) * step.tiles + step.tile
            bars.update(task, total=step.samples * step.steps * step.tiles, completed=done)
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
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
    running: _Running = _DEFAULT_RUNNING,
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
        _check_text_output(file)
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
        _write_text(json_file, json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    if markdown is not None:
        _write_text(markdown, report.markdown())


def _scored_model(name: str, running: _Running, **settings: Any) -> Callable[[Any, int], Any]:
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


@app.command(usage="Usage: bidiffsr convert CHECKPOINT -o MODEL [OPTIONS] [--KEY VALUE]...")
def convert(
    checkpoint: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the published BI-DiffSR code into a model file to train on from.

    `bidiffsr convert net_g.pth --options test_BI_DiffSR_x4.yml -o model.safetensors`

    Any key of what the model says of itself may be set as `--sampling.steps 2` does (see
    `bidiffsr inspect`); values are YAML. To upscale with it, `bidiffsr pack` makes it small.

    Args:
        checkpoint: A .pth file, a .safetensors file with the same names, or a model file.
        output: The model file to write; it ends in .safetensors.
        options: The option file it was trained or tested with, which describes the network.
        overwrite: Replace the output if it exists.
    """
    _check_model_output(output, overwrite=overwrite)
    from bidiffsr.checkpoint import save_model

    network, config = _checkpoint(checkpoint, options)
    save_model(output, network, _with_keys(config, overrides, checkpoint))
    say(f"{output}: {metric(output.stat().st_size)}B")


@app.command(usage="Usage: bidiffsr pack CHECKPOINT -o MODEL [OPTIONS] [--KEY VALUE]...")
def pack(
    checkpoint: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    float_type: Annotated[Literal["bf16", "fp32"], Parameter(name="--float")] = "bf16",
    options: Path | None = None,
    verify: bool = False,
    overwrite: bool = False,
) -> None:
    """Pack a model, one bit for each binarized weight: all that upscaling needs.

    `bidiffsr pack run/model.safetensors -o small.safetensors --verify --sampling.steps 2`

    `bidiffsr pack net_g.pth --options test_BI_DiffSR_x4.yml -o small.safetensors`

    Any key of what the model says of itself may be set so (see `bidiffsr inspect`); values are
    YAML. Training cannot go on from the result.

    Args:
        checkpoint: A model file, or a checkpoint of the published code as `bidiffsr convert` reads
            it, which takes PyTorch.
        output: The model file to write; it ends in .safetensors.
        float_type: How weights of more than one bit are kept: bf16, half as large and hardly
            different, or fp32, as they are. Default: bf16.
        options: The option file of a published checkpoint, which describes the network.
        verify: Run the result in PyTorch and in the engine, print how far the outputs are apart,
            and fail where the engine's is another than PyTorch's.
        overwrite: Replace the output if it exists.
    """
    _check_model_output(output, overwrite=overwrite)
    from bidiffsr.model_file import is_model
    from bidiffsr.packed import load_packed, save_packed

    if options is None and is_model(checkpoint):
        model = load_packed(checkpoint)
        config, tensors = model.config, model.tensors
        network = _checkpoint(checkpoint, None)[0] if verify else None
    else:
        from bidiffsr.checkpoint import parameters_of

        network, config = _checkpoint(checkpoint, options)
        tensors = parameters_of(network)
    config = _with_keys(config, overrides, checkpoint)
    save_packed(output, config, tensors, float_type=float_type)
    say(f"{output}: {metric(output.stat().st_size)}B")
    if verify and network is not None:
        from bidiffsr.verify import compare_backends

        for comparison in compare_backends(network, output):
            say(f"{comparison.what}: relative L2 difference {comparison.difference:.2g}")


def _checkpoint(path: Path, options: Path | None) -> tuple[nn.Module, ModelConfig]:
    """The network of a model file, or of a published checkpoint with its option file."""
    from bidiffsr.checkpoint import convert_reference, load_model
    from bidiffsr.model_file import is_model

    ours = options is None and is_model(path)
    return load_model(path) if ours else convert_reference(path, options)


def _with_keys(config: ModelConfig, overrides: Sequence[str], checkpoint: Path) -> ModelConfig:
    from bidiffsr.config import ModelConfig, parse_config
    from bidiffsr.overrides import with_overrides

    values = with_overrides(config.model_dump(mode="json"), overrides, str(checkpoint))
    changed = parse_config(ModelConfig, values, str(checkpoint))
    if changed.network != config.network:
        raise ConfigError("--network: cannot be changed, since the weights are of this network")
    return changed


def _check_model_output(output: Path, *, overwrite: bool) -> None:
    if output.suffix != ".safetensors":
        raise OutputError(f"{output}: expected a name that ends in .safetensors")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; remove it or pass --overwrite")


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


@app.command
def bench(
    model: str = "default",
    /,
    *,
    size: Annotated[tuple[int, ...], Parameter(validator=Number(gte=1))] = (256,),
    rounds: Annotated[int, _Count] = 7,
    threads: Annotated[int | None, _Count] = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
) -> None:
    """Measure speed and memory of one sampling step on this computer.

    `bidiffsr bench --size 256 --size 512 --json speed.json`

    The engine in both precisions, and PyTorch where it is installed, take turns, each in a process
    of its own. Their outputs are compared, too.

    Args:
        model: `default`, a model file, or `bidiffsr` or `sr3` for the published networks with
            random weights, which needs PyTorch.
        size: Height and width of the output; may be given several times. Default: 256.
        rounds: Timed steps of each system. Default: 7.
        threads: The most that are used. Default: one for each CPU.
        json_file: Also write everything to this file, each single time included.
        markdown: Also write the tables to this file.
    """
    from bidiffsr.bench import INSTALLED, Report, describe_machine, measure, plan, usable_cpus

    for file in filter(None, (json_file, markdown)):
        _check_text_output(file)
    machine = describe_machine()
    with TemporaryDirectory() as folder, _measured_model(model, Path(folder)) as path:
        entries = plan(path, size, threads or usable_cpus(), Path(folder), INSTALLED)
        result = None
        with progress_bars() as bars:
            task = bars.add_task("measuring", total=None, status="")
            for step in measure(entries, rounds):
                bars.update(task, completed=step.done, total=step.total, status=step.status)
                result = step.result
    assert result is not None
    if not result.rows:
        raise ConfigError(f"{model}: nothing here can run it; {result.skipped[0].reason}")
    report = Report(result, machine | {"model": model, "rounds": rounds})
    for table in report.tables():
        output_console().print(table.rich())
    if json_file is not None:
        _write_text(json_file, json.dumps(report.as_dict(), indent=1) + "\n")
    if markdown is not None:
        _write_text(markdown, report.markdown())


def _measured_model(model: str, folder: Path) -> AbstractContextManager[Path]:
    """The file to measure, made up for the published networks."""
    from bidiffsr.bench import Worker
    from bidiffsr.config import ModelConfig, SR3Config
    from bidiffsr.upscale import find_model

    published = {"bidiffsr": ModelConfig(), "sr3": ModelConfig(network=SR3Config())}
    if model not in published:
        return find_model(model)
    path = folder / f"{model}.safetensors"
    with Worker(1) as worker:
        worker.call("random_model", path, published[model])
    return nullcontext(path)


@app.command
def kernels() -> None:
    """List the instruction sets that the engine was built for, and which of them it uses."""
    from bidiffsr.engine import KERNEL_VARIABLE, chosen_kernel
    from bidiffsr.engine import kernels as every_kernel

    chosen = chosen_kernel()
    forced = os.environ.get(KERNEL_VARIABLE)
    why = f"{KERNEL_VARIABLE} asks for it" if forced else "the fastest that this CPU can run"
    for kernel in every_kernel():
        if kernel.name == chosen:
            state = f"used: {why}"
        else:
            state = "can run here" if kernel.supported else "not on this CPU"
        say(f"{kernel.name:12} needs {kernel.needs}; {state}")


def _check_text_output(path: Path) -> None:
    """Find out before long work rather than after it."""
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that exists")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
