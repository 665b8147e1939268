"""How many texts are computed at once: fewer, where the memory does not suffice."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from kard.errors import UserError
from kard.progress import say

Found = TypeVar("Found")


class AtOnce:
    """A number of texts at once, halved from there on when they do not fit into the memory.

    Args:
        size: How many to begin with.
        things: What they are, for the message.
        advice: Ends the error where one alone does not fit; "": PyTorch's own error.
        same: What does not change, for the message.
    """

    def __init__(self, size: int, things: str, advice: str = "", same: str = "") -> None:
        self.size = size
        self.things = things
        self.advice = advice
        self.same = same

    def run(self, compute: Callable[[int], Found], count: int, before: Callable[[], object] = gc.collect) -> Found:
        """What `compute` makes of the texts, at most as many at once as it is told.

        Args:
            compute: Called again with half as many when it runs out of memory.
            count: How many there are.
            before: Called before it is called again, to let go of what the last call has left.

        Raises:
            UserError: One alone does not fit.
        """
        while True:
            size = max(1, min(self.size, count))
            try:
                return compute(size)
            except RuntimeError as error:
                if not is_out_of_memory(error) or (size <= 1 and not self.advice):
                    raise
                if size <= 1:
                    raise UserError(f"out of memory with one of the {self.things} alone. {self.advice}") from error
            # Out of the handler what was computed is free again.
            before()
            torch.cuda.empty_cache()
            self.size = size // 2
            say(f"  out of memory with {size} {self.things} at once: going on with {self.size}{self.same}")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory or the machine's (for which PyTorch has no exception of its own) did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
