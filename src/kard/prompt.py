"""The one prompt and the one answer extraction: training, evaluation, `kard answer` and the teacher's filter all come here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from kard.data.normal import plain
from kard.errors import UserError
from kard.methods import Writes

AnswerAs = Literal["text", "letter", "both"]
FORMAT = 1

QUESTION_CUE = "Question:"
RATIONALE_CUE = "Explanation:"
ANSWER_CUE = "Answer:"
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no tokenizer takes it
_NEXT_QUESTION = re.compile(rf"({ANSWER_CUE}[^\n]*)\n\s*(?:Passage|Question): .*", re.DOTALL)


@dataclass(frozen=True)
class Extraction:
    """What a student wrote: `answer` is an index into the choices, a text for open questions, or None (unparsed)."""

    rationale: str
    answer: int | str | None


@dataclass(frozen=True)
class WorkedExample:
    """A training question with all that may be shown of it in front of a prompted question (few-shot prompting).

    `answer` is written as students write it (`shown_answer`).
    """

    question: str
    choices: tuple[str, ...]
    passages: tuple[str, ...]
    rationale: str
    answer: str

    def shown(self, with_passages: bool, writes: Writes, answer_as: AnswerAs) -> str:
        """The text: a prompt, and what is to be written after it."""
        passages = self.passages if with_passages else ()
        prompt = render(self.question, self.choices, passages, writes, answer_as)
        return prompt + target(self.rationale, self.answer, writes)


def with_examples(examples: Sequence[str], prompt: str) -> str:
    """Worked examples, and the prompt after them; blank lines stand between them, and nowhere else (see `examples_in`)."""
    return "\n\n".join([*examples, prompt])


def examples_in(prompt: str) -> int:
    """How many worked examples stand in front of a prompt."""
    return prompt.count("\n\n")


def with_rationale(prompt: str, rationale: str) -> str:
    """A prompt that asks for a rationale with one given: what is left to write is the answer."""
    return f"{prompt}{target(rationale, '', 'rationale').rstrip()}"


def without_rationale(prompt: str) -> tuple[str, str]:
    """What `with_rationale` put together: the prompt, and the text after it; nothing after it where no rationale was given."""
    asked, cue, given = prompt.rpartition(f"\n{RATIONALE_CUE} ")
    return (f"{asked}\n{RATIONALE_CUE}", f" {given}") if cue else (prompt, "")


def render(
    question: str, choices: Sequence[str], passages: Sequence[str], writes: Writes, answer_as: AnswerAs = "text"
) -> str:
    """The text that a student reads.

    Args:
        question: The question without its choices.
        choices: The options, or none.
        passages: Full texts of the passages, best first; none for methods without knowledge.
        writes: ``"rationale"`` asks for an explanation and the answer, ``"answer"`` for the answer alone.
        answer_as: With ``"letter"`` and ``"both"`` the choices carry letters.
    """
    lines = [f"Passage: {_one_line(passage)}" for passage in passages]
    lines.append(f"{QUESTION_CUE} {_one_line(question)}")
    if choices:
        lines.append("Choices:")
        lines += [f"- {shown}" for shown in _shown_choices(choices, answer_as)]
    lines.append(RATIONALE_CUE if writes == "rationale" else ANSWER_CUE)
    return "\n".join(lines)


def holds_question(prompt: str, question: str) -> bool:
    """Whether a prompt has the whole of a question, and not its end alone."""
    return f"{QUESTION_CUE} {_one_line(question)}\n" in prompt


def question_span(prompt: str) -> tuple[int, int]:
    """Where the question stands in a prompt with passages: from the space in front of it to its end, without the choices."""
    begin = prompt.index(f"\n{QUESTION_CUE}") + 1 + len(QUESTION_CUE)
    return begin, prompt.index("\n", begin)


def target(rationale: str, answer: str, writes: Writes) -> str:
    """The text that a student learns to write after the prompt: the rationale first, then the answer (KARD equation 3)."""
    if writes == "answer":
        return f" {answer}"
    return f" {_one_line(rationale)}\n{ANSWER_CUE} {answer}"


def shown_answer(choices: Sequence[str], answer: int | str, answer_as: AnswerAs) -> str:
    """The right answer in the form that the student writes."""
    if isinstance(answer, str):
        return _one_line(answer)
    if answer_as == "letter":
        return f"({ascii_uppercase[answer]})"
    return _shown_choices(choices, answer_as)[answer]


def extract(text: str, choices: Sequence[str], writes: Writes, answer_as: AnswerAs = "text") -> Extraction:
    """Read rationale and answer off a student's text.

    The answer is what follows the last ``Answer:`` (the whole text where no rationale was asked for), up to the end of its
    line. It must name exactly one choice; anything else is unparsed (None), never a guess.
    """
    if writes == "rationale":
        # A prompted model may go on with a question of its own making.
        rationale, cue, stated = _NEXT_QUESTION.sub(r"\1", text).rpartition(ANSWER_CUE)
        if not cue:
            return Extraction(text.strip(), None)
    else:
        rationale, stated = "", text
    line = next((line.strip() for line in stated.splitlines() if line.strip()), "")
    if not choices:
        return Extraction(rationale.strip(), line or None)
    return Extraction(rationale.strip(), _choice_in(line, choices, answer_as))


def same_answer(given: int | str | None, gold: int | str) -> bool:
    """Whether an extracted answer is right; open answers are compared without case, punctuation and articles."""
    if isinstance(given, str) and isinstance(gold, str):
        return _plain(given) == _plain(gold)
    return given is not None and given == gold


def shorten_passages(passages: Sequence[str], words: int) -> list[str]:
    """The first `words` words of the passages together, the last ones shortened first."""
    kept = []
    for passage in passages:
        tokens = passage.split()[: max(0, words)]
        words -= len(tokens)
        if tokens:
            kept.append(" ".join(tokens))
    return kept


def shorten_question(question: str, words: int) -> str:
    """The last `words` words: a question is asked at its end."""
    return " ".join(question.split()[-words:])


def check_letters(choices: Sequence[str], answer_as: AnswerAs, where: str) -> None:
    """Raise UserError where letters are asked for and a question has no choices, or more than the alphabet."""
    if answer_as == "text":
        return
    if not choices:
        raise UserError(
            f"{where}: has no choices, and student.answer_as is '{answer_as}'. Give it choices, or set student.answer_as: text."
        )
    if len(choices) > len(ascii_uppercase):
        raise UserError(f"{where}: has more choices than there are letters. Set student.answer_as: text.")


def _shown_choices(choices: Sequence[str], answer_as: AnswerAs) -> list[str]:
    if answer_as == "text":
        return [_one_line(choice) for choice in choices]
    return [f"({letter}) {_one_line(choice)}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]


def _choice_in(line: str, choices: Sequence[str], answer_as: AnswerAs) -> int | None:
    if answer_as == "text":
        return _text_in(line, choices)
    by_letter, rest = _letter_in(line, len(choices))
    by_text = None if answer_as == "letter" else _text_in(rest, choices)
    named = {by_letter, by_text} - {None}
    return named.pop() if len(named) == 1 else None


def _text_in(line: str, choices: Sequence[str]) -> int | None:
    for form in (_one_line, _without_case, _plain):  # "C++" and "C#", "mm" and "Mm" are different answers
        exact = [index for index, choice in enumerate(choices) if form(choice) == form(line)]
        if len(exact) == 1:
            return exact[0]
    # Otherwise the choice that the line contains as whole words ("the answer is K2."), not as a part of a longer choice
    # ("Iron" in "Iron Age"), if no other is in it as well.
    plain = [_plain(choice) for choice in choices]
    spans = [
        (*found.span(), index) for index, choice in enumerate(plain) for found in _whole_words(choice, _plain(line))
    ]
    named = {
        index
        for start, end, index in spans
        if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
    }
    return named.pop() if len(named) == 1 else None


def _whole_words(words: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<!\S){re.escape(words)}(?!\S)", text)


def _letter_in(line: str, count: int) -> tuple[int | None, str]:
    """The choice that the line names by its letter, and the rest of the line; "A dog" names none."""
    found = re.match(r"\W*(?i:option|choice|answer)?\s*(?:\(([A-Za-z])\)|([A-Za-z])(?:[.,:;)]|$))", line)
    index = ascii_uppercase.find((found[1] or found[2]).upper()) if found else -1
    return (index, line[found.end() :]) if found and index < count else (None, line)


def _plain(text: str) -> str:
    """Case, punctuation and a leading article taken away; a text of punctuation alone stays as it is."""
    simple = plain(text)
    return re.sub(r"^(?:the|a|an) (?=\S)", "", simple) or text.strip().casefold()


def _without_case(text: str) -> str:
    return _one_line(text).casefold()


def _one_line(text: str) -> str:
    return " ".join(_SURROGATE.sub("\ufffd", text).split())
