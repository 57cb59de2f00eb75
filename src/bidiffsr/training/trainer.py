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
from bidiffsr.config import OptimizerConfig, TrainingConfig
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import TrainingError
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import build_network
from bidiffsr.system.files import write_atomically
from bidiffsr.training.compact import read_compact
from bidiffsr.training.initial import begin
from bidiffsr.training.log import TrainingLog
from bidiffsr.training.state import opened, sealed
from bidiffsr.training.transfer import transfer
from bidiffsr.training.validation import Validation

STATE_NAME = "state.pt"
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
    run = _Run(config)
    last = config.iterations
    if run.iteration >= last:
        run.save_model()  # a kill may have come between the state and the model
        return
    validation = Validation(config.validation, config.model, config.output)
    started, first, reported = time.monotonic(), run.iteration, run.iteration
    total = torch.zeros((), device=run.fabric.device)
    saved = run.iteration
    with TrainingLog(config.output, run.iteration) as log:
        try:
            for pictures, conds in run.batches():
                total += run.step(pictures, conds)
                iteration = run.iteration
                loss = scores = None
                elapsed = time.monotonic() - started
                out_of_time = config.minutes is not None and elapsed > config.minutes * 60
                ending = iteration == last or out_of_time
                logging = iteration % config.log_every == 0 or ending
                saving = iteration % config.checkpoint_every == 0 or ending
                if (logging or saving) and not (math.isfinite(float(total)) and run.is_sound()):
                    raise TrainingError(
                        f"{config.output}: the loss or a weight is no number by iteration "
                        f"{iteration}; lower optimizer.learning_rate and start from the last "
                        "checkpoint"
                    )
                if logging:
                    loss = float(total) / (iteration - reported)
                    rate = learning_rate(config.optimizer, iteration - 1, last, run.warm_from)
                    log.write(iteration, {"loss": loss, "learning_rate": rate})
                    total.zero_()
                    reported = iteration
                if validation.due(iteration, last):
                    scores = validation.run(run.average.module, iteration)
                    log.write(iteration, scores)
                if saving:
                    run.save()
                    saved = iteration
                per_iteration = elapsed / (iteration - first)
                yield TrainingProgress(iteration, last, loss, per_iteration, scores)
                if out_of_time:
                    return
        except GeneratorExit:
            if saved != run.iteration and run.is_sound():
                run.save()
            raise


def learning_rate(
    config: OptimizerConfig, iteration: int, iterations: int, warm_from: int = 0
) -> float:
    """The rate at ``iteration``, from 0: linear warm-up, then constant or a half cosine.

    The optimizer's moments were fresh at ``warm_from``, where the warm-up begins.
    """
    warm = min(1.0, (iteration - warm_from + 1) / (config.warmup + 1))
    if config.final_learning_rate is None:
        return warm * config.learning_rate
    done = min(1.0, iteration / iterations)
    final = config.final_learning_rate
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warm * (final + (config.learning_rate - final) * cosine)


class _Run:
    """The state of a run and one step of it."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.iteration = 0
        self.warm_from = 0
        self.diffusion = Diffusion(config.model.diffusion)
        self.fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
        torch.manual_seed(config.seed)
        self.network = _laid_out(build_network(config.model.network))
        if config.initialize_from is not None and not self._state_path.exists():
            self._initialize(config.initialize_from)
        else:
            begin(self.network, config.model)
        self.optimizer = torch.optim.Adam(
            _parameter_groups(self.network, config.optimizer.full_precision_factor),
            lr=1.0,
            betas=config.optimizer.betas,
            fused=True,
        )
        self.model, self._fabric_optimizer = self.fabric.setup(self.network, self.optimizer)
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(config.optimizer.ema_decay)
        )
        self._restore()
        if config.compile:
            fuse(self.network, compiled_kernels())
        self._teacher = self._load_teacher(config.teacher)
        self._weight_binarizers = [
            (layer, layer.binarize_weight)
            for layer in self.network.modules()
            if isinstance(layer, BinaryConv2d) and layer.binarize_weight is not None
        ]
        device = self.fabric.device
        schedule = self.diffusion.schedule
        self._signal = torch.tensor(schedule.signal, dtype=torch.float32, device=device)
        self._noise = torch.tensor(schedule.noise, dtype=torch.float32, device=device)

    def batches(self) -> Iterator[list[Tensor]]:
        """The batches of the iterations still to do, in order."""
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

    def step(self, pictures: Tensor, conds: Tensor) -> Tensor:
        """One update; returns the loss, detached."""
        config = self.config
        torch.manual_seed(_mix(config.seed, self.iteration))  # dropout, timesteps and noise
        timesteps = self._draw_timesteps(len(pictures))
        clean = self.diffusion.to_variable(pictures, conds)
        noise = torch.randn_like(clean)
        signal = self._signal[timesteps][:, None, None, None]
        noise_level = self._noise[timesteps][:, None, None, None]
        noisy = signal * clean + noise_level * noise
        target = self.diffusion.prediction.target(clean, noise, signal, noise_level)

        self.network.train()
        self._binarize_weights(self.iteration >= config.real_weights_until)
        set_progress(self.network, self.iteration / config.iterations)
        inputs = self.diffusion.network_input(noisy, signal), conds, timesteps
        said = self.model(*inputs)
        loss = _LOSSES[config.loss](said.float(), self._with_teacher(target, *inputs))
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("factor", 1.0) * learning_rate(
                config.optimizer, self.iteration, config.iterations, self.warm_from
            )
        self._fabric_optimizer.zero_grad()
        self.fabric.backward(loss)
        if config.optimizer.clip_norm is not None:
            self.fabric.clip_gradients(
                self.model, self._fabric_optimizer, max_norm=config.optimizer.clip_norm
            )
        self._fabric_optimizer.step()
        self.average.update_parameters(self.network)
        self.iteration += 1
        return loss.detach()

    def is_sound(self) -> bool:
        """Whether every weight is a finite number."""
        weights = (*self.network.parameters(), *self.average.parameters())
        return all(bool(weight.isfinite().all()) for weight in weights)

    def _draw_timesteps(self, count: int) -> Tensor:
        if self.config.timestep_per_batch:
            return self._draw_timesteps_of(1).expand(count)
        return self._draw_timesteps_of(count)

    def _draw_timesteps_of(self, count: int) -> Tensor:
        total = len(self.diffusion.schedule)
        share = self.config.start_probability
        device = self.fabric.device
        if share is None or total == 1:
            return torch.randint(total, (count,)).to(device)
        at_start = torch.rand(count) < share
        elsewhere = torch.randint(total - 1, (count,))
        return torch.where(at_start, total - 1, elsewhere).to(device)

    def _with_teacher(self, target: Tensor, *inputs: Tensor) -> Tensor:
        share = self.config.teacher_share
        if self._teacher is None or not share:
            return target
        with torch.no_grad():
            return torch.lerp(target, self._teacher(*inputs).float(), share)

    def _load_teacher(self, path: Path | None) -> nn.Module | None:
        if path is None:
            return None
        teacher, model = load_model(path)
        if (model.diffusion, model.scale) != (self.config.model.diffusion, self.config.model.scale):
            raise TrainingError(
                f"{path}: was trained for another diffusion or scale than model; a teacher must "
                "predict the same thing"
            )
        return self.fabric.to_device(_laid_out(teacher).requires_grad_(False))

    def _binarize_weights(self, binary: bool) -> None:
        for layer, binarizer in self._weight_binarizers:
            layer.binarize_weight = binarizer if binary else None

    def _initialize(self, path: Path) -> None:
        network, other = load_model(path)
        if not transfer(network, other.network, self.network, self.config.model.network):
            raise TrainingError(
                f"{path}: holds another network than model.network; make them the same but for "
                "method, or channels by a whole factor"
            )

    def save(self) -> None:
        """Write the state and the averaged weights, each whole or not at all."""
        state = {
            "config": self._fingerprint(),
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        # To memory first: torch's own file writing hides the system's reason when it fails.
        data = sealed(state)
        write_atomically(self._state_path, lambda temporary: temporary.write_bytes(data))
        self.save_model()

    def save_model(self) -> None:
        """Write the averaged weights as a model file."""
        save_model(self.config.output / MODEL_NAME, self.average.module, self.config.model)

    @property
    def _state_path(self) -> Path:
        return self.config.output / STATE_NAME

    def _restore(self) -> None:
        here = self._state_path.exists()
        path = self._state_path if here else self.config.resume_from
        if path is None:
            return
        try:
            state = opened(path.read_bytes()) if here else read_compact(path)
            if state["config"] != self._fingerprint():
                raise TrainingError(
                    f"{path}: is of a run with another configuration; choose another output or "
                    "delete it"
                )
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._lay_out_moments()
            self.iteration = int(state["iteration"])
            steps = (int(moments["step"]) for moments in self.optimizer.state.values())
            self.warm_from = self.iteration - max(steps, default=0)
        except TrainingError:
            raise
        except Exception as error:  # torch raises many kinds for damaged files
            raise TrainingError(
                f"{path}: cannot be read ({type(error).__name__}); delete it to start anew"
            ) from None

    def _lay_out_moments(self) -> None:
        """As the weights lie: the fused update goes through both in the order of their bytes."""
        for weight, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(weight).copy_(moments[name])

    def _fingerprint(self) -> str:
        """The configuration but for what does not change the weights."""
        elsewhere = ("output", "resume_from", "accelerator", "minutes")
        watching = ("validation", "checkpoint_every", "log_every")
        free: Any = dict.fromkeys(elsewhere + watching, True)
        free["data"] = {"workers", "cache", "store"}
        return self.config.model_dump_json(exclude=free)


def _parameter_groups(network: nn.Module, factor: float) -> list[dict[str, Any]]:
    """One for all, or a second, at ``factor`` of the rate, for full-precision convolutions."""
    if factor == 1:
        return [{"params": list(network.parameters())}]
    real = [
        layer.weight
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        or (isinstance(layer, BinaryConv2d) and layer.binarize_weight is None)
    ]
    chosen = {id(weight) for weight in real}
    others = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [{"params": others}, {"params": real, "factor": factor}]


def _laid_out(network: nn.Module) -> nn.Module:
    """With the channels of a pixel side by side: what CPUs and tensor cores convolve fastest."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


_LOSSES = {"l1": nn.functional.l1_loss, "l2": nn.functional.mse_loss}


def _mix(seed: int, iteration: int) -> int:
    """A seed of its own for each iteration (the golden-ratio hash of Knuth, 64 bits)."""
    return (seed + (iteration + 1) * 0x9E3779B97F4A7C15) % 2**63
