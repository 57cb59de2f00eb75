"""The next picture is read while the network is at this one.

No result, message or order depends on it: what was read is used only if its file is still what it
was, and a picture that cannot be read ahead, for whatever reason, is read at its turn, which says
what is wrong. Nothing is claimed. Files of several pages are not read ahead, nor what storage keeps
that does not tell when it was changed, nor a file that was changed a moment ago.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import storage_of
from bidiffsr.errors import BidiffsrError, ImageError, MemoryEstimateError
from bidiffsr.images.decode import HeaderCheck, decoding_bytes
from bidiffsr.images.image import Header, Image

# Seconds that a file's bytes are given to come when everything is to end.
_LAST_SECONDS = 2.0


class Ahead:
    """Reads the pictures of a batch, at most one ahead of its turn.

    Args:
        is_left: whether there seems to be something to make of a job's picture; it is called in
            another thread.
        max_pixels: see `images.codec.read_image`.
    """

    def __init__(self, is_left: Callable[[Job], bool], max_pixels: int) -> None:
        self._is_left, self._max_pixels = is_left, max_pixels
        self._reading: _Reading | None = None

    def begin(self, jobs: Sequence[Job], spare: int | None) -> None:
        """Begin to read the picture of the first of these jobs that has something to be made.

        Args:
            jobs: those whose turn comes next.
            spare: bytes of memory that it may take; None: nobody knows of a limit.
        """
        if jobs:
            # Known first, so that whoever is interrupted here can `abandon` it.
            self._reading = _Reading(jobs, self._is_left, self._max_pixels, spare)
            self._reading.start()

    def read_image(
        self, path: Path, *, max_pixels: int, check_header: HeaderCheck | None = None
    ) -> Image:
        """As `Storage.read_image`; of what was read ahead nothing is kept."""
        picture = None if self._reading is None else self._reading.result(path)
        self._reading = None
        if picture is not None and picture.state == storage_of(path).state(path):
            # What stands in its way is said below, if it still does once the memory is free again.
            with suppress(ImageError, MemoryEstimateError):
                if check_header is not None:
                    check_header(picture.header)
                return picture.image
        del picture
        return storage_of(path).read_image(path, max_pixels=max_pixels, check_header=check_header)

    def abandon(self) -> None:
        """Before the process ends: libraries must not be at work when they are unloaded."""
        if self._reading is not None:
            self._reading.abandon()
        self._reading = None


@dataclass(frozen=True)
class _Picture:
    """What was read."""

    state: tuple[int, ...]
    """Of its file."""
    header: Header
    """As its file says it."""
    image: Image


class _Reading:
    """One picture, in a thread of its own once it is started; see `Ahead` for the arguments."""

    def __init__(
        self,
        jobs: Sequence[Job],
        is_left: Callable[[Job], bool],
        max_pixels: int,
        spare: int | None,
    ) -> None:
        self._jobs, self._is_left = jobs, is_left
        self._max_pixels, self._spare = max_pixels, spare
        self._path: Path | None = None
        self._given_up, self._decoding = threading.Event(), threading.Event()
        self._future: Future[_Picture | None] = Future()
        # Not waited for at the end of the process, should the disk hang.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError:  # there are no more threads to be had
            self._future.set_result(None)

    def result(self, path: Path) -> _Picture | None:
        """Wait, for this file's picture or until there is none in memory."""
        if self._path != path:
            self._given_up.set()
        picture = self._future.result()
        return picture if self._path == path else None

    def abandon(self) -> None:
        self._given_up.set()
        if self._thread.is_alive():
            with suppress(TimeoutError):
                self._future.exception(_LAST_SECONDS)
            if self._decoding.is_set():
                self._future.exception()

    def _run(self) -> None:
        picture = None
        with suppress(Exception):  # which shows at the picture's turn
            picture = self._read()
        self._future.set_result(picture)

    def _read(self) -> _Picture | None:
        for job in self._jobs:
            if self._given_up.is_set():
                break
            wanted = False
            with suppress(BidiffsrError):
                wanted = job.error is None and self._is_left(job)
            if wanted:
                self._path = job.source
                return self._read_file(job.source)
        return None

    def _read_file(self, path: Path) -> _Picture | None:
        storage, headers = storage_of(path), list[Header]()
        state = storage.state(path)
        if state is None:
            return None
        size = state[0]

        def check(header: Header) -> None:
            self._decoding.set()
            self._check(size + decoding_bytes(header))
            headers.append(header)

        self._check(size)
        image = storage.read_image(path, max_pixels=self._max_pixels, check_header=check)
        return _Picture(state, headers[0], image)

    def _check(self, needed: int) -> None:
        """Go no further if nobody wants it any more, or where there is no memory for it."""
        if self._given_up.is_set() or (self._spare is not None and needed > self._spare):
            raise MemoryEstimateError("it is read at its turn")
