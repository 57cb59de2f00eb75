"""``python -m bidiffsr`` is ``bidiffsr``."""

from __future__ import annotations

import sys

from bidiffsr.cli import main

sys.exit(main())
