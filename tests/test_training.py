"""Training: exact resumption whatever stopped it, its records, its crops, and that it learns."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

import bidiffsr
from bidiffsr.config import OptimizerConfig, TrainingConfig
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.errors import BidiffsrError, CheckpointError, ConfigError, OutputError, TrainingError
from bidiffsr.images.codec import read_image
from bidiffsr.images.image import to_float
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import BiDiffSRUNet, build_network
from bidiffsr.training.optimizer import learning_rate
from bidiffsr.training.state import dumps
from bidiffsr.training.trainer import Trainer, train
from helpers import largest_file, scramble, tiny_network_config
from training_runs import run, state_of

ITERATIONS = 7
CHECKPOINT_EVERY = 3
SCALE = 4
CROP = 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of odd sizes, a little larger than a crop: every part of it is unlike any other."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index, (height, width) in enumerate([(41, 50), (35, 46)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def configure(output: Path, pictures: Path, **changes: Any) -> TrainingConfig:
    """A run that uses everything random: dropout, mixed timesteps, crops, start probability."""
    network: Any = tiny_network_config(channels=8, norm_groups=4, timesteps=8, dropout=0.2)
    network = changes.pop("network", network)
    values: dict[str, Any] = {
        "output": output,
        "model": {
            "network": network,
            "diffusion": {
                "schedule": {"kind": "angular", "timesteps": 8},
                "prediction": "v",
                "variable": "residual",
            },
            "sampling": {"steps": 2},
            "scale": SCALE,
        },
        "data": {"folders": [pictures], "crop": CROP},
        "optimizer": {
            "learning_rate": 1e-2,
            "final_learning_rate": 1e-3,
            "warmup": 3,
            "ema_decay": 0.7,
        },
        "noisiest_probability": 0.3,
        "iterations": ITERATIONS,
        "batch": 2,
        "seed": 5,
        "checkpoint_every": CHECKPOINT_EVERY,
        "log_every": 1,
        "accelerator": "cpu",
    }
    return TrainingConfig.model_validate(values | changes)


def assert_same(found: Any, expected: Any, where: str = "state") -> None:
    """Equal bit for bit, through all containers."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}.{index}")
    else:
        assert found == expected, where


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, without what the clock says."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert all(0 <= record.pop("data_wait") <= 1 for record in found)
    return found


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    progress = run(configure(folder, pictures))
    assert [step.iteration for step in progress] == list(range(1, ITERATIONS + 1))
    return folder


def assert_as_if_uninterrupted(folder: Path, whole: Path) -> None:
    assert_same(state_of(folder), state_of(whole))
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert records(folder) == records(whole)


# Stopping and going on.


@pytest.mark.parametrize("stops", [(1,), (CHECKPOINT_EVERY,), (2, 4, 5), (ITERATIONS - 1,)])
def test_a_closed_run_goes_on_exactly(
    stops: tuple[int, ...], whole: Path, pictures: Path, tmp_path: Path
) -> None:
    config = configure(tmp_path / "run", pictures)
    begun = 0
    for stop in (*stops, None):
        progress = run(config, stop)
        expected = range(begun + 1, (stop or ITERATIONS) + 1)
        assert [step.iteration for step in progress] == list(expected)
        begun = stop or ITERATIONS
        assert state_of(tmp_path / "run")["iteration"] == begun
    assert_as_if_uninterrupted(tmp_path / "run", whole)


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code of its own, with this package and as many threads as here."""
    source = str(Path(bidiffsr.__file__).parents[1])
    code = f"import torch\ntorch.set_num_threads({torch.get_num_threads()})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


TRAIN_UNTIL_KILLED = """
import os, signal, sys
from bidiffsr.config import TrainingConfig
from bidiffsr.training.trainer import train

config, last = TrainingConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])
for step in train(config):
    if step.iteration == last:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_goes_on_exactly(whole: Path, pictures: Path, tmp_path: Path) -> None:
    config = configure(tmp_path / "run", pictures)
    killed = in_a_process(TRAIN_UNTIL_KILLED, config.model_dump_json(), 5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # Two iterations past the last checkpoint are lost, though they had been recorded.
    assert state_of(tmp_path / "run")["iteration"] == CHECKPOINT_EVERY
    assert [record["iteration"] for record in records(tmp_path / "run")] == [1, 2, 3, 4, 5]
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"iteration": 6, "lo')  # as if killed while writing
    progress = run(config)
    assert [step.iteration for step in progress] == list(
        range(CHECKPOINT_EVERY + 1, ITERATIONS + 1)
    )
    assert_as_if_uninterrupted(tmp_path / "run", whole)


def test_a_full_disk_costs_no_more_than_the_last_checkpoint(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    config = configure(tmp_path / "run", pictures)
    run(config, CHECKPOINT_EVERY)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    assert len(before) > 50_000
    with largest_file(50_000), pytest.raises(OutputError, match=r"state\.pt"):
        run(config)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    run(config)
    assert_as_if_uninterrupted(tmp_path / "run", whole)


def test_time_running_out_is_a_clean_stop(whole: Path, pictures: Path, tmp_path: Path) -> None:
    hurried = configure(tmp_path / "run", pictures, minutes=1e-9)
    assert [step.iteration for step in run(hurried)] == [1]
    assert state_of(tmp_path / "run")["iteration"] == 1
    load_model(tmp_path / "run" / "model.safetensors")
    assert [step.iteration for step in run(hurried)] == [2]
    run(configure(tmp_path / "run", pictures))
    assert_as_if_uninterrupted(tmp_path / "run", whole)


def test_enough_time_does_not_stop_a_run(pictures: Path, tmp_path: Path) -> None:
    config = configure(tmp_path / "run", pictures, minutes=60, iterations=2)
    assert [step.iteration for step in run(config)] == [1, 2]


def test_a_finished_run_does_nothing_more(whole: Path, pictures: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert run(configure(whole, pictures)) == []
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_what_does_not_change_the_weights_may_change(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    run(configure(tmp_path / "run", pictures, checkpoint_every=1, log_every=2), 4)
    run(configure(tmp_path / "run", pictures, checkpoint_every=100))
    found, expected = state_of(tmp_path / "run"), state_of(whole)
    for part in ("network", "average", "optimizer"):
        assert_same(found[part], expected[part])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"batch": 3},
        {"loss": "l2"},
        {"noisiest_probability": None},
        {"data": {"crop": 16}},
        {"optimizer": {"learning_rate": 2e-2}},
        {"model": {"scale": 2}},
    ],
)
def test_another_configuration_in_the_same_folder_is_refused(
    change: dict[str, Any], whole: Path, pictures: Path
) -> None:
    config = configure(whole, pictures)
    values = config.model_dump()
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    before = (whole / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match="another configuration") as error:
        run(TrainingConfig.model_validate(values))
    assert str(whole) in str(error.value)
    assert "\n" not in str(error.value)
    assert (whole / "state.pt").read_bytes() == before


def test_a_damaged_state_is_refused_and_left_alone(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    data = (whole / "state.pt").read_bytes()
    damaged = [b"", b"\0", os.urandom(5000), data[: len(data) // 2], data[:-1], data[:1000]]
    path = tmp_path / "state.pt"
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="state") as error:
            run(configure(tmp_path, pictures))
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content
    for other in ([], {}, {"iteration": 3}, torch.zeros(2)):
        torch.save(other, path)
        with pytest.raises(TrainingError, match="state"):
            run(configure(tmp_path, pictures))


def test_a_state_runs_no_code(pictures: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "it ran"),))

    torch.save({"config": Runs()}, tmp_path / "state.pt")
    with pytest.raises(TrainingError):
        run(configure(tmp_path, pictures))
    assert not (tmp_path / "it ran").exists()


# What a run leaves, and what it starts from.


def test_the_model_file_holds_the_average(whole: Path, pictures: Path) -> None:
    network, config = load_model(whole / "model.safetensors")
    assert config == configure(whole, pictures).model
    state = state_of(whole)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state["average"][f"module.{name}"]), name
        assert not torch.equal(value, state["network"][name]), name


def test_the_average_is_exponential(pictures: Path, tmp_path: Path) -> None:
    config = configure(tmp_path / "run", pictures)
    average: dict[str, Tensor] = {}
    for _ in train(config.model_copy(update={"checkpoint_every": 1, "iterations": 4})):
        network: dict[str, Tensor] = state_of(tmp_path / "run")["network"]
        for name, value in network.items():
            average[name] = 0.7 * average.get(name, value) + 0.3 * value
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(value, average[name])


def test_progress_and_records(whole: Path, pictures: Path, tmp_path: Path) -> None:
    progress = run(configure(tmp_path / "run", pictures, log_every=3))
    for step in progress:
        assert step.iterations == ITERATIONS
        assert step.seconds_per_iteration > 0
        assert step.scores is None
        assert (step.loss is not None) == (step.iteration in (3, 6, ITERATIONS))
    every = {record["iteration"]: record["loss"] for record in records(whole)}
    assert list(every) == list(range(1, ITERATIONS + 1))
    means = {3: (1, 2, 3), 6: (4, 5, 6), ITERATIONS: (7,)}
    for record in records(tmp_path / "run"):
        expected = np.mean([every[i] for i in means[record["iteration"]]])
        assert record["loss"] == pytest.approx(expected, rel=1e-5)
        assert progress[record["iteration"] - 1].loss == record["loss"]


def test_the_recorded_learning_rate_is_the_one_used(whole: Path, pictures: Path) -> None:
    optimizer = configure(whole, pictures).optimizer
    for record in records(whole):
        expected = learning_rate(optimizer, record["iteration"] - 1, ITERATIONS)
        assert record["learning_rate"] == expected
    (group,) = state_of(whole)["optimizer"]["param_groups"]
    assert group["lr"] == records(whole)[-1]["learning_rate"]


def test_training_starts_from_a_model_file(pictures: Path, tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "ema_decay": 0.5}
    config = configure(tmp_path / "run", pictures, optimizer=still, iterations=1)
    network = scramble(build_network(config.model.network))
    save_model(tmp_path / "first.safetensors", network, config.model)
    run(configure(tmp_path / "run", pictures, optimizer=still, iterations=1))
    run(
        configure(
            tmp_path / "from it",
            pictures,
            optimizer=still,
            iterations=1,
            initialize_from=tmp_path / "first.safetensors",
        )
    )
    afresh = load_file(tmp_path / "run" / "model.safetensors")
    found = load_file(tmp_path / "from it" / "model.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
        assert not torch.allclose(afresh[name], value)


def test_training_starts_from_a_sound_file_of_the_same_network(
    pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    config = configure(tmp_path / "run", pictures, initialize_from=path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        run(config)
    other = config.model.model_copy(
        update={"network": tiny_network_config(channels=12, timesteps=8, dropout=0.2)}
    )
    save_model(path, build_network(other.network), other)
    with pytest.raises(TrainingError, match=r"other\.safetensors"):
        run(config)
    assert not (tmp_path / "run" / "state.pt").exists()


def test_training_starts_from_a_narrower_network(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    config = configure(tmp_path / "narrow", pictures)
    save_model(path, scramble(build_network(config.model.network)), config.model)
    wide = config.model.model_copy(
        update={
            "network": config.model.network.model_copy(update={"channels": 16, "norm_groups": 8})
        }
    )
    run(configure(tmp_path / "run", pictures, model=wide.model_dump(), initialize_from=path))
    assert load_model(tmp_path / "run" / "model.safetensors")[1].network.channels == 16


def test_a_perfect_student_of_its_teacher_has_nothing_to_learn(
    pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "teacher.safetensors"
    network = tiny_network_config(channels=8, norm_groups=4, timesteps=8, dropout=0.0)
    model = configure(tmp_path, pictures).model.model_copy(update={"network": network})
    save_model(path, scramble(build_network(network)), model)
    changes = {"model": model.model_dump(), "initialize_from": path, "teacher": path}
    losses: dict[float, Any] = {
        share: run(
            configure(
                tmp_path / f"share {share}",
                pictures,
                **changes,
                distillation_weight=share,
                iterations=1,
            )
        )[0].loss
        for share in (0.0, 0.5, 1.0)
    }
    assert losses[1.0] == 0.0
    # The target lies half way between the student's own answer and the truth.
    assert losses[0.5] == pytest.approx(losses[0.0] / 2, rel=1e-5)  # of an L1 loss


def test_a_teacher_predicts_the_same_thing(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    config = configure(tmp_path / "run", pictures, teacher=path)
    other = config.model.diffusion.model_copy(update={"prediction": "sample"})
    model = config.model.model_copy(update={"diffusion": other})
    save_model(path, build_network(model.network), model)
    with pytest.raises(TrainingError, match=r"teacher\.safetensors.*same thing"):
        run(config)


def test_a_batch_may_share_its_timestep(pictures: Path, tmp_path: Path) -> None:
    drawn: dict[bool, list[Tensor]] = {False: [], True: []}
    for shared, timesteps in drawn.items():
        steps = train(
            configure(
                tmp_path / str(shared), pictures, batch=8, iterations=4, timestep_per_batch=shared
            )
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "bidiffsr.nn.BiDiffSRUNet.group_of", _recording(timesteps, BiDiffSRUNet.group_of)
            )
            list(steps)
    assert all(len(t.unique()) == 1 for t in drawn[True])
    assert len(torch.cat(drawn[True]).unique()) > 1
    assert any(len(t.unique()) > 1 for t in drawn[False])


def _recording(calls: list[Tensor], method: Any) -> Any:
    def wrapped(network: Any, t: Tensor) -> Tensor:
        calls.append(t)
        return method(network, t)

    return wrapped


def test_real_weights_are_binarized_from_the_given_iteration_on(
    pictures: Path, tmp_path: Path
) -> None:
    real = run(configure(tmp_path / "real", pictures, binarize_weights_from=ITERATIONS))
    first = run(configure(tmp_path / "first", pictures, binarize_weights_from=3))
    binary = run(configure(tmp_path / "binary", pictures))
    assert [a.loss == b.loss for a, b in zip(real, first, strict=True)] == [True] * 3 + [False] * 4
    assert real[2].loss != binary[2].loss  # the first answer is 0, whatever the weights
    run(configure(tmp_path / "stopped", pictures, binarize_weights_from=3), stop_after=2)
    run(configure(tmp_path / "stopped", pictures, binarize_weights_from=3))
    assert_same(state_of(tmp_path / "stopped"), state_of(tmp_path / "first"))


def test_a_missing_accelerator_is_one_line(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="accelerator: cuda is not available"):
        run(configure(tmp_path / "run", pictures, accelerator="cuda"))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(pictures: Path, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "clip_norm": None}
    with pytest.raises(TrainingError, match="learning_rate") as error:
        run(configure(tmp_path / "run", pictures, optimizer=wild))
    assert "\n" not in str(error.value)


def test_it_learns_a_fixed_picture(tmp_path: Path) -> None:
    """A gradient plus a grid that bicubic upscaling loses, always the same crop of it."""
    rows, columns = np.mgrid[:CROP, :CROP]
    grid = 90 * ((rows + columns) % 2)
    picture = np.stack([4 * rows + grid, 4 * columns + grid, 120 + grid], axis=-1).astype(np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture).save(tmp_path / "pictures" / "fixed.png")
    model = configure(tmp_path, tmp_path).model.model_dump()
    model["diffusion"] |= {"prediction": "sample", "input_scaling": "signal"}
    model["network"]["dropout"] = 0.0
    config = configure(
        tmp_path / "run",
        tmp_path / "pictures",
        model=model,
        optimizer={"learning_rate": 1e-2},
        iterations=60,
        checkpoint_every=1000,
    )
    losses = [step.loss for step in train(config) if step.loss is not None]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * losses[0]  # which is that of the bicubic picture


def test_mixed_precision_learns_about_what_full_precision_does(
    pictures: Path, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        config = configure(
            tmp_path / precision,
            pictures,
            precision=precision,
            optimizer={"learning_rate": 1e-4},
            iterations=4,
        )
        losses[precision] = [step.loss for step in run(config)]
        state = state_of(tmp_path / precision)["network"]
        assert all(value.dtype == torch.float32 for value in state.values())
    assert np.isfinite(losses["bf16-mixed"]).all()
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]


# What the log says of time.


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("reading", "working", "share"), [(9.0, 1.0, 0.9), (0.01, 9.99, 0.001), (0.0, 1.0, 0.0)]
)
def test_the_log_tells_the_share_of_time_that_data_is_waited_for(
    reading: float,
    working: float,
    share: float,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("bidiffsr.training.recent.time.perf_counter", clock)
    sample, step = TrainingCrops.__getitem__, Trainer.step

    def read(self: TrainingCrops, index: int) -> tuple[Tensor, Tensor]:
        clock.now += reading / 2  # of the two in a batch
        return sample(self, index)

    def work(self: Trainer, *batch: Tensor) -> Tensor:
        clock.now += working
        return step(self, *batch)

    monkeypatch.setattr(TrainingCrops, "__getitem__", read)
    monkeypatch.setattr(Trainer, "step", work)
    run(configure(tmp_path / "run", pictures, iterations=4, log_every=2))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    waits = [json.loads(line)["data_wait"] for line in lines]
    assert waits == pytest.approx([share, share])


# The learning rate.


@pytest.mark.parametrize("iterations", [1, 7, 100])
@pytest.mark.parametrize("final", [None, 0.0, 2e-5])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_learning_rate_is_torchs_cosine_after_a_linear_warmup(
    warmup: int, final: float | None, iterations: int
) -> None:
    config = OptimizerConfig(learning_rate=1e-3, final_learning_rate=final, warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations, final or 0.0)
    for iteration in range(iterations):
        (decayed,) = (1e-3,) if final is None else cosine.get_last_lr()
        expected = decayed * min(1, (iteration + 1) / (warmup + 1))
        assert learning_rate(config, iteration, iterations) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        cosine.step()


def test_learning_rate_never_is_zero_or_more_than_asked() -> None:
    config = OptimizerConfig(learning_rate=1e-3, warmup=5)
    rates = [learning_rate(config, iteration, 20) for iteration in range(20)]
    assert rates[0] == pytest.approx(1e-3 / 6)
    assert rates == sorted(rates)
    assert rates[5:] == [1e-3] * 15


# Crops.


def crops_of(pictures: Path, **changes: Any) -> TrainingCrops:
    values: dict[str, Any] = {"scale": SCALE, "crop": CROP, "seed": 3, "length": 200}
    return TrainingCrops([pictures], **(values | changes))


def digest(samples: Any) -> str:
    hashed = hashlib.sha256()
    for tensors in samples:
        for tensor in tensors:
            hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


DIGEST_WITH_WORKERS = """
import hashlib, sys
from pathlib import Path
from torch.utils.data import DataLoader
from bidiffsr.data.crops import TrainingCrops

crops = TrainingCrops([Path(sys.argv[1])], scale=4, crop=32, seed=3, length=24)
hashed = hashlib.sha256()
for tensors in DataLoader(crops, batch_size=None, num_workers=2):
    for tensor in tensors:
        hashed.update(tensor.numpy().tobytes())
print(hashed.hexdigest())
"""


def test_a_sample_depends_on_its_seed_and_index_alone(pictures: Path) -> None:
    crops = crops_of(pictures)
    assert len(crops) == 200
    indices = range(24)
    expected = digest(crops[index] for index in indices)
    assert digest(crops[index] for index in indices) == expected
    backwards = crops_of(pictures, cache=False, length=10**9)
    samples = {index: backwards[index] for index in reversed(indices)}
    assert digest(samples[index] for index in indices) == expected
    assert digest(crops_of(pictures, seed=4)[index] for index in indices) != expected
    in_workers = in_a_process(DIGEST_WITH_WORKERS, pictures)
    assert in_workers.stdout.strip() == expected, in_workers.stderr


def oriented(image: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """One of the eight ways to lay a square."""
    image = np.rot90(image, number % 4)
    return image.transpose(1, 0, 2) if number >= 4 else image


def test_a_crop_is_cut_from_the_whole_picture_and_its_condition(pictures: Path) -> None:
    """Each sample is looked up in the whole picture: where it lies, and which way."""
    places: dict[bytes, tuple[int, int, int, int]] = {}
    conditions = []
    corners = set()
    for number, path in enumerate(sorted(pictures.iterdir())):
        high = read_image(path).pixels
        high = high[: high.shape[0] // SCALE * SCALE, : high.shape[1] // SCALE * SCALE]
        conditions.append(cubic_upscale(to_float(imresize(high, 1 / SCALE)), SCALE))
        rows, columns = (range(0, size - CROP + 1, SCALE) for size in high.shape[:2])
        corners |= {(number, top, left) for top in (0, rows[-1]) for left in (0, columns[-1])}
        for top in rows:
            for left in columns:
                crop = to_float(high[top : top + CROP, left : left + CROP])
                for way in range(8):
                    places[oriented(crop, way).tobytes()] = (number, top, left, way)
    crops = crops_of(pictures)
    seen = set()
    for index in range(len(crops)):
        picture, cond = (tensor.numpy().transpose(1, 2, 0) for tensor in crops[index])
        assert picture.dtype == cond.dtype == np.float32
        assert picture.shape == cond.shape == (CROP, CROP, 3)
        number, top, left, way = places[picture.tobytes()]
        expected = conditions[number][top : top + CROP, left : left + CROP]
        np.testing.assert_allclose(cond, oriented(expected, way), rtol=0, atol=1e-6)
        seen.add((number, top, left, way))
    assert {way for *_, way in seen} == set(range(8))
    assert corners <= {(number, top, left) for number, top, left, _ in seen}


def test_pictures_may_be_left_out(pictures: Path) -> None:
    crops = crops_of(pictures, exclude=["0.png"])
    assert [path.name for path in crops.paths] == ["1.png"]
    with pytest.raises(ConfigError, match=r"absent\.png"):
        crops_of(pictures, exclude=["absent.png"])
    with pytest.raises(ConfigError, match="no picture"):
        crops_of(pictures, exclude=["0.png", "1.png"])


def test_crops_that_cannot_be_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        crops_of(pictures, crop=30)
    with pytest.raises(ConfigError, match=r"\.png"):
        crops_of(pictures, crop=64)[0]
    with pytest.raises(BidiffsrError, match="nowhere"):
        crops_of(tmp_path / "nowhere")


def test_what_goes_on_updates_each_weight_by_its_own_moments(
    pictures: Path, tmp_path: Path
) -> None:
    """Also those of a state whose moments lie otherwise in memory than the weights do."""
    config = configure(tmp_path / "run", pictures)
    run(config, 3)
    state = state_of(tmp_path / "run")
    for moments in state["optimizer"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = moments[name].contiguous()
    (tmp_path / "run" / "state.pt").write_bytes(dumps(state))
    run(config)
    run(configure(tmp_path / "whole", pictures))
    for name, value in load_file(tmp_path / "whole" / "model.safetensors").items():
        found = load_file(tmp_path / "run" / "model.safetensors")[name]
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)


# The store of decoded pictures.


def test_a_store_gives_the_same_samples_and_is_made_once(pictures: Path, tmp_path: Path) -> None:
    store = tmp_path / "store" / "pictures.bin"
    store.parent.mkdir()
    expected = digest(crops_of(pictures)[index] for index in range(24))
    crops = crops_of(pictures, store=store)
    made = store.stat()
    assert [file.name for file in store.parent.iterdir()] == [store.name]
    assert digest(crops[index] for index in range(24)) == expected
    assert digest(crops_of(pictures, store=store)[index] for index in range(24)) == expected
    assert store.stat().st_ino == made.st_ino
    workers = DataLoader(
        crops, batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    assert digest(sample for sample, _ in zip(workers, range(24), strict=False)) == expected


def test_a_store_of_other_pictures_or_damaged_is_made_anew(pictures: Path, tmp_path: Path) -> None:
    store = tmp_path / "pictures.bin"
    crops_of(pictures, store=store)
    whole = store.read_bytes()
    other = crops_of(pictures, store=store, exclude=["0.png"])
    assert store.read_bytes() != whole
    assert digest([other[3]]) == digest([crops_of(pictures, exclude=["0.png"])[3]])
    magic, header, _ = whole.split(b"\n", 2)
    for damaged in (
        b"",
        whole[:-1],
        whole + b"0",
        magic + b"\n",
        magic + b"\n" + header,
        magic + b"\n{}\n",
        magic + b"\n[1]\n",
        magic + b"\n" + b"[" * 200_000 + b"\n",
        whole.replace(b'"shapes": [[', b'"shapes": [[Infinity, 1], ['),
        whole.replace(b'"shapes": [[', b'"shapes": [[-1, -1], [1, 1], ['),
    ):
        store.write_bytes(damaged)
        crops_of(pictures, store=store)
        assert store.read_bytes() == whole


def test_a_store_of_a_changed_picture_is_made_anew(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    store = tmp_path / "pictures.bin"
    before = digest([crops_of(folder, store=store)[0]])
    for path in folder.iterdir():
        pixels = 255 - read_image(path).pixels
        Image.fromarray(pixels).save(path)
    assert digest([crops_of(folder, store=store)[0]]) != before


def test_a_store_that_cannot_be_is_one_line(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        crops_of(pictures, store=tmp_path / "nowhere" / "pictures.bin")
    with pytest.raises(ConfigError, match="store"):
        crops_of(pictures, store=tmp_path)
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"model\.safetensors.*no store"):
        crops_of(pictures, store=other)
    assert other.read_bytes() == b"precious"
    crops = crops_of(pictures, store=tmp_path / "pictures.bin")
    small = crops_of(pictures, store=tmp_path / "pictures.bin", crop=64)
    assert crops[0][0].shape[-1] == CROP
    with pytest.raises(ConfigError, match=r"\.png.*smaller"):
        small[0]


# The low-resolution form.


LOW = {
    "patch": 4,
    "channels": 4,
    "multipliers": [1, 2],
    "blocks_per_level": 1,
    "norm_groups": 2,
    "timesteps": 8,
    "time_groups": 2,
    "full_precision_up_levels": 0,
    "stem_condition": "mean",
    "middle_attention": False,
}


def test_the_low_resolution_form_trains_goes_on_packs_and_upscales(
    pictures: Path, tmp_path: Path
) -> None:
    whole = configure(tmp_path / "whole", pictures, network=LOW)
    stopped = configure(tmp_path / "stopped", pictures, network=LOW)
    run(whole)
    run(stopped, 3)
    run(stopped)
    assert_as_if_uninterrupted(tmp_path / "stopped", tmp_path / "whole")
    trained = tmp_path / "whole" / "model.safetensors"
    packed = tmp_path / "packed.safetensors"
    network, config = load_model(trained)
    save_model(packed, network, config, packed=True)
    assert packed.stat().st_size < trained.stat().st_size
    small = np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    results = [
        bidiffsr.Upscaler.from_pretrained(path, backend="torch", device="cpu")(small)
        for path in (trained, packed)
    ]
    assert results[0].shape == (13 * SCALE, 9 * SCALE, 3)
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1
    with torch.no_grad():
        network.tail.bias += 0.2  # type: ignore[operator]
    save_model(packed, network, config, packed=True)
    moved = bidiffsr.Upscaler.from_pretrained(packed, backend="torch", device="cpu")(small)
    assert not np.array_equal(moved, results[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_training_learns_what_plain_training_learns(
    pictures: Path, tmp_path: Path
) -> None:
    losses = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        run(configure(folder, pictures, network=LOW, compile=compiled))
        losses.append([record["loss"] for record in records(folder) if "loss" in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
