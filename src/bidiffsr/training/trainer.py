"""The training loop: a generator that yields after every iteration.

Every random choice of iteration i is a function of (seed, i): crops, timesteps, noise, dropout.
With the checkpointed weights, averages and optimizer moments this makes a resumed run equal, bit
for bit, to an uninterrupted one on the same machine.

Several processes (`training.processes`) share every batch: whatever their number, an iteration sees
the same samples, timesteps and noise, so that only the order of summation differs (and dropout,
which each draws for itself).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

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
from bidiffsr.training.losses import Batch
from bidiffsr.training.objective import make_loss
from bidiffsr.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from bidiffsr.training.processes import Processes
from bidiffsr.training.recent import Recent, timed
from bidiffsr.training.recompute import recompute_blocks
from bidiffsr.training.signs import WeightSigns
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


def _never() -> bool:
    return False


def train(
    config: TrainingConfig,
    *,
    stop: Callable[[], bool] = _never,
    stored: Callable[[int, int], object] | None = None,
) -> Generator[TrainingProgress]:
    """Train, or go on training, what ``config`` describes.

    The run's folder holds ``state.pt`` (everything needed to go on), ``model.safetensors`` (the
    averaged weights, whole, for `upscale`, `eval` and ``initialize_from``), ``log.jsonl``,
    ``tensorboard/`` and ``samples/``. Closing the generator saves the state first.

    Args:
        config: the run.
        stop: is asked after every iteration whether to save and end there. Where several processes
            train, all end when one of them is told to.
        stored: where the file ``data.store`` is written, is told how many pictures it holds, and
            of how many.

    Yields:
        ``TrainingProgress`` after every iteration.

    Raises:
        TrainingError: the folder holds another run's state, or the loss is no number.
        ConfigError, ImageError, CheckpointError, OutputError: as their sources say.
    """
    trainer = Trainer(config, stored)
    if trainer.iteration >= config.iterations:
        trainer.save_model()  # a kill may have come between the state and the model
        trainer.wait_for_others()
        return
    validation = Validation(config.validation, config.model, config.output)
    first = trainer.processes.first
    with TrainingLog(config.output, trainer.iteration) if first else nullcontext() as log:
        try:
            yield from _iterations(trainer, validation, log, stop)
        except GeneratorExit:
            trainer.save_if_sound()
            raise
    trainer.wait_for_others()


def _iterations(
    trainer: Trainer, validation: Validation, log: TrainingLog | None, stop: Callable[[], bool]
) -> Iterator[TrainingProgress]:
    """Train until the end or until the time is over; log, score and save whenever that is due."""
    config, last = trainer.config, trainer.config.iterations
    started, first = time.monotonic(), trainer.iteration
    recent = Recent(trainer.fabric.device)
    for wait, (pictures, conditions) in timed(trainer.batches()):
        upcoming = trainer.iteration + 1
        due = log is not None and (upcoming % config.log_every == 0 or upcoming == last)
        signs = trainer.weight_signs() if due else None
        recent.add(trainer.step(pictures, conditions), wait)
        iteration = trainer.iteration
        elapsed = time.monotonic() - started
        out_of_time = config.minutes is not None and trainer.any(elapsed > config.minutes * 60)
        ending = iteration == last or out_of_time
        logging = iteration % config.log_every == 0 or ending
        saving = iteration % config.checkpoint_every == 0 or ending
        if (logging or saving) and trainer.any(not (recent.is_sound() and trainer.is_sound())):
            raise TrainingError(
                f"{config.output}: the loss or a weight is no number by iteration {iteration}; "
                "lower optimizer.learning_rate and start from the last checkpoint"
            )
        loss = scores = None
        if logging:
            loss, data_wait = trainer.means(*recent.take())
            rate = trainer.learning_rate(iteration - 1)
            if log is not None:
                values = {"loss": loss, "learning_rate": rate, "data_wait": data_wait}
                values |= {} if signs is None else signs.after_update()
                log.write(iteration, values)
        if log is not None and validation.due(iteration, last):
            scores = validation.run(trainer.average.module, iteration)
            log.write_validation(iteration, scores, validation.inspect(trainer.average.module))
        if saving:
            trainer.save()
        yield TrainingProgress(iteration, last, loss, elapsed / (iteration - first), scores)
        if out_of_time or (iteration < last and trainer.any(stop())):
            trainer.save_if_sound()
            return


class Trainer:
    """The state of a run, and one step of it.

    Args:
        config: the run.
        stored: as `train` has it.

    Raises:
        TrainingError, CheckpointError: what the run starts from does not fit it.
    """

    def __init__(
        self, config: TrainingConfig, stored: Callable[[int, int], object] | None = None
    ) -> None:
        self.config = config
        self._stored = stored
        self.diffusion = Diffusion(config.model.diffusion)
        if config.accelerator == "cuda" and not torch.cuda.is_available():
            raise TrainingError("accelerator: cuda is not available here; choose auto or cpu")
        self.processes = Processes.here()
        self._share = self.processes.share(config.batch, config.accumulate)
        self.fabric = Fabric(
            accelerator=config.accelerator,
            strategy="ddp" if self.processes.count > 1 else "auto",
            devices=self.processes.count // self.processes.nodes,
            num_nodes=self.processes.nodes,
            precision=config.precision,
        )
        self.fabric.launch()
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

        def place(module: nn.Module) -> nn.Module:
            return self.fabric.to_device(_channels_last(module))

        self._loss = make_loss(config, place, self.fabric)
        self._checkpoint = Checkpoint(config, network, self.average, self.optimizer, self._loss)
        self.iteration = self.saved_iteration = self._checkpoint.restore()
        # Where the optimizer's moments were fresh.
        steps = (int(moments["step"]) for moments in self.optimizer.state.values())
        self._warm_from = self.iteration - max(steps, default=0)
        if config.compile:
            fuse(network, compiled_kernels())
        if config.recompute:
            recompute_blocks(network)
        self._draw_timesteps = timestep_sampler(config)
        self._teacher = load_teacher(config, place)
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
        """(pictures, conditions) of the iterations still to do, in order: this process's share."""
        config, crops = self.config, self._crops()
        begins = range(self.iteration * config.batch, len(crops), config.batch)
        workers = config.data.workers
        loader: DataLoader[Any] = DataLoader(
            crops,
            batch_sampler=_Shares(begins, self._share),
            num_workers=workers,
            pin_memory=self.fabric.device.type == "cuda",
            persistent_workers=workers > 0,
            # Not a fork, which would copy the locks of libvips' threads but not the threads.
            multiprocessing_context="forkserver" if workers else None,
        )
        batches: Any = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return iter(batches)

    def _crops(self) -> TrainingCrops:
        """The training data; a file of it is written once on each disk, by the first to need it."""
        config = self.config
        make = partial(
            TrainingCrops,
            config.data.folders,
            scale=config.model.scale,
            crop=config.data.crop,
            seed=config.seed,
            length=config.iterations * config.batch,
            exclude=config.data.exclude,
            degradation=config.data.degradation,
            cache=config.data.cache,
            store=config.data.store,
            written=self._stored,
        )
        if config.data.store is None or self.processes.count == 1:
            return make()
        with self.fabric.rank_zero_first():
            if self.processes.first:
                make()
        with self.fabric.rank_zero_first(local=True):  # machines may have disks of their own
            return make()

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration, from 0."""
        config = self.config
        return learning_rate(config.optimizer, iteration, config.iterations, self._warm_from)

    def step(self, pictures: Tensor, conditions: Tensor) -> Tensor:
        """One update; returns the loss, detached."""
        config = self.config
        # Of dropout, timesteps and noise.
        torch.manual_seed(_iteration_seed(config.seed, self.iteration))
        timesteps = self._draw_timesteps(config.batch)[self._share].to(self.fabric.device)
        self.network.train()
        self._binarize_weights(self.iteration >= config.binarize_weights_from)
        set_progress(self.network, self.iteration / config.iterations)
        shape = config.batch, *pictures.shape[1:]
        noise = torch.randn(shape, device=self.fabric.device)[self._share]
        if not self.processes.first:  # dropout is each process's own
            torch.manual_seed(torch.initial_seed() + self.processes.rank)
        set_learning_rate(self.optimizer, self.learning_rate(self.iteration))
        self._fabric_optimizer.zero_grad()
        loss = torch.zeros((), device=self.fabric.device)
        parts = [each.chunk(config.accumulate) for each in (pictures, conditions, timesteps, noise)]
        for number, part in enumerate(zip(*parts, strict=True), 1):
            with self.fabric.no_backward_sync(self._model, enabled=number < config.accumulate):
                loss += self._gradients(*part)
        if config.optimizer.clip_norm is not None:
            self.fabric.clip_gradients(
                self._model, self._fabric_optimizer, max_norm=config.optimizer.clip_norm
            )
        self._fabric_optimizer.step()
        self._loss.learn()
        self.average.update_parameters(self.network)
        self.iteration += 1
        return loss

    def _gradients(
        self, pictures: Tensor, conditions: Tensor, timesteps: Tensor, noise: Tensor
    ) -> Tensor:
        """Add the gradients of a part of the batch; returns its part of the loss, detached."""
        batch, inputs = self._noised(pictures, conditions, timesteps, noise)
        prediction = self._model(*inputs).float()
        loss = self._loss(prediction, batch, self.diffusion) / self.config.accumulate
        self.fabric.backward(loss)
        return loss.detach()

    def _noised(
        self, pictures: Tensor, conditions: Tensor, timesteps: Tensor, noise: Tensor
    ) -> tuple[Batch, tuple[Tensor, Tensor, Tensor]]:
        """What the loss looks at, and what the network is given."""
        clean = self.diffusion.to_variable(pictures, conditions)
        signal = self._signal[timesteps][:, None, None, None]
        noise_level = self._noise_level[timesteps][:, None, None, None]
        noisy = signal * clean + noise_level * noise
        if self.config.backward_simulation:
            noisy = signal * self._sampled(conditions, noise) + noise_level * noise
            noise = (noisy - signal * clean) / noise_level
        inputs = self.diffusion.network_input(noisy, signal), conditions, timesteps
        target = self.diffusion.prediction.target(clean, noise, signal, noise_level)
        if self._teacher is not None:
            target = self._teacher.mix(target, *inputs)
        return Batch(pictures, conditions, noisy, signal, noise_level, target), inputs

    @torch.no_grad()
    def _sampled(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """The clean variable that sampling's first step predicts from noise alone."""
        last = len(self._signal) - 1
        signal, noise_level = self._signal[last], self._noise_level[last]
        timesteps = torch.full((len(noise),), last, device=noise.device)
        prediction = self._model(
            self.diffusion.network_input(noise, signal), conditions, timesteps
        ).float()
        return self.diffusion.prediction.clean(prediction, noise, signal, noise_level)

    def weight_signs(self) -> WeightSigns:
        """The signs of the binarized weights, now."""
        return WeightSigns(self._weight_binarizers)

    def any(self, here: bool) -> bool:
        """Whether something holds in any of the processes, all of which have to ask."""
        if self.processes.count == 1:
            return here
        votes = torch.tensor(float(here), device=self.fabric.device)
        counted: Any = self.fabric.all_reduce(votes, reduce_op="sum")
        return bool(counted > 0)

    def means(self, *here: float) -> list[float]:
        """Numbers' means over the processes, all of which have to ask."""
        if self.processes.count == 1:
            return list(here)
        values = torch.tensor(here, dtype=torch.float64, device=self.fabric.device)
        reduced: Any = self.fabric.all_reduce(values, reduce_op="mean")
        return reduced.tolist()

    def is_sound(self) -> bool:
        """Whether every weight is a finite number."""
        weights = (*self.network.parameters(), *self.average.parameters())
        return bool(torch.stack([weight.isfinite().all() for weight in weights]).all())

    def save(self) -> None:
        """Write the state and the averaged weights, each whole or not at all."""
        if self.processes.first:
            self._checkpoint.save(self.iteration)
            self.save_model()
        self.saved_iteration = self.iteration

    def save_if_sound(self) -> None:
        """Save what has not been saved, unless it is worthless."""
        if self.saved_iteration != self.iteration and self.is_sound():
            self.save()

    def save_model(self) -> None:
        """Write the averaged weights as a model file."""
        if not self.processes.first:
            return
        save_model(self.config.output / MODEL_NAME, self.average.module, self.config.model)

    def wait_for_others(self) -> None:
        """Return once all processes are here: none may leave while another still needs it."""
        self.fabric.barrier()

    def _binarize_weights(self, binary: bool) -> None:
        for layer, binarizer in self._weight_binarizers:
            layer.binarize_weight = binarizer if binary else None


@dataclass(frozen=True)
class _Shares:
    """The numbers of a process's samples, batch by batch; there may be very many."""

    begins: range
    """Where the batches begin."""
    share: slice
    """Of a batch."""

    def __len__(self) -> int:
        return len(self.begins)

    def __iter__(self) -> Iterator[list[int]]:
        for first in self.begins:
            yield list(range(first + self.share.start, first + self.share.stop))


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
