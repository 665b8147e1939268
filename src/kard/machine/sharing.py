"""Work that the processes of a command share: each computes a part of it, on its own GPU.

They hand each other objects over gloo, whatever their students are trained over, and wait for each other as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from kard.machine.processes import process_count, rank

Item = TypeVar("Item")
Found = TypeVar("Found")
Compute = Callable[[Sequence[Item]], Sequence[Found]]
"""From some items to what is found of each."""


def shared_out(compute: Compute[Item, Found], items: Sequence[Item]) -> Sequence[Found]:
    """What `compute` finds of all items, of which each process computes some; all of them call this with the same items."""
    return compute(items) if process_count() == 1 else _shared_out(compute, items)


def led(compute: Compute[Item, Found], lead: Callable[[Compute[Item, Found]], object]) -> None:
    """Let the first process `lead`, and the others compute what it shares out until it has done.

    Args:
        compute: What is shared; each process has its own.
        lead: Called in the first process alone, with a `compute` that shares out what it is given.
    """
    if process_count() == 1:
        lead(compute)
    elif rank() == 0:
        try:
            lead(lambda items: _shared_out(compute, _as_the_first(list(items))))
        finally:
            _as_the_first(None)
    else:
        while (items := _as_the_first(None)) is not None:
            _shared_out(compute, items)


def from_all(own: Found) -> list[Found]:
    """What each process has."""
    return [own] if process_count() == 1 else _from_all(own)


def _as_the_first(value: Any) -> Any:
    """What the first process says."""
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0, group=_group())
    return box[0]


def _shared_out(compute: Compute[Item, Found], items: Sequence[Item]) -> list[Found]:
    from torch import distributed

    # The group knows how many they are also where the libraries are to know of none (`processes.alone`).
    own, count = distributed.get_rank(_group()), distributed.get_world_size(_group())
    parts = _from_all(list(compute(items[own::count])))
    return [parts[place % count][place // count] for place in range(len(items))]


def _from_all(own: Found) -> list[Found]:
    from torch import distributed

    parts: list[Any] = [None] * distributed.get_world_size(_group())
    distributed.all_gather_object(parts, own, group=_group())
    return parts


@cache
def _group() -> Any:
    import torch
    from accelerate import PartialState

    # The processes join as Trainer lets them, with what a student's training needs.
    backend = {} if torch.cuda.is_available() else {"cpu": True, "backend": "gloo"}
    PartialState(timeout=timedelta(minutes=30), **backend)
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
