"""Why a request is refused, each kind with its HTTP status."""

from __future__ import annotations

from bidiffsr.errors import BidiffsrError, MemoryEstimateError


class Refusal(BidiffsrError):  # noqa: N818  these are answers, not errors
    """A request that is not carried out."""

    status = 400


class NoToken(Refusal):
    """The token is missing or wrong."""

    status = 401


class NotAllowed(Refusal):
    """Another site's page asks, or the server goes by a name that is not its own."""

    status = 403


class Unknown(Refusal):
    """No such job or result, or one that is no longer kept."""

    status = 404


class TooSlow(Refusal):
    """The picture did not arrive in time."""

    status = 408


class NotYet(Refusal):
    """The result is not there yet."""

    status = 409


class TooLarge(Refusal):
    """The picture has too many bytes or pixels."""

    status = 413


class NoPicture(Refusal):
    """The body is of a type that holds no picture."""

    status = 415


class Busy(Refusal):
    """Too much waits or is kept already."""

    status = 429


class Stopping(Refusal):
    """The server takes nothing more."""

    status = 503


def status_of(error: BidiffsrError) -> int:
    """The HTTP status that says what kind of trouble it is."""
    if isinstance(error, Refusal):
        return error.status
    return TooLarge.status if isinstance(error, MemoryEstimateError) else 422
