"""What happens to a job, told by a thread to any number of followers in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    number: int
    """From 0; numbers of events that newer ones replaced are missing."""
    name: str
    data: Any
    """What JSON can hold."""


class EventLog:
    """Keeps a job's events, for those who come late or come back, until the job is forgotten."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._count = 0
        self._closed = False
        self._lock = threading.RLock()
        self._followers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def publish(self, name: str, data: Any, *, replaces: bool = False) -> None:
        """Tell of something, from any thread.

        Args:
            name: of the event.
            data: what JSON can hold.
            replaces: whether nobody needs the earlier events of this name any more.
        """
        with self._lock:
            if replaces:
                self.drop(name)
            self._events.append(Event(self._count, name, data))
            self._count += 1
            self._wake()

    def drop(self, name: str) -> None:
        """Keep no event of this name."""
        with self._lock:
            self._events = [event for event in self._events if event.name != name]

    def close(self) -> None:
        """Nothing more will happen."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        for loop, news in self._followers:
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(news.set)

    async def follow(self, after: int = -1) -> AsyncGenerator[Event, None]:
        """The events with numbers above ``after``, as they come; ends when the log is closed."""
        follower = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._followers.add(follower)
        try:
            while True:
                follower[1].clear()
                with self._lock:
                    news = [event for event in self._events if event.number > after]
                    closed = self._closed
                for event in news:
                    yield event
                    after = event.number
                if closed:
                    return
                await follower[1].wait()
        finally:
            with self._lock:
                self._followers.discard(follower)
