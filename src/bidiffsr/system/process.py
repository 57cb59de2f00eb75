"""What a program of ours does with its process: SIGINT, SIGTERM, and freed memory."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def sigterm_interrupts() -> AbstractContextManager[None]:
    """SIGTERM raises KeyboardInterrupt with its number, so that half-written files are removed."""
    return _handled_by(_interrupt, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Put off the first SIGINT or SIGTERM; a second one interrupts.

    Yields:
        A list that holds the number of the first one once it has come.
    """
    numbers: list[int] = []
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a data loader's process, which inherits this
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if numbers:
            _interrupt(number, frame)
        numbers.append(number)
        # Unlike print, write may be called while another print is under way.
        os.write(2, b"bidiffsr: stopping after this iteration; once more stops at once\n")

    with _handled_by(handle, signal.SIGINT, signal.SIGTERM):
        yield numbers


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def _handled_by(
    handle: Callable[[int, FrameType | None], Any], *numbers: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Have this process keep what it frees, rather than fetch it from the system again and again.

    A network's feature maps are large blocks, which glibc hands back at once: half the time of a
    step goes into faulting them in anew. For programs of our own: a library has no business to
    change its host's allocator. Elsewhere than on glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
