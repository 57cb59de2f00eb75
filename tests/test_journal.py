"""Batches with a journal: what is done stays done, whatever happens to names and processes."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidiffsr.batch import stream
from bidiffsr.batch.journal import Journal, Owner
from bidiffsr.cli import main
from bidiffsr.errors import JournalError
from bidiffsr.system.process import boot, here, started_at
from bidiffsr.upscaling import upscaler
from bidiffsr.upscaling.upscaler import Upscaler
from helpers import largest_file
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread", "folder")

Capture = pytest.CaptureFixture[str]
PICTURE = b"p" * 32


def save(name: str, grey: int = 100) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    gradient = PIL.Image.linear_gradient("L").resize((6, 5))
    PIL.Image.blend(gradient, PIL.Image.new("L", (6, 5), grey), 0.5).save(name)


def contents(name: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@pytest.fixture
def command(model: str) -> list[str]:
    """Three pictures, and what upscales them with a journal."""
    for grey, name in enumerate("abc"):
        save(f"in/{name}.png", 50 * grey)
    return ["upscale", "in", "-o", "out", "-n", model, "--journal", "j"]


def run(command: list[str], capsys: Capture, code: int = 0) -> tuple[list[str], list[str]]:
    """The pictures that were made, and the lines of standard error."""
    capsys.readouterr()
    assert main(command) == code
    out, err = capsys.readouterr()
    return [line.split(" -> ")[0] for line in out.splitlines()], err.splitlines()


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a picture is upscaled again")

    monkeypatch.setattr(Upscaler, "stream", fail)


def test_it_goes_on_where_it_was(command: list[str], capsys: Capture) -> None:
    made, err = run(command, capsys)
    assert (made, err) == (["in/a.png", "in/b.png", "in/c.png"], ["bidiffsr: 3 done"])
    whole = contents()
    Path("out/b_x4.png").unlink()
    for more in ([], ["--overwrite"]):
        made, err = run([*command, *more], capsys)
        assert made == ([] if more else ["in/b.png"])
        assert (
            err[-1]
            == f"bidiffsr: {'0' if more else '1'} done, {'3' if more else '2'} already there"
        )
    assert contents() == whole
    with sqlite3.connect("j") as base:  # what others may read there
        rows = base.execute("SELECT picture, path, sha256 FROM results").fetchall()
        left = base.execute("SELECT count(*) FROM claims").fetchone()
    expected = {
        (sha256(f"in/{name}.png"), os.fsencode(Path(f"out/{name}_x4.png").absolute()))
        for name in "abc"
    }
    assert {row[:2] for row in rows} == expected
    assert all(sha256(os.fsdecode(path)) == digest for _, path, digest in rows)
    assert left == (0,)


def sha256(name: str) -> bytes:
    return hashlib.sha256(Path(name).read_bytes()).digest()


def test_what_is_moved_is_not_done_again(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(command, capsys)
    no_network(monkeypatch)
    whole = contents()
    Path("in/a.png").rename("in/d.png")  # the picture alone
    Path("in/b.png").rename("in/e.png")  # the picture and its result
    Path("out/b_x4.png").rename("out/e_x4.png")
    shutil.copy("in/c.png", "in/f.png")  # another of the same
    made, err = run(command, capsys)
    assert made == ["in/d.png", "in/f.png"]
    assert err[-1] == "bidiffsr: 2 done, 2 already there"
    assert "d_x4.png: a copy of" in err[0]
    origins = {"a": "a", "d": "a", "e": "b", "c": "c", "f": "c"}
    assert contents() == {f"{n}_x4.png": whole[f"{o}_x4.png"] for n, o in origins.items()}
    Path("out").rename("there")
    assert run([*command[:3], "there", *command[4:]], capsys)[0] == []


def test_one_picture_under_two_names_is_upscaled_once(command: list[str], capsys: Capture) -> None:
    names = ["in/a.png", "in/aa.png", "in/b.png", "in/c.png", "in/z.png"]
    for copy in (names[1], names[-1]):
        shutil.copy("in/a.png", copy)
    made, err = run(command, capsys)
    assert made == names
    for line, name in zip(err, ("aa", "z"), strict=False):
        assert f"out/{name}_x4.png: a copy of" in line
        assert contents()[f"{name}_x4.png"] == contents()["a_x4.png"]


def test_a_picture_that_is_named_alone(command: list[str], capsys: Capture) -> None:
    command[1] = "in/a.png"
    assert run(command, capsys) == (["in/a.png"], [])
    assert run(command, capsys) == ([], ["bidiffsr: out/a_x4.png: already there, not made again"])


def test_what_is_damaged_is_made_again(command: list[str], capsys: Capture) -> None:
    run(command, capsys)
    whole = contents()
    Path("out/a_x4.png").write_bytes(whole["a_x4.png"][:-20])
    state = Path("out/b_x4.png").stat()
    flipped = bytearray(whole["b_x4.png"])
    flipped[len(flipped) // 2] ^= 255
    Path("out/b_x4.png").write_bytes(flipped)
    assert Path("out/b_x4.png").stat().st_size == state.st_size
    assert run(command, capsys)[0] == ["in/a.png", "in/b.png"]
    assert contents() == whole


def test_what_somebody_changed_stays(command: list[str], capsys: Capture) -> None:
    run(command, capsys)
    whole = contents()
    with PIL.Image.open("out/a_x4.png") as picture:
        picture.rotate(180).save("out/a_x4.png")
    changed = contents()
    made, err = run(command, capsys)
    assert (made, err) == ([], ["bidiffsr: 0 done, 3 already there"])
    assert contents() == changed
    assert run([*command, "--overwrite"], capsys)[0] == ["in/a.png"]
    assert contents() == whole


@pytest.mark.parametrize("change", ["seed", "model", "picture"])
def test_results_of_something_else_do_not_count(
    change: str, command: list[str], model: str, capsys: Capture, folder: Path
) -> None:
    run(command, capsys)
    before = contents()
    match change:
        case "seed":
            command += ["--seed", "1"]
        case "model":  # another under its name
            command[5] = str(folder / "m.safetensors")
            save_tiny_model(folder / "m.safetensors", tail=1.0)
        case _:
            save("in/a.png", 7)
    made, err = run(command, capsys, code=1)
    assert made == []
    expected = "out/a_x4.png: is the result of another picture, model or setting; name another"
    assert err[0].startswith(f"bidiffsr: error: {expected}")
    assert contents() == before
    names = ["a"] if change == "picture" else list("abc")
    assert run([*command, "--overwrite"], capsys)[0] == [f"in/{name}.png" for name in names]
    assert run(command, capsys)[0] == []


def test_a_model_that_is_replaced_while_it_is_loaded_is_refused(
    command: list[str], capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its results would be taken for the other's."""
    command[5] = str(save_tiny_model(folder / "m.safetensors"))
    load = upscaler.load_backend

    def slow(*arguments: Any) -> Any:
        loaded = load(*arguments)
        save_tiny_model(folder / "m.safetensors", tail=1.0)
        return loaded

    monkeypatch.setattr(upscaler, "load_backend", slow)
    made, err = run(command, capsys, code=1)
    assert made == []
    expected = f"{command[5]}: was changed while it was read; try again"
    assert err == [f"bidiffsr: error: {expected}"]


def test_a_result_that_it_does_not_know_is_left(command: list[str], capsys: Capture) -> None:
    save("out/a_x4.png")
    before = contents()["a_x4.png"]
    assert run(command, capsys)[1] == ["bidiffsr: 2 done, 1 already there"]
    assert contents()["a_x4.png"] == before
    assert run([*command, "--overwrite"], capsys)[0] == ["in/a.png"]
    assert contents()["a_x4.png"] != before


def test_samples_are_told_apart(command: list[str], capsys: Capture) -> None:
    run([*command, "--samples", "2", "--mean"], capsys)
    whole = contents()
    Path("out/b_x4_2.png").unlink()
    Path("in/a.png").rename("in/d.png")
    run([*command, "--samples", "2", "--mean"], capsys)
    for name in ("1", "2", "mean"):
        assert contents()[f"d_x4_{name}.png"] == whole[f"a_x4_{name}.png"]
    assert contents()["b_x4_2.png"] == whole["b_x4_2.png"]


def test_a_picture_that_vanishes_fails_alone(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stream.draw_file

    def vanishing(*arguments: Any, **named: Any) -> Any:
        Path("in/b.png").unlink(missing_ok=True)
        return draw(*arguments, **named)

    monkeypatch.setattr(stream, "draw_file", vanishing)
    made, err = run(command, capsys, code=1)
    assert made == ["in/a.png", "in/c.png"]
    assert err == [
        "bidiffsr: error: in/b.png: no such file; check the name",
        "bidiffsr: 2 done, 1 failed: in/b.png",
    ]


def test_what_a_killed_process_leaves_meanwhile_goes_at_the_end(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stream.draw_file
    left = Path(f"out/.bidiffsr-{here()}-{os.getpid()}-1-00.tmp")  # started at another time

    def leaving(*arguments: Any, **named: Any) -> Any:
        left.parent.mkdir(exist_ok=True)
        left.touch()
        return draw(*arguments, **named)

    monkeypatch.setattr(stream, "draw_file", leaving)
    made, _ = run(command, capsys)
    assert made == ["in/a.png", "in/b.png", "in/c.png"]
    assert not left.exists()


def test_a_picture_that_changes_meanwhile_is_not_taken_for_what_it_was(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stream.draw_file

    def changing(*arguments: Any, **named: Any) -> Any:
        save("in/b.png", 3)
        return draw(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "draw_file", changing)
        command[1] = "in/b.png"
        made, err = run(command, capsys, code=1)
    assert made == []
    changed = "in/b.png: was changed while it was upscaled; run again"
    assert err == [f"bidiffsr: error: {changed}"]
    assert contents() == {}
    assert run(command, capsys)[0] == ["in/b.png"]


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that runs."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def claimed(picture: bytes, **changes: Any) -> None:
    """Have the journal say that a process has a picture, by another program than ours."""
    row = {"host": platform.node(), "boot": boot(), "place": here(), "process": os.getpid()}
    row |= {"started": started_at(os.getpid()), "seen": time.time()} | changes
    with sqlite3.connect("j") as base:
        values = row["host"], row["boot"], row["place"], row["process"], row["started"], row["seen"]
        base.execute("INSERT INTO claims VALUES (?, 1, ?, ?, ?, ?, ?, ?)", (picture, *values))
    base.close()


def test_a_picture_of_another_process_is_waited_for_and_taken_over(
    command: list[str],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    other: subprocess.Popen[bytes],
) -> None:
    Path("in/b.png").rename("b.png")
    Path("in/c.png").rename("c.png")
    run(command, capsys)
    Path("b.png").rename("in/b.png")
    Path("c.png").rename("in/c.png")
    claimed(sha256("in/b.png"), process=other.pid, started=started_at(other.pid))

    def then_it_dies(_: float) -> None:
        assert Path("out/c_x4.png").exists()  # what nobody has comes first
        other.kill()
        other.wait()

    monkeypatch.setattr(stream.time, "sleep", then_it_dies)
    made, err = run(command, capsys)
    assert made == ["in/c.png", "in/b.png"]
    waiting = f"in/b.png: process {other.pid} on {platform.node()} works on it; waiting"
    assert err == [f"bidiffsr: {waiting}", "bidiffsr: 2 done, 1 already there"]


def test_whose_claims_hold(other: subprocess.Popen[bytes]) -> None:
    with Journal("j", "model", {}) as journal:
        assert journal.claim(PICTURE) is None
        assert journal.claim(PICTURE) is None  # ours already
        journal.release(PICTURE)
        running: dict[str, Any] = {"process": other.pid, "started": started_at(other.pid)}
        elsewhere: dict[str, Any] = {
            "host": "elsewhere",
            "boot": "b",
            "place": "p",
            "process": 7,
            "started": 1,
        }
        cases: list[tuple[dict[str, Any], bool]] = [
            (running, True),
            (running | {"started": 1}, False),  # its number was given again
            (running | {"boot": "before", "place": "p"}, False),
            (elsewhere, True),
            (elsewhere | {"seen": time.time() - 7200}, False),
            (elsewhere | {"host": platform.node(), "boot": boot()}, True),  # a container
        ]
        for number, (claim, holds) in enumerate(cases):
            picture = bytes([number]) * 32
            claimed(picture, **claim)
            owner = Owner(claim.get("host", platform.node()), claim["process"])
            assert journal.claim(picture) == (owner if holds else None), claim


def test_claims_end_with_the_journal() -> None:
    with Journal("j", "model", {}) as journal:
        journal.claim(PICTURE)
    with sqlite3.connect("j") as base:
        assert base.execute("SELECT count(*) FROM claims").fetchone() == (0,)


def foreign() -> None:
    with sqlite3.connect("j") as base:
        base.execute("CREATE TABLE bookmarks (url TEXT)")
    base.close()


def newer() -> None:
    Journal("j", "model", {}).close()
    with sqlite3.connect("j") as base:
        base.execute("PRAGMA user_version = 2")
    base.close()


def damaged() -> None:
    Journal("j", "model", {}).close()
    data = bytearray(Path("j").read_bytes())
    data[4096:8192] = bytes(4096)
    Path("j").write_bytes(data)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (foreign, "j: is the database of another program; choose another file"),
        (newer, "j: is a journal of version 2, this bidiffsr knows 1; choose another file"),
        (damaged, "j: is damaged (database disk image is malformed); results are as they were"),
        (lambda: Path("j").write_bytes(b"no journal" * 99), "j: is no journal; choose another"),
        (lambda: Path("j").mkdir(), "j: is no regular file; choose another"),
        (lambda: os.mkfifo("j"), "j: is no regular file; choose another"),
        (lambda: Path("j").symlink_to("nowhere/j"), "j: cannot be written (unable to open"),
    ],
)
def test_what_is_no_journal_is_refused(
    make: Any, complaint: str, command: list[str], capsys: Capture
) -> None:
    make()
    before = Path("j").read_bytes() if Path("j").is_file() else None
    made, err = run(command, capsys, code=1)
    assert (made, len(err)) == ([], 1)
    assert err[0].startswith(f"bidiffsr: error: {complaint}")
    assert not Path("out").exists()
    if before is not None:
        assert Path("j").read_bytes() == before


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    command: list[str], capsys: Capture
) -> None:
    for grey in range(20):
        save(f"in/{grey}.png", grey)
    Journal("j", "model", {}).close()
    with largest_file(100_000):
        made, err = run(command, capsys, code=1)
    assert 0 < len(made) < 23
    assert len(err) == 1
    assert err[0].startswith("bidiffsr: error: j: cannot be written (")
    again, err = run(command, capsys)
    assert len(made) + len(again) == 23
    assert len(contents()) == 23


def test_a_journal_that_cannot_be_written_is_one_line(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def read_only(path: Path, **settings: Any) -> sqlite3.Connection:
        connect(path).close()
        return connect(f"file:{path}?mode=ro", uri=True, **settings)

    monkeypatch.setattr(sqlite3, "connect", read_only)  # whatever our rights are
    made, err = run(command, capsys, code=1)
    assert made == []
    assert err == [
        "bidiffsr: error: j: cannot be written (attempt to write a readonly database); make room, "
        "or choose another file"
    ]


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 47} & set(name)))
def test_names_may_hold_anything(name: bytes) -> None:
    path, whole = Path(os.fsdecode(name)), Path("whole")
    whole.write_bytes(name)
    with Journal("j", "model", {}) as journal:
        digest = journal.record(PICTURE, "part", path, whole)
        assert digest == hashlib.sha256(name).digest()
        assert journal.results(PICTURE, "part")[path.absolute()] == digest


def test_a_file_is_hashed_again_when_it_has_changed() -> None:
    path = Path("file")
    with Journal("j", "model", {}) as journal:
        for data in (b"one", b"two", b"three"):
            path.write_bytes(data)
            os.utime(path, ns=(0, 0))  # long ago, as a copy may say
            replaced = Path("new")
            replaced.write_bytes(data)
            os.utime(replaced, ns=(0, 0))
            assert journal.digest(path) == hashlib.sha256(data).digest()
            replaced.replace(path)  # another inode
            path.write_bytes(data[::-1])
            assert journal.digest(path) == hashlib.sha256(data[::-1]).digest()


def test_trouble_on_the_way_is_the_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal("j", "model", {}) as journal:
        with sqlite3.connect("j") as base:
            base.execute("DROP TABLE results")
        base.close()
        with pytest.raises(JournalError, match="j: "):
            journal.results(PICTURE, "part")


@pytest.mark.parametrize("more", [["-o", "-"], ["--dry-run"]])
def test_where_there_is_nothing_to_go_on_with(more: list[str], capsys: Capture) -> None:
    save("a.png")
    _, err = run(["upscale", "a.png", "--journal", "j", *more], capsys, code=2)
    assert err[0].startswith("bidiffsr: error: --journal: got it with ")
    assert not Path("j").exists()
