"""Where an engine's step spends its time, beside what this CPU can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerRow:
    """One kind of layer, all such layers of a step together."""

    kind: str
    milliseconds: float
    share: float
    """Of the whole profile's time."""
    macs: float = 0.0
    """Multiply-accumulates; one-bit ones for a binary kind. 0 where there are none to speak of."""
    ceiling: float | None = None
    """Multiply-accumulates a second that this CPU can do at most; None where it is not known."""

    @property
    def rate(self) -> float | None:
        """Multiply-accumulates a second."""
        return 1000 * self.macs / self.milliseconds if self.macs and self.milliseconds else None

    @property
    def ceiling_share(self) -> float | None:
        """The rate relative to the ceiling."""
        return None if self.rate is None or not self.ceiling else self.rate / self.ceiling


def layer_rows(
    profile: Mapping[str, tuple[float, float]], ceilings: Mapping[str, float], *, fast: bool
) -> list[LayerRow]:
    """The rows of a profile, the slowest kind first.

    Args:
        profile: (milliseconds, multiply-accumulates) by kind (`Engine.profile`).
        ceilings: as far as measured (`backends.engine.ceilings`).
        fast: whether full-precision convolutions may use bfloat16.
    """
    binary = ceilings.get("popcount_tmacs", 0) * 1e12
    full = ceilings.get("fma_gmacs", 0) * 1e9
    if fast:
        full = max(full, ceilings.get("bf16_gmacs", 0) * 1e9)
    whole = sum(milliseconds for milliseconds, _ in profile.values()) or 1.0
    rows = [
        LayerRow(
            kind,
            milliseconds,
            milliseconds / whole,
            macs,
            (binary if kind.startswith("binary") else full) or None,
        )
        for kind, (milliseconds, macs) in profile.items()
        if milliseconds > 0
    ]
    return sorted(rows, key=lambda row: -row.milliseconds)
