"""The C library against the Python package, whose results it has to give without Python."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from any_network import networks
from bidiffsr import Engine, Upscaler
from bidiffsr.backends import engine as python_engine
from bidiffsr.binary.methods import method_for
from bidiffsr.config import (
    AngularSchedule,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    SamplingConfig,
)
from bidiffsr.errors import BidiffsrError, NumericalError
from bidiffsr.models.packed import save_packed
from c_library import (
    BAD_ARGUMENT,
    BAD_MODEL,
    CANCELLED,
    NO_MEMORY,
    ROOT,
    CError,
    CLibrary,
    Progress,
    install,
)
from helpers import tiny_network_config
from hostile_models import corpus, good_file, model_of, random_parameters
from tiny_model import NETWORK, tiny_config

SHIPPED = ROOT / "src" / "bidiffsr" / "models" / "weights"
HEADER = ROOT / "native" / "include" / "bidiffsr.h"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> CLibrary:
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def macaw() -> NDArray[np.uint8]:
    with PILImage.open(ROOT / "examples" / "macaw.png") as image:
        return np.asarray(image.convert("RGB"))[:60, :81]


def compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return found


# What a C program does.


@pytest.fixture(scope="module")
def example(library: CLibrary) -> Path:
    """The example, compiled as its own comment says."""
    program = library.prefix / "upscale"
    (config,) = library.prefix.rglob("bidiffsr.pc")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "bidiffsr"],
        env=os.environ | {"PKG_CONFIG_PATH": str(config.parent)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    source = ROOT / "examples" / "c" / "upscale.c"
    rpath = f"-Wl,-rpath,{library.path.parent}"
    command = [compiler(), "-std=c99", *STRICT, source, *flags, rpath, "-o", program]
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_the_example_makes_what_the_command_makes(
    mode: str, example: Path, macaw: NDArray[np.uint8], tmp_path: Path
) -> None:
    small = tmp_path / ("small.ppm" if mode == "RGB" else "small.pgm")
    if mode == "I;16":
        grey = macaw[..., 1].astype(np.uint16) * 257
        small.write_bytes(b"P5 # as deep as may be\n81 60\n65535\n" + grey.astype(">u2").tobytes())
        small_png = tmp_path / "small.png"
        PILImage.fromarray(grey).save(small_png)
    else:
        PILImage.fromarray(macaw).convert(mode).save(small)
        small_png = tmp_path / "small.png"
        PILImage.fromarray(macaw).convert(mode).save(small_png)
    made = tmp_path / f"large{small.suffix}"
    model = SHIPPED / "x4-detail.safetensors"
    subprocess.run([example, model, small, made, "fast"], check=True, capture_output=True)
    large_png = tmp_path / "large.png"
    command = [ROOT / ".venv" / "bin" / "bidiffsr", "upscale", small_png, "-o", large_png]
    command += ["-n", model, "--quality", "fast"]
    subprocess.run(command, check=True, capture_output=True)
    with PILImage.open(made) as found, PILImage.open(large_png) as expected:
        arrays = [np.asarray(image).astype(np.int64) for image in (found, expected)]
    assert arrays[0].shape[:2] == (240, 324)
    assert np.abs(arrays[0] - arrays[1]).max() <= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "neither"),
        (b"P6\n4 4\n255\n" + bytes(47), "cut off"),
        (b"P6\n4 0\n255\n", "header"),
        (b"P6\n9999999 9999999\n255\n", "header"),
        (b"P6\n1000000 1000000\n255\n", ""),
        (b"P6\n4 4\n7\n" + bytes(48), "header"),
        (b"P3\n1 1\n255\n0 0 0\n", "neither"),
    ],
)
def test_the_example_refuses_what_it_cannot_read(
    content: bytes | None, reason: str, example: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.ppm"
    if content is not None:
        small.write_bytes(content)
    model = SHIPPED / "x4-detail.safetensors"
    command = [example, model, small, tmp_path / "large.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(small) in done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"small.ppm"}


@pytest.mark.parametrize("language", [["-xc", "-std=c99"], ["-xc", "-std=c11"], ["-xc++"]])
def test_the_header_is_of_both_languages(language: list[str]) -> None:
    command = [compiler(), "-fsyntax-only", *language, *STRICT]
    lines = HEADER.read_text()
    subprocess.run([*command, "-"], input=lines, check=True, text=True)


def test_cmake_finds_it(library: CLibrary, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\n"
        "project(user LANGUAGES C)\n"
        "find_package(bidiffsr CONFIG REQUIRED)\n"
        f"add_executable(user {ROOT / 'examples' / 'c' / 'upscale.c'})\n"
        "target_link_libraries(user PRIVATE bidiffsr)\n"
    )
    cmake = ROOT / ".venv" / "bin" / "cmake"
    configure = [cmake, "-S", tmp_path, "-B", tmp_path / "build"]
    prefix = f"-DCMAKE_PREFIX_PATH={library.prefix}"
    subprocess.run([*configure, prefix], check=True, capture_output=True)
    subprocess.run([cmake, "--build", tmp_path / "build"], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "build" / "user"], capture_output=True, check=False)
    assert done.returncode == 2


def test_only_the_header_is_exported(library: CLibrary) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listing = subprocess.run(
        [nm, "--dynamic", "--defined-only", "--format=posix", library.path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    exported = {line.split()[0] for line in listing.splitlines()}
    declared = set(re.findall(r"(bidiffsr_\w+)\(", HEADER.read_text()))
    assert exported == declared - {"bidiffsr_progress"}


def test_versions_are_one(library: CLibrary) -> None:
    from importlib.metadata import version

    assert library.c.bidiffsr_version().decode() == version("bidiffsr")


# The same results as in Python.


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.from_pretrained("x4-detail", threads=1)


CASES: list[dict[str, Any]] = [
    {},
    {"quality": "fast"},
    {"quality": "balanced", "seed": 2**64 - 1},
    {"quality": "best", "seed": 5},
    {"steps": 3},
    {"quality": "fast", "scale": 2.5},
    {"quality": "fast", "scale": 0.3},
    {"quality": "fast", "tile": 136},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_pictures_are_as_python_makes_them(
    options: dict[str, Any], library: CLibrary, upscaler: Upscaler, macaw: NDArray[np.uint8]
) -> None:
    with library.model(SHIPPED / "x4-detail.safetensors") as model:
        coded = {k: v.encode() if isinstance(v, str) else v for k, v in options.items()}
        found = library.upscale(model, macaw, **coded)
    np.testing.assert_array_equal(found, np.asarray(upscaler(macaw, **options)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [0, 1.7])
def test_pictures_of_every_form_are_as_in_python(
    dtype: type, channels: int, scale: float, library: CLibrary, upscaler: Upscaler
) -> None:
    random = np.random.default_rng(channels)
    image = random.integers(0, np.iinfo(dtype).max + 1, (11, 14, channels), dtype)
    if channels == 4:
        image[:5, :, 3] = random.choice([0, 1, np.iinfo(dtype).max], (5, 14))
    with library.model(SHIPPED / "x4-detail.safetensors") as model:
        found = library.upscale(model, image, quality=b"fast", scale=scale)
    expected = upscaler(image, quality="fast", scale=scale or None)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_samples_differ_and_are_as_in_python(library: CLibrary, upscaler: Upscaler) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    expected = upscaler(image, quality="best", samples=2)
    assert isinstance(expected, list)
    with library.model(SHIPPED / "x4-detail.safetensors") as model:
        found = [library.upscale(model, image, quality=b"best", sample=i) for i in range(2)]
    assert (found[0] != found[1]).any()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    """Any small model, sampled in any way."""
    network = draw(networks(largest=8)).model_copy(update={"timesteps": 6})
    angular = draw(st.booleans())
    schedule = AngularSchedule(timesteps=6)
    if not angular:
        schedule = LinearSchedule(timesteps=6, beta_start=0.01, beta_end=draw(st.floats(0.1, 0.9)))
    predictions = ["v", "sample"] if angular else ["v", "sample", "epsilon"]
    sampler = draw(st.sampled_from(["ddim", "dpm-solver++"]))
    return ModelConfig(
        network=network,
        diffusion=DiffusionConfig.model_validate(
            {
                "schedule": schedule,
                "prediction": draw(st.sampled_from(predictions)),
                "variable": draw(st.sampled_from(["image", "residual"])),
                "residual_scale": draw(st.sampled_from([1e-3, 0.1])),
                "clip": draw(st.sampled_from([None, 0.5, 1.0])),
                "input_scaling": draw(st.sampled_from(["none", "signal"])),
            }
        ),
        sampling=SamplingConfig.model_validate(
            {
                "sampler": sampler,
                "steps": draw(st.integers(1, 6)),
                "spacing": draw(st.sampled_from(["leading", "trailing"])),
                "eta": draw(st.sampled_from([0, 0.7])) if sampler == "ddim" else 0,
                "noise_scale": draw(st.sampled_from([0.0, 0.6, 1.0])),
                "mean_weight": draw(st.sampled_from([0.0, 0.3, 1.0])),
                "back_projections": draw(st.integers(0, 2)),
            }
        ),
        scale=draw(st.integers(1, 5)),
    )


def moderate(parameters: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Weights whose features neither vanish nor explode."""
    return {
        name: value / np.float32(np.sqrt(max(1, value[0].size)))
        for name, value in parameters.items()
    }


@given(
    config=model_configs(),
    seed=st.integers(0, 2**64 - 1),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_model_gives_what_it_gives_in_python(
    config: ModelConfig,
    seed: int,
    size: tuple[int, int],
    library: CLibrary,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    network = config.network
    assert network.architecture == "bidiffsr"
    save_packed(path, config, moderate(random_parameters(network)))
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    if method_for(network).epilogue is None:
        with pytest.raises(CError, match=r"method|float_help") as caught, library.model(path):
            pass
        assert caught.value.status == BAD_MODEL
        return
    upscaler = Upscaler.from_pretrained(path, threads=1, precision="exact")
    with library.model(path, exact=1) as model:
        try:
            expected = upscaler(image, seed=seed)
        except NumericalError:
            with pytest.raises(CError, match="NaN"):
                library.upscale(model, image, seed=seed)
            return
        found = library.upscale(model, image, seed=seed)
    # A sign next to 0 may fall either way, and then its surroundings differ.
    apart = np.abs(found.astype(int) - expected.astype(int)) > 1
    assert apart.mean() <= 0.01


@pytest.mark.parametrize(
    ("width", "scale"), [(89, 2.404494382033708), (1562, 1.1363636363642766), (89, 2.4)]
)
def test_a_scale_that_rounds_twice_has_one_result(
    width: int, scale: float, library: CLibrary, tmp_path: Path
) -> None:
    path, config = tmp_path / "model.safetensors", tiny_config(3)
    save_packed(path, config, moderate(random_parameters(NETWORK)))
    image = np.random.default_rng(0).integers(0, 256, (4, width, 4), np.uint8)
    with library.model(path, exact=1) as model:
        found = library.upscale(model, image, steps=1, scale=scale)
    upscaler = Upscaler.from_pretrained(path, threads=1, precision="exact")
    expected = np.asarray(upscaler(image, steps=1, scale=scale))
    apart = np.abs(found.astype(int) - expected.astype(int)) > 1
    assert apart.mean() <= 0.01


def test_one_run_of_the_network_is_the_engine_s(library: CLibrary) -> None:
    random = np.random.default_rng(0)
    x_t = random.standard_normal((2, 3, 16, 24), np.float32)
    cond = random.random((2, 3, 16, 24), np.float32)
    t = np.array([0, 3])
    engine = Engine("x4-detail", threads=1)
    with library.model(SHIPPED / "x4-detail.safetensors") as model:
        assert library.c.bidiffsr_size_multiple(model) == engine.config.network.size_multiple
        assert library.c.bidiffsr_kernel(model).decode() == engine.kernel
        assert library.c.bidiffsr_scale(model) == 4
        assert np.array_equal(library.predict(model, x_t, cond, t), engine.predict(x_t, cond, t))


@pytest.mark.parametrize("kernel", [k.name for k in python_engine.kernels() if k.supported])
def test_kernels_are_chosen_by_option_and_environment(
    kernel: str, library: CLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    with library.model(good_file(), kernel=kernel.encode()) as model:
        assert library.c.bidiffsr_kernel(model).decode() == kernel
    libc = ctypes.CDLL(None)
    monkeypatch.setenv("BIDIFFSR_KERNEL", kernel)
    libc.setenv(b"BIDIFFSR_KERNEL", kernel.encode(), 1)
    with library.model(good_file()) as model:
        assert library.c.bidiffsr_kernel(model).decode() == kernel


# What it refuses, and how calls end.


HOSTILE = corpus()


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_models_are_refused(what: str, library: CLibrary) -> None:
    with pytest.raises(CError) as caught, library.model(HOSTILE[what]):
        pass
    assert caught.value.status == BAD_MODEL


def test_bits_that_no_weight_has_are_refused(library: CLibrary, tmp_path: Path) -> None:
    """Of ReCU: a channel's weights cannot all be below their mean."""
    path = tmp_path / "model.safetensors"
    network = tiny_network_config(method="recu")
    save_packed(path, model_of(network), random_parameters(network), float_type="fp32")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    with library.model(path):
        pass
    name = "down.0.blocks.0.conv1.conv.weight.signs"
    tensors[name][1] = 0
    save_file(tensors, path, metadata)
    with pytest.raises(CError, match=f"{name}: has a row of bits") as caught, library.model(path):
        pass
    assert caught.value.status == BAD_MODEL


def test_a_sound_model_with_float_help_is_refused_by_that_name(
    library: CLibrary, tmp_path: Path
) -> None:
    network = tiny_network_config(float_help="grouped")
    path = tmp_path / "model.safetensors"
    save_packed(path, model_of(network), random_parameters(network))
    with pytest.raises(CError, match="float_help") as caught, library.model(path):
        pass
    assert caught.value.status == BAD_MODEL


def test_a_sound_model_loads_from_memory_and_from_a_path(library: CLibrary, tmp_path: Path) -> None:
    path = tmp_path / "m\u00f6del.safetensors"
    path.write_bytes(good_file())
    image = np.full((3, 2, 3), 99, np.uint8)
    with library.model(path) as one, library.model(good_file()) as other:
        path.unlink()
        assert np.array_equal(library.upscale(one, image), library.upscale(other, image))


@pytest.mark.parametrize(
    "options",
    [
        {"quality": "superb"},
        {"steps": 5},
        {"steps": -1},
        {"scale": 17.0},
        {"scale": -1.0},
        {"scale": 1e-6},
        {"tile": 63},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_in_both(
    options: dict[str, Any], library: CLibrary, upscaler: Upscaler
) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    coded = {k: v.encode() if isinstance(v, str) else v for k, v in options.items()}
    (name,) = options
    with pytest.raises(BidiffsrError, match=name):
        upscaler(image, **options)
    path = SHIPPED / "x4-detail.safetensors"
    with library.model(path) as model, pytest.raises(CError, match=name) as caught:
        library.upscale(model, image, **coded)
    assert caught.value.status == BAD_ARGUMENT


def test_a_limit_on_memory_makes_tiles_smaller_and_then_refuses(
    library: CLibrary, macaw: NDArray[np.uint8]
) -> None:
    with library.model(SHIPPED / "x4-detail.safetensors") as model:
        whole = library.upscale(model, macaw, quality=b"fast")
        tiled = library.upscale(model, macaw, quality=b"fast", max_memory=80_000_000)
        assert 0 < np.abs(whole.astype(int) - tiled.astype(int)).max() < 40
        with pytest.raises(CError) as caught:
            library.upscale(model, macaw, quality=b"fast", max_memory=50_000_000)
    assert caught.value.status == NO_MEMORY


def test_a_call_is_cancelled_while_the_network_runs(
    library: CLibrary, macaw: NDArray[np.uint8]
) -> None:
    seen: list[float] = []
    large = np.tile(macaw, (3, 3, 1))  # a step has to take longer than a few reports are apart

    @Progress
    def stop(_: int | None, done: float) -> int:
        seen.append(done)
        return len(seen) == 4

    with library.model(SHIPPED / "x2-small.safetensors") as model:
        with pytest.raises(CError) as caught:
            library.upscale(model, large, quality=b"best", progress=stop)
        assert caught.value.status == CANCELLED
        assert len(seen) == 4
        assert seen[-1] < 0.3  # of four steps, within the first or just behind it
        expected = library.upscale(model, macaw, quality=b"fast")
        assert np.array_equal(library.upscale(model, macaw, quality=b"fast"), expected)


def test_threads_share_a_model(library: CLibrary) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20 + 4 * i, 24, 3), np.uint8) for i in range(6)]
    with library.model(SHIPPED / "x4-detail.safetensors", threads=2) as model:
        alone = [library.upscale(model, image, quality=b"fast") for image in images]
        with ThreadPoolExecutor(6) as pool:
            found = pool.map(lambda i: library.upscale(model, i, quality=b"fast"), images * 2)
            for one, expected in zip(found, alone * 2, strict=True):
                assert np.array_equal(one, expected)
