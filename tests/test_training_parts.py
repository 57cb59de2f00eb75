"""The parts of training by themselves: losses, timesteps, fingerprints and checkpoints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bidiffsr.config import DataConfig, DiffusionConfig, TrainingConfig, parse_config
from bidiffsr.config.overrides import with_overrides
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import ConfigError
from bidiffsr.training.checkpoint import fingerprint
from bidiffsr.training.losses import LOSSES, Batch, Loss
from bidiffsr.training.state import loads
from bidiffsr.training.timesteps import timestep_sampler
from helpers import GOLDEN
from training_runs import run, state_of

STATE = GOLDEN / "training_state.pt.gz"

# Losses.


def batch_of(diffusion: Diffusion) -> Batch:
    """Three samples at the levels that the schedule has."""
    generator = torch.Generator().manual_seed(0)
    pictures, conditions, noise = torch.rand(3, 3, 3, 4, 4, generator=generator)
    schedule = diffusion.schedule
    signal, noise_level = (
        torch.tensor(levels[:3], dtype=torch.float32)[:, None, None, None]
        for levels in (schedule.signal, schedule.noise)
    )
    clean = diffusion.to_variable(pictures, conditions)
    target = diffusion.prediction.target(clean, noise, signal, noise_level)
    noisy = signal * clean + noise_level * noise
    return Batch(pictures, conditions, noisy, signal, noise_level, target)


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_a_loss_of_the_target_is_a_mean_over_all_values(name: str, power: int) -> None:
    diffusion = Diffusion(DiffusionConfig())
    batch = batch_of(diffusion)
    prediction = batch.target + torch.linspace(-1, 2, batch.target.numel()).view_as(batch.target)
    found = LOSSES[name](prediction, batch, diffusion)
    difference = np.linspace(-1, 2, batch.target.numel())
    assert float(found) == pytest.approx(np.mean(np.abs(difference) ** power), rel=1e-5)


class PictureLoss(Loss):
    """A loss of the clean picture that a prediction stands for, as perceptual ones are."""

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        clean = diffusion.prediction.clean(prediction, batch.noisy, batch.signal, batch.noise_level)
        picture = diffusion.to_picture(clean, batch.conditions)
        return (picture - batch.pictures).square().mean()


@pytest.mark.parametrize("variable", ["image", "residual"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_loss_can_judge_the_picture_that_is_predicted(prediction: str, variable: str) -> None:
    config = {"prediction": prediction, "variable": variable}
    diffusion = Diffusion(DiffusionConfig.model_validate(config))
    batch = batch_of(diffusion)
    loss: Loss = PictureLoss()
    said = batch.target.clone().requires_grad_()
    assert float(loss(said, batch, diffusion).detach()) < 1e-4
    far = loss(said + 1, batch, diffusion)
    far.backward()
    assert said.grad is not None
    assert said.grad.abs().sum() > 0


# Timesteps.


def sampled(timesteps: int, **changes: Any) -> Tensor:
    values = configured(Path("run")).model_dump() | changes
    values["model"]["network"]["timesteps"] = timesteps
    values["model"]["diffusion"]["schedule"]["timesteps"] = timesteps
    values["model"]["sampling"]["steps"] = 1
    torch.manual_seed(0)
    return timestep_sampler(TrainingConfig.model_validate(values))(20_000)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(None, [0.25] * 4), (0.0, [1 / 3] * 3 + [0]), (0.7, [0.1] * 3 + [0.7]), (1.0, [0, 0, 0, 1])],
)
def test_timesteps_have_the_frequencies_that_are_asked_for(
    probability: float | None, expected: list[float]
) -> None:
    found = sampled(4, noisiest_probability=probability)
    assert found.dtype == torch.int64
    frequencies = torch.bincount(found, minlength=4).double() / len(found)
    assert frequencies.tolist() == pytest.approx(expected, abs=0.015)


def test_timesteps_are_drawn_in_proportion_to_their_weights() -> None:
    found = sampled(4, timestep_weights=[1, 0, 4, 3])
    assert found.dtype == torch.int64
    frequencies = torch.bincount(found, minlength=4).double() / len(found)
    assert frequencies.tolist() == pytest.approx([0.125, 0, 0.5, 0.375], abs=0.015)
    for wrong in ([1, 1, 1], [0, 0, 0, 0], [1, -1, 1, 1]):
        with pytest.raises(ValueError, match="timestep_weights"):
            sampled(4, timestep_weights=wrong)


@pytest.mark.parametrize("probability", [None, 0.0, 0.5])
def test_of_one_timestep_there_is_no_choice(probability: float | None) -> None:
    assert not sampled(1, noisiest_probability=probability).any()


# Fingerprints and checkpoints.


def configured(output: Path, **changes: Any) -> TrainingConfig:
    """The run of `STATE`, by the names that its keys have now."""
    values = json.loads(stored()["config"])
    return TrainingConfig.model_validate(
        values | {"output": output, "accelerator": "cpu"} | changes
    )


def stored() -> dict[str, Any]:
    """A state that was written before these tests, after 2 of 4 iterations."""
    return loads(gzip.decompress(STATE.read_bytes()))


def test_a_stored_state_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("pictures/0.png")
    whole = run(configured(Path("whole")))
    expected = state_of(Path("whole"))
    Path("run").mkdir()
    Path("run", "state.pt").write_bytes(gzip.decompress(STATE.read_bytes()))
    assert [step.iteration for step in run(configured(Path("run")))] == [3, 4]
    assert [step.iteration for step in whole] == [1, 2, 3, 4]
    found = state_of(Path("run"))["network"]
    apart = torch.cat([(found[name] - expected["network"][name]).flatten() for name in found]).abs()
    # Another CPU rounds otherwise, and Adam makes a whole step of any gradient next to zero.
    rate = configured(Path("run")).optimizer.learning_rate
    assert apart.max() < 8 * rate
    assert apart.mean() < rate / 5


def test_the_fingerprint_is_what_it_was() -> None:
    assert fingerprint(configured(Path("anywhere"))) == stored()["config"]


RENAMED = {
    "start_probability": ("noisiest_probability", 0.5),
    "teacher_share": ("distillation_weight", 0.25),
    "real_weights_until": ("binarize_weights_from", 3),
}


@pytest.mark.parametrize("before", RENAMED)
def test_keys_are_read_by_the_names_that_they_had(before: str) -> None:
    name, value = RENAMED[before]
    minimal = {"output": "run", "data": {"folders": ["pictures"]}}
    old = parse_config(TrainingConfig, {**minimal, before: value}, "old.yml")
    assert getattr(old, name) == value
    assert old == parse_config(TrainingConfig, {**minimal, name: value}, "new.yml")
    assert f'"{before}":{value}' in fingerprint(old)
    with pytest.raises(ConfigError, match=f"both.yml: {before}"):
        parse_config(TrainingConfig, {**minimal, name: value, before: value}, "both.yml")
    with pytest.raises(ConfigError, match=f"bad.yml: {before}"):
        parse_config(TrainingConfig, {**minimal, before: -1}, "bad.yml")


INCIDENTAL: dict[str, Any] = {
    "output": "elsewhere",
    "resume_from": "compact",
    "accelerator": "auto",
    "minutes": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "recompute": True,
    "validation.folders": ["benchmark"],
    "data.workers": 2,
    "data.cache": False,
    "data.store": "file",
}
DECISIVE: dict[str, Any] = {
    "model.scale": 2,
    "data.folders": ["other"],
    "data.exclude": ["1.png"],
    "data.crop": 64,
    "data.degradation": {},
    "optimizer.warmup": 1,
    "loss": "l2",
    "perceptual": {"weights": "vgg16.safetensors"},
    "adversarial": {"factor": 1.0},
    "backward_simulation": True,
    "iterations": 5,
    "batch": 2,
    "accumulate": 2,
    "noisiest_probability": None,
    "timestep_weights": [0.0, 1.0, 0.0, 1.0],
    "initialize_from": "model.safetensors",
    "teacher": "model.safetensors",
    "distillation_weight": 0.5,
    "timestep_per_batch": True,
    "binarize_weights_from": 0,
    "seed": 1,
    "precision": "bf16-mixed",
    "compile": True,
}


def test_every_field_is_one_or_the_other() -> None:
    named = {key.partition(".")[0] for key in INCIDENTAL | DECISIVE}
    assert named == set(TrainingConfig.model_fields)
    data = {key.partition(".")[2] for key in INCIDENTAL | DECISIVE if key.startswith("data.")}
    assert data == set(DataConfig.model_fields)


@pytest.mark.parametrize("key", INCIDENTAL | DECISIVE)
def test_what_changes_the_weights_changes_the_fingerprint(key: str) -> None:
    token = f"--{key}={json.dumps((INCIDENTAL | DECISIVE)[key])}"
    values = with_overrides(configured(Path("run")).model_dump(mode="json"), [token], "test")
    config = TrainingConfig.model_validate(values)
    assert (fingerprint(config) == stored()["config"]) is (key in INCIDENTAL)
