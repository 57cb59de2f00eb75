"""Reading a picture while the network is at the one before: when, and what it changes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from bidiffsr.batch.ahead import Ahead
from bidiffsr.batch.events import Advanced, Event, Failed, Saved, Started, Waiting
from bidiffsr.batch.journal import Journal
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.resume import Resumption
from bidiffsr.batch.storage import DISK
from bidiffsr.batch.stream import upscale_jobs
from bidiffsr.images.image import Header
from bidiffsr.system.process import started_at
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread", "folder")

OPTIONS, FILES = UpscaleOptions(scale=4), FileOptions()
MOST_SECONDS = 120
LONG_AGO = 10**18


def draw(name: str, width: int = 20, *, turned: bool = False) -> None:
    """A picture whose file has not been changed lately."""
    picture = PIL.Image.linear_gradient("L").resize((width, 30))
    (picture.rotate(180) if turned else picture).save(name, compress_level=0)
    os.utime(name, ns=(LONG_AGO, LONG_AGO))


def job(name: str, output: str = "out") -> Job:
    return Job(Path(f"{name}.png"), (Path(output, f"{name}.png"),))


def jobs(output: str = "out") -> list[Job]:
    """Of three pictures."""
    for index, name in enumerate("abc"):
        draw(f"{name}.png", 20 + index)
    return [job(name, output) for name in "abc"]


def told(events: Iterator[Event]) -> list[tuple[str, str, str]]:
    """What is said of the pictures, and why not."""
    return [
        (type(at).__name__, at.job.source.stem, str(getattr(at, "error", "")))
        for at in events
        if not isinstance(at, Started | Advanced)
    ]


class Watched:
    """What is read, by whom, and a network that waits at a picture for the next one's reading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_network: Any = lambda: None) -> None:
        self.upscaler = tiny_upscaler(tail=1.0, sees_noise=True)
        self.read: list[tuple[str, bool]] = []
        """Pictures that were decoded, and whether ahead of their turn."""
        self.over = threading.Event()
        """A first reading ahead has come to its end, whatever that is."""
        self.at_network = at_network
        read, draw_samples, predict = (
            DISK.read_image,
            Upscaler.stream,
            self.upscaler.backend.predict,
        )
        self._pictures = 0

        def watched(path: Path, **named: Any) -> Any:
            ahead = threading.current_thread() is not threading.main_thread()
            try:
                image = read(path, **named)
                self.read.append((path.stem, ahead))
            finally:
                if ahead:
                    self.over.set()
            return image

        def counted(upscaler: Upscaler, image: Any, **settings: Any) -> Any:
            self._pictures += 1
            yield from draw_samples(upscaler, image, **settings)

        def waiting(*arguments: Any) -> Any:
            if self._pictures == 1:
                assert self.over.wait(MOST_SECONDS)
                self._pictures += 1
                self.at_network()
            return predict(*arguments)

        monkeypatch.setattr(type(DISK), "read_image", staticmethod(watched))
        monkeypatch.setattr(Upscaler, "stream", counted)
        monkeypatch.setattr(self.upscaler.backend, "predict", waiting)

    def run(self, work: Any, **more: Any) -> list[tuple[str, str, str]]:
        return told(upscale_jobs(self.upscaler, work, OPTIONS, FILES, **more))


@pytest.fixture
def expected() -> dict[str, bytes]:
    """The results of one after the other."""
    upscaler = tiny_upscaler(tail=1.0, sees_noise=True)
    work = jobs("one")
    list(upscale_jobs(upscaler, work, OPTIONS, FILES, behind=False, ahead=False))
    return contents("one")


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_next_picture_is_decoded_meanwhile_and_results_are_the_same(
    expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, lambda: seen.extend(watched.read))
    seen: list[tuple[str, bool]] = []
    said = watched.run(jobs())
    assert seen == [("a", False), ("b", True)]  # while the network was at the first
    assert [name for name, _ in watched.read] == ["a", "b", "c"]  # each once
    kinds = [(kind, name) for name in "abc" for kind in ("Saved", "Finished")]
    assert [at[:2] for at in said] == kinds
    assert contents("out") == expected


def test_without_memory_for_both_it_is_decoded_at_its_turn(
    expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    header = Header(30, 22, False, 1)
    needed = watched.upscaler.check_memory(header, OPTIONS, disk=True).memory
    monkeypatch.setattr(Upscaler, "memory_left", lambda *_: needed + 100_000)
    watched.run(jobs())
    assert watched.read == [("a", False), ("b", False), ("c", False)]
    assert contents("out") == expected


@pytest.mark.parametrize(
    ("spare", "begun", "decoded"),
    [(None, True, True), (10**9, True, True), (100_000, True, False), (100, False, False)],
)
def test_no_more_memory_is_taken_than_there_is_to_spare(
    spare: int | None, begun: bool, decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is too large nothing is read, of one that is not, perhaps the header."""
    read, found = DISK.read_image, []

    def counted(path: Path, **named: Any) -> Any:
        found.append("begun")
        image = read(path, **named)
        found.append("decoded")
        return image

    monkeypatch.setattr(type(DISK), "read_image", staticmethod(counted))
    ahead = Ahead(lambda _: True, 1000)
    ahead.begin(jobs(), spare)
    assert ahead._reading is not None
    assert (ahead._reading._future.result(MOST_SECONDS) is not None) == decoded
    assert found == ["begun", "decoded"][: begun + decoded]
    image = ahead.read_image(Path("a.png"), max_pixels=1000)
    assert (image.height, image.width) == (30, 20)
    assert found.count("decoded") == 1


def test_memory_that_became_scarce_is_first_freed(
    expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none for the next picture as long as what was read ahead is kept."""
    watched = Watched(monkeypatch)
    refuse = Upscaler.check_memory

    def scarce(upscaler: Upscaler, header: Header, *arguments: Any, **named: Any) -> Any:
        if header.width == 21 and watched.read[-1] == ("b", True) and not refused:
            refused.append(True)
            return refuse(upscaler, header, *arguments, **named | {"more": -(10**18)})
        return refuse(upscaler, header, *arguments, **named)

    refused: list[bool] = []
    monkeypatch.setattr(Upscaler, "check_memory", scarce)
    said = watched.run(jobs(), behind=False)
    assert [kind for kind, *_ in said].count("Saved") == 3
    assert watched.read[:3] == [("a", False), ("b", True), ("b", False)]
    assert contents("out") == expected


@pytest.mark.parametrize("in_journal", [False, True])
def test_a_picture_that_changes_meanwhile_is_read_again(
    in_journal: bool, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into one of the same size and time."""
    jobs()
    size = Path("b.png").stat().st_size
    draw("b.png", 21, turned=True)
    list(upscale_jobs(tiny_upscaler(tail=1.0, sees_noise=True), [job("b", "two")], OPTIONS, FILES))
    work = jobs()
    watched = Watched(monkeypatch, lambda: draw("b.png", 21, turned=True))
    assert Path("b.png").stat().st_size == size
    with Journal("j", "model", {}) as journal:
        resumption = Resumption(journal, FILES) if in_journal else None
        watched.run(work, resumption=resumption)
        assert ("b", True) in watched.read
        assert ("b", False) in watched.read
        assert contents("out") == expected | contents("two") != expected
        if in_journal:
            part = "sample 1, PNG"
            found = journal.results(journal.digest(Path("b.png")), part)
            assert found == {Path("out/b.png").absolute(): journal.digest(Path("out/b.png"))}


def test_a_picture_that_vanishes_meanwhile_fails_alone(
    expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = jobs()
    watched = Watched(monkeypatch, Path("b.png").unlink)
    said = watched.run(work)
    assert ("b", True) in watched.read
    failed = "Failed", "b", "b.png: no such file; check the name"
    assert [at for at in said if at[0] != "Finished"] == [
        *(("Saved", "a", ""), failed, ("Saved", "c", ""))
    ]
    assert contents("out") == {name: expected[name] for name in ("a.png", "c.png")}


@pytest.mark.parametrize("damage", ["cut", "none", "pages"])
def test_a_bad_picture_fails_alone_and_in_its_turn(
    damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(output: str) -> list[Job]:
        work = jobs(output)
        if damage == "cut":
            Path("b.png").write_bytes(Path("b.png").read_bytes()[:-30])
        elif damage == "pages":
            frames = [PIL.Image.new("L", (8, 8), grey) for grey in range(2)]
            frames[0].save("b.png", format="TIFF", save_all=True, append_images=frames[1:])
        else:
            Path("b.png").write_text("no picture")
        os.utime("b.png", ns=(LONG_AGO, LONG_AGO))
        return work

    one = told(
        upscale_jobs(*(tiny_upscaler(), spoilt("one"), OPTIONS, FILES), behind=False, ahead=False)
    )
    watched = Watched(monkeypatch)
    assert watched.run(spoilt("out")) == one
    assert [kind for kind, *_ in one] == ["Saved", "Finished", "Failed", "Saved", "Finished"]
    assert sorted(contents("out")) == ["a.png", "c.png"]


def test_what_need_not_be_made_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that follows is."""
    work = jobs()
    Path("out").mkdir()
    Path("out/b.png").touch()
    watched = Watched(monkeypatch)
    assert [at[:2] for at in watched.run(work)].count(("Failed", "b")) == 1
    assert watched.read == [("a", False), ("c", True)]


def test_what_was_changed_a_moment_ago_is_read_at_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could change again without a trace, so the one that was read would not be the one."""
    work = jobs()
    watched = Watched(monkeypatch)
    watched.over.set()
    os.utime("b.png")
    watched.run(work)
    assert ("b", False) in watched.read


@pytest.mark.parametrize("kind", [tuple, iter])
def test_jobs_that_are_made_one_by_one_are_asked_for_at_their_turn(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def one_by_one() -> Iterator[Job]:
        for each in jobs():
            asked.append(each.source.stem)
            yield each

    watched = Watched(monkeypatch, lambda: seen.extend(asked))
    seen: list[str] = []
    if kind is iter:
        watched.over.set()
    watched.run(kind(one_by_one()))
    assert seen == (["a"] if kind is iter else ["a", "b", "c"])
    assert (("b", True) in watched.read) == (kind is tuple)


def test_where_there_are_no_threads_pictures_are_read_at_their_turn(
    expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    work = jobs()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    upscaler = tiny_upscaler(tail=1.0, sees_noise=True)
    list(upscale_jobs(upscaler, work, OPTIONS, FILES, behind=False))
    assert contents("out") == expected


@pytest.mark.parametrize("hangs", ["the disk", "the decoder"])
def test_a_batch_that_is_given_up_decodes_no_more(
    hangs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk is left hanging, and nothing is decoded; what is being decoded is waited for."""
    read, hanging, goes_on = DISK.read_image, threading.Event(), threading.Event()
    decoded, ended = [], threading.Event()

    def hang() -> None:
        hanging.set()
        goes_on.wait(MOST_SECONDS)

    def slow(path: Path, *, check_header: Any, **named: Any) -> Any:
        def then_hang(header: Header) -> None:
            check_header(header)
            decoded.append(path.stem)
            if path.stem == "b" and hangs == "the decoder":
                hang()

        if path.stem == "b" and hangs == "the disk":
            hang()
        try:
            return read(path, check_header=then_hang, **named)
        finally:
            if path.stem == "b":
                ended.set()

    work, upscaler = jobs(), tiny_upscaler()

    def interrupted(*arguments: Any) -> Any:
        assert hanging.wait(MOST_SECONDS)
        raise KeyboardInterrupt

    monkeypatch.setattr(upscaler.backend, "predict", interrupted)
    monkeypatch.setattr(type(DISK), "read_image", staticmethod(slow))
    monkeypatch.setattr("bidiffsr.batch.ahead._LAST_SECONDS", 0.01)
    if hangs == "the decoder":
        threading.Timer(0.2, goes_on.set).start()
    events = upscale_jobs(upscaler, work, OPTIONS, FILES)
    with pytest.raises(KeyboardInterrupt), closing(events):
        list(events)
    assert ended.is_set() == (hangs == "the decoder")
    goes_on.set()
    assert ended.wait(MOST_SECONDS)
    assert decoded == (["a", "b"] if hangs == "the decoder" else ["a"])
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize("copies", [False, True])
def test_a_journal_says_the_same(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures may be one under two names; nothing is claimed that is only read."""

    def work(output: str) -> list[Job]:
        made = jobs(output)
        if copies:
            Path("b.png").write_bytes(Path("a.png").read_bytes())
            os.utime("b.png", ns=(LONG_AGO, LONG_AGO))
        return made

    with Journal("one.journal", "model", {}) as journal:
        one = told(
            upscale_jobs(
                *(tiny_upscaler(tail=1.0, sees_noise=True), work("one"), OPTIONS, FILES),
                Resumption(journal, FILES),
                behind=False,
                ahead=False,
            )
        )
    with Journal("two.journal", "model", {}) as journal:

        def claims() -> None:
            found.extend(journal._read("SELECT picture FROM claims"))

        found: list[Any] = []
        watched = Watched(monkeypatch, claims)
        assert watched.run(work("out"), resumption=Resumption(journal, FILES)) == one
        assert found == [(journal.digest(Path("a.png")),)]
    assert ("b", True) in watched.read
    assert contents("out") == contents("one")
    assert (contents("out")["a.png"] == contents("out")["b.png"]) == copies


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that runs."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_picture_of_another_process_is_not_read_ahead(
    other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the one that follows it."""
    work, watched, saved = jobs(), Watched(monkeypatch), []
    with Journal("j", "model", {}) as journal:
        me, start = journal._me, started_at(other.pid)
        assert start is not None
        journal._me = me[0], other.pid, start
        assert journal.claim(journal.digest(Path("b.png"))) is None
        journal._me = me
        resumption = Resumption(journal, FILES)
        for event in upscale_jobs(watched.upscaler, work, OPTIONS, FILES, resumption):
            if isinstance(event, Waiting):
                assert watched.read == [("a", False), ("c", True)]
                other.kill()
                other.wait()
            if isinstance(event, Saved):
                saved.append(event.job.source.stem)
            assert not isinstance(event, Failed)
    assert saved == ["a", "c", "b"]


def test_the_state_of_a_file_changes_with_it() -> None:
    assert DISK.state(Path("a.png")) is None
    draw("a.png")
    before = DISK.state(Path("a.png"))
    assert before is not None
    assert before[0] == Path("a.png").stat().st_size
    assert DISK.state(Path("a.png")) == before
    draw("b.png", turned=True)
    Path("b.png").replace("a.png")
    after = DISK.state(Path("a.png"))
    assert after is not None
    assert (after[0], after != before) == (before[0], True)
    os.utime("a.png")
    assert DISK.state(Path("a.png")) is None  # it may change again within the same moment
    os.mkfifo("pipe")
    for path in (Path(), Path("pipe"), Path("a\0b")):
        assert DISK.state(path) is None
