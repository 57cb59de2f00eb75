"""Pictures from standard input to standard output."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import PIL.Image
import pytest

from bidiffsr.batch import pipes
from bidiffsr.batch.options import FileFormat
from bidiffsr.images.formats import FORMATS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    return tmp_path


def picture(kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bidiffsr", "upscale", *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=120, check=False)


def error_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that is said."""
    assert done.returncode != 0
    text = done.stderr.decode()
    assert text.startswith("bidiffsr: error: ")
    assert text.count("\n") == 1
    return text


def test_a_pipe_gives_the_bytes_that_a_file_gets(model: str, folder: Path) -> None:
    (folder / "a.png").write_bytes(picture())
    assert run("a.png", "-n", model).returncode == 0
    expected = (folder / "a_x4.png").read_bytes()
    for arguments in (("-", "-o", "-"), ("-",), ("a.png", "-o", "-")):
        done = run(*arguments, "-n", model, given=picture())
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")
    done = run("-", "-n", model, "-o", "b.png", given=picture())
    assert (done.returncode, done.stdout) == (0, b"")
    assert (folder / "b.png").read_bytes() == expected
    assert list((folder / "temporary").iterdir()) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_format_is_the_pictures_or_what_is_asked_for(
    kind: str, model: str, folder: Path
) -> None:
    done = run("-", "-n", model, given=picture(kind))
    assert PIL.Image.open(io.BytesIO(done.stdout)).format == kind
    done = run("-", "-n", model, "--format", kind.lower(), given=picture())
    made = PIL.Image.open(io.BytesIO(done.stdout))
    assert (made.format, made.size) == (kind, (32, 24))


def test_the_formats_are_all_there_are() -> None:
    assert get_args(FileFormat) == tuple(known.name.lower() for known in FORMATS)


@pytest.mark.parametrize(
    ("arguments", "given", "reason"),
    [
        (["-"], b"", "standard input: is empty"),
        (["-"], b"no picture at all", "standard input: not a picture of a known kind"),
        (["-"], picture()[:100], "standard input: damaged or cut short"),
        (["-", "--max-pixels", "40"], picture(), "standard input: says it is 8x6; expected"),
        (["-", "a.png"], picture(), "-: stands for one picture"),
        (["-", "--samples", "2"], picture(), "-: stands for one picture"),
        (["-", "--dry-run"], picture(), "--dry-run: got it with a pipe"),
        (["-", "--shard", "1/2"], picture(), "--shard: got it with a pipe"),
        (["a.png", "-o", "-"], b"", "a.png: no such file"),
        (["-", "-o", "there.png"], picture(), "there.png: exists already"),
        (["-", "-o", "a.png", "--format", "png"], picture(), "--format: got it beside a.png"),
        (["-", "--name", "{stem}{ext}"], picture(), "--name: names files that lie beside"),
        (["-", "--keep-times"], picture(), "--keep-times: a pipe has no times"),
        (["there.png", "-o", "-", "--keep-times"], b"", "--keep-times: a pipe has no times"),
    ],
)
def test_what_goes_wrong_is_one_line_and_no_bytes(
    arguments: list[str], given: bytes, reason: str, model: str, folder: Path
) -> None:
    (folder / "there.png").write_bytes(b"precious")
    done = run(*arguments, "-n", model, given=given)
    assert reason in error_of(done)
    assert done.stdout == b""
    assert (folder / "there.png").read_bytes() == b"precious"
    assert list((folder / "temporary").iterdir()) == []


def test_a_named_pipe_is_refused_and_not_waited_for(model: str, folder: Path) -> None:
    os.mkfifo(folder / "fifo.png")
    done = run("fifo.png", "-o", "-", "-n", model)
    assert "fifo.png: is a pipe; expected a picture file" in error_of(done)
    assert done.stdout == b""


def test_more_bytes_than_any_picture_has_are_not_read(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    stream = Endless()
    with (
        pytest.raises(pipes.ImageError, match="standard input: has more than 5000000 bytes"),
        pipes.piped_job(
            pipes.PIPE,
            pipes.PIPE,
            stream,  # type: ignore[arg-type]
            most=5_000_000,
            result_format=None,
        ),
    ):
        pass


def test_a_reader_that_has_gone_is_one_line(model: str, folder: Path) -> None:
    (folder / "a.png").write_bytes(picture())
    command = f"{sys.executable} -m bidiffsr upscale a.png -o - -n {model}; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=False
    )
    first, code = done.stderr.splitlines()
    assert first.startswith("bidiffsr: error: standard output: cannot be written to (Broken pipe)")
    assert code == "1"
