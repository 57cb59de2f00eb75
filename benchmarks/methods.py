"""Time one step of the same network in every binarization method, in turns, in one run.

python -m benchmarks.methods [--size 256] [--rounds 7] [--precision fast]

The published network with random weights, on the engine with one thread. Beside the time, which is
the processor's, so that other programs on it do not count, stand the parameters and operations that
papers count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.models import SMALL, commit, write_random_models
from bidiffsr.bench import EngineSystem, Worker, Workload, describe_machine
from bidiffsr.bench.measure import summarize, take_turns
from bidiffsr.binary import METHODS
from bidiffsr.cli.terminal import log
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn.counting import count, total
from bidiffsr.tables import TextTable

Times = Mapping[str, Sequence[float]]
"""Milliseconds of each round, by method."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["exact", "fast"], default="fast")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the benchmark")
    parser.add_argument("--output", type=Path, default=Path("output/methods.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print the table and write it as Markdown, what it was measured on below."""
    options = parse(arguments)
    facts = describe_machine()
    networks = {
        name: BiDiffSRConfig.model_validate({"method": name} | (SMALL if options.small else {}))
        for name in METHODS
    }
    with tempfile.TemporaryDirectory() as folder:
        times = measure(networks, EngineSystem(options.precision), options, Path(folder))
    table = table_of(networks, times, options.size)
    Console(width=None if sys.stdout.isatty() else 200).print(table.rich())
    given = sys.argv[1:] if arguments is None else arguments
    facts |= {"command": " ".join(["python -m benchmarks.methods", *given]), "commit": commit()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"- {key}: {value}\n" for key, value in facts.items())
    options.output.write_text(f"{table.markdown()}\n{lines}", encoding="utf-8")


def measure(
    networks: Mapping[str, BiDiffSRConfig],
    system: EngineSystem,
    options: argparse.Namespace,
    folder: Path,
) -> Times:
    """Every network takes its turn in every round, after one step that is not counted."""
    log("writing models")
    paths = {name: folder / f"{name}.safetensors" for name in networks}
    write_random_models({paths[name]: network for name, network in networks.items()})
    times: dict[str, list[float]] = {name: [] for name in networks}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(1)) for _ in networks]
        for worker, (name, network) in zip(workers, networks.items(), strict=True):
            log(f"loading {name}")
            workload = Workload(paths[name], options.size, network.timesteps // 2, folder)
            worker.call("load", system, workload, 1)
            worker.call("processor_step")
        steps = [lambda worker=worker: worker.call("processor_step") for worker in workers]
        names = list(networks)
        for index, milliseconds in take_turns(steps, options.rounds):
            times[names[index]].append(milliseconds)
    return times


def table_of(networks: Mapping[str, BiDiffSRConfig], times: Times, size: int) -> TextTable:
    """A row for each method; ratios are to the first, round by round."""
    baseline = next(iter(times.values()))
    cells = []
    for name, milliseconds in times.items():
        counts = total(count(networks[name], size, size))
        summary = summarize(milliseconds, baseline)
        cells.append(
            (
                name,
                f"{counts.params / 1e6:.2f}",
                f"{counts.ops / 1e9:.2f}",
                f"{summary.median:.0f}",
                f"{summary.fastest:.0f}",
                f"{summary.ratio:.2f}",
            )
        )
    columns = ("method", "Params M", "OPs G", "median ms", "fastest ms", "ratio")
    return TextTable(columns, cells, text=columns[:1])


if __name__ == "__main__":
    main()
