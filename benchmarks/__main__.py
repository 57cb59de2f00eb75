"""Time one sampling step of the published networks and of the shipped one, in one run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.steps import measure


def main() -> None:
    """Measure, print a table, save JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("output/bench.json"))
    options = parser.parse_args()

    results = [row for size in options.sizes for row in measure(size, options.rounds)]
    table = Table(title=f"one step, batch 1, {torch.get_num_threads()} threads")
    for column in ("system", "size", "median ms", "fastest ms", "ratio", "peak MB", "estimate MB"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in results:
        numbers = (row.median_ms, row.fastest_ms, row.ratio, row.peak_mb, row.estimated_mb)
        table.add_row(
            row.system,
            str(row.size),
            *(f"{number:.2f}" if number < 10 else f"{number:.0f}" for number in numbers),
        )
    Console().print(table)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
