"""Systems for tests of the benchmark; apart, since the processes that run them import this."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.bench import System, Workload


@dataclass(frozen=True)
class Fake(System):
    """Adds a constant to the noise, or fails in one way or another."""

    label: str
    offset: float = 0.0
    absent: str | None = None
    trouble: str | None = None

    @property
    def name(self) -> str:
        return self.label

    def unavailable(self) -> str | None:
        return self.absent

    def load(self, workload: Workload, threads: int) -> Adder:
        if self.trouble == "raise":
            raise ValueError("first line\nit does not work")
        if self.trouble == "die":
            os._exit(7)
        return Adder(self.offset)


@dataclass
class Adder:
    """A predictor."""

    offset: float

    def predict(self, x_t: NDArray[Any], cond: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
        return x_t + np.float32(self.offset)
