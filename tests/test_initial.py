"""What training begins with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bidiffsr.config import BiDiffSRConfig, ModelConfig, SR3Config
from bidiffsr.nn import build_network
from bidiffsr.training.initial import begin
from helpers import tiny_network_config

RESIDUAL = {
    "schedule": {"kind": "angular", "timesteps": 100},
    "prediction": "sample",
    "variable": "residual",
    "residual_scale": 0.05,
}


def model(network: BiDiffSRConfig | SR3Config, diffusion: Any = RESIDUAL) -> ModelConfig:
    return ModelConfig.model_validate({"network": network, "diffusion": diffusion})


@pytest.mark.parametrize(
    "network",
    [
        tiny_network_config(),
        tiny_network_config(patch=4),
        tiny_network_config(patch=2, stem_condition="mean"),
        SR3Config(channels=8, norm_groups=4),
    ],
)
def test_the_stem_sees_differences_of_the_condition_and_the_tail_says_nothing(
    network: BiDiffSRConfig | SR3Config,
) -> None:
    torch.manual_seed(0)
    made = build_network(network).eval()
    noisy = made.get_parameter("stem.weight")[:, -3:].clone()
    begin(made, model(network))
    assert torch.equal(made.get_parameter("stem.weight")[:, -3:], noisy)
    seen: list[torch.Tensor] = []
    made.get_submodule("stem").register_forward_hook(lambda *call: seen.append(call[-1]))
    x, t = torch.zeros(1, 3, 32, 32), torch.tensor([99])
    for cond in (torch.full((1, 3, 32, 32), 0.7), torch.zeros(1, 3, 32, 32)):
        with torch.no_grad():
            assert not made(x, cond, t).any()
    flat, dark = (one[:, :, 1:-1, 1:-1] for one in seen)
    torch.testing.assert_close(flat, dark, rtol=0, atol=1e-4)
    with torch.no_grad():
        made(x, 0.5 + 0.05 * torch.randn(1, 3, 32, 32), t)
    bound = (
        1.5 if not isinstance(network, BiDiffSRConfig) or network.stem_condition == "pixels" else 1
    )
    assert 0.2 < seen[2][:, :, 1:-1, 1:-1].std() < bound


def test_a_network_that_learns_no_residual_is_left_alone() -> None:
    config = tiny_network_config(timesteps=2000)
    made = build_network(config)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    begin(made, model(config, {}))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
