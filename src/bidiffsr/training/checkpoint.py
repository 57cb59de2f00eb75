"""A run's checkpoint: everything needed to go on, and the fingerprint that says of which run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bidiffsr.config import Config, TrainingConfig
from bidiffsr.config.base import Incidental
from bidiffsr.errors import TrainingError
from bidiffsr.system.files import reason, write_atomically
from bidiffsr.training.compact import read_compact
from bidiffsr.training.losses import Loss
from bidiffsr.training.state import dumps, loads

STATE_NAME = "state.pt"


class Checkpoint:
    """The state file in a run's folder.

    Args:
        config: the run.
        network: whose weights are trained.
        average: of these weights.
        optimizer: of these weights.
        loss: which may learn, too.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: nn.Module,
        average: AveragedModel,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
    ) -> None:
        self._path = config.output / STATE_NAME
        self._compact = config.resume_from
        self._fingerprint = fingerprint(config)
        self._network = network
        self._average = average
        self._optimizer = optimizer
        self._loss = loss

    def save(self, iteration: int) -> None:
        """Write the state after that many iterations, whole or not at all.

        Raises:
            OutputError: the place cannot be written to.
        """
        state = {
            "config": self._fingerprint,
            "iteration": iteration,
            "network": self._network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        if learned := self._loss.state_dict():
            state["loss"] = learned
        # To memory first: torch's own file writing hides the system's reason when it fails.
        data = dumps(state)
        write_atomically(self._path, lambda temporary: temporary.write_bytes(data))

    def restore(self) -> int:
        """Load the run's own state, or where there is none the compact one that it resumes from.

        Returns:
            How many iterations are finished: 0 where there is neither.

        Raises:
            TrainingError: the state is damaged, or another run's.
        """
        here = self._path.exists()
        path = self._path if here else self._compact
        if path is None:
            return 0
        try:
            state = loads(path.read_bytes()) if here else read_compact(path)
            if state["config"] != self._fingerprint:
                raise TrainingError(
                    f"{path}: is of a run with another configuration; choose another output or "
                    "delete it"
                )
            return self._load(state)
        except TrainingError:
            raise
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read ({reason(error)})") from None
        except MemoryError:
            raise
        except Exception as error:  # torch raises many kinds for damaged files
            raise TrainingError(
                f"{path}: cannot be read ({type(error).__name__}); delete it to start anew"
            ) from None

    def _load(self, state: dict[str, Any]) -> int:
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss.load_state_dict(state.get("loss", {}))
        # As the weights lie: the fused update goes through both in the order of their bytes.
        for weight, moments in self._optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(weight).copy_(moments[name])
        return int(state["iteration"])


def fingerprint(config: TrainingConfig) -> str:
    """The configuration but for fields marked ``Incidental``: runs that share it can go on."""
    return config.model_dump_json(exclude=_incidental(config), by_alias=True)


def _incidental(config: Config) -> dict[str, Any]:
    """The marked fields by name, of this configuration and of those inside it."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if any(isinstance(mark, Incidental) for mark in field.metadata):
            found[name] = True
        elif isinstance(value, Config) and (inside := _incidental(value)):
            found[name] = inside
    return found
