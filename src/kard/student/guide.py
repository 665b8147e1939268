"""Writing the answer from the choices only: once a student has written ``Answer:``, it can go on with a choice alone.

Without it a student names things that are not among the choices (a full name in place of a short one, what the passage is
about), which no reader can count as an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from kard.methods import Writes
from kard.prompt import ANSWER_CUE

_CUE_TOKENS = 8  # more than "Answer:" ever has


class AnswerGuide(LogitsProcessor):
    """Masks the tokens that would leave the choices; rows are those of one batch.

    Args:
        tokenizer: The student's.
        answers: For each row the answers that may be written, none where any may.
        writes: ``"answer"``: the answer begins at once; ``"rationale"``: after ``Answer:``.
        skip: Tokens at the front of a row that were not written by the student (a T5's start token).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, answers: Sequence[Sequence[str]], writes: Writes, skip: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        end = int(tokenizer.eos_token_id)
        self.paths = [
            [[*tokenizer(f" {answer}", add_special_tokens=False).input_ids, end] for answer in row] for row in answers
        ]
        begin = 0 if writes == "answer" else None
        self.begins: list[int | None] = [begin for _ in answers]
        self.skip = skip
        self._log_probability = [0.0 for _ in answers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask next-token scores (rows, vocabulary), for ``generate``."""
        return self.masked(range(len(scores)), [row[self.skip :] for row in input_ids.tolist()], scores)

    def masked(self, rows: Sequence[int], written: Sequence[list[int]], scores: Tensor) -> Tensor:
        """Mask next-token scores of some rows.

        Args:
            rows: Which rows of the batch.
            written: All that each of them has written so far.
            scores: (rows, vocabulary).
        """
        for place, (row, tokens) in enumerate(zip(rows, written, strict=True)):
            allowed = self._allowed(row, tokens)
            if allowed:
                kept = torch.tensor(sorted(allowed), device=scores.device)
                only = torch.full_like(scores[place], -math.inf)
                only[kept] = scores[place, kept]
                self._weigh(row, scores[place, kept])
                scores[place] = only
        return scores

    def confidences(self) -> list[float | None]:
        """How probable each row's answer was among its choices, after what the row had written; None where any may follow."""
        rows = zip(self.paths, self.begins, self._log_probability, strict=True)
        return [math.exp(logarithm) if paths and begin is not None else None for paths, begin, logarithm in rows]

    def _weigh(self, row: int, allowed: Tensor) -> None:
        """Take the likeliest of the allowed tokens' scores, which is the one that is written, into the row's probability."""
        self._log_probability[row] += float(allowed.float().log_softmax(dim=-1).max())

    def _allowed(self, row: int, tokens: list[int]) -> set[int]:
        """Tokens that keep the row on the way to one of its answers; none where it is free."""
        if not self.paths[row]:
            return set()
        begin = self.begins[row]
        if begin is None:
            if not self.tokenizer.decode(tokens[-_CUE_TOKENS:]).endswith(ANSWER_CUE):
                return set()
            begin = self.begins[row] = len(tokens)
        so_far = tokens[begin:]
        return {
            path[len(so_far)] for path in self.paths[row] if path[: len(so_far)] == so_far and len(path) > len(so_far)
        }
