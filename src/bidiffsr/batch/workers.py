"""What does the jobs of a batch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bidiffsr.batch.events import Event
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.resume import Resumption
from bidiffsr.batch.stream import upscale_jobs
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler


class Workers(Protocol):
    """Something that does jobs."""

    def upscale(
        self, jobs: Sequence[Job], options: UpscaleOptions, files: FileOptions
    ) -> Generator[Event, None, None]:
        """Do the jobs, whatever befalls one of them; each has one event that is its last.

        Args:
            jobs: from `plan_jobs`.
            options: of the upscaling, as `Upscaler.check` returns them.
            files: how files are read and written.
        """
        ...


@dataclass(frozen=True)
class ThisProcess:
    """Does one job after the other, see `Workers`."""

    upscaler: Upscaler
    resumption: Resumption | None = None
    """The batch's journal, where it has one."""
    compare: bool = False
    """Whether it is said how results compare with their pictures."""

    def upscale(
        self, jobs: Sequence[Job], options: UpscaleOptions, files: FileOptions
    ) -> Generator[Event, None, None]:
        """See `upscale_jobs`."""
        return upscale_jobs(
            *(self.upscaler, jobs, options, files, self.resumption),
            behind=len(jobs) > 1,
            compare=self.compare,
        )
