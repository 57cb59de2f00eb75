"""One picture's job: what is asked for, and what has become of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bidiffsr.images.formats import Format
from bidiffsr.images.image import Header
from bidiffsr.server.events import EventLog
from bidiffsr.server.schemas import JobInfo, ResultInfo, State
from bidiffsr.upscaling.options import UpscaleOptions

# Characters of a client's name for a picture that are kept.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Result:
    """A finished picture's file."""

    name: str
    media_type: str
    data: bytes
    width: int
    height: int


@dataclass(eq=False)
class Job:
    """One picture: its file until it is upscaled, its results afterwards."""

    id: str
    number: int
    name: str
    header: Header
    scale: float
    options: UpscaleOptions
    format: Format
    source: bytes | None
    held: int
    """Bytes that are counted for it."""
    state: State = "waiting"
    before: int = 0
    error: str | None = None
    results: tuple[Result, ...] = ()
    fetched: set[int] = field(default_factory=set)
    """The results that somebody has."""
    log: EventLog = field(default_factory=EventLog)
    cancelled: bool = False
    began: float | None = None
    ended: float | None = None

    @property
    def url(self) -> str:
        """Its address on the server."""
        return f"/api/jobs/{self.id}"

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return 0 if self.began is None else (self.ended or time.monotonic()) - self.began

    @property
    def is_fetched(self) -> bool:
        """Whether it has ended and nobody waits for a result of it."""
        return self.ended is not None and len(self.fetched) == len(self.results)

    def info(self) -> JobInfo:
        """What a client may know."""
        results = [
            ResultInfo(
                sample=sample,
                name=result.name,
                media_type=result.media_type,
                bytes=len(result.data),
                width=result.width,
                height=result.height,
                url=f"{self.url}/results/{sample}",
            )
            for sample, result in enumerate(self.results)
        ]
        return JobInfo(
            id=self.id,
            number=self.number,
            state=self.state,
            name=self.name,
            width=self.header.width,
            height=self.header.height,
            scale=self.scale,
            quality=self.options.quality,
            seed=self.options.seed,
            samples=self.options.samples,
            before=self.before,
            error=self.error,
            results=results,
            url=self.url,
            events=f"{self.url}/events",
        )

    def publish(self) -> None:
        """Tell the followers what it has come to."""
        self.log.publish("job", self.info().model_dump(mode="json"), replaces=True)

    def result_name(self, sample: int) -> str:
        """As `bidiffsr upscale` names results."""
        several = f"_{sample + 1}" if self.options.samples > 1 else ""
        stem = PurePosixPath(self.name).stem
        return f"{stem}_x{self.scale:g}{several}{self.format.suffixes[0]}"


def file_name(given: str) -> str:
    """What remains of a client's name for a picture: no folders, no control characters."""
    last = given.replace("\\", "/").rpartition("/")[2]
    printable = "".join(char for char in last if char.isprintable()).strip(" .")
    return printable[-_LONGEST_NAME:] or "picture"
