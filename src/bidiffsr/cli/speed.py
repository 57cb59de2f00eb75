"""`bidiffsr bench` and `bidiffsr kernels`."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from bidiffsr.cli.app import Count, app, check_text_output, published_models, write_text
from bidiffsr.cli.terminal import output_console, print_result, progress_bars
from bidiffsr.errors import ConfigError


@app.command
def bench(
    model: str = "default",
    /,
    *,
    size: Annotated[tuple[int, ...], Parameter(validator=Number(gte=1))] = (256,),
    rounds: Annotated[int, Count] = 7,
    threads: Annotated[int | None, Count] = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Path | None = None,
) -> None:
    """Measure speed and memory of one sampling step on this computer.

    `bidiffsr bench --size 256 --size 512 --json speed.json`

    The engine in both precisions, and PyTorch where it is installed, take turns, each in a process
    of its own. Their outputs are compared, too.

    Args:
        model: The name of a model that comes with bidiffsr, a model file, or `bidiffsr` or `sr3`
            for the published networks with random weights, which needs PyTorch. Default: x4-detail.
        size: Height and width of the output; may be given several times. Default: 256.
        rounds: Timed steps of each system. Default: 7.
        threads: The most that are used. Default: one for each CPU.
        json_file: Also write everything to this file, each single time included.
        markdown: Also write the tables to this file.
    """
    from bidiffsr.bench import INSTALLED, SpeedReport, describe_machine, measure, plan
    from bidiffsr.system.cpus import usable_cpus

    for file in filter(None, (json_file, markdown)):
        check_text_output(file)
    machine = describe_machine()
    with TemporaryDirectory() as folder, _measured_model(model, Path(folder)) as path:
        cases = plan(path, size, threads or usable_cpus(), Path(folder), INSTALLED)
        result = None
        with progress_bars() as bars:
            task = bars.add_task("measuring", total=None, status="")
            for step in measure(cases, rounds):
                bars.update(task, completed=step.done, total=step.total, status=step.status)
                result = step.result
    assert result is not None
    if not result.rows:
        raise ConfigError(f"{model}: nothing here can run it; {result.skipped[0].reason}")
    report = SpeedReport(result, machine | {"model": model, "rounds": rounds})
    for table in report.tables():
        output_console().print(table.rich())
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_dict(), indent=1) + "\n")
    if markdown is not None:
        write_text(markdown, report.markdown())


def _measured_model(model: str, folder: Path) -> AbstractContextManager[Path]:
    """The file to measure, made up for the published networks."""
    from bidiffsr.bench import Worker
    from bidiffsr.models.catalog import find_model

    published = published_models()
    if model not in published:
        return find_model(model)
    path = folder / f"{model}.safetensors"
    with Worker(1) as worker:
        worker.call("random_model", path, published[model])
    return nullcontext(path)


@app.command
def kernels() -> None:
    """List the instruction sets that the engine was built for, and which of them it uses."""
    from bidiffsr.backends.engine import KERNEL_VARIABLE, chosen_kernel
    from bidiffsr.backends.engine import kernels as every_kernel

    chosen = chosen_kernel()
    forced = os.environ.get(KERNEL_VARIABLE)
    why = f"{KERNEL_VARIABLE} asks for it" if forced else "the fastest that this CPU can run"
    for kernel in every_kernel():
        if kernel.name == chosen:
            state = f"used: {why}"
        else:
            state = "can run here" if kernel.supported else "not on this CPU"
        print_result(f"{kernel.name:12} needs {kernel.needs}; {state}")
