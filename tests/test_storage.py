"""Batches over storage that URIs name: the results are those of a disk."""

# pyright: reportMissingImports=false
# What the extra `ray` installs may be missing.

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidiffsr.batch.remote import Remote
from bidiffsr.batch.storage import DISK, location, storage_of
from bidiffsr.cli import main
from bidiffsr.images.image import Image
from bidiffsr.upscaling.upscaler import Upscaler

fs: Any = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed (make test-ray)")
fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed (make test-ray)")

pytestmark = pytest.mark.usefixtures("one_thread")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in deep folders, an earlier result, and what is none."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    for name in ("a.png", "b.jpg", "b_x4.jpg", "deep/c.webp", "deep/d.tif", ".hidden/e.png"):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(Path("in", name))
    Path("in/text.png").write_text("no picture at all")
    Path("in/foreign.psd").write_bytes(b"8BPS")
    return tmp_path


@pytest.fixture
def memory() -> Iterator[str]:
    """The URI of a folder of fsspec's memory that holds the pictures."""
    system, name = fsspec.filesystem("memory"), uuid4().hex
    for path in Path("in").rglob("*"):
        if path.is_file():
            system.pipe(f"/{name}/{path.as_posix()}", path.read_bytes())
    yield f"memory://{name}"
    system.rm(f"/{name}", recursive=True)


def held(uri: str) -> dict[str, bytes]:
    """The files in a folder of fsspec's memory, by their paths in there."""
    system = fsspec.filesystem("memory")
    root = uri.replace("memory:/", "")
    found = system.find(root) if system.exists(root) else []
    return {path.removeprefix(f"{root}/"): system.cat(path) for path in found}


def on_disk(folder: str) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def said(capsys: Capture, inside: str = "") -> tuple[list[str], list[str]]:
    """The lines of both streams, without times and the storage's own name."""
    out, err = capsys.readouterr()
    texts = (re.sub(r", [\d.]+ s\)", ")", text).replace(inside, "") for text in (out, err))
    return tuple(text.splitlines() for text in texts)  # type: ignore[return-value]


@pytest.mark.parametrize("more", [[], ["--format", "png", "--samples", "2"]])
def test_results_and_lines_are_those_of_a_disk(
    more: list[str], memory: str, model: str, capsys: Capture
) -> None:
    asked = ["-r", "-n", model, *more]
    assert main(["upscale", "in", "-o", "out", *asked]) == 1
    lines = said(capsys)
    assert main(["upscale", f"{memory}/in", "-o", f"{memory}/out", *asked]) == 1
    assert said(capsys, f"{memory}/") == lines
    assert held(f"{memory}/out") == on_disk("out")
    # Once more: what is there is left out.
    assert main(["upscale", "in", "-o", "out", *asked]) == 1
    lines = said(capsys)
    assert main(["upscale", f"{memory}/in", "-o", f"{memory}/out", *asked]) == 1
    assert said(capsys, f"{memory}/") == lines
    assert lines[0] == []


def test_from_one_storage_to_another(memory: str, model: str, folder: Path) -> None:
    main(["upscale", "in", "-o", "out", "-n", model])
    main(["upscale", f"{memory}/in", "-o", "fetched", "-n", model])
    main(["upscale", "in", "-o", f"file://{folder}/new/folder", "-n", model])
    assert on_disk("fetched") == on_disk("new/folder") == on_disk("out") != {}


def test_the_state_of_a_file_is_known_where_its_time_is(memory: str, folder: Path) -> None:
    picture, old = Path("in/a.png"), 10**18
    path = Path(f"file://{folder}/in/a.png")
    storage = storage_of(path)
    assert storage.state(path) is None  # it may change again within the same moment
    os.utime(picture, ns=(old, old))
    assert storage.state(path) == (picture.stat().st_size, old)
    assert storage.state(path.parent) is None
    assert storage.state(path.with_name("none.png")) is None
    assert storage_of(Path(memory)).state(Path(f"{memory}/in/a.png")) is None


def test_pictures_are_read_ahead_from_storage_too(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["upscale", "in", "-o", "out", "-n", model])
    for picture in Path("in").iterdir():
        os.utime(picture, ns=(10**18, 10**18))
    read, ahead = Remote.read_image, threading.Event()
    network = Upscaler.stream

    def watched(*arguments: Any, **named: Any) -> Any:
        image = read(*arguments, **named)
        if threading.current_thread() is not threading.main_thread():
            ahead.set()
        return image

    def waiting(*arguments: Any, **named: Any) -> Any:
        for progress in network(*arguments, **named):
            assert ahead.wait(120)  # of one picture, while the other is at the network
            yield progress

    monkeypatch.setattr(Remote, "read_image", watched)
    monkeypatch.setattr(Upscaler, "stream", waiting)
    Path("in/text.png").unlink()
    assert main(["upscale", f"file://{folder}/in", "-o", "fetched", "-n", model]) == 0
    assert on_disk("fetched") == on_disk("out") != {}


def test_a_dry_run_says_the_same_and_writes_nothing(
    memory: str, model: str, capsys: Capture
) -> None:
    before = held(memory)
    assert main(["upscale", "in", "-o", "out", "-n", model, "--dry-run"]) == 1
    lines = said(capsys)
    asked = ["upscale", f"{memory}/in", "-o", f"{memory}/out", "-n", model, "--dry-run"]
    assert main(asked) == 1
    assert said(capsys, f"{memory}/")[0] == lines[0]
    assert held(memory) == before


def test_an_existing_result_stays_unless_it_is_to_be_replaced(memory: str, model: str) -> None:
    system, result = fsspec.filesystem("memory"), f"{memory}/out/a_x4.png"
    system.pipe(result, b"precious")
    one = ["upscale", f"{memory}/in/a.png", "-n", model, "-o", f"{memory}/out"]
    assert main(one) == 1
    assert system.cat(result) == b"precious"
    assert main([*one, "--overwrite"]) == 0
    main(["upscale", "in/a.png", "-n", model, "-o", "out"])
    assert system.cat(result) == Path("out/a_x4.png").read_bytes()


@pytest.mark.parametrize("step", ["mv", "_open"])
def test_what_cannot_be_written_leaves_nothing(
    step: str, memory: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the storage is full")

    before = held(memory)
    place = f"{memory}/out"
    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), step, refuse)
        assert main(["upscale", "in/a.png", "-n", model, "-o", place]) == 1
    assert said(capsys)[1] == [
        f"bidiffsr: error: {place}/a_x4.png: cannot be written (the storage is full); nothing was "
        "changed"
    ]
    assert held(memory) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{}/in/none.png"], "{}/in/none.png: no such file or folder; check the name"),
        (["{}/in/text.png"], "{}/in/text.png: not a picture of a known kind; expected"),
        (["{}/in/a.png", "-o", "{}/in/b.jpg"], "{}/in/b.jpg: exists already; remove it"),
        (["{}/in", "-o", "{}/in/b.jpg"], "{}/in/b.jpg: is one file for 4 results; expected"),
        (["{}/in/a.png", "--keep-times"], "--keep-times: got it for {}/in/a_x4.png, whose time"),
        (["unheard-of://place/a.png"], "unheard-of://place: cannot be reached (Protocol not"),
    ],
)
def test_errors_name_the_uri(
    arguments: list[str], line: str, memory: str, model: str, capsys: Capture
) -> None:
    asked = [argument.format(memory) for argument in arguments]
    assert main(["upscale", *asked, "-n", model]) in (1, 2)
    assert said(capsys)[1][-1].startswith(f"bidiffsr: error: {line.format(memory)}")


def test_no_result_replaces_its_picture_by_another_name(
    folder: Path, model: str, capsys: Capture
) -> None:
    before = on_disk("in")
    keeping = ["-n", model, "--name", "{stem}{ext}", "--overwrite"]
    assert main(["upscale", f"file://{folder}/in/a.png", "-o", "in", *keeping]) == 1
    assert "is the picture" in said(capsys)[1][0]
    assert on_disk("in") == before


names = st.text("ab.é ", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))


@given(st.sampled_from(["s3", "gs", "memory", "hdfs"]), st.lists(names, min_size=1))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
def test_paths_are_shown_as_the_uris_they_came_from(scheme: str, parts: list[str]) -> None:
    uri = f"{scheme}://{'/'.join(parts)}"
    assert location(Path(uri)) == uri
    assert location(Path(f"file:///{'/'.join(parts)}")) == f"file:///{'/'.join(parts)}"


def test_folders_that_look_like_schemes_are_folders(model: str) -> None:
    Path("in").rename("trip:")
    assert storage_of(Path("trip:/a.png")) is DISK
    assert main(["upscale", "trip:/a.png", "-n", model]) == 0
    assert Path("trip:/a_x4.png").is_file()
    for plain in ("a.png", "/a/b.png", "C:/a.png", "deep/s3:/a.png", "s3:"):
        assert storage_of(Path(plain)) is DISK


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of an S3-compatible server that keeps every version of its objects."""
    moto: Any = pytest.importorskip("moto.server", reason="moto is not installed (make test-ray)")
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="pictures")
        client.put_bucket_versioning(
            Bucket="pictures", VersioningConfiguration={"Status": "Enabled"}
        )
        yield "pictures"
    server.stop()


def test_s3(bucket: str, model: str, capsys: Capture) -> None:
    """Each result is written once, says boto3, and nothing else is; a second run writes none."""
    import boto3

    client = boto3.client("s3")
    for name, data in on_disk("in").items():
        client.put_object(Bucket=bucket, Key=f"in/{name}", Body=data)
    main(["upscale", "in", "-o", "out", "-r", "-n", model])
    lines = said(capsys)
    asked = ["upscale", f"s3://{bucket}/in", "-o", f"s3://{bucket}/out", "-r", "-n", model]
    assert main(asked) == 1
    assert said(capsys, f"s3://{bucket}/") == lines
    assert main(asked) == 1
    versions = client.list_object_versions(Bucket=bucket, Prefix="out/")
    expected = on_disk("out")
    written = sorted(version["Key"] for version in versions["Versions"])
    assert written == sorted(f"out/{name}" for name in expected)
    assert "DeleteMarkers" not in versions
    for name, data in expected.items():
        assert client.get_object(Bucket=bucket, Key=f"out/{name}")["Body"].read() == data


def test_pictures_too_large_for_a_format_are_refused_by_the_uri(memory: str) -> None:
    wide = Image(np.zeros((1, 20_000, 3), np.uint8))
    path = Path(f"{memory}/wide.webp")
    with pytest.raises(OSError, match=f"{memory}/wide.webp: the picture is 20000x1; WebP"):
        storage_of(path).write_image(
            path, wide, overwrite=False, quality=95, subsampling="4:4:4", modified=None
        )
    assert "wide.webp" not in held(memory)


@pytest.mark.parametrize("option", ["--journal", "--pages"])
@pytest.mark.parametrize("where", ["picture", "result"])
def test_what_works_on_files_of_this_machine_says_so(
    option: str, where: str, memory: str, model: str, capsys: Capture
) -> None:
    asked = ["--journal", "j.db"] if option == "--journal" else ["--pages", "all"]
    picture, result = f"{memory}/in/a.png", "out/a.png"
    if where == "result":
        picture, result = "in/a.png", f"{memory}/out/a.png"
    before = held(memory)
    assert main(["upscale", picture, "-o", result, "-n", model, *asked]) == 1
    named = picture if where == "picture" else result
    _, errors = said(capsys)
    assert errors == [f"bidiffsr: error: {named}: {option} works on files of this machine; copy it"]
    assert held(memory) == before
    assert not Path("out").exists()
