"""The layout of the networks, to which PyTorch's modules and the engine's loader are held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from any_network import networks, sr3_networks
from bidiffsr.backends.base import load_backend
from bidiffsr.backends.compare import compare_backends
from bidiffsr.binary import METHODS, BinaryConv2d, method_for
from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.models.packed import load_packed, save_packed
from bidiffsr.models.trained import save_model
from bidiffsr.nn import build_network
from bidiffsr.nn.counting import count, total
from bidiffsr.nn.layout import Role, network_parameters
from bidiffsr.training.transfer import transfer
from helpers import scramble, tiny_network_config
from hostile_models import model_of, random_parameters

SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
any_network = st.one_of(networks(), networks(), sr3_networks())


def on_meta(config: BiDiffSRConfig | SR3Config) -> nn.Module:
    with torch.device("meta"):
        return build_network(config)


# PyTorch's modules.


@SLOWLY
@given(any_network)
def test_parameters_are_those_of_the_pytorch_module(config: BiDiffSRConfig | SR3Config) -> None:
    network = on_meta(config)
    parameters = network_parameters(config)
    state = network.state_dict()
    assert list(parameters) == list(state)
    for name, parameter in parameters.items():
        assert parameter.shape == tuple(state[name].shape), name


@SLOWLY
@given(networks())
def test_one_bit_are_the_weights_that_pytorch_binarizes(config: BiDiffSRConfig) -> None:
    binary = {
        f"{name}.weight"
        for name, module in on_meta(config).named_modules()
        if isinstance(module, BinaryConv2d) and module.is_binary
    }
    parameters = network_parameters(config)
    assert {name for name, parameter in parameters.items() if parameter.one_bit} == binary


def test_parameters_of_the_published_network() -> None:
    parameters = network_parameters(BiDiffSRConfig()).values()
    assert sum(int(np.prod(one.shape)) for one in parameters) == 51_280_387
    assert sum(int(np.prod(one.shape)) for one in parameters if one.one_bit) == 48_211_968
    assert sum(one.one_bit for one in parameters) == 56


@settings(SLOWLY, max_examples=40)
@given(any_network, st.integers(2, 3), st.integers(2, 3))
def test_counts_are_those_of_a_pass_through_pytorch(
    config: BiDiffSRConfig | SR3Config, rows: int, columns: int
) -> None:
    network = on_meta(config).eval()
    height, width = rows * config.size_multiple, columns * config.size_multiple
    written: dict[str, int] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: written.__setitem__(
                name,
                written.get(name, 0) + (output.numel() if isinstance(output, torch.Tensor) else 0),
            )
        )
    x = torch.empty(1, 3, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(x, x, torch.zeros(1, dtype=torch.int64, device="meta"))
    layers = count(config, height, width)
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        module = network.get_submodule(layer.name)
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        assert layer.parameters == own, layer
        assert layer.elements == written.get(layer.name, 0), layer  # one level is never enlarged
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert total(layers).parameters == parameters
    # It knows convolutions, linear layers and attention; not norms and upsampling.
    products = total(layer for layer in layers if layer.kind not in ("norm", "upsample"))
    bits = method_for(config).activation_bits if isinstance(config, BiDiffSRConfig) else 1
    assert counter.get_total_flops() == 2 * (products.macs + products.binary_macs // bits)


def test_a_size_that_the_network_does_not_take_is_not_counted() -> None:
    with pytest.raises(ConfigError, match="multiples of 2"):
        count(tiny_network_config(), 8, 7)


# The engine's loader.


ENGINE_CASES: list[dict[str, Any]] = [
    {},
    {"fusion": "split", "weight_gain": True, "attention_levels": (0, 1)},
    {"fusion": "concat", "resampling": "strided", "middle_attention": False, "patch": 2},
    {"fusion": "add", "full_precision_up_levels": 2, "stem_condition": "mean", "patch": 2},
    {"method": "full-precision", "normalization": "affine", "full_precision_up_levels": 0},
    {"timestep_aware_redistribution": False, "timestep_aware_activation": False},
]


@pytest.mark.parametrize("changes", ENGINE_CASES)
def test_the_engine_loads_exactly_these_tensors(changes: dict[str, Any], tmp_path: Path) -> None:
    native = pytest.importorskip("bidiffsr._native")
    config = tiny_network_config(**changes)
    path = tmp_path / "model.safetensors"
    save_packed(path, model_of(config), random_parameters(config))
    tensors = load_packed(path).tensors

    def load(given: dict[str, np.ndarray]) -> Any:
        return native.make_engine(dict(config), given, False, "portable", 1)

    assert load(tensors) is not None
    for name in tensors:
        if name.endswith(".zeros"):  # of any length, and left out where there are none
            continue
        with pytest.raises(ValueError, match=f"^{name}: "):
            load({other: value for other, value in tensors.items() if other != name})
        longer = np.concatenate([tensors[name], tensors[name][..., -1:]], axis=-1)
        with pytest.raises(ValueError, match=f"^{name}: "):
            load(tensors | {name: longer})


FOREIGN: list[str] = []
"""The methods that the engine does not know."""


@pytest.mark.parametrize("name", METHODS)
def test_the_engine_runs_every_other_method(name: str, tmp_path: Path) -> None:
    engine = pytest.importorskip("bidiffsr.backends.engine")
    config = tiny_network_config(method=name)
    path = tmp_path / "model.safetensors"
    save_packed(path, model_of(config), random_parameters(config))
    backend, _ = load_backend(path)
    assert isinstance(backend, engine.Engine) == (name not in FOREIGN)


def test_a_method_that_the_engine_does_not_know_is_pytorchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = pytest.importorskip("bidiffsr.backends.engine")
    from bidiffsr.backends.pytorch import TorchBackend

    monkeypatch.setattr(METHODS["bnn"], "epilogue", None)
    config = tiny_network_config(method="bnn")
    path = tmp_path / "model.safetensors"
    save_packed(path, model_of(config), random_parameters(config))
    backend, _ = load_backend(path)
    assert isinstance(backend, TorchBackend)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: network\.method: 'bnn'"):
        engine.Engine(path)
    (comparison,) = compare_backends(backend.network, path)
    assert comparison.difference == 0


# Without PyTorch.


@pytest.mark.parametrize("model", ["default", "bidiffsr", "sr3"])
def test_inspecting_needs_no_pytorch(model: str) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from bidiffsr.cli import main\n"
        f"sys.exit(main(['inspect', {model!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    layers = {"default": "binary conv 3x3", "bidiffsr": "binary conv 3x3", "sr3": "attention"}
    assert layers[model] in result.stdout


# Methods.


def test_every_method_is_a_choice_of_the_configuration_and_no_other() -> None:
    for name in METHODS:
        assert tiny_network_config(method=name).method == name
    with pytest.raises(ValueError, match=" or ".join(f"'{name}'" for name in list(METHODS)[-2:])):
        tiny_network_config(method="ternary")


@pytest.mark.parametrize("name", METHODS)
def test_roles_say_whose_channels_a_parameter_has(name: str) -> None:
    method = method_for(tiny_network_config(method=name, weight_gain=True))
    block = method.conv(6, 10, 3)
    for part, parameter in method.parameters(6, 10, 3).items():
        assert tuple(block.get_parameter(part).shape) == parameter.shape
        last = {Role.WEIGHT: (10, 6, 3, 3), Role.THRESHOLD: (6,), Role.VECTOR: (10,)}
        expected = last[parameter.role]
        assert parameter.shape[-len(expected) :] == expected, part


@pytest.mark.parametrize("name", METHODS)
def test_packed_weights_are_those_that_pytorch_binarizes(name: str) -> None:
    method = method_for(tiny_network_config(method=name))
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((5, 7, 3, 3), dtype=np.float32)
    weight.reshape(-1)[::41] = 0
    conv = method.conv(7, 5, 3).conv
    packing = method.parameters(7, 5, 3)["conv.weight"].packing
    assert (packing is None) == (conv.binarize_weight is None)
    if packing is None or conv.binarize_weight is None:
        return
    for trained in (weight, packing.unpack(packing.pack(weight), weight.shape)):
        packed = packing.pack(trained)
        signs = np.unpackbits(packed.signs, axis=1, count=63) * 2.0 - 1
        signs.reshape(-1)[packed.zeros] = 0
        expected = packed.scale[:, None] * signs
        found = conv.binarize_weight(torch.from_numpy(trained)).numpy().reshape(5, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_packed_model_of_every_method_says_what_its_checkpoint_says(
    name: str, tmp_path: Path
) -> None:
    config = tiny_network_config(method=name)
    network = scramble(build_network(config)).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(config), packed=True)
    differences = [comparison.difference for comparison in compare_backends(network, path)]
    assert max(differences) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_begins_from_full_precision(name: str) -> None:
    plain, config = (tiny_network_config(method=each) for each in ("full-precision", name))
    source, target = (scramble(build_network(each)) for each in (plain, config))
    assert transfer(source, plain, target, config)
    theirs, ours = source.state_dict(), target.state_dict()
    block, method = "down.0.blocks.0.conv1", method_for(config)
    assert torch.equal(ours[f"{block}.conv.weight"], theirs[f"{block}.conv.weight"])
    if method.bias is not None:
        for bias in ours[f"{block}.{method.bias}"].view(-1, config.channels):
            assert torch.equal(bias, theirs[f"{block}.conv.bias"])


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_every_method_learns(name: str) -> None:
    network = scramble(build_network(tiny_network_config(method=name, weight_gain=True))).train()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network(x, x, torch.tensor([0, 30, 60, 99])).square().mean().backward()
    for part, parameter in network.named_parameters():
        assert parameter.grad is not None, part
        assert parameter.grad.isfinite().all(), part
        assert parameter.grad.count_nonzero() > 0, part
