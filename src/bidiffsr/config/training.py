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
    """The chance of each: blur, sharpening, resizing, noise, JPEG."""
    blur: Annotated[float, Field(ge=0, le=2)] = 0.8
    """Standard deviation of the strongest blur, low-resolution pixels."""
    noise: Annotated[float, Field(ge=0, le=100)] = 8.0
    """Standard deviation of the strongest noise at medium grey, of 255 grey levels."""
    jpeg: Annotated[int, Field(ge=1, le=95)] | None = 50
    """The lowest JPEG quality; the highest is 95. null: no JPEG."""
    sharpen: Annotated[float, Field(ge=0, le=4, exclude_if=equals(0.0))] = 0.0
    """The strongest unsharp mask, which leaves halos: how much of what a blur of one pixel takes
    away is added."""
    resize: Annotated[float, Field(ge=0.25, le=1, exclude_if=equals(1.0))] = 1.0
    """The smallest factor by which pictures are made smaller; they get their size back at the end.
    1: none."""
    rounds: Annotated[int, Field(ge=1, le=4, exclude_if=equals(1))] = 1
    """How many times all of it happens, as to pictures that are passed on and saved again (Wang et
    al. 2021, "Real-ESRGAN", section 3.2)."""
    clean: Annotated[Fraction, Field(exclude_if=equals(0.0))] = 0.0
    """The share of pictures that nothing befalls."""


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


class PerceptualConfig(Config):
    """A perceptual loss beside the plain one (``training/perceptual.py``)."""

    weights: FilePath
    """VGG16's and LPIPS's, a safetensors file."""
    factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the distance in the sum."""
    blocks: Annotated[int, Field(ge=1, le=5)] = 3
    """How many of the five blocks; all five are LPIPS."""


class AdversarialConfig(Config):
    """An adversarial loss beside the plain one (``training/adversarial.py``)."""

    factor: Annotated[float, Field(gt=0)] = 1.0
    """Of the discriminator's verdict in the sum."""
    channels: PositiveInt = 32
    """Of the discriminator's first layer."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    """Of the discriminator, constant."""


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
    perceptual: Annotated[PerceptualConfig | None, Field(exclude_if=equals(None))] = None
    """null: the plain loss alone."""
    adversarial: Annotated[AdversarialConfig | None, Field(exclude_if=equals(None))] = None
    """null: no discriminator."""
    backward_simulation: Annotated[bool, Field(exclude_if=equals(False))] = False
    """Make noisy variables from what the network itself predicts at the noisiest timestep, as
    sampling does, not from the truth (Yin et al. 2024, "Improved Distribution Matching
    Distillation", section 4.5)."""
    iterations: PositiveInt = 1_000_000
    batch: PositiveInt = 16
    """Samples of one update, over all processes."""
    accumulate: Annotated[PositiveInt, Field(exclude_if=equals(1))] = 1
    """Parts of the batch that are computed one after the other, to save memory."""
    noisiest_probability: Annotated[
        Fraction | None, renamed("noisiest_probability", before="start_probability")
    ] = None
    """The probability of the last timestep, where sampling starts; the others are uniform over the
    remaining timesteps. null: uniform over all."""
    timestep_weights: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...] | None, Field(exclude_if=equals(None))
    ] = None
    """In place of ``noisiest_probability``: one number for each timestep from 0 up, in proportion
    to which it is drawn."""
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
    recompute: Annotated[bool, Incidental()] = False
    """Activation checkpointing: residual blocks are computed anew in the backward pass, which takes
    less memory and more time."""
    minutes: Annotated[Annotated[float, Field(gt=0)] | None, Incidental()] = None
    """Stop cleanly, with a checkpoint, after this long; the same command goes on."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        for multiple in (self.model.scale, self.model.network.size_multiple):
            if self.data.crop % multiple:
                raise ValueError(f"data.crop: {self.data.crop} must be a multiple of {multiple}")
        weights, timesteps = self.timestep_weights, self.model.diffusion.schedule.timesteps
        if weights is not None and (len(weights) != timesteps or not sum(weights)):
            raise ValueError(
                f"timestep_weights: {list(weights)}; expected {timesteps} numbers, one for each "
                "timestep, not all of them 0"
            )
        return self
