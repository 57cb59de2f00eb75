"""How long the frames of an animation are shown, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class Timing:
    """When frames are shown.

    Attributes:
        delays: of each frame, in seconds.
        plays: how often all are shown; 0: for ever.
    """

    delays: tuple[Fraction, ...]
    plays: int = 0


class Join(Protocol):
    """Makes one file of several, each of one picture and of the same format."""

    def __call__(self, file: BinaryIO, pictures: Iterator[bytes], timing: Timing) -> None:
        """Write it.

        Args:
            file: open for reading and writing, empty.
            pictures: the files, of which one at a time is in the memory.
            timing: with a delay for each.

        Raises:
            OutputError: the format cannot hold them.
        """
        ...
