"""Tiles: layout, windows, seams, memory, and pictures that live on the disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.batch.plan import Job
from bidiffsr.batch.run import upscale_file
from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.errors import ConfigError, MemoryEstimateError, OutputError
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image, to_float
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.system.buffers import new_buffer, release, strips
from bidiffsr.system.checks import amount_of_memory
from bidiffsr.system.memory import memory_limit
from bidiffsr.upscaling import tiling
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.planning import MemoryPlan, plan_memory
from bidiffsr.upscaling.tiling import Tiling, lay_tiles, least_tile
from bidiffsr.upscaling.upscaler import Upscaler
from helpers import largest_file
from tiny_model import tiny_config, tiny_network

MB = 1_000_000

# Layouts.

multiples = st.sampled_from([8, 16, 24, 128])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Tiling, int, int, int, int]:
    """(tiling, height, width, largest, multiple)."""
    multiple = draw(multiples)
    height, width = (multiple * draw(st.integers(1, 90)) for _ in range(2))
    largest = least_tile(multiple) + draw(st.integers(0, 700))
    return lay_tiles(height, width, largest, multiple), height, width, largest, multiple


@given(layouts())
def test_tiles_cover_the_picture_with_weights_that_sum_to_one(
    layout: tuple[Tiling, int, int, int, int],
) -> None:
    tiles, height, width, largest, multiple = layout
    for spans, length in ((tiles.rows, height), (tiles.columns, width)):
        total = np.zeros(length)
        for span in spans:
            assert len(span.weights) == len(spans[0].weights) <= largest
            assert span.start % multiple == len(span.weights) % multiple == 0
            assert span.weights.min() > 0
            total[span.range] += span.weights  # fails where a tile reaches outside
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
        assert spans[0].start == 0
        assert spans[-1].range.stop == length
        assert spans[0].weights[0] == spans[-1].weights[-1] == 1  # no ramp at the picture's border
    assert len(tiles) == len(tiles.rows) * len(tiles.columns)


@given(layouts())
def test_neighbours_overlap_by_an_eighth_of_the_largest_tile(
    layout: tuple[Tiling, int, int, int, int],
) -> None:
    tiles, _, _, largest, multiple = layout
    wanted = min(largest // multiple / 8, largest // multiple // 2) * multiple
    for spans in (tiles.rows, tiles.columns):
        for before, after in pairwise(spans):
            assert before.range.stop - after.start >= wanted


@given(layouts())
def test_tiles_are_the_fewest_possible(layout: tuple[Tiling, int, int, int, int]) -> None:
    tiles, height, width, largest, multiple = layout
    largest -= largest % multiple
    overlap = min(-(-largest // multiple // 8), largest // multiple // 2) * multiple
    for spans, length in ((tiles.rows, height), (tiles.columns, width)):
        if len(spans) > 1:
            assert (len(spans) - 1) * (largest - overlap) + overlap < length


def test_a_picture_smaller_than_a_tile_is_one_tile() -> None:
    tiles = lay_tiles(8, 56, 64, 8)
    assert (len(tiles), tiles.tile) == (1, (8, 56))


# Networks that stand in for real ones.


class Pointwise:
    """Says of each pixel what depends on that pixel alone; sees the noise too."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        assert x_t.dtype == cond.dtype == np.float32
        assert x_t.flags.c_contiguous
        assert cond.flags.c_contiguous
        self.sizes.append((x_t.shape[2], x_t.shape[3]))
        return np.sin(3 * x_t + cond + np.float32(t[0]))

    def memory(self, height: int, width: int) -> int:
        return 0

    def release_memory(self) -> None:
        pass


class Greedy(Pointwise):
    """Runs out of memory where a tile has more pixels than it likes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        prediction = super().predict(x_t, cond, t)
        if x_t[0, 0].size > self.most:
            raise MemoryError
        return prediction

    def memory(self, height: int, width: int) -> int:
        return 1


class Moody(Pointwise):
    """Says of each tile as a whole how bright it is, as group norms may make a network do."""

    def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        return np.full_like(x_t, 2 * cond.mean())


def photograph(height: int, width: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """A picture with some detail everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 3) + y / height, np.cos(y / 5 + x / 7), (x + y) % 5], axis=2)
    waves = (waves - waves.min()) / np.ptp(waves)
    return (waves * np.iinfo(dtype).max).astype(dtype)


def upscale(backend: Any, pixels: NDArray[Any], **settings: Any) -> NDArray[Any]:
    result: Any = Upscaler(backend, tiny_config(sees_noise=True))(pixels, **settings)
    return result


# Tiled against whole.


@pytest.mark.parametrize("size", [(40, 61), (5, 90), (50, 55)])
@pytest.mark.parametrize("tile", [64, 100, 200])
@pytest.mark.parametrize("channels", [3, 4])
def test_tiles_change_nothing_where_the_network_sees_pixels_alone(
    size: tuple[int, int], tile: int, channels: int
) -> None:
    pixels = photograph(*size, np.uint16)
    if channels == 4:
        pixels = np.dstack([pixels, pixels[..., 1] // 2 + 30000])
    backend = Pointwise()
    tiled = upscale(backend, pixels, tile=tile, seed=3)
    assert max(max(side) for side in backend.sizes) <= tile
    assert len(backend.sizes) > 2
    whole = upscale(Pointwise(), pixels, tile=4096, seed=3)
    np.testing.assert_allclose(tiled, whole.astype(float), rtol=0, atol=1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 70), st.integers(0, 70))
def test_noise_belongs_to_the_place(height: int, width: int, top: int, left: int) -> None:
    whole = normal_noise(5, 2, 3, 110, 110, stream=1)
    window = normal_noise(5, 2, 3, height, width, top=top, left=left, stream=1)
    np.testing.assert_array_equal(window, whole[:, top : top + height, left : left + width])


def test_every_tile_sees_the_noise_of_its_place() -> None:
    class Recorder(Pointwise):
        def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
            seen.append(x_t[0].copy())
            return super().predict(x_t, cond, t)

    seen: list[NDArray[Any]] = []
    upscale(Recorder(), photograph(40, 30), tile=64, steps=1, seed=9)
    tiles = lay_tiles(160, 120, 64, 8)
    noise = normal_noise(9, 0, 3, 160, 120)
    expected = [noise[:, row.range, column.range] for row in tiles.rows for column in tiles.columns]
    assert len(seen) == len(expected)
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_condition_is_the_upscaled_picture_reflected_to_the_multiple() -> None:
    class Recorder(Pointwise):
        def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
            seen.append(cond[0].copy())
            return super().predict(x_t, cond, t)

    seen: list[NDArray[Any]] = []
    pixels = photograph(11, 7)
    upscale(Recorder(), pixels, steps=1)
    upscaled = cubic_upscale(to_float(pixels), 4)
    padded = np.pad(upscaled, [(0, 4), (0, 4), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(seen[0], padded.transpose(2, 0, 1))


@given(st.integers(0, 30), st.integers(1, 12))
def test_some_rows_of_a_resized_picture_are_those_of_the_whole(start: int, count: int) -> None:
    image = to_float(photograph(11, 9))
    rows = slice(start, start + count)
    np.testing.assert_array_equal(cubic_upscale(image, 4, rows=rows), cubic_upscale(image, 4)[rows])
    np.testing.assert_array_equal(imresize(image, 3.3, rows=rows), imresize(image, 3.3)[rows])
    samples = photograph(50, 40)
    expected = imresize(to_float(samples), 0.6)
    np.testing.assert_array_equal(
        imresize(samples, 0.6, rows=rows, convert=to_float), expected[rows]
    )


def test_strips_are_all_rows_once() -> None:
    for size in ((1, 1), (100, 7), (3, 10**6), (5000, 6000)):
        rows = [row for strip in strips(*size) for row in range(strip.start, strip.stop)]
        assert rows == list(range(size[0]))


# Seams.


def worst_step_at_borders(picture: NDArray[Any], tiles: Tiling) -> float:
    """The mean step across a line where tiles meet, relative to the mean step elsewhere.

    Of all such lines the worst: where tiles begin, end, and where one outweighs the other.
    """
    worst = 0.0
    for axis, spans in enumerate((tiles.rows, tiles.columns)):
        steps = np.abs(np.diff(picture.astype(float), axis=axis)).mean(axis=(1 - axis, 2))
        borders = []
        for before, after in pairwise(spans):
            end = before.range.stop
            borders += [after.start, (after.start + end) // 2, end]
        near = np.concatenate([np.arange(border - 2, border + 2) for border in borders])
        elsewhere = np.delete(steps, near).mean()
        worst = max(worst, max(steps[border - 1] for border in borders) / elsewhere)
    return worst


def ramp_picture() -> NDArray[Any]:
    """A sky: brighter towards one corner, so that tiles differ, and no detail to hide seams."""
    y, x = np.mgrid[:96, :96]
    return np.repeat(((x + 2 * y) * 200)[..., None], 3, axis=2).astype(np.uint16)


def test_there_are_no_seams() -> None:
    result = upscale(Moody(), ramp_picture(), tile=160)
    assert worst_step_at_borders(result, lay_tiles(384, 384, 160, 8)) < 3


def test_seams_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(length: int) -> NDArray[Any]:
        return (np.arange(length) >= length // 2).astype(float)

    monkeypatch.setattr(tiling, "_ramp", cut)
    result = upscale(Moody(), ramp_picture(), tile=160)
    assert worst_step_at_borders(result, lay_tiles(384, 384, 160, 8)) > 9


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("model", "psnr"), [("x4-small", 40), ("x4-detail", 33)])
def test_tiles_change_the_shipped_models_results_little(model: str, psnr: float) -> None:
    demo = read_image(Path(__file__).parent.parent / "examples" / "demo.png").pixels
    pixels = np.ascontiguousarray(demo[60:124, 80:144])
    upscaler = Upscaler.from_pretrained(model)
    whole = upscaler(pixels, steps=2, tile=256).astype(float)
    tiled = upscaler(pixels, steps=2, tile=128).astype(float)
    assert tiled.shape == (256, 256, 3)
    difference = np.mean((tiled - whole) ** 2)
    assert 0 < difference < 255**2 / 10 ** (psnr / 10)
    # Where tiles meet, the picture has the steps it has without them.
    tiles = lay_tiles(256, 256, 128, 8)
    ours, without = (worst_step_at_borders(picture, tiles) for picture in (tiled, whole))
    assert ours < 1.1 * without


# Memory.


def test_where_memory_runs_out_tiles_are_halved_and_the_step_goes_on() -> None:
    backend = Greedy(100 * 100)
    pixels = photograph(64, 64)
    result = upscale(backend, pixels)
    # 256 whole; halved to 128, which is laid as 3 tiles of 96; these fit, and stay.
    assert backend.sizes == [(256, 256)] + 2 * 9 * [(96, 96)]
    np.testing.assert_array_equal(result, upscale(Pointwise(), pixels, tile=128))


def test_what_was_blended_before_the_memory_ran_out_does_not_count() -> None:
    class Late(Greedy):
        def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
            if len(self.sizes) == 3:
                self.most = 100 * 100
            return super().predict(x_t, cond, t)

    pixels = photograph(64, 64, np.uint16)
    late = upscale(Late(10**9), pixels, tile=160)
    np.testing.assert_allclose(late, upscale(Pointwise(), pixels).astype(float), rtol=0, atol=1)


def test_the_smallest_tile_is_the_last_try() -> None:
    with pytest.raises(MemoryEstimateError, match="tiles were only 64 pixels"):
        upscale(Greedy(1000), photograph(64, 64))


def test_pytorch_says_memory_error_as_everybody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(tiny_network())
    blank = np.zeros((1, 3, 8, 8), np.float32)
    assert backend.memory(512, 512) > backend.memory(256, 256) > 256 * 256 * 4 * 8

    def fail(*_: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(backend.network, "forward", fail)
    reason = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    with pytest.raises(MemoryError, match="8 bytes"):
        backend.predict(blank, blank, np.zeros(1, np.int64))
    reason = "sizes differ"
    with pytest.raises(RuntimeError, match="sizes differ"):
        backend.predict(blank, blank, np.zeros(1, np.int64))


def square(bytes_a_pixel: int) -> Callable[[int, int], int]:
    return lambda height, width: height * width * bytes_a_pixel


@pytest.mark.parametrize(
    ("limit", "tile", "on_disk"),
    [
        (None, (504, 504), False),
        (10_000 * MB, (504, 504), False),
        (2000 * MB, (504, 504), True),
        (700 * MB, (256, 256), True),
        (300 * MB, (128, 128), True),
        (90 * MB, (64, 64), True),
    ],
)
def test_the_memory_decides_the_tile(
    limit: int | None, tile: tuple[int, int], on_disk: bool
) -> None:
    plan = plan_memory(square(4000), (4000, 6000), 1500 * MB, multiple=8, limit=limit, disk=True)
    assert max(plan.tiling.tile) <= tile[0]
    assert max(plan.tiling.tile) > tile[0] // 2
    assert plan.on_disk is on_disk
    assert limit is None or plan.needed <= limit


def test_small_pictures_are_whole_unless_the_memory_forbids_it() -> None:
    size = (1024, 1024)
    plan = plan_memory(square(4000), size, 0, multiple=8, limit=10_000 * MB)
    assert len(plan.tiling) == 1
    plan = plan_memory(square(4000), size, 0, multiple=8, limit=2000 * MB)
    assert len(plan.tiling) == 9
    plan = plan_memory(square(4000), (1024, 1032), 0, multiple=8, limit=None)
    assert len(plan.tiling) == 9


@pytest.mark.parametrize(
    ("limit", "side"), [(None, 6000), (98_000, 6000), (60_000, 4096), (1200, 512), (400, 256)]
)
def test_without_attention_a_picture_is_whole_as_far_as_memory_goes(
    limit: int | None, side: int
) -> None:
    plan = plan_memory(
        square(4000),
        (4000, 6000),
        0,
        multiple=8,
        attends=False,
        limit=None if limit is None else limit * MB,
    )
    assert side / 2 < max(plan.tiling.tile) <= side
    assert limit is None or plan.needed <= limit * MB


def test_what_fits_with_files_alone_is_not_refused() -> None:
    def plan(limit: int | None, *, disk: bool) -> MemoryPlan:
        return plan_memory(
            *(square(1500), (1024, 1024), 100 * MB),
            multiple=8,
            tile=256,
            limit=limit,
            disk=disk,
        )

    in_memory = plan(None, disk=False).needed
    for limit in (in_memory - MB, in_memory - 40 * MB, in_memory, in_memory + MB):
        assert limit / 2 > 100 * MB  # so that files are the second choice
        found = plan(limit, disk=True)
        assert found.on_disk is (limit < in_memory)
        assert found.needed <= limit
    with pytest.raises(MemoryEstimateError, match="pixels needs"):
        plan(in_memory - MB, disk=False)


def test_memory_for_writing_the_result_is_planned() -> None:
    def needed(saving: int, *, disk: bool) -> int:
        limit = 100 * MB if disk else None
        picture, tiny = 90 * MB, square(0)
        return plan_memory(
            tiny, (64, 64), picture, multiple=8, limit=limit, saving=saving, disk=disk
        ).needed

    assert needed(10 * MB, disk=False) == needed(0, disk=False)  # less than sampling takes
    assert needed(85 * MB, disk=False) - needed(0, disk=False) == pytest.approx(40 * MB, abs=MB)
    assert needed(20 * MB, disk=True) - needed(0, disk=True) == pytest.approx(20 * MB, abs=MB)
    with pytest.raises(MemoryEstimateError, match=r"pixels needs about 0\.2 GB"):
        needed(120 * MB, disk=True)


def test_a_picture_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(MemoryEstimateError, match=r"6000x4000 pixels needs about 1\.6 GB .* 1\.0"):
        plan_memory(square(4000), (4000, 6000), 1500 * MB, multiple=8, limit=1000 * MB)
    with pytest.raises(MemoryEstimateError, match="pixels needs"):  # asked for, so not made smaller
        plan_memory(square(4000), (4000, 6000), 0, multiple=8, limit=1000 * MB, tile=1024)


def test_what_is_allowed_counts_from_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidiffsr.system.memory.available_memory", lambda: 1000)
    assert memory_limit(None, 300) == 800
    assert memory_limit(900, 300) == 600
    assert memory_limit(9000, 300) == 1000
    monkeypatch.setattr("bidiffsr.system.memory.available_memory", lambda: None)
    assert memory_limit(None, 300) is None
    assert memory_limit(900, 300) == 600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2G", 2 * 10**9),
        ("800M", 800 * MB),
        ("1.5GB", 1500 * MB),
        ("1 GiB", 2**30),
        ("64k", 64_000),
        ("123", 123),
    ],
)
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert amount_of_memory("max_memory", text) == expected


@pytest.mark.parametrize("text", ["", "G", "-1G", "2X", "1e9", "iB", "1ib", "nan"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 2G"):
        amount_of_memory("max_memory", text)


@pytest.mark.parametrize(("tile", "least"), [(63, 64), (0, 1), (-5, 1)])
def test_tiles_that_are_too_small(tile: int, least: int) -> None:
    with pytest.raises(ConfigError, match=f"^tile: got {tile}, expected .*{least} or more"):
        upscale(Pointwise(), photograph(4, 4), tile=tile)


def test_progress_tells_of_tiles() -> None:
    upscaler = Upscaler(Pointwise(), tiny_config())
    steps = list(upscaler.stream(Image(photograph(20, 40)), tile=80))
    tiles = len(lay_tiles(80, 160, 80, 8))
    assert tiles == 3
    expected = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert [(step.step, step.tile) for step in steps] == expected
    assert {step.tiles for step in steps} == {3}
    assert [step.result is not None for step in steps] == [False] * 5 + [True]


# On the disk.


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings with which a picture of a megapixel does not fit."""
    monkeypatch.setattr("bidiffsr.upscaling.upscaler.held_memory", lambda: 0)
    return {"max_memory": 70 * MB, "tile": 256}


@pytest.mark.parametrize("scale", [4, 2.5])
@pytest.mark.parametrize("kind", ["colour", "alpha", "grey"])
def test_results_from_the_disk_are_the_same_byte_for_byte(
    little_memory: dict[str, Any], tmp_path: Path, kind: str, scale: float
) -> None:
    pixels = photograph(250, 270)
    if kind == "grey":
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    alpha = photograph(250, 270)[..., 2] if kind == "alpha" else None
    write_image(tmp_path / "a.png", Image(pixels, alpha, grey=kind == "grey"))
    upscaler = Upscaler(Pointwise(), tiny_config(sees_noise=True))
    several: dict[str, dict[str, Any]] = {"disk": little_memory, "memory": {"tile": 256}}
    for name, settings in several.items():
        job = Job(tmp_path / "a.png", (tmp_path / name / "b.png",))
        options = UpscaleOptions(scale=scale, seed=1, **settings)
        *_, last = upscale_file(upscaler, job, options)
        assert last.result is not None
        assert isinstance(last.result.pixels, np.memmap) is (name == "disk")
        del last
        assert [path.name for path in (tmp_path / name).iterdir()] == ["b.png"]
    contents = [(tmp_path / name / "b.png").read_bytes() for name in ("disk", "memory")]
    assert contents[0] == contents[1]


def test_a_full_disk_is_said_and_leaves_nothing(
    little_memory: dict[str, Any], tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png", Image(photograph(250, 270)))
    upscaler = Upscaler(Pointwise(), tiny_config())
    job = Job(tmp_path / "a.png", (tmp_path / "out" / "b.png",))
    with largest_file(MB), pytest.raises(OutputError, match=r"no room for 0\.0 GB of working data"):
        list(upscale_file(upscaler, job, UpscaleOptions(**little_memory)))
    assert list((tmp_path / "out").iterdir()) == []


def test_buffers_keep_their_contents(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        buffer = new_buffer((3, 50, 70), np.float32, folder)
        assert not buffer.any()
        expected = np.arange(buffer.size, dtype=np.float32).reshape(buffer.shape)
        buffer[:] = expected
        release(buffer, buffer.transpose(1, 2, 0))
        np.testing.assert_array_equal(buffer, expected)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="no room"):
        new_buffer((3,), np.float32, tmp_path / "nowhere")


# In a process of its own.

_PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from bidiffsr.config import ModelConfig
from bidiffsr.batch.plan import Job
from bidiffsr.batch.run import upscale_file
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

class Cheap:
    def predict(self, x_t, cond, t):
        time.sleep(float(sys.argv[4]))
        return np.float32(0.1) * x_t
    def memory(self, height, width):
        return 0

upscaler = Upscaler(Cheap(), ModelConfig.model_validate_json(sys.argv[1]))
job = Job(Path("in.png"), (Path("out/result.png"),))
options = UpscaleOptions(steps=1, tile=512, max_memory=int(sys.argv[2]))
for progress in upscale_file(upscaler, job, options):
    if sys.argv[3] == "tell":
        print(progress.step, flush=True)
# Not ru_maxrss, which remembers the process that this one was started from.
status = Path("/proc/self/status").read_text().split()
print(status[status.index("VmHWM:") + 1])
"""


def program(memory: int, *, tell: bool = False, sleep: float = 0) -> list[str]:
    """The command of a process that upscales in.png."""
    options = [str(memory), "tell" if tell else "", str(sleep)]
    return [sys.executable, "-c", _PROGRAM, tiny_config().model_dump_json(), *options]


@pytest.mark.parametrize(("allowed", "peak"), [(2000 * MB, 390 * MB), (200 * MB, 200 * MB)])
def test_memory_stays_within_what_was_planned(
    allowed: int, peak: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 6 megapixels: three float32 arrays are 216 MB; a fourth, or one in float64, is too much.
    monkeypatch.chdir(tmp_path)
    write_image("in.png", Image(photograph(500, 750)))
    command = program(allowed)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) * 1024 < peak
    assert read_image("out/result.png").pixels.shape == (2000, 3000, 3)


def test_a_killed_process_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("in.png", Image(photograph(375, 500)))
    command = program(200 * MB, tell=True, sleep=0.05)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        process.kill()
    assert str(tmp_path / "out") in mapped  # it did work on the disk
    assert list(Path("out").iterdir()) == []
