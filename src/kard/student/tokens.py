"""What texts are as tokens where they stand: an answer after ``Answer:``, a question after its passages."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from kard.methods import Writes
from kard.prompt import ANSWER_CUE, question_span, target
from kard.student.batching import IGNORED

# A SentencePiece tokenizer writes the first word of a text otherwise than the same word further on: a space is put before it.
_RATIONALE = " x"
_BEFORE_ANSWER = f"{_RATIONALE}\n{ANSWER_CUE}"


def text_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Each text's tokens, without those that begin or end a prompt."""
    return list(tokenizer(list(texts), add_special_tokens=False).input_ids) if texts else []


def cue_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens of ``Answer:`` after a rationale, with the line break before it."""
    rationale, both = text_tokens(tokenizer, [_RATIONALE, _BEFORE_ANSWER])
    return both[len(rationale) :]


def answer_paths(
    tokenizer: PreTrainedTokenizerFast, answers: Sequence[str], writes: Writes = "rationale"
) -> list[list[int]]:
    """The tokens of each answer, as training has them, with the end token.

    Args:
        tokenizer: The student's.
        answers: As they are shown.
        writes: ``"rationale"``: after a rationale and ``Answer:``; ``"answer"``: as the whole text.
    """
    rationale = _RATIONALE if writes == "rationale" else ""
    whole = text_tokens(tokenizer, [target(rationale, answer, writes) for answer in answers])
    before = len(text_tokens(tokenizer, [_BEFORE_ANSWER])[0]) if writes == "rationale" else 0
    end = int(tokenizer.eos_token_id)
    # A tokenizer may have one token for the end and for what it does not know.
    return [[*(token for token in tokens[before:] if token != end), end] for tokens in whole]


def question_tokens(tokenizer: PreTrainedTokenizerFast, prompt: str) -> tuple[list[int], list[int]]:
    """A prompt's tokens; and those from its question on as labels, all but the question's ignored."""
    begin, end = question_span(prompt)
    encoded = tokenizer(prompt, return_offsets_mapping=True)
    asked = [first >= begin and last <= end for first, last in encoded.offset_mapping]
    start = asked.index(True)
    labels = [
        token if wanted else IGNORED for token, wanted in zip(encoded.input_ids[start:], asked[start:], strict=True)
    ]
    return encoded.input_ids, labels
