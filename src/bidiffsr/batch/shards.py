"""Parts of a batch for machines that do not talk to each other."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from bidiffsr.errors import OptionError

_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One of several parts; each picture is in just one of them, whatever others there are."""

    number: int = 1
    """1 to ``count``."""
    count: int = 1

    def has(self, name: PurePath) -> bool:
        """Whether the picture is in this part.

        Args:
            name: its path inside the folder that was given, or, if it was named itself, its path
                as given; the same on all machines.
        """
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard()
"""All pictures."""


def shard_of(text: str) -> Shard:
    """What ``2/16`` stands for, which an option has been checked to be."""
    number, count = text.split("/")
    return Shard(int(number), int(count))


def shard_text(option: str, value: Any) -> str:
    """Text such as ``2/16``, without zeros in front.

    Raises:
        OptionError: it is none; the message names the option.
    """
    match = _SHARD.fullmatch(value) if isinstance(value, str) else None
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise OptionError(
            option,
            f"got {repr(value)[:60]}, expected part/parts such as 1/4 (the first of four), the "
            "last being 4/4",
        )
    return f"{number}/{count}"
