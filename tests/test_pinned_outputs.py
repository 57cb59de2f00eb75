"""A change that is meant to change no result changes no byte of one."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN: dict[str, str] = json.loads(
    (Path(__file__).parent / "golden" / "outputs.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the bytes were taken on x86-64")
    script = Path(__file__).with_name("pinned_outputs.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", GOLDEN)
def test_the_bytes_are_as_they_were(case: str, outputs: dict[str, str]) -> None:
    assert outputs[case] == GOLDEN[case]


def test_every_case_is_pinned(outputs: dict[str, str]) -> None:
    assert list(outputs) == list(GOLDEN)
