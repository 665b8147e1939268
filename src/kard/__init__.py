"""Knowledge-augmented reasoning distillation (KARD) for small language models."""

from kard.errors import UserError
from kard.model import Answer, Kard
from kard.questions import Question

__all__ = ["Answer", "Kard", "Question", "UserError"]
__version__ = "0.1.0"
