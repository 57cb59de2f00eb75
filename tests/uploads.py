"""Two hundred pictures uploaded to `bidiffsr serve` at once: each gets its own, in bounds."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np

from bidiffsr.upscaling.upscaler import Upscaler
from served import Serving, opened, parsed_events, picture

COUNT = 200
LARGE = 20
"""How many of them are large, spread evenly."""
SIDE = 256
"""Rows and columns of a large one."""

CHECKED = (0, 77, 110, 199)
"""Those whose results are computed again."""

MAX_HELD = 128_000_000
"""What the server may keep of uploads, previews and results: `--max-held`."""

_MODEL, _JOBS = "x4-small", "/api/jobs?quality=fast"
_ALL_AT_ONCE = 200_000_000
"""Bytes by which the process may grow beside what it keeps.

An answer is copied while it is sent, and up to `LARGE` results of 4 MB each may be under way; what
200 connections and their requests take is about 100 kB each; the allocator gives back late. If all
were decoded and upscaled as they come, float32 arrays of the large ones alone would take
LARGE * (4 * SIDE)**2 * 3 * 4 bytes = 252 MB for each of the several that a picture needs.
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of the server's process."""

    before: int
    """The most until the uploads, of which one large picture was upscaled alone."""
    after: int
    """The most until their end."""
    held: int
    """The most that it said it kept, as it was asked now and then."""

    def __str__(self) -> str:
        """For the table of faults."""
        return (
            f"each got its own result; kept at most {self.held / 1e6:.0f} MB of the "
            f"{MAX_HELD / 1e6:.0f} MB allowed; the process's peak rose from "
            f"{self.before / 1e6:.0f} to {self.after / 1e6:.0f} MB"
        )


def _peak(process: int) -> int:
    """The most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


def _size(index: int) -> tuple[int, int]:
    return (SIDE, SIDE) if index % (COUNT // LARGE) == 0 else (8 + index % 5, 8 + index % 7)


async def upload_one(
    client: httpx2.AsyncClient, index: int, size: tuple[int, int], jobs: str = "/api/jobs"
) -> bytes:
    """Upload a picture of its own, as a body or in a form, and wait for its result.

    Args:
        client: of the server.
        index: the picture's number, its seed.
        size: its width and height.
        jobs: where it goes.

    Returns:
        The result's file.
    """
    body = picture(*size, seed=index)
    if index % 2:
        headers = {"Content-Type": "image/png"}
        sent = await client.post(jobs, content=body, headers=headers)
    else:
        sent = await client.post(jobs, files={"picture": (f"{index}.png", body)})
    assert sent.status_code == 202, sent.text
    stream = await client.get(sent.json()["events"])
    last = parsed_events(stream.text)[-1].data
    assert last["state"] == "done", last
    answer = await client.get(last["results"][0]["url"])
    assert opened(answer.content).size == (4 * size[0], 4 * size[1])
    return answer.content


async def _held(client: httpx2.AsyncClient) -> int:
    text = (await client.get("/metrics")).text
    match = re.search(r"^bidiffsr_held_bytes (\S+)$", text, re.MULTILINE)
    assert match
    return int(float(match[1]))


async def _everybody(url: str) -> tuple[list[bytes], int]:
    limits = httpx2.Limits(max_connections=COUNT + 1)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=600) as client:
        work = asyncio.gather(
            *(upload_one(client, index, _size(index), _JOBS) for index in range(COUNT))
        )
        held = 0
        while not work.done():
            held = max(held, await _held(client))
            await asyncio.wait([work], timeout=0.2)
        return await work, held


def upload_at_once() -> Memory:
    """Upload them to a server of its own.

    Raises:
        AssertionError: a result is missing or another's, or the memory is not bounded.
    """
    with Serving(_MODEL, "--max-held", str(MAX_HELD), "--threads", "1") as served:
        process = served.process.pid
        # What the network takes for a large one is no growth.
        with httpx2.Client(base_url=served.url, timeout=600) as client:
            headers = {"Content-Type": "image/png"}
            job = client.post(_JOBS, content=picture(SIDE, SIDE), headers=headers).json()
            client.get(job["events"])
            assert client.delete(job["url"]).status_code == 204
        before = _peak(process)
        results, held = asyncio.run(_everybody(served.url))
        memory = Memory(before, _peak(process), held)
    upscaler = Upscaler.from_pretrained(_MODEL)
    for index in CHECKED:  # each its own, and none another's
        small = np.array(opened(picture(*_size(index), seed=index)))
        assert np.array_equal(np.array(opened(results[index])), upscaler(small, quality="fast"))
    assert 0 < memory.held <= MAX_HELD, memory
    assert memory.after - memory.before <= MAX_HELD + _ALL_AT_ONCE, memory
    return memory
