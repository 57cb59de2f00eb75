"""What a program of ours does with its process: streams, SIGINT, SIGTERM, and freed memory."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Seconds until a signal that came at a bad time is sent again.
_AGAIN = 0.01


def open_closed_streams() -> None:
    """Give this process a standard input, output and error where it was started without.

    Otherwise the next file that is opened would take the place of one of them, and Python would
    print what is meant for a closed standard error on standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the lowest number that is free: that of the stream.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def discard_output() -> None:
    """Have standard output lead nowhere from now on, for nobody reads it or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def signals_interrupt() -> AbstractContextManager[None]:
    """SIGINT, unless it is ignored, and SIGTERM raise KeyboardInterrupt with their number.

    So half-written files are removed. It is never raised inside pyvips, whose callbacks, called
    from C, can but print it.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return _handled_by(_interrupt, signal.SIGTERM, *([signal.SIGINT] if heeded else []))


def leave(code: int) -> NoReturn:
    """End this process.

    Where it is one of several that trained together, Python is not shut down first: gloo's threads
    may still hold tensors of Python's, and giving those back then aborts the process or blocks it
    for ever.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    os._exit(code)


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


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "pyvips":
            again = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
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
    import ctypes

    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@functools.cache
def here() -> str:
    """A short name of where process numbers mean what they mean here: machine, boot, namespace."""
    import platform

    facts = [platform.node(), boot()]
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  it is no path
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


@functools.cache
def boot() -> str:
    """What names the time since this machine was started; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def started_at(process: int) -> int | None:
    """When a process was started, in the kernel's ticks; None where there is none that runs.

    Numbers of processes are used again, start times are not. 0 where the system does not say.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass  # somebody else's
        return 0
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2]
    except OSError:
        return None
    state, *others = fields.split()
    return None if state in "ZX" else int(others[18])
