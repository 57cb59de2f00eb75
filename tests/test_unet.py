"""The networks against the published code's numbers: outputs, parameters and operations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bidiffsr.binary import BinaryConv2d
from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.models.published import from_reference
from bidiffsr.nn import BiDiffSRUNet, SR3UNet, build_network
from bidiffsr.nn.blocks import SelfAttention, TimeEmbedding
from bidiffsr.nn.counting import LayerCount, count, total
from helpers import (
    GOLDEN_MODELS,
    golden_outputs,
    read_golden,
    relative_l2,
    scramble,
    tiny_network_config,
)

CASES = golden_outputs()


@pytest.fixture(scope="module")
def networks(golden: Path) -> dict[str, BiDiffSRUNet]:
    return {name: from_reference(golden / f"{name}.weights.safetensors") for name in GOLDEN_MODELS}


@pytest.fixture(scope="module")
def forwards(golden: Path) -> dict[str, dict[str, Tensor]]:
    return {name: read_golden(golden / f"{name}.forward.safetensors") for name in GOLDEN_MODELS}


def test_the_goldens_are_all_there() -> None:
    assert len(CASES) == 2 * 6 + 1 + 4 + 1


@pytest.mark.parametrize(("model", "key"), CASES)
def test_output_is_the_published_networks(
    model: str,
    key: str,
    networks: dict[str, BiDiffSRUNet],
    forwards: dict[str, dict[str, Tensor]],
) -> None:
    golden = forwards[model]
    case, _, timestep = key.partition(".out.t")
    x, cond = golden[f"{case}.x"], golden[f"{case}.cond"]
    timesteps = torch.full((len(x),), int(timestep))
    with torch.no_grad():
        found = networks[model](x, cond, timesteps)
    assert relative_l2(found, golden[key]) < 1e-4


@pytest.mark.parametrize("model", GOLDEN_MODELS)
def test_mixed_timesteps_equal_the_samples_one_by_one(
    model: str, networks: dict[str, BiDiffSRUNet], forwards: dict[str, dict[str, Tensor]]
) -> None:
    network, golden = networks[model], forwards[model]
    x, cond = golden["batch.x"], golden["batch.cond"]
    timesteps = torch.tensor([0, 1234, 555])
    assert len(set(network.group_of(timesteps).tolist())) == 3
    with torch.no_grad():
        together = network(x, cond, timesteps)
        for index in range(len(x)):
            one = slice(index, index + 1)
            alone = network(x[one], cond[one], timesteps[one])
            assert relative_l2(together[one], alone) < 1e-5
            other = network(x[one], cond[one], timesteps.flip(0)[one])
            if index != 1:
                assert relative_l2(together[one], other) > 1e-3  # t does matter


def test_sr3_takes_mixed_timesteps() -> None:
    config = SR3Config(channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4)
    network = scramble(SR3UNet(config)).eval()
    x, cond = torch.randn(3, 3, 16, 12), torch.rand(3, 3, 16, 12)
    noise_levels = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        together = network(x, cond, noise_levels)
        assert together.shape == x.shape
        for index in range(3):
            one = slice(index, index + 1)
            alone = network(x[one], cond[one], noise_levels[one])
            torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "timesteps"),
    [(1, 2000), (2, 2000), (5, 2000), (3, 1000), (5, 8), (8, 8), (7, 13), (5, 3), (1000, 1)],
)
def test_group_of_every_timestep(groups: int, timesteps: int) -> None:
    config = tiny_network_config(time_groups=groups, timesteps=timesteps)
    with torch.device("meta"):
        network = BiDiffSRUNet(config)
    asked = range(-3, 2 * timesteps + 3)
    expected = [min(max(t * groups // timesteps, 0), groups - 1) for t in asked]
    found = network.group_of(torch.tensor(asked))
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_published_group_edges() -> None:
    with torch.device("meta"):
        network = BiDiffSRUNet(BiDiffSRConfig())
    edges = torch.tensor([0, 399, 400, 799, 800, 1199, 1200, 1599, 1600, 1999, 2000, 10**6])
    assert network.group_of(edges).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


LOW: dict[str, Any] = {"patch": 2, "channels": 8, "norm_groups": 4, "blocks_per_level": 1}
LOW_SR3 = SR3Config(patch=3, channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4)
FORMS: list[BiDiffSRConfig | SR3Config] = [
    tiny_network_config(**LOW),
    tiny_network_config(
        **LOW | {"patch": 4, "multipliers": (1,), "fusion": "add", "full_precision_up_levels": 0}
    ),
    tiny_network_config(
        **LOW
        | {"patch": 3, "normalization": "affine", "middle_attention": False, "weight_gain": True}
    ),
    LOW_SR3,
]


@pytest.mark.parametrize("config", FORMS)
def test_a_patch_is_the_published_network_on_pictures_cut_by_hand(
    config: BiDiffSRConfig | SR3Config,
) -> None:
    network = scramble(build_network(config)).eval()
    published = build_network(config.model_copy(update={"patch": 1})).eval()
    for part in ("stem", "tail"):
        published.set_submodule(part, network.get_submodule(part))
    own = {name: value for name, value in network.state_dict().items() if "stem" not in name}
    published.load_state_dict(own, strict=False)
    patch, size = config.patch, config.size_multiple
    x, cond = torch.randn(2, 3, 2 * size, 3 * size), torch.rand(2, 3, 2 * size, 3 * size)
    timesteps = torch.tensor([3, 97])

    def cut(picture: Tensor) -> Tensor:
        rows = [
            picture[:, :, row::patch, column::patch] for row, column in np.ndindex(patch, patch)
        ]
        return torch.stack(rows, dim=2).flatten(1, 2)  # colour first, then the place in the patch

    with torch.no_grad():
        parts = published(cut(x), cut(cond), timesteps).unflatten(1, (3, patch**2))
        expected = torch.empty_like(x)
        for place, (row, column) in enumerate(np.ndindex(patch, patch)):
            expected[:, :, row::patch, column::patch] = parts[:, :, place]
        assert torch.equal(network(x, cond, timesteps), expected)


def test_a_stem_that_sees_means_sees_each_patchs_mean_alone() -> None:
    config = tiny_network_config(**LOW, stem_condition="mean")
    network = scramble(BiDiffSRUNet(config)).eval()
    assert network.get_parameter("stem.weight").shape[1] == config.stem_channels == 3 + 3 * 4
    x, cond, timestep = torch.randn(1, 3, 8, 12), torch.rand(1, 3, 8, 12), torch.tensor([7])
    means = cond.unflatten(3, (6, 2)).unflatten(2, (4, 2)).mean((3, 5))
    flat = means.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        assert relative_l2(network(x, cond, timestep), network(x, flat, timestep)) < 1e-6
        assert relative_l2(network(x, cond.flip(3), timestep), network(x, flat, timestep)) > 1e-3


def test_affine_normalization_looks_at_one_position_alone() -> None:
    """What lies beyond the convolutions' reach has no part in a pixel, unlike with group norm."""
    for normalization, depends in (("affine", False), ("group", True)):
        config = tiny_network_config(
            **LOW | {"multipliers": (1,), "normalization": normalization, "middle_attention": False}
        )
        network = scramble(BiDiffSRUNet(config)).eval()
        x, cond, timestep = torch.randn(1, 3, 64, 64), torch.rand(1, 3, 64, 64), torch.tensor([7])
        with torch.no_grad():
            before = network(x, cond, timestep)[..., :8, :8]
            cond[..., 48:, 48:] = 0
            after = network(x, cond, timestep)[..., :8, :8]
        assert (not torch.equal(before, after)) == depends


@pytest.mark.parametrize("config", [tiny_network_config(), SR3Config(channels=8, norm_groups=4)])
def test_build_network_builds_what_the_configuration_says(
    config: BiDiffSRConfig | SR3Config,
) -> None:
    with torch.device("meta"):
        network = build_network(config)
    assert isinstance(network, SR3UNet) == isinstance(config, SR3Config)
    assert network.config == config


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 12)])
def test_attention_is_the_softmax_written_out(size: tuple[int, int]) -> None:
    attention = SelfAttention(8, partial(nn.GroupNorm, 4))
    scramble(attention)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, *size, generator=generator)
    with torch.no_grad():
        found = attention(x).numpy()
        weight, bias = (attention.get_parameter(f"norm.{part}") for part in ("weight", "bias"))
        normed = F.group_norm(x, 4, weight, bias).double().numpy()
    project = attention.qkv.weight.detach().double().numpy()[:, :, 0, 0]
    out = attention.out.weight.detach().double().numpy()[:, :, 0, 0]
    bias = attention.out.bias.detach().double().numpy()  # type: ignore[union-attr]
    for sample, before, result in zip(normed, x.numpy(), found, strict=True):
        query, key, value = np.split(project @ sample.reshape(8, -1), 3)
        weight = np.exp(query.T @ key / np.sqrt(8))  # row: who asks, column: who is asked
        weight /= weight.sum(axis=1, keepdims=True)
        attended = out @ (value @ weight.T) + bias[:, None]
        np.testing.assert_allclose(result, before + attended.reshape(8, *size), atol=1e-5)


def test_time_embedding_is_the_formula() -> None:
    embedding = TimeEmbedding(8)
    scramble(embedding)
    timesteps = torch.tensor([0, 1, 37, 1999])
    angle = timesteps.numpy()[:, None] * np.exp(-np.log(1e4) * np.arange(4) / 4)
    encoding = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    expand, contract = embedding.expand, embedding.contract
    hidden = F.silu(F.linear(encoding, expand.weight, expand.bias))
    expected = F.linear(hidden, contract.weight, contract.bias)
    # Sines of large angles: float32 knows 1999 radians to about 1e-4.
    torch.testing.assert_close(embedding(timesteps), expected, rtol=1e-3, atol=1e-3)


def test_dropout_acts_in_training_only() -> None:
    network = scramble(BiDiffSRUNet(tiny_network_config(dropout=0.5)))
    arguments = (torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.tensor([50]))
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(*arguments), network(*arguments))
        network.train()
        assert not torch.equal(network(*arguments), network(*arguments))


# The paper's tables 1 to 3 and the sizes of its released networks.


def on_meta(config: BiDiffSRConfig | SR3Config) -> nn.Module:
    with torch.device("meta"):
        return build_network(config)


def counted(config: BiDiffSRConfig | SR3Config) -> LayerCount:
    return total(count(config, 256, 256))


def test_published_network_has_the_published_parameters() -> None:
    network = on_meta(BiDiffSRConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 51_280_387
    convs = [
        module
        for module in network.modules()
        if isinstance(module, BinaryConv2d) and module.is_binary
    ]
    assert len(convs) == 56
    assert sum(conv.weight.numel() for conv in convs) == 48_211_968


def test_counting_agrees_with_the_paper() -> None:
    layers = count(BiDiffSRConfig(), 256, 256)
    whole = total(layers)
    assert whole.parameters == 51_280_387
    assert whole.binary_parameters == 48_211_968
    assert sum(layer.binary_parameters > 0 for layer in layers) == 56
    assert len({layer.name for layer in layers}) == len(layers)
    assert round(whole.params / 1e6, 4) == 4.5750
    assert round(whole.ops / 1e9, 3) == 36.669
    assert round(whole.binary_macs / 1e9, 2) == 98.65


@pytest.mark.parametrize(("groups", "params"), [(1, 4.2975), (2, 4.3669), (5, 4.5750)])
def test_counting_of_fewer_time_groups(groups: int, params: float) -> None:
    assert round(counted(BiDiffSRConfig(time_groups=groups)).params / 1e6, 4) == params


def test_counting_of_sr3() -> None:
    whole = counted(SR3Config())
    assert whole.parameters == 55_407_235
    assert whole.binary_parameters == 0
    assert round(whole.ops / 1e9, 3) == 176.408


def test_most_operations_are_in_the_full_precision_levels() -> None:
    layers = count(BiDiffSRConfig(), 256, 256)
    inside = [layer for layer in layers if layer.name.startswith(("up.2.", "up.3."))]
    shallow = total(layer for layer in inside if layer.kind.startswith("conv"))
    assert round(shallow.ops / 1e9, 1) == 32.2
