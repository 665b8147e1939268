"""Raw replies of an OpenAI endpoint that were recorded once, in files numbered by row, as the paper's authors published theirs.

``FOLDER/train/00012.json`` holds the reply to row 12 (counted from 0) of the training questions, ``FOLDER/test/…`` those of the
test; files that lie in the folder itself are train's. Each of a reply's choices is a rationale.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kard.data.normal import words_of
from kard.data.question import Question
from kard.data.textfile import read_text
from kard.errors import UserError
from kard.progress import say
from kard.teacher.rationale import Draft
from kard.teacher.replies import completion_in, hiding, parsed

# Of so many rows in a row, most replies must speak of their own question rather than of another one. Of the authors' replies
# 99.9 % do, none where all are a row off.
_WINDOW = 20
_SHOWN = 60


def recorded_drafts(questions: Sequence[Question], folder: Path) -> dict[str, list[Draft]]:
    """What was replied to each question, by its id; nothing for those that have no file, which are counted and said.

    Args:
        questions: With the row of the dataset's own files that each is (`Question.row`).
        folder: The recipe's ``teacher.replies``.

    Raises:
        UserError: There are no such files, or they do not belong to these questions: names file and row.
    """
    files = _numbered(folder)
    found = [(question, path) for question in questions if (path := files.get(question.row))]
    if not found:
        first = f"{questions[0].row}, of question '{questions[0].id}'" if questions else "none"
        raise UserError(
            f"{folder}: {len(files):,} replies, and none is of a row that is asked about (the first is {first}). Name the folder "
            "of the files 00000.json, 00001.json …, numbered by row of the training questions from 0 (teacher.replies)."
        )
    drafts = {question.id: _drafts(path) for question, path in found}
    _check_belong([one for one in found if any(draft.text for draft in drafts[one[0].id])], drafts)
    missing = [question.row for question in questions if question.row not in files]
    counts = (
        (len(missing), f"questions have no file (the first: {next(iter(missing), '')})"),
        (sum(bool(draft.failure) for some in drafts.values() for draft in some), "files hold no reply"),
        (len(files) - len(found), "files are of rows that are not asked about"),
    )
    say("; ".join([f"  {len(found):,} recorded replies", *(f"{count:,} {what}" for count, what in counts if count)]))
    return drafts


def _numbered(folder: Path) -> dict[str, Path]:
    """Files by row, as ``train/12``."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder (teacher.replies). Name the folder of the files 00000.json, 00001.json …"
        )
    splits = [folder / name for name in ("train", "dev", "test") if (folder / name).is_dir()]
    return {
        f"{split.name if splits else 'train'}/{int(path.stem)}": path
        for split in splits or [folder]
        for path in sorted(split.glob("*.json"))
        if re.fullmatch("[0-9]{1,9}", path.stem)
    }


def _drafts(path: Path) -> list[Draft]:
    text = read_text(path)
    outcome = completion_in(parsed(text), text, hiding(""))
    if not outcome.replies:
        return [Draft("", failure=f"{path}: {outcome.failure.removeprefix('200 ')}")]
    named = zip(("prompt_tokens", "completion_tokens"), outcome.tokens, strict=True)
    usage = {name: count for name, count in named if count is not None}
    return [Draft(text, reason, usage={} if place else usage) for place, (text, reason) in enumerate(outcome.replies)]


def _check_belong(found: Sequence[tuple[Question, Path]], drafts: dict[str, list[Draft]]) -> None:
    """Whether replies speak of their own questions: each is compared with its own, its neighbours' and two others by the
    words that they share, rare ones for more."""
    asked = [_words(" ".join((question.question, *question.choices))) for question, _ in found]
    seen_in = Counter(word for words in asked for word in words)
    weight = {word: math.log((len(asked) + 1) / count) for word, count in seen_in.items()}
    total = [math.sqrt(sum(weight[word] for word in words)) or 1.0 for words in asked]

    def own(place: int) -> bool:
        said = _words(" ".join(draft.text for draft in drafts[found[place][0].id]))
        places = dict.fromkeys((place + step) % len(asked) for step in (0, 1, -1, len(asked) // 3, len(asked) // 2))
        score, *others = (sum(weight[word] for word in asked[one] & said) / total[one] for one in places)
        return score > max(others, default=0.0)

    right = [own(place) for place in range(len(asked))]
    window = min(_WINDOW, len(right))
    for begin in range(len(right) - window + 1):
        if sum(right[begin : begin + window]) * 2 < window:
            question, path = found[begin + right[begin:].index(False)]
            raise UserError(
                f"{path}: is not the reply to row {question.row} ('{question.question[:_SHOWN]}'), nor are most of those around "
                "it: replies and questions are of different files. Name the folder that belongs to the questions "
                "(teacher.replies), or the questions that belong to it, in their own order."
            )


def _words(text: str) -> set[str]:
    return {word for word in words_of(text) if len(word) >= 3}
