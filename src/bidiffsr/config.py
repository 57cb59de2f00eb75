"""Frozen, validated configuration: networks, diffusion, model files and training.

Every class refuses unknown keys, so a misspelt option is an error and never a silent default.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import pydantic_core
import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from bidiffsr.errors import ConfigError

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Timesteps = Annotated[int, Field(gt=0, le=100_000)]
Quality = Literal["fast", "balanced", "best"]

PICTURE_CHANNELS = 3
_MAX_CHANNELS = 2**14


class Config(BaseModel):
    """Base of all configurations: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _check_levels(channels: int, multipliers: tuple[int, ...], norm_groups: int) -> None:
    """What holds for any U-Net of ours; the limits keep a hostile header from costing anything."""
    if not 1 <= len(multipliers) <= 8:
        raise ValueError(f"multipliers: {len(multipliers)} levels given, expected 1 to 8")
    if channels % 2:
        raise ValueError(f"channels: {channels} is odd; the time encoding halves it")
    if channels % norm_groups:
        raise ValueError(f"channels: {channels} must be a multiple of norm_groups, {norm_groups}")
    if channels * max(multipliers) > _MAX_CHANNELS:
        raise ValueError(
            f"channels: {channels} times {max(multipliers)} is more than {_MAX_CHANNELS}"
        )


def _is(default: object) -> Callable[[Any], bool]:
    """For ``exclude_if``: a key that came later is written only where it says something new."""
    return lambda value: value == default


class BiDiffSRConfig(Config):
    """The binarized U-Net; defaults are the published network (docs/method.md)."""

    architecture: Literal["bidiffsr"] = "bidiffsr"
    patch: Annotated[int, Field(ge=1, le=8, exclude_if=_is(1))] = 1
    """Side of the squares of pixels that become channels before the stem, and pixels again behind
    the tail: the network works at 1/patch of the picture's size. 1: published."""
    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    blocks_per_level: Annotated[int, Field(ge=1, le=16)] = 2
    norm_groups: PositiveInt = 16
    attention_levels: tuple[int, ...] = ()
    """Levels (0 = full size) whose residual blocks attend; the middle does by itself."""
    full_precision_up_levels: Annotated[int, Field(ge=0)] = 2
    """How many levels going up, counted from the shallowest, stay full precision."""
    timesteps: Timesteps = 2000
    """T, by which a timestep is assigned to its group: k = clamp(floor(t K / T), 0, K - 1)."""
    time_groups: Annotated[int, Field(ge=1, le=1000)] = 5
    """K, the number of parameter sets of TaR and TaA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    method: Literal["bi-diffsr", "full-precision"] = "bi-diffsr"
    resampling: Literal["consistent", "strided"] = "consistent"
    """CP-Down and CP-Up, or strided and nearest-neighbour convs that change the channels."""
    fusion: Literal["cs", "split", "concat", "add"] = "cs"
    normalization: Annotated[Literal["group", "affine"], Field(exclude_if=_is("group"))] = "group"
    """Before SiLU: group norm; or a learned scale and shift a channel, which needs no sums over the
    picture."""
    middle_attention: Annotated[bool, Field(exclude_if=_is(True))] = True
    """Whether the first residual block of the middle attends, as published."""
    stem_condition: Annotated[Literal["pixels", "mean"], Field(exclude_if=_is("pixels"))] = "pixels"
    """What the stem sees of the upscaled low-resolution picture: every pixel, or each patch's mean,
    three channels."""
    weight_gain: Annotated[bool, Field(exclude_if=_is(False))] = False
    """A learned factor for each output channel of a binarized conv, beside its mean magnitude."""
    identity_shortcut: bool = True
    timestep_aware_redistribution: bool = True
    """TaR per time group; otherwise one learned threshold for all timesteps."""
    timestep_aware_activation: bool = True
    """TaA per time group; otherwise one RPReLU for all timesteps."""

    @property
    def size_multiple(self) -> int:
        """What height and width must be divisible by."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def stem_channels(self) -> int:
        """Channels that the stem reads: those of the condition, then the noisy variable's."""
        noisy = PICTURE_CHANNELS * self.patch**2
        return noisy + (noisy if self.stem_condition == "pixels" else PICTURE_CHANNELS)

    @property
    def tail_channels(self) -> int:
        """Channels that the tail writes, a square of pixels in each position."""
        return PICTURE_CHANNELS * self.patch**2

    @model_validator(mode="after")
    def _check(self) -> BiDiffSRConfig:
        _check_levels(self.channels, self.multipliers, self.norm_groups)
        levels = len(self.multipliers)
        if self.multipliers[0] != 1:
            raise ValueError(f"multipliers: {self.multipliers} must begin with 1, as the stem does")
        if self.full_precision_up_levels > levels:
            raise ValueError(
                f"full_precision_up_levels: {self.full_precision_up_levels} of {levels} levels"
            )
        if any(not 0 <= level < levels for level in self.attention_levels):
            raise ValueError(
                f"attention_levels: {self.attention_levels}, levels are 0 to {levels - 1}"
            )
        if self.resampling == "consistent":
            pairs = zip(self.multipliers, self.multipliers[1:], strict=False)
            if any(deeper != 2 * shallower for shallower, deeper in pairs):
                raise ValueError(
                    f"multipliers: {self.multipliers} must double from level to level, since "
                    "CP-Down doubles and CP-Up halves the channels"
                )
        return self


class SR3Config(Config):
    """SR3 (Saharia et al. 2021), the full-precision rival; defaults are 55.4 M parameters."""

    architecture: Literal["sr3"] = "sr3"
    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    blocks_per_level: Annotated[int, Field(ge=1, le=16)] = 2
    norm_groups: PositiveInt = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @property
    def size_multiple(self) -> int:
        """What height and width must be divisible by."""
        return 2 ** (len(self.multipliers) - 1)

    @model_validator(mode="after")
    def _check(self) -> SR3Config:
        _check_levels(self.channels, self.multipliers, self.norm_groups)
        return self


def _tag(key: str, default: str, other: str) -> Discriminator:
    """Chooses a member of a union by ``key``, which may be left out for the ``default``."""

    def choose(value: Any) -> Any:
        named = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return named if isinstance(named, str) else str(named)

    return Discriminator(
        choose,
        custom_error_type="tag",
        custom_error_message=f"{key} must be '{default}' or '{other}'",
    )


NetworkConfig = Annotated[
    Annotated[BiDiffSRConfig, Tag("bidiffsr")] | Annotated[SR3Config, Tag("sr3")],
    _tag("architecture", "bidiffsr", "sr3"),
]


class LinearSchedule(Config):
    """The published noise schedule: betas linear in t."""

    kind: Literal["linear"] = "linear"
    timesteps: Timesteps = 2000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 1e-2


class AngularSchedule(Config):
    """A short schedule at equal angles: signal cos(phi), noise sin(phi), phi = (t + 1) pi / 2T.

    The last timestep holds no signal at all, so one step from it predicts the mean.
    """

    kind: Literal["angular"] = "angular"
    timesteps: Annotated[int, Field(gt=0, le=1000)] = 8


ScheduleConfig = Annotated[
    Annotated[LinearSchedule, Tag("linear")] | Annotated[AngularSchedule, Tag("angular")],
    _tag("kind", "linear", "angular"),
]
_TAGS = {"bidiffsr", "sr3", "linear", "angular"}


class DiffusionConfig(Config):
    """What is diffused, how, and what the network predicts; defaults are the published chain."""

    schedule: ScheduleConfig = LinearSchedule()
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    variable: Literal["image", "residual"] = "image"
    """Diffuse the picture itself, or its difference from the upscaled low-resolution picture."""
    residual_scale: Annotated[float, Field(gt=0)] = 0.1
    """A residual is divided by this before it is diffused; [0,1] picture units."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """The predicted clean variable is clipped to [-clip, clip] at each step; null: not at all."""
    input_scaling: Literal["none", "signal"] = "none"
    """"signal": the network sees the noisy variable times its signal level, so nothing but the
    upscaled picture where the level is zero."""

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if self.prediction == "epsilon" and isinstance(self.schedule, AngularSchedule):
            raise ValueError(
                "prediction: epsilon says nothing of the clean variable where an angular schedule "
                "has no signal; choose v or sample"
            )
        return self


class SamplingConfig(Config):
    """How a model is sampled."""

    sampler: Literal["ddim", "dpm-solver++"] = "ddim"
    steps: PositiveInt = 50
    spacing: Literal["leading", "trailing"] = "leading"
    eta: Fraction = 0.0
    noise_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Standard deviation of the start noise; below 1 trades detail for fidelity."""
    back_projections: Annotated[int, Field(ge=0, le=16, exclude_if=lambda count: not count)] = 0
    """How often the clean picture is corrected by what it lacks, made small, of its source."""

    @model_validator(mode="after")
    def _check(self) -> SamplingConfig:
        if self.sampler != "ddim" and self.eta > 0:
            raise ValueError(f"eta: {self.eta}, but {self.sampler} is deterministic; make it 0")
        return self


class ModelConfig(Config):
    """All a model file says of itself beside its weights."""

    network: NetworkConfig = BiDiffSRConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    """How it asks to be sampled where the user says nothing."""
    qualities: dict[Quality, SamplingConfig] = Field(default={}, exclude_if=lambda named: not named)
    """How it asks to be sampled where the user names a quality (see ``Upscaler.__call__``); files
    that name none do not have the key."""
    scale: Annotated[int, Field(ge=1, le=16)] = 4
    """The upscaling factor the weights were trained for."""
    provenance: dict[str, str] = {}
    """Free text by topic: data, licence, training cost, commit."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        timesteps = self.diffusion.schedule.timesteps
        samplings = {f"qualities.{name}": each for name, each in self.qualities.items()}
        for key, sampling in ({"sampling": self.sampling} | samplings).items():
            if sampling.steps > timesteps:
                raise ValueError(f"{key}.steps: {sampling.steps} of {timesteps} timesteps")
        if isinstance(self.network, BiDiffSRConfig) and self.network.timesteps != timesteps:
            raise ValueError(
                f"network.timesteps: {self.network.timesteps} differs from the schedule's "
                f"{timesteps}"
            )
        return self


class DegradationConfig(Config):
    """What befalls low-resolution training pictures, each with the same chance (`degrade`)."""

    share: Fraction = 0.75
    """The chance of each: blur, noise, JPEG."""
    blur: Annotated[float, Field(ge=0, le=2)] = 0.8
    """Standard deviation of the strongest blur, low-resolution pixels."""
    noise: Annotated[float, Field(ge=0, le=100)] = 8.0
    """Standard deviation of the strongest noise at medium grey, of 255 grey levels."""
    jpeg: Annotated[int, Field(ge=1, le=95)] | None = 50
    """The lowest JPEG quality; the highest is 95. null: no JPEG."""


class DataConfig(Config):
    """Where training pictures come from and how crops are made."""

    folders: tuple[Path, ...]
    exclude: tuple[str, ...] = ()
    """File names that are left out."""
    crop: PositiveInt = 256
    """Side of the square high-resolution crop, pixels."""
    degradation: DegradationConfig | None = None
    """null: low-resolution pictures are bicubic's, as in benchmarks."""
    cache: bool = True
    """Keep decoded pictures in memory."""
    store: Path | None = None
    """A file that keeps them instead, for this run and all others of the same pictures; made where
    it is missing."""
    workers: Annotated[int, Field(ge=0)] = 0


class OptimizerConfig(Config):
    """Adam with warm-up, then a constant or cosine-decayed rate; defaults are the paper's."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    final_learning_rate: Annotated[float, Field(ge=0)] | None = None
    """Where the cosine ends; null keeps the rate constant."""
    full_precision_factor: Annotated[float, Field(gt=0, exclude_if=_is(1.0))] = 1.0
    """The rate of full-precision convolutions' weights, as a multiple of all others': signs turn
    only at rates that are too coarse for these."""
    warmup: Annotated[int, Field(ge=0)] = 0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class ValidationConfig(Config):
    """What is scored while training."""

    folders: tuple[Path, ...] = ()
    every: PositiveInt = 1000
    """Iterations between scorings."""
    pictures: PositiveInt = 4
    """How many pictures of each folder; the first of these also make the sample grid."""


class TrainingConfig(Config):
    """One training run, whole: the same file and the same state give the same weights."""

    output: Path
    model: ModelConfig = ModelConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: ValidationConfig = ValidationConfig()
    loss: Literal["l1", "l2"] = "l1"
    iterations: PositiveInt = 1_000_000
    batch: PositiveInt = 16
    start_probability: Fraction | None = None
    """Share of samples trained at the last timestep, where sampling starts; the others are
    uniform over the remaining timesteps. null: uniform over all."""
    initialize_from: Path | None = None
    """A model file whose weights training starts from: the same network, another ``method`` of it,
    or one with fewer channels, which is widened."""
    teacher: Path | None = None
    """A model file whose prediction is mixed into the target; any network, the same diffusion."""
    teacher_share: Fraction = 0.5
    """The teacher's part of the target; the truth has the rest."""
    timestep_per_batch: bool = False
    """One timestep for all samples of a batch, as published, instead of one for each."""
    real_weights_until: Annotated[int, Field(ge=0)] = 0
    """The iteration from which weights are binarized; before, only activations are."""
    resume_from: Path | None = None
    """A compact state (``training/compact.py``) to go on from where the output holds none."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Compile what surrounds the binarized convolutions (`binary.fused`); the first iteration then
    takes some seconds."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop cleanly, with a checkpoint, after this long; the same command goes on."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        for multiple in (self.model.scale, self.model.network.size_multiple):
            if self.data.crop % multiple:
                raise ValueError(f"data.crop: {self.data.crop} must be a multiple of {multiple}")
        return self


ConfigType = TypeVar("ConfigType", bound=Config)


def parse_config(
    kind: type[ConfigType], values: Any, where: str, section: str | None = None
) -> ConfigType:
    """Validate plain data as ``kind``.

    Args:
        kind: the configuration.
        values: plain data.
        where: names the file or other source in messages.
        section: the key under which ``values`` stand there, if they are a part of it.

    Raises:
        ConfigError: naming ``where`` and the first key that does not fit.
    """
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        # A misspelt key is named before the one that is missing for it.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        parts = [section] if section else []
        parts += [str(part) for part in first["loc"] if part not in _TAGS]
        key = ".".join(parts) or "configuration"
        raise ConfigError(f"{where}: {key}: {_reason(first)}") from None


def _reason(error: pydantic_core.ErrorDetails) -> str:
    given = repr(error["input"])
    shortened = given if len(given) <= 60 else f"{given[:60]}..."
    match error["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "unknown key; correct or remove it"
        case "model_type" | "model_attributes_type":
            return f"expected a mapping, got {shortened}"
        case "value_error" | "tag":
            return error["msg"].removeprefix("Value error, ")
        case _:
            return f"{error['msg']}, got {shortened}"


def load_yaml(path: Path) -> Any:
    """Read one YAML document as plain data.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not YAML: {reason}") from None
