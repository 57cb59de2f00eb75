"""What `bidiffsr upscale --json` writes while it works."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from bidiffsr.cli import main

pytestmark = pytest.mark.usefixtures("one_thread", "folder")

Capture = pytest.CaptureFixture[str]


def save(name: str | bytes, size: tuple[int, int] = (6, 5)) -> None:
    Path(os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.linear_gradient("L").resize(size).convert("RGB").save(os.fsdecode(name))


def events(capsys: Capture) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    times = [line.pop("time") for line in lines]
    assert times == sorted(times)
    return lines


def test_what_happens_is_a_line_each(model: str, capsys: Capture) -> None:
    save("in/a.png")
    Path("in/b.png").write_text("no picture")
    save("in/c.png")
    save("in/c_x4.png")
    assert main(["upscale", "in", "-n", model, "--json", "--overwrite"]) == 1
    planned, *found, summary = events(capsys)
    digest = hashlib.sha256(Path(model).read_bytes()).hexdigest()
    counts = {"already_there": 0, "left_out": 1}
    assert planned == {"event": "planned", "pictures": 3, "unmatched": 0, "model": digest} | counts
    said = [(each["event"], each["picture"]) for each in found]
    pictures = ["in/a.png", "in/b.png", "in/c.png"]
    assert [picture for event, picture in said if event == "started"] == pictures
    ends = [each for each in said if each[0] in ("finished", "failed")]
    assert ends == [*zip(["finished", "failed", "finished"], pictures, strict=True)]
    for picture, end in zip(pictures, ends, strict=True):  # the next one may start meanwhile
        assert said.index(("started", picture)) < said.index(end)
    [finished] = [each for each in found if each["picture"] == "in/c.png" and "results" in each]
    with PIL.Image.open("in/c_x4.png") as made:
        size = {"width": made.width, "height": made.height}
    assert finished["results"][0].pop("consistency")["psnr"] > 20
    assert finished["results"] == [
        {"path": "in/c_x4.png", "bytes": Path("in/c_x4.png").stat().st_size} | size
    ]
    assert 0 < finished["seconds"] < summary["seconds"]
    [failed] = [each for each in found if each["event"] == "failed"]
    assert failed["reason"].startswith("in/b.png: not a picture")
    assert 0 < summary.pop("network_idle") < 1
    # Both are rounded, the seconds to a thousandth.
    assert 2 / summary.pop("pictures_per_second") == pytest.approx(summary.pop("seconds"), abs=6e-4)
    assert summary == {"event": "summary", "done": 2, "failed": 1} | counts


def test_progress_counts_runs_of_the_network(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bidiffsr.cli.reports._PROGRESS_EVERY", 0)
    save("a.png")
    assert main(["upscale", "a.png", "-n", model, "--json", "--samples", "2"]) == 0
    found = events(capsys)
    at = [(each["done"], each["total"]) for each in found if each["event"] == "progress"]
    assert at == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [result["path"] for each in found for result in each.get("results", [])] == [
        *("a_x4_1.png", "a_x4_2.png")
    ]


def test_the_networks_idle_time_is_told(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves while the network runs, and three times as far while it is saved."""
    from bidiffsr.batch.storage import DISK
    from bidiffsr.upscaling.upscaler import Upscaler

    stream, write = Upscaler.stream, DISK.write_image
    now = 0.0

    def slow(*arguments: Any, **named: Any) -> Any:
        nonlocal now
        for progress in stream(*arguments, **named):
            now += 1
            yield progress

    def slower(*arguments: Any, **named: Any) -> Any:
        nonlocal now
        now += 6
        return write(*arguments, **named)

    save("a.png")
    monkeypatch.setattr(Upscaler, "stream", slow)
    monkeypatch.setattr(type(DISK), "write_image", staticmethod(slower))
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert main(["upscale", "a.png", "-n", model, "--json"]) == 0
    summary = events(capsys)[-1]
    assert (summary["network_idle"], summary["seconds"]) == (0.75, 8)


def test_results_of_another_run_are_skipped(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bidiffsr.batch import plan

    save("in/a.png")
    save("in/b.png")
    planned = plan.plan_jobs

    def then_another(*arguments: Any, **named: Any) -> Any:
        found = planned(*arguments, **named)
        save("in/a_x4.png")
        return found

    monkeypatch.setattr(plan, "plan_jobs", then_another)
    assert main(["upscale", "in", "-n", model, "--json"]) == 0
    found = events(capsys)
    [skipped] = [each for each in found if each["event"] == "skipped"]
    reason = "made meanwhile by another run"
    assert (skipped["picture"], skipped["reason"]) == ("in/a.png", reason)
    assert (found[-1]["done"], found[-1]["already_there"]) == (1, 1)


def test_names_that_are_no_text_come_back(model: str, capsys: Capture) -> None:
    name = b"\xff\n\xc3\xa9.png"
    save(name)
    assert main(["upscale", os.fsdecode(name), "-n", model, "--json"]) == 0
    [finished] = [each for each in events(capsys) if each["event"] == "finished"]
    assert os.fsencode(finished["picture"]) == name
    assert os.fsencode(finished["results"][0]["path"]) == b"\xff\n\xc3\xa9_x4.png"


@pytest.mark.parametrize("more", [["-o", "-"], ["--dry-run"]])
def test_lines_that_are_not_for_programs(more: list[str], capsys: Capture) -> None:
    save("a.png")
    assert main(["upscale", "a.png", "--json", *more]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("bidiffsr: error: --json: got it with ")


def test_events_come_at_once(model: str) -> None:
    """Through a pipe, while the batch goes on."""
    save("in/a.png")
    save("in/b.png", (100, 100))
    command = [sys.executable, "-m", "bidiffsr", "upscale", "in", "-n", model, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = []
        while "finished" not in seen:
            seen.append(json.loads(process.stdout.readline())["event"])
        assert process.poll() is None
        process.kill()
    assert seen[:2] == ["planned", "started"]
