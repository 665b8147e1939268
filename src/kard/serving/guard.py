"""What every request passes first: names of the host, size and time limits, keys, headers, counting."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from time import monotonic
from urllib.parse import urlsplit

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kard.serving import documents
from kard.serving.metrics import Metrics
from kard.serving.refusal import Refusal
from kard.serving.settings import Settings

BODY_SECONDS = 20.0
LINGER_BYTES = 4_000_000

# Scripts and styles come from this server alone, nothing is inline, nothing is framed, and no text can become markup.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around the application.

    Args:
        app: The application.
        settings: Its keys, hosts and limits.
        metrics: Counts every request.
        paths: Paths to count by name; others are counted together.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: Sequence[str]) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # 499, as nginx has it: the asker had gone before there was a reply. It is no failure of the server.
        start, status = monotonic(), 499

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._checked(Request(scope, receive), sending)
        except Exception:
            status = 500 if status == 499 else status
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.request(path, status, monotonic() - start)

    async def _checked(self, request: Request, send: Send) -> None:
        refusal = self._refusal(request)
        is_documents = request.scope["path"] == documents.PATH and self.settings.admin_keys
        most = documents.MOST_BYTES if is_documents else self.settings.most_bytes
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    length += len(part)
                    # A refused body is read to its end all the same, unkept: a connection closed over unread bytes is
                    # reset, and the asker may never see why. One that does not end is cut off.
                    if refusal is None and length <= most:
                        body += part
                    if length > most + LINGER_BYTES:
                        break
        except ClientDisconnect:
            return
        except TimeoutError:
            refusal = Refusal(408, "the body did not arrive in time. Send it again.", "timeout")
        if refusal is None and length > most:
            refusal = Refusal(413, f"the body is longer than {most:,} bytes. Shorten it.", "too_long")
        if refusal is not None:
            await refusal.response(connection="close")(request.scope, request.receive, send)
            return
        # HEAD is GET without its body, which uvicorn leaves out: balancers ask like this whether a server is there.
        method = "GET" if request.method == "HEAD" else request.method
        await self._until_gone({**request.scope, "method": method}, bytes(body), request.receive, send)

    async def _until_gone(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer, for as long as the asker is there: who has gone keeps no place in the queue."""
        rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else await asyncio.get_running_loop().create_future()  # nothing comes after it

        async def stop_once_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass  # the body was read to its end
            working.cancel()

        working = asyncio.ensure_future(self.app(scope, replay, send))
        watching = asyncio.ensure_future(stop_once_gone())
        try:
            await working
        except asyncio.CancelledError:
            if not watching.done():  # not the asker has gone: this task itself is to end
                raise
        finally:
            watching.cancel()

    def _refusal(self, request: Request) -> Refusal | None:
        """Why a request is refused before its body is looked at; of one that is not, `request.state.groups` are the key's."""
        hosts, keys, path = self.settings.hosts, self.settings.keys, request.scope["path"]
        if path == documents.PATH or path.startswith(f"{documents.PATH}/"):
            keys = dict.fromkeys(self.settings.admin_keys, frozenset[str]())
        request.state.groups = frozenset()
        if "*" not in hosts and _host_name(request) not in hosts:
            text = "this server is not known by the host's name that was asked for"
            return Refusal(400, f"{text}. Ask 'localhost', or serve with --host.", "wrong_host")
        if not keys or not path.startswith("/v1/"):
            return None
        scheme, given = get_authorization_scheme_param(request.headers.get("authorization"))
        # Every key is compared, each in constant time, so that the time tells nothing about them.
        right = [groups for key, groups in keys.items() if hmac.compare_digest(given.encode(), key.encode())]
        if scheme.lower() == "bearer" and right:
            request.state.groups = right[0]
            return None
        text = "the key is missing or wrong. Send it as 'Authorization: Bearer KEY'."
        return Refusal(401, text, "invalid_api_key", headers={"www-authenticate": "Bearer"})


def _host_name(request: Request) -> str:
    """The name in a request's header Host, without port and brackets; empty where there is none."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
