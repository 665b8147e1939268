"""A chat-completions endpoint on loopback that fails as it is told, and counts what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[dict[str, Any], int], dict[str, Any]]


def digest(body: dict[str, Any]) -> str:
    """What makes two requests the same one."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def completion(
    text: str | None, finish_reason: str = "stop", tokens: tuple[int, int] = (100, 20), **message: Any
) -> dict[str, Any]:
    """A well-formed response body."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def good_answer(body: dict[str, Any], attempt: int) -> dict[str, Any]:
    """A different rationale for every request, the same at every attempt."""
    return {"body": completion(f"The fact {digest(body)} leads to what was asked.")}


@dataclass
class FaultServer:
    """Answers with what `answer(body, attempt)` returns.

    Keys of an answer: ``status`` (200), ``headers``, ``body`` (JSON-like, or text to send as it is),
    ``delay`` in seconds, ``fault``: ``hang`` never answers, ``reset`` cuts the connection in the middle of the body.
    """

    answer: Answer = good_answer
    models: list[str] | None = None  # what GET /models lists; None: there is no such list
    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    most_at_once: int = 0
    busy_seconds: float = 0.0
    url: str = ""
    _at_once: int = 0

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        if head.startswith("GET"):
            listed = {"data": [{"id": name} for name in self.models or ()]}
            return await self._respond({"status": 404 if self.models is None else 200, "body": listed}, writer, {})
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.paths.add(head.split()[1])
        self.authorizations.add(headers.get("authorization", ""))
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.received[digest(body)] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        start = time.monotonic()
        answer = self.answer(body, self.received[digest(body)])
        going_on = await self._respond(answer, writer, body)
        self._at_once -= 1
        self.busy_seconds += time.monotonic() - start
        return going_on

    async def _respond(self, answer: dict[str, Any], writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
        await asyncio.sleep(answer.get("delay", 0.0))
        if answer.get("fault") == "hang":
            await asyncio.sleep(60)
        content = answer.get("body", {})
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **answer.get("headers", {})}
        lines = [f"HTTP/1.1 {answer.get('status', 200)} X", *(f"{name}: {value}" for name, value in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if answer.get("fault") == "reset":
            writer.write(head + data[: len(data) // 2])
            await writer.drain()
            writer.transport.abort()
            return False
        writer.write(head + data)
        await writer.drain()
        if "finish_reason" in str(content):
            self.answered[digest(body)] += 1
        return True


def no_passages(question: object) -> list[Any]:
    """The `passages_of` of questions without gold passages."""
    return []
