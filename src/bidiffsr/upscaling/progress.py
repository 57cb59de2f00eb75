"""How far an upscaling has come, in one shape for everybody who shows it."""

from __future__ import annotations

from dataclasses import dataclass

from bidiffsr.images.image import Image


@dataclass(frozen=True)
class Progress:
    """What is known after one run of the network: a step, or a tile of one."""

    sample: int
    """The one under way, from 0."""
    samples: int
    step: int
    """Finished steps of this sample."""
    steps: int
    tile: int
    """Finished tiles of the step under way; 0 when a step has just been finished."""
    tiles: int
    """How many tiles there are; 1 where the picture is one."""
    result: Image | None = None
    """The finished picture, with the last step of each sample."""

    @property
    def done(self) -> int:
        """Finished runs of the network."""
        return (self.sample * self.steps + self.step) * self.tiles + self.tile

    @property
    def total(self) -> int:
        """Runs of the network in all."""
        return self.samples * self.steps * self.tiles
