"""Each mistake is in the class that its passages and answers put it in, and the sentence speaks of the largest part."""

from __future__ import annotations

import pytest

from kard.evaluation.diagnosis import CLASSES, RETRIEVAL, STUDENT, advice, classify, support


def row(question: str, *passages: str, correct: bool = False, parsed: bool = True) -> dict:
    shown = [{"id": name, "title": "", "text": ""} for name in passages]
    return {"question": question, "correct": correct, "parsed": parsed, "passages": shown, "rationale": ""}


WANTED = {name: {f"silver {name}"} for name in "abcdef"}
CANDIDATES = {"c": {"silver c", "other"}, "d": {"other"}, "e": {"silver e"}}
READ = [
    row("a", "silver a", correct=True),
    row("b", "silver b"),
    row("c", "other"),
    row("d", "other"),
    row("e", "other"),
    row("f", "silver f", parsed=False),
    row("g", "other"),  # nobody explained it
]
SILVER = [row(name, f"silver {name}", correct=name in "acdf") for name in "abcdef"] + [row("g")]


def classes(predictions: dict) -> dict[str, dict[str, str]]:
    supports = {name: [None] * len(rows) for name, rows in predictions.items()}
    _, mistakes = classify(predictions, WANTED, CANDIDATES, supports)
    return {name: {m["question"]: m["class"] for m in mistakes if m["method"] == name} for name in predictions}


def test_every_mistake_is_in_its_class():
    found = classes({"kard_reranker": READ, "kard_silver": SILVER})
    assert found["kard_reranker"] == {
        "b": "in_prompt",
        "c": "not_in_top_k",
        "d": "not_in_candidates",
        "e": "wrong_with_silver",
        "f": "unparsed",
        "g": "unknown",
    }
    assert found["kard_silver"] == {"b": "in_prompt", "e": "in_prompt", "g": "unknown"}


def test_without_the_silver_method_and_for_other_students_nothing_is_wrong_with_silver():
    assert classes({"kard_reranker": READ})["kard_reranker"]["e"] == "not_in_top_k"
    assert classes({"ka_finetune": READ, "kard_silver": SILVER})["ka_finetune"]["e"] == "not_in_top_k"


def test_methods_that_read_nothing_have_their_own_class():
    rows = [row("a"), row("b", parsed=False), row("c", correct=True)]
    for method in ("finetune", "distill", "few_shot_cot", "teacher_cot"):
        assert classes({method: rows})[method] == {"a": "no_passages", "b": "unparsed"}


def test_counts_add_up_and_supports_are_means():
    shares = [0.9, 0.1, 0.2, None, 0.3, 0.4, 0.5]
    [summary], mistakes = classify({"kard_reranker": READ}, WANTED, CANDIDATES, {"kard_reranker": shares})
    assert summary["mistakes"] == len(mistakes) == sum(row["count"] for row in summary["classes"]) == 6
    assert [row["class"] for row in summary["classes"]] == [
        "unparsed", "unknown", "in_prompt", "not_in_top_k", "not_in_candidates",
    ]  # fmt: skip
    assert summary["support"] == pytest.approx({"all": 0.4, "right": 0.9, "wrong": 0.3})
    assert [row["support"] for row in mistakes] == shares[1:]


def test_a_reader_shows_what_a_method_without_passages_loses():
    blind = [row("a"), row("b"), row("c")]
    reader = [row("a", "silver a", correct=True), row("b", "silver b"), row("c", "silver c", correct=True)]
    supports = {name: [None] * 3 for name in ("distill", "kard_bm25")}
    [told, _], _ = classify({"distill": blind, "kard_bm25": reader}, WANTED, {}, supports)
    assert told["advice"] == "All its mistakes (3) were made with no passages; kard_bm25 answers 2 of them right."
    [alone], _ = classify({"distill": blind}, {}, {}, {"distill": [None] * 3})
    assert alone["advice"] == "All its mistakes (3) were made with no passages."


def test_advice_speaks_of_the_largest_part():
    assert advice({"not_in_candidates": 3, "not_in_top_k": 9, "in_prompt": 8}) == (
        "60 % of its mistakes (12 of 20) are lost by retrieval: among the candidates, but not in the prompt (9), not among "
        "the candidates (3). To mend it, train the reranker on more questions, or raise student.passages and "
        "evaluation.passages together."
    )
    assert "62 % of its mistakes (5 of 8) are lost by the student" in advice(
        {"in_prompt": 4, "wrong_with_silver": 1, "unparsed": 3}
    )
    assert "no answer could be read off" in advice({"unparsed": 4, "in_prompt": 3})
    assert advice({}) == "It made no mistakes."
    assert {*RETRIEVAL, *STUDENT} < set(CLASSES)
    assert all(advice({label: 1}).count(CLASSES[label][1]) == 1 for label in CLASSES if label != "no_passages")


def test_support_is_the_share_of_the_words_that_passages_hold():
    def terms(text: str) -> set[int]:
        return {hash(word) for word in text.lower().split() if word not in ("the", "is")}

    assert support(terms, "The stone is red", ["the red house", "a door"]) == 0.5
    assert support(terms, "The stone is red", ["Red", "Stone"]) == 1.0
    assert support(terms, "The stone is red", []) == 0.0
    assert support(terms, "the is", ["red"]) is None
