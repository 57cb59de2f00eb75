"""A result is checked and saved while the network is at the next picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from bidiffsr.batch.events import Saved
from bidiffsr.system.files import remove_own

# Seconds that a file which is whole is given to reach the disk when everything is to end.
_LAST_SECONDS = 2.0


class Behind:
    """A save in a thread of its own, once it is started.

    Args:
        path: the file.
        size: bytes of memory that it takes meanwhile.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._path = path
        self._thread = threading.Thread()
        self._whole = threading.Event()
        self._future: Future[Saved] = Future()

    def start(self, save: Callable[[Callable[[], None]], Saved]) -> None:
        """Begin; apart, so that whoever is interrupted here knows what there is to `abandon`.

        Args:
            save: is given what it has to call once the file needs nothing but to reach the disk.
        """
        # Not waited for at the end of the process, should the disk hang.
        self._thread = threading.Thread(target=self._run, args=(save,), daemon=True)
        self._thread.start()

    def _run(self, save: Callable[[Callable[[], None]], Saved]) -> None:
        try:
            self._future.set_result(save(self._whole.set))
        except BaseException as error:  # whatever it is, `result` raises it
            self._future.set_exception(error)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._future.done()

    def wait(self) -> None:
        """Until it is over, whatever came of it."""
        self._future.exception()

    def result(self) -> Saved:
        """Wait, and raise what it raised."""
        return self._future.result()

    def abandon(self) -> None:
        """Before the process ends: let it end, or leave nothing half-written."""
        while self._thread.is_alive() and not self._whole.wait(0.01):
            pass  # libraries must not be at work when they are unloaded
        with suppress(TimeoutError):
            self._future.exception(_LAST_SECONDS)
        if not self.ended:
            remove_own(self._path.parent)
