"""Full-precision convolutions beside binarized ones: against plain PyTorch, and who takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bidiffsr.backends.base import load_backend
from bidiffsr.backends.compare import compare_backends
from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.binary.methods import METHODS, FloatHelp, method_for
from bidiffsr.cli import main
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.models.trained import save_model
from bidiffsr.nn import build_network
from bidiffsr.nn.counting import count, total
from bidiffsr.training.transfer import transfer
from helpers import scramble, tiny_network_config
from hostile_models import model_of

HELPS: tuple[FloatHelp, ...] = ("pointwise", "grouped")


def helped_names(config: BiDiffSRConfig) -> set[str]:
    """The blocks with a convolution beside them."""
    with torch.device("meta"):
        state = build_network(config).state_dict()
    return {name.removesuffix(".help.weight") for name in state if name.endswith(".help.weight")}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [((16, 16), 8), ((12, 6), 2), ((3, 5), 1)])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "full-precision"])
def test_a_block_is_the_plain_one_plus_a_convolution_of_its_input(
    name: str, channels: tuple[int, int], groups: int, stride: int
) -> None:
    plain = scramble(method_for(tiny_network_config(method=name)).conv(*channels, 3, stride))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels[0], 6, 4, generator=generator)
    group = torch.tensor([0, 4, 2])
    for kind, kernel in (("pointwise", 1), ("grouped", 3)):
        method = method_for(tiny_network_config(method=name, float_help=kind))
        inside = channels[0] // (groups if kind == "grouped" else 1)
        weight = torch.randn(channels[1], inside, kernel, kernel, generator=generator)
        block = method.conv(*channels, 3, stride)
        assert list(block.state_dict()) == [*plain.state_dict(), "help.weight"]
        block.load_state_dict(plain.state_dict() | {"help.weight": weight})
        beside = F.conv2d(x, weight, None, stride, kernel // 2, 1, channels[0] // inside)
        with torch.no_grad():
            torch.testing.assert_close(block(x, group), plain(x, group) + beside)


@pytest.mark.parametrize("kind", HELPS)
def test_only_binarized_3x3_convolutions_are_helped(kind: FloatHelp) -> None:
    inside = {"down.0.blocks.0", "down.1.blocks.0", "middle.0", "middle.1", "up.0.resample"}
    inside |= {"down.0.resample", "up.0.blocks.0", "up.0.blocks.1"}
    expected = {f"{name}.{conv}" for name in inside for conv in ("conv1", "conv2")}
    assert helped_names(tiny_network_config(float_help=kind)) == expected
    assert not helped_names(tiny_network_config(float_help=kind, method="full-precision"))
    assert not helped_names(tiny_network_config())


@pytest.mark.parametrize(("kind", "share"), [("pointwise", 9), ("grouped", 8)])
def test_help_costs_a_ninth_and_an_eighth_of_what_it_helps(kind: FloatHelp, share: int) -> None:
    plain, helped = (
        count(tiny_network_config(channels=16, float_help=each), 32, 16) for each in ("none", kind)
    )
    helping = total(layer for layer in plain if layer.kind == "binary conv 3x3")
    assert total(helped).macs - total(plain).macs == helping.binary_macs // share
    assert total(helped).binary_macs == total(plain).binary_macs
    assert total(helped).elements - total(plain).elements == helping.elements
    beside = {layer.kind for layer in helped if layer.name.endswith(".help")}
    assert beside == {"conv 1x1" if kind == "pointwise" else "conv 3x3"}


def test_it_is_written_only_where_there_is_some() -> None:
    assert "float_help" not in tiny_network_config().model_dump()
    for kind in HELPS:
        config = tiny_network_config(float_help=kind)
        assert BiDiffSRConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="'none', 'pointwise' or 'grouped'"):
        tiny_network_config(float_help="dense")


def test_every_weight_beside_learns() -> None:
    network = scramble(build_network(tiny_network_config(float_help="grouped"))).train()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network(x, x, torch.tensor([0, 30, 60, 99])).square().mean().backward()
    for name, parameter in network.named_parameters():
        if name.endswith(".help.weight"):
            assert parameter.grad is not None, name
            assert parameter.grad.count_nonzero() == parameter.numel(), name


@pytest.mark.parametrize("kind", HELPS)
def test_a_packed_model_is_pytorchs_and_the_engine_names_the_key(
    kind: FloatHelp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_network_config(float_help=kind)
    network = scramble(build_network(config)).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(config), packed=True)
    (comparison,) = compare_backends(network, path)
    assert comparison.difference < 1e-5
    assert isinstance(load_backend(path)[0], TorchBackend)
    engine = pytest.importorskip("bidiffsr.backends.engine")
    with pytest.raises(CheckpointError, match=f"network.float_help: '{kind}' is none"):
        engine.Engine(path)
    picture, result = tmp_path / "picture.png", tmp_path / "result.png"
    Image.new("RGB", (8, 8)).save(picture)
    command = ["upscale", str(picture), "-o", str(result), "-n", str(path)]
    assert main([*command, "--backend", "engine"]) != 0
    assert f"network.float_help: '{kind}'" in capsys.readouterr().err
    assert not result.exists()


def test_a_full_precision_network_is_a_beginning_and_a_narrower_one_is_not() -> None:
    config = tiny_network_config(float_help="pointwise")
    plain = tiny_network_config(float_help="pointwise", method="full-precision")
    source, target = (scramble(build_network(each)) for each in (plain, config))
    before: dict[str, torch.Tensor] = {}
    before |= {name: value.clone() for name, value in target.state_dict().items()}
    assert transfer(source, plain, target, config)
    theirs, ours = source.state_dict(), target.state_dict()
    block = "down.0.blocks.0.conv1"
    assert torch.equal(ours[f"{block}.conv.weight"], theirs[f"{block}.conv.weight"])
    assert torch.equal(ours[f"{block}.activation.bias_in"][3], theirs[f"{block}.conv.bias"])
    assert torch.equal(ours[f"{block}.help.weight"], before[f"{block}.help.weight"])
    wide = tiny_network_config(float_help="pointwise", channels=8, norm_groups=4)
    assert not transfer(target, config, build_network(wide), wide)
