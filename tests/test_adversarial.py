"""The adversarial loss: who learns what, closed forms, and runs that go on as if never stopped."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bidiffsr.config import TrainingConfig
from bidiffsr.training.adversarial import AdversarialLoss, Discriminator
from bidiffsr.training.losses import Batch, TargetLoss, WeightedSum
from bidiffsr.training.trainer import train
from training_runs import noised, save_noise, short_chain, short_run, state_of

DIFFUSION = short_chain("sample")


def batch_at(timesteps: list[int], seed: int = 0) -> Batch:
    """Real detail is stripes of one pixel."""
    generator = torch.Generator().manual_seed(seed)
    conditions = torch.rand(len(timesteps), 3, 1, 1, generator=generator).expand(-1, -1, 32, 32)
    conditions = 0.3 + 0.4 * conditions
    noise = torch.randn(conditions.shape, generator=generator)
    stripes = 0.1 * (-1.0) ** torch.arange(32)
    return noised(DIFFUSION, conditions + stripes, conditions, noise, timesteps)


def make(learning_rate: float = 1e-3) -> tuple[AdversarialLoss, Discriminator]:
    torch.manual_seed(1)
    discriminator = Discriminator(4)
    loss = AdversarialLoss(discriminator, learning_rate, nullcontext, lambda each: each)
    return loss, discriminator


def test_the_discriminator_learns_what_is_real_and_its_verdict_leads_there() -> None:
    loss, discriminator = make()
    blurred = torch.zeros(4, 3, 32, 32)
    for step in range(150):
        loss(blurred, batch_at([0, 1, 2, 1], seed=step), DIFFUSION)
        loss.learn()
    batch = batch_at([0, 1, 2, 1], seed=1000)
    with torch.no_grad():
        real, unreal = (discriminator(clean, batch.conditions) for clean in (batch.target, blurred))
    assert real.mean() > 0.5 and unreal.mean() < -0.5
    half = (0.5 * batch.target).requires_grad_()
    value = loss(half, batch, DIFFUSION)
    value.backward()
    assert half.grad is not None
    assert ((half.grad * batch.target).sum()) < 0  # more of the stripes costs less


def test_the_value_is_the_mean_verdict_of_those_with_a_signal() -> None:
    loss, discriminator = make()
    batch = batch_at([3, 1, 3, 0])
    prediction = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    value = loss(prediction, batch, DIFFUSION)
    with torch.no_grad():
        verdicts = discriminator.eval()(prediction[[1, 3]], batch.conditions[[1, 3]])
    assert verdicts.shape == (2, 1, 8, 8)
    assert float(value) == pytest.approx(-float(verdicts.mean()) * 2 / 4, rel=1e-4)
    assert float(loss(prediction, batch_at([3, 3, 3, 3]), DIFFUSION)) == 0


def test_the_networks_loss_teaches_the_discriminator_nothing_and_learning_not_the_network() -> None:
    loss, discriminator = make()
    before = [each.detach().clone() for each in discriminator.parameters()]
    prediction = torch.zeros(2, 3, 32, 32, requires_grad=True)
    both = WeightedSum(((1.0, TargetLoss(torch.nn.functional.l1_loss)), (2.0, loss)))
    both(prediction, batch_at([1, 0]), DIFFUSION).backward()
    assert all(each.grad is None for each in discriminator.parameters())
    assert prediction.grad is not None
    gradient = prediction.grad.clone()
    both.learn()
    assert torch.equal(prediction.grad, gradient)
    changed = [
        not torch.equal(a, b) for a, b in zip(before, discriminator.parameters(), strict=True)
    ]
    # The last bias gains as much from the real as it loses from the unreal.
    assert changed.count(False) <= 1


def test_the_hinge_stops_at_one() -> None:
    """Where every part is judged right by 1 or more nothing is learned."""

    class Sure(Discriminator):
        def forward(self, clean: Tensor, conditions: Tensor) -> Tensor:
            verdict = clean.abs().mean(dim=1, keepdim=True)[:, :, ::4, ::4] * 1e3 - 2
            return verdict + 0 * super().forward(clean, conditions)

    torch.manual_seed(1)
    sure = Sure(4)
    loss = AdversarialLoss(sure, 1e-3, nullcontext, lambda each: each)
    before = [each.detach().clone() for each in sure.parameters()]
    loss(torch.zeros(2, 3, 32, 32), batch_at([1, 0]), DIFFUSION)
    loss.learn()
    for old, new in zip(before, sure.parameters(), strict=True):
        assert torch.equal(old, new)


_LEARNING: dict[str, Any] = {
    "iterations": 6,
    "log_every": 1,
    "timestep_weights": [1, 1, 1, 0.5],
    "adversarial": {"factor": 0.5, "channels": 4},
}


def configure(output: Path, folder: Path, **changes: Any) -> TrainingConfig:
    return short_run(output, folder, DIFFUSION, _LEARNING | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_noise(tmp_path_factory.mktemp("pictures"))


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key], tolerance)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, folder: Path) -> None:
    for _ in train(configure(tmp_path / "whole", folder)):
        pass
    asked = iter([False, False, True])
    for _ in train(configure(tmp_path / "parts", folder), stop=lambda: next(asked)):
        pass
    assert state_of(tmp_path / "parts")["iteration"] == 3
    for _ in train(configure(tmp_path / "parts", folder)):
        pass
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["loss"]["1"]["discriminator"]
    for part in ("network", "average", "loss"):
        assert_same(whole[part], parts[part])


def test_a_batch_in_parts_teaches_the_same(tmp_path: Path, folder: Path) -> None:
    for parts in (1, 2):
        for _ in train(configure(tmp_path / str(parts), folder, iterations=1, accumulate=parts)):
            pass
    one, two = (state_of(tmp_path / name)["loss"]["1"]["discriminator"] for name in ("1", "2"))
    assert_same(one, two, tolerance=1e-5)
