"""llama.cpp's server, the peer of writing and serving: in a process of its own, with its own defaults.

Usage: python benchmarks/llama_server.py GGUF SLOTS TOKENS

It has room for so many TOKENS in each of its SLOTS, prints its address, and ends with its input. It needs the extra `llama`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import httpx2 as httpx

SECONDS_TO_LOAD = 300.0


def check_installed() -> None:
    """End here where the server's package is not there."""
    if find_spec("xllamacpp") is None:
        raise SystemExit("llama.cpp's server is not installed. Run: pip install 'kard[llama]'.")


@contextmanager
def llama_server(gguf: Path, slots: int, tokens: int) -> Iterator[str]:
    """The address of a server that answers."""
    command = [sys.executable, __file__, str(gguf), str(slots), str(tokens)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address.startswith("http"):
            raise SystemExit(f"{gguf}: llama.cpp's server did not start.")
        _wait(address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(address: str) -> None:
    end = time.monotonic() + SECONDS_TO_LOAD
    while time.monotonic() < end:
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("llama.cpp's server did not load its model in time.")


@dataclass(frozen=True)
class Asked:
    """A prompt and what is asked for beside it, in the server's own words."""

    prompt: str
    more: dict[str, Any]


def answers_a_second(address: str, asked: Iterable[Asked], clients: int, seconds: float = inf) -> float:
    """What a number of clients get; each sends its next prompt when it has an answer, until none is left or the time is over."""

    async def ask() -> float:
        waiting, answered = iter(asked), 0
        start = time.perf_counter()

        async def one(client: httpx.AsyncClient) -> None:
            nonlocal answered
            while time.perf_counter() - start < seconds and (item := next(waiting, None)):
                body = {"prompt": item.prompt, "cache_prompt": False, **item.more}
                (await client.post(f"{address}/completion", json=body)).raise_for_status()
                answered += 1

        async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=clients)) as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))
        return answered / (time.perf_counter() - start)

    return asyncio.run(ask())


def main() -> None:
    import xllamacpp

    gguf, slots, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_parallel = slots
    parameters.n_ctx = slots * tokens
    parameters.cache_ram_mib = 0  # the same prompts come again in each round, and are to be read again
    parameters.port = 0
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
