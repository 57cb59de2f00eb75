"""Networks that begin as others: widened ones, and ones of another method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bidiffsr.binary.methods import METHODS, method_for
from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.nn import build_network
from bidiffsr.training import transfer as transfer_module
from bidiffsr.training.transfer import transfer
from helpers import relative_l2, scramble

NARROW = {"channels": 16, "norm_groups": 8, "timesteps": 6, "time_groups": 3, "dropout": 0.0}


def network(**changes: Any) -> tuple[nn.Module, BiDiffSRConfig]:
    """A scrambled network, in float64 so that no sign hangs on rounding."""
    config = BiDiffSRConfig.model_validate(NARROW | changes)
    return scramble(build_network(config)).double().eval(), config


def answers(*networks: nn.Module) -> list[Tensor]:
    """What each says of the same pictures of mixed timesteps."""
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(2, 3, 3, 32, 48, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return [one(pictures[0], pictures[1], torch.tensor([0, 3, 5])) for one in networks]


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "_NOISE", 0.0)


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("factor", [2, 3])
def test_a_widened_network_says_the_same(factor: int) -> None:
    # Full precision on the way up, where CS-Fusion of binary convs allows no exact widening.
    narrow, config = network(full_precision_up_levels=4)
    wide, wide_config = network(
        channels=16 * factor, norm_groups=8 * factor, full_precision_up_levels=4
    )
    assert transfer(narrow, config, wide, wide_config)
    expected, found = answers(narrow, wide)
    assert relative_l2(found, expected) < 1e-9


@pytest.mark.usefixtures("no_noise")
def test_a_widened_network_is_the_same_down_to_the_middle_and_near_behind() -> None:
    narrow, config = network()
    wide, wide_config = network(channels=32, norm_groups=16)
    untouched = answers(wide)[0]
    assert transfer(narrow, config, wide, wide_config)
    middles: list[Tensor] = []
    for one in (narrow, wide):
        one.middle[-1].register_forward_hook(lambda *call: middles.append(call[-1]))  # type: ignore[union-attr]
    expected, found = answers(narrow, wide)
    deepest = torch.arange(128).repeat(2)  # blocks of all narrow channels, one after another
    assert relative_l2(middles[1], middles[0][:, deepest]) < 1e-9
    assert relative_l2(found, expected) < 0.5 * relative_l2(untouched, expected)


def test_copies_do_not_stay_copies() -> None:
    narrow, config = network()
    wide, wide_config = network(channels=32, norm_groups=16)
    assert transfer(narrow, config, wide, wide_config)
    for name, weight in wide.named_parameters():
        if weight.dim() == 4 and weight.shape[1] > 6:
            rows = weight.flatten(1)
            assert len(torch.unique(rows, dim=0)) == len(rows), name


def test_a_binary_network_starts_from_a_full_precision_one() -> None:
    real, real_config = network(method="full-precision")
    binary, config = network()
    assert transfer(real, real_config, binary, config)
    theirs, ours = real.state_dict(), binary.state_dict()
    name = "down.0.blocks.0.conv1"
    assert torch.equal(ours[f"{name}.conv.weight"], theirs[f"{name}.conv.weight"])
    for bias in ours[f"{name}.activation.bias_in"]:  # of every time group
        assert torch.equal(bias, theirs[f"{name}.conv.bias"])
    assert torch.equal(
        ours["up.3.blocks.0.conv1.conv.bias"], theirs["up.3.blocks.0.conv1.conv.bias"]
    )
    assert torch.equal(ours["tail.weight"], theirs["tail.weight"])


@pytest.mark.parametrize(
    "other",
    [
        {"channels": 24, "norm_groups": 4},
        {"channels": 8, "norm_groups": 4},
        {"multipliers": (1, 2, 4)},
        {"channels": 32, "time_groups": 2},
        {"channels": 32, "fusion": "split"},
    ],
)
def test_networks_too_different_are_left_alone(other: dict[str, Any]) -> None:
    source, config = network()
    target, target_config = network(**other)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    assert not transfer(source, config, target, target_config)
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])


def test_channels_that_cannot_be_halved_at_every_level_are_not_widened() -> None:
    source, config = network(channels=12, norm_groups=4)
    target, target_config = network(channels=24, norm_groups=4)
    assert not transfer(source, config, target, target_config)


def test_sr3_starts_from_sr3_only() -> None:
    config = SR3Config(channels=16, norm_groups=4)
    source, target = build_network(config), build_network(config)
    assert transfer(source, config, target, config)
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))
    other, other_config = network()
    assert not transfer(source, config, other, other_config)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_network_is_widened_only_where_its_scale_follows_its_weights(method: str) -> None:
    source, narrow = network(method=method)
    target, wide = network(method=method, channels=32, norm_groups=16)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    rule = method_for(narrow).parameters(3, 2, 3)["conv.weight"].packing
    follows = rule is None or np.allclose(
        rule.pack(np.float32(0.5) * weight).scale, rule.pack(weight).scale / 2
    )
    # BBCU's scale follows its weights and shrinks with the channels it reads besides.
    assert transfer(source, narrow, target, wide) is (follows and method != "bbcu")
    if not follows:
        after = target.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
