"""What happened since training's last report: the loss, and the wait for data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor


class Recent:
    """What happened since the last report; the loss is summed where it is, so nobody waits."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._begin()

    def _begin(self) -> None:
        self._loss.zero_()
        self._count = 0
        self._wait = 0.0
        self._started = time.perf_counter()

    def add(self, loss: Tensor, wait: float) -> None:
        """Count one iteration: its loss, and the seconds it waited for its batch."""
        self._loss += loss
        self._count += 1
        self._wait += wait

    def is_sound(self) -> bool:
        """Whether every loss was a finite number."""
        return math.isfinite(float(self._loss))

    def take(self) -> tuple[float, float]:
        """(mean loss, share of the time that was spent waiting for data); begins anew."""
        elapsed = max(time.perf_counter() - self._started, self._wait)
        result = float(self._loss) / self._count, self._wait / elapsed
        self._begin()
        return result


def timed(batches: Iterator[list[Tensor]]) -> Iterator[tuple[float, list[Tensor]]]:
    """Each batch behind the seconds that it was waited for."""
    started = time.perf_counter()
    for batch in batches:
        yield time.perf_counter() - started, batch
        started = time.perf_counter()
