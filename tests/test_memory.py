"""Memory: kept for the next tensor until it is given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, psutil
from kard.memory import keep_freed_memory, release_memory
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
