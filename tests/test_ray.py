"""A batch on a Ray cluster: nothing is lost, nothing done twice, and the bytes are the same."""

# pyright: reportMissingImports=false
# What the extra `ray` installs may be missing.

from __future__ import annotations

import ctypes
import os
import re
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bidiffsr.batch import ray as batch_ray
from bidiffsr.batch.events import Advanced, Event, Failed, Finished, Saved
from bidiffsr.batch.needs import AlreadyThere
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import plan_jobs
from bidiffsr.batch.ray import LOCAL, Cluster, Work, Worker
from bidiffsr.batch.sources import find_sources
from bidiffsr.batch.workers import ThisProcess
from bidiffsr.errors import OptionError
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import save_tiny_model

ray: Any = pytest.importorskip("ray", reason="Ray is not installed (make test-ray)")
pytest.importorskip("ray.data", reason="Ray Data is not installed (make test-ray)")

pytestmark = [
    pytest.mark.usefixtures("one_thread", "folder"),
    # Of Ray's own, in this process.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FILES, BY_FOUR = FileOptions(), UpscaleOptions(scale=4)
# Ray's processes are nicer than all others by default, and on a busy machine never start.
EAGER = {"RAY_worker_niceness": "0"}
RUNNING = {"backend": "auto", "precision": "fast", "threads": 0, "device": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine, which this process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**batch_ray._QUIET, **EAGER}.items():
            patch.setenv(name, value)
        with batch_ray._connected(LOCAL, 2):
            yield ray.get_runtime_context().gcs_address


def save(*names: str) -> None:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 8 + number, 3), np.uint8)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(name)


@contextmanager
def counted_writes(folder: Path) -> Iterator[Counter[str]]:
    """How often a file gets each name in a folder, as the kernel counts (inotify(7))."""
    libc, moved_to = ctypes.CDLL(None, use_errno=True), 0x80
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), moved_to) >= 0
    seen: Counter[str] = Counter()
    try:
        yield seen
        data, at = os.read(watch, 1 << 16), 0
        while at < len(data):
            length = struct.unpack_from("iIII", data, at)[3]
            seen[data[at + 16 : at + 16 + length].rstrip(b"\0").decode()] += 1
            at += 16 + length
    finally:
        os.close(watch)


def test_killed_workers_lose_nothing_and_do_nothing_twice(
    cluster: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/a.png", "in/b.png", "in/early.png", "in/late.png", "in/poison.png")
    Path("in/text.png").write_text("no picture at all")
    Path("out").mkdir()
    upscaler = Upscaler.from_pretrained(model)
    sources = find_sources(["in", "missing.png"]).pictures
    jobs = plan_jobs(sources, Path("out"), BY_FOUR).jobs

    class Killing(Worker):
        """Dies in the middle of early.png and behind late.png, once; in poison.png always."""

        def __init__(self, work: Work) -> None:
            super().__init__(work)
            self._here: Any = self
            self._whole = ThisProcess(Upscaler.from_pretrained(Path(str(model))))

        def upscale(self, jobs: Any, options: Any, files: Any) -> Iterator[Event]:
            name = jobs[0].source.name
            first = not Path(f"{name}.begun").exists()
            Path(f"{name}.begun").touch()
            for event in self._whole.upscale(jobs, options, files):
                in_middle = name in ("early.png", "poison.png") and isinstance(event, Advanced)
                behind = name == "late.png" and isinstance(event, Finished)
                if (in_middle or behind) and (first or name == "poison.png"):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield event

    monkeypatch.setattr(batch_ray, "Worker", Killing)
    with counted_writes(Path("out")) as writes:
        events = list(Cluster(LOCAL, model, upscaler, RUNNING).upscale(jobs, BY_FOUR, FILES))
    ends = [event for event in events if isinstance(event, Finished | Failed)]
    assert sorted(event.job.source for event in ends) == sorted(job.source for job in jobs)
    errors = {event.job.source.name: event.error for event in ends if isinstance(event, Failed)}
    assert set(errors) == {"late.png", "poison.png", "text.png", "missing.png"}
    # Its result lay there already; only the word of it was lost.
    assert isinstance(errors["late.png"], AlreadyThere)
    assert str(errors["poison.png"]).startswith("in/poison.png: its worker was killed 2 times")
    assert str(errors["text.png"]).startswith("in/text.png: not a picture of a known kind")
    assert str(errors["missing.png"]).startswith("missing.png: no such file or folder")
    assert writes == {f"{name}_x4.png": 1 for name in ("a", "b", "early", "late")}
    (saved,) = (
        event for event in events if isinstance(event, Saved) and event.job.source.name == "a.png"
    )
    assert (saved.paths, saved.size) == ((Path("out/a_x4.png"),), (36, 32))
    list(
        ThisProcess(upscaler).upscale(
            plan_jobs(sources, Path("here"), BY_FOUR).jobs, BY_FOUR, FILES
        )
    )
    for name in writes:
        assert Path("out", name).read_bytes() == Path("here", name).read_bytes()


def run(*arguments: str) -> tuple[int, list[str], list[str]]:
    """The command's exit code and lines, in any order, without times."""
    command = [sys.executable, "-m", "bidiffsr", "upscale", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    out = re.sub(r", [\d.]+ s\)", ")", done.stdout)
    return done.returncode, sorted(out.splitlines()), sorted(done.stderr.splitlines())


def test_the_command_says_what_one_machine_says(cluster: str, model: Path, folder: Path) -> None:
    """With relative paths, URIs, a picture that is done already, and two that cannot be done."""
    save("in/a.png", "in/b.jpg", "in/deep/c.webp", "in/done.png", "here/done_x4.png")
    Path("there").mkdir()
    Path("there/done_x4.png").write_bytes(Path("here/done_x4.png").read_bytes())
    Path("in/text.png").write_text("no picture at all")
    asked = ["in", "missing.png", f"file://{folder}/in/deep", "-r", "-n", str(model)]
    code, out, err = run(*asked, "-o", "here")
    assert code == 1
    assert len(out) == 4
    found = run(*asked, "-o", "there", "--ray", cluster)
    here = [[line.replace("here/", "there/") for line in lines] for lines in (out, err)]
    assert found == (code, *here)
    for result in Path("here").rglob("*.*"):
        assert Path("there", result.relative_to("here")).read_bytes() == result.read_bytes()


def test_a_worker_is_given_the_memory_of_the_largest_picture(cluster: str, model: Path) -> None:
    save("in/a.png", "in/b.png")
    PIL.Image.new("RGB", (900, 700)).save("in/large.png")
    upscaler = Upscaler.from_pretrained(model)
    jobs = plan_jobs(find_sources(["in"]).pictures, None, BY_FOUR).jobs
    workers = Cluster(LOCAL, model, upscaler, RUNNING)
    largest, *others = sorted(
        (workers._needed([job], BY_FOUR, FILES) for job in jobs), reverse=True
    )
    assert workers._needed(jobs, BY_FOUR, FILES) == pytest.approx(largest, rel=0.1)
    # Of the result's pixels alone, in float32 and as samples.
    assert largest - max(others) > 0.9 * 16 * 900 * 700 * (4 * 3 + 3)


def test_what_no_machine_has_is_not_waited_for(cluster: str, model: Path) -> None:
    save("in/a.png")
    jobs = plan_jobs(find_sources(["in"]).pictures, None, BY_FOUR).jobs
    workers = Cluster(LOCAL, model, Upscaler.from_pretrained(model), {**RUNNING, "threads": 64})
    with pytest.raises(OptionError, match="threads: got 64, expected at most 2"):
        next(workers.upscale(jobs, BY_FOUR, FILES))
    assert batch_ray._most("memory", 1 << 60) < 1 << 50
    assert batch_ray._most("memory", 1 << 20) == 1 << 20


def test_statistics_are_not_sent(cluster: str) -> None:
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_a_cluster_that_is_not_there_is_one_line(model: Path) -> None:
    save("a.png")
    code, out, err = run("a.png", "-n", str(model), "--ray", "nonsense://nowhere")
    (line,) = err
    assert (code, out) == (2, [])
    assert line.startswith(
        "bidiffsr: error: --ray: got nonsense://nowhere, where no cluster can be"
    )


def test_pipes_are_for_one_machine() -> None:
    code, out, err = run("-", "-o", "-", "--ray", LOCAL)
    assert (code, out) == (2, [])
    assert err[0].startswith("bidiffsr: error: --ray: got it with a pipe")
