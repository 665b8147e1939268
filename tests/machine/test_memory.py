"""Memory: kept for the next tensor until it is given back."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

from kard.models.precision import compute_dtype

SCRIPT = """
import sys
import numpy as np, psutil
from kard.machine.memory import keep_freed_memory, release_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
process = psutil.Process()
before = process.memory_info().rss
np.ones(2**24)
freed = process.memory_info().rss
release_memory()
print((freed - before) // 2**20, (process.memory_info().rss - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is set")
@pytest.mark.parametrize("how", ["keep", "leave"])
def test_freed_memory_is_kept_until_it_is_released(how):
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    kept, after_release = map(int, done.stdout.split())
    assert (kept > 100) == (how == "keep")  # of 128 MB
    assert after_release < 28


HEAPS = """
import ctypes, sys
from threading import Thread
from kard.machine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = library.fopen.restype = ctypes.c_void_p
def take():
    library.free(ctypes.c_void_p(library.malloc(10_000)))
for thread in [Thread(target=take) for _ in range(3)]:
    thread.start()
    thread.join()
file = ctypes.c_void_p(library.fopen(sys.argv[2].encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is set")
@pytest.mark.parametrize("how", ["keep", "leave"])
def test_threads_share_one_heap(tmp_path, how):
    shown = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", HEAPS, how, str(shown)], check=True)
    assert (shown.read_text(encoding="utf-8").count("<heap nr=") == 1) == (how == "keep")


SHAPES = """
import ctypes, sys
import torch
from kard.machine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
class Usage(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage
weights = torch.randn(1024, 512, dtype=torch.bfloat16)
used = []
for rows in range(1, 260):
    weights @ torch.randn(512, rows, dtype=torch.bfloat16)
    torch.nn.functional.linear(torch.randn(rows, 512, dtype=torch.bfloat16), weights)
    used.append(library.mallinfo2().uordblks)
print((used[-1] - used[150]) // 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's allocator is what is asked")
@pytest.mark.skipif(compute_dtype("auto") != torch.bfloat16, reason="these products are not computed by oneDNN")
def test_shapes_that_come_once_are_forgotten():
    # Another test of this process may have run a command, which sets them.
    own = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_CAPACITY")}
    grown = {}
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", SHAPES, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
        grown[how] = int(done.stdout)
    assert grown["keep"] < 20 < 100 < grown["leave"]
