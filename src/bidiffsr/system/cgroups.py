"""The control groups that limit this process, such as a container's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of those above them.

    Args:
        controller: what they control: "cpu" or "memory".
        root: of the file system that tells of them.
    """
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:  # version 2
                mounts = [root / "sys/fs/cgroup"]
            elif controller in controllers.split(","):
                mounts = [root / "sys/fs/cgroup" / name for name in (controllers, controller)]
            else:
                continue
            # A container may see its own group where the whole machine's would be: up to the top.
            path = PurePosixPath(group.lstrip("/"))
            for mount in mounts:
                for above in (path, *path.parents):
                    yield mount / above
