"""The filter: every status, conclusions in many wordings, and the final statement that is cut off."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kard.data.question import Question, question_from_row
from kard.recipe.teacher import TeacherSection
from kard.teacher.filter import (
    LONGEST_TEXT,
    judge,
    judged,
    stated_answer,
    without_conclusion,
    without_repetitions,
)
from kard.teacher.rationale import Draft
from kard.teacher.replies import readable

QUESTION = Question("q", "Which of these is a gas at room temperature?", ("iron", "oxygen", "salt water", "wood"), 1)
YES_NO = Question("y", "Can birds fly?", ("yes", "no"), 0)
OPEN = Question("o", "Where was Chopin born?", (), "Poland")
SECTION = TeacherSection(max_words=20)
REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "finish_reason", "status", "in_reason"),
    [
        ("", "stop", "error", "empty"),
        ("  \n", "stop", "error", "empty"),
        ("", "length", "truncated", "max_tokens"),
        ("I'm sorry, but I can't help with that.", "stop", "refused", "I'm sorry"),
        ("I’m sorry, that is not possible.", "stop", "refused", "sorry"),
        ("I cannot answer this question.", "stop", "refused", "I cannot"),
        ("As an AI language model, I have no opinion.", "stop", "refused", "As an AI"),
        ("No, said the endpoint.", "content_filter", "refused", "content_filter"),
        ("Oxygen boils far below zero, which means that at room", "length", "truncated", "256"),
        ("Oxygen boils.", "stop", "too_short", "2 words"),
        ("word " * 21, "stop", "too_long", "21 words"),
        ("Wood burns well. So the answer is (D).", "stop", "wrong_answer", "“wood”"),
        ("Oxygen boils at -183 degrees. So the answer is (B).", "stop", "kept", ""),
        ("Oxygen boils at -183 degrees, far below room temperature.", "", "kept", ""),
        ("It is sorry work to boil iron, but oxygen boils at once.", "stop", "kept", ""),
        ("As an AI-free text, oxygen I can't boil.", "stop", "refused", "As an AI"),
    ],
)
def test_every_status_has_its_reason(text, finish_reason, status, in_reason):
    found, reason = judge(QUESTION, text, finish_reason, SECTION)
    assert found == status
    assert in_reason in reason
    assert bool(reason) == (status != "kept")


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is (B).", 1),
        ("Therefore, the correct answer is option C.", 2),
        ("The correct option is (A) iron.", 0),
        ("So, the answer is oxygen, because it boils early.", 1),
        ("The answer to this multiple-choice question is therefore salt water.", 2),
        ("Answer: B", 1),
        ("**Answer:** D) wood", 3),
        ("Option (C) is the correct answer because it flows.", 2),
        ("Boiling is early, making answer (B) the right choice.", 1),
        ("Option (B), the second one, is correct.", 1),
        ("Option (A) is incorrect. Option (B) is correct because it boils.", 1),
        ("Option (A) is correct. Option (C) is correct.", None),
        ("Option (A) is correct, but it is not the best answer.", None),
        ("Option (A) is not correct.", None),
        ("If it were solid, the answer would be (A).", None),
        ("The answer is not (A).", None),
        ("The answer is (A) at first sight. In the end the answer is (B).", 1),
        ("To answer this question, we need to know about iron.", None),
        ("A gas fills a room. Iron does not.", None),
        ("The answer is (Q).", None),
        ("The answer is a metal.", None),
    ],
)
def test_conclusions_are_read(text, stated):
    assert stated_answer(text, QUESTION) == stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Therefore, the answer is (B) no, birds cannot.", 1),
        ("The answer to the question is yes, no bird is without wings.", 0),
        ('So the answer is "no".', 1),
        ("The answer is NO.", 1),
    ],
)
def test_yes_and_no_are_read(text, stated):
    assert stated_answer(text, YES_NO) == stated


def test_an_open_answer_agrees_if_it_holds_the_gold_one():
    assert judge(OPEN, "He came from near Warsaw. The answer is: Poland, in Europe.", "", SECTION)[0] == "kept"
    assert judge(OPEN, "He came from near Paris. The answer is France.", "", SECTION)[0] == "wrong_answer"


@pytest.mark.parametrize(
    "ending",
    [
        "So the answer is (B).",
        "Therefore, the correct answer is (B) oxygen.",
        "Answer: oxygen",
        "Therefore, option (B) is the correct answer.",
        "Thus, we can conclude that the answer to the question is (B).",
        "\nAnswer: (B)",
    ],
)
def test_a_final_statement_of_the_answer_is_cut_off(ending):
    assert (
        without_conclusion(f"Oxygen boils early. It is thin. {ending}", QUESTION) == "Oxygen boils early. It is thin."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Oxygen boils early, so the answer is (B).",
        "Oxygen boils early. The answer is (B) oxygen, which boils at -183 degrees.",
        "The answer is (B). Oxygen boils early.",
        "Boils early. So the answer is (B).",
        "Oxygen boils early. So the answer is (C).",
        "So the answer is (B).",
    ],
)
def test_nothing_else_is_cut_off(text):
    assert without_conclusion(text, QUESTION) == text


def test_the_same_words_twice_are_a_duplicate_and_stay_in_the_list():
    drafts = [
        Draft("Wood burns, so it is (D): the answer is (D)."),
        Draft("Oxygen boils early."),
        Draft("oxygen, boils EARLY"),
    ]
    rationales = without_repetitions(judged(QUESTION, [*drafts, Draft("", failure="503")], SECTION, "tester"), SECTION)
    assert [r.status for r in rationales] == ["wrong_answer", "kept", "duplicate", "error"]
    assert [r.id for r in rationales] == ["q/0", "q/1", "q/2", "q/3"]
    assert "q/1" in rationales[2].reason
    assert rationales[3].reason == "503"
    assert {r.source for r in rationales} == {"tester"}


def test_a_rejected_text_does_not_make_the_next_one_a_duplicate():
    drafts = [Draft("Oxygen boils early.", "length"), Draft("Oxygen boils early.", "stop")]
    assert [r.status for r in without_repetitions(judged(QUESTION, drafts, SECTION, ""), SECTION)] == [
        "truncated",
        "kept",
    ]


HARMONY = "<|channel|>analysis<|message|>Is it (A)?<|end|><|start|>assistant<|channel|>"


@pytest.mark.parametrize(
    ("reply", "finish_reason", "text", "status"),
    [
        ("<think>Is it iron? The answer is (A).</think>\n\nOxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("Hm, the answer is (A).\n</think>Oxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("<think>Is it iron? It may well be", "length", "", "truncated"),
        ("<think>Is it iron?</think>", "stop", "", "error"),
        ("<Thinking>\nIs it iron?\n</Thinking>\nOxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("<reasoning>Is it?</reasoning>Oxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("[THINK]Is it iron?[/THINK]Oxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        (f"{HARMONY}final<|message|>Oxygen boils early.<|return|>", "stop", "Oxygen boils early.", "kept"),
        (f"{HARMONY}final <|constrain|>text<|message|>Oxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("analysisIs it iron?assistantfinalOxygen boils early.", "stop", "Oxygen boils early.", "kept"),
        ("<|channel|>analysis<|message|>Is it iron?", "length", "", "truncated"),
        ("<|channel|>analysis<|message|>Is it iron?<|end|>", "stop", "", "error"),
        ("The analysis of air shows oxygen.", "stop", "The analysis of air shows oxygen.", "kept"),
        ("Two <b> tags </b> do not matter.", "stop", "Two <b> tags </b> do not matter.", "kept"),
    ],
)
def test_thinking_aloud_is_cut_off(reply, finish_reason, text, status):
    (cut,) = judged(QUESTION, [Draft(reply, finish_reason)], SECTION, "")
    assert (cut.text, cut.status) == (text, status)


@pytest.mark.parametrize("piece", ["the answer is ", "Option (A) is wrong. ", "word ", "<think>", "\n", "oxygen as "])
def test_a_reply_of_five_megabytes_takes_no_time(piece):
    start = time.process_time()
    [rationale] = judged(QUESTION, [Draft(piece * (5_000_000 // len(piece)))], TeacherSection(rewrite="keep"), "")
    assert time.process_time() - start < 5
    assert rationale.status in ("too_long", "error")
    assert len(rationale.text) <= LONGEST_TEXT


ELIMINATING = "Oxygen boils early. Option (A) is incorrect. Option (C) is incorrect. Option (D) is incorrect."


@pytest.mark.parametrize(
    "text",
    [
        "The passage says that oxygen boils early.",
        "According to the given passage, oxygen boils early.",
        "As stated in the text, oxygen boils early.",
        "The gold answer is oxygen, as it boils early.",
        "The provided context mentions that oxygen boils early.",
    ],
)
def test_leaks_are_rejected_where_the_recipe_says_so(text):
    status, reason = judge(QUESTION, text, "stop", TeacherSection(reject_leaks=True))
    assert status == "leak"
    assert reason.startswith("says “")
    assert judge(QUESTION, text, "stop", TeacherSection())[0] == "kept"


@pytest.mark.parametrize(
    "text",
    [
        "The passage of time turns wood to coal.",
        "Oxygen was first described in a text of 1774.",
        "In the context of chemistry, oxygen is a gas.",
        "Water moves through the passage between two islands.",
    ],
)
def test_words_that_only_look_like_leaks_are_kept(text):
    assert judge(QUESTION, text, "stop", TeacherSection(reject_leaks=True))[0] == "kept"


def test_every_rationale_has_a_kind():
    drafts = [Draft("Cold air is dense. Oxygen boils early."), Draft(ELIMINATING), Draft("", failure="503")]
    rationales = judged(QUESTION, drafts, TeacherSection(), "")
    assert [r.kind for r in rationales] == ["constructive", "eliminating", ""]
    assert [r.status for r in rationales] == ["kept", "kept", "error"]


def test_rewriting_keeps_what_leads_to_the_answer_and_the_original():
    section = TeacherSection(rewrite="keep")
    first, second, third = judged(
        QUESTION, map(Draft, ["Oxygen boils early, at -183 degrees.", ELIMINATING, "Option (A) is wrong."]), section, ""
    )
    assert (first.original, first.kind) == ("", "constructive")
    assert (second.text, second.original, second.kind) == ("Oxygen boils early.", ELIMINATING, "constructive")
    assert (third.text, third.original) == ("Option (A) is wrong.", "")  # nothing would be left
    assert judged(QUESTION, [Draft(ELIMINATING)], TeacherSection(), "")[0].text == ELIMINATING


def test_constructive_ones_come_first_where_others_are_rewritten_and_ids_stay():
    section = TeacherSection(rewrite="keep")
    drafts = [Draft("Option (A) is wrong."), Draft("It is cold.", "length"), Draft("Oxygen boils early.")]
    rationales = without_repetitions(judged(QUESTION, drafts, section, ""), section)
    assert [r.id for r in rationales] == ["q/2", "q/0", "q/1"]
    plain = without_repetitions(judged(QUESTION, drafts, TeacherSection(), ""), TeacherSection())
    assert [r.id for r in plain] == ["q/0", "q/1", "q/2"]


@given(st.text(max_size=200), st.sampled_from(["", "stop", "length"]))
def test_no_text_breaks_the_filter(text, finish_reason):
    rationale = judged(QUESTION, [Draft(text, finish_reason)], SECTION, "")[0]
    assert (rationale.status == "kept") == (rationale.reason == "")
    assert rationale.text in readable(text)


def kept_of(question):
    section = TeacherSection()
    return without_repetitions(judged(question, map(Draft, question.rationales), section, ""), section)


@pytest.mark.parametrize(("name", "kept_share"), [("obqa", 0.99), ("strategyqa", 0.95)])
def test_recorded_rationales_of_a_real_teacher_are_mostly_kept(name, kept_share):
    path = REAL_DATA / name / "questions.train.jsonl"
    if not path.exists():
        pytest.skip("the real data is not here")
    with open(path, encoding="utf-8") as file:
        questions = [question_from_row(json.loads(line)) for line, _ in zip(file, range(100), strict=False)]
    statuses = Counter(r.status for q in questions for r in kept_of(q))
    assert statuses["kept"] >= kept_share * statuses.total()
    assert set(statuses) <= {"kept", "wrong_answer", "too_long", "duplicate"}
