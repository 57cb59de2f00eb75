"""Training records: JSON lines for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from bidiffsr.errors import OutputError
from bidiffsr.inspection.figures import figure_pixels
from bidiffsr.inspection.layers import NetworkStatistics
from bidiffsr.inspection.statistics_figures import statistics_figure


class TrainingLog:
    """Appends to ``log.jsonl`` and TensorBoard event files in the run's folder.

    Lines past ``iteration``, written by a run that was killed after its last checkpoint, are
    dropped, so that each iteration is recorded once.

    Raises:
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        path = folder / "log.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if _iteration_of(line) <= iteration]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror}); choose another output"
            ) from None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, values: dict[str, Any]) -> None:
        """Record numbers by name at an iteration."""
        self._file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, iteration)

    def write_validation(
        self, iteration: int, scores: dict[str, float], inside: NetworkStatistics | None
    ) -> None:
        """Record scores and what happens inside of the network, drawn where matplotlib is there.

        Of each time group stand the means over layers of what reaches the signs, such as
        ``group0/dead``.
        """
        means = [] if inside is None else inside.group_means()
        statistics = {
            f"group{group}/{name}": value
            for group, each in enumerate(means)
            for name, value in each.items()
        }
        self.write(iteration, scores | statistics)
        if inside is not None:
            with suppress(ModuleNotFoundError):
                pixels = figure_pixels(statistics_figure(inside))
                self._board.add_image("inside", pixels, iteration, dataformats="HWC")

    def __enter__(self) -> TrainingLog:
        """The log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


def _iteration_of(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill
