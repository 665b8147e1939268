"""Knowledge-augmented reasoning distillation (KARD) for small language models."""

from kard.data.passage import Passage
from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Found
from kard.kard import Answer, Kard
from kard.run import Run

__all__ = ["Answer", "Found", "Kard", "Passage", "Question", "Run", "UserError"]
__version__ = "0.1.0"
