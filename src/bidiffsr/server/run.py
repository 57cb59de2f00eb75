"""Serving until somebody says stop, and then not before the work at hand is done."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from bidiffsr.errors import OutputError
from bidiffsr.server.app import create_app
from bidiffsr.server.jobs import JobQueue
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models

# Seconds that clients have, once all work is done, to fetch what they wait for.
_LINGER = 20.0
# Seconds for answers that are under way when the server closes.
_LAST_ANSWERS = 5
_TICK = 0.1


class _Server(uvicorn.Server):
    """Stops in two steps: the first signal ends the intake, the second what runs."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue) -> None:
        super().__init__(config)
        self._queue = queue
        self._asked = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count; what it means is for `watch`, since locks must not be taken here."""
        self._asked += 1
        if self._asked > 2:
            super().handle_exit(sig, frame)

    async def watch(self) -> None:
        """Carry out what signals ask for."""
        while not self._asked:
            if self.should_exit:
                return
            await asyncio.sleep(_TICK)
        self._queue.drain()
        asked_at, idle_since = time.monotonic(), None
        while self._asked < 2 and not self._queue.finished:
            limit = self._queue.limits.stop_seconds
            if limit is not None and time.monotonic() - asked_at >= limit:
                self._queue.drop_waiting()
            if not (self._queue.running or self._queue.waiting):
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since > _LINGER:
                    break
            await asyncio.sleep(_TICK)
        self._queue.stop()
        self.should_exit = True


def serve(
    models: Models,
    options: ServerOptions,
    *,
    model: str,
    listening: Callable[[str], object],
) -> None:
    """Answer requests until SIGINT or SIGTERM comes.

    Then no more pictures are taken. All that were taken are finished, or with
    `options.stop_seconds` those that are begun within them; whoever waits for them has some seconds
    to fetch them. A second signal cancels all.

    Args:
        models: what upscales.
        options: what is asked for.
        model: its name, for those who ask.
        listening: called with the server's URL once it can be used.

    Raises:
        OutputError: the address cannot be listened on.
    """
    app = create_app(models, options, model=model)
    listener = _listener(options)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS,
    )
    server = _Server(config, app.state.service.queue)
    with listener:
        listening(_url(listener))
        asyncio.run(_run(server, listener))


async def _run(server: _Server, listener: socket.socket) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.watch())
        await server.serve(sockets=[listener])
        server.should_exit = True


def _listener(options: ServerOptions) -> socket.socket:
    host, port = options.host, options.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise OutputError(
            f"{host}, port {port}: cannot be listened on ({error.strerror}); choose another "
            "--port (0 takes any that is free) or --host"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
