"""A server of the product's own, in this process, and what its tests send to it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from bidiffsr.server.app import create_app
from bidiffsr.server.jobs import JobQueue
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

OWN = "http://127.0.0.1"


def picture(width: int = 12, height: int = 9, kind: str = "PNG", seed: int = 0) -> bytes:
    """A file written by another program."""
    samples = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(samples).save(file, kind)
    return file.getvalue()


def opened(data: bytes) -> PIL.Image.Image:
    """A file read by another program, all of it."""
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image


def queue_of(app: FastAPI) -> JobQueue:
    return app.state.service.queue


class Gate:
    """Lets a model's network run only while it is open."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._open = threading.Event()
        self.reached = threading.Event()
        predict = upscaler.backend.predict

        def waiting(*arguments: Any) -> Any:
            self.reached.set()
            assert self._open.wait(60)
            return predict(*arguments)

        upscaler.backend.predict = waiting  # type: ignore[method-assign]

    def open(self) -> None:
        self._open.set()


@contextmanager
def client(upscaler: Upscaler | None = None, **options: Any) -> Iterator[TestClient]:
    """Of a server that runs; it speaks as a program does, not as a browser."""
    app = create_app(Models(upscaler or tiny_upscaler()), ServerOptions(**options))
    with TestClient(app, base_url=OWN, raise_server_exceptions=False) as talking:
        yield talking


@dataclass(frozen=True)
class Event:
    name: str
    number: int
    data: Any


def parsed_events(text: str) -> list[Event]:
    """Of a stream that has ended, by the rules of the HTML standard."""
    found = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            if not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
        if "data" in fields:
            found.append(Event(fields["event"], int(fields["id"]), json.loads(fields["data"])))
    return found


def wait_for(talking: TestClient | httpx2.Client, url: str, seconds: float = 300) -> dict[str, Any]:
    """A job when it has ended."""
    deadline = time.monotonic() + seconds
    while (job := talking.get(url).json())["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline, f"still {job['state']} after {seconds} seconds"
        time.sleep(0.02)
    return job


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of a server on a real socket of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"{OWN}:{port}"
    finally:
        server.should_exit = True
        thread.join()


class Serving:
    """`bidiffsr serve` in a process of its own."""

    def __init__(self, model: Path | str, *options: str, **variables: str) -> None:
        command = [sys.executable, "-m", "bidiffsr", "serve", "-n", str(model), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()

    def stop(self, *signals: signal.Signals) -> tuple[int, str]:
        """The exit code, and what stands on standard error."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors
