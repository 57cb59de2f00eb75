"""What may be asked of a backend; light to import, as the command line reads it from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from bidiffsr.system.checks import check_options, one_of, optional, text, whole

BackendName = Literal["auto", "engine", "torch"]
Precision = Literal["fast", "exact"]

MAX_THREADS = 1024

KERNEL_VARIABLE = "BIDIFFSR_KERNEL"
"""Of the environment: which of the engine's instruction sets to take."""

_CHECKS = {
    "backend": one_of(*get_args(BackendName)),
    "precision": one_of(*get_args(Precision)),
    "threads": whole(0, MAX_THREADS),
    "device": optional(text),
}


@dataclass(frozen=True)
class BackendOptions:
    """Which backend runs the network, and how.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    backend: BackendName = "auto"
    """What runs the network. Default: the 1-bit engine, or torch on a GPU or for a network that
    the engine does not know."""
    precision: Precision = "fast"
    """Engine only: rounded more where it cannot be seen, or float32 throughout."""
    threads: int = 0
    """Engine only. Default: one for each CPU that this process may use."""
    device: str | None = None
    """PyTorch only: cpu, cuda, ... Default: the engine, on the CPU; for torch a GPU where there is
    one."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)


class BackendKeywords(TypedDict, total=False):
    """The fields of ``BackendOptions`` as keyword arguments."""

    backend: BackendName
    precision: Precision
    threads: int
    device: str | None
