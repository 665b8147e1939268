"""Teachers on this machine: a llama.cpp server for a GGUF file, and a model in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from kard.errors import UserError, missing_package
from kard.progress import duration, progress, say
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.limits import Spent
from kard.teacher.prompting import Request, Write
from kard.teacher.replies import Outcome

_START_SECONDS = 300.0


@contextmanager
def serving(section: TeacherSection) -> Iterator[str]:
    """Start a llama.cpp server in this process, wait until it answers, and stop it in the end.

    Args:
        section: The recipe's ``teacher``; its model is a GGUF file, and each of ``concurrency`` requests has
            ``context_tokens``.

    Yields:
        The server's base URL on loopback.

    Raises:
        UserError: There is no such file, the extra ``llama`` is not installed, or the file cannot be loaded.
    """
    path, resources = Path(section.model or ""), section.resources
    if not path.is_file():
        raise UserError(f"teacher.model: no file '{path}'. Kind llama_cpp takes a GGUF file.")
    try:
        import xllamacpp
    except ImportError as error:
        raise missing_package(error, "teacher.kind: llama_cpp", "llama") from error
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = resources.concurrency
    parameters.n_ctx = resources.concurrency * resources.context_tokens
    parameters.port = 0
    parameters.verbosity = -1
    say(f"  start llama.cpp on {path.name}")
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise UserError(f"teacher.model: llama.cpp cannot load '{path}' ({error}). Give a whole GGUF file.") from error
    try:
        wait_for(server.listening_address)
        yield f"{server.listening_address}/v1"
    finally:
        del server  # stops its threads and frees the model


def wait_for(address: str) -> None:
    """Return as soon as the server is healthy; its model may take minutes to be read."""
    start = time.monotonic()
    direct = build_opener(ProxyHandler({}))
    while (seconds := time.monotonic() - start) < _START_SECONDS:
        with suppress(OSError), direct.open(f"{address}/health", timeout=_START_SECONDS):
            say(f"  llama.cpp answers after {duration(seconds)}")
            return
        time.sleep(0.1)
    raise UserError(f"teacher: llama.cpp did not start within {duration(_START_SECONDS)}. Give a smaller model.")


def write_missing(
    groups: Iterator[Sequence[Request]], total: int, section: TeacherSection, cache: ReplyCache, write: Write
) -> None:
    """Let a model in this process answer what has no reply yet, ``concurrency`` requests at once.

    The batches are the same in every run, and each is stored as a whole: a killed run goes on with the same texts.

    Args:
        groups: The requests.
        total: How many there are.
        section: The recipe's ``teacher``.
        cache: Where replies are and go.
        write: The model.
    """
    requests = (request for group in groups for request in group)
    with progress("ask teacher", total, "replies") as advance:
        while batch := list(islice(requests, section.resources.concurrency)):
            if not all(cache.has(request.key) for request in batch):
                _write_batch(batch, cache, write)
            advance(len(batch))


def _write_batch(batch: Sequence[Request], cache: ReplyCache, write: Write) -> None:
    start = time.monotonic()
    texts = write([request.body for request in batch])
    seconds = (time.monotonic() - start) / len(batch)
    with cache.together():
        for request, (text, reason, tokens_in, tokens_out) in zip(batch, texts, strict=True):
            cost = Spent(1, tokens_in, tokens_out)
            attempt = cache.begin([request.key], cost)
            cache.finish(attempt, [request.key], Outcome(((text, reason),), cost=cost, seconds=seconds), cost)
