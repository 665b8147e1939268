"""Keeping freed memory for the next tensor, and giving it back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys

# mallopt(3): the parameters' numbers, and what glibc takes at most for each of them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Let glibc use memory that was freed again, until `release_memory` gives it back.

    By itself it gets every large tensor from the system and returns it at once; the system then fills the pages with zeros,
    again and again, which takes much of the time of a forward pass on a large batch. All threads share what was freed: one that
    reads prompts would otherwise keep it from the one that writes.

    oneDNN keeps the code that it made for each shape of a product, and PyTorch what it prepared for one, of 1,024 shapes by
    themselves: fewer, because every batch brings new ones. The two variables may say other numbers; both are read at the
    first product.
    """
    # Huge pages for large tensors; torch reads it at its first one. THP_MEM_ALLOC_ENABLE=0 shows what they bring.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "128")
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**31 - 1)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_TOP_PAD, 2**26)
        library.mallopt(_ARENA_MAX, 1)


def release_memory(cycles: bool = True) -> None:
    """Give back what has been freed, on the GPU as well: without it, what the next stage or batch needs comes on top.

    Trainers hold their models in cycles, and glibc keeps freed tensors in its arenas (measured: 2.5 GB after one student).

    Args:
        cycles: Look for objects that hold each other, which takes half a second; not needed after a batch.
    """
    if cycles:
        gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
