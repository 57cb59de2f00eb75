"""A picture out of a request's body, never more of it than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from bidiffsr.server.jobs import Upload
from bidiffsr.server.refusals import NoPicture, Refusal, TooSlow

_FORM = "multipart/form-data"
# Of a refused picture, what is read so that its sender, who may read nothing before all is sent,
# gets the answer; and seconds it may take.
_READ_ANYWAY, _WAIT_ANYWAY = 1 << 28, 10


class Malformed(Refusal):
    """A form that cannot be read, or a body that is not whole."""

    status = 422


async def receive_picture(request: Request, upload: Upload, seconds: float) -> tuple[bytes, str]:
    """The picture that a request brings, as its body or as the one file of a form; and its name.

    Args:
        request: its body has not been read.
        upload: counts the bytes.
        seconds: that it may take.

    Raises:
        Refusal: of any kind that has to do with the body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", _FORM, "application/octet-stream") and not kind.startswith("image/"):
        raise NoPicture(
            f"the body is {kind[:100]!r}; expected image/png or another picture's type, "
            f"application/octet-stream or {_FORM}"
        )
    try:
        async with asyncio.timeout(seconds):
            if kind == _FORM:
                return await _from_form(request, upload)
            return b"".join([part async for part in _counted(request, upload)]), ""
    except TimeoutError:
        raise TooSlow(f"the picture took longer than {seconds} seconds to arrive") from None
    except ClientDisconnect:  # nobody is there to read this
        raise Malformed("the connection ended before the picture was whole") from None


async def discard_body(request: Request) -> None:
    """Read, within bounds, what is left of the body of a request that is refused."""
    read = 0
    try:
        async with asyncio.timeout(_WAIT_ANYWAY):
            async for part in request.stream():
                read += len(part)
                if read > _READ_ANYWAY:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):  # the last: all has been read
        return


async def _counted(request: Request, upload: Upload) -> AsyncGenerator[bytes, None]:
    async for part in request.stream():
        upload.add(len(part))
        yield part


async def _from_form(request: Request, upload: Upload) -> tuple[bytes, str]:
    # Large files pass through a temporary file without a name.
    parser = MultiPartParser(request.headers, _counted(request, upload), max_files=1, max_fields=0)
    try:
        form = await parser.parse()
    except (MultiPartException, LookupError, UnicodeError) as error:
        reason = getattr(error, "message", "it has no boundary, or an unknown charset")
        raise Malformed(f"the form cannot be read ({reason}); expected one picture") from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise Malformed("the form holds no file; expected one picture")
        return await files[0].read(), files[0].filename or ""
    finally:
        await form.close()
