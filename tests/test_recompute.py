"""Activation checkpointing: the same training in less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bidiffsr.config import BiDiffSRConfig, SR3Config, TrainingConfig
from bidiffsr.nn import build_network
from bidiffsr.training.recompute import recompute_blocks
from helpers import tiny_network_config
from training_runs import run, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "bi-diffsr": tiny_network_config(dropout=0.2),
    "sr3": SR3Config(channels=4, norm_groups=2, multipliers=(1, 2), dropout=0.2),
}


def kept_for_backward(network: nn.Module) -> int:
    """How many different bytes of results the forward pass keeps."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    x, cond = torch.rand(2, 2, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = network(x, cond, torch.tensor([3, 70]))
    own = {each.untyped_storage().data_ptr() for each in network.parameters()}
    assert result.requires_grad
    return sum(size for address, size in kept.items() if address not in own)


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_kept(name: str) -> None:
    network = build_network(NETWORKS[name]).train()
    before = kept_for_backward(network)
    recompute_blocks(network)
    assert kept_for_backward(network) < 0.6 * before


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_the_same(name: str, tmp_path: Path) -> None:
    """With dropout and accumulation, and where a run goes on without."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    network: BiDiffSRConfig | SR3Config = NETWORKS[name]
    values: dict[str, Any] = {
        "model": {"network": network, "diffusion": {"schedule": {"timesteps": 100}}},
        "data": {"folders": [tmp_path], "crop": 32},
        "iterations": 3,
        "batch": 2,
        "accumulate": 2,
        "accelerator": "cpu",
    }
    configs = {
        recompute: TrainingConfig.model_validate(
            values | {"output": tmp_path / str(recompute), "recompute": recompute}
        )
        for recompute in (False, True)
    }
    run(configs[False])
    run(configs[True])
    plain, other = (state_of(config.output) for config in configs.values())
    for part in ("network", "average"):
        for key, value in plain[part].items():
            assert torch.equal(value, other[part][key]), key
    mixed = configs[True].model_copy(update={"output": tmp_path / "mixed"})
    run(mixed, stop_after=1)
    run(mixed.model_copy(update={"recompute": False}))
    for key, value in plain["network"].items():
        assert torch.equal(value, state_of(mixed.output)["network"][key]), key
