"""Question files that were written for something else: named, with what to write, so that no choice is left unread in silence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kard.data.textfile import PACKED
from kard.errors import UserError
from kard.progress import say

_SHOWN = 8
OURS = ("id", "question", "choices", "answer", "rationales", "gold_passages", "conclusion")
# What makes a row one of a known format: keys that it has, the format's name, and the `questions.kind` that reads it.
_FORMATS: list[tuple[tuple[str, ...], str, str | None]] = [
    (("answer_idx", "options"), "MedQA", "medqa"),
    (("opa", "opb"), "MedMCQA", "table"),
    (("decomposition", "facts"), "StrategyQA", "strategyqa"),
    (("question_decomposition",), "MuSiQue", None),
    (("supporting_facts",), "HotpotQA", "hotpotqa"),
    (("question_stem",), "OpenBookQA", "openbookqa"),
    (("answerKey",), "ARC", "arc"),
    (("QUESTION", "CONTEXTS"), "PubMedQA", None),
    (("final_decision",), "PubMedQA", "pubmedqa"),
    (("article", "options"), "RACE", None),
    (("article", "questions"), "QuALITY", None),
    (("endings",), "HellaSwag", None),
    (("sol1", "sol2"), "PIQA", None),
    (("choice1", "choice2"), "COPA", None),
    (("answerA", "answerB"), "Social IQa", None),
    (("option1", "option2"), "WinoGrande", "table"),
    (("mc1_targets",), "TruthfulQA", None),
    (("paragraphs", "title"), "SQuAD", "squad"),
    (("qas",), "SQuAD", None),
    (("context", "answers"), "SQuAD", "squad"),
    (("data", "version"), "SQuAD", "squad"),
    (("qa_pairs",), "DROP", None),
    (("document_text",), "Natural Questions", None),
    (("Question", "Answer"), "TriviaQA", None),
    (("messages",), "chat fine-tuning (OpenAI)", "chat"),
    (("conversations",), "ShareGPT", None),
    (("prompt", "completion"), "completion fine-tuning (OpenAI)", "table"),
    (("prompt", "chosen"), "preference", None),
    (("instruction", "output"), "Alpaca", None),
    (("rows", "features"), "dataset viewer", None),
    (("_id", "text"), "BEIR query", "beir"),
    (("A", "B"), "one column a choice", "table"),
]
# Files that are no JSONL: how their names end.
_TABLES = (*(end + packed for end in (".csv", ".tsv", ".tab") for packed in ("", *PACKED)), ".parquet", ".xlsx")
_CHOICE_COLUMNS = ({"A", "B"}, {"opa", "opb"}, {"option1", "option2"})
# Names that others give to our keys.
_CALLED = {
    "id": "_id qid question_id questionid uid uuid guid idx index key number",
    "question": "query prompt text input stem problem instruction question_text question_stem ques q goal sentence",
    "choices": "options option alternatives candidates answers endings distractors choice answer_choices possible_answers",
    "answer": "label labels gold correct target solution output response answers answer_idx answer_index answer_key answerkey "
    "correct_answer correct_option correct_index correct_idx right_answer ground_truth gold_answer gold_label final_answer cop "
    "completion correct_choice answer_letter",
}
_NEAR = 0.85
_KEYS = "'question', 'choices' (a list of texts; none for an open question)"
_KEYS_WITH_ANSWER = f"{_KEYS}, 'id', and 'answer' (the right choice's text, or its index from 0)"


def looks_like(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str | None] | None:
    """The format that a row is one of: keys that say so, its name, and the `questions.kind` that reads it."""
    return next((known for known in _FORMATS if row.keys() >= set(known[0])), None)


def check_file(path: Path) -> None:
    """Raise UserError where a file or folder of questions is no JSONL, but of a kind that is read."""
    kind = "table" if path.name.lower().endswith(_TABLES) or is_saved(path) else None
    if path.is_dir():
        kind = "beir" if (path / "qrels").is_dir() else "msmarco" if list(path.glob("*qrels*")) else kind
    if kind:
        raise UserError(f"{path}: is no JSONL. Set questions.kind: {kind}, which reads it.")


def is_saved(path: Path) -> bool:
    """Whether it is a folder that the package datasets saved (``save_to_disk``)."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def check_keys(row: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    """Look whether a row has under another name, or in another form, what is read of it.

    Args:
        row: A line's object.
        wanted: Those of `OURS` that are read.
        where: File and line.

    Raises:
        UserError: Names the format that the row looks like, or the key that should be called otherwise.
    """
    if row.keys() <= set(OURS):
        return
    called = {key: name for key in wanted if key not in row and (name := _called(key, row)) is not None}
    needed = {"id", "question", "answer"}.intersection(wanted)
    answer = row.get("answer") if "answer" in needed else None
    is_odd = any(row.get(key) is None for key in needed) or isinstance(row.get("choices"), dict) or _is_odd(answer)
    is_odd |= "choices" not in row and any(row.keys() >= columns for columns in _CHOICE_COLUMNS)
    if (called or is_odd) and (found := looks_like(row)):
        keys, name, kind = found
        is_data = "answer" in needed
        write = f"Set questions.kind: {kind}, or write" if kind and is_data else "Write"
        own = _KEYS_WITH_ANSWER if is_data else _KEYS
        raise UserError(f"{where}: looks like {name}'s own format ({', '.join(keys)}). {write} {own}.")
    for key, name in called.items():
        raise UserError(f"{where}: key '{name}' is not read, and there is no '{key}'. Name it '{key}', or remove it.")


def say_unread(path: Path, keys: Iterable[str]) -> None:
    """Say which keys of a file are not read, where there are any."""
    others = sorted(set(keys) - set(OURS))
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        say(f"  {path}: keys that are not read: {', '.join(others[:_SHOWN])}{more}")


def _is_odd(answer: Any) -> bool:
    return isinstance(answer, bool | list | dict)


def _called(key: str, row: Mapping[str, Any]) -> str | None:
    """A name under which others give what is ours as `key`; choices are several, or they are none."""
    for name, value in row.items():
        several = key != "choices" or (isinstance(value, list | dict) and len(value) > 1)
        if name not in OURS and several and stands_for(name, key):
            return name
    return None


@lru_cache(10_000)
def stands_for(name: str, key: str) -> bool:
    """Whether a name is one that others give to our `key`."""
    plain = name.strip().casefold().replace("-", "_").replace(" ", "_")
    near = difflib.SequenceMatcher(None, plain.replace("_", ""), key.replace("_", "")).ratio() >= _NEAR
    return near or plain in _CALLED.get(key, "").split()
