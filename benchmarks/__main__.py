"""Time one step of the published network and SR3 on every system there is, in turns, in one run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.models import SMALL, commit, write_random_models
from benchmarks.plot import plot_steps
from benchmarks.systems import BIDIFFSR, SR3
from bidiffsr.bench import (
    Case,
    SpeedReport,
    System,
    describe_machine,
    measure,
    plan,
)
from bidiffsr.cli.terminal import log, progress_bars
from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.system.cpus import usable_cpus


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    cpus = usable_cpus()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=cpus)
    parser.add_argument("--only", nargs="+", help="parts of the names of systems to measure")
    parser.add_argument("--model", type=Path, help="instead of the published network's shape")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the benchmark")
    parser.add_argument("--output", type=Path, default=Path("output/bench"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print tables; save them as Markdown, everything as JSON, and a plot."""
    options = parse(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder, progress_bars() as bars:
        task = bars.add_task("benchmark", total=None, status="writing models")
        cases = cases_of(options, Path(folder))
        result = None
        for progress in measure(cases, options.rounds):
            bars.update(task, completed=progress.done, total=progress.total, status=progress.status)
            result = progress.result
    assert result is not None
    command = " ".join(
        ["python -m benchmarks", *(sys.argv[1:] if arguments is None else arguments)]
    )
    report = SpeedReport(result, machine | {"command": command, "commit": commit()})
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in report.tables():
        console.print(table.rich())
    save(report, options.output)


def cases_of(options: argparse.Namespace, folder: Path) -> list[Case]:
    """What to measure, the baseline of each size first."""
    changes = SMALL if options.small else {}
    if options.model is not None:
        models = [(options.model, BIDIFFSR)]
    else:
        network = BiDiffSRConfig.model_validate(changes)
        rival = SR3Config.model_validate(changes)
        models = [(folder / "bi-diffsr.safetensors", BIDIFFSR), (folder / "sr3.safetensors", SR3)]
        write_random_models({models[0][0]: network, models[1][0]: rival})
    return [
        case
        for model, systems in models
        for case in plan(
            model, options.sizes, options.threads, folder, chosen(systems, options.only)
        )
    ]


def chosen(systems: Sequence[System], only: Sequence[str] | None) -> list[System]:
    """Those named, and always the first, which the others are compared with."""
    return [
        system
        for index, system in enumerate(systems)
        if only is None or index == 0 or any(part in system.name for part in only)
    ]


def save(report: SpeedReport, output: Path) -> None:
    """``output`` with .json, .md, and .png where matplotlib is installed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(report.as_dict(), indent=1, default=str) + "\n"
    output.with_suffix(".json").write_text(data, encoding="utf-8")
    output.with_suffix(".md").write_text(report.markdown(), encoding="utf-8")
    try:
        plot_steps(report.result.rows, output.with_suffix(".png"))
    except ModuleNotFoundError as error:
        log(f"no plot: {error.name} is not installed")


if __name__ == "__main__":
    main()
