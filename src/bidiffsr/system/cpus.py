"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bidiffsr.system.cgroups import control_groups


def usable_cpus(root: Path = Path("/")) -> int:
    """The CPUs this process may run on, or fewer where its control groups allow less time.

    A container that may use one and a half CPUs' time counts as two.

    Args:
        root: of the file system that tells of control groups.
    """
    groups = control_groups("cpu", root)
    quotas = [math.ceil(quota) for group in groups for quota in _quota(group)]
    return max(1, min([_cpus_to_run_on(), *quotas]))


def _cpus_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(group: Path) -> Iterator[float]:
    """What this group is limited to, if it is; the files of version 2, then of version 1."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text("ascii").split()
        yield int(quota) / int(period)  # or "max", which is no number
    with suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text("ascii"))
        period = int((group / "cpu.cfs_period_us").read_text("ascii"))
        if quota > 0:
            yield quota / period
