"""Parts of a computation at the same time, each with cores of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Found = TypeVar("Found")


def each_on_its_cores(compute: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """What is computed of each part, in their order, with the CPU's cores shared out among them.

    No core then waits for the others after each of a forward pass's thousands of operations.

    Args:
        compute: In another thread it has PyTorch's defaults: inference mode and autocast are its own business.
        parts: About equally long ones end at the same time.
    """
    cores = torch.get_num_threads()
    at_once = min(cores, len(parts))
    # Without OpenMP, the number of cores is not each thread's own.
    if at_once < 2 or not torch.backends.openmp.is_available():
        return [compute(part) for part in parts]

    def with_its_cores(part: Part) -> Found:
        torch.set_num_threads(cores // at_once)
        return compute(part)

    return list(_threads(cores).map(with_its_cores, parts))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that stay: what PyTorch prepares for a product's shape, it keeps for each thread."""
    return ThreadPoolExecutor(count, "kard-core")
