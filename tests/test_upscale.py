"""The upscaling job: forms in and out, settings, reproducibility, and what is refused."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from bidiffsr.backends.base import load_backend
from bidiffsr.backends.engine import Engine
from bidiffsr.config import Quality
from bidiffsr.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    MemoryEstimateError,
    NumericalError,
    OptionError,
)
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image, from_float, to_float
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.models import catalog
from bidiffsr.models.catalog import find_model, list_models, model_digest
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import save_tiny_model, tiny_config, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    """Its results are the bicubic pictures."""
    return tiny_upscaler()


@pytest.fixture(scope="module")
def noisy() -> Upscaler:
    """Its results depend on the noise."""
    return tiny_upscaler(tail=1.0, sees_noise=True)


def picture(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> NDArray[Any]:
    """Smooth and colourful: a ramp along each axis and one along both."""
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x / width, y / height, (x + y) / (height + width), (1 + x) / width], axis=2)
    return from_float(ramps[..., :channels].astype(np.float32), dtype)


def bicubic(pixels: NDArray[Any], scale: int = 4) -> NDArray[Any]:
    upscaled = cubic_upscale(to_float(pixels), scale)
    return from_float(upscaled.clip(0, 1), pixels.dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_array_comes_back_as_it_came(upscaler: Upscaler, dtype: Any) -> None:
    result = upscaler(picture(6, 9, dtype=dtype))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, bicubic(picture(6, 9, dtype=dtype)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_is_the_mean_of_what_the_network_says(dtype: Any) -> None:
    colourful = tiny_upscaler(tail=1.0)
    grey = picture(6, 9, 1, dtype)
    apart = colourful(np.repeat(grey, 3, axis=2))
    assert np.ptp(apart.astype(int), axis=2).max() > 3
    np.testing.assert_allclose(colourful(grey)[..., 0], apart.mean(axis=2), atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_arrays_stay_grey(upscaler: Upscaler, dtype: Any) -> None:
    grey = picture(6, 9, 1, dtype)
    expected = bicubic(grey)
    with_axis, without_axis = upscaler(grey), upscaler(grey[..., 0])
    assert with_axis.shape == (24, 36, 1)
    assert without_axis.shape == (24, 36)
    np.testing.assert_array_equal(with_axis, expected)
    np.testing.assert_array_equal(without_axis, expected[..., 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_upscaled_and_colour_does_not_bleed(upscaler: Upscaler, dtype: Any) -> None:
    peak = np.iinfo(dtype).max
    pixels = np.zeros((8, 8, 4), dtype)
    pixels[:, :4] = peak, 0, 0, peak  # opaque red beside invisible green
    pixels[:, 4:] = 0, peak, 0, 0
    result = upscaler(pixels)
    assert result.shape == (32, 32, 4)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[..., 3][:, :8], peak)
    np.testing.assert_array_equal(result[..., 3][:, -8:], 0)
    assert result[..., 1].max() <= peak // 100


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_pil_comes_back_as_pil(upscaler: Upscaler, mode: str) -> None:
    image = PILImage.fromarray(picture(5, 7))
    if mode == "I;16":
        image = PILImage.fromarray(picture(5, 7, 1, np.uint16)[..., 0])
    else:
        image = image.convert(mode)
    result = upscaler(image)
    assert isinstance(result, PILImage.Image)
    assert result.size == (28, 20)
    kept = {"P": "RGB", "CMYK": "RGB", "1": "L", "LA": "RGBA"}
    assert result.mode == kept.get(mode, mode)


def test_pil_keeps_sixteen_bits_and_its_profile(upscaler: Upscaler) -> None:
    samples = picture(5, 7, 1, np.uint16)
    image = PILImage.fromarray(samples[..., 0])
    image.info["icc_profile"] = b"a profile"
    result = upscaler(image)
    np.testing.assert_array_equal(np.asarray(result), bicubic(samples)[..., 0])
    assert result.info["icc_profile"] == b"a profile"


def test_pil_without_a_range_is_refused(upscaler: Upscaler) -> None:
    with pytest.raises(ImageError, match="mode F"):
        upscaler(PILImage.new("F", (4, 4)))


def test_path_gives_an_array(upscaler: Upscaler, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", Image(picture(4, 5)))
    np.testing.assert_array_equal(upscaler(tmp_path / "a.png"), bicubic(picture(4, 5)))
    np.testing.assert_array_equal(upscaler(str(tmp_path / "a.png")), bicubic(picture(4, 5)))


@pytest.mark.parametrize(
    "wrong", [None, 3, [[1]], np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)), np.zeros(4)]
)
def test_anything_else_is_refused(upscaler: Upscaler, wrong: Any) -> None:
    with pytest.raises(ImageError):
        upscaler(wrong)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (1, 17), (9, 1), (8, 8)])
def test_any_size(upscaler: Upscaler, size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(upscaler(picture(*size)), bicubic(picture(*size)))


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3.99, 4])
@pytest.mark.parametrize("channels", [3, 4])
def test_smaller_scales_shrink_the_full_result(
    upscaler: Upscaler, scale: float, channels: int
) -> None:
    pixels = picture(7, 10, channels)
    pixels[..., 3:] = 255
    result = upscaler(pixels, scale=scale)
    expected = cubic_upscale(to_float(pixels[..., :3]), 4).clip(0, 1)
    if scale != 4:
        expected = imresize(expected, scale / 4)
    assert result.shape == (*expected.shape[:2], channels)
    np.testing.assert_allclose(result[..., :3], from_float(expected), atol=1)


@pytest.mark.parametrize("scale", [0, -1, 1e-9, 16.01, float("nan"), float("inf")])
def test_scale_out_of_range(upscaler: Upscaler, scale: float) -> None:
    with pytest.raises(ConfigError, match="scale"):
        upscaler(picture(4, 4), scale=scale)
    with pytest.raises(ConfigError, match="scale"):
        upscaler.check(UpscaleOptions(scale=scale))


@pytest.mark.parametrize("steps", [0, -1, 3])
def test_steps_out_of_range(upscaler: Upscaler, steps: int) -> None:
    reason = f"steps: got {steps}, .*1 (to 2|or more)"
    with pytest.raises(ConfigError, match=reason):
        upscaler(picture(4, 4), steps=steps)
    with pytest.raises(ConfigError, match=reason):
        upscaler.check(UpscaleOptions(steps=steps))


@pytest.mark.parametrize(("quality", "steps"), [("fast", 1), ("best", 2)])
def test_a_quality_is_sampled_as_the_model_says(
    noisy: Upscaler, quality: Quality, steps: int
) -> None:
    as_named = noisy.config.qualities[quality]
    by_default = Upscaler(noisy.backend, noisy.config.model_copy(update={"sampling": as_named}))
    result = noisy(picture(6, 6), quality=quality)
    np.testing.assert_array_equal(result, by_default(picture(6, 6)))
    assert (result != noisy(picture(6, 6))).any()
    *_, last = noisy.stream(Image(picture(6, 6)), quality=quality)
    assert last.steps == steps


def test_without_a_quality_the_default_is_used(noisy: Upscaler) -> None:
    np.testing.assert_array_equal(noisy(picture(6, 6), quality=None), noisy(picture(6, 6)))


def test_steps_replace_those_of_the_quality_alone(noisy: Upscaler) -> None:
    one_step = noisy.config.qualities["best"].model_copy(update={"steps": 1})
    by_hand = Upscaler(noisy.backend, noisy.config.model_copy(update={"sampling": one_step}))
    result = noisy(picture(6, 6), quality="best", steps=1)
    np.testing.assert_array_equal(result, by_hand(picture(6, 6)))
    assert (result != noisy(picture(6, 6), steps=1)).any()


def test_a_quality_that_the_model_does_not_name(upscaler: Upscaler) -> None:
    reason = "quality: got 'balanced', this model names fast, best;"
    with pytest.raises(ConfigError, match=reason):
        upscaler(picture(4, 4), quality="balanced")
    with pytest.raises(ConfigError, match=reason):
        upscaler.check(UpscaleOptions(quality="balanced"))


def test_a_model_that_names_no_quality(upscaler: Upscaler) -> None:
    plain = Upscaler(upscaler.backend, upscaler.config.model_copy(update={"qualities": {}}))
    with pytest.raises(ConfigError, match="this model names none;"):
        plain.check(UpscaleOptions(quality="fast"))


def test_samples_and_seed_out_of_range(upscaler: Upscaler) -> None:
    with pytest.raises(ConfigError, match="samples"):
        upscaler(picture(4, 4), samples=0)
    with pytest.raises(ConfigError, match="seed"):
        upscaler(picture(4, 4), seed=-1)


def test_settings_name_the_scale_they_use(upscaler: Upscaler) -> None:
    assert upscaler.check(UpscaleOptions()) == UpscaleOptions(scale=4)
    for asked in (UpscaleOptions(scale=2.5), UpscaleOptions(width=7), UpscaleOptions(size="3x7")):
        assert upscaler.check(asked) == asked


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (17, "got 17, this model makes pictures up to 16 times larger, in two passes"),
        (1e-3, "from 1/256 to 16;"),
    ],
)
def test_a_scale_that_the_model_cannot_do_is_said_in_plain_numbers(
    upscaler: Upscaler, scale: float, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^scale: .*{reason}"):
        upscaler.check(UpscaleOptions(scale=scale))


def test_stream_yields_every_step_and_a_result_for_each_sample(upscaler: Upscaler) -> None:
    steps = list(upscaler.stream(Image(picture(4, 4)), samples=2))
    assert [(s.sample, s.step, s.result is not None) for s in steps] == [
        (0, 1, False),
        (0, 2, True),
        (1, 1, False),
        (1, 2, True),
    ]
    assert all((step.samples, step.steps) == (2, 2) for step in steps)
    (only,) = upscaler.stream(Image(picture(4, 4)), steps=1)
    assert only.result is not None


def test_colour_profile_and_resolution_travel_along(upscaler: Upscaler) -> None:
    source = Image(picture(4, 4), icc=b"a profile", dpi=(300, 300))
    *_, last = upscaler.stream(source)
    assert last.result is not None
    assert (last.result.icc, last.result.dpi) == (source.icc, source.dpi)


def test_samples_differ_and_a_seed_repeats_them(noisy: Upscaler) -> None:
    first, second = noisy(picture(6, 6), samples=2)
    assert (first != second).any()
    np.testing.assert_array_equal(noisy(picture(6, 6)), first)
    assert (noisy(picture(6, 6), seed=1) != first).any()


def test_threads_change_nothing(noisy: Upscaler) -> None:
    pictures = [picture(5 + n, 9) for n in range(8)]
    serial = [noisy(pixels, seed=n) for n, pixels in enumerate(pictures)]
    with ThreadPoolExecutor(4) as pool:
        threaded = pool.map(lambda pair: noisy(pair[1], seed=pair[0]), enumerate(pictures))
        for ours, theirs in zip(serial, threaded, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Broken:
    """A network that answers with one value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        return np.full_like(x_t, self.value)

    def memory(self, height: int, width: int) -> int:
        return 0

    def release_memory(self) -> None:
        pass


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_picture_of_numbers_that_are_none(value: float) -> None:
    with pytest.raises(NumericalError):
        Upscaler(Broken(value), tiny_config())(picture(4, 4))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_flat_and_foreign_results_are_refused() -> None:
    source = Image(picture(8, 12))
    for value, reason in ((-20.0, "flat"), (4.0, "RMS")):
        *_, last = Upscaler(Broken(value), tiny_config()).stream(source)
        assert last.result is not None
        with pytest.raises(NumericalError, match=reason):
            check_result(source, last.result)


@pytest.mark.parametrize("scale", [0.3, 1.1, 2.5, 4, 5, 11.3])
@pytest.mark.parametrize("size", [(16, 16), (1, 300), (300, 1), (2, 77), (1, 1)])
def test_sound_results_pass(upscaler: Upscaler, size: tuple[int, int], scale: float) -> None:
    source = Image(picture(*size))
    *_, last = upscaler.stream(source, scale=scale)
    assert last.result is not None
    check_result(source, last.result)


@pytest.mark.parametrize("scale", [0.5, 1.1, 2, 4])
@pytest.mark.parametrize("period", [1, 2, 3])
def test_stripes_and_text_pass(upscaler: Upscaler, period: int, scale: float) -> None:
    y, x = np.mgrid[:48, :50] // period
    text = np.random.default_rng(0).random((48, 50)) < 0.2
    for pattern in (x % 2, (x + y) % 2, text):
        source = Image(np.repeat(255 * pattern[..., None].astype(np.uint8), 3, axis=2))
        *_, last = upscaler.stream(source, scale=scale)
        assert last.result is not None
        check_result(source, last.result)


def test_results_of_tiny_pictures_are_compared_in_place(upscaler: Upscaler) -> None:
    pixels = np.zeros((2, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    source = Image(pixels)
    check_result(source, Image(bicubic(pixels)))
    with pytest.raises(NumericalError, match="RMS"):
        check_result(source, Image(bicubic(pixels[:, ::-1])))


def test_the_least_scale_is_checked_too() -> None:
    source = Image(picture(1, 2048))
    *_, last = tiny_upscaler(scale=1).stream(source, scale=1 / 1024)
    assert last.result is not None
    assert last.result.width == 2
    check_result(source, last.result)


def test_a_black_drawing_on_invisible_white_passes(upscaler: Upscaler) -> None:
    pixels = np.full((12, 12, 3), 255, np.uint8)
    alpha = np.zeros((12, 12), np.uint8)
    pixels[4:8], alpha[4:8] = 0, 255
    source = Image(pixels, alpha)
    *_, last = upscaler.stream(source)
    assert last.result is not None
    check_result(source, last.result)


def test_a_wrong_result_is_refused_with_alpha_too() -> None:
    opaque = np.full((8, 8), 255, np.uint8)
    source = Image(picture(8, 8), opaque)
    wrong = Image(255 - bicubic(picture(8, 8)), np.full((32, 32), 255, np.uint8))
    with pytest.raises(NumericalError, match="RMS"):
        check_result(source, wrong)


def test_flat_pictures_may_stay_flat(upscaler: Upscaler) -> None:
    source = Image(np.full((6, 6, 3), 200, np.uint8))
    *_, last = upscaler.stream(source)
    assert last.result is not None
    np.testing.assert_array_equal(last.result.pixels, 200)
    check_result(source, last.result)


def test_too_little_memory_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidiffsr.system.memory.available_memory", lambda: 1000)
    upscaler = Upscaler(Broken(np.nan), tiny_config())
    with pytest.raises(MemoryEstimateError, match="32x16 pixels needs about"):
        upscaler(picture(4, 8))


def test_model_files(tmp_path: Path) -> None:
    upscaler = Upscaler.from_pretrained(save_tiny_model(tmp_path / "m.safetensors", scale=2))
    np.testing.assert_array_equal(upscaler(picture(4, 5)), bicubic(picture(4, 5), 2))
    with pytest.raises(CheckpointError, match="no such file"):
        Upscaler.from_pretrained(tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="'abacus' cannot be used"):
        Upscaler.from_pretrained(tmp_path / "m.safetensors", device="abacus")


def test_shipped_models_are_the_files_in_the_package() -> None:
    weights = Path(catalog.__file__).parent / "weights"
    names = list_models()
    assert "x4-small" in names
    assert names == sorted(path.stem for path in weights.glob("*.safetensors"))
    for name in names:
        with find_model(name) as path:
            assert path == weights / f"{name}.safetensors"
            assert load_backend(path)[1].scale == int(name[1])


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the models that ship, with small ones in it and something else."""
    folder = tmp_path / "package" / "weights"
    folder.mkdir(parents=True)
    save_tiny_model(folder / "x2-small.safetensors", scale=2)
    save_tiny_model(folder / "x4-detail.safetensors")
    save_tiny_model(folder / "x4-small.safetensors", tail=0.1)
    (folder / "notes.txt").touch()
    monkeypatch.setattr(catalog, "files", lambda _: folder.parent)
    return folder


@pytest.mark.parametrize(
    ("scale", "quality", "name"),
    [
        *((each, None, "x4-detail") for each in (None, 4, 2.01)),
        *((4, each, "x4-detail") for each in ("balanced", "best")),
        *((each, "fast", "x4-small") for each in (None, 4, 2.01)),
        *((each, None, "x2-small") for each in (2, 1.5)),
        (2, "fast", "x2-small"),
    ],
)
def test_the_default_follows_scale_and_quality(
    shipped: Path, scale: float | None, quality: Any, name: str
) -> None:
    with find_model("default", scale, quality) as path:
        assert path == shipped / f"{name}.safetensors"
        digest = model_digest(path)
    upscaler = Upscaler.from_pretrained(scale=scale, quality=quality)
    assert upscaler.config.scale == int(name[1])
    assert upscaler.origin is not None
    assert upscaler.origin.model == digest


def test_the_default_is_the_larger_model_where_it_is_alone(shipped: Path) -> None:
    (shipped / "x2-small.safetensors").unlink()
    (shipped / "x4-small.safetensors").unlink()
    assert list_models() == ["x4-detail"]
    for scale, quality in ((2, None), (4, "fast")):
        with find_model("default", scale, quality) as path:
            assert path == shipped / "x4-detail.safetensors"


def test_the_default_is_of_a_known_quality() -> None:
    with pytest.raises(OptionError, match=r"^quality: got 'good'"):
        Upscaler.from_pretrained(quality=cast("Any", "good"))


def test_a_name_is_not_bound_to_a_scale(shipped: Path) -> None:
    assert Upscaler.from_pretrained("x4-detail", scale=2).config.scale == 4
    with find_model(shipped / "x4-detail.safetensors", 2) as path:
        assert path == shipped / "x4-detail.safetensors"


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    "name",
    ["x8-small", "X4-DETAIL", "", "x4-detail.safetensors", "../weights/x4-detail", "a\0b", "\n"],
)
def test_an_unknown_name_says_which_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="default, x2-small, x4-detail, x4-small") as error:
        find_model(name)
    assert "\n" not in str(error.value)


def test_a_name_too_long_for_a_file_is_no_model() -> None:
    with pytest.raises(CheckpointError), find_model("x" * 5000) as path:
        load_backend(path)


# Copies, and other processes.

COPIES: dict[str, Callable[[Upscaler], Upscaler]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda upscaler: pickle.loads(pickle.dumps(upscaler)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("backend", ["engine", "torch"])
def test_a_copy_does_the_same(way: str, backend: Any, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m.safetensors", tail=1.0)
    options: dict[str, Any] = {"precision": "exact", "threads": 2} if backend == "engine" else {}
    original = Upscaler.from_pretrained(path, backend=backend, **options)
    again = COPIES[way](original)
    assert again is not original
    assert again.config == original.config
    if backend == "engine":
        assert isinstance(again.backend, Engine)
        assert (again.backend.precision, again.backend.threads) == ("exact", 2)
    np.testing.assert_array_equal(again(picture(5, 6), seed=3), original(picture(5, 6), seed=3))


def test_a_copy_needs_the_file_wherever_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_model(Path("m.safetensors"))
    pickled = pickle.dumps(Upscaler.from_pretrained("m.safetensors"))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled).config.scale == 4
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        pickle.loads(pickled)


def test_spawned_processes_share_the_work(tmp_path: Path) -> None:
    upscaler = Upscaler.from_pretrained(save_tiny_model(tmp_path / "m.safetensors", tail=1.0))
    pictures = [picture(5, 6), picture(7, 4)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(upscaler, pictures))
    for pixels, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result, upscaler(pixels))


def test_a_forked_child_upscales_arrays(tmp_path: Path) -> None:
    program = """
import os, sys
import numpy as np
from bidiffsr import Upscaler
upscaler = Upscaler.from_pretrained(sys.argv[1], threads=2)
pixels = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
expected = upscaler(pixels)
if os.fork() == 0:
    os._exit(0 if np.array_equal(upscaler(pixels), expected) else 1)
_, status = os.wait()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    path = save_tiny_model(tmp_path / "m.safetensors", tail=1.0)
    command = [sys.executable, "-c", program, str(path)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_start_noise_that_cannot_reach_the_result_is_not_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upscaler = tiny_upscaler(tail=1.0)
    one_step = upscaler(picture(5, 6), steps=1, seed=1)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("noise was drawn")

    monkeypatch.setattr("bidiffsr.upscaling.surroundings.normal_noise", refuse)
    np.testing.assert_array_equal(upscaler(picture(5, 6), steps=1, seed=2), one_step)
    with pytest.raises(AssertionError, match="noise was drawn"):
        upscaler(picture(5, 6), steps=2)
