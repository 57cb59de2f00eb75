"""The commands and the Python of the README and of docs/use.md run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from bidiffsr import Image, read_image, write_image
from bidiffsr.cli import main

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/use.md")
SIZE = (16, 20)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in this language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


PYTHON = [(page, code) for page in PAGES for code in blocks(page, "python")]
COMMANDS = [line for block in blocks("README.md", "sh") for line in block.splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    demo = read_image(ROOT / "examples" / "demo.png").pixels
    small = Image(np.ascontiguousarray(demo[80 : 80 + SIZE[0], 90 : 90 + SIZE[1]]))
    Path("holiday").mkdir()
    for name in ("photo.jpg", "holiday/beach.png"):
        write_image(name, small)
    Path("models").symlink_to(ROOT / "models")
    return tmp_path


def test_there_is_something_to_run() -> None:
    assert {page for page, _ in PYTHON} == set(PAGES)
    assert len(COMMANDS) == 3


def test_commands() -> None:
    for line in COMMANDS:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "bidiffsr"
        assert main(arguments) == 0, line
    for result in ("photo_x4.jpg", "large/beach_x4.png", "sharp.png"):
        assert read_image(result).pixels.shape == (4 * SIZE[0], 4 * SIZE[1], 3)


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python(page: str, code: str) -> None:
    exec(compile(code, page, "exec"), names := {})
    if "large" in names:
        assert names["large"].shape == (4 * SIZE[0], 4 * SIZE[1], 3)
        assert names["large"].dtype == np.uint8
    if "write_image" in code:
        assert np.array_equal(read_image("photo_large.png").pixels, names["large"])


def test_every_number_of_the_table_is_one_of_the_results() -> None:
    table = re.findall(r"^\|.*\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = [cell.strip() for row in table[2:] for cell in row.split("|")[3:]]
    sources = (ROOT / "docs" / "results.md", ROOT / "models" / "x4-small.md")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    measured = [float(number) for number in re.findall(r"(?<![\w.])\d*\.\d+", text)]
    numbers = [cell for cell in shown if cell]
    assert len(numbers) > 50
    for number in numbers:
        decimals = len(number.partition(".")[2])
        assert any(abs(each - float(number)) <= 0.5001 * 10**-decimals for each in measured), number


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    for target in targets:
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}
            assert anchor in slugs, target
