"""The exceptions bidiffsr raises on purpose.

Each message is one line that says what was wrong, where, what was expected and how to mend it,
so that a program may show it to its user as it is.
"""

from __future__ import annotations


class BidiffsrError(Exception):
    """Base of every error bidiffsr raises on purpose."""


class ConfigError(BidiffsrError, ValueError):
    """A configuration value or combination that cannot work."""


class OptionError(ConfigError):
    """An option's value that cannot be meant, whatever the model and the picture.

    Args:
        option: its name.
        complaint: what is wrong with its value.
    """

    def __init__(self, option: str, complaint: str) -> None:
        super().__init__(option, complaint)
        self.option = option
        self.complaint = complaint

    def __str__(self) -> str:
        return f"{self.option}: {self.complaint}"


class CheckpointError(BidiffsrError, ValueError):
    """A weight file that is damaged, hostile, or does not fit the network."""


class ImageError(BidiffsrError, ValueError):
    """A picture that cannot be read, written, or is not in the stated form."""


class MemoryEstimateError(BidiffsrError, MemoryError):
    """A picture that would need more memory than there is."""


class OutputError(BidiffsrError, OSError):
    """A place that cannot be written to."""


class JournalError(BidiffsrError, RuntimeError):
    """A batch's journal that cannot be opened, read or written: the end of the batch."""


class ReplayError(BidiffsrError, ValueError):
    """A result that cannot be made again, or that comes out otherwise."""


class TrainingError(BidiffsrError, RuntimeError):
    """Training that cannot start, go on, or resume."""


class NumericalError(BidiffsrError, ArithmeticError):
    """A result that is not a picture: NaN, constant, or inconsistent with its input."""
