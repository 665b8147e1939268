"""Several processes on one recipe, as ``accelerate launch -m kard run …`` starts them.

The first process (rank 0) does what cannot be shared and is the only one that writes artifacts; the others join it where a
student is trained or prompts are answered, and wait on the run's files in between. All processes see the same run folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_POLL_SECONDS = 0.2
# What makes accelerate and transformers join a group of processes, or wrap a model for one.
_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_WRAPPING = "ACCELERATE_USE_"


def rank() -> int:
    """This process's number among those of the command."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Its number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def compute_device() -> str:
    """Where this process computes: its own GPU, or the CPU."""
    import torch

    return f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"


def shards_models() -> bool:
    """Whether the launcher lets a training's processes share one model between them (FSDP, DeepSpeed)."""
    return any(os.environ.get(f"{_WRAPPING}{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))


def process_count() -> int:
    """How many processes work on the recipe."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def alone() -> AbstractContextManager[None]:
    """Let the libraries that are called in here know nothing of the other processes, which do not take part."""
    return _hidden(*_GROUP)


def whole_models() -> AbstractContextManager[None]:
    """Let the libraries that are called in here load models whole, also where the launcher shards the one that is trained."""
    return _hidden()


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    hidden = {name: value for name, value in os.environ.items() if name in names or name.startswith(_WRAPPING)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def local_process_count() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_threads() -> None:
    """Undo the OMP_NUM_THREADS=1 of launchers, before a library reads it: the first process does much alone."""
    if process_count() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        os.environ["OMP_NUM_THREADS"] = str(_cores())


def share_cores(processes: int) -> None:
    """Give this process its share of the machine's cores, unless a user has said how many each gets."""
    if process_count() > 1 and os.environ.get("OMP_NUM_THREADS", str(_cores())) == str(_cores()):
        import torch

        torch.set_num_threads(max(1, _cores() // processes))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another process; if that one fails, the launcher ends this one."""
    while not condition():
        time.sleep(_POLL_SECONDS)
