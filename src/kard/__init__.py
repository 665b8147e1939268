"""Knowledge-augmented reasoning distillation (KARD) for small language models."""

import os

# Huge pages for large tensors, read by torch at its first one: on CPUs a quarter less time for writing (measured), where the system
# takes longer to hand out small pages than the model takes to fill them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from kard.errors import UserError  # noqa: E402
from kard.model import Answer, Kard  # noqa: E402
from kard.questions import Question  # noqa: E402

__all__ = ["Answer", "Kard", "Question", "UserError"]
__version__ = "0.1.0"
