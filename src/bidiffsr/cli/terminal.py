"""What the command line shows: progress on stderr, tables on stdout, single lines on either."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bidiffsr.errors import BidiffsrError
from bidiffsr.system.process import discard_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bidiffsr.config import ModelConfig
    from bidiffsr.nn.counting import LayerCount
    from bidiffsr.training.trainer import TrainingProgress

# What provides the packages that are not always installed.
_EXTRAS = {
    "torch": "torch",
    "lightning_fabric": "train",
    "tensorboardX": "train",
    "matplotlib": "plot",
    "fastapi": "server",
    "uvicorn": "server",
    "prometheus_client": "server",
    "python_multipart": "server",
    "ray": "ray",
    "pyarrow": "ray",
    "fsspec": "ray",
}
# Where no terminal sets a width, tables must not be cut to the customary 80 columns.
_UNBOUNDED_WIDTH = 500
# Seconds between two lines of training's progress where there is no terminal for a bar.
_LINE_EVERY = 10.0


def one_line(text: object) -> str:
    """Text, such as a file's name, without line breaks and control characters."""
    joined = " ".join(str(text).splitlines())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)


def print_result(text: str) -> None:
    """A result, on stdout, at once."""
    encoding = sys.stdout.encoding or "utf-8"  # which may not have every name's letters
    print(one_line(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)


class ResultLines:
    """Lines on stdout about work that is kept whether or not they can be written."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        """Why lines are missing, where they are."""

    def print(self, text: str) -> None:
        """As ``print_result``; nothing more once that has failed.

        Raises:
            BrokenPipeError: the reader has seen enough.
        """
        if self.error is not None:
            return
        try:
            print_result(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.error = error
            discard_output()


def log(text: str) -> None:
    """A remark, on stderr, so that stdout holds nothing but results."""
    with suppress(OSError):  # whom would we tell?
        print(f"bidiffsr: {one_line(text)}", file=sys.stderr, flush=True)


def print_error(error: object) -> None:
    """One line on stderr."""
    log(f"error: {error}")


def explanation(error: Exception) -> str | None:
    """One line on trouble that is nobody's bug; None where it may be ours."""
    if isinstance(error, BidiffsrError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"{error.name} is not installed; pip install 'bidiffsr[{_EXTRAS[error.name]}]'"
    from bidiffsr.system.memory import is_out_of_memory

    if is_out_of_memory(error):
        return "the memory ran out; close other programs, or take a smaller picture, crop or batch"
    if isinstance(error, OSError):
        return ": ".join(filter(None, (error.filename, error.strerror))) or str(error)
    return None


def report_error(error: Exception) -> int:
    """Print trouble that is nobody's bug as one line; returns the exit code.

    Raises:
        Exception: ``error`` itself, where it may be ours.
    """
    explained = explanation(error)
    if explained is None:
        raise error
    print_error(explained)
    return 1


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; what the process is to end with."""
    try:
        return command() or 0
    except Exception as error:
        return report_error(error)


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

    # FORCE_COLOR makes no terminal of a log file.
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
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

    text = yaml.safe_dump(
        config.model_dump(mode="json"),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,  # lists, and mappings without others inside, on one line
    )
    for line in text.splitlines():
        print_result(line)


def print_models(descriptions: Sequence[Mapping[str, Any]]) -> None:
    """The table of models, each as `bidiffsr models --json` describes it."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("Model", "Scale", "Size", "Qualities (steps)", "Use"):
        table.add_column(column)
    for model in descriptions:
        qualities = ", ".join(
            f"{name} ({steps}{'; default' * (name == model['default_quality'])})"
            for name, steps in model["qualities"].items()
        )
        scale, size = f"{model['scale']}x", f"{metric(model['bytes'])}B"
        table.add_row(*map(Text, (model["name"], scale, size, qualities, model["use"])))
    output_console().print(table)


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


def training_display(bars: Progress, iterations: int) -> Callable[[TrainingProgress], None]:
    """Shows training as a bar, or where there is no terminal as a line now and then."""
    task = bars.add_task("training", total=None, status="")
    printed, loss = -math.inf, ""
    begun = False

    def show(progress: TrainingProgress) -> None:
        nonlocal printed, loss, begun
        rate = f"{progress.seconds_per_iteration:.3g} s/it"
        if progress.loss is not None:
            loss = f"loss {progress.loss:.4g}  "
        if not begun:  # what an earlier run did must not count for the time that is left
            bars.reset(task, total=iterations, completed=progress.iteration)
            begun = True
        bars.update(task, completed=progress.iteration, status=loss + rate)
        now = time.monotonic()
        if bars.disable and progress.loss is not None and now - printed > _LINE_EVERY:
            left = timedelta(
                seconds=round((iterations - progress.iteration) * progress.seconds_per_iteration)
            )
            print_result(
                f"iteration {progress.iteration} of {iterations}  {loss}{rate}  {left} left"
            )
            printed = now
        if progress.scores is not None:
            scores = "  ".join(f"{name} {value:.4g}" for name, value in progress.scores.items())
            print_result(f"iteration {progress.iteration}  {scores}")

    return show


def storing_display(bars: Progress, store: str) -> Callable[[int, int], None]:
    """Shows how a store of pictures is written as a bar, or without a terminal as one line."""
    task: TaskID | None = None

    def show(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            task = bars.add_task("storing pictures", total=total, status="")
            if bars.disable:
                log(f"storing {counted(total, 'picture')} in {store}")
        bars.update(task, completed=done, visible=done < total)

    return show


def metric(number: float) -> str:
    """Three digits and a unit: 4.58 M."""
    for power, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= power:
            return f"{number / power:.3g}{unit}"
    return f"{number:.3g}"


def roughly(seconds: float) -> str:
    """A length of time that is not known well: ``about 3 hours``."""
    for unit, of in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= of:
            amount = seconds / of
            shown = f"{amount:.1f}".removesuffix(".0") if amount < 10 else f"{amount:.0f}"
            return f"about {shown} {unit}{'' if shown == '1' else 's'}"
    return "less than a minute"


def counted(number: int, what: str) -> str:
    """``1 folder``, ``2 folders``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def tally(counts: Iterable[tuple[int, str]]) -> str:
    """``3 done, 1 failed``: the first always, others where there are any."""
    (first, *others) = counts
    return ", ".join(f"{n} {what}" for n, what in (first, *(item for item in others if item[0])))
