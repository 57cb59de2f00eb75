"""What is asked of every request before anything else is done with it, and said in every answer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bidiffsr.server.refusals import NotAllowed, Refusal
from bidiffsr.server.schemas import Problem

_READING = ("GET", "HEAD", "OPTIONS")

# Scripts, styles and pictures of our own, and nothing from anywhere else; a result that a browser
# is made to open is no page.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def problem_response(status: int, detail: str) -> Response:
    """Any answer that is an error."""
    title = HTTPStatus(status).phrase
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = "10"
    return Response(
        Problem(title=title, status=status, detail=detail).model_dump_json(),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


class Guard:
    """ASGI middleware: refuses what another site's page may have sent, and sets headers.

    A page elsewhere can have a browser send requests here, but not without an Origin that tells; or
    it can make its own name lead here, but then that name is the request's Host.

    Args:
        app: what is guarded.
        names: hosts this server goes by, beside IP addresses, lower case.
        refused: called with the status of every answer that is an error.
    """

    def __init__(
        self, app: ASGIApp, names: Collection[str], refused: Callable[[int], object]
    ) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *names}
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = self._with_headers(send)
        try:
            self._check(scope["method"], Headers(scope=scope))
        except Refusal as refusal:
            response = problem_response(refusal.status, str(refusal))
            await response(scope, receive, sending)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await sending(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if not begun:
                response = problem_response(
                    500, f"an internal error ({type(error).__name__}); see the log"
                )
                await response(scope, receive, sending)
            raise  # for the log

    def _with_headers(self, send: Send) -> Callable[[Message], Awaitable[None]]:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:
                    self._refused(message["status"])
            await send(message)

        return sending

    def _check(self, method: str, headers: Headers) -> None:
        """Make sure that a request is meant for this server, and by whom it should be.

        Raises:
            NotAllowed: it is not.
        """
        host = headers.get("host", "")
        if not self._is_own(host):
            raise NotAllowed(
                f"{host[:100]!r} is no name of this server; start it with --host-name, or use "
                "its IP address"
            )
        if method in _READING:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        # The scheme may differ: a proxy in front may speak HTTPS.
        foreign = origin is not None and _netloc(origin) != host.lower()
        if foreign or site not in ("none", "same-origin"):
            raise NotAllowed("the request comes from another site's page; use this server's own")

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._names
        return True


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
