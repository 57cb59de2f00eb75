"""What happens to the pictures of a batch, in one shape for everybody who shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bidiffsr.batch.plan import Job
from bidiffsr.upscaling.consistency import Consistency
from bidiffsr.upscaling.progress import Progress


@dataclass(frozen=True)
class Event:
    """Something that happened to a job's picture."""

    job: Job


@dataclass(frozen=True)
class Started(Event):
    """Its turn has come; what is known before the work did not stand in its way."""


@dataclass(frozen=True)
class Advanced(Event):
    """The network has run over it, or over a tile of it."""

    progress: Progress


@dataclass(frozen=True)
class Saved(Event):
    """Files of its results lie where they belong, whole."""

    paths: tuple[Path, ...]
    size: tuple[int, int]
    """Height and width in pixels."""
    seconds: float
    """Since it was started, or since the sample before this one was saved."""
    notes: tuple[str, ...]
    """A line for each thing beside the picture that could not be kept."""
    consistency: Mapping[Path, Consistency] = field(default_factory=dict)
    """How results compare with the picture when they are made small again; where it was asked for,
    of those that should be like it."""


@dataclass(frozen=True)
class Finished(Event):
    """All its results are there."""


@dataclass(frozen=True)
class Skipped(Event):
    """The journal says that it is done, and all its results are there."""


@dataclass(frozen=True)
class Waiting(Event):
    """Another process works on it, and it is waited for."""

    owner: str


@dataclass(frozen=True)
class Failed(Event):
    """It could not be done; the others are."""

    error: Exception
