"""Processes of their own that need not import the model libraries, which takes longer than what tests do in them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

LIBRARIES = [
    "torch",
    "transformers",
    "sentence_transformers",
    "peft",
    "kard.pipeline",
    "kard.stages.plan",
    "kard.student.training",
    "openai",
    "fastapi",
    "matplotlib.figure",
    "pytest",
    "pytest_httpserver",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(LIBRARIES)


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """A process that calls a module's function with more environment variables; it is forked from one with the libraries."""
    process = _CONTEXT.Process(target=_call, args=(function, arguments, environment))
    process.start()
    return process


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    gc.freeze()  # what the fork server has loaded need not be walked through after each stage
    os.environ.update(environment)
    function(*arguments)


def run(function: Callable[..., Any], *arguments: Any, processes: int = 1, hosts: int = 1) -> list[int | None]:
    """Exit codes of one process, or of several that know of each other as if a launcher had started them, on one host or as many
    on each of several."""
    group: dict[str, str] = {}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        group |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes // hosts)}
    ranks = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank % (processes // hosts))} if group else {}
        for rank in range(processes)
    ]
    started = [start(function, *arguments, **group, **own) for own in ranks]
    for process in started:
        process.join(timeout=300)
    return [process.exitcode for process in started]
