"""Guessing what comes next from the prompt, so that several tokens are computed in one step.

A rationale quotes the passages that the student has read, and its answer is one of the choices: what followed the last words
in the prompt is likely to follow them again. The model reads the guess and its own next token together; as much of the guess
as it would have written itself is kept (prompt lookup decoding, a speculative decoding without a second model: Leviathan et
al. 2023, Saxena 2023). The text is the same; only the number of steps differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LONGEST = 4  # tokens in a row that are looked up, longest first
_MOST = 8  # tokens that are guessed at once
# What a step costs beside its tokens, in tokens: reading the weights. Measured with Gemma 3 270M on two cores; a GPU's steps
# have more room, so that there the guesses are shorter than they could be in large batches.
_STEP = 64
# Before anything is known: of ten guessed tokens so many are right, after so many tokens that were the same in the prompt (one
# and the same word is often followed by another). It weighs as much as ten tokens.
_RIGHT, _TRIED = {1: 5, 2: 6, 3: 8, 4: 8}, 10


class PromptLookup:
    """Guesses for the texts of a batch.

    Args:
        prompts: Token ids of each row's prompt.
        cue: Tokens that every text writes in this order somewhere; once it has begun with them, it goes on with them.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], cue: Sequence[int] = ()) -> None:
        self.prompts = prompts
        self._cue = list(cue)
        self._followers: list[dict[tuple[int, ...], int]] = []
        for prompt in prompts:
            places: dict[tuple[int, ...], int] = {}
            for length in range(1, _LONGEST + 1):
                for end in range(length, len(prompt)):  # the first time counts: passages come before choices
                    places.setdefault(tuple(prompt[end - length : end]), end)
            self._followers.append(places)
        self._right, self._tried = dict(_RIGHT), dict.fromkeys(_RIGHT, _TRIED)
        self._same: dict[int, int] = {}

    def guesses(self, written: Mapping[int, list[int]], room: int) -> list[list[int]]:
        """What may come next in each row, in as many tokens as pay.

        Args:
            written: What the rows that go on have written.
            room: Most tokens.

        Returns:
            Guesses in the order of the rows in `written`, none where nothing was found.
        """
        most = min(room, _MOST)
        if most < 1:
            return [[] for _ in written]
        found: list[list[int]] = []
        for row, text in written.items():
            guess, self._same[row] = self._guess(row, text)
            found.append(guess[:most])
        width = self._width(found, [self._right[self._same[row]] / self._tried[self._same[row]] for row in written])
        return [guess[:width] for guess in found]

    def learn(self, row: int, guess: Sequence[int], right: int) -> None:
        """Take note of how many tokens of a row's last guess were right."""
        self._right[self._same[row]] += right
        self._tried[self._same[row]] += min(right + 1, len(guess))

    def _guess(self, row: int, written: list[int]) -> tuple[list[int], int]:
        """What may follow, and how many tokens before it were the same in the prompt (`_LONGEST` if more)."""
        for begun in range(len(self._cue) - 1, 0, -1):
            if written[-begun:] == self._cue[:begun]:
                return self._cue[begun:], _LONGEST
        prompt, places = self.prompts[row], self._followers[row]
        last = [*prompt[-_LONGEST:], *written][-_LONGEST:]
        for begin in range(len(last)):
            place = places.get(tuple(last[begin:]))
            if place is not None:
                return list(prompt[place : place + _MOST]), len(last) - begin
        return [], 1

    def _width(self, guesses: Sequence[Sequence[int]], shares: Sequence[float]) -> int:
        """How many guessed tokens a step should read of every row: most expected tokens for their cost.

        Args:
            guesses: Of each row.
            shares: How probably each of a guess's tokens is right if those before it are.
        """
        best, width, expected = 0.0, 0, float(len(guesses))
        for tokens in range(max(map(len, guesses), default=0) + 1):
            if tokens:
                rows = zip(guesses, shares, strict=True)
                expected += sum(share**tokens for guess, share in rows if len(guess) >= tokens)
            if (rate := expected / (_STEP + len(guesses) * (tokens + 1))) > best:
                best, width = rate, tokens
        return width
