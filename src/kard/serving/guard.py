"""What every request passes first: names of the host, size and time limits, keys, headers, counting."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from kard.errors import UserError
from kard.serving.metrics import Metrics

BODY_SECONDS = 20.0
LINGER_BYTES = 4_000_000
SHORTEST_KEY = 16

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
        keys: Keys that open ``/v1/``; none: everybody may ask.
        hosts: Names under which the server may be addressed; ``*`` is any.
        most_bytes: Longer bodies are refused.
        metrics: Counts every request.
        paths: Paths to count by name; others are counted together.
    """

    def __init__(
        self,
        app: Any,
        keys: Sequence[str],
        hosts: Sequence[str],
        most_bytes: int,
        metrics: Metrics,
        paths: Sequence[str],
    ) -> None:
        self.app = app
        self.keys = [key.encode("utf-8") for key in keys]
        self.hosts = frozenset(hosts)
        self.most_bytes = most_bytes
        self.metrics = metrics
        self.paths = frozenset(paths)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = monotonic(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            await self._checked(scope, receive, sending)
        except Exception:
            status = status or 500
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            # 499, as nginx has it: the asker had gone before there was a reply. It is no failure of the server.
            self.metrics.request(path, status or 499, monotonic() - start)

    async def _checked(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope)
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    part, more = message.get("body", b""), message.get("more_body", False)
                    length += len(part)
                    # A refused body is read to its end all the same, unkept: a connection closed over unread bytes is
                    # reset, and the asker may never see why. One that does not end is cut off.
                    if refusal is None and length <= self.most_bytes:
                        body += part
                    more = more and length <= self.most_bytes + LINGER_BYTES
        except TimeoutError:
            await refuse(send, 408, "the body did not arrive in time. Send it again.", "timeout")
            return
        if refusal is not None:
            await refuse(send, *refusal)
            return
        if length > self.most_bytes:
            await refuse(send, 413, f"the body is longer than {self.most_bytes:,} bytes. Shorten it.", "too_long")
            return
        # HEAD is GET without its body, which uvicorn leaves out: balancers ask like this whether a server is there.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._until_gone({**scope, "method": method}, bytes(body), receive, send)

    async def _until_gone(self, scope: Any, body: bytes, receive: Any, send: Any) -> None:
        """Let the application answer, for as long as the asker is there: who has gone keeps no place in the queue."""
        rest = [{"type": "http.request", "body": body, "more_body": False}]

        async def left() -> Any:
            while (message := await receive())["type"] != "http.disconnect":
                pass  # the body was read to its end
            return message

        leaving = asyncio.ensure_future(left())

        async def replay() -> Any:
            return rest.pop() if rest else await asyncio.shield(leaving)

        working = asyncio.ensure_future(self.app(scope, replay, send))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            leaving.cancel()
        await asyncio.wait((working,))
        if not working.cancelled():
            working.result()

    def _refusal(self, scope: Any) -> tuple[int, str, str, dict[str, str]] | None:
        """Why a request is refused before its body is looked at: status, message, code, headers."""
        if "*" not in self.hosts and _host_name(scope) not in self.hosts:
            text = (
                "this server is not known by the host's name that was asked for. Ask 'localhost', or serve with --host."
            )
            return 400, text, "wrong_host", {}
        if scope["path"].startswith("/v1/") and not self._may_ask(scope):
            text = "the key is missing or wrong. Send it as 'Authorization: Bearer KEY'."
            return 401, text, "invalid_api_key", {"www-authenticate": "Bearer"}
        return None

    def _may_ask(self, scope: Any) -> bool:
        if not self.keys:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        # Every key is compared, each in constant time, so that the time tells nothing about them.
        right = [hmac.compare_digest(key.strip(), own) for own in self.keys]
        return scheme.lower() == b"bearer" and any(right)


def _host_name(scope: Any) -> str:
    """The name in a request's header Host, without port and brackets; empty where there is none."""
    try:
        return urlsplit("//" + dict(scope["headers"]).get(b"host", b"").decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def error_body(
    message: str, code: str, param: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def refuse(send: Any, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
    """Answer a request that does not get to the application."""
    body = json.dumps(error_body(message, code)).encode("utf-8")
    names = {"content-type": "application/json", "connection": "close", **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in names.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def read_keys(file: Path | None, from_environment: str | None) -> tuple[str, ...]:
    """Keys from a file (one a line, # begins a comment) and from an environment variable (separated by commas).

    Raises:
        UserError: The file is missing or holds no key, a key is too short, or has a letter that not every client can send.
    """
    lines: list[str] = []
    if file is not None:
        if not file.is_file():
            raise UserError(f"{file}: no such file. Name one with a key a line.")
        try:
            text = file.read_text(encoding="utf-8-sig")  # an editor's mark at the beginning is no part of the first key
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise UserError(f"{file}: holds no key. Write one a line.")
    others = [key.strip() for key in (from_environment or "").split(",") if key.strip()]
    for where, keys in ((file, lines), ("KARD_API_KEYS", others)):
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise UserError(f"{where}: a key is shorter than {SHORTEST_KEY} characters. Make a longer one.")
        if not all(key.isascii() for key in keys):
            raise UserError(f"{where}: a key has a letter that not every client can send. Use ASCII alone.")
    return (*lines, *others)
