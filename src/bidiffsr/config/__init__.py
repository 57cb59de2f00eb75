"""Frozen, validated configuration: networks, diffusion, model files and training."""

from bidiffsr.config.base import Config, load_yaml, parse_config
from bidiffsr.config.diffusion import (
    AngularSchedule,
    DiffusionConfig,
    LinearSchedule,
    SamplingConfig,
    ScheduleConfig,
)
from bidiffsr.config.model import ModelConfig, Quality
from bidiffsr.config.network import BiDiffSRConfig, NetworkConfig, SR3Config
from bidiffsr.config.training import (
    DataConfig,
    DegradationConfig,
    OptimizerConfig,
    TrainingConfig,
    ValidationConfig,
)

__all__ = [
    "AngularSchedule",
    "BiDiffSRConfig",
    "Config",
    "DataConfig",
    "DegradationConfig",
    "DiffusionConfig",
    "LinearSchedule",
    "ModelConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Quality",
    "SR3Config",
    "SamplingConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "ValidationConfig",
    "load_yaml",
    "parse_config",
]
