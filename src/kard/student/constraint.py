"""Constrained decoding: the answer is one of the choices, and every text comes to one.

Once a student has written ``Answer:``, it can go on with a choice alone: without this it names things that are not among the
choices (a full name in place of a short one, what the passage is about), which no reader can count as an answer. A rationale
that would end without ``Answer:``, by itself or because it repeats itself up to the limit, gets it written for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kard.methods import Writes
from kard.prompt import ANSWER_CUE
from kard.student.tokens import cue_tokens

# From row numbers, how many tokens each of them has, and scores (rows, vocabulary) to the tokens to write (rows,).
Pick = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]

_CUE_TOKENS = 8  # more than "Answer:" ever has


def likeliest(rows: Sequence[int], places: Sequence[int], scores: Tensor) -> Tensor:
    """Greedy: the token with the highest score."""
    return scores.max(dim=-1).indices  # the first of several; argmax takes five times as long in bfloat16


class AnswerConstraint:
    """Chooses each next token, and keeps the answer to the choices; rows are those of one task.

    Args:
        tokenizer: The student's.
        paths: For each row the tokens of the answers that may be written, each with the end token; none where any may.
        writes: ``"answer"``: the answer begins at once; ``"rationale"``: after ``Answer:``.
        limit: Most tokens that a row writes; the last of them are kept free for ``Answer:`` and the longest choice, which gets
            more where it would take more than half of them.
        pick: How a token is chosen among those that may follow.
        given: Tokens that each row begins with, whatever the model would write; none: no row has any.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        paths: Sequence[Sequence[list[int]]],
        writes: Writes,
        limit: int,
        pick: Pick = likeliest,
        given: Sequence[list[int]] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)
        self.paths = paths
        self.cue = cue_tokens(tokenizer)
        self.pick = pick
        self.cut: dict[int, int] = {}
        """Rows whose ``Answer:`` is written for them, and how many tokens they had written themselves."""
        self.given: Sequence[list[int]] = given or [[] for _ in paths]
        answers = [len(self.cue) + max(map(len, ways), default=0) for ways in paths]
        self.rooms = [max(limit - answer, limit // 2) for answer in answers]
        """Most tokens of each row before ``Answer:``, where it has choices."""
        self.limits = [
            len(tokens) + (room + answer if ways else limit)
            for tokens, room, answer, ways in zip(self.given, self.rooms, answers, paths, strict=True)
        ]
        """Most tokens of each row, with those that it begins with."""
        self.begins: list[int | None] = [len(tokens) if writes == "answer" else None for tokens in self.given]
        self.log_probability: list[float | None] = [0.0 for _ in paths]
        """Of each row's answer among its choices so far; None where the writer cannot say."""
        self._ended: set[int] = set()
        self._may_end_cue: dict[int, bool] = {}

    def choose(self, rows: Sequence[int], written: Sequence[list[int]], scores: Tensor) -> Tensor:
        """The next token of each row, one that may follow.

        Args:
            rows: Which rows of the batch.
            written: All that each of them has written so far.
            scores: (rows, vocabulary).

        Returns:
            Token ids (rows,).
        """
        places = [len(tokens) for tokens in written]
        chosen = self.pick(rows, places, scores)
        for index, (row, tokens, wanted) in enumerate(zip(rows, written, chosen.tolist(), strict=True)):
            allowed = self.allowed(row, tokens, wanted)
            if allowed:
                chosen[index] = self._weigh(row, places[index], allowed, scores[index : index + 1, allowed])
        return chosen

    def rest(self, row: int, tokens: list[int]) -> list[int]:
        """All that must follow what a row has written, up to the end token; nothing as long as the model has a say in it."""
        begin = self.begins[row]
        if begin is None or len(tokens) < begin:
            return []
        so_far = tokens[begin:]
        ways = [path[len(so_far) :] for path in self.paths[row] if path[: len(so_far)] == so_far]
        return ways[0] if len(ways) == 1 else []

    def answer(self, row: int, tokens: list[int]) -> int | None:
        """Which of its answers a row has come to; None where any may follow."""
        begin = self.begins[row]
        if begin is None or not self.paths[row]:
            return None
        return self.paths[row].index([*tokens[begin:], self.end])

    def confidences(self) -> list[float | None]:
        """How probable each row's answer was among its choices, after what the row had written; None where any may follow."""
        rows = zip(self.paths, self.begins, self.log_probability, strict=True)
        return [
            math.exp(logarithm) if paths and begin is not None and logarithm is not None else None
            for paths, begin, logarithm in rows
        ]

    def _weigh(self, row: int, place: int, allowed: list[int], scores: Tensor) -> int:
        """The one of the allowed tokens that is written (scores: (1, allowed)); it counts in the row's probability."""
        index = int(self.pick([row], [place], scores))
        so_far = self.log_probability[row] or 0.0
        self.log_probability[row] = so_far + float(scores[0].float().log_softmax(dim=-1)[index])
        if allowed[index] == self.end:
            self._ended.add(row)
        return allowed[index]

    def end_rationale(self, row: int, tokens: list[int]) -> None:
        """Let the answer begin behind all that a row has written, with ``Answer:`` before it."""
        if self.begins[row] is None and not self._cue_is_written(tokens):
            self.cut[row] = len(tokens)
            tokens += self.cue
        self.begins[row] = len(tokens)

    def allowed(self, row: int, tokens: list[int], wanted: int | None = None) -> list[int]:
        """Tokens that keep the row on the way to one of its answers; none where it is free.

        Args:
            row: Which row.
            tokens: All that it has written.
            wanted: What the model would write; before the answer this decides.
        """
        if len(tokens) < len(self.given[row]):
            return [self.given[row][len(tokens)]]
        paths = self.paths[row]
        if not paths or row in self._ended:
            return []
        if self.begins[row] is None and self._cue_is_written(tokens):
            self.begins[row] = len(tokens)
        begin = self.begins[row]
        if begin is None:
            return self._cue_token(row, len(tokens), wanted)
        so_far = tokens[begin:]
        done = len(so_far)
        return sorted({path[done] for path in paths if path[:done] == so_far and len(path) > done})

    def _cue_is_written(self, tokens: list[int]) -> bool:
        if not tokens:
            return False
        last = tokens[-1]
        if last not in self._may_end_cue:  # most tokens cannot: nothing is decoded behind them
            alone = self.tokenizer.decode([last])
            self._may_end_cue[last] = not alone or alone.endswith(ANSWER_CUE[-1])
        return self._may_end_cue[last] and self.tokenizer.decode(tokens[-_CUE_TOKENS:]).endswith(ANSWER_CUE)

    def _cue_token(self, row: int, length: int, wanted: int | None) -> list[int]:
        if row not in self.cut and (wanted == self.end or length >= self.rooms[row]):
            self.cut[row] = length
        begun = length - self.cut[row] if row in self.cut else len(self.cue)
        return self.cue[begun : begun + 1]
