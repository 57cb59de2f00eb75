"""Whole pictures by the shipped model: fast, exact and PyTorch, from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bidiffsr.backends.base import BackendOptions, load_backend
from bidiffsr.backends.engine import Engine, Precision
from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.images.codec import read_image
from bidiffsr.models.catalog import find_model
from bidiffsr.models.trained import save_model
from bidiffsr.upscaling.upscaler import Upscaler
from engine_cases import every_kernel, load_engine, random_network
from tiny_model import NETWORK, tiny_config


@pytest.fixture(scope="module")
def shipped() -> Iterator[Path]:
    with find_model("default") as path:
        yield path


@pytest.fixture(scope="module")
def low() -> NDArray[np.uint16]:
    """48×48, with 16 bits so that results are not rounded to the same steps."""
    picture = read_image(Path(__file__).parents[1] / "examples" / "demo.png")
    return picture.pixels[60:108, 80:128].astype(np.uint16) * 257


@pytest.fixture(scope="module")
def pytorch(shipped: Path) -> Upscaler:
    return Upscaler(*TorchBackend.load(shipped, "cpu"))


@pytest.fixture(scope="module")
def expected(pytorch: Upscaler, low: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return pytorch(low, seed=3)


@pytest.fixture(scope="module")
def low_form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all that the low-resolution form has; pictures are padded to 40 pixels."""
    changes = {
        "patch": 5,
        "stem_condition": "mean",
        "normalization": "affine",
        "middle_attention": False,
        "weight_gain": True,
    }
    config = tiny_config(sees_noise=True)
    config = config.model_copy(update={"network": NETWORK.model_copy(update=changes)})
    network = random_network(NETWORK.model_copy(update=changes), seed=1)
    with torch.no_grad():
        network.tail.weight.mul_(0.1)  # without statistics, random weights make large features
    path = tmp_path_factory.mktemp("low") / "model.safetensors"
    save_model(path, network, config, packed=True)
    return path


def upscaled(
    path: Path, kernel: str, precision: Precision, low: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    engine = load_engine(path, kernel, precision)
    return Upscaler(engine, engine.config)(low, seed=3)


def decibels(found: NDArray[np.uint16], expected: NDArray[np.uint16]) -> float:
    """PSNR, at most that of two pictures that differ by rounding to 16 bits."""
    assert found.shape == expected.shape == (192, 192, 3)
    difference = found.astype(np.float64) - expected.astype(np.float64)
    return float(20 * np.log10(65535 / max(np.sqrt(np.mean(difference**2)), 0.3)))


@every_kernel
def test_every_kernel_makes_pytorchs_picture(
    kernel: str, shipped: Path, low: NDArray[np.uint16], expected: NDArray[np.uint16]
) -> None:
    exact = upscaled(shipped, kernel, "exact", low)
    assert decibels(exact, expected) >= 45
    assert decibels(upscaled(shipped, kernel, "fast", low), exact) >= 45


@every_kernel
def test_every_kernel_makes_pytorchs_picture_of_the_low_resolution_form(
    kernel: str, low_form: Path, low: NDArray[np.uint16]
) -> None:
    pytorch = Upscaler(*load_backend(low_form, BackendOptions("torch", device="cpu")))
    expected = pytorch(low, seed=3)
    exact = upscaled(low_form, kernel, "exact", low)
    assert decibels(exact, expected) >= 45
    assert decibels(upscaled(low_form, kernel, "fast", low), exact) >= 45
    assert decibels(pytorch(low, seed=4), expected) < 40
    assert isinstance(load_backend(low_form)[0], Engine)  # which is what one gets


def test_other_noise_makes_another_picture(
    pytorch: Upscaler, low: NDArray[np.uint16], expected: NDArray[np.uint16]
) -> None:
    """So that the limits above mean something."""
    assert decibels(pytorch(low, seed=4), expected) < 40


@every_kernel
def test_fast_differs_from_exact(kernel: str, shipped: Path, low: NDArray[np.uint16]) -> None:
    noisy = (low.transpose(2, 0, 1)[None] / 65535).astype(np.float32)
    exact, fast = (
        load_engine(shipped, kernel, precision).predict(noisy, noisy, np.array([1]))
        for precision in ("exact", "fast")
    )
    assert not np.array_equal(exact, fast)
