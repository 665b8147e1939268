"""Load on a server: 64 clients at once against one request at a time, memory, start, and an end that loses nothing.

    python benchmarks/serve.py [RUN] [--quick] [--clients 64] [--seconds 120] [--gguf FILE]
    python benchmarks/serve.py [RUN] --starts 10

RUN is a finished run or an export (default: runs/quickstart); questions are its test or dev questions. A run's answers are
also held against those of its evaluation. With --gguf, the run's student as `kard export --gguf` writes it, the peer is
llama.cpp's server with a slot for each client: it gets the finished prompts of the run's evaluation, and finds no passages
itself. Both are asked in turn, three times. With --starts there is no load: the server is started so often, each time after
the bare import of its libraries. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
from llama_server import Asked, answers_a_second, check_installed, llama_server

from kard.student.loading import StudentSettings

METHOD = "kard_reranker"  # that llama.cpp is held against
LIBRARIES = "from transformers import BertModel, Gemma3ForCausalLM"


@dataclass
class Load:
    """What clients saw; two are added up where one followed the other."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    replies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __add__(self, other: Load) -> Load:
        return Load(
            self.seconds + other.seconds,
            self.latencies + other.latencies,
            self.statuses + other.statuses,
            self.replies + other.replies,
            self.failures + other.failures,
        )

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def load(
    address: str, questions: list[dict[str, Any]], clients: int, seconds: float, ended: asyncio.Event, **more: Any
) -> Load:
    """Clients that ask one question after the other, with `more` keys in the request; each waits for its answer."""
    seen = Load()
    begin = time.monotonic()
    place = 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal place
        while time.monotonic() - begin < seconds and not ended.is_set():
            question = questions[place % len(questions)]
            place += 1
            start = time.monotonic()
            body = {"question": question["question"], "choices": question["choices"], **more}
            try:
                reply = await client.post(f"{address}/v1/answer", json=body)
            except httpx.HTTPError as error:
                if not ended.is_set():
                    seen.failures.append(repr(error))
                return
            seen.statuses[reply.status_code] += 1
            if reply.status_code == 200:
                seen.latencies.append(time.monotonic() - start)
                seen.replies.append((question["id"], reply.json()))
            elif reply.status_code == 429:
                await asyncio.sleep(float(reply.headers["retry-after"]))

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=clients)) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    seen.seconds = time.monotonic() - begin
    return seen


async def watch_memory(process: psutil.Process, samples: list[float]) -> None:
    """The server's own memory: files that it has mapped (passage vectors) count as long as there is room, not as its need."""
    while True:
        memory = process.memory_info()
        samples.append((memory.rss - memory.shared) / 2**20)
        await asyncio.sleep(1)


@asynccontextmanager
async def served(run: Path, batch_size: int, *options: str) -> AsyncIterator[tuple[subprocess.Popen[str], str, float]]:
    """A server that is ready: its process, its address, and the seconds that it took; killed in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "kard", "serve", str(run), "--port", port, "--batch-size", str(batch_size)]
    command += options
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client:
            while not await is_ready(client, address):
                if process.poll() is not None:
                    raise SystemExit(process.communicate()[1])
                await asyncio.sleep(0.05)
        yield process, address, time.monotonic() - start
    finally:
        process.kill()


async def starts(run: Path, batch_size: int, times: int) -> dict[str, list[float]]:
    """Seconds of starts, each beside those of importing the two libraries that every server of such a model must import."""
    seconds: dict[str, list[float]] = {"imports": [], "starts": []}
    for _ in range(times):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
        seconds["imports"].append(round(time.monotonic() - begin, 1))
        async with served(run, batch_size) as (_, _, started):
            seconds["starts"].append(round(started, 1))
        print(f"libraries {seconds['imports'][-1]} s, started in {started:.1f} s", flush=True)
    return seconds


async def measure(run: Path, clients: int, seconds: float, alone_seconds: float, batch_size: int) -> dict[str, Any]:
    """All of it against one server process."""
    questions = questions_of(run)
    async with served(run, batch_size) as (process, address, started):
        print(f"started in {started:.1f} s", flush=True)
        never = asyncio.Event()
        alone = await one_at_a_time(address, questions, alone_seconds / 2)
        memory: list[float] = []
        watching = asyncio.create_task(watch_memory(psutil.Process(process.pid), memory))
        together = await load(address, questions, clients, seconds, never)
        watching.cancel()
        print(f"{clients} clients: {together.rate:.2f} answers/s, {dict(together.statuses)}", flush=True)
        alone += await one_at_a_time(address, questions, alone_seconds / 2)  # a machine's speed changes with its hours
        last, said = await end_under_load(process, address, questions, clients)
    [accepted] = (int(count.replace(",", "")) for count in re.findall(r"Stopped: ([\d,]+) questions", said))
    answered = sum(seen.statuses[200] for seen in (alone, together, last))
    shares = [memory[tenth * len(memory) // 10 : (tenth + 1) * len(memory) // 10] for tenth in range(10)]
    return {
        "started_seconds": round(started, 1),
        "alone_per_second": round(alone.rate, 3),
        "alone_p50_seconds": round(alone.percentile(0.5), 2),
        "together_per_second": round(together.rate, 3),
        "p50_seconds": round(together.percentile(0.5), 2),
        "p95_seconds": round(together.percentile(0.95), 2),
        "statuses": {str(status): count for status, count in (alone.statuses + together.statuses).items()},
        "failures": len(alone.failures + together.failures),
        "memory_mb_by_tenths": [peak(samples) for samples in shares],
        "terminated": {
            "accepted": accepted,
            "answered": answered,
            "lost": accepted - answered,
            "exit": process.returncode,
        },
        "same_as_evaluation": same_as_evaluation(run, alone.replies + together.replies),
    }


async def one_at_a_time(address: str, questions: list[dict[str, Any]], seconds: float) -> Load:
    seen = await load(address, questions, 1, seconds, asyncio.Event())
    print(f"one at a time: {seen.rate:.2f} answers/s, p50 {seen.percentile(0.5):.2f} s", flush=True)
    return seen


def beside_llama(run: Path, gguf: Path, clients: int, seconds: float, batch_size: int) -> dict[str, Any]:
    """Answers a second of our server and of llama.cpp's in turn, each alone on the machine."""
    rows = evaluated(run, METHOD)
    settings = StudentSettings.read(next(run.glob("students/rationales_silver/student.json")))
    limit = {"n_predict": settings.max_output_tokens, "temperature": 0}
    asked = [Asked(row["prompt"], limit) for row in rows]

    async def ours() -> float:
        async with served(run, batch_size, "--method", METHOD) as (_, address, _):
            await load(address, questions_of(run), clients, 5, asyncio.Event())  # warms both up
            return (await load(address, questions_of(run), clients, seconds, asyncio.Event())).rate

    rounds = []
    for _ in range(3):
        first = asyncio.run(ours())
        with llama_server(gguf, clients, settings.max_input_tokens + settings.max_output_tokens) as address:
            answers_a_second(address, asked[:clients], clients)
            rounds.append((first, answers_a_second(address, cycle(asked), clients, seconds)))
        print(f"{clients} clients: ours {rounds[-1][0]:.2f}, llama.cpp {rounds[-1][1]:.2f} answers/s", flush=True)
    fast, slow, ratio = (statistics.median(column) for column in zip(*((a, b, a / b) for a, b in rounds), strict=True))
    return {"ours": fast, "peer": slow, "ratio": round(ratio, 2), "settings": {"rounds": rounds, "gguf": gguf.name}}


async def end_under_load(
    process: subprocess.Popen[str], address: str, questions: list[dict[str, Any]], clients: int
) -> tuple[Load, str]:
    """SIGTERM while all clients are waiting."""
    ended = asyncio.Event()
    asking = asyncio.create_task(load(address, questions, clients, 600, ended))
    await asyncio.sleep(3)
    ended.set()
    process.send_signal(signal.SIGTERM)
    seen = await asking
    _, said = await asyncio.to_thread(process.communicate, timeout=120)
    return seen, said


def peak(samples: list[float]) -> float:
    return round(max(samples, default=0.0))


async def is_ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"{address}/ready")).status_code == 200
    except httpx.TransportError:
        return False


def questions_of(run: Path) -> list[dict[str, Any]]:
    for name in ("questions/test.jsonl", "check.jsonl"):
        if (run / name).exists():
            return [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
    raise SystemExit(f"{run}: no finished run. Make one with 'kard run quickstart', or name another.")


def evaluated(run: Path, method: str) -> list[dict[str, Any]]:
    """What a method wrote in the run's evaluation."""
    files = list((run / "predictions").glob(f"*/{method}.jsonl"))
    return [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()] if files else []


def same_as_evaluation(run: Path, replies: list[tuple[str, dict[str, Any]]]) -> dict[str, int] | None:
    """How many replies have the answer, the text and the passages that the run's evaluation has for the question."""
    if not replies:
        return None
    rows = {row["question"]: row for row in evaluated(run, replies[0][1]["model"])}
    if not rows:
        return None
    pairs = [(rows[name], reply) for name, reply in replies]
    return {
        "replies": len(pairs),
        "questions": len({name for name, _ in replies}),
        "same_answer": sum(row["answer"] == reply["answer"] for row, reply in pairs),
        "same_text": sum(row["text"] == reply["text"] for row, reply in pairs),
        "same_passages": sum(
            [p["id"] for p in row["passages"]] == [p["id"] for p in r["passages"]] for row, r in pairs
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--quick", action="store_true", help="15 seconds of load")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--gguf", type=Path, help="ask llama.cpp's server with this file as well")
    parser.add_argument("--starts", type=int, default=0)
    options = parser.parse_args()
    if options.starts:
        started = asyncio.run(starts(options.run, options.batch_size, options.starts))
        middle = {name: round(statistics.median(values), 1) for name, values in started.items()}
        print(json.dumps({"benchmark": "serve starts", "median_seconds": middle, "seconds": started}))
        return
    if options.gguf:
        check_installed()
        found = beside_llama(options.run, options.gguf, options.clients, options.seconds, options.batch_size)
        found["settings"] |= {"clients": options.clients, "seconds": options.seconds, "cores": os.cpu_count()}
        names = {"peer_name": "llama.cpp's server, the same student", "unit": "answers/s", "goal": 1.5}
        print(json.dumps({"benchmark": "serve", **names, **found}))
        return
    seconds, alone = (12.0, 6.0) if options.quick else (options.seconds, 40.0)
    found = asyncio.run(measure(options.run, options.clients, seconds, alone, options.batch_size))
    ratio = found["together_per_second"] / found["alone_per_second"] if found["alone_per_second"] else 0.0
    settings = {
        "clients": options.clients,
        "seconds": seconds,
        "batch_size": options.batch_size,
        "cores": os.cpu_count(),
    }
    result = {
        "benchmark": "serve",
        "ours": found["together_per_second"],
        "peer": found["alone_per_second"],
        "peer_name": "one request at a time",
        "unit": "answers/s",
        "ratio": round(ratio, 2),
        "goal": 3.0,
        "settings": {**settings, **found},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
