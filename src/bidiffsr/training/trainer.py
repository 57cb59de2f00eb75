"""The training loop: a generator that yields after every iteration.

Every random choice of iteration i is a function of (seed, i): crops, timesteps, noise, dropout.
With the checkpointed weights, averages and optimizer moments this makes a resumed run equal, bit
for bit, to an uninterrupted one on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from bidiffsr.binary import BinaryConv2d, compiled_kernels, fuse, set_progress
from bidiffsr.config import TrainingConfig
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import TrainingError
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import build_network
from bidiffsr.training.checkpoint import STATE_NAME, Checkpoint
from bidiffsr.training.distillation import load_teacher
from bidiffsr.training.initial import begin
from bidiffsr.training.log import TrainingLog
from bidiffsr.training.losses import LOSSES, Batch
from bidiffsr.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from bidiffsr.training.timesteps import timestep_sampler
from bidiffsr.training.transfer import transfer
from bidiffsr.training.validation import Validation

MODEL_NAME = "model.safetensors"


@dataclass(frozen=True)
class TrainingProgress:
    """What is known after one iteration."""

    iteration: int
    """Finished iterations."""
    iterations: int
    loss: float | None
    """Mean loss since the last report; None between reports."""
    seconds_per_iteration: float
    scores: dict[str, float] | None
    """Validation scores, where this iteration was scored."""


def train(config: TrainingConfig) -> Generator[TrainingProgress]:
    """Train, or go on training, what ``config`` describes.

    The run's folder holds ``state.pt`` (everything needed to go on), ``model.safetensors`` (the
    averaged weights, whole, for `upscale`, `eval` and ``initialize_from``), ``log.jsonl``,
    ``tensorboard/`` and ``samples/``. Closing the generator saves the state first.

    Yields:
        ``TrainingProgress`` after every iteration.

    Raises:
        TrainingError: the folder holds another run's state, or the loss is no number.
        ConfigError, ImageError, CheckpointError, OutputError: as their sources say.
    """
    trainer = Trainer(config)
    if trainer.iteration >= config.iterations:
        trainer.save_model()  # a kill may have come between the state and the model
        return
    validation = Validation(config.validation, config.model, config.output)
    with TrainingLog(config.output, trainer.iteration) as log:
        try:
            yield from _iterations(trainer, validation, log)
        except GeneratorExit:
            if trainer.saved_iteration != trainer.iteration and trainer.is_sound():
                trainer.save()
            raise


def _iterations(
    trainer: Trainer, validation: Validation, log: TrainingLog
) -> Iterator[TrainingProgress]:
    """Train until the end or until the time is over; log, score and save whenever that is due."""
    config, last = trainer.config, trainer.config.iterations
    started, first = time.monotonic(), trainer.iteration
    recent = _Recent(trainer.fabric.device)
    for wait, (pictures, conditions) in _timed(trainer.batches()):
        recent.add(trainer.step(pictures, conditions), wait)
        iteration = trainer.iteration
        elapsed = time.monotonic() - started
        out_of_time = config.minutes is not None and elapsed > config.minutes * 60
        ending = iteration == last or out_of_time
        logging = iteration % config.log_every == 0 or ending
        saving = iteration % config.checkpoint_every == 0 or ending
        if (logging or saving) and not (recent.is_sound() and trainer.is_sound()):
            raise TrainingError(
                f"{config.output}: the loss or a weight is no number by iteration {iteration}; "
                "lower optimizer.learning_rate and start from the last checkpoint"
            )
        loss = scores = None
        if logging:
            loss, data_wait = recent.take()
            rate = trainer.learning_rate(iteration - 1)
            log.write(iteration, {"loss": loss, "learning_rate": rate, "data_wait": data_wait})
        if validation.due(iteration, last):
            scores = validation.run(trainer.average.module, iteration)
            log.write(iteration, scores)
        if saving:
            trainer.save()
        yield TrainingProgress(iteration, last, loss, elapsed / (iteration - first), scores)
        if out_of_time:
            return


class Trainer:
    """The state of a run, and one step of it.

    Raises:
        TrainingError, CheckpointError: what the run starts from does not fit it.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.diffusion = Diffusion(config.model.diffusion)
        if config.accelerator == "cuda" and not torch.cuda.is_available():
            raise TrainingError("accelerator: cuda is not available here; choose auto or cpu")
        self.fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
        torch.manual_seed(config.seed)
        network = _channels_last(build_network(config.model.network))
        if config.initialize_from is not None and not (config.output / STATE_NAME).exists():
            _initialize(network, config, config.initialize_from)
        else:
            begin(network, config.model)
        self.network = network
        self.optimizer = make_optimizer(network, config.optimizer)
        self._model, self._fabric_optimizer = self.fabric.setup(network, self.optimizer)
        self.average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(config.optimizer.ema_decay)
        )
        self._checkpoint = Checkpoint(config, network, self.average, self.optimizer)
        self.iteration = self.saved_iteration = self._checkpoint.restore()
        # Where the optimizer's moments were fresh.
        steps = (int(moments["step"]) for moments in self.optimizer.state.values())
        self._warm_from = self.iteration - max(steps, default=0)
        if config.compile:
            fuse(network, compiled_kernels())
        self._loss = LOSSES[config.loss]
        self._draw_timesteps = timestep_sampler(config)
        self._teacher = load_teacher(
            config, lambda teacher: self.fabric.to_device(_channels_last(teacher))
        )
        self._weight_binarizers = [
            (layer, layer.binarize_weight)
            for layer in network.modules()
            if isinstance(layer, BinaryConv2d) and layer.binarize_weight is not None
        ]
        schedule = self.diffusion.schedule
        self._signal, self._noise_level = (
            torch.tensor(levels, dtype=torch.float32, device=self.fabric.device)
            for levels in (schedule.signal, schedule.noise)
        )

    def batches(self) -> Iterator[list[Tensor]]:
        """(pictures, conditions) of the iterations still to do, in order."""
        config = self.config
        crops = TrainingCrops(
            config.data.folders,
            scale=config.model.scale,
            crop=config.data.crop,
            seed=config.seed,
            length=config.iterations * config.batch,
            exclude=config.data.exclude,
            degradation=config.data.degradation,
            cache=config.data.cache,
            store=config.data.store,
        )
        remaining = Subset(crops, range(self.iteration * config.batch, len(crops)))
        workers = config.data.workers
        loader: DataLoader[Any] = DataLoader(
            remaining,
            batch_size=config.batch,
            num_workers=workers,
            pin_memory=self.fabric.device.type == "cuda",
            persistent_workers=workers > 0,
            # Not a fork, which would copy the locks of libvips' threads but not the threads.
            multiprocessing_context="forkserver" if workers else None,
        )
        batches: Any = self.fabric.setup_dataloaders(loader)
        return iter(batches)

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration, from 0."""
        config = self.config
        return learning_rate(config.optimizer, iteration, config.iterations, self._warm_from)

    def step(self, pictures: Tensor, conditions: Tensor) -> Tensor:
        """One update; returns the loss, detached."""
        config = self.config
        # Of dropout, timesteps and noise.
        torch.manual_seed(_iteration_seed(config.seed, self.iteration))
        timesteps = self._draw_timesteps(len(pictures)).to(self.fabric.device)
        self.network.train()
        self._binarize_weights(self.iteration >= config.binarize_weights_from)
        set_progress(self.network, self.iteration / config.iterations)
        batch, inputs = self._noised(pictures, conditions, timesteps)
        prediction = self._model(*inputs).float()
        loss = self._loss(prediction, batch, self.diffusion)
        set_learning_rate(self.optimizer, self.learning_rate(self.iteration))
        self._fabric_optimizer.zero_grad()
        self.fabric.backward(loss)
        if config.optimizer.clip_norm is not None:
            self.fabric.clip_gradients(
                self._model, self._fabric_optimizer, max_norm=config.optimizer.clip_norm
            )
        self._fabric_optimizer.step()
        self.average.update_parameters(self.network)
        self.iteration += 1
        return loss.detach()

    def _noised(
        self, pictures: Tensor, conditions: Tensor, timesteps: Tensor
    ) -> tuple[Batch, tuple[Tensor, Tensor, Tensor]]:
        """What the loss looks at, and what the network is given."""
        clean = self.diffusion.to_variable(pictures, conditions)
        noise = torch.randn_like(clean)
        signal = self._signal[timesteps][:, None, None, None]
        noise_level = self._noise_level[timesteps][:, None, None, None]
        noisy = signal * clean + noise_level * noise
        inputs = self.diffusion.network_input(noisy, signal), conditions, timesteps
        target = self.diffusion.prediction.target(clean, noise, signal, noise_level)
        if self._teacher is not None:
            target = self._teacher.mix(target, *inputs)
        return Batch(pictures, conditions, noisy, signal, noise_level, target), inputs

    def is_sound(self) -> bool:
        """Whether every weight is a finite number."""
        weights = (*self.network.parameters(), *self.average.parameters())
        return bool(torch.stack([weight.isfinite().all() for weight in weights]).all())

    def save(self) -> None:
        """Write the state and the averaged weights, each whole or not at all."""
        self._checkpoint.save(self.iteration)
        self.save_model()
        self.saved_iteration = self.iteration

    def save_model(self) -> None:
        """Write the averaged weights as a model file."""
        save_model(self.config.output / MODEL_NAME, self.average.module, self.config.model)

    def _binarize_weights(self, binary: bool) -> None:
        for layer, binarizer in self._weight_binarizers:
            layer.binarize_weight = binarizer if binary else None


class _Recent:
    """What happened since the last report; the loss is summed where it is, so nobody waits."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._begin()

    def _begin(self) -> None:
        self._loss.zero_()
        self._count = 0
        self._wait = 0.0
        self._started = time.perf_counter()

    def add(self, loss: Tensor, wait: float) -> None:
        """Count one iteration: its loss, and the seconds it waited for its batch."""
        self._loss += loss
        self._count += 1
        self._wait += wait

    def is_sound(self) -> bool:
        """Whether every loss was a finite number."""
        return math.isfinite(float(self._loss))

    def take(self) -> tuple[float, float]:
        """(mean loss, share of the time that was spent waiting for data); begins anew."""
        elapsed = max(time.perf_counter() - self._started, self._wait)
        result = float(self._loss) / self._count, self._wait / elapsed
        self._begin()
        return result


def _timed(batches: Iterator[list[Tensor]]) -> Iterator[tuple[float, list[Tensor]]]:
    """Each batch behind the seconds that it was waited for."""
    started = time.perf_counter()
    for batch in batches:
        yield time.perf_counter() - started, batch
        started = time.perf_counter()


def _initialize(network: nn.Module, config: TrainingConfig, path: Path) -> None:
    source, model = load_model(path)
    if not transfer(source, model.network, network, config.model.network):
        raise TrainingError(
            f"{path}: holds another network than model.network; make them the same but for "
            "method, or channels by a whole factor"
        )


def _channels_last(network: nn.Module) -> nn.Module:
    """With the channels of a pixel side by side: what CPUs and tensor cores convolve fastest."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _iteration_seed(seed: int, iteration: int) -> int:
    """A seed of its own for each iteration (the golden-ratio hash of Knuth, 64 bits)."""
    return (seed + (iteration + 1) * 0x9E3779B97F4A7C15) % 2**63
