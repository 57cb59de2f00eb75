"""Doing the jobs of a batch, one after the other, whatever befalls one of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path

from bidiffsr.batch.ahead import Ahead
from bidiffsr.batch.behind import Behind
from bidiffsr.batch.events import (
    Advanced,
    Event,
    Failed,
    Finished,
    Saved,
    Skipped,
    Started,
    Waiting,
)
from bidiffsr.batch.needs import needs_of
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.resume import Resumption, Standing
from bidiffsr.batch.run import Made, Turn, draw_file
from bidiffsr.errors import JournalError, MemoryEstimateError
from bidiffsr.images.codec import read_header
from bidiffsr.images.decode import MAX_PIXELS, HeaderCheck
from bidiffsr.images.image import Image
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.planning import Room
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.upscaler import Upscaler

# Seconds between two looks at pictures that another process works on.
_LOOK_EVERY = 0.5
# Jobs among which the next one is looked for that has something left to be made.
_NEXT = 16


def upscale_jobs(
    upscaler: Upscaler,
    jobs: Iterable[Job],
    options: UpscaleOptions,
    files: FileOptions,
    resumption: Resumption | None = None,
    *,
    behind: bool = True,
    ahead: bool = True,
    compare: bool = False,
) -> Generator[Event, None, None]:
    """Upscale the pictures of jobs, yielding what happens to each.

    A job's last event is `Finished`, `Skipped` or `Failed`. Those that another process works on
    come last; they are waited for, and done here if that process goes away.

    Args:
        upscaler: the model.
        jobs: from `plan_jobs`; where it is no sequence, a job is asked for only at its turn.
        options: of the upscaling.
        files: how files are read and written.
        resumption: the batch's journal, where it has one.
        behind: whether a picture may be checked and saved while the network is at the next one, if
            there is memory for both; then that one's `Started` and `Advanced` come between this
            one's.
        ahead: whether a picture may be read while the network is at the one before, if there is
            memory for both.
        compare: whether `Saved` says how results compare with their picture.

    Raises:
        JournalError: the journal can no longer be read or written.
    """
    work = _Work(upscaler, options, files, resumption, behind, compare)
    known: Sequence[Job] = ()
    if ahead and files.pages is None and isinstance(jobs, Sequence):
        known = jobs
    turns = chain(zip(jobs, repeat(False)), zip(work.elsewhere, repeat(True)))
    try:
        for number, (job, patient) in enumerate(turns, 1):
            work.coming = known[number : number + _NEXT]
            for event in work.attempt(job, patient=patient):
                yield from work.in_turn(event)
        yield from work.caught_up()
    finally:
        work.abandon()


def upscale_job(
    upscaler: Upscaler, job: Job, options: UpscaleOptions, files: FileOptions
) -> Iterator[Event]:
    """Upscale one picture; what stands in the way of it is raised, as by ``upscale_file``."""
    yield from _Work(upscaler, options, files).upscale(job)


@dataclass
class _Work(Turn):
    """A batch under way: one picture at the network, the one before it perhaps being saved.

    The one that follows is perhaps being read.
    """

    upscaler: Upscaler
    options: UpscaleOptions
    files: FileOptions
    resumption: Resumption | None = None
    may_lag: bool = False
    compare: bool = False
    elsewhere: list[Job] = field(default_factory=list)
    """Jobs that other processes work on, until they are waited for."""
    lagging: tuple[Job, Behind] | None = None
    """The save under way."""
    picture: bytes | None = None
    """Of a journal's batch: SHA-256 of the picture that was worked on last."""
    later: list[Event] = field(default_factory=list)
    """What has to be said after it."""
    coming: Sequence[Job] = ()
    """Jobs whose turn comes next."""
    spare: int | None = 0
    """Bytes of memory beside what the picture takes and the save under way."""
    ahead: Ahead = field(init=False)

    def __post_init__(self) -> None:
        self.ahead = Ahead(self._is_left, self.files.max_pixels or MAX_PIXELS)

    def attempt(self, job: Job, *, patient: bool) -> Iterator[Event]:
        """One job, whatever befalls it; nothing if another process has it and we don't wait."""
        try:
            yield from self._begin(job, patient=patient)
        except JournalError:
            raise
        except Exception as error:
            _let_go(error)
            yield Failed(job, error)

    def in_turn(self, event: Event) -> Iterator[Event]:
        """The event, after the save under way if it belongs there."""
        at_once = self.lagging is None or isinstance(event, Started | Advanced | Waiting)
        if not at_once:
            self.later.append(event)
        if self.lagging is not None and self.lagging[1].ended:
            yield from self.caught_up()
        if at_once:
            yield event

    def caught_up(self) -> Iterator[Event]:
        """Wait for the save under way, and say what became of it."""
        if self.lagging is None:
            return
        job, behind = self.lagging
        try:
            said: Event = behind.result()
        except JournalError:
            raise
        except Exception as error:
            _let_go(error)
            said = Failed(job, error)
            self.later = [event for event in self.later if event.job is not job]
        # Not before: whoever is interrupted while waiting still has to `abandon` it.
        later, self.lagging, self.later = self.later, None, []
        yield said
        yield from later

    def abandon(self) -> None:
        """At the end, whatever it is: leave nothing half-written."""
        try:
            if self.lagging is not None:
                self.lagging[1].abandon()
        finally:
            self.ahead.abandon()

    def upscale(
        self,
        job: Job,
        written: Callable[[Path, Path], object] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> Iterator[Event]:
        """Upscale a picture; ``release`` is called when nothing is left to do, unless it fails."""
        yield Started(job)
        started = time.perf_counter()
        for at in draw_file(
            *(self.upscaler, job, self.options, self.files, self), compare=self.compare
        ):
            if not isinstance(at, Made):
                yield Advanced(job, at)
                continue
            yield from self.caught_up()
            yield Advanced(job, at.progress)
            if self.may_lag and at.last and len(at.progress.saved) == 1 and not at.on_disk:
                self._save_behind(job, at, started, written, release)
                return
            yield _saved(job, at.save(written), started)
            started = time.perf_counter()
        release()

    def _begin(self, job: Job, *, patient: bool) -> Iterator[Event]:
        if self.resumption is None or job.error is not None:
            yield from self.upscale(job)
            yield Finished(job)
            return
        told, standing = None, self.resumption.begin(job)
        if standing.missing and standing.picture == self.picture and self.lagging is not None:
            self.lagging[1].wait()  # and copy what is being saved
            standing = self.resumption.begin(job)
        while standing.owner is not None:
            if not patient:
                self.elsewhere.append(job)
                return
            yield from self.caught_up()
            if standing.owner != told:
                yield Waiting(job, str(standing.owner))
            told = standing.owner
            time.sleep(_LOOK_EVERY)
            standing = self.resumption.begin(job)
        yield from self._go_on(job, self.resumption, standing)

    def _go_on(self, job: Job, resumption: Resumption, standing: Standing) -> Iterator[Event]:
        """What is left of a job that is ours."""
        if not standing.missing and not standing.copied:
            yield Skipped(job)
            return
        for copy in standing.copied:
            header = read_header(copy.path)
            note = f"{copy.path}: a copy of {copy.original}, made of the same picture before"
            yield Saved(job, (copy.path,), (header.height, header.width), 0.0, (note,))
        if standing.missing:
            self.picture = standing.picture
            release = partial(resumption.journal.release, standing.picture)
            try:
                written = resumption.written(job, standing.picture)
                for event in self.upscale(job, written, release):
                    resumption.journal.sign()
                    yield event
            except Exception:
                release()
                raise
        yield Finished(job)

    def make_room(self, room: Callable[[int], Room]) -> None:
        """Wait for the save under way, if there is no memory for both or less for the network."""
        taken = 0 if self.lagging is None else self.lagging[1].size
        if self.lagging is not None and not self._fits(room, taken):
            self.lagging[1].wait()
            taken = 0
        needed, limit = room(0).memory, self.upscaler.memory_left(self.options)
        self.spare = None if limit is None else limit - needed - taken

    def read_image(self, path: Path, *, max_pixels: int, check_header: HeaderCheck) -> Image:
        """At a picture's turn; perhaps it has been read already."""
        return self.ahead.read_image(path, max_pixels=max_pixels, check_header=check_header)

    def under_way(self) -> None:
        """While the network is at the picture, read the next one, if there is memory for both."""
        self.ahead.begin(self.coming, self.spare)

    def _is_left(self, job: Job) -> bool:
        """In another thread, and it claims nothing."""
        if self.resumption is not None:
            return self.resumption.is_left(job)
        return bool(needs_of(self.upscaler, job, self.options, self.files).missing)

    def _fits(self, room: Callable[[int], Room], taken: int) -> bool:
        try:
            now = room(0)
        except MemoryEstimateError:
            return False
        limit = self.upscaler.memory_left(self.options)
        return now == room(taken) and (limit is None or now.memory + taken <= limit)

    def _save_behind(
        self,
        job: Job,
        made: Made,
        started: float,
        written: Callable[[Path, Path], object] | None,
        release: Callable[[], None],
    ) -> None:
        def save(whole: Callable[[], None]) -> Saved:
            def note(path: Path, temporary: Path) -> None:
                if written is not None:
                    written(path, temporary)
                whole()

            try:
                return _saved(job, made.save(note), started)
            finally:
                release()

        behind = Behind(made.progress.saved[0], made.size)
        self.lagging = job, behind
        behind.start(save)


def _saved(job: Job, progress: Progress, started: float) -> Saved:
    assert progress.result is not None
    size = progress.result.height, progress.result.width
    seconds = time.perf_counter() - started
    return Saved(job, progress.saved, size, seconds, progress.notes, progress.consistency)


def _let_go(error: BaseException | None) -> None:
    """Free the pictures that the code held where it failed; what it was doing can still be told."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
