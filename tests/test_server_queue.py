"""The queue: many at once, in order, within its limits, and what becomes of it at the end."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

import uploads
from bidiffsr.server.app import create_app
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models
from bidiffsr.upscaling.upscaler import Upscaler
from served import (
    Gate,
    Serving,
    client,
    listening,
    opened,
    parsed_events,
    picture,
    queue_of,
    wait_for,
)
from tiny_model import save_tiny_model, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def gated() -> Iterator[tuple[Upscaler, Gate]]:
    upscaler = tiny_upscaler()
    gate = Gate(upscaler)
    yield upscaler, gate
    gate.open()


def send(server: TestClient, data: bytes | None = None, **parameters: Any) -> httpx2.Response:
    return server.post("/api/jobs", params=parameters, content=data or picture(), headers=PNG)


def test_two_hundred_at_once_none_lost_in_order_and_within_the_memory() -> None:
    count, most_held = 200, 3_000_000
    upscaler = tiny_upscaler()
    app = create_app(Models(upscaler), ServerOptions(max_held=most_held, max_samples=2))
    queue = queue_of(app)
    held: list[int] = []
    order: list[int] = []
    queue._when_ended = lambda job: (held.append(queue.held), order.append(job.number))

    def size(index: int) -> tuple[int, int]:
        return 8 + index % 5, 8 + index % 7

    async def one(client: httpx2.AsyncClient, index: int) -> tuple[int, bytes]:
        return index, await uploads.upload_one(client, index, size(index))

    async def everybody(url: str) -> dict[int, bytes]:
        limits = httpx2.Limits(max_connections=count)
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=300) as client:
            return dict(await asyncio.gather(*(one(client, index) for index in range(count))))

    with listening(app) as url:
        results = asyncio.run(everybody(url))
    assert sorted(results) == list(range(count))
    assert order == list(range(1, count + 1))
    assert max(held) <= most_held
    for index in (0, 77, 199):  # each its own, and none another's
        small = np.array(opened(picture(*size(index), seed=index)))
        assert np.array_equal(np.array(opened(results[index])), upscaler(small))


def test_two_hundred_some_of_them_large_in_a_process_of_bounded_memory() -> None:
    uploads.upload_at_once()


def test_who_waits_is_told_how_many_are_before(gated: tuple[Upscaler, Gate]) -> None:
    upscaler, gate = gated
    with client(upscaler) as server:
        jobs = [send(server).json() for _ in range(4)]
        assert gate.reached.wait(60)
        states = [server.get(job["url"]).json() for job in jobs]
        assert [job["state"] for job in states] == ["running", *["waiting"] * 3]
        assert [job["before"] for job in states] == [0, 1, 2, 3]
        assert server.delete(jobs[1]["url"]).status_code == 204
        assert [server.get(job["url"]).json()["before"] for job in jobs[2:]] == [1, 2]
        gate.open()
        assert [wait_for(server, job["url"])["state"] for job in (jobs[0], *jobs[2:])] == [
            "done"
        ] * 3


def test_a_full_queue_says_so_and_takes_more_when_it_is_not(
    gated: tuple[Upscaler, Gate],
) -> None:
    upscaler, gate = gated
    with client(upscaler, max_waiting=2) as server:
        running = send(server).json()
        assert gate.reached.wait(60)
        waiting = [send(server).json() for _ in range(2)]
        answer = send(server)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert "2 pictures are waiting" in answer.json()["detail"]
        gate.open()
        for job in (running, *waiting):
            assert wait_for(server, job["url"])["state"] == "done"
        assert send(server).status_code == 202


def test_what_is_running_stops_when_it_is_deleted(gated: tuple[Upscaler, Gate]) -> None:
    upscaler, gate = gated
    with client(upscaler) as server:
        job = send(server, samples=8).json()
        events: list[str] = []
        follower = threading.Thread(target=lambda: events.append(server.get(job["events"]).text))
        follower.start()
        assert gate.reached.wait(60)
        time.sleep(0.2)  # the follower follows
        assert server.delete(job["url"]).status_code == 204
        gate.open()
        follower.join(60)
        last = parsed_events(events[0])[-1].data
        assert (last["state"], last["results"]) == ("cancelled", [])
        assert wait_for(server, send(server).json()["url"])["state"] == "done"
        assert server.get(job["url"]).status_code == 404


def test_results_that_nobody_has_fetched_do_not_give_way() -> None:
    most = 150_000
    with client(max_held=most) as server:
        queue = queue_of(server.app)  # type: ignore[arg-type]
        first = wait_for(server, send(server, picture(20, 20)).json()["url"])
        states: list[str] = []
        for seed in range(12):
            answer = send(server, picture(20, 20, seed=seed))
            if answer.status_code == 202:
                ended = wait_for(server, answer.json()["url"])
                states.append(ended["state"])
                if ended["error"]:
                    assert "bytes of pictures are kept already" in ended["error"]
            else:
                assert answer.status_code == 429
                states.append("refused")
            assert 0 < queue.held <= most
        assert states[0] == "done"
        assert "done" not in states[states.index("failed") :]
        kept = server.get(first["results"][0]["url"])
        assert opened(kept.content).size == (80, 80)
        # Now it may go, and its room is enough for another.
        again = wait_for(server, send(server, picture(20, 20)).json()["url"])
        assert again["state"] == "done"
        assert server.get(first["url"]).status_code == 404


def test_fetched_results_give_way_to_new_pictures() -> None:
    with client(max_jobs=2) as server:
        jobs = [wait_for(server, send(server).json()["url"]) for _ in range(2)]
        answer = send(server)
        assert answer.status_code == 429
        assert "kept already" in answer.json()["detail"]
        assert server.get(jobs[1]["results"][0]["url"]).status_code == 200
        assert send(server).status_code == 202
        assert server.get(jobs[1]["url"]).status_code == 404
        assert server.get(jobs[0]["url"]).status_code == 200


def test_results_expire() -> None:
    with client(keep_seconds=1) as server:
        queue = queue_of(server.app)  # type: ignore[arg-type]
        job = wait_for(server, send(server).json()["url"])
        assert queue.held > 0
        deadline = time.monotonic() + 30
        while queue.held and time.monotonic() < deadline:  # without being asked
            time.sleep(0.05)
        assert queue.held == 0
        assert server.get(job["url"]).status_code == 404


def test_a_picture_may_take_so_long_and_no_longer(gated: tuple[Upscaler, Gate]) -> None:
    upscaler, gate = gated
    with client(upscaler, job_seconds=1) as server:
        job = send(server).json()
        assert gate.reached.wait(60)
        time.sleep(1.1)
        gate.open()
        failed = wait_for(server, job["url"])
        assert failed["state"] == "failed"
        assert "longer than 1 seconds" in failed["error"]
        assert wait_for(server, send(server).json()["url"])["state"] == "done"


def test_an_upload_that_does_not_end_is_refused_and_keeps_nothing() -> None:
    app = create_app(Models(tiny_upscaler()), ServerOptions(upload_seconds=1))

    def slowly() -> Iterator[bytes]:
        yield picture()[:40]
        time.sleep(2)
        yield picture()[40:]

    with listening(app) as url, httpx2.Client(base_url=url, timeout=60) as server:
        answer = server.post("/api/jobs", content=slowly(), headers=PNG)
        assert answer.status_code == 408
        assert queue_of(app).held == 0

        # One that goes away in the middle leaves nothing, either.
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(
                b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n"
            )
            leaving.sendall(picture()[:40])
            while not queue_of(app)._uploads:
                time.sleep(0.01)
        deadline = time.monotonic() + 30
        while queue_of(app)._uploads and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (queue_of(app)._uploads, queue_of(app).held) == (0, 0)


def test_a_body_without_end_is_refused_with_an_answer() -> None:
    app = create_app(Models(tiny_upscaler()), ServerOptions(max_bytes=100_000))
    with listening(app) as url, httpx2.Client(base_url=url, timeout=60) as server:
        endless = (b"\x89PNG\r\n\x1a\n" * 8192 for _ in range(100))
        answer = server.post("/api/jobs", content=endless, headers=PNG)
        assert answer.status_code == 413
        assert "100000 bytes" in answer.json()["detail"]
        assert queue_of(app).held == 0


def test_a_client_that_stops_following_is_forgotten(gated: tuple[Upscaler, Gate]) -> None:
    upscaler, gate = gated
    app = create_app(Models(upscaler), ServerOptions())
    with listening(app) as url, httpx2.Client(base_url=url, timeout=60) as server:
        job = server.post("/api/jobs", content=picture(), headers=PNG).json()
        log = queue_of(app).get(job["id"]).log
        with server.stream("GET", job["events"]) as stream:
            events = stream.iter_text()  # closes the stream once it is dropped
            next(events)
            assert len(log._followers) == 1
        deadline = time.monotonic() + 30
        while log._followers and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not log._followers
        gate.open()


# The command.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.mark.parametrize("seconds", [None, 60, 0])
def test_the_command_listens_here_and_ends_its_work_when_it_is_told_to_stop(
    seconds: int | None, model: Path
) -> None:
    with (
        Serving(model, *([] if seconds is None else ["--stop-seconds", str(seconds)])) as served,
        httpx2.Client(base_url=served.url, timeout=60) as server,
    ):
        assert served.url.startswith("http://127.0.0.1:")
        assert server.get("/").headers["content-type"].startswith("text/html")
        long = server.post("/api/jobs?samples=4", content=picture(60, 60)).json()
        waiting = [server.post("/api/jobs", content=picture(), headers=PNG) for _ in range(2)]
        while server.get(long["url"]).json()["state"] == "waiting":
            time.sleep(0.02)
        served.process.send_signal(signal.SIGTERM)
        while server.get("/healthz").status_code == 200:
            time.sleep(0.02)
        refused = server.post("/api/jobs", content=picture(), headers=PNG)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        ended = [wait_for(server, answer.json()["url"]) for answer in waiting]
        for job in ended:
            assert job["state"] == ("failed" if seconds == 0 else "done")
            assert seconds != 0 or "stopping" in job["error"]
        done = wait_for(server, long["url"])
        assert done["state"] == "done"
        for result in done["results"]:
            assert opened(server.get(result["url"]).content).size == (240, 240)
        for result in (result for job in ended for result in job["results"]):
            assert server.get(result["url"]).status_code == 200
        assert served.stop() == (0, "")


def test_a_second_signal_does_not_wait(model: Path) -> None:
    with Serving(model) as served, httpx2.Client(base_url=served.url, timeout=60) as server:
        job = server.post("/api/jobs?samples=8", content=picture(900, 900, "JPEG")).json()
        while server.get(job["url"]).json()["state"] == "waiting":
            time.sleep(0.02)
        assert served.stop(signal.SIGINT, signal.SIGINT) == (0, "")


def test_a_port_that_is_taken_is_one_line(model: Path) -> None:
    with Serving(model, BIDIFFSR_TOKEN="abc") as served:
        port = served.url.rstrip("/").rpartition(":")[2]
        assert httpx2.get(f"{served.url}api/model").status_code == 401
        second = subprocess.run(
            [*(sys.executable, "-m", "bidiffsr", "serve", "-n", str(model)), "--port", port],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1
        assert second.stdout == ""
        assert len(second.stderr.splitlines()) == 1
        assert f"port {port}: cannot be listened on" in second.stderr
        assert served.stop(signal.SIGTERM) == (0, "")
