"""The service: one picture's way through it, and everything that is refused."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import bidiffsr
from bidiffsr.errors import OptionError
from bidiffsr.images import jxl
from bidiffsr.images.formats import FORMAT_BY_NAME
from bidiffsr.server import jobs
from bidiffsr.server.archive import zipped
from bidiffsr.server.job import file_name
from bidiffsr.server.options import ServerOptions
from served import client, opened, parsed_events, picture, queue_of, wait_for
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with client(max_bytes=200_000, max_pixels=40_000, max_samples=3) as talking:
        yield talking


def send(server: TestClient, data: bytes | None = None, **parameters: Any) -> dict[str, Any]:
    sent = server.post("/api/jobs", params=parameters, content=data or picture(), headers=PNG)
    assert sent.status_code == 202, sent.text
    assert sent.headers["location"] == sent.json()["url"]
    return sent.json()


def refused(answer: Any, status: int) -> str:
    """Checks the form of every error; returns its one line."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["detail"]
    assert "\n" not in problem["detail"]
    return problem["detail"]


# What is asked for is done.


def test_a_result_is_what_the_package_makes(server: TestClient) -> None:
    data = picture(10, 7)
    job = send(server, data, scale=3, seed=5, quality="best", samples=2, name="holiday.png")
    assert (job["width"], job["height"], job["scale"]) == (10, 7, 3.0)
    done = wait_for(server, job["url"])
    assert (done["state"], done["error"], done["before"]) == ("done", None, 0)
    expected = tiny_upscaler()(np.array(opened(data)), scale=3, seed=5, quality="best", samples=2)
    for sample, result in enumerate(done["results"]):
        assert result["name"] == f"holiday_x3_{sample + 1}.png"
        assert (result["width"], result["height"], result["sample"]) == (30, 21, sample)
        answer = server.get(result["url"])
        assert answer.headers["content-type"] == result["media_type"] == "image/png"
        assert len(answer.content) == result["bytes"]
        assert np.array_equal(np.array(opened(answer.content)), expected[sample])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF"])
def test_every_format_in_and_out(server: TestClient, kind: str) -> None:
    own = wait_for(server, send(server, picture(kind=kind))["url"])
    other = wait_for(server, send(server, format=kind.lower())["url"])
    for job in (own, other):
        data = server.get(job["results"][0]["url"]).content
        assert opened(data).format == kind.upper()
        assert job["results"][0]["media_type"] == f"image/{kind.lower()}"


def test_a_form_does_as_well_and_its_file_has_a_name(server: TestClient) -> None:
    data = picture(seed=1)
    for given_name, name in (
        ("photo.png", "photo_x4.png"),
        ("../../etc/passwd", "passwd_x4.png"),
        ("C:\\fake\\ü.png", "ü_x4.png"),
    ):
        sent = server.post("/api/jobs", files={"picture": (given_name, data, "text/html")})
        done = wait_for(server, sent.json()["url"])
        result = server.get(done["results"][0]["url"])
        assert done["results"][0]["name"] == name
        assert result.headers["content-type"] == "image/png"
    plain = wait_for(server, send(server, data)["url"])
    assert server.get(plain["results"][0]["url"]).content == result.content


@given(st.text(max_size=300))
def test_of_a_name_no_folder_and_no_control_character_is_left(name: str) -> None:
    kept = file_name(name)
    assert kept
    assert kept.isprintable()
    assert len(kept) <= 120
    assert not set(kept) & set("/\\")
    assert kept not in (".", "..")


def test_events_show_every_step_and_end_with_the_job(server: TestClient) -> None:
    job = send(server, picture(40, 30), samples=2)
    answer = server.get(job["events"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = parsed_events(answer.text)
    assert [event.number for event in events] == sorted({event.number for event in events})
    previews = [event.data for event in events if event.name == "preview"]
    assert [(each["sample"], each["step"]) for each in previews] == [
        (sample, step) for sample in (0, 1) for step in (0, 1, 2)
    ]
    for each in previews:
        prefix, _, encoded = each["image"].partition(",")
        assert prefix == "data:image/jpeg;base64"
        shown = opened(base64.b64decode(encoded, validate=True))
        assert shown.size == (each["width"], each["height"]) == (160, 120)
    progress = [event.data for event in events if event.name == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 4
    assert progress[-1]["seconds_left"] == 0
    assert events[-1].name == "job"
    assert events[-1].data["state"] == "done"
    # Who comes back is told what is new; who comes late is told all that still matters.
    after = events[2].number
    again = server.get(job["events"], headers={"Last-Event-ID": str(after)})
    left = parsed_events(again.text)
    assert all(event.number > after for event in left)
    assert left[-1] == events[-1]
    assert [event for event in left if event.name == "preview"] == [
        event for event in events if event.name == "preview" and event.number > after
    ]


def test_an_archive_holds_every_result_under_its_own_name(server: TestClient) -> None:
    sent = [send(server, picture(seed=n), name="a.png", samples=2) for n in range(2)]
    done = [wait_for(server, job["url"]) for job in sent]
    answer = server.get("/api/archive", params={"job": [job["id"] for job in sent]})
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    assert archive.namelist() == [
        *("a_x4_1.png", "a_x4_2.png", "a_x4_1 (2).png", "a_x4_2 (2).png"),
    ]
    contents = [archive.read(name) for name in archive.namelist()]
    assert contents == [
        server.get(result["url"]).content for job in done for result in job["results"]
    ]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["a.png", "A.png", "a (2).png", "b"]), st.binary())))
def test_archives_lose_no_file(files: list[tuple[str, bytes]]) -> None:
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zipped(files))))
    assert len({name.casefold() for name in archive.namelist()}) == len(files)
    assert [archive.read(name) for name in archive.namelist()] == [data for _, data in files]


def test_a_format_whose_extra_is_not_installed_is_neither_offered_nor_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    monkeypatch.setattr(jxl, "_in_libvips", lambda what: False)
    with client() as server:
        assert "jxl" not in server.get("/api/model").json()["formats"]
        answer = server.post("/api/jobs?format=jxl", content=picture(), headers=PNG)
        assert "pip install 'bidiffsr[jxl]'" in refused(answer, 422)


def test_a_format_that_the_page_does_not_offer_may_be_named(server: TestClient) -> None:
    done = wait_for(server, send(server, format="ppm")["url"])
    assert server.get(done["results"][0]["url"]).content.startswith(b"P6")


def test_deleting_forgets(server: TestClient) -> None:
    job = wait_for(server, send(server)["url"])
    assert server.delete(job["url"]).status_code == 204
    for url in (job["url"], job["events"], job["results"][0]["url"]):
        refused(server.get(url), 404)
    refused(server.delete(job["url"]), 404)


def test_what_the_server_can_do(server: TestClient) -> None:
    model = server.get("/api/model").json()
    assert model["version"] == bidiffsr.__version__
    assert model["qualities"] == ["fast", "best"]
    assert (model["scale"], model["max_pixels"], model["max_samples"]) == (4, 40_000, 3)
    everyday = ["png", "jpeg", "webp", "tiff", "gif", "avif", "heic", "jxl", "bmp"]
    there = [name for name in everyday if FORMAT_BY_NAME[name].is_written]
    assert model["formats"] == there
    assert server.get("/healthz").json() == {"status": "ok"}


def test_metrics_are_prometheus_own_format_and_count(server: TestClient) -> None:
    def values() -> dict[tuple[str, ...], float]:
        answer = server.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    before = values()
    wait_for(server, send(server, picture(5, 4))["url"])
    refused(server.get("/nowhere"), 404)
    after = values()

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0)

    assert grown("bidiffsr_jobs_total", "done") == 1
    assert grown("bidiffsr_job_seconds_count") == 1
    assert grown("bidiffsr_result_pixels_total") == 5 * 4 * 16
    assert grown("bidiffsr_refused_requests_total", "404") == 1
    assert after["bidiffsr_waiting_jobs",] == 0
    assert after["bidiffsr_held_bytes",] == queue_of(server.app).held > 0  # type: ignore[arg-type]


# What is refused, and how.


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"scale": "0"}, "scale"),
        ({"scale": "nan"}, "scale"),
        ({"scale": "5"}, "scale"),
        ({"scale": "big"}, "scale"),
        ({"quality": "superb"}, "quality"),
        ({"quality": "balanced"}, "quality"),  # which this model does not name
        ({"seed": "-1"}, "seed"),
        ({"seed": str(2**64)}, "seed"),
        ({"seed": "1.5"}, "seed"),
        ({"samples": "0"}, "samples"),
        ({"samples": "4"}, "samples"),
        ({"format": "bmpx"}, "format"),
        ({"output": "/etc/passwd"}, "output"),
    ],
)
def test_options_that_cannot_be_meant(
    server: TestClient, parameters: dict[str, str], word: str
) -> None:
    answer = server.post("/api/jobs", params=parameters, content=picture(), headers=PNG)
    assert word in refused(answer, 422)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"<script>alert(1)</script>", "image/png", 422),
        (picture()[:-20], "image/png", 422),
        (picture(300, 300), "image/png", 413),  # bytes
        (picture(201, 200, "JPEG"), "image/jpeg", 413),  # pixels
        (picture(), "text/plain", 415),
        (picture(), "application/x-www-form-urlencoded", 415),
        (picture(), "text/html", 415),
        (picture(), "multipart/form-data", 422),
        (picture(), "multipart/form-data; boundary=x", 422),
        (picture(), "multipart/form-data; boundary=x; charset=undefined", 422),
    ],
)
def test_bodies_that_are_no_picture(
    server: TestClient, data: bytes, kind: str, status: int
) -> None:
    queue = queue_of(server.app)  # type: ignore[arg-type]
    held = queue.held
    refused(server.post("/api/jobs", content=data, headers={"Content-Type": kind}), status)
    assert queue.held == held


def test_forms_with_other_than_one_file(server: TestClient) -> None:
    two = [("picture", ("a.png", picture())), ("picture", ("b.png", picture()))]
    refused(server.post("/api/jobs", files=two), 422)
    refused(server.post("/api/jobs", files={"picture": (None, "text")}), 422)


def test_a_picture_that_is_damaged_further_on_fails_alone(server: TestClient) -> None:
    whole = bytearray(picture(100, 100, "PNG"))
    whole[len(whole) // 2] ^= 0xFF
    failed = wait_for(server, send(server, bytes(whole), name="torn.png")["url"])
    assert failed["state"] == "failed"
    assert failed["error"].startswith("torn.png: ")
    assert failed["results"] == []
    refused(server.get(f"{failed['url']}/results/0"), 404)
    assert wait_for(server, send(server)["url"])["state"] == "done"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_and_places(server: TestClient, method: str) -> None:
    refused(server.request(method, "/api/jobs"), 405)
    refused(server.request(method, "/nowhere"), 404)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # a program
        ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://127.0.0.1"}, True),  # behind a proxy that speaks HTTPS
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:8000"}, False),  # another program's page on this machine
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://["}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_other_sites_pages_start_and_delete_nothing(
    server: TestClient, headers: dict[str, str], allowed: bool
) -> None:
    answer = server.post("/api/jobs", content=picture(), headers=PNG | headers)
    if allowed:
        assert answer.status_code == 202
    else:
        refused(answer, 403)
        own = wait_for(server, send(server)["url"])
        refused(server.delete(own["url"], headers=headers), 403)
        assert server.get(own["url"]).json() == own


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *(("localhost:8000", True), ("[::1]:8000", True), ("192.168.1.2", True)),
        *(("Pictures.example.org", True), ("LOCALHOST", True)),
        *(("evil.example", False), ("", False), ("127.0.0.1.evil.example", False)),
        *(("[", False), ("localhost@evil.example", False)),
    ],
)
def test_only_by_a_name_of_its_own(host: str, allowed: bool) -> None:
    with client(host_name=("pictures.example.org",)) as server:
        answer = server.get("/api/model", headers={"Host": host})
        if allowed:
            assert answer.status_code == 200
        else:
            refused(answer, 403)


def test_every_answer_forbids_what_a_browser_could_make_of_it(server: TestClient) -> None:
    done = wait_for(server, send(server)["url"])
    for url in ("/", "/api/model", "/nowhere", done["results"][0]["url"], done["events"]):
        headers = server.get(url).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    result = server.get(done["results"][0]["url"])
    assert result.headers["content-disposition"].startswith("attachment;")


def test_with_a_token_nothing_is_done_without_it() -> None:
    with client(token="s3cret-") as server:
        for method, url in (
            *(("POST", "/api/jobs"), ("GET", "/api/model"), ("GET", "/metrics")),
            *(("GET", "/api/jobs/x"), ("DELETE", "/api/jobs/x"), ("GET", "/api/archive?job=x")),
        ):
            for header in ({}, {"Authorization": "Bearer s3cret"}, {"Authorization": "Basic x"}):
                answer = server.request(method, url, headers=header)
                assert "s3cret" not in refused(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"
        for public in ("/", "/healthz", "/openapi.json"):
            assert server.get(public).status_code == 200
        right = {"Authorization": "Bearer s3cret-"}
        assert server.get("/api/model", headers=right).status_code == 200
        sent = server.post("/api/jobs", content=picture(), headers=PNG | right)
        assert sent.status_code == 202


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("token", ""), ("token", "two words"), ("token", "line\n"), ("token", "ü")),
        *(("port", 65536), ("port", -1), ("host", ""), ("max_bytes", "much")),
        *(("max_waiting", 0), ("keep_seconds", 0.5), ("host_name", ("",))),
    ],
)
def test_server_options_that_cannot_be_meant(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        ServerOptions(**{option: value})


# A bug in one job, and one in a route.


def test_a_bug_fails_its_job_and_no_other(
    server: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(jobs, "check_result", lambda *_: 1 / 0)
        failed = wait_for(server, send(server)["url"])
    assert failed["state"] == "failed"
    assert "internal error" in failed["error"]
    assert "ZeroDivisionError" in caplog.text
    assert wait_for(server, send(server)["url"])["state"] == "done"


def test_memory_that_runs_out_fails_its_job(
    server: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(jobs, "encode_image", exhausted)
        failed = wait_for(server, send(server)["url"])
    assert "memory ran out" in failed["error"]


def test_a_bug_in_a_route_is_an_error_of_the_same_form(
    server: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.JobQueue, "get", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in refused(server.get("/api/jobs/x"), 500)


def test_nothing_of_the_web_is_loaded_unless_it_serves() -> None:
    program = (
        "import sys, bidiffsr, bidiffsr.cli.commands, bidiffsr.server.options\n"
        "print(*({'fastapi', 'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_one_line_says_what_to_install(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from bidiffsr.cli import main; sys.exit(main(['serve', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"bidiffsr: error: .* is not installed; pip install 'bidiffsr\[server\]'\n", done.stderr
    )
