"""Saving a picture while the network is at the next one: when it is done, and what it changes."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bidiffsr.batch import run, stream
from bidiffsr.batch.events import Advanced, Event, Failed, Finished, Saved, Started
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import DISK
from bidiffsr.errors import NumericalError, OutputError
from bidiffsr.images import read_image
from bidiffsr.images.image import Header, Image
from bidiffsr.upscaling.consistency import consistency
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread", "folder")

OPTIONS, FILES = UpscaleOptions(scale=4), FileOptions()
MOST_SECONDS = 120


def jobs(output: str = "out", samples: int = 1) -> list[Job]:
    """Of three pictures."""
    made = []
    for index, name in enumerate("abc"):
        picture = PIL.Image.linear_gradient("L").resize((20 + index, 30))
        picture.save(f"{name}.png")
        results = [Path(output, f"{name}{sample}.png") for sample in range(samples)]
        made.append(Job(Path(f"{name}.png"), tuple(results)))
    return made


def told(events: Iterator[Event]) -> list[tuple[str, str]]:
    """What is said of the pictures, without what is said on the way."""
    last = (Saved, Failed, Finished)
    return [(type(at).__name__, at.job.source.stem) for at in events if isinstance(at, last)]


@pytest.mark.parametrize("samples", [1, 2])
def test_files_and_order_are_those_of_one_after_the_other(samples: int) -> None:
    upscaler, said = tiny_upscaler(tail=1.0, sees_noise=True), []
    for output in ("one", "two"):
        work = jobs(output, samples)
        said.append(
            told(stream.upscale_jobs(upscaler, work, OPTIONS, FILES, behind=output == "two"))
        )
    assert said[0] == said[1]
    names = sorted(path.name for path in Path("one").iterdir())
    assert len(names) == 3 * samples
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.parametrize("room", [True, False])
def test_the_network_goes_on_meanwhile_if_there_is_memory(
    room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is saved slowly: until the second one is at the network, or for a while."""
    upscaler = tiny_upscaler()
    draw_samples, write = Upscaler.stream, DISK.write_image
    drawn, saved = threading.Semaphore(0), []
    under_way: list[str] = []

    def draw(self: Upscaler, image: Any, **settings: Any) -> Any:
        under_way.append("drawn" if saved or not under_way else "drawn meanwhile")
        drawn.release()
        yield from draw_samples(self, image, **settings)

    def slow(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.stem == "a0":
            drawn.acquire(timeout=MOST_SECONDS)  # its own
            drawn.acquire(timeout=MOST_SECONDS if room else 0.5)
        notes = write(path, *arguments, **named)
        saved.append(path.stem)
        return notes

    monkeypatch.setattr(Upscaler, "stream", draw)
    monkeypatch.setattr(type(DISK), "write_image", staticmethod(slow))
    if not room:
        needed = upscaler.check_memory(Header(30, 22, False, 1), OPTIONS, disk=True).memory
        # Enough for the largest, and not for a picture that waits to be saved.
        monkeypatch.setattr(Upscaler, "memory_left", lambda *_: needed + 1000)
    assert told(stream.upscale_jobs(upscaler, jobs(), OPTIONS, FILES))[-1] == ("Finished", "c")
    assert under_way[1] == ("drawn meanwhile" if room else "drawn")


@pytest.mark.parametrize("quick", [True, False])
def test_what_cannot_be_saved_fails_alone_and_in_its_turn(
    quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quick(stream.Behind):
        """Over at once."""

        def start(self, save: Any) -> None:
            super().start(save)
            self.wait()

    if quick:
        monkeypatch.setattr(stream, "Behind", Quick)
    write = DISK.write_image

    def fail(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.stem == "a0":
            raise OutputError("a0.png: the disk is full")
        return write(path, *arguments, **named)

    monkeypatch.setattr(type(DISK), "write_image", staticmethod(fail))
    work = jobs()
    work[1] = Job(Path("none.png"), work[1].outputs)
    found = list(stream.upscale_jobs(tiny_upscaler(), work, OPTIONS, FILES))
    assert told(iter(found)) == [
        *(("Failed", "a"), ("Failed", "none"), ("Saved", "c"), ("Finished", "c"))
    ]
    assert [str(at.error).split(":")[0] for at in found if isinstance(at, Failed)] == [
        *("a0.png", "none.png")
    ]


@pytest.mark.parametrize("when", ["at the next picture", "waiting for it", "starting it"])
def test_a_batch_that_is_given_up_leaves_nothing_half_written(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hangs while the first picture is saved, and the user has enough."""
    hanging, goes_on = threading.Event(), threading.Event()
    start = stream.Behind.start

    def hang(_: int) -> None:
        hanging.set()
        goes_on.wait(MOST_SECONDS)

    def interrupted(*_: Any) -> None:
        assert hanging.wait(MOST_SECONDS)
        assert len(list(Path("out").iterdir())) == 1
        raise KeyboardInterrupt

    def start_interrupted(*arguments: Any) -> None:
        start(*arguments)
        interrupted()

    monkeypatch.setattr("os.fsync", hang)
    monkeypatch.setattr("bidiffsr.batch.behind._LAST_SECONDS", 0.01)
    if when == "waiting for it":
        monkeypatch.setattr(stream.Behind, "result", interrupted)
    elif when == "starting it":
        monkeypatch.setattr(stream.Behind, "start", start_interrupted)
    events = stream.upscale_jobs(tiny_upscaler(), jobs(), OPTIONS, FILES)
    with pytest.raises(KeyboardInterrupt), closing(events):
        for event in events:
            if when == "at the next picture" and event == Started(jobs()[1]):
                interrupted()
    assert list(Path("out").iterdir()) == []
    goes_on.set()


@pytest.mark.parametrize("what", ["check_result", "consistency"])
def test_results_are_checked_and_compared_while_the_network_goes_on(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one slowly: until the second picture is at the network."""
    draw_samples, work = Upscaler.stream, getattr(run, what)
    second, calls = threading.Event(), []

    def draw(self: Upscaler, image: Any, **settings: Any) -> Any:
        if image.width == 21:
            second.set()
        yield from draw_samples(self, image, **settings)

    def slow(*arguments: Any) -> Any:
        if not calls:
            calls.append(second.wait(MOST_SECONDS))
        return work(*arguments)

    monkeypatch.setattr(Upscaler, "stream", draw)
    monkeypatch.setattr(run, what, slow)
    found = list(stream.upscale_jobs(tiny_upscaler(), jobs(), OPTIONS, FILES, compare=True))
    assert calls == [True]
    saved = [at for at in found if isinstance(at, Saved)]
    assert [list(at.consistency) for at in saved] == [[job.outputs[0]] for job in jobs()]
    for at in saved:
        expected = consistency(read_image(at.job.source), read_image(at.paths[0]))
        assert at.consistency[at.paths[0]] == expected


def test_a_result_that_cannot_be_its_pictures_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = run.check_result

    def refuse(source: Image, result: Image) -> None:
        if source.width == 20:
            raise NumericalError("unsound")
        check(source, result)

    monkeypatch.setattr(run, "check_result", refuse)
    found = list(stream.upscale_jobs(tiny_upscaler(), jobs(), OPTIONS, FILES))
    assert told(iter(found)) == [
        *(("Failed", "a"), ("Saved", "b"), ("Finished", "b"), ("Saved", "c"), ("Finished", "c"))
    ]
    assert [str(at.error) for at in found if isinstance(at, Failed)] == ["a.png: unsound"]
    results = [at for at in found if isinstance(at, Advanced) and at.progress.result is not None]
    assert [at.job.source.stem for at in results] == ["a", "b", "c"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["b0.png", "c0.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_memory_that_it_takes_to_check_and_save_is_known(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it is Python's."""
    upscaler = tiny_upscaler()
    monkeypatch.setattr(upscaler.backend, "predict", lambda noisy, *_: np.zeros_like(noisy))
    picture = PIL.Image.linear_gradient("L").resize((300, 300)).convert(mode)
    picture.save("large.png")
    large = Job(Path("large.png"), (Path("out/large.png"),))
    *_, made = run.draw_file(upscaler, large, OPTIONS, FILES, compare=True)
    assert isinstance(made, run.Made)
    held = 300 * 300 * 17 * len(mode)  # picture and result
    tracemalloc.start()
    try:
        made.save(None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held + most < made.size


def test_a_save_that_never_began_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidiffsr.batch.behind._LAST_SECONDS", 0.01)
    save = stream.Behind(Path("out/a.png"), 0)
    save.abandon()
    assert not save.ended
