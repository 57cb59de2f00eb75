"""``python -m bidiffsr`` is ``bidiffsr``."""

from __future__ import annotations

from bidiffsr.cli import program

program()
