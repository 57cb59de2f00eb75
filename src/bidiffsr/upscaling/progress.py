"""How far an upscaling has come, in one shape for everybody who shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bidiffsr.images.image import Image
from bidiffsr.upscaling.consistency import Consistency


@dataclass(frozen=True)
class Progress:
    """What is known after one run of the network: a step, or a tile of one."""

    sample: int
    """The one under way, from 0."""
    samples: int
    step: int
    """Finished steps of this sample."""
    steps: int
    """Of a sample: of the network over the whole picture, in all passes and views."""
    tile: int
    """Finished tiles of the step under way; 0 when a step has just been finished."""
    tiles: int
    """How many tiles there are in this pass; 1 where the picture is one."""
    finished: int
    """Runs of the network for this sample."""
    runs: int
    """Of a sample, in all passes."""
    result: Image | None = None
    """The finished picture, with the last step of each sample."""

    preview: Image | None = None
    """Where asked for, made small: before the first step the picture interpolated, then with every
    finished step the clean picture as it predicts it; of turned and mirrored pictures none."""

    seconds: float = 0.0
    """Of a file's picture: since the one before, without reading and saving."""

    saved: tuple[Path, ...] = ()
    """With a result: the files that have been written meanwhile."""

    notes: tuple[str, ...] = ()
    """With a saved result: a line for each thing beside the picture that could not be kept."""

    consistency: Mapping[Path, Consistency] = field(default_factory=dict)
    """Where asked for, with saved results: how they compare with their pictures."""

    @property
    def done(self) -> int:
        """Finished runs of the network."""
        return self.sample * self.runs + self.finished

    @property
    def total(self) -> int:
        """Runs of the network in all."""
        return self.samples * self.runs
