"""Which network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, Tag, model_validator

from bidiffsr.binary.methods import METHODS, FloatHelp
from bidiffsr.config.base import Config, PositiveInt, Timesteps, equals, tagged

_PICTURE_CHANNELS = 3

_MAX_CHANNELS = 2**14

Patch = Annotated[int, Field(ge=1, le=8, exclude_if=equals(1))]

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(METHODS)]


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


class BiDiffSRConfig(Config):
    """The binarized U-Net; defaults are the published network (docs/method.md)."""

    architecture: Literal["bidiffsr"] = "bidiffsr"
    patch: Patch = 1
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
    method: Method = "bi-diffsr"
    """Of the binarized convolutions: a name of ``bidiffsr.binary.METHODS``."""
    resampling: Literal["consistent", "strided"] = "consistent"
    """CP-Down and CP-Up, or strided and nearest-neighbour convs that change the channels."""
    fusion: Literal["cs", "split", "concat", "add"] = "cs"
    normalization: Annotated[Literal["group", "affine"], Field(exclude_if=equals("group"))] = (
        "group"
    )
    """Before SiLU: group norm; or a learned scale and shift a channel, which needs no sums over the
    picture."""
    middle_attention: Annotated[bool, Field(exclude_if=equals(True))] = True
    """Whether the first residual block of the middle attends, as published."""
    stem_condition: Annotated[Literal["pixels", "mean"], Field(exclude_if=equals("pixels"))] = (
        "pixels"
    )
    """What the stem sees of the upscaled low-resolution picture: every pixel, or each patch's mean,
    three channels."""
    weight_gain: Annotated[bool, Field(exclude_if=equals(False))] = False
    """A learned factor for each output channel of a binarized conv, beside its mean magnitude."""
    float_help: Annotated[FloatHelp, Field(exclude_if=equals("none"))] = "none"
    """What is added to each binarized 3×3 conv: nothing, a 1×1 or a grouped 3×3 conv of its real
    input, in full precision; PyTorch alone runs it."""
    identity_shortcut: bool = True
    timestep_aware_redistribution: bool = True
    """TaR per time group; otherwise one learned threshold for all timesteps."""
    timestep_aware_activation: bool = True
    """TaA per time group; otherwise one RPReLU for all timesteps."""

    @property
    def attends(self) -> bool:
        """Whether positions are compared with each other, anywhere."""
        return self.middle_attention or bool(self.attention_levels)

    @property
    def size_multiple(self) -> int:
        """What height and width must be divisible by."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def condition_channels(self) -> int:
        """How many of the channels that the stem reads, the first, are the condition's."""
        return _PICTURE_CHANNELS if self.stem_condition == "mean" else self.tail_channels

    @property
    def stem_channels(self) -> int:
        """Channels that the stem reads: those of the condition, then the noisy variable's."""
        return self.condition_channels + self.tail_channels

    @property
    def tail_channels(self) -> int:
        """Channels that the tail writes, a square of pixels in each position."""
        return _PICTURE_CHANNELS * self.patch**2

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
    patch: Patch = 1
    """As in ``BiDiffSRConfig``."""
    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 8)
    blocks_per_level: Annotated[int, Field(ge=1, le=16)] = 2
    norm_groups: PositiveInt = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @property
    def attends(self) -> bool:
        """Whether positions are compared with each other; in the middle, here."""
        return True

    @property
    def size_multiple(self) -> int:
        """What height and width must be divisible by."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def condition_channels(self) -> int:
        """How many of the channels that the stem reads, the first, are the condition's."""
        return self.tail_channels

    @property
    def stem_channels(self) -> int:
        """Channels that the stem reads: those of the condition, then the noisy variable's."""
        return self.condition_channels + self.tail_channels

    @property
    def tail_channels(self) -> int:
        """Channels that the tail writes, a square of pixels in each position."""
        return _PICTURE_CHANNELS * self.patch**2

    @model_validator(mode="after")
    def _check(self) -> SR3Config:
        _check_levels(self.channels, self.multipliers, self.norm_groups)
        return self


NetworkConfig = Annotated[
    Annotated[BiDiffSRConfig, Tag("bidiffsr")] | Annotated[SR3Config, Tag("sr3")],
    tagged("architecture", "bidiffsr", "sr3"),
]
