"""Two rounds of requests: the teacher asks, then answers from the passage and from memory; every question gets a status."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from batch_server import BatchServer
from fault_server import completion
from question_teacher import asks_and_answers, documents, instead, prompt_of, sized

from kard.data.draw import draw
from kard.data.passage import Passage, read_passages, write_passages
from kard.errors import Unfinished, UserError
from kard.recipe.sections import QuestionsSection
from kard.recipe.teacher import TeacherSection
from kard.teacher.generate import Generation, balanced, estimate_questions, generate_questions
from kard.teacher.limits import Spent
from tests.conftest import COLOURS

KINDS = ("multiple_choice", "yes_no", "short", "comparison", "unanswerable")


@pytest.fixture
def generation(tmp_path, server, asking):
    """A function that makes what is asked of the test's server."""
    server.answer = asks_and_answers

    def make(count=20, kinds=KINDS, section=None, more="", **settings) -> Generation:
        texts = [(name, text.partition("\n\n")) for name, text in documents(count).items()]
        rows = (Passage(name, title[2:], text.strip() + more, name, name) for name, (title, _, text) in texts)
        write_passages(tmp_path / "passages.jsonl", rows)
        passages = read_passages(tmp_path / "passages.jsonl")
        questions = QuestionsSection(kind="generated", kinds=kinds, train_size=count // 2, test_size=4, **settings)
        drawn = draw(passages, {"train": count // 2, "test": 4}, kinds, 0)
        return Generation(drawn.items, passages, questions, section or asking(), 0)

    return make


def generated(generation, tmp_path, write=None):
    return generate_questions(generation, tmp_path / "teacher.sqlite", write)


def rounds(server) -> Counter[str]:
    """How often the server was asked for a question, for an answer from passages, and for one from memory."""
    said = [prompt_of(body) for body in server.bodies]
    return Counter(
        "ask" if not prompt.endswith("Answer:") else "memory" if "what you know" in prompt else "answer"
        for prompt in said
    )


def test_every_item_is_asked_for_and_answered_twice(generation, tmp_path, server):
    made = generated(generation(), tmp_path)
    assert [one.status for one in made] == ["kept"] * 14
    open_ones = sum(one.kind == "unanswerable" for one in made)
    assert rounds(server) == {"ask": 14, "answer": 14, "memory": 14 - open_ones}
    assert all(one.usage["requests"] == (2 if one.kind == "unanswerable" else 3) for one in made)
    assert {body["temperature"] for body in server.bodies if prompt_of(body).endswith("Answer:")} == {0.0}
    asked = len(server.bodies)
    assert generated(generation(), tmp_path) == made
    assert len(server.bodies) == asked


def test_what_the_teacher_knows_by_heart_is_kept_apart_by_a_key(generation, tmp_path, server):
    told: dict[str, str] = {}

    def answer(body, attempt):
        prompt, reply = prompt_of(body), asks_and_answers(body)
        key = re.findall(r"Question: (.*)", prompt)[-1] if prompt.endswith("Answer:") else ""
        if "what you know" in prompt:
            return {"body": completion(told[key])}
        if key:
            told[key] = reply["body"]["choices"][0]["message"]["content"]
        return reply

    server.answer = answer
    section = {"kinds": ("multiple_choice", "short")}
    one_at_a_time = generation(**section).teacher.resources.model_copy(update={"concurrency": 1})
    plan = generation(**section)
    made = generated(
        Generation(
            plan.items, plan.passages, plan.questions, plan.teacher.model_copy(update={"resources": one_at_a_time}), 0
        ),
        tmp_path,
    )
    assert {one.status for one in made} == {"known_by_heart"}
    before = len(server.bodies)
    kept = generated(generation(**section, keep_known=True), tmp_path)
    assert {one.status for one in kept} == {"kept"}
    assert len(server.bodies) == before


REPLIES = {
    "unparsable": lambda last, good: None if last.endswith("Answer:") else "Which colour it is",
    "round_trip": lambda last, good: "not told" if last.endswith("Answer:") else None,
    "refused": lambda last, good: None if last.endswith("Answer:") else "I'm sorry, I cannot do that.",
    "not_self_contained": lambda last, good: (
        None if last.endswith("Answer:") else good.replace("?", " in the text?", 1)
    ),
}


@pytest.mark.parametrize("status", REPLIES)
def test_each_failure_has_its_status(generation, tmp_path, server, status):
    def some(last, good):
        return REPLIES[status](last, good) if "river" in last else None

    server.answer = instead(some)
    made = generated(generation(24, ("short", "multiple_choice")), tmp_path)
    river = [one.status for one in made if "river" in one.documents[0]]
    others = [one.status for one in made if "river" not in one.documents[0]]
    assert set(river) == {status}
    assert set(others) == {"kept"}
    assert all(one.reason for one in made if one.status != "kept")


@pytest.mark.parametrize("form", ["{answer}", "Answer: {answer}", "Question: {question}\nAnswer: {answer}"])
def test_what_belongs_behind_a_question_is_asked_for_where_the_reply_ended_with_it(generation, tmp_path, server, form):
    def question_alone(body, attempt):
        good = asks_and_answers(body)["body"]["choices"][0]["message"]["content"]
        prompt = prompt_of(body)
        if not prompt.startswith("Write one question"):
            return sized(body, good)
        if prompt.endswith("Question:"):
            return sized(body, good.partition("\n")[0])
        question = prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:")
        return sized(body, form.format(question=question, answer=good))

    server.answer = question_alone
    plan, path = generation(24, ("short",), keep_known=True), tmp_path / "teacher.sqlite"
    made = generated(plan, tmp_path)
    assert all(one.right in COLOURS for one in made)
    assert {one.status for one in made} == {"kept"}
    assert len(server.bodies) == sum(one.usage["requests"] for one in made)
    assert estimate_questions(plan, path) == (len(server.bodies), Spent())


def test_a_question_that_stays_without_an_answer_is_unparsable(generation, tmp_path, server):
    server.answer = lambda body, attempt: sized(
        body, "" if prompt_of(body).endswith("Answer:") else "Which colour is it?"
    )
    with pytest.raises(UserError, match="none of the first 16 replies holds a question"):
        generated(generation(24, ("short",)), tmp_path)
    assert len(server.bodies) == 32


def test_a_failed_request_is_an_error_with_its_reason(generation, tmp_path, server, asking):
    def answer(body, attempt):
        if "river of the north" in prompt_of(body).rpartition("\n\n")[2]:
            return {"status": 400, "body": {"error": {"message": "too odd"}}}
        return asks_and_answers(body)

    server.answer = answer
    made = generated(generation(20, ("short",)), tmp_path)
    errors = [one for one in made if one.status == "error"]
    assert {one.documents for one in errors} == {("river-north.md",)}
    assert all("too odd" in one.reason for one in errors)


def test_a_teacher_that_answers_nonsense_is_not_asked_for_all(generation, tmp_path, server):
    server.answer = lambda body, attempt: {"body": completion("Lorem ipsum dolor sit amet.")}
    with pytest.raises(
        UserError, match=r"none of the first 32 replies holds a question \(32 unparsable: no question in “Lorem"
    ):
        generated(generation(72), tmp_path)
    assert len(server.bodies) == 32


def test_too_few_wrong_answers_are_filled_up_from_neighbouring_passages(generation, tmp_path, server):
    server.answer = instead(lambda last, good: re.sub(r"\nWrong: .*", "", good) if "Wrong:" in good else None)
    made = generated(generation(40, ("multiple_choice",)), tmp_path)
    kept = [one for one in made if one.status == "kept"]
    assert len(kept) > 15
    rights = {split: {one.right for one in made if one.split == split} for split in ("train", "test")}
    for one in kept:
        assert len(one.choices) >= 3
        assert set(one.wrong) <= rights[one.split] - {one.right}


def test_right_choices_are_balanced_and_those_that_people_saw_stay(generation, tmp_path):
    made = balanced(generated(generation(48, ("multiple_choice",)), tmp_path), 0)
    places = Counter(one.answer for one in made if one.split == "train")
    assert max(places.values()) - min(places.values()) <= 1
    from dataclasses import replace

    seen = [replace(one, reviewer="Ada") for one in made]
    assert balanced(seen, 7) == seen
    assert balanced(made, 0) == made
    assert balanced(made, 7) != made


def test_without_explanations_none_is_asked_for(generation, tmp_path, server):
    made = generated(generation(rationales=False), tmp_path)
    assert not any("Explanation" in prompt_of(body) for body in server.bodies)
    assert {one.status for one in made} == {"kept"}


def test_base_models_go_on_with_a_text_and_stop_at_a_blank_line(generation, tmp_path, server, asking):
    def answer(body, attempt):
        reply = asks_and_answers({"messages": [{"content": body["prompt"]}]})
        text = reply["body"]["choices"][0]["message"]["content"]
        return {
            "body": completion("") | {"choices": [{"text": f"{text}\n\nPassage: next one", "finish_reason": "stop"}]}
        }

    server.answer = answer
    section = asking(endpoint="completions")
    made = generated(generation(section=section, kinds=("yes_no", "short")), tmp_path)
    assert {one.status for one in made} == {"kept"}
    assert {tuple(body["stop"]) for body in server.bodies} == {("\n\n",)}
    assert not any("Write" in prompt_of(body).partition("\n\n")[0] for body in server.bodies)


def test_batches_are_handed_in_twice(generation, tmp_path, httpserver, asking):
    provider = BatchServer(httpserver)

    def line(row):
        reply = asks_and_answers(row["body"])["body"]
        return "output", {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": reply}, "error": None}

    provider.answer = line
    plan = generation(section=asking(mode="batch", base_url=provider.url))
    for _ in range(2):
        for _ in range(2):  # the second time nothing is handed in again
            with pytest.raises(Unfinished, match="batches are under way"):
                generated(plan, tmp_path)
        provider.finish()
    made = generated(plan, tmp_path)
    assert {one.status for one in made} == {"kept"}
    assert set(provider.submitted.values()) == {1}


def test_a_model_in_this_process_is_asked_alike(generation, tmp_path, server):
    def write(bodies):
        texts = [asks_and_answers(body)["body"]["choices"][0]["message"]["content"] for body in bodies]
        return [(text, "stop", 50, 9) for text in texts]

    made = generated(generation(section=TeacherSection(kind="transformers", model="tiny")), tmp_path, write)
    assert {one.status for one in made} == {"kept"}
    assert made[0].usage["completion_tokens"] in (18, 27)


LANGUAGES = {
    "Wer hat die alte Mühle am Fluss gebaut?": "ein Müller aus Köln",
    "川の色は何ですか？": "青",
    "Какого цвета эта река у города Тверь?": "синяя",
    "ما لون النهر؟": "أزرق",
    "Τι χρώμα έχει το ποτάμι;": "μπλε",
}


def test_other_languages_go_through_as_well(generation, tmp_path, server):
    left = iter(LANGUAGES.items())

    def answer(last, good):
        asked = re.findall(r"Question: (.+)", last)
        if last.endswith("Answer:"):
            return LANGUAGES.get(asked[-1]) if "Passage:" in last else "not known"
        pair = next(left, None)
        return f"Question: {pair[0]}\nAnswer: {pair[1]}" if pair else None

    server.answer = instead(answer)
    made = generated(generation(20, ("short",), more=f" {'. '.join(LANGUAGES.values())}."), tmp_path)
    assert {one.question: one.right for one in made if one.question in LANGUAGES} == LANGUAGES
    assert {one.status for one in made} == {"kept"}


def test_the_estimate_counts_what_is_still_to_be_sent(generation, tmp_path, server):
    plan, path = generation(), tmp_path / "teacher.sqlite"
    answered, spent = estimate_questions(plan, path)
    assert answered == 0
    assert not path.exists()
    generated(plan, tmp_path)
    assert spent.requests == len(server.bodies)
    assert estimate_questions(plan, path) == (len(server.bodies), Spent())
    known = generation(keep_known=True)
    assert estimate_questions(known, tmp_path / "none.sqlite")[1].requests == 28
