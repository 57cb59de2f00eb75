"""The processes that one run is spread over, as torchrun or Slurm starts them; no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from bidiffsr.errors import TrainingError


@dataclass(frozen=True)
class Processes:
    """Which of how many this process is.

    Each trains on its share of every batch. Files are the first one's alone to write; all of them
    read the run's folder, which has to be one that all machines see.
    """

    rank: int = 0
    count: int = 1
    nodes: int = 1
    """Machines, each with as many processes."""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """As the environment tells; one, where it tells nothing.

        Raises:
            TrainingError: the machines have different numbers of processes.
        """
        for rank, count, on_a_node in _LAUNCHERS:
            if rank in environment and count in environment:
                total = int(environment[count])
                each = int(environment.get(on_a_node, str(total)).partition("(")[0])
                if total % each:
                    raise TrainingError(
                        f"{count}: {total} processes, of which {each} are here; start equally many "
                        "on each machine"
                    )
                return cls(int(environment[rank]), total, total // each)
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, batch: int, parts: int = 1) -> slice:
        """This process's samples of a batch.

        Raises:
            TrainingError: it cannot be shared equally, or the shares not be cut into ``parts``.
        """
        each, rest = divmod(batch, self.count)
        if rest or each % parts:
            raise TrainingError(
                f"batch: {batch} samples for processes: {self.count}, accumulate: {parts}; "
                "expected a multiple of both together"
            )
        return slice(self.rank * each, (self.rank + 1) * each)


# Variables that hold the rank, the number of processes, and that on each machine ("2(x3)").
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),  # torchrun
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),  # srun
)
