"""What is shown of a batch: bars, a line for each result and failure, what became of all."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from bidiffsr.cli.reports import JsonLines, Lines
from bidiffsr.cli.terminal import (
    ResultLines,
    explanation,
    log,
    metric,
    print_error,
    progress_bars,
    roughly,
    tally,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as Bars

    from bidiffsr.batch.events import Event
    from bidiffsr.batch.options import FileOptions
    from bidiffsr.batch.plan import Job, Plan
    from bidiffsr.batch.workers import Workers
    from bidiffsr.upscaling.options import UpscaleOptions
    from bidiffsr.upscaling.upscaler import Upscaler

# Failed pictures that are named at the end of a batch.
_MOST_NAMES = 20
# Lines about others, behind which that of a failure is no longer in sight.
_FAR = 20


class _Tally:
    """What became of the pictures of a plan."""

    def __init__(self, plan: Plan, report: Lines) -> None:
        self._plan, self._report = plan, report
        self.done = 0
        self.there = len(plan.already_there)
        self.failed = 0
        # The first ones, with the reason of each, and what was done before them.
        self._failures: list[tuple[str, str]] = []
        self._done_before = 0
        self._started = time.perf_counter()

    def count(self, event: Event) -> bool:
        """Whether it is the last one of its picture."""
        from bidiffsr.batch.events import Failed, Finished, Skipped, Waiting
        from bidiffsr.batch.storage import location

        match event:
            case Failed():
                self.fail(event.job, event.error)
            case Finished():
                self.done += 1
            case Skipped():
                self.there += 1
                if not self._plan.batch:
                    log(f"{location(event.job.outputs[0])}: already there, not made again")
                self._report.skipped(event.job, "already there")
            case Waiting():
                log(f"{location(event.job.source)}: {event.owner} works on it; waiting")
                return False
            case _:
                return False
        return True

    def fail(self, job: Job, error: Exception) -> None:
        """Say so, unless it is none; raises a bug of ours where it stops nothing else."""
        from bidiffsr.batch.needs import AlreadyThere
        from bidiffsr.batch.storage import location

        if self._plan.batch and isinstance(error, AlreadyThere):
            self.there += 1
            log(f"{location(job.outputs[0])}: already there, made meanwhile by another run")
            self._report.skipped(job, "made meanwhile by another run")
            return
        name = location(job.source)
        explained = explanation(error)
        if explained is None and not self._plan.batch:
            raise error
        if explained is None:
            traceback.print_exception(error)
            explained = f"{type(error).__name__}, which is a bug; please report it"
        named = any(location(path) in explained for path in (job.source, *job.outputs))
        if self._plan.batch and not named:
            explained = f"{name}: {explained}"
        if not self.failed:
            self._done_before = self.done
        self.failed += 1
        if self.failed <= _MOST_NAMES:
            self._failures.append((name, explained))
        print_error(explained)
        self._report.failed(job, explained)

    def end(self, done: str, kept: str) -> int:
        """Say what became of all; returns the exit code.

        Args:
            done: what is said of those that were done.
            kept: what is said where lines on standard output are missing.
        """
        results = len(self._plan.earlier_results)
        counts = [(self.there, "already there"), (results, "left out")]
        if self._plan.batch:
            self._sum_up([(self.done, done), *counts, (self.failed, "failed")])
        self._report.ended(
            {
                "done": self.done,
                "already_there": self.there,
                "left_out": results,
                "failed": self.failed,
            },
            time.perf_counter() - self._started,
        )
        error = self._report.error
        if error is not None:
            print_error(f"standard output cannot be written to ({error.strerror}); {kept}")
        return 1 if self.failed or error is not None else 0

    def _sum_up(self, counts: Sequence[tuple[int, str]]) -> None:
        """The tally, with names of failures, or a line for each that may be out of sight."""
        if not self.failed:
            log(tally(counts))
            return
        more = self.failed - len(self._failures)
        if self.done - self._done_before <= _FAR:
            names = ", ".join(name for name, _ in self._failures)
            log(f"{tally(counts)}: {names}" + (f" and {more} more" if more else ""))
            return
        log(f"{tally(counts)}:")
        for _, reason in self._failures:
            log(f"  {reason}")
        if more:
            log(
                f"  and {more} more; the line of each begins with 'bidiffsr: error:', or use --json"
            )


def upscale_all(
    upscaler: Upscaler,
    plan: Plan,
    options: UpscaleOptions,
    files: FileOptions,
    *,
    workers: Workers | None = None,
    journal: Path | None = None,
    as_json: bool = False,
) -> int:
    """Do the jobs; returns the exit code.

    Args:
        upscaler: the model.
        plan: what is to be done.
        options: of the upscaling, checked.
        files: how files are read and written.
        workers: what does them, without a journal; by default this process.
        journal: the batch's, which then says what is done.
        as_json: whether programs read standard output.

    Raises:
        JournalError: it cannot be read or written.
    """
    from bidiffsr.batch.resume import Resumption, open_journal
    from bidiffsr.batch.storage import storage_of
    from bidiffsr.batch.workers import ThisProcess

    for folder in plan.folders:
        storage_of(folder).remove_leftovers(folder)
    report = JsonLines() if as_json else Lines()
    with ExitStack() as stack:
        resumption = None
        if journal is not None:
            opened = stack.enter_context(open_journal(journal, upscaler, options, files))
            resumption = Resumption(opened, files)
            # Whether they are whole, it knows.
            plan = replace(plan, jobs=(*plan.already_there, *plan.jobs), already_there=())
        report.planned(plan, upscaler)
        counts = _Tally(plan, report)
        bars = stack.enter_context(progress_bars())
        overall = bars.add_task("all pictures", total=len(plan.jobs), status="")
        bars.update(overall, visible=len(plan.jobs) > 1)
        workers = workers or ThisProcess(upscaler, resumption, compare=as_json)
        events = workers.upscale(plan.jobs, options, files)
        for event in shown(stack.enter_context(closing(events)), bars):
            report.event(event)
            if counts.count(event):
                bars.advance(overall)
        if resumption is not None:
            # Of another process on the same job that was killed meanwhile.
            for folder in plan.folders:
                storage_of(folder).remove_leftovers(folder)
    return counts.end("done", "results are kept")


def shown(
    events: Iterable[Event], bars: Bars, named: Callable[[str], str] = str
) -> Iterator[Event]:
    """The events, while a bar shows how far the picture has come, and notes are logged.

    Args:
        events: of a batch, or of one picture.
        bars: where to.
        named: puts the names that the user knows into a note.
    """
    from bidiffsr.batch.events import Advanced, Failed, Finished, Saved, Started
    from bidiffsr.batch.storage import location

    tasks = {}
    for event in events:
        source = event.job.source
        if isinstance(event, Started):
            tasks[source] = bars.add_task(source.name, total=None, status="")
        elif isinstance(event, Advanced):
            at = event.progress
            bars.update(tasks[source], total=at.total, completed=at.done)
        elif isinstance(event, Failed | Finished) and source in tasks:
            bars.remove_task(tasks.pop(source))
        yield event
        if isinstance(event, Saved):
            for note in event.notes:
                log(named(f"{location(source)}: {note}"))


def foresee_all(upscaler: Upscaler, plan: Plan, options: UpscaleOptions, files: FileOptions) -> int:
    """Say what `upscale_all` would do; returns the exit code."""
    from bidiffsr.batch.needs import foresee
    from bidiffsr.batch.storage import existing, location
    from bidiffsr.upscaling.trial import seconds_per_pixel

    lines = ResultLines()
    counts = _Tally(plan, Lines(lines))
    memory = disk = results = pixels = 0
    for job in plan.jobs:
        try:
            found = foresee(upscaler, job, options, files)
        except Exception as error:
            counts.fail(job, error)
            continue
        counts.done += 1
        height, width = found.size
        memory, disk = max(memory, found.room.memory), max(disk, found.room.disk)
        results += found.results
        pixels += found.pixels
        there = existing(found.missing)
        for path in found.missing:
            replaced = ", in place of what is there" if path in there else ""
            made = f"{location(path)} ({width}x{height}{replaced})"
            lines.print(f"{location(job.source)} -> {made}")
    code = counts.end("would be made", "nothing was written")
    if results:
        files_too = f", {metric(disk)}B of the disk for working files" if disk else ""
        compressed = f"{metric(results)}B for the results before they are compressed"
        seconds = pixels * seconds_per_pixel(upscaler, options)
        log(
            f"needed: {roughly(seconds)} on this computer, {metric(memory)}B of memory at a time"
            f"{files_too}, {compressed}"
        )
    return code
