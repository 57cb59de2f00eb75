"""What is measured: a system runs the step of a model file, one way or another.

A system is a small frozen dataclass, since it travels to the process that runs it. Its libraries
are imported there and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Workload:
    """One step of a model at 3 × size × size."""

    model: Path
    size: int
    timestep: int
    folder: Path
    """Where systems keep what they prepare."""

    def inputs(self) -> Arrays:
        """x_t, cond (1, 3, H, W) and t (1,): noise, a random picture, the timestep."""
        generator = np.random.default_rng(0)
        shape = (1, 3, self.size, self.size)
        x_t = generator.standard_normal(shape, dtype=np.float32)
        cond = generator.random(shape, dtype=np.float32)
        return x_t, cond, np.array([self.timestep], np.int64)


class Predictor(Protocol):
    """A network, loaded."""

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, 3, H, W), (B, 3, H, W), (B,) → (B, 3, H, W), float32."""
        ...


@dataclass(frozen=True)
class System:
    """One way to run a step; the base of all."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that are imported before memory is first read."""
    prepares: ClassVar[bool] = False
    """Whether ``prepare`` has anything to do."""
    keeps_freed_memory: ClassVar[bool] = True
    """Whether the process keeps what it frees, as our command line does."""

    @property
    def scales(self) -> bool:
        """Whether it is worth measuring with fewer threads too."""
        return False

    @property
    def name(self) -> str:
        """What tables call it."""
        raise NotImplementedError

    @property
    def tolerance(self) -> float:
        """Relative L2 distance to the reference's output above which it computes something else.

        Where signs are taken, rounding flips some, so that even float32 implementations differ by
        about a percent at the published size.
        """
        return 0.05

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        missing = [module for module in self.needs if not is_installed(module)]
        return f"{', '.join(missing)} is not installed" if missing else None

    def prepare(self, workload: Workload) -> None:
        """Write files to ``workload.folder`` that ``load`` reads; runs in a process of its own."""

    def load(self, workload: Workload, threads: int) -> Predictor:
        """Make it ready to run on so many threads."""
        raise NotImplementedError


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a module's parent
        return False


@dataclass(frozen=True)
class EngineSystem(System):
    """The native engine."""

    precision: Literal["fast", "exact"] = "fast"
    needs: ClassVar[tuple[str, ...]] = ("bidiffsr.backends.engine",)

    @property
    def scales(self) -> bool:
        """See ``System.scales``."""
        return True

    @property
    def name(self) -> str:
        """See ``System.name``."""
        return f"bidiffsr engine, {self.precision}"

    @property
    def tolerance(self) -> float:
        """See ``System.tolerance``; ``fast`` may have bfloat16 convolutions."""
        return 0.15 if self.precision == "fast" else 0.05

    def load(self, workload: Workload, threads: int) -> Predictor:
        """See ``System.load``."""
        import importlib

        engine: Any = importlib.import_module("bidiffsr.backends.engine")
        return engine.Engine(workload.model, precision=self.precision, threads=threads)


@dataclass(frozen=True)
class TorchEager(System):
    """PyTorch, float32, as `bidiffsr upscale` runs it where there is no engine."""

    needs: ClassVar[tuple[str, ...]] = ("torch", "bidiffsr.backends.pytorch")

    @property
    def scales(self) -> bool:
        """See ``System.scales``."""
        return True

    @property
    def name(self) -> str:
        """See ``System.name``."""
        return "PyTorch eager, float32"

    def load(self, workload: Workload, threads: int) -> Predictor:
        """See ``System.load``."""
        import torch

        from bidiffsr.backends.pytorch import TorchBackend

        torch.set_num_threads(threads)
        return TorchBackend.load(workload.model, "cpu")[0]


INSTALLED: tuple[System, ...] = (TorchEager(), EngineSystem("exact"), EngineSystem("fast"))
"""What the package itself can run; the first that there is, the others are compared with."""
