"""A server whose documents change while it answers: no request may fail, and none may read two versions.

    python benchmarks/changes.py RUN [--clients 16] [--seconds 60] [--changes 20]

RUN is a finished run or an export; it gets its own documents back in the end. Clients ask the same questions all the time, and a
document, which has these questions in it, is added and removed in turn. A reply is mixed if it finds that document in a version
without it, or finds another version's text. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
from serve import Load, load, peak, questions_of, served, watch_memory

from kard.artifacts.versions import current_version
from kard.documents import prune, rollback

DOCUMENT = "changing"
ADMIN = "an-admin-key-for-the-benchmark"
ASKED = 8


async def measure(run: Path, clients: int, seconds: float, changes: int) -> dict[str, Any]:
    """Load, and changes spread over its time."""
    questions = questions_of(run)[:ASKED]
    numbers: dict[int, str] = {}
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "admin.txt"
        keys.write_text(f"{ADMIN}\n", encoding="utf-8")
        async with served(run, 16, "--admin-keys", str(keys)) as (process, address, _):
            asking = asyncio.create_task(load(address, questions, clients, seconds, asyncio.Event(), show=10))
            watching = asyncio.create_task(watch_memory(psutil.Process(process.pid), memory))
            statuses, taken = await change(address, questions, changes, seconds / (changes + 1), numbers)
            seen = await asking
            watching.cancel()
    return {
        "answers": dict(seen.statuses),
        "failures": len(seen.failures),
        "changes": dict(statuses),
        "change_seconds": [round(min(taken), 1), round(max(taken), 1)],
        "versions_read": len({reply["documents"] for _, reply in seen.replies}),
        **mixed(seen, numbers),
        "p95_seconds": round(seen.percentile(0.95), 2),
        "memory_mb_by_quarters": [peak(memory[n * len(memory) // 4 : (n + 1) * len(memory) // 4]) for n in range(4)],
    }


async def change(
    address: str, questions: list[dict[str, Any]], changes: int, pause: float, numbers: dict[int, str]
) -> tuple[Counter[int], list[float]]:
    """Add and remove the document in turn; `numbers` gets what it says, by version."""
    statuses: Counter[int] = Counter()
    taken = []
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(timeout=300, headers={"Authorization": f"Bearer {ADMIN}"}) as client:
        for number in range(changes):
            await asyncio.sleep(pause)
            start, said = loop.time(), f"Number {number:03}."
            text = " ".join(f"{said} {question['question']} {said}" for question in questions)
            if number % 2:
                reply = await client.delete(f"{address}/v1/documents/{DOCUMENT}")
            else:
                body = {"documents": [{"id": DOCUMENT, "title": "", "text": text}]}
                reply = await client.post(f"{address}/v1/documents", json=body)
            taken.append(loop.time() - start)
            statuses[reply.status_code] += 1
            if reply.status_code != 200:
                print(reply.text, flush=True)
            if number % 2 == 0 and reply.status_code == 200:
                numbers[reply.json()["version"]] = said
    return statuses, taken


def mixed(seen: Load, numbers: dict[int, str]) -> dict[str, int]:
    """How many replies found the document, and how many of them in a version that does not have it, or has another text."""
    pairs = [
        (reply["documents"], passage["text"])
        for _, reply in seen.replies
        for passage in reply["passages"]
        if passage["id"].startswith(DOCUMENT)
    ]
    return {"found": len(pairs), "mixed": sum(numbers.get(version, "-") not in text for version, text in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--changes", type=int, default=20)
    options = parser.parse_args()
    before = current_version(options.run)
    found = asyncio.run(measure(options.run, options.clients, options.seconds, options.changes))
    rollback(options.run, before)
    prune(options.run, 0)
    settings = {"clients": options.clients, "seconds": options.seconds, "changes": options.changes}
    json.dump({"benchmark": "changes", **settings, **found}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
