"""Examples and recipes for programs that have bidiffsr inside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bidiffsr import Image, Upscaler, read_image, write_image

ROOT = Path(__file__).parents[1]


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path in paths:
        write_image(path, Image(random.integers(0, 256, (12, 16, 3), np.uint8)))
    return paths


def embed(*arguments: object) -> list[str]:
    command = [sys.executable, ROOT / "examples" / "embed.py", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_example_upscales_all_it_can(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", 3)
    paths[1].write_text("no picture")
    out = tmp_path / "out"
    lines = embed(tmp_path / "in", out)
    assert [line.split(":")[0] for line in lines] == ["0.png", "1.png", "2.png"]
    assert [line.endswith(": done") for line in lines] == [True, False, True]
    upscaler = Upscaler.from_pretrained("x4-small", threads=2)
    for path in (paths[0], paths[2]):
        expected = upscaler(path, quality="fast", seed=7)
        assert np.array_equal(read_image(out / path.name).pixels, expected)
    assert not (out / "1.png").exists()


def test_the_example_gives_up_in_time(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 2)
    lines = embed(tmp_path / "in", tmp_path / "out", 0)
    assert all("gave up" in line for line in lines)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    """The names that the page's lines define, one after the other."""
    page = (ROOT / "docs" / "embed.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, "embed.md", "exec"), names)
    return names


def test_recipes_for_tensors(recipes: dict[str, Any]) -> None:
    images = torch.rand(2, 6, 9, 3, generator=torch.Generator().manual_seed(0))
    node = recipes["NODE_CLASS_MAPPINGS"]["BidiffsrUpscale"]
    fields = node.INPUT_TYPES()["required"]
    assert set(fields) == {"image", "quality", "seed"}
    upscaler = Upscaler.from_pretrained("x4-detail")
    for quality in fields["quality"][0]:
        (large,) = getattr(node(), node.FUNCTION)(image=images, quality=quality, seed=3)
        assert large.shape == (2, 24, 36, 3)
        assert large.dtype == torch.float32
        assert 0 <= large.min() <= large.max() <= 1
        samples = np.round(images[1].numpy() * 65535).astype(np.uint16)
        expected = upscaler(samples, quality=quality, seed=3)
        assert np.abs(large[1].numpy() * 65535 - expected).max() < 0.01
    load = recipes["load_from_file"]
    model = load(ROOT / "src" / "bidiffsr" / "models" / "weights" / "x4-detail.safetensors")
    large = model(images.movedim(3, 1))
    assert large.shape == (2, 3, 24, 36)
    assert torch.equal(large.movedim(1, 3), recipes["upscale"](images))
