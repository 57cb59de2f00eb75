"""The perceptual loss and backward simulation: published values, closed forms, what is left out."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from bidiffsr.config import TrainingConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.training.losses import Batch, PerceptualLoss, TargetLoss, WeightedSum
from bidiffsr.training.perceptual import VggDistance
from bidiffsr.training.trainer import Trainer, train
from training_runs import noised, save_noise, short_chain, short_run

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
ENDS = (1, 3, 6, 9, 12)  # the last convolution of each block


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Random weights that keep the features' size."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    channels = 3
    for index, width in enumerate(WIDTHS):
        weight = torch.randn(width, channels, 3, 3, generator=generator)
        found[f"conv{index}.weight"] = weight * math.sqrt(2 / (9 * channels))
        found[f"conv{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
        channels = width
    for number, end in enumerate(ENDS):
        found[f"lin{number}.weight"] = torch.rand(WIDTHS[end], generator=generator)
    return found


@pytest.fixture(scope="module")
def weights(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(tensors, path)
    return path


def pictures(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def by_hand(tensors: dict[str, Tensor], one: Tensor, other: Tensor, blocks: int) -> Tensor:
    """The formula, one picture at a time and in float64."""
    distances = []
    for pair in zip(one, other, strict=True):
        total = 0.0
        maps = [
            ((2 * picture.double() - 1) - torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
            / torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
            for picture in pair
        ]
        index = 0
        for number, end in enumerate(ENDS[:blocks]):
            if number:
                maps = [functional.max_pool2d(each, 2) for each in maps]
            while index <= end:
                weight = tensors[f"conv{index}.weight"].double()
                bias = tensors[f"conv{index}.bias"].double()
                maps = [functional.conv2d(each, weight, bias, padding=1).relu() for each in maps]
                index += 1
            a, b = (each / (each.square().sum(0).sqrt() + 1e-10) for each in maps)
            head = tensors[f"lin{number}.weight"].double()[:, None, None]
            total += float(((a - b).square() * head).sum(0).mean())
        distances.append(total)
    return torch.tensor(distances)


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_it_is_the_formula(blocks: int, weights: Path, tensors: dict[str, Tensor]) -> None:
    one = pictures()
    other = (one + 0.1 * pictures().flip(0)).clamp(0, 1)
    found = VggDistance(weights, blocks)(one, other)
    torch.testing.assert_close(found, by_hand(tensors, one, other, blocks), rtol=1e-4, atol=1e-6)


def test_it_has_the_published_values(shared: Path) -> None:
    distance = VggDistance(shared / "lpips" / "vgg16_fp16.safetensors")
    pairs = np.load(shared / "golden" / "metrics_and_resize.npz")
    for expected in json.loads((shared / "golden" / "lpips.json").read_text()):
        a, b = (
            torch.from_numpy(pairs[f"{expected['i']}.{name}"]).permute(2, 0, 1)[None] / 255
            for name in ("rgb", "distorted_rgb")
        )
        # The file's weights are rounded to 16 bits.
        assert float(distance(a, b)) == pytest.approx(expected["vgg"], abs=2e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_loops_say_the_same(weights: Path) -> None:
    found = []
    for compiled in (False, True):
        one = pictures(3).requires_grad_()
        distances = VggDistance(weights, 2, compiled=compiled)(one, pictures(3).flip(0))
        distances.sum().backward()
        found.append((distances.detach(), one.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_gradients_lead_to_the_picture(weights: Path) -> None:
    distance = VggDistance(weights, 2)
    truth = pictures()
    picture = pictures().flip(0).requires_grad_()
    before = distance(picture, truth).sum()
    before.backward()
    assert picture.grad is not None
    with torch.no_grad():
        step = 1e-3 * picture.grad / picture.grad.abs().max()
        assert distance(picture - step, truth).sum() < before
    assert all(not parameter.requires_grad for parameter in distance.parameters())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"conv3.weight": None}, r"conv3\.weight: missing"),
        ({"lin1.weight": torch.zeros(3)}, r"lin1\.weight: has .*expected floats of \[128\]"),
        ({"conv0.bias": torch.full((64,), math.nan)}, r"conv0\.bias: holds NaN"),
    ],
)
def test_other_weights_are_refused(
    change: dict[str, Tensor | None], complaint: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = tensors | change
    save_file({name: value for name, value in changed.items() if value is not None}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=complaint):
        VggDistance(tmp_path / "w")


DIFFUSION = short_chain("v")


def batch_at(timesteps: list[int]) -> Batch:
    high = pictures(len(timesteps))
    noise = torch.randn(high.shape, generator=torch.Generator().manual_seed(2))
    return noised(DIFFUSION, high, pictures(len(timesteps)).flip(2), noise, timesteps)


def test_a_right_prediction_costs_nothing_and_only_what_has_a_signal_counts() -> None:
    shown: list[tuple[Tensor, Tensor]] = []

    def distance(picture: Tensor, truth: Tensor) -> Tensor:
        shown.append((picture, truth))
        return (picture - truth).abs().mean(dim=(1, 2, 3))

    loss = PerceptualLoss(distance, nullcontext)
    batch = batch_at([3, 1, 3, 0])
    assert float(loss(batch.target, batch, DIFFUSION)) == pytest.approx(0, abs=1e-6)
    ((picture, truth),) = shown
    torch.testing.assert_close(picture, batch.pictures[[1, 3]], rtol=0, atol=1e-5)
    assert torch.equal(truth, batch.pictures[[1, 3]])
    wrong = batch.target + 1
    part = float(loss(wrong, batch, DIFFUSION))
    noise_levels = batch.noise_level[[1, 3], 0, 0, 0]
    # v is off by 1, so the clean variable by the noise level, in units of a tenth.
    assert part == pytest.approx(0.1 * float(noise_levels.sum()) / 4, rel=1e-4)
    shown.clear()
    start = batch_at([3, 3])
    assert float(loss(start.target + 1, start, DIFFUSION)) == 0
    assert not shown
    both = WeightedSum(((1.0, TargetLoss(functional.l1_loss)), (3.0, loss)))
    assert float(both(wrong, batch, DIFFUSION)) == pytest.approx(1 + 3 * part, rel=1e-4)


def configure(output: Path, folder: Path, **changes: Any) -> TrainingConfig:
    return short_run(output, folder, DIFFUSION, changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_noise(tmp_path_factory.mktemp("pictures"))


def test_backward_simulation_shows_the_network_what_sampling_does(
    tmp_path: Path, folder: Path
) -> None:
    trainer = Trainer(configure(tmp_path / "run", folder, backward_simulation=True))
    high, conditions = pictures(4), pictures(4).flip(2)
    noise = torch.randn(high.shape, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([3, 1, 2, 0])
    batch, (seen, *_) = trainer._noised(high, conditions, timesteps, noise)
    with torch.no_grad():
        start = trainer.network(noise, conditions, torch.full((4,), 3))
    for index, timestep in enumerate(timesteps.tolist()):
        clean = DIFFUSION.clean(start[index], noise[index], 3)
        signal, noise_level = DIFFUSION.schedule.levels(timestep)
        expected = signal * clean + noise_level * noise[index]
        torch.testing.assert_close(seen[index], expected, rtol=1e-4, atol=1e-4)
    # Whatever it is shown, what it is to say is the truth.
    clean = DIFFUSION.prediction.clean(batch.target, batch.noisy, batch.signal, batch.noise_level)
    truth = DIFFUSION.to_variable(high, conditions)
    torch.testing.assert_close(clean, truth, rtol=1e-4, atol=1e-3)


def test_a_run_with_both_trains_and_goes_on(tmp_path: Path, folder: Path, weights: Path) -> None:
    changes: dict[str, Any] = {
        "backward_simulation": True,
        "perceptual": {"weights": weights, "blocks": 1, "factor": 0.5},
        "log_every": 1,
    }
    losses = [
        step.loss for step in train(configure(tmp_path / "run", folder, **changes)) if step.loss
    ]
    assert len(losses) == 2
    plain = [step.loss for step in train(configure(tmp_path / "plain", folder)) if step.loss]
    assert losses[0] != plain[0]
    head = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert math.isfinite(head["loss"])
