"""The published option files: ``network_g`` and ``beta_schedule`` as our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from bidiffsr.config import (
    BiDiffSRConfig,
    Config,
    DiffusionConfig,
    ModelConfig,
    parse_config,
)
from bidiffsr.config.base import PositiveInt
from bidiffsr.errors import ConfigError

Sizes = tuple[PositiveInt, ...] | None


class _NetworkOptions(Config):
    """``network_g``. Levels are named by a pretend picture size that halves at each level."""

    type: Literal["BIDiffSRUNet"] = "BIDiffSRUNet"
    in_channel: Literal[6] = 6
    out_channel: Literal[3] = 3
    inner_channel: PositiveInt
    norm_groups: PositiveInt
    channel_mults: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)]
    attn_res: Sizes = None
    res_blocks: PositiveInt
    dropout: float = 0.0
    image_size: PositiveInt
    fp_res: Sizes = None
    total_step: PositiveInt
    dynamic_group: PositiveInt


class _BetaSchedule(Config):
    """``beta_schedule``. What has no effect there is accepted and ignored."""

    scheduler_type: Literal["DDIM"] = "DDIM"
    schedule: Literal["linear"] = "linear"
    n_timestep: PositiveInt | None = None
    linear_start: float = 1e-6
    linear_end: float = 1e-2
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    num_inference_steps: PositiveInt = 50
    guidance_scale: float = 1.0
    is_guidance: Literal[False] = False


def reference_network_config(options: Mapping[str, Any], where: str) -> BiDiffSRConfig:
    """Map the published ``network_g`` options onto ours, levels by index instead of size.

    Raises:
        ConfigError: naming the first option that is missing, unknown or out of range.
    """
    given = parse_config(_NetworkOptions, options, where, "network_g")
    sizes = [given.image_size // 2**level for level in range(len(given.channel_mults))]
    full_precision = [size in (given.fp_res or ()) for size in sizes]
    count = sum(full_precision)
    if not all(full_precision[:count]):
        raise ConfigError(
            f"{where}: network_g.fp_res: {list(given.fp_res or ())} must name the shallowest "
            f"levels, such as {sizes[:count]}"
        )
    values = {
        "channels": given.inner_channel,
        "multipliers": given.channel_mults,
        "blocks_per_level": given.res_blocks,
        "norm_groups": given.norm_groups,
        "timesteps": given.total_step,
        "time_groups": given.dynamic_group,
        "dropout": given.dropout,
        "full_precision_up_levels": count,
        "attention_levels": [
            level for level, size in enumerate(sizes) if size in (given.attn_res or ())
        ],
    }
    return parse_config(BiDiffSRConfig, values, where, "network_g")


def reference_model_config(
    document: Mapping[str, Any], network: BiDiffSRConfig, source: str, where: str
) -> ModelConfig:
    """The configuration of a model file for ``network``, from a whole option file.

    Raises:
        ConfigError: naming the first option that is unknown or out of range.
    """
    given = document.get("beta_schedule")
    betas = parse_config(_BetaSchedule, {} if given is None else given, where, "beta_schedule")
    prediction = "v" if betas.prediction_type == "v_prediction" else betas.prediction_type
    diffusion = {
        "prediction": prediction,
        "schedule": {
            "timesteps": betas.n_timestep or network.timesteps,
            "beta_start": betas.linear_start,
            "beta_end": betas.linear_end,
        },
    }
    values = {
        "network": network,
        "diffusion": parse_config(DiffusionConfig, diffusion, where, "beta_schedule"),
        "sampling": {"steps": betas.num_inference_steps},
        "scale": document.get("scale", 4),
        "provenance": {"source": source},
    }
    return parse_config(ModelConfig, values, where)
