"""Training runs that tests start, stop and look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bidiffsr.config import TrainingConfig
from bidiffsr.training.checkpoint import STATE_NAME
from bidiffsr.training.state import loads
from bidiffsr.training.trainer import TrainingProgress, train


def run(config: TrainingConfig, stop_after: int | None = None) -> list[TrainingProgress]:
    """Train, closing the generator once that many iterations are finished."""
    progress = []
    steps = train(config)
    for step in steps:
        progress.append(step)
        if step.iteration == stop_after:
            steps.close()
    return progress


def state_of(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run's folder."""
    return loads((folder / STATE_NAME).read_bytes())
