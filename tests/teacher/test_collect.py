"""One function for all kinds of teachers, what it says about itself, and what it would cost."""

from dataclasses import replace

import pytest
from fault_server import no_passages

from kard.recipe.teacher import TeacherSection
from kard.teacher.collect import collect_rationales, describe_teacher, estimate, spent_so_far
from kard.teacher.limits import Spent, spending
from kard.teacher.rationale import read_rationales, write_rationales


def test_recorded_rationales_are_numbered_judged_and_limited(questions, tmp_path):
    first, second = questions(2)
    first = replace(first, rationales=("Grass is red here.", "No.", "Apples are red.", "Apples, are red!"))
    collected = collect_rationales([first, second], no_passages, TeacherSection(), 0, tmp_path / "c.sqlite")
    assert [(r.id, r.status) for r in collected] == [
        ("q0/0", "kept"),
        ("q0/1", "too_short"),
        ("q0/2", "kept"),
        ("q0/3", "duplicate"),
    ]
    assert {r.source for r in collected} == {"recorded"}
    limited = collect_rationales([first], no_passages, TeacherSection(rationales=1), 0, tmp_path / "c.sqlite")
    assert limited == collected[:1]
    assert not (tmp_path / "c.sqlite").exists()


def test_extractive_rationales_and_a_question_without_passages(questions, passage, tmp_path):
    first, second = questions(2)
    passages = {first.id: [passage("Thing number 0 is red as a rose.")], second.id: []}
    section = TeacherSection(kind="extractive")
    collected = collect_rationales([first, second], lambda q: passages[q.id], section, 0, tmp_path / "c.sqlite")
    assert [(r.question, r.status, r.source) for r in collected] == [
        ("q0", "kept", "extractive"),
        ("q1", "error", "extractive"),
    ]
    assert collected[0].text == "Thing number 0 is red as a rose."
    assert "q1 has no gold passage" in collected[1].reason


def test_collected_rationales_survive_writing_and_reading(server, asking, questions, tmp_path):
    collected = collect_rationales(questions(3), no_passages, asking(), 0, tmp_path / "c.sqlite")
    write_rationales(tmp_path / "r.jsonl", collected)
    assert read_rationales(tmp_path / "r.jsonl") == collected
    assert collected[0].source == "tester"
    assert collected[0].usage["prompt_tokens"] == 100
    assert 0 < collected[0].usage["seconds"] < 5


def test_questions_that_are_asked_without_gold_passages_are_counted(
    server, asking, questions, passage, tmp_path, capsys
):
    section = asking(sees_gold_passages=True)
    known = {"q0": [passage("A thing is red.")]}
    collect_rationales(questions(3), lambda question: known.get(question.id, []), section, 0, tmp_path / "c.sqlite")
    assert "2 of 3 questions have no gold passages" in capsys.readouterr().err
    assert sum("Passage: A thing is red." in str(body) for body in server.bodies) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "came with the questions"),
        (
            {"kind": "extractive", "sentences": 2},
            "the 2 sentences of the gold passages that support the answer; no LLM",
        ),
        ({"kind": "openai", "model": "m"}, "written by m (OpenAI), which saw the gold answer."),
        ({"kind": "openai", "model": "m", "sees_gold_passages": True}, "the gold answer and the gold passages"),
        (
            {"kind": "openai", "model": "m", "sees_answer": False, "base_url": "http://x/v1"},
            "m (http://x/v1), which saw the question",
        ),
    ],
)
def test_the_teacher_describes_itself(settings, words):
    text = describe_teacher(TeacherSection(**settings))
    assert words in text
    assert text.endswith(".")


def test_the_estimate_grows_with_questions_and_rationales(questions, passage):
    section = TeacherSection(kind="openai", model="m", max_tokens=50)
    one = estimate(questions(1), no_passages, section)[1]
    four = estimate(questions(2), no_passages, section.model_copy(update={"rationales": 2}))[1]
    assert (one.requests, one.completion_tokens) == (1, 50)
    assert 300 < one.prompt_tokens < 1500
    assert (four.requests, four.completion_tokens) == (4, 200)
    assert four.prompt_tokens == pytest.approx(4 * one.prompt_tokens, abs=8)
    seeing = TeacherSection(kind="openai", model="m", sees_gold_passages=True)
    longer = estimate(questions(1), lambda question: [passage("word " * 400)], seeing)[1]
    assert longer.prompt_tokens > one.prompt_tokens + 400


@pytest.mark.parametrize("kind", ["recorded", "extractive"])
def test_the_other_kinds_cost_nothing(questions, kind):
    assert estimate(questions(2), no_passages, TeacherSection(kind=kind)) == (0, Spent())


def test_the_estimate_leaves_out_what_is_there(server, asking, questions, tmp_path):
    section = asking(max_tokens=100)
    collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    answered, left = estimate(questions(5), no_passages, section, 7, tmp_path / "c.sqlite")
    assert (answered, left.requests, left.completion_tokens) == (3, 2, 200)
    assert estimate(questions(5), no_passages, section, 8, tmp_path / "c.sqlite")[1].requests == 5


def test_what_was_spent_is_told(server, asking, questions, tmp_path):
    section = asking(input_price=2.0, output_price=10.0)
    assert spent_so_far(tmp_path / "c.sqlite") == Spent()
    assert not (tmp_path / "c.sqlite").exists()
    collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    spent = spent_so_far(tmp_path / "c.sqlite")
    assert spent == Spent(3, 300, 60)
    assert spending(spent, section.resources) == "3 requests, 300 tokens in, 60 out, $0.0012"
    assert spending(spent, asking().resources) == "3 requests, 300 tokens in, 60 out"
