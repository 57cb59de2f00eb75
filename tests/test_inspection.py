"""Statistics of what happens inside a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from bidiffsr.binary import METHODS, BinaryConv2d
from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign
from bidiffsr.cli import main
from bidiffsr.config import BiDiffSRConfig, ModelConfig, SR3Config
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import read_pair
from bidiffsr.images.resize import imresize
from bidiffsr.inspection.layers import (
    BINS,
    GroupStatistics,
    LayerStatistics,
    NetworkStatistics,
    Spread,
)
from bidiffsr.inspection.statistics import Inspection, _Seen
from bidiffsr.inspection.statistics_figures import statistics_figure
from bidiffsr.models.trained import parameters_of, save_model
from bidiffsr.nn import BiDiffSRUNet, build_network
from bidiffsr.nn.layout import network_parameters
from helpers import scramble, tiny_network_config

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.float64]
BINARY = [name for name in METHODS if name != "full-precision"]


def model_of(**changes: Any) -> tuple[nn.Module, ModelConfig]:
    network = tiny_network_config(**changes)
    values: Any = {"network": network, "diffusion": {"schedule": {"timesteps": 100}}}
    torch.manual_seed(0)
    return scramble(build_network(network)), ModelConfig.model_validate(values)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(2)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (30, 41, 3), dtype=np.uint8)).save(path)
    return paths


class Recorder:
    """What the network is given and what reaches its activations' binarizers, call by call."""

    def __init__(self, network: nn.Module) -> None:
        self.inputs: list[tuple[Array, Array, int]] = []
        self.layers: dict[str, list[tuple[int, Array, Array]]] = {}
        network.register_forward_pre_hook(self._begin)
        for name, module in network.named_modules():
            if name.endswith("conv.binarize_activation"):
                block = name.removesuffix(".conv.binarize_activation")
                self.layers[block] = []
                module.register_forward_hook(
                    lambda _, inputs, output, block=block: self.layers[block].append(
                        (self.inputs[-1][2], inputs[0].double().numpy(), output.double().numpy())
                    )
                )

    def _begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        x_t, cond, t = inputs
        self.inputs.append((x_t[0].double().numpy(), cond[0].double().numpy(), int(t)))


def inspected(
    network: nn.Module, config: ModelConfig, pictures: list[Path], side: int = 24
) -> NetworkStatistics:
    inspection = Inspection(network, config, side)
    for path in pictures:
        inspection.add(read_pair(path, config.scale))
    return inspection.result()


@pytest.mark.parametrize("method", BINARY)
def test_statistics_are_those_of_what_the_layers_see(method: str, pictures: list[Path]) -> None:
    network, config = model_of(method=method)
    recorder = Recorder(network)
    found = inspected(network, config, pictures)
    # 100 timesteps in 5 groups of 20.
    assert found.timesteps == (10, 30, 50, 70, 90)
    assert [layer.name for layer in found.layers] == list(recorder.layers)
    for layer in found.layers:
        assert len(layer.groups) == 5
        for timestep, group in zip(found.timesteps, layer.groups, strict=True):
            calls = [call for call in recorder.layers[layer.name] if call[0] == timestep]
            values = np.concatenate([inputs for _, inputs, _ in calls])
            active = np.concatenate([outputs for _, _, outputs in calls])
            channels = np.moveaxis(active, 1, 0).reshape(active.shape[1], -1)
            seen = group.activations
            assert seen is not None
            assert seen.mean == pytest.approx(values.mean(), abs=1e-9)
            assert seen.deviation == pytest.approx(values.std(), abs=1e-6)
            assert seen.positive == pytest.approx((active > 0).mean(), abs=1e-12)
            assert seen.dead == np.mean([len(np.unique(channel)) == 1 for channel in channels])
            assert seen.reach >= np.abs(values).max()
            assert seen.reach == 4 or seen.reach < 2 * np.abs(values).max()
            counts, _ = np.histogram(values, BINS, (-seen.reach, seen.reach))
            # The recorder sees every binarization, that of the statistics too.
            assert 2 * sum(seen.histogram) == values.size
            assert np.abs(np.array(seen.histogram) * 2 - counts).max() <= 2


def test_values_that_are_not_finite_stand_in_no_distribution() -> None:
    """Of a network that diverges while it is trained, too, something can be told."""
    conv = BinaryConv2d(1, 1, 3, activation=ActivationSign(), weight=ScaledWeightSign())
    seen = _Seen()
    seen.add(conv, (torch.tensor([[[[1.0, -9.0, np.inf, -np.inf, np.nan]]]]),))
    assert (int(seen.histogram.sum()), seen.reach) == (2, 16)
    seen.add(conv, (torch.full((1, 1, 2, 2), np.inf),))
    assert (int(seen.histogram.sum()), seen.reach) == (2, 16)
    assert seen.result() is not None


def test_a_distribution_is_drawn_as_far_as_it_reaches() -> None:
    """Wide and narrow values, in either order; the axis leaves out two thousandths at each end."""
    random = np.random.default_rng(0)
    batches = [random.normal(1, scale, (2, 3, 50, 50)).astype(np.float32) for scale in (1, 12)]
    conv = BinaryConv2d(3, 3, 3, activation=ActivationSign(), weight=ScaledWeightSign())
    for order in (batches, batches[::-1]):
        seen = _Seen()
        for batch in order:
            seen.add(conv, (torch.from_numpy(batch),))
        values = np.concatenate([batch.ravel() for batch in batches])
        counts, _ = np.histogram(values, BINS, (-seen.reach, seen.reach))
        assert np.abs(seen.histogram.numpy() - counts).sum() <= 4  # at the edges of bins
        spread = Spread(1.0, 0.0, 1.0, 1.0)
        group = GroupStatistics(None, None, seen.result())
        layer = LayerStatistics("conv", 0.5, spread, (group,))
        figure = statistics_figure(NetworkStatistics(2, (0,), (layer,)))
        (axis,) = [each for each in figure.axes if "before the signs" in each.get_title()]
        left, right = axis.get_xlim()
        assert 0.001 <= np.mean(values < left) <= 0.003
        assert 0.001 <= np.mean(values > right) <= 0.003


def test_pictures_are_centred_and_noised_as_in_training(pictures: list[Path]) -> None:
    network, config = model_of()
    recorder = Recorder(network)
    inspected(network, config, pictures, side=24)
    betas = np.linspace(1e-6, 1e-2, 100)
    noises = []
    for number, (x_t, cond, timestep) in enumerate(recorder.inputs):
        whole = np.asarray(Image.open(pictures[number // 5]))[:28, :40]
        low = imresize(whole, 1 / 4)
        (top, left) = ((7 - 6) // 2 * 4, (10 - 6) // 2 * 4)
        clean = whole[top : top + 24, left : left + 24].transpose(2, 0, 1) / 255
        product = np.prod(1 - betas[: timestep + 1])
        noises.append((x_t - np.sqrt(product) * clean) / np.sqrt(1 - product))
        # Bicubic enlargement keeps the mean of the low-resolution picture, but for the borders.
        shown = low[top // 4 :, left // 4 :][:6, :6].mean() / 255
        assert cond.shape == clean.shape
        assert cond.mean() == pytest.approx(shown, abs=0.05)
    # One noise for all timesteps of a picture, another for the next.
    for same in (noises[:5], noises[5:]):
        for noise in same[1:]:
            np.testing.assert_allclose(noise, same[0], atol=2e-3)
    assert np.abs(noises[0] - noises[5]).mean() > 0.5
    assert np.concatenate(noises).std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", BINARY)
def test_weights_and_learned_parameters_are_the_networks_own(method: str) -> None:
    network, config = model_of(method=method)
    assert isinstance(config.network, BiDiffSRConfig)
    found = inspected(network, config, [])
    tensors = parameters_of(network)
    layout = network_parameters(config.network)
    for layer in found.layers:
        weight = tensors[f"{layer.name}.conv.weight"]
        packing = layout[f"{layer.name}.conv.weight"].packing
        assert packing is not None
        packed = packing.pack(weight)
        bits = np.unpackbits(packed.signs, axis=1, count=weight[0].size)
        assert layer.positive == pytest.approx(bits.mean(), abs=1e-12)
        assert layer.scales.mean == pytest.approx(packed.scale.mean(), rel=1e-5)
        assert layer.scales.greatest == pytest.approx(packed.scale.max(), rel=1e-5)
        for index, group in enumerate(layer.groups):
            assert group.activations is None
            for spread, name in ((group.shifts, "shift.bias"), (group.slopes, "activation.slope")):
                sets = tensors.get(f"{layer.name}.{name}")
                if sets is None:
                    assert spread is None
                    continue
                values = sets[index if len(sets) > 1 else 0].astype(np.float64)
                assert spread is not None
                assert spread.mean == pytest.approx(values.mean())
                assert spread.deviation == pytest.approx(values.std())
                assert (spread.least, spread.greatest) == (values.min(), values.max())


def test_a_network_does_not_change(pictures: list[Path]) -> None:
    """Nothing that watched it stays, and what is gathered is the same a second time."""
    network, config = model_of()
    first = inspected(network, config, pictures)
    assert inspected(network, config, pictures) == first
    assert isinstance(network, BiDiffSRUNet)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_command_prints_writes_and_draws(
    tmp_path: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network, config = model_of(method="reactnet")
    save_model(Path("m.safetensors"), network, config)
    options = ["--statistics", "--size", "24", "--limit", "1", "--json", "s.json"]
    assert main(["inspect", "m.safetensors", "pictures", *options, "--plot", "s.png"]) == 0
    lines = capsys.readouterr().out
    expected = inspected(network, config, pictures[:1])
    assert sum(layer.name in lines for layer in expected.layers) == len(expected.layers)
    written = json.loads(Path("s.json").read_text())
    assert written == json.loads(json.dumps(expected.as_dict()))
    with Image.open("s.png") as drawn:
        assert drawn.format == "PNG"
        assert np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0).shape[0] > 100
    # A damaged picture is named, and the others are looked at.
    (tmp_path / "pictures" / "0.png").write_bytes(b"none")
    assert main(["inspect", "m.safetensors", "pictures", *options[:3], "--json", "t.json"]) == 1
    assert "pictures/0.png" in capsys.readouterr().err
    assert json.loads(Path("t.json").read_text())["pictures"] == 1
    # Without pictures there is less to show.
    assert main(["inspect", "m.safetensors", "--statistics", "--plot", "s.svg"]) == 0
    assert Path("s.svg").read_text().startswith("<?xml")


def test_what_cannot_be_shown_is_said_in_one_line(
    tmp_path: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network, config = model_of(multipliers=(1, 2, 4, 8))  # which takes multiples of 8
    save_model(Path("m.safetensors"), network, config)
    cases = {
        "m.safetensors pictures": "--folder: goes with --statistics",
        "m.safetensors --plot a.png": "--plot: goes with --statistics",
        "m.safetensors --limit 2": "--limit: goes with --statistics",
        "bidiffsr --statistics": "bidiffsr: has no weights",
        "m.safetensors pictures --statistics --size 3": "size: 3 is too small",
        "m.safetensors small --statistics": "tiny.png: 40x4 is too small",
        "m.safetensors nowhere --statistics": "nowhere: no such folder",
        "m.safetensors --statistics --json nowhere/a.json": "nowhere/a.json: cannot be written",
        "m.safetensors --statistics --plot a.gnp": "a.gnp: expected a name that ends in .png",
    }
    Path("small").mkdir()
    Image.fromarray(np.zeros((5, 41, 3), np.uint8)).save("small/tiny.png")
    for arguments, complaint in cases.items():
        assert main(["inspect", *arguments.split()]) in {1, 2}, arguments
        error = capsys.readouterr().err
        assert complaint in error, arguments
        assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["inspect", "m.safetensors", "--statistics", "--plot", "a.png"]) == 1
    assert "pip install 'bidiffsr[plot]'" in capsys.readouterr().err
    assert not Path("a.png").exists()


@pytest.mark.parametrize(
    "network",
    [tiny_network_config(method="full-precision"), SR3Config(channels=4, norm_groups=2)],
    ids=["full-precision", "sr3"],
)
def test_networks_without_bits_are_refused(network: BiDiffSRConfig | SR3Config) -> None:
    config = ModelConfig.model_validate(
        {"network": network, "diffusion": {"schedule": {"timesteps": 100}}}
    )
    with pytest.raises(ConfigError, match="no binarized convolutions"):
        Inspection(build_network(network), config, 32)
