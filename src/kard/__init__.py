"""Knowledge-augmented reasoning distillation (KARD) for small language models."""

import os

# Huge pages for large tensors, read by torch at its first one: writing on CPUs spends much of its time in being handed small
# pages otherwise. THP_MEM_ALLOC_ENABLE=0 before benchmarks/write.py shows how much.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from kard.errors import UserError
from kard.knowledge import Passage
from kard.model import Answer, Found, Kard
from kard.questions import Question

__all__ = ["Answer", "Found", "Kard", "Passage", "Question", "UserError"]
__version__ = "0.1.0"
