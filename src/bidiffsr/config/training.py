"""One training run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bidiffsr.config.base import (
    Config,
    FilePath,
    Fraction,
    Incidental,
    NaturalInt,
    PositiveInt,
    equals,
    renamed,
)
from bidiffsr.config.model import ModelConfig


class DegradationConfig(Config):
    """What befalls low-resolution training pictures, each with the same chance (`degrade`)."""

    probability: Annotated[Fraction, renamed("probability", before="share")] = 0.75
    """The chance of each: blur, noise, JPEG."""
    blur: Annotated[float, Field(ge=0, le=2)] = 0.8
    """Standard deviation of the strongest blur, low-resolution pixels."""
    noise: Annotated[float, Field(ge=0, le=100)] = 8.0
    """Standard deviation of the strongest noise at medium grey, of 255 grey levels."""
    jpeg: Annotated[int, Field(ge=1, le=95)] | None = 50
    """The lowest JPEG quality; the highest is 95. null: no JPEG."""


class DataConfig(Config):
    """Where training pictures come from and how crops are made."""

    folders: tuple[FilePath, ...]
    exclude: tuple[str, ...] = ()
    """File names that are left out."""
    crop: PositiveInt = 256
    """Side of the square high-resolution crop, pixels."""
    degradation: DegradationConfig | None = None
    """null: low-resolution pictures are bicubic's, as in benchmarks."""
    cache: Annotated[bool, Incidental()] = True
    """Keep decoded pictures in memory."""
    store: Annotated[FilePath | None, Incidental()] = None
    """A file that keeps them instead, for this run and all others of the same pictures; made where
    it is missing."""
    workers: Annotated[int, Field(ge=0, le=1024), Incidental()] = 0


class OptimizerConfig(Config):
    """Adam with warm-up, then a constant or cosine-decayed rate; defaults are the paper's."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    final_learning_rate: Annotated[float, Field(ge=0)] | None = None
    """Where the cosine ends; null keeps the rate constant."""
    full_precision_factor: Annotated[float, Field(gt=0, exclude_if=equals(1.0))] = 1.0
    """The rate of full-precision convolutions' weights, as a multiple of all others': signs turn
    only at rates that are too coarse for these."""
    warmup: NaturalInt = 0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class ValidationConfig(Config):
    """What is scored while training."""

    folders: tuple[FilePath, ...] = ()
    every: PositiveInt = 1000
    """Iterations between scorings."""
    pictures: PositiveInt = 4
    """How many pictures of each folder; the first of these also make the sample grid."""


class TrainingConfig(Config):
    """One training run, whole: the same file and the same state give the same weights."""

    output: Annotated[FilePath, Incidental()]
    model: ModelConfig = ModelConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: Annotated[ValidationConfig, Incidental()] = ValidationConfig()
    loss: Literal["l1", "l2"] = "l1"
    iterations: PositiveInt = 1_000_000
    batch: PositiveInt = 16
    noisiest_probability: Annotated[
        Fraction | None, renamed("noisiest_probability", before="start_probability")
    ] = None
    """The probability of the last timestep, where sampling starts; the others are uniform over the
    remaining timesteps. null: uniform over all."""
    initialize_from: FilePath | None = None
    """A model file whose weights training starts from: the same network, another ``method`` of it,
    or one with fewer channels, which is widened."""
    teacher: FilePath | None = None
    """A model file whose prediction is mixed into the target; any network, the same diffusion."""
    distillation_weight: Annotated[
        Fraction, renamed("distillation_weight", before="teacher_share")
    ] = 0.5
    """Of the teacher's prediction in the target; the truth has the rest."""
    timestep_per_batch: bool = False
    """One timestep for all samples of a batch, as published, instead of one for each."""
    binarize_weights_from: Annotated[
        NaturalInt, renamed("binarize_weights_from", before="real_weights_until")
    ] = 0
    """The iteration from which weights are binarized; before, only activations are."""
    resume_from: Annotated[FilePath | None, Incidental()] = None
    """A compact state (``training/compact.py``) to go on from where the output holds none."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    checkpoint_every: Annotated[PositiveInt, Incidental()] = 500
    log_every: Annotated[PositiveInt, Incidental()] = 50
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Annotated[Literal["auto", "cpu", "cuda"], Incidental()] = "auto"
    compile: bool = False
    """Compile what surrounds the binarized convolutions (`binary.fused`); the first iteration then
    takes some seconds."""
    minutes: Annotated[Annotated[float, Field(gt=0)] | None, Incidental()] = None
    """Stop cleanly, with a checkpoint, after this long; the same command goes on."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        for multiple in (self.model.scale, self.model.network.size_multiple):
            if self.data.crop % multiple:
                raise ValueError(f"data.crop: {self.data.crop} must be a multiple of {multiple}")
        return self
