"""What writes: one interface, and four writers behind it that write the same texts up to rounding.

- `kard.student.reference`: transformers' own `generate`, for every architecture; on GPUs.
- `kard.student.cpu_engine`: our own on CPUs, for encoder-decoders and for decoders whose layers all attend to what was read.
- `kard.student.vllm`: vLLM on a GPU, where the recipe asks for it.
- `kard.student.llama_cpp`: llama.cpp from an export's GGUF file, where a command asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kard.student.constraint import AnswerConstraint
from kard.student.sampling import Sampling

OnTokens = Callable[[list[list[int]]], None]
"""Takes what every text of a task has so far, after each token."""


@dataclass(frozen=True)
class Task:
    """Prompts that are continued together.

    Attributes:
        inputs: Token ids, padded on the left for a decoder and on the right for an encoder, (rows, tokens).
        mask: Which of them are real, same shape.
        constraint: Chooses the tokens, and knows how many each text may have; it counts each row `samples` times.
        sampling: How several texts of each row are drawn; None: one, always the likeliest token.
        on_tokens: Called after each token.
    """

    inputs: Tensor
    mask: Tensor
    constraint: AnswerConstraint
    sampling: Sampling | None = None
    on_tokens: OnTokens = lambda written: None

    @property
    def samples(self) -> int:
        """Texts of each row."""
        return self.sampling.samples if self.sampling else 1


class Writer(Protocol):
    """Continues prompts token by token, until the end token or their limit."""

    takes_all: bool
    """Whether it makes its own batches, out of all prompts that there are."""

    def write(self, task: Task) -> list[list[int]]:
        """The new tokens of each row, without the end token; samples of a row stand together."""
        ...
