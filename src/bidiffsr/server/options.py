"""What may be asked of the server, declared and checked once; light, for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bidiffsr.errors import OptionError
from bidiffsr.system.checks import amount_of_memory, check_options, optional, text, whole

# RFC 6750, section 2.1: what may stand behind "Authorization: Bearer".
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def _token(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise OptionError(name, "expected letters, digits and any of . _ ~ + / - without spaces")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(text(name, each).lower() for each in value)


_CHECKS = {
    "host": text,
    "port": whole(0, 65535),
    "token": optional(_token),
    "host_name": _names,
    "max_bytes": amount_of_memory,
    "max_pixels": whole(1),
    "max_samples": whole(1),
    "max_waiting": whole(1),
    "max_jobs": whole(1),
    "max_held": amount_of_memory,
    "upload_seconds": whole(1),
    "job_seconds": whole(1),
    "keep_seconds": whole(1),
    "stop_seconds": optional(whole(0)),
}


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the server listens, who may use it, and how much.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    host: str = "127.0.0.1"
    """The address to listen on. Default: 127.0.0.1, which only this computer reaches; 0.0.0.0 is
    for all."""
    port: int = 8000
    """The port to listen on; 0 for any that is free. Default: 8000."""
    token: str | None = None
    """Without it nothing can be asked for. Better given as BIDIFFSR_TOKEN, which other users of
    this computer do not see. Default: none is needed."""
    host_name: tuple[str, ...] = ()
    """A name that browsers reach the server by, such as pictures.example.org; may be given several
    times. IP addresses, localhost and this computer's own name are known."""
    max_bytes: str | int = "64M"
    """Of a picture's file. Default: 64M."""
    max_pixels: int = 16_000_000
    """Of a picture. Default: 16 million."""
    max_samples: int = 8
    """Results of one picture. Default: 8."""
    max_waiting: int = 256
    """Pictures that wait at the same time. Default: 256."""
    max_jobs: int = 1024
    """Pictures that are known at the same time, finished ones included. Default: 1024."""
    max_held: str | int = "1G"
    """Memory for the files of pictures that wait and of results that are kept. Default: 1G."""
    upload_seconds: int = 120
    """Time that sending a picture may take. Default: 120."""
    job_seconds: int = 3600
    """Time that upscaling a picture may take. Default: 3600."""
    keep_seconds: int = 3600
    """How long results are kept. Default: 3600."""
    stop_seconds: int | None = None
    """How long pictures that wait are still begun when the server is told to stop. Default: until
    all are done."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)
