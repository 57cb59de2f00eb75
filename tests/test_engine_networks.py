"""Whole networks in the engine, on every kernel, against the goldens and against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from bidiffsr.backends.engine import Engine
from bidiffsr.binary import METHODS
from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.models.published import convert_reference
from bidiffsr.models.trained import save_model
from chains import chain_of
from engine_cases import (
    KERNELS,
    every_kernel,
    expect,
    load_engine,
    network_config,
    random_inputs,
    random_network,
    save_packed,
)
from helpers import GOLDEN_MODELS, golden_outputs, read_golden, relative_l2

CASES = golden_outputs()


# The published code's numbers.


@pytest.fixture(scope="module")
def packed_goldens(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for model in GOLDEN_MODELS:
        network, config = convert_reference(golden / f"{model}.weights.safetensors", None)
        paths[model] = tmp_path_factory.mktemp("packed") / f"{model}.safetensors"
        save_model(paths[model], network, config, packed=True)
    return paths


@pytest.fixture(scope="module")
def golden_engines(packed_goldens: dict[str, Path]) -> dict[tuple[str, str], Engine]:
    return {
        (model, kernel): load_engine(path, kernel)
        for model, path in packed_goldens.items()
        for kernel in KERNELS
    }


@pytest.fixture(scope="module")
def forwards(golden: Path) -> dict[str, dict[str, Tensor]]:
    return {name: read_golden(golden / f"{name}.forward.safetensors") for name in GOLDEN_MODELS}


@every_kernel
@pytest.mark.parametrize(("model", "key"), CASES)
def test_output_is_the_published_networks(
    model: str,
    key: str,
    kernel: str,
    golden_engines: dict[tuple[str, str], Engine],
    forwards: dict[str, dict[str, Tensor]],
) -> None:
    case, _, timestep = key.partition(".out.t")
    x, cond, expected = (
        forwards[model][name].numpy() for name in (f"{case}.x", f"{case}.cond", key)
    )
    timesteps = np.full(len(x), int(timestep))
    found = golden_engines[model, kernel].predict(x, cond, timesteps)
    for index, (output, published) in enumerate(zip(found, expected, strict=True)):
        # A pre-activation here is so near to zero that its sign flips in any other order of
        # summation, in float64 too.
        flips = (model, case, index) == ("unet_shallow_attn", "batch", 0)
        assert relative_l2(output, published) < (0.1 if flips else 1e-5), index


@every_kernel
@pytest.mark.parametrize(("model", "steps"), [("unet_narrow", 10), ("unet_shallow_attn", 5)])
def test_ddim_gives_the_published_latents(
    model: str,
    steps: int,
    kernel: str,
    golden: Path,
    golden_engines: dict[tuple[str, str], Engine],
) -> None:
    tensors = read_golden(golden / f"{model}.ddim{steps}.safetensors")
    engine = golden_engines[model, kernel]
    noise, cond = tensors["noise"].numpy(), tensors["cond"].numpy()
    padding = [(0, a - b) for a, b in zip(noise.shape, cond.shape, strict=True)]
    cond = np.pad(cond, padding, mode="reflect")

    def predict(x: NDArray[Any], timestep: int) -> NDArray[Any]:
        return engine.predict(x, cond, np.array([timestep]))

    diffusion = Diffusion(engine.config.diffusion)
    timesteps = diffusion.schedule.timesteps(steps, "leading")
    assert timesteps == tensors["timesteps"].tolist()
    start = noise
    for index, timestep in enumerate(timesteps):
        published = tensors[f"latent.after_t{timestep}"].numpy()
        step = next(chain_of(diffusion, predict, start, timesteps[index:]))
        assert relative_l2(step.latent, published) < 1e-5
        start = published
    # Left to itself, the narrow network's chain meets pre-activations that are nearly zero: PyTorch
    # in float64 ends 0.008 from the published numbers, too.
    tolerance = 0.05 if model == "unet_narrow" else 1e-3
    for step in chain_of(diffusion, predict, noise, timesteps):
        expected = tensors[f"latent.after_t{step.timestep}"]
        assert relative_l2(step.latent, expected) < (1e-5 if step.index < 3 else tolerance)


# Random networks of every kind beside PyTorch in float64.

# The methods beside these whose epilogue the engine has.
ENGINE_METHODS = [
    name
    for name, method in METHODS.items()
    if method.epilogue is not None and name not in ("bi-diffsr", "full-precision")
]
# The straight body, which has no levels.
LOW: dict[str, Any] = {"multipliers": (1,), "fusion": "add", "full_precision_up_levels": 0}
NETWORKS: dict[str, dict[str, Any]] = {
    "one level": {"multipliers": (1,), "full_precision_up_levels": 0},
    "one level up in full precision": {"multipliers": (1,), "time_groups": 1},
    "two levels": {},
    "three levels": {"multipliers": (1, 2, 4)},
    "four levels": {"multipliers": (1, 2, 4, 8), "full_precision_up_levels": 2},
    "three blocks a level": {"blocks_per_level": 3, "channels": 4, "norm_groups": 2},
    "6 channels": {"channels": 6, "norm_groups": 3},
    "10 channels": {"channels": 10, "norm_groups": 5},
    "24 channels": {"channels": 24, "norm_groups": 8},
    "32 channels": {"channels": 32, "norm_groups": 1},
    "40 channels": {"channels": 40, "norm_groups": 4},
    "64 channels": {"channels": 64, "norm_groups": 16},
    "66 channels": {"channels": 66, "norm_groups": 11, "full_precision_up_levels": 0},
    "nothing up in full precision": {"full_precision_up_levels": 0},
    "all up in full precision": {"full_precision_up_levels": 2},
    "attention everywhere": {"attention_levels": (0, 1)},
    "attention in full precision": {"attention_levels": (0,), "method": "full-precision"},
    "many groups": {"time_groups": 100},
    "strided": {"resampling": "strided", "multipliers": (1, 1, 3)},
    "strided in full precision": {
        "resampling": "strided",
        "multipliers": (1, 3),
        "method": "full-precision",
    },
    "split": {"fusion": "split", "full_precision_up_levels": 1, "multipliers": (1, 2)},
    "concat": {"fusion": "concat", "full_precision_up_levels": 1, "multipliers": (1, 2)},
    "add": {"fusion": "add", "full_precision_up_levels": 1, "multipliers": (1, 2)},
    "full precision": {"method": "full-precision", "multipliers": (1, 2, 4)},
    "no shortcuts": {"identity_shortcut": False},
    "one redistribution": {"timestep_aware_redistribution": False},
    "one activation": {"timestep_aware_activation": False},
    "nothing time-aware": {
        "timestep_aware_redistribution": False,
        "timestep_aware_activation": False,
    },
    "patches of 2": {"patch": 2},
    "patches of 3": {"patch": 3, "fusion": "split", "channels": 6, "norm_groups": 3},
    "patches of 4, straight": LOW | {"patch": 4},
    "patches of 8": {"patch": 8, "attention_levels": (0,)},
    "means of patches": {"patch": 4, "stem_condition": "mean"},
    "means of patches of 3, straight": LOW | {"patch": 3, "stem_condition": "mean"},
    "means of single pixels": {"stem_condition": "mean"},
    "affine": {"normalization": "affine"},
    "affine in full precision": {
        "normalization": "affine",
        "method": "full-precision",
        "attention_levels": (0,),
        "patch": 2,
    },
    "no attention in the middle": {"middle_attention": False},
    **{name: {"method": name, "full_precision_up_levels": 1} for name in ENGINE_METHODS},
    **{
        f"{name}, straight": LOW | {"method": name, "weight_gain": True, "patch": 2}
        for name in ENGINE_METHODS
    },
    "gains": {"weight_gain": True, "fusion": "concat", "full_precision_up_levels": 0},
    "all of the low-resolution form": LOW
    | {
        "patch": 4,
        "stem_condition": "mean",
        "normalization": "affine",
        "middle_attention": False,
        "weight_gain": True,
    },
}
# In units of what a network's size must be a multiple of; the first is the least there is.
SIZES = [(1, 1), (1, 5), (3, 2)]


def least_values(config: BiDiffSRConfig, height: int, width: int) -> int:
    """How many values the smallest group of any normalization holds."""
    positions = height * width // config.patch**2
    return min(
        config.channels * multiplier // config.norm_groups * (positions >> 2 * level)
        for level, multiplier in enumerate(config.multipliers)
    )


def agreement(
    config: BiDiffSRConfig, size: tuple[int, int], batch: int, seed: int, path: Path
) -> float:
    """Check every kernel; returns the share of results that are equal up to rounding."""
    network = random_network(config, seed)
    height, width = (side * config.size_multiple for side in size)
    # The variance of fewer values, which may be nearly equal, is mostly rounding.
    while least_values(config, height, width) < 8:
        width *= 2
    inputs = random_inputs(config, (height, width), batch, seed)
    expected = expect(network, inputs)
    save_packed(path, network)
    equal = [
        expected.check(load_engine(path, kernel).predict(*inputs), kernel) for kernel in KERNELS
    ]
    return float(np.mean(equal))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_equals_torch(name: str, tmp_path: Path) -> None:
    config = network_config(**NETWORKS[name])
    shares = [
        agreement(config, size, 1 + index, index, tmp_path / "model.safetensors")
        for index, size in enumerate(SIZES)
    ]
    assert np.mean(shares) > 0.6


@st.composite
def configs(draw: st.DrawFn) -> BiDiffSRConfig:
    levels = draw(st.integers(1, 4))
    # Without statistics, random weights of full precision let features grow from layer to layer,
    # and attention to large features hangs on their last bits.
    grouped = draw(st.booleans())
    methods = ["bi-diffsr", "full-precision", *ENGINE_METHODS]
    method = draw(st.sampled_from(methods)) if grouped else "bi-diffsr"
    # Without thresholds and shortcuts features have few values. A norm makes ties of these, exact
    # zeros, whose sign is rounding's.
    bare = issubclass(METHODS[method], BareConv)
    strided = not bare and draw(st.booleans())
    if strided:
        multipliers = (1, *draw(st.tuples(*[st.integers(1, 4)] * (levels - 1))))
    else:
        multipliers = tuple(2**level for level in range(levels))
    channels = 2 * draw(st.integers(1, 80 // max(multipliers)))
    divisors = [groups for groups in range(1, channels + 1) if channels % groups == 0]
    groups = draw(st.sampled_from(divisors))
    timesteps = draw(st.sampled_from([1, 8, 1000, 2000]))
    attending = st.sets(st.integers(0, levels - 1), max_size=1 if grouped else 0)
    return BiDiffSRConfig(
        patch=draw(st.sampled_from([1, 1, 2, 3, 4, 8])),
        channels=channels,
        multipliers=multipliers,
        blocks_per_level=draw(st.integers(1, 2)),
        norm_groups=groups,
        attention_levels=tuple(draw(attending)),
        full_precision_up_levels=draw(st.integers(0, levels)),
        timesteps=timesteps,
        time_groups=draw(st.integers(1, 7)),
        method=method,
        resampling="strided" if strided else "consistent",
        fusion=draw(st.sampled_from(["cs", "split", "concat", "add"])),
        normalization="group" if grouped else "affine",
        middle_attention=grouped and draw(st.booleans()),
        stem_condition=draw(st.sampled_from(["pixels", "mean"])),
        weight_gain=draw(st.booleans()),
        identity_shortcut=bare or draw(st.booleans()),
        timestep_aware_redistribution=draw(st.booleans()),
        timestep_aware_activation=draw(st.booleans()),
    )


def test_any_network_equals_torch(tmp_path: Path) -> None:
    shares = []

    @settings(max_examples=60, deadline=None)
    @given(
        configs(),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.integers(1, 3),
        st.integers(0, 2**31),
    )
    def check(config: BiDiffSRConfig, size: tuple[int, int], batch: int, seed: int) -> None:
        shares.append(agreement(config, size, batch, seed, tmp_path / "model.safetensors"))

    check()
    assert np.mean(shares) > 0.8


# Runs of pixels and bands of rows end somewhere in the middle of these.
@every_kernel
@pytest.mark.parametrize("changes", [{"attention_levels": (1,)}, LOW | {"patch": 3}])
@pytest.mark.parametrize("size", [(1, 75), (75, 1), (31, 37)])
def test_large_pictures_equal_torch(
    size: tuple[int, int], changes: dict[str, Any], kernel: str, tmp_path: Path
) -> None:
    config = network_config(channels=6, norm_groups=3, **changes)
    network = random_network(config, seed=3)
    height, width = (side * config.size_multiple for side in size)
    inputs = random_inputs(config, (height, width))
    path = save_packed(tmp_path / "model.safetensors", network)
    expect(network, inputs).check(load_engine(path, kernel, threads=3).predict(*inputs), size)


# Its half of the stem is then left out.
@every_kernel
@pytest.mark.parametrize("name", ["two levels", "patches of 2", "means of patches"])
def test_a_variable_of_zeros_equals_torch(name: str, kernel: str, tmp_path: Path) -> None:
    config = network_config(**NETWORKS[name])
    network = random_network(config, seed=4)
    size = 3 * config.size_multiple
    noisy, cond, timesteps = random_inputs(config, (size, size), batch=2)
    noisy[1] = 0
    engine = load_engine(save_packed(tmp_path / "model.safetensors", network), kernel)
    inputs = noisy, cond, timesteps
    expect(network, inputs).check(engine.predict(*inputs), name)
    inputs = noisy[1:], cond[1:], timesteps[1:]
    seen = config.stem_channels - config.tail_channels
    assert any(layer.startswith(f"stem, {seen} channels") for layer in engine.profile(*inputs))


@every_kernel
def test_timesteps_beyond_the_schedule_equal_torch(kernel: str, tmp_path: Path) -> None:
    config = network_config(channels=6, norm_groups=3, multipliers=(1,))
    network = random_network(config)
    engine = load_engine(save_packed(tmp_path / "model.safetensors", network), kernel)
    asked = [-1, -1000, config.timesteps, 10**6]
    noisy, cond, _ = random_inputs(config, (4, 6), len(asked))
    inputs = noisy, cond, np.array(asked)
    expect(network, inputs).check(engine.predict(*inputs), asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_levels": (0,)},
        {"fusion": "concat", "resampling": "strided"},
        {"fusion": "split", "method": "full-precision"},
        {"patch": 2, "normalization": "affine", "weight_gain": True, "fusion": "add"},
        {"patch": 4, "stem_condition": "mean", "middle_attention": False},
    ],
)
def test_every_tensor_of_the_file_matters(changes: dict[str, Any], tmp_path: Path) -> None:
    """So that the comparisons above see all of them."""
    config = network_config(channels=4, norm_groups=2, time_groups=1, **changes)
    path = save_packed(tmp_path / "model.safetensors", random_network(config))
    inputs = random_inputs(config, (8 * config.patch, 8 * config.patch))
    before = load_engine(path, KERNELS[0]).predict(*inputs)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in tensors.items():
        others = {key: tensor for key, tensor in tensors.items() if key != name}
        if name.endswith(".signs"):
            others[name] = value.copy()
            others[name][:, 0] ^= 0b11110000
        elif not name.endswith(".zeros"):  # these may be left out
            others[name] = 1 - 2 * value
        save_file(others, path, metadata)
        found = load_engine(path, KERNELS[0]).predict(*inputs)
        assert relative_l2(found, before) > 1e-4, name


# Weights that no training makes.


@every_kernel
@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4, 1e5])
def test_features_far_from_zero_are_normalized(mean: float, kernel: str, tmp_path: Path) -> None:
    network = random_network(network_config(), seed=8)
    with torch.no_grad():  # in full precision, so that no sign comes after the mean
        network.get_parameter("up.1.blocks.1.conv2.conv.bias").add_(mean)
    inputs = random_inputs(network.config, (16, 24), batch=2)
    expected = expect(network, inputs)
    engine = load_engine(save_packed(tmp_path / "m.safetensors", network), kernel)
    assert expected.is_firm
    # Of the mean, float32 keeps 2⁻²⁴; the spread is about 1.
    assert relative_l2(engine.predict(*inputs), expected.output) < 1e-5 + 2e-7 * mean


@every_kernel
def test_bits_of_weights_that_are_zero_say_nothing(kernel: str, tmp_path: Path) -> None:
    network = random_network(network_config(), seed=1)
    good = save_packed(tmp_path / "good.safetensors", network)
    with safe_open(good, framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(good)
    names = [name.removesuffix(".zeros") for name in tensors if name.endswith(".zeros")]
    assert names
    for name in names:
        rows = tensors[f"{name}.signs"]
        columns = network.get_parameter(name)[0].numel()
        for at in tensors[f"{name}.zeros"]:
            row, column = divmod(int(at), columns)
            rows[row, column // 8] &= ~np.uint8(0x80 >> column % 8)
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, metadata)
    assert other.read_bytes() != good.read_bytes()
    inputs = random_inputs(network.config, (16, 24), batch=2)
    expected, found = (load_engine(path, kernel).predict(*inputs) for path in (good, other))
    np.testing.assert_array_equal(found, expected)
