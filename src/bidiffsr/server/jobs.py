"""The queue in which jobs wait for the one engine."""

from __future__ import annotations

import base64
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from bidiffsr.errors import BidiffsrError
from bidiffsr.images.decode import decode_image, image_header
from bidiffsr.images.encode import encode_image
from bidiffsr.images.formats import Format, format_of
from bidiffsr.images.image import Image
from bidiffsr.server.job import Job, Result, file_name
from bidiffsr.server.options import ServerOptions
from bidiffsr.server.refusals import Busy, Stopping, TooLarge, Unknown
from bidiffsr.server.schemas import PreviewInfo, ProgressInfo, State
from bidiffsr.system.memory import is_out_of_memory
from bidiffsr.upscaling.models import Models
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.progress import Progress

_LOG = logging.getLogger(__name__)

_PREVIEW_SIDE = 512
_PREVIEW_QUALITY = 85


class Upload:
    """A place in the queue and the memory for a picture that is on its way here."""

    def __init__(self, reserve: Callable[[int], None], most: int) -> None:
        self._reserve = reserve
        self._most = most
        self.held = 0

    def add(self, count: int) -> None:
        """Make room for so many bytes more.

        Raises:
            TooLarge: the picture has more bytes than are allowed.
            Busy: there is no room.
        """
        if self.held + count > self._most:
            raise TooLarge(
                f"the picture's file has more than {self._most} bytes; send a smaller one"
            )
        self._reserve(count)
        self.held += count


class JobQueue:
    """Takes pictures, and upscales one after the other in a thread of its own.

    Args:
        models: what upscales them.
        options: the limits.
        when_ended: called, in the queue's thread or a caller's, with every job that has ended.
    """

    def __init__(
        self,
        models: Models,
        options: ServerOptions,
        when_ended: Callable[[Job], object] = lambda job: None,
    ) -> None:
        self._models = models
        self.limits = options
        self._when_ended = when_ended
        self._most_bytes, self._most_held = int(options.max_bytes), int(options.max_held)
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._uploads = 0
        self._held = 0
        self._count = 0
        self._stopping = False
        self._worker = threading.Thread(target=self._work, name="upscaling", daemon=True)

    def start(self) -> None:
        """Begin with the work."""
        self._worker.start()

    # Asked by anybody.

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """1 while a picture is upscaled, else 0."""
        return int(self._running is not None)

    @property
    def held(self) -> int:
        """Bytes of uploads, previews and results that are kept."""
        return self._held

    @property
    def stopping(self) -> bool:
        """Whether no more pictures are taken."""
        return self._stopping

    @property
    def healthy(self) -> bool:
        """Whether the work is done by somebody."""
        return self._worker.is_alive()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, nor to be fetched."""
        with self._changed:
            return self._running is None and all(job.is_fetched for job in self._jobs.values())

    def get(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            Unknown: there is none.
        """
        with self._changed:
            self._expire()
            job = self._jobs.get(job_id)
        if job is None:
            raise Unknown("no such job; it was deleted, or its results are no longer kept")
        return job

    def mark_fetched(self, job: Job, sample: int) -> None:
        """Somebody has this result: it may go where room is needed."""
        with self._changed:
            job.fetched.add(sample)

    # From a picture's arrival to its end.

    @contextmanager
    def upload(self) -> Iterator[Upload]:
        """A place for a picture that arrives; what is not submitted inside gives it back.

        Raises:
            Stopping: nothing is taken any more.
            Busy: too many wait or are kept.
        """
        with self._changed:
            self._check_open()
            self._expire()
            if len(self._waiting) + self._uploads >= self.limits.max_waiting:
                raise Busy(f"{self.limits.max_waiting} pictures are waiting already; try later")
            if len(self._jobs) + self._uploads >= self.limits.max_jobs and not self._drop_one():
                raise Busy(
                    f"{self.limits.max_jobs} pictures are kept already; fetch or delete results"
                )
            self._uploads += 1
        upload = Upload(self._reserve, self._most_bytes)
        try:
            yield upload
        finally:
            with self._changed:
                self._uploads -= 1
                self._held -= upload.held

    def submit(
        self,
        upload: Upload,
        data: bytes,
        options: UpscaleOptions,
        *,
        name: str = "",
        format_: Format | None = None,
    ) -> Job:
        """Put a picture in the queue.

        Args:
            upload: where its bytes were counted.
            data: the picture's file.
            options: of the upscaling.
            name: what the client calls it; of it, the last part is kept.
            format_: of the results; None: the picture's own.

        Raises:
            BidiffsrError: the options do not suit the model, or the data are no picture.
            TooLarge: the picture has more pixels than are allowed or fit into the memory.
            Stopping: nothing is taken any more.
        """
        upscaler = self._models.of(options)
        options = upscaler.check(options)
        assert options.scale is not None  # no size can be asked for here
        name = file_name(name)
        header = image_header(data, name=name)
        pixels = header.width * header.height
        if pixels > self.limits.max_pixels:
            raise TooLarge(
                f"{name}: has {pixels} pixels; expected at most {self.limits.max_pixels}; "
                "make it smaller first"
            )
        format_ = format_ or format_of(data)
        assert format_ is not None  # or it would have no header
        format_.check_written(name)
        side = max(upscaler.result_size(header, options))
        format_.check_side(name, side, "ask for another format")
        upscaler.check_memory(header, options, saving=format_.saving_bytes)
        with self._changed:
            self._check_open()
            self._count += 1
            job = Job(
                id=secrets.token_urlsafe(16),
                number=self._count,
                name=name,
                header=header,
                scale=options.scale,
                options=options,
                format=format_,
                source=data,
                held=upload.held,
                before=len(self._waiting) + self.running,
            )
            upload.held = 0
            self._jobs[job.id] = job
            self._waiting.append(job)
            job.publish()
            self._changed.notify_all()
        return job

    def forget(self, job: Job) -> None:
        """Cancel a job that has not ended, and keep nothing of it."""
        with self._changed:
            job.cancelled = True
            if job.state == "waiting":
                self._waiting.remove(job)
                self._end(job, "cancelled")
                self._tell_positions()
            if self._jobs.pop(job.id, None) is not None and job is not self._running:
                self._release(job, job.held)

    def drain(self) -> None:
        """Take nothing more; what waits and what runs is still done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def drop_waiting(self) -> None:
        """As `drain`, and begin nothing more; those who wait are told so."""
        self.drain()
        with self._changed:
            while self._waiting:
                job = self._waiting.popleft()
                self._end(job, "failed", "the server is stopping; send the picture again later")

    def stop(self) -> None:
        """As `drop_waiting`, and cancel what runs."""
        self.drop_waiting()
        with self._changed:
            if self._running is not None:
                self._running.cancelled = True

    def close(self) -> None:
        """As `stop`; returns when nothing is done any more."""
        self.stop()
        if self._worker.is_alive():
            self._worker.join()

    # Below here, the condition is held, or the caller is the worker.

    def _check_open(self) -> None:
        if self._stopping:
            raise Stopping("the server is stopping; send the picture again later")

    def _reserve(self, count: int) -> None:
        """Count bytes more.

        Raises:
            Busy: there is no room, even without the results that somebody has fetched.
        """
        with self._changed:
            while self._held + count > self._most_held:
                if not self._drop_one(least=1):
                    raise Busy(
                        f"{self._most_held} bytes of pictures are kept already; "
                        "fetch or delete results, or try later"
                    )
            self._held += count

    def _release(self, job: Job, count: int) -> None:
        self._held -= count
        job.held -= count

    def _drop_one(self, least: int = 0) -> bool:
        """Forget the oldest job that nobody waits for.

        Args:
            least: bytes that it has to hold.

        Returns:
            Whether there was one.
        """
        for job in self._jobs.values():
            if job.is_fetched and job.held >= least:
                self.forget(job)
                return True
        return False

    def _expire(self) -> None:
        limit = time.monotonic() - self.limits.keep_seconds
        for job in list(self._jobs.values()):
            if job.ended is not None and job.ended < limit:
                self.forget(job)

    def _end(self, job: Job, state: State, error: str | None = None) -> None:
        job.ended = time.monotonic()
        job.state, job.error, job.before = state, error, 0
        if job.source is not None:
            self._release(job, len(job.source))
            job.source = None
        if state != "done":
            job.results = ()
            job.log.drop("preview")
        if state != "done" or job.id not in self._jobs:  # forgotten while it ran
            self._release(job, job.held)
        job.publish()
        job.log.close()
        self._when_ended(job)

    def _tell_positions(self) -> None:
        for index, job in enumerate(self._waiting):
            job.before = index + self.running
            job.publish()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            state, error = self._outcome(job)
            with self._changed:
                self._running = None
                self._end(job, state, error)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._expire()
                self._changed.wait(1.0 if self._jobs else None)
            job = self._running = self._waiting.popleft()
            job.state, job.before, job.began = "running", 0, time.monotonic()
            job.publish()
            self._tell_positions()
            return job

    def _outcome(self, job: Job) -> tuple[State, str | None]:
        """Upscale; whatever befalls one job, the next ones are done."""
        try:
            self._upscale(job)
        except BidiffsrError as error:
            return "failed", str(error)
        except Exception as error:
            if is_out_of_memory(error):
                return "failed", f"{job.name}: the memory ran out; send a smaller picture"
            _LOG.exception("job %d failed", job.number)
            return "failed", f"{job.name}: an internal error, which the server's log tells of"
        return ("cancelled" if job.cancelled else "done"), None

    def _upscale(self, job: Job) -> None:
        assert job.source is not None
        source = decode_image(job.source, name=job.name, max_pixels=self.limits.max_pixels)
        upscaler = self._models.turn_to(job.options)
        steps = upscaler.stream(source, preview=_PREVIEW_SIDE, **asdict(job.options))
        for at in steps:
            if job.cancelled:
                return
            if job.seconds > self.limits.job_seconds:
                raise TooLarge(
                    f"{job.name}: took longer than {self.limits.job_seconds} seconds; "
                    "send a smaller picture, or ask for a lower quality or fewer samples"
                )
            if at.preview is not None:
                self._show(job, at, at.preview)
            if at.result is not None:
                check_result(source, at.result)
                self._keep(job, at.result)
            job.log.publish("progress", _progress(job, at), replaces=True)

    def _show(self, job: Job, at: Progress, preview: Image) -> None:
        data = encode_image(preview, ".jpg", name=job.name, quality=_PREVIEW_QUALITY)
        image = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
        self._hold(job, len(image))
        shown = PreviewInfo(
            sample=at.sample,
            step=at.step,
            steps=at.steps,
            width=preview.width,
            height=preview.height,
            image=image,
        )
        job.log.publish("preview", shown.model_dump())

    def _keep(self, job: Job, picture: Image) -> None:
        format_ = job.format
        data = encode_image(picture, format_.suffixes[0], name=job.name)
        self._hold(job, len(data))
        result = Result(
            name=job.result_name(len(job.results)),
            media_type=f"image/{format_.name.lower()}",
            data=data,
            width=picture.width,
            height=picture.height,
        )
        job.results = (*job.results, result)
        job.publish()

    def _hold(self, job: Job, count: int) -> None:
        """Count bytes of a running job.

        Raises:
            Busy: there is no room.
        """
        self._reserve(count)
        with self._changed:
            job.held += count


def _progress(job: Job, at: Progress) -> dict[str, object]:
    seconds = job.seconds
    left = seconds / at.done * (at.total - at.done) if at.done else None
    return ProgressInfo(
        sample=at.sample,
        samples=at.samples,
        step=at.step,
        steps=at.steps,
        done=at.done,
        total=at.total,
        seconds=round(seconds, 3),
        seconds_left=None if left is None else round(left, 3),
    ).model_dump()
