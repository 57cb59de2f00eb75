"""What the training log says of the signs of binarized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bidiffsr.binary import METHODS, BinaryConv2d, method_for
from bidiffsr.config import TrainingConfig
from bidiffsr.nn.layout import network_parameters
from bidiffsr.training.signs import WeightSigns
from helpers import tiny_network_config
from training_runs import run, state_of

pytestmark = pytest.mark.usefixtures("one_thread")


def layer_of(method: str, weights: list[float]) -> BinaryConv2d:
    conv = method_for(tiny_network_config(method=method)).conv(1, 1, 3).conv
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(weights).reshape(1, 1, 3, 3))
    return conv


def step(layer: BinaryConv2d, change: list[float]) -> dict[str, float]:
    """What is said of an update by ``change``, after a backward pass."""
    assert layer.binarize_weight is not None
    signs = WeightSigns([(layer, layer.binarize_weight)])
    layer.binarize_weight(layer.weight).sum().backward()
    with torch.no_grad():
        layer.weight.add_(torch.tensor(change).reshape(1, 1, 3, 3))
    return signs.after_update()


def test_turned_and_dead_signs_by_hand() -> None:
    layer = layer_of("bnn", [0.5, -0.5, 0.0, 1.5, -1.5, 0.1, 0.2, 0.3, -0.4])
    # The second turns and the third does, 0 being +1; the gradient ends beyond 1.
    said = step(layer, [-0.4, 0.6, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert said == {"signs_flipped": 2 / 9, "signs_dead": 2 / 9}


def test_signs_are_those_of_the_method() -> None:
    """IR-Net's are of what is above the mean: all weights rise together and none turns."""
    weights = [0.5, -0.5, 0.1, 0.4, -0.3, 0.1, 0.2, 0.3, -0.4]
    assert step(layer_of("ir-net", weights), [1.0] * 9)["signs_flipped"] == 0
    assert step(layer_of("bnn", weights), [1.0] * 9)["signs_flipped"] == 3 / 9


@pytest.mark.parametrize("method", METHODS)
def test_the_log_tells_of_every_iteration_that_it_has(method: str, tmp_path: Path) -> None:
    """The share that turned, from the states before and after."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    network = tiny_network_config(method=method, dropout=0)
    values: dict[str, Any] = {
        "output": tmp_path / "run",
        "model": {"network": network, "diffusion": {"schedule": {"timesteps": 100}}},
        "data": {"folders": [tmp_path], "crop": 32},
        "optimizer": {"learning_rate": 0.03},
        "iterations": 4,
        "batch": 1,
        "log_every": 2,
        "accelerator": "cpu",
    }
    config = TrainingConfig.model_validate(values)
    run(config, stop_after=3)
    before = state_of(config.output)["network"]
    run(config)
    after = state_of(config.output)["network"]
    lines = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4]
    packings = {
        name: parameter.packing
        for name, parameter in network_parameters(network).items()
        if parameter.packing is not None
    }
    if not packings:
        assert all("signs_flipped" not in line for line in lines)
        return
    # The packing rules, in NumPy, know the bits too.
    bits = [
        np.concatenate(
            [rule.pack(state[name].numpy()).signs.ravel() for name, rule in packings.items()]
        )
        for state in (before, after)
    ]
    total = sum(before[name].numel() for name in packings)
    turned = np.unpackbits(bits[0] ^ bits[1]).sum() / total
    assert turned > 0
    assert lines[1]["signs_flipped"] == pytest.approx(turned, abs=1e-12)
    assert 0 <= lines[1]["signs_dead"] < 1
