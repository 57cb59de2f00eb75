"""The command line: parsing and printing; the work is done by the parts below it.

Commands import what they need when they run, so that --help and a mistyped option answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from signal import SIGINT

from cyclopts import CycloptsError

from bidiffsr.cli import models, pictures, research, speed  # noqa: F401  they add their commands
from bidiffsr.cli.app import app
from bidiffsr.cli.terminal import complain, note, told
from bidiffsr.system.process import keep_freed_memory, sigterm_interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: by default the process's own.

    Returns:
        The exit code: 0, 1 for an error, 2 for a mistyped command, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:  # then the process is ours
        keep_freed_memory()
    try:
        with sigterm_interrupts():
            code = app(tokens)
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{error} (see bidiffsr --help)")
        return 2
    except KeyboardInterrupt as stop:
        note("stopped; what was finished is kept, nothing is half-written")
        return 128 + (stop.args[0] if stop.args else SIGINT)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return told(error)
    return code if isinstance(code, int) else 0
