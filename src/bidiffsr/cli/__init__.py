"""The command line: parsing and printing; the work is done by the parts below it.

Commands import what they need when they run, so that --help and a mistyped option answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def program() -> NoReturn:
    """The ``bidiffsr`` command: ``main``, then the end of the process."""
    code = main()

    from bidiffsr.system.process import leave

    leave(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: by default the process's own.

    Returns:
        The exit code: 0, 1 for an error, 2 for a mistyped command, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    try:
        # Here, since Ctrl-C may come while this is loaded, too.
        from bidiffsr.errors import MemoryEstimateError
        from bidiffsr.system.memory import check_address_space

        try:
            check_address_space()
        except MemoryEstimateError as error:
            print(f"bidiffsr: error: {error}", file=sys.stderr, flush=True)
            return 1
        from bidiffsr.cli.commands import run

        return run(arguments)
    except KeyboardInterrupt as stop:
        text = "bidiffsr: stopped; what was finished is kept, nothing is half-written"
        print(text, file=sys.stderr, flush=True)
        return 128 + (stop.args[0] if stop.args else 2)
