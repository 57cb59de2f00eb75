"""From a command's words to its exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from cyclopts import CycloptsError

from bidiffsr.cli import data, models, pictures, replay, research, serve, speed  # noqa: F401  they add their commands
from bidiffsr.cli.app import app
from bidiffsr.cli.terminal import print_error, report_error
from bidiffsr.errors import OptionError
from bidiffsr.system.process import (
    discard_output,
    keep_freed_memory,
    open_closed_streams,
    signals_interrupt,
)


def run(arguments: Sequence[str] | None) -> int:
    """See ``bidiffsr.cli.main``; Ctrl-C and SIGTERM raise KeyboardInterrupt."""
    if arguments is None:  # then the process is ours
        open_closed_streams()
        keep_freed_memory()
        if not sys.warnoptions:  # they are for programmers, and would stand before our own lines
            warnings.simplefilter("ignore")
    with signals_interrupt():
        code = _code(sys.argv[1:] if arguments is None else list(arguments))
        try:
            sys.stdout.flush()
        except OSError as error:
            discard_output()
            return code or report_error(error)
    return code


def _code(tokens: Sequence[str]) -> int:
    try:
        # Or cyclopts takes it for an option; as a path it is the same.
        code = app(["./-" if token == "-" else token for token in tokens])
    except CycloptsError as error:
        print_error(f"{error} (see bidiffsr --help)")
        return 2
    except OptionError as error:
        option = error.option.replace("_", "-")
        print_error(f"--{option}: {error.complaint} (see bidiffsr --help)")
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        discard_output()
        return 1
    except Exception as error:
        return report_error(error)
    return code if isinstance(code, int) else 0
