"""Networks for the tests of the engine, and what PyTorch makes of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bidiffsr.backends.engine import Engine, Precision, kernels
from bidiffsr.binary import ActivationSign, BinaryConv2d
from bidiffsr.binary.quantizers import ActivationLevels
from bidiffsr.config import (
    BiDiffSRConfig,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    SamplingConfig,
)
from bidiffsr.models.trained import save_model
from bidiffsr.nn import BiDiffSRUNet
from helpers import relative_l2, scramble, tiny_network_config

KERNELS = [kernel.name for kernel in kernels() if kernel.supported]
"""What this CPU can run, the fastest first."""

every_kernel = pytest.mark.parametrize("kernel", KERNELS)

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""x_t, cond, t."""

_ROUNDING = 2e-6
"""Pre-activations this near to zero, in units of their layer's RMS, may have either sign."""


def load_engine(
    path: Path, kernel: str, precision: Precision = "exact", threads: int = 1
) -> Engine:
    """An engine on the kernel that the environment variable forces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIDIFFSR_KERNEL", kernel)
        engine = Engine(path, precision, threads)
    assert engine.kernel == kernel
    return engine


def network_config(**changes: Any) -> BiDiffSRConfig:
    """A small network; ``changes`` are configuration keys."""
    return tiny_network_config(**({"channels": 8, "norm_groups": 4, "dropout": 0.0} | changes))


def random_network(config: BiDiffSRConfig, seed: int = 0) -> BiDiffSRUNet:
    """Every parameter is random, and of the binarized weights a few are exactly zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BiDiffSRUNet(config)
    scramble(network, seed)
    with torch.no_grad():
        for index, module in enumerate(network.modules()):
            if isinstance(module, BinaryConv2d) and module.is_binary and index % 3 == seed % 3:
                module.weight.view(-1)[seed % 7 :: 41] = 0
    return network.eval()


def save_packed(path: Path, network: BiDiffSRUNet) -> Path:
    """Write the model file that engines load."""
    timesteps = network.config.timesteps
    config = ModelConfig(
        network=network.config,
        diffusion=DiffusionConfig(schedule=LinearSchedule(timesteps=timesteps)),
        sampling=SamplingConfig(steps=1),
    )
    save_model(path, network, config, packed=True)
    return path


def random_inputs(
    config: BiDiffSRConfig, size: tuple[int, int], batch: int = 1, seed: int = 0
) -> Arrays:
    """A batch at timesteps of different groups."""
    random = np.random.default_rng(seed)
    shape = (batch, 3, *size)
    noisy = random.standard_normal(shape).astype(np.float32)
    cond = random.random(shape, dtype=np.float32)
    edges = [0, config.timesteps - 1, config.timesteps // 2]
    timesteps = np.array([edges[(seed + i) % 3] for i in range(batch)], dtype=np.int64)
    return noisy, cond, timesteps


def shipped_inputs(size: int, batch: int = 1) -> Arrays:
    """Square pictures for the model that ships."""
    noisy, cond, _ = random_inputs(network_config(), (size, size), batch)
    return noisy, cond, np.arange(batch, dtype=np.int64)


class _SingleTimeEmbedding(nn.Module):
    """Keeps float32: the sine of a large angle differs visibly in double precision."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, time: Tensor) -> Tensor:
        return self.embedding(time).double()


@dataclass(frozen=True)
class Expected:
    """What PyTorch computes in float64."""

    output: NDArray[np.float64]
    margin: float
    """The smallest distance of a pre-activation from its threshold, in units of its layer's RMS."""

    @property
    def is_firm(self) -> bool:
        """Whether every sign is the same in any order of summation."""
        return self.margin > _ROUNDING

    def check(self, found: NDArray[np.float32], what: Any) -> bool:
        """Assert that ``found`` is equal up to rounding, or else up to the signs it may flip.

        Returns:
            Whether it is equal up to rounding.
        """
        assert found.dtype == np.float32
        assert np.isfinite(found).all(), what
        error = relative_l2(found, self.output)
        assert error < (1e-5 if self.is_firm else 0.3), (error, self.margin, what)
        return error < 1e-5


def expect(network: BiDiffSRUNet, inputs: Arrays) -> Expected:
    """Run ``network`` in float64."""
    double = copy.deepcopy(network).double()
    double.time_embedding = _SingleTimeEmbedding(copy.deepcopy(network.time_embedding))  # type: ignore[assignment]
    margins = [np.inf]

    def note(values: Tensor) -> None:
        margins.append(float(values.abs().min() / values.square().mean().sqrt()))

    for module in double.modules():
        if isinstance(module, ActivationSign):
            module.register_forward_pre_hook(lambda _, arguments: note(arguments[0]))
        elif isinstance(module, ActivationLevels):
            for level in range(module.highest):
                step = (level + 0.5) / module.highest
                module.register_forward_pre_hook(
                    lambda _, arguments, step=step: note(arguments[0] - step)
                )
    noisy, cond, timesteps = (torch.from_numpy(array) for array in inputs)
    with torch.no_grad():
        output = double(noisy.double(), cond.double(), timesteps).numpy()
    return Expected(output, min(margins))
