"""Scores while training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bidiffsr.binary import ConvBlock
from bidiffsr.config import ModelConfig, ValidationConfig
from bidiffsr.evaluation import bicubic, evaluate
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.images.resize import imresize
from bidiffsr.nn import build_network
from bidiffsr.training.log import TrainingLog
from bidiffsr.training.validation import Validation
from tiny_model import tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("side", "metrics"),
    [
        (24, {"psnr", "ssim"}),
        (48, {"psnr", "ssim", "lpips"}),
        (104, {"psnr", "ssim", "niqe", "lpips"}),
    ],
)
def test_every_metric_that_is_defined_has_its_name_in_the_log(
    side: int, metrics: set[str], tmp_path: Path
) -> None:
    (tmp_path / "kodak24").mkdir()
    low = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    write_image(tmp_path / "kodak24" / "a.png", Image(imresize(low, 4)))
    config = ValidationConfig(folders=(tmp_path / "kodak24",))
    network = tiny_network()  # whose results are bicubic
    scores = Validation(config, tiny_config(), tmp_path / "run").run(network, 7)
    assert scores.keys() == {f"kodak24/{metric}" for metric in metrics}
    [expected] = evaluate(tmp_path / "kodak24", bicubic, 4)
    for metric in metrics:
        assert scores[f"kodak24/{metric}"] == pytest.approx(expected[metric], rel=0.1)
    grid = read_image(tmp_path / "run" / "samples" / "kodak24-0000007.png")
    assert grid.pixels.shape[2] == 3


@pytest.mark.parametrize("plots", [True, False])
def test_the_log_tells_what_happens_inside(
    plots: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of the network's own layers, whose mode does not change."""
    if not plots:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "a.png", Image(pixels))
    network = tiny_network().train()
    seen: list[torch.Tensor] = []
    for module in network.modules():
        if isinstance(module, ConvBlock) and module.conv.is_binary:
            module.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    config = ValidationConfig(folders=(tmp_path / "set",))
    inside = Validation(config, tiny_config(), tmp_path / "run").inspect(network)
    assert network.training
    assert inside is not None
    groups = len(inside.timesteps)
    with TrainingLog(tmp_path / "run", 0) as log:
        log.write_validation(3, {"set/psnr": 30.0}, inside)
        log.write_validation(4, {"set/psnr": 31.0}, None)
    first, last = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert last == {"iteration": 4, "set/psnr": 31.0}
    names = ("mean", "deviation", "positive", "dead")
    assert first.keys() == {"iteration", "set/psnr"} | {
        f"group{group}/{name}" for group in range(groups) for name in names
    }
    layers = len(seen) // groups
    for group in range(groups):
        own = seen[group * layers :][:layers]
        assert first[f"group{group}/mean"] == pytest.approx(np.mean([x.mean() for x in own]))
        deviations = [x.std(correction=0) for x in own]
        assert first[f"group{group}/deviation"] == pytest.approx(np.mean(deviations))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert (b"PNG" in events.read_bytes()) is plots


def test_a_network_without_bits_has_nothing_to_tell_of_them(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "a.png", Image(np.zeros((48, 48, 3), np.uint8)))
    config = ValidationConfig(folders=(tmp_path / "set",))
    values = tiny_config().model_dump()
    values["network"]["method"] = "full-precision"
    model = ModelConfig.model_validate(values)
    network = build_network(model.network)
    assert Validation(config, model, tmp_path / "run").inspect(network) is None
    assert network.training
