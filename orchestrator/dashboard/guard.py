"""Who may use the dashboard: the one browser that was given the token, from the dashboard's own page."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "orch_session"
# What the page may load and do: its own files, and nothing of another host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
MONITORING = "/metrics"


class Guard:
    """Passes requests of a known session on, and answers all others with 403.

    ``hosts``: the Host headers that are ours; another name that resolves to loopback is not (DNS rebinding).
    ``issue``: called with each new token. A token is good for one session; then the next one is issued.
    ``monitoring``: the bearer token with which a monitoring system may read ``/metrics``; None for no access.
    """

    def __init__(
        self, app: ASGIApp, hosts: tuple[str, ...], issue: Callable[[str], None], monitoring: str | None
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.issue = issue
        self.monitoring = monitoring
        self.sessions: set[str] = set()
        self.token = ""
        self.renew()

    def renew(self) -> None:
        """Issue a new token."""
        self.token = secrets.token_urlsafe(24)
        self.issue(self.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = self.decided(scope)
        if answer is None:
            await self.app(scope, receive, with_headers(send))
        else:
            await answer(scope, receive, with_headers(send))

    def decided(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on; None if it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host not in self.hosts:
            return refused(f"this is not {host or 'a named host'}")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return refused("requests of other pages are refused")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return refused("requests of other pages are refused")
        if self.known(headers):
            # A page of ours always names its origin when it changes something.
            if scope["method"] not in ("GET", "HEAD") and origin is None:
                return refused("a change needs an Origin header")
            return None
        if scope["path"] == MONITORING and self.monitors(headers):
            return None
        given = parse_qs(scope["query_string"].decode("ascii", "replace")).get("token", [""])[0]
        if scope["path"] == "/" and given and secrets.compare_digest(given.encode(), self.token.encode()):
            return self.begun()
        return refused("open the address that orch dashboard has printed last")

    def known(self, headers: Headers) -> bool:
        """Whether a request has the cookie of a session."""
        parts = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        given = next((value for name, _, value in parts if name == COOKIE), "")
        return any(secrets.compare_digest(given.encode(), session.encode()) for session in self.sessions)

    def monitors(self, headers: Headers) -> bool:
        """Whether a request has the token of a monitoring system."""
        word, _, given = headers.get("authorization", "").partition(" ")
        known = self.monitoring is not None and secrets.compare_digest(given.encode(), self.monitoring.encode())
        return word.lower() == "bearer" and known

    def begun(self) -> Response:
        """Begin a session, and use the token up."""
        session = secrets.token_urlsafe(32)
        self.sessions.add(session)
        self.renew()
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", path="/")
        return answer


def refused(why: str) -> Response:
    """Return a refusal."""
    return PlainTextResponse(f"403: {why}\n", status_code=403)


def with_headers(send: Send) -> Send:
    """Return ``send`` with the headers that all answers have, unless they have others of that name."""

    async def sending(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", [])
            assert isinstance(given, list)
            names = {name.lower() for name, _ in given}
            ours = [
                (name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in names
            ]
            message = {**message, "headers": [*given, *ours]}
        await send(message)

    return sending  # type: ignore[return-value]
