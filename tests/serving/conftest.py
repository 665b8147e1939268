"""A server on the loopback interface, in a thread of the test's process, and what tests ask it."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx2 as httpx
import pytest
import uvicorn

from kard.calibration import Calibration
from kard.data.question import Question, read_questions
from kard.kard import Kard
from kard.serving.app import create_app
from kard.serving.listening import HeadLimit
from kard.serving.settings import Settings

ASKED = "Which colour has the ship of the north?"
COLOURS = ["red", "green", "blue"]
DEFAULT = Settings()
POISON = "a word that no student stands"


def serving(kard: Kard, settings: Settings = DEFAULT, examples=(), run=None):
    """Serve and give the address."""
    return serving_app(create_app(kard, settings, examples, run))


@contextmanager
def serving_app(app) -> Iterator[str]:
    """Serve an application and give the address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http=HeadLimit, log_level="warning", timeout_graceful_shutdown=20))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def kard(answering_run) -> Kard:
    return Kard.load(answering_run)


@pytest.fixture(scope="session")
def questions(answering_run) -> list[Question]:
    return read_questions(answering_run / "questions" / "test.jsonl")


@pytest.fixture(scope="session")
def address(kard, questions) -> Iterator[str]:
    """A server with the settings that it has by default."""
    examples = [{"question": q.question, "choices": list(q.choices)} for q in questions[:3]]
    with serving(kard, examples=examples) as url:
        yield url


@pytest.fixture
def client(address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def unsure(kard) -> Kard:
    """A run that is half sure of every answer, and gives those alone of which it is surer."""
    return replace(kard, calibrations={"kard_reranker": Calibration({}, 0.0, [0.9] * 40, [True] * 40, risk=0.1)})


class SlowStudent:
    """Stands in for a loaded run's student: each batch takes until the test lets it go on, and one with `POISON` in it fails."""

    def __init__(self, student) -> None:
        self.student = student
        self.may_go_on = threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name):
        return getattr(self.student, name)

    def write(self, prompts, *args, **kwargs):
        self.batches.append(len(prompts))
        assert self.may_go_on.wait(30)
        if any(POISON in prompt for prompt in prompts):
            raise IndexError("poisoned")
        return self.student.write(prompts, *args, **kwargs)


@pytest.fixture
def slow(kard) -> Iterator[tuple[Kard, SlowStudent]]:
    """A run whose first batch (the server's warm-up) goes through, and whose others wait for `may_go_on`."""
    student = SlowStudent(kard.student)
    student.may_go_on.set()
    yield replace(kard, student=student), student
    student.may_go_on.set()


def sse(response: httpx.Response) -> list[tuple[str, object]]:
    """Events of a stream that has been read."""
    import json

    events = []
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        events.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free_port() -> int:
    """A port below those that the system gives to connections, so that none has it when the server starts."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listening, suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port


def command_line(arguments: list[str], stderr: str) -> None:
    """`kard` as a process's command line starts it."""
    from kard.__main__ import main

    with open(stderr, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    # A shell's background jobs ignore it; a command in the foreground does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["kard", *arguments]
    main()
