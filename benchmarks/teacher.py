"""How busy the teacher's client keeps an endpoint, what it costs in CPU time a request, and whether its memory stays flat.

Usage: python benchmarks/teacher.py [--quick]

The endpoint runs in a process of its own on loopback: 64 slots, 500 ms a reply; it counts the time that its slots were
busy. The peer is a plain AsyncOpenAI loop with a semaphore, on the same HTTP client, without cache, budgets or statuses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SLOTS, LATENCY = 64, 0.5
# Some more requests under way than slots, as one sets it for a real server: a slot that is freed finds the next one waiting.
CONCURRENCY = 80
GOAL_BUSY, GOAL_CPU_MS, GOAL_MEMORY = 0.95, 4.0, 1.2
TEXT = "Water vapour cools as it rises, and cool air holds less of it. So drops form, and they are seen as a cloud."
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tester",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 700, "completion_tokens": 25, "total_tokens": 725},
    }
).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Slots:
    """The endpoint's slots: a request beyond them waits; busy time is counted from taking a slot to freeing it."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.loop = asyncio.get_running_loop()
        self.waiting: deque[Callable[[], None]] = deque()
        self.free, self.busy, self.first, self.last, self.count = SLOTS, 0.0, 0.0, 0.0, 0

    def take(self, respond: Callable[[], None]) -> None:
        self.first = self.first or self.loop.time()
        if not self.free:
            self.waiting.append(respond)
            return
        self.free -= 1
        self._serve(respond)

    def _serve(self, respond: Callable[[], None]) -> None:
        start = self.loop.time()
        self.loop.call_at(start + self.latency, self._finish, respond, start)

    def _finish(self, respond: Callable[[], None], start: float) -> None:
        respond()
        self.last = self.loop.time()
        # The nominal time: a late timer is not the client's merit.
        self.busy += self.latency
        self.count += 1
        if self.waiting:
            self._serve(self.waiting.popleft())
        else:
            self.free += 1


class Endpoint(asyncio.Protocol):
    """As much of HTTP/1.1 as the clients use."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(rest) >= length:
                self.buffer = rest[length:]
                self.slots.take(lambda: self.transport.write(RESPONSE))


def serve(latency: float, pipe: Connection) -> None:
    """The server's process: tells its port, serves until it is told to stop, and tells what it counted."""

    async def main() -> None:
        slots = Slots(latency)
        server = await asyncio.get_running_loop().create_server(lambda: Endpoint(slots), "127.0.0.1", 0, backlog=512)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        span = slots.last - slots.first
        pipe.send({"busy": slots.busy / (SLOTS * span), "answered": slots.count, "seconds": span})

    asyncio.run(main())


def our_client(url: str, count: int, concurrency: int, pipe: Connection) -> None:
    """The teacher as a recipe starts it: prompts, cache, budget, statuses."""
    from kard.teacher.collect import collect_rationales

    section = _section(url, concurrency)
    questions = _questions(count)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        kept = sum(
            rationale.status == "kept"
            for rationale in collect_rationales(questions, lambda _: [], section, 0, Path(folder) / "c.sqlite")
        )
        _tell(pipe, start, kept)


def peer_client(url: str, count: int, concurrency: int, pipe: Connection) -> None:
    """What one writes first: AsyncOpenAI, a semaphore, gather."""
    import openai

    from kard.teacher.prompting import requests_of

    section = _section(url, concurrency)
    questions = _questions(count)

    async def main() -> int:
        client = openai.AsyncOpenAI(api_key="none", base_url=url)
        turn = asyncio.Semaphore(concurrency)

        async def ask(body: dict[str, Any]) -> str:
            async with turn:
                reply = await client.chat.completions.create(**body)
            return reply.choices[0].message.content or ""

        bodies = [request.body for _, group in requests_of(questions, lambda _: [], section, 0) for request in group]
        return len(await asyncio.gather(*map(ask, bodies)))

    start = time.process_time()
    _tell(pipe, start, asyncio.run(main()))


def _section(url: str, concurrency: int) -> Any:
    from kard.recipe.teacher import TeacherSection

    return TeacherSection(kind="openai", model="tester", base_url=url, resources={"concurrency": concurrency})


def _questions(count: int) -> list[Any]:
    from kard.data.question import Question

    choices = ("the air above it is heated by the ground", "vapour turns into drops", "smoke rises", "it is lit")
    return [Question(f"q{i}", f"Why is cloud number {i} seen in the sky?", choices, 1) for i in range(count)]


def _tell(pipe: Connection, start: float, count: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send({"cpu": time.process_time() - start, "count": count, "peak_mb": peak})


def measured(client: Callable[..., None], count: int, latency: float = LATENCY, concurrency: int = CONCURRENCY) -> Any:
    """Run a client against a fresh server, each in a process of its own, and join what both counted."""
    context = multiprocessing.get_context("spawn")
    server_end, server_pipe = context.Pipe()
    client_end, client_pipe = context.Pipe()
    server = context.Process(target=serve, args=(latency, server_pipe), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{server_end.recv()}/v1"
    asking = context.Process(target=client, args=(url, count, concurrency, client_pipe), daemon=True)
    asking.start()
    told = client_end.recv()
    asking.join()
    server_end.send("stop")
    counted = server_end.recv()
    server.join()
    if not told["count"] == counted["answered"] == count:
        raise SystemExit(f"{count} requests, {counted['answered']} answered, {told['count']} arrived")
    return counted | told | {"cpu_ms": told["cpu"] / count * 1000}


def main() -> None:
    """Measure, print a table, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    count, few, many = (1500, 200, 2000) if quick else (5000, 1000, 10000)
    ours, peer = measured(our_client, count), measured(peer_client, count)
    for name, found in (("kard", ours), ("AsyncOpenAI loop", peer)):
        print(f"{name:<18} busy {found['busy']:.1%}  CPU {found['cpu_ms']:.2f} ms a request  {found['seconds']:.1f} s")
    memory = {size: measured(our_client, size, latency=0.005)["peak_mb"] for size in (few, many)}
    growth = memory[many] / memory[few]
    print(
        f"peak memory {memory[few]:.0f} MB with {few:,} questions, {memory[many]:.0f} MB with {many:,}: {growth:.2f}×"
    )
    result = {
        "benchmark": "teacher",
        "ours": round(ours["busy"], 4),
        "peer": round(peer["busy"], 4),
        "peer_name": "AsyncOpenAI, semaphore, no cache",
        "unit": "share of slot time that is busy",
        "ratio": round(ours["busy"] / peer["busy"], 3),
        "goal": f"busy >= {GOAL_BUSY}; CPU <= {GOAL_CPU_MS:g} ms a request; memory <= {GOAL_MEMORY:g}x",
        "settings": {
            "requests": count,
            "slots": SLOTS,
            "latency_seconds": LATENCY,
            "concurrency": CONCURRENCY,
            "cpu_ms_a_request": {"ours": round(ours["cpu_ms"], 3), "peer": round(peer["cpu_ms"], 3)},
            "peak_memory_mb": {str(size): round(value) for size, value in memory.items()},
            "memory_ratio": round(growth, 3),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
