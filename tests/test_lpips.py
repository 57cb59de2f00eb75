"""LPIPS: against the published package's numbers, the papers' rows, and PyTorch's own layers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from bidiffsr.cli import main
from bidiffsr.errors import CheckpointError, ImageError
from bidiffsr.evaluation import Lpips, bicubic, evaluate, lpips, summarize
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.images.resize import imresize

pytestmark = pytest.mark.usefixtures("one_thread")

Picture = NDArray[np.uint8]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def metric() -> Lpips:
    return Lpips()


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(lpips.WEIGHTS)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As where only the wheel is installed."""
    monkeypatch.setattr(lpips, "WEIGHTS", tmp_path / "none.safetensors")
    lpips.installed.cache_clear()
    yield
    lpips.installed.cache_clear()


def noise(seed: int, height: int, width: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pair(seed: int, height: int, width: int, strength: float = 20) -> tuple[Picture, Picture]:
    """Smooth waves, and the same with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / random.uniform(3, 9) + y / random.uniform(3, 9)) for _ in "RGB"]
    clean = np.stack(waves, axis=2)
    noisy = clean + random.normal(0, strength, clean.shape)
    return clean.astype(np.uint8), np.clip(noisy, 0, 255).astype(np.uint8)


def plain_lpips(a: Picture, b: Picture, tensors: Tensors) -> float:
    """The published computation with PyTorch's layers, in double precision."""
    mean, deviation = (
        torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
        for values in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    both = torch.from_numpy(np.stack([a, b])).double().permute(0, 3, 1, 2)
    features = (both / 127.5 - 1 - mean) / deviation
    distance = 0.0
    for index, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        if index in (1, 2):
            features = F.max_pool2d(features, 3, 2)
        weight, bias = (tensors[f"conv{index}.{kind}"].double() for kind in ("weight", "bias"))
        features = F.relu(F.conv2d(features, weight, bias, stride, padding))
        unit = features / (features.norm(dim=1, keepdim=True) + 1e-10)
        squares = (unit[0] - unit[1]) ** 2
        head = tensors[f"lin{index}.weight"].double().reshape(-1, 1, 1)
        distance += float((squares * head).sum(0).mean())
    return distance


def test_equals_the_published_package(golden: Path, metric: Lpips) -> None:
    rows = json.loads((golden / "lpips.json").read_text())
    assert len(rows) == 3
    with np.load(golden / "metrics_and_resize.npz") as pictures:
        for row in rows:
            a, b = (pictures[f"{row['i']}.{name}"] for name in ("rgb", "distorted_rgb"))
            assert metric(a, b) == pytest.approx(row["alex"], rel=0, abs=1e-5)


@pytest.mark.parametrize(("scale", "published"), [(2, 0.1274), (4, 0.3398)])
def test_the_published_bicubic_row(shared: Path, scale: int, published: float) -> None:
    [mean] = summarize(evaluate(shared / "data" / "benchmark" / "Set5", bicubic, scale))
    assert mean["lpips"] == pytest.approx(published, rel=0, abs=3e-4)
    assert mean.scored["lpips"] == 5


@pytest.mark.parametrize(
    ("height", "width"),
    [(31, 31), (31, 64), (32, 47), (33, 34), (35, 200), (66, 38), (97, 131), (128, 96)],
)
def test_equals_a_plain_computation(
    height: int, width: int, metric: Lpips, tensors: Tensors
) -> None:
    for a, b in (pair(height, height, width), (noise(1, height, width), noise(2, height, width))):
        assert metric(a, b) == pytest.approx(plain_lpips(a, b, tensors), rel=1e-5)


def test_flat_pictures_have_a_distance(metric: Lpips, tensors: Tensors) -> None:
    black, white = np.zeros((48, 48, 3), np.uint8), np.full((48, 48, 3), 255, np.uint8)
    assert metric(black, white) == pytest.approx(plain_lpips(black, white, tensors), rel=1e-5)


def test_identical_pictures_and_either_order(metric: Lpips) -> None:
    a, b = pair(0, 61, 83)
    assert metric(a, a.copy()) == 0
    assert metric(a, b) == metric(b, a) > 0


def test_more_noise_is_further_away(metric: Lpips) -> None:
    distances = [metric(*pair(0, 96, 96, strength)) for strength in (2, 10, 40)]
    assert distances == sorted(distances)


def test_the_border_counts(metric: Lpips) -> None:
    a, _ = pair(0, 64, 64)
    b = a.copy()
    b[:2] = 255 - b[:2]
    assert metric(a, b) > 0.001


@pytest.mark.parametrize("size", [1, 50_000, 2**40])
def test_bands_do_not_matter(size: int, metric: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(0, 75, 62)
    whole = metric(a, b)
    monkeypatch.setattr(lpips, "_BAND", size)
    assert metric(a, b) == pytest.approx(whole, rel=1e-6)


def test_layout_in_memory_does_not_matter_and_the_input_is_left_alone(metric: Lpips) -> None:
    a, b = pair(0, 40, 52)
    before = a.copy()
    distance = metric(a, b)
    assert metric(np.asfortranarray(a), b[::-1].copy()[::-1]) == distance
    np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (noise(0, 30, 64), noise(0, 30, 64), "LPIPS needs at least 31x31 pixels, not 64x30"),
        (noise(0, 40, 40), noise(0, 40, 41), "same size, not 40x40 and 41x40"),
        (noise(0, 40, 40) / 255, noise(0, 40, 40), "the first picture must be uint8"),
        (noise(0, 40, 40), noise(0, 40, 40)[..., 0], "the second picture must have shape"),
        (noise(0, 40, 40), None, "must be a numpy array"),
    ],
)
def test_refuses_what_it_cannot_compare(a: Any, b: Any, says: str, metric: Lpips) -> None:
    with pytest.raises(ImageError, match=says) as raised:
        metric(a, b)
    assert "\n" not in str(raised.value)


def test_half_precision_weights_are_read(tmp_path: Path, metric: Lpips, tensors: Tensors) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in tensors.items()}, path)
    assert Lpips(path)(*pair(0, 64, 64)) == pytest.approx(metric(*pair(0, 64, 64)), rel=0.01)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("conv3.weight", lambda value: None, "missing from these LPIPS weights of AlexNet"),
        ("conv0.weight", lambda value: value[..., :3, :3], r"has F32 of \[64, 3, 3, 3\], expected"),
        ("conv1.bias", lambda value: value[:-1], r"expected floats of \[192\]"),
        ("lin4.weight", lambda value: value[None], r"expected floats of \[256\]"),
        ("lin2.weight", lambda value: value.int(), r"has I32 of \[384\]"),
        ("lin2.weight", lambda value: value.double(), r"has F64 of \[384\]"),
        ("conv2.bias", lambda value: value * float("nan"), "holds NaN or infinity"),
        ("lin0.weight", lambda value: value - 1, "has numbers below 0"),
    ],
)
def test_refuses_other_weights(
    name: str, change: Any, says: str, tmp_path: Path, tensors: Tensors
) -> None:
    changed = tensors | {name: change(tensors[name])}
    path = tmp_path / "bad.safetensors"
    save_file({key: x.contiguous() for key, x in changed.items() if x is not None}, path)
    with pytest.raises(CheckpointError, match=f"bad.safetensors: {name}: .*{says}") as raised:
        Lpips(path)
    assert "\n" not in str(raised.value)


def test_weights_beyond_all_sense_give_no_number(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "huge.safetensors"
    save_file(tensors | {"conv1.weight": tensors["conv1.weight"] * 1e37}, path)
    with pytest.raises(CheckpointError, match="no finite distance"):
        Lpips(path)(*pair(0, 40, 40))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (None, "no such file"),
        (b"", "is not a sound safetensors file"),
        (b"version https://example.org/pointer\nsize 9884576\n", "is not a sound safetensors file"),
        (slice(None, -1), "is not a sound safetensors file: its tensors take"),
        (slice(1, None), "is not a sound safetensors file"),
    ],
)
def test_damaged_weights_are_one_line(
    damage: bytes | slice | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"  # nor is it called a model
    if damage is not None:
        whole = lpips.WEIGHTS.read_bytes()
        path.write_bytes(whole[damage] if isinstance(damage, slice) else damage)
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "a.png", Image(noise(0, 64, 64)))
    command = ["eval", str(tmp_path / "set"), "-n", "bicubic", "--lpips", str(path)]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"bidiffsr: error: {path}: {says}")
    assert err.count("\n") == 1


def evaluated(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What `eval` writes of bicubic on one picture: JSON, Markdown's last line."""
    (folder / "set").mkdir(exist_ok=True)
    write_image(folder / "set" / "a.png", Image(pair(0, 64, 64)[0]), overwrite=True)
    files = [folder / "scores.json", folder / "table.md"]
    command = ["eval", str(folder / "set"), "-n", "bicubic", *options]
    assert main([*command, "--json", str(files[0]), "--markdown", str(files[1])]) == 0
    [method] = json.loads(files[0].read_text())["methods"]
    return method, files[1].read_text().splitlines()[-1]


@pytest.mark.usefixtures("absent")
def test_without_weights_its_column_is_empty_and_one_line_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, row = evaluated(tmp_path)
    assert method["sets"][0]["lpips"] is None
    assert method["sets"][0]["lpips_pictures"] == 0
    assert method["pictures"][0]["lpips"] is None
    assert row.split(" | ")[-2] == "-"
    err = capsys.readouterr().err
    assert "LPIPS is left out" in err
    assert "src/bidiffsr/evaluation/lpips_alexnet.safetensors" in err
    assert "--lpips" in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("absent")
def test_weights_elsewhere(
    tmp_path: Path, metric: Lpips, capsys: pytest.CaptureFixture[str]
) -> None:
    package = Path(lpips.__file__).parent
    elsewhere = shutil.copy(package / "lpips_alexnet.safetensors", tmp_path / "w.safetensors")
    method, row = evaluated(tmp_path, "--lpips", str(elsewhere))
    high = pair(0, 64, 64)[0]
    distance = metric(bicubic(imresize(high, 1 / 4), 4), high)
    assert method["pictures"][0]["lpips"] == method["sets"][0]["lpips"] == distance
    assert method["sets"][0]["lpips_pictures"] == 1
    assert row.split(" | ")[-2] == f"{distance:.4f}"
    assert capsys.readouterr().err == ""


def test_it_needs_no_torch_and_no_safetensors() -> None:
    code = (
        "import sys; import numpy as np; from bidiffsr.evaluation import Lpips\n"
        "picture = np.zeros((40, 40, 3), np.uint8)\n"
        "assert Lpips()(picture, picture) == 0\n"
        "print(sorted({'torch', 'safetensors', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_wheel_leaves_the_weights_out() -> None:
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["scikit-build"]
    excluded = [root / "src" / path for path in settings["wheel"]["exclude"]]
    assert [path for path in excluded if path.samefile(lpips.WEIGHTS)] == excluded
