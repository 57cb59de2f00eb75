"""What goes to standard output while a batch runs: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidiffsr.cli.terminal import ResultLines

if TYPE_CHECKING:
    from bidiffsr.batch.events import Event, Saved
    from bidiffsr.batch.plan import Job, Plan
    from bidiffsr.upscaling.upscaler import Upscaler

# Seconds between two events about the progress of a picture.
_PROGRESS_EVERY = 0.5


class Lines:
    """A line for each result.

    Args:
        lines: where to.
    """

    def __init__(self, lines: ResultLines | None = None) -> None:
        self._lines = lines or ResultLines()

    @property
    def error(self) -> OSError | None:
        """Why lines are missing, where they are."""
        return self._lines.error

    def planned(self, plan: Plan, upscaler: Upscaler) -> None:
        """Before the first picture."""

    def event(self, event: Event) -> None:
        """Something happened to a picture."""
        from bidiffsr.batch.events import Saved

        if isinstance(event, Saved):
            height, width = event.size
            for path in event.paths:
                size = f"{width}x{height}, {event.seconds:.1f} s"
                self._lines.print(f"{_named(event.job.source)} -> {_named(path)} ({size})")

    def skipped(self, job: Job, reason: str) -> None:
        """There was nothing to do for a picture."""

    def failed(self, job: Job, reason: str) -> None:
        """A picture could not be done; standard error has a line about it."""

    def ended(self, counts: Mapping[str, int], seconds: float) -> None:
        """After the last picture."""


class JsonLines(Lines):
    """A JSON object for each event, all of it ASCII; docs/use.md describes the fields.

    Bytes of names that are no UTF-8 are the surrogates U+DC80 to U+DCFF, as everywhere in Python.
    """

    def __init__(self) -> None:
        super().__init__()
        self._results: dict[str, list[dict[str, Any]]] = {}
        self._began: dict[str, float] = {}
        self._shown = self._busy = 0.0

    def _print(self, event: str, **fields: Any) -> None:
        self._lines.print(json.dumps({"event": event, "time": round(time.time(), 3), **fields}))

    def planned(self, plan: Plan, upscaler: Upscaler) -> None:
        """How many pictures, and the model's SHA-256."""
        self._print(
            "planned",
            pictures=len(plan.jobs),
            already_there=len(plan.already_there),
            left_out=len(plan.earlier_results),
            unmatched=len(plan.unmatched),
            model=None if upscaler.origin is None else upscaler.origin.model,
        )

    def event(self, event: Event) -> None:
        """``started``, ``progress`` now and then, ``finished``."""
        from bidiffsr.batch.events import Advanced, Finished, Saved, Started, Waiting

        picture, now = _named(event.job.source), time.perf_counter()
        match event:
            case Started():
                self._began[picture] = self._shown = now
                self._print("started", picture=picture)
            case Waiting(owner=owner):
                self._print("waiting", picture=picture, owner=owner)
            case Advanced(progress=at):
                self._busy += at.seconds
                if now - self._shown >= _PROGRESS_EVERY:
                    self._shown = now
                    self._print("progress", picture=picture, done=at.done, total=at.total)
            case Saved():
                # Workers elsewhere do not say when they start.
                self._began.setdefault(picture, now - event.seconds)
                self._results.setdefault(picture, []).extend(_results(event))
            case Finished():
                # What was copied was never started.
                seconds = round(now - self._began.pop(picture, now), 3)
                results = self._results.pop(picture, [])
                self._print("finished", picture=picture, seconds=seconds, results=results)
            case _:
                pass

    def skipped(self, job: Job, reason: str) -> None:
        """``skipped``."""
        self._print("skipped", picture=_named(job.source), reason=reason)

    def failed(self, job: Job, reason: str) -> None:
        """``failed``."""
        for known in (self._began, self._results):
            known.pop(_named(job.source), None)
        self._print("failed", picture=_named(job.source), reason=reason)

    def ended(self, counts: Mapping[str, int], seconds: float) -> None:
        """``summary``."""
        speed = {
            "seconds": round(seconds, 3),
            "pictures_per_second": round(counts["done"] / seconds, 4),
            "network_idle": round(1 - self._busy / seconds, 4),
        }
        self._print("summary", **counts, **speed)


def _named(path: Path) -> str:
    from bidiffsr.batch.storage import location

    return location(path)


def _results(saved: Saved) -> list[dict[str, Any]]:
    height, width = saved.size
    found = []
    for path in saved.paths:
        compared = saved.consistency.get(path)
        found.append(
            {
                "path": _named(path),
                "width": width,
                "height": height,
                "bytes": _bytes(path),
                "consistency": None if compared is None else compared.as_dict(),
            }
        )
    return found


def _bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # somebody took it away already
        return None
