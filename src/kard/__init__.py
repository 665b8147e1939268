"""Knowledge-augmented reasoning distillation (KARD) for small language models."""

import os

# Huge pages for large tensors, read by torch at its first one: writing on CPUs spends much of its time in being handed small
# pages otherwise. THP_MEM_ALLOC_ENABLE=0 before benchmarks/write.py shows how much.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from kard.data.passage import Passage
from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Found
from kard.kard import Answer, Kard

__all__ = ["Answer", "Found", "Kard", "Passage", "Question", "UserError"]
__version__ = "0.1.0"
