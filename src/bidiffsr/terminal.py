"""What the command line shows: progress on stderr, tables on stdout, single lines on either."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from bidiffsr.config import ModelConfig
    from bidiffsr.nn.counting import LayerCount

# Where no terminal sets a width, tables must not be cut to the customary 80 columns.
_UNBOUNDED_WIDTH = 500


def one_line(text: object) -> str:
    """Text, such as a file's name, without line breaks and control characters."""
    joined = " ".join(str(text).splitlines())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)


def say(text: str) -> None:
    """A result, on stdout, at once."""
    print(one_line(text), flush=True)


def note(text: str) -> None:
    """A remark, on stderr, so that stdout holds nothing but results."""
    print(f"bidiffsr: {one_line(text)}", file=sys.stderr, flush=True)


def complain(error: object) -> None:
    """One line on stderr."""
    note(f"error: {error}")


def progress_bars() -> Progress:
    """Bars on stderr, or nothing where that is no terminal; use as a context manager.

    A task's field ``status`` is shown behind its count.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # Lines for a file or a pipe must not end up on stderr with the bars.
        redirect_stdout=sys.stdout.isatty(),
    )


def output_console() -> Console:
    """Stdout, for tables."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNBOUNDED_WIDTH)


def print_config(config: ModelConfig) -> None:
    """All that a model file says of itself, as YAML."""
    import yaml

    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    for line in text.splitlines():
        say(line)


def print_counts(layers: Sequence[LayerCount], total: LayerCount, size: int) -> None:
    """The table of a network's layers for an output of ``size`` x ``size`` pixels."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"one step for {size}x{size} pixels")
    for column in ("Layer", "Kind"):
        table.add_column(column)
    for column in ("Bits", "Params", "MACs", "binary MACs", "OPs"):
        table.add_column(column, justify="right")
    for layer in (*layers, total):
        if layer is total:
            table.add_section()
        bits = str(layer.bits) if layer.bits else ""
        numbers = map(metric, (layer.params, layer.macs, layer.binary_macs, layer.ops))
        table.add_row(*map(Text, (layer.name, layer.kind, bits, *numbers)))
    output_console().print(table)


def metric(number: float) -> str:
    """Three digits or so and a unit: 4.58 M."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            break
        number /= 1000
    else:
        unit = " T"
    return f"{number:.3g}{unit}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def tally(counts: Iterable[tuple[int, str]]) -> str:
    """``3 done, 1 failed``: the first always, others where there are any."""
    (first, *others) = counts
    return ", ".join(f"{n} {what}" for n, what in (first, *(item for item in others if item[0])))
