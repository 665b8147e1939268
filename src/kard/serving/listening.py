"""Listening: a server that closes connections which send nothing, says where it is, and stops when it is told to."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from kard.errors import UserError
from kard.progress import say

HEAD_SECONDS = 20.0


class HeadLimit(H11Protocol):
    """uvicorn's protocol, which lets a connection wait for ever for the rest of a request's head; this one closes it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._closing: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        has_head = self.cycle is not None and not self.cycle.response_complete
        if self._closing is not None and has_head:
            self._closing.cancel()
            self._closing = None
        elif self._closing is None and not has_head:  # the next request on a connection that is kept
            self._closing = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)


def check_address(host: str, port: int) -> None:
    """Try the address before anything is loaded.

    Raises:
        UserError: It cannot be used.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}, port {port}: cannot be used ({error}). Choose another --port or --host.") from error


def listen(app: FastAPI, host: str, port: int, what: str) -> None:
    """Serve an application until the process is told to stop; `what` is said with the address once it listens.

    Raises:
        UserError: The address cannot be used.
    """
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(f"{what} on {address}; Ctrl-C stops it")

    # uvicorn raises the signal that stopped it once more when all is answered; then leaving is what is left to do.
    for stopping in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stopping, lambda number, frame: sys.exit(0))
    server = Server(
        uvicorn.Config(
            app, host=host, port=port, http=HeadLimit, log_level="warning", access_log=False, server_header=False
        )
    )
    try:
        server.run()
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{address}: cannot be used (see above). Choose another --port or --host.") from stop
