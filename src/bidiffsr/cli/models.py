"""`bidiffsr models`, `bidiffsr convert`, `bidiffsr pack` and `bidiffsr inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bidiffsr.cli.app import Count, app, check_text_output, published_models, write_text
from bidiffsr.cli.terminal import (
    metric,
    output_console,
    print_config,
    print_counts,
    print_error,
    print_models,
    print_result,
    progress_bars,
)
from bidiffsr.errors import ConfigError, ImageError, OptionError, OutputError
from bidiffsr.system.files import exists_already

if TYPE_CHECKING:
    from torch import nn

    from bidiffsr.config import ModelConfig


@app.command
def models(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """List the models that come with bidiffsr.

    `bidiffsr upscale photo.jpg -n NAME` uses one by its name.

    Args:
        as_json: Print JSON rather than a table.
    """
    from bidiffsr.models.catalog import list_models

    descriptions = [_description(name) for name in list_models()]
    if as_json:
        print(json.dumps(descriptions, indent=2))
    else:
        print_models(descriptions)


def _description(name: str) -> dict[str, Any]:
    """What `bidiffsr models` says of a model that comes with bidiffsr."""
    from bidiffsr.models.catalog import default_model, find_model
    from bidiffsr.models.container import open_model_file

    with find_model(name) as path, open_model_file(path) as file:
        config, size = file.config, path.stat().st_size
    default = [key for key, sampling in config.qualities.items() if sampling == config.sampling]
    uses = {
        default_model(2): "the default for scales up to 2",
        default_model(quality="fast"): "the default for quality fast",
        default_model(): "the default",
    }
    return {
        "name": name,
        "scale": config.scale,
        "bytes": size,
        "qualities": {key: sampling.steps for key, sampling in config.qualities.items()},
        "default_quality": default[0] if default else None,
        "use": uses.get(name, "by its name"),
        "licence": config.provenance.get("licence"),
    }


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
    _check_files(checkpoint, output, overwrite=overwrite)
    from bidiffsr.models.trained import save_model

    network, config = _checkpoint(checkpoint, options)
    save_model(output, network, _with_keys(config, overrides, checkpoint))
    print_result(f"{output}: {metric(output.stat().st_size)}B")


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
            and fail if the engine's differs from PyTorch's.
        overwrite: Replace the output if it exists.
    """
    _check_files(checkpoint, output, overwrite=overwrite)
    from bidiffsr.models.container import is_model
    from bidiffsr.models.packed import load_packed, save_packed

    if options is None and is_model(checkpoint):
        model = load_packed(checkpoint)
        config, tensors = model.config, model.tensors
        network = _checkpoint(checkpoint, None)[0] if verify else None
    else:
        from bidiffsr.models.trained import parameters_of

        network, config = _checkpoint(checkpoint, options)
        tensors = parameters_of(network)
    config = _with_keys(config, overrides, checkpoint)
    save_packed(output, config, tensors, float_type=float_type)
    print_result(f"{output}: {metric(output.stat().st_size)}B")
    if verify and network is not None:
        from bidiffsr.backends.compare import compare_backends

        for comparison in compare_backends(network, output):
            print_result(f"{comparison.what}: relative L2 difference {comparison.difference:.2g}")


def _checkpoint(path: Path, options: Path | None) -> tuple[nn.Module, ModelConfig]:
    """The network of a model file, or of a published checkpoint with its option file."""
    from bidiffsr.models.container import is_model
    from bidiffsr.models.published import convert_reference
    from bidiffsr.models.trained import load_model

    ours = options is None and is_model(path)
    return load_model(path) if ours else convert_reference(path, options)


def _with_keys(config: ModelConfig, overrides: Sequence[str], checkpoint: Path) -> ModelConfig:
    from bidiffsr.config import ModelConfig, parse_config
    from bidiffsr.config.overrides import with_overrides

    values = with_overrides(config.model_dump(mode="json"), overrides, str(checkpoint))
    changed = parse_config(ModelConfig, values, str(checkpoint))
    if changed.network != config.network:
        raise ConfigError("--network: cannot be changed, since the weights are of this network")
    return changed


def _check_files(checkpoint: Path, output: Path, *, overwrite: bool) -> None:
    """Before PyTorch is asked for: a mistyped name is no reason to install it."""
    if output.suffix != ".safetensors":
        raise OutputError(f"{output}: expected a name that ends in .safetensors")
    if output.exists() and not overwrite:
        raise exists_already(output)
    from bidiffsr.models.networks import check_exists

    check_exists(checkpoint)


@app.command
def inspect(
    model: str = "default",
    folder: Path | None = None,
    /,
    *,
    size: Annotated[int, Count] = 256,
    statistics: bool = False,
    limit: Annotated[int | None, Count] = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    plot: Path | None = None,
) -> int:
    """Show what a model is, and what each of its layers costs or, with --statistics, what it does.

    `bidiffsr inspect run/model.safetensors Set5 --statistics --plot inside.png`

    Args:
        model: The name of a model that comes with bidiffsr, a model file, or `bidiffsr` or `sr3`
            for the published networks. Default: x4-detail.
        folder: High-resolution pictures, for statistics of activations; they are noised as in
            training. One that cannot be used is named and left out.
        size: Height and width of the output that operations are counted for, and of the middle of
            each picture that statistics look at. Default: 256.
        statistics: Show weights, learned shifts and slopes, and activations before their signs, a
            time group and a layer. Takes PyTorch.
        limit: Look at so many pictures of the folder, the first ones. Default: 4.
        json_file: Also write the statistics, of each layer at each time group, to this file.
        plot: Also draw them, to this file; its ending is the format. Takes matplotlib.
    """
    if statistics:
        return _statistics(model, folder, size, limit or 4, json_file, plot)
    for option, given in (
        *(("folder", folder), ("limit", limit), ("json", json_file), ("plot", plot)),
    ):
        if given is not None:
            raise OptionError(option, "goes with --statistics, which is missing")
    from bidiffsr.models.catalog import find_model
    from bidiffsr.models.packed import check_model
    from bidiffsr.nn.counting import count, total

    published = published_models()
    title = model
    if model in published:
        config = published[model]
    else:
        with find_model(model) as path:
            config = check_model(path)
            title = f"{model}: {metric(path.stat().st_size)}B"
    multiple = config.network.size_multiple
    if size % multiple:
        raise ConfigError(f"--size: {size} is not a multiple of {multiple}, as this network needs")
    layers = count(config.network, size, size)
    print_result(title)
    print_config(config)
    print_counts(layers, total(layers), size)
    return 0


def _statistics(
    model: str,
    folder: Path | None,
    size: int,
    limit: int,
    json_file: Path | None,
    plot: Path | None,
) -> int:
    from bidiffsr.evaluation.benchmark import Benchmark, read_pair
    from bidiffsr.inspection.figures import check_figure_output, save_figure
    from bidiffsr.inspection.statistics_figures import statistics_figure
    from bidiffsr.models.catalog import find_model
    from bidiffsr.models.networks import load_model

    for file in filter(None, (json_file, plot)):
        check_text_output(file)
    if plot is not None:
        check_figure_output(plot)
    if model in published_models():
        raise ConfigError(f"{model}: has no weights to look at; name a model file")
    pictures = [] if folder is None else Benchmark.open(folder).pictures[:limit]
    with find_model(model) as path:
        network, config = load_model(path)
    from bidiffsr.inspection.statistics import Inspection

    inspection = Inspection(network, config, size)
    with progress_bars() as bars:
        task = bars.add_task("pictures", total=len(pictures), status="")
        for picture in bars.track(pictures, task_id=task):
            try:
                inspection.add(read_pair(picture, config.scale))
            except ImageError as error:
                print_error(error)
    found = inspection.result()
    for table in found.tables():
        output_console().print(table.rich())
    if json_file is not None:
        write_text(json_file, json.dumps(found.as_dict(), indent=1) + "\n")
    if plot is not None:
        save_figure(statistics_figure(found), plot)
    return 0 if found.pictures == len(pictures) else 1
