"""The same answer whoever asks: evaluation, `kard batch`, `Kard.answer`, /v1/answer, whole or streamed, and the chat protocol."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import httpx2 as httpx
import pytest

from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Finder
from kard.kard import Kard, Listener
from kard.methods import without_passages
from kard.tools.batch import answer_file
from tests.conftest import write_rows
from tests.serving.conftest import ASKED, COLOURS, serving, sse


@pytest.fixture(scope="module")
def evaluated(answering_run) -> dict[str, dict]:
    path = answering_run / "predictions" / "rationales_silver" / "kard_reranker.jsonl"
    return {row["question"]: row for row in map(json.loads, path.open(encoding="utf-8"))}


def seen(row: dict) -> tuple:
    return row["answer"], row["rationale"], row["text"], [passage["id"] for passage in row["passages"]]


def test_every_way_of_asking_gives_the_evaluations_answer(answering_run, client, questions, evaluated, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, [{"id": q.id, "question": q.question, "choices": list(q.choices)} for q in questions])
    answer_file(answering_run, source, output)
    batch = {row["id"]: row for row in map(json.loads, output.open(encoding="utf-8"))}
    kard = Kard.load(answering_run)
    supported = []
    for question in questions:
        expected = seen(evaluated[question.id])
        asked = {"question": question.question, "choices": list(question.choices)}
        alone = kard.answer(question.question, question.choices)
        assert (alone.answer, alone.rationale, alone.text, [f.passage.id for f in alone.passages]) == expected
        assert seen(batch[question.id]) == expected
        reply = client.post("/v1/answer", json=asked).json()
        assert seen(reply) == expected
        citations = [citation.row() for citation in alone.citations]
        assert citations == batch[question.id]["citations"] == reply["citations"]
        supported += [citation["supported"] for citation in citations]
        [*_, (name, last)] = sse(client.post("/v1/answer", json={**asked, "stream": True}))
        assert name == "answer"
        assert seen(last) == expected
        content = "\n- ".join([f"{question.question}\nChoices:", *question.choices])
        chat = {"model": "kard_reranker", "messages": [{"role": "user", "content": content}]}
        reply = client.post("/v1/chat/completions", json=chat).json()
        assert seen(reply["kard"]) == expected
        assert reply["choices"][0]["message"]["content"] == expected[2]
    assert set(supported) == {True, False}  # it has learned to say what it reads, not always rightly


def test_a_question_without_words_is_refused(kard):
    for question, choices in ((" \n", COLOURS), (ASKED, ["red", ""])):
        with pytest.raises(UserError, match=r"question 'question': is empty, or has an empty choice\. Give it a text"):
            kard.answer(question, choices)


def test_a_choice_that_is_there_twice_is_refused_with_the_reason(kard, client):
    with pytest.raises(UserError, match=r"the choice 'red' is there twice\. Make the choices different"):
        kard.answer(ASKED, ["red", "blue", "red"])
    reply = client.post("/v1/answer", json={"question": ASKED, "choices": ["red", "red"]})
    assert reply.status_code == 400
    assert "'red' is there twice" in reply.text


def test_questions_of_all_models_that_come_at_once_are_answered_as_one_by_one(client, questions):
    bodies = [
        {"question": q.question, "choices": list(q.choices), "model": model}
        for q in questions
        for model in ("kard_reranker", "kard_bm25", "no_passages")
    ]
    alone = [seen(client.post("/v1/answer", json=body).json()) for body in bodies]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda body: seen(client.post("/v1/answer", json=body).json()), bodies))
    assert together == alone
    batches = [line for line in client.get("/metrics").text.splitlines() if line.startswith("kard_batch_size_bucket")]
    counts = [float(line.split()[-1]) for line in batches]
    assert counts[-1] > counts[0], "no two questions were answered together"


def test_an_answer_tells_all_that_led_to_it(client):
    reply = client.post("/v1/answer", json={"question": ASKED, "choices": COLOURS, "show": 4}).json()
    assert reply["answer"] == COLOURS[reply["choice"]]
    assert 0 < reply["confidence"] <= 1
    assert list(reply["milliseconds"]) == ["queue", "search", "rerank", "write"]
    passages = reply["passages"]
    assert [passage["rank"] for passage in passages] == [1, 2, 3, 4]
    assert [passage["read"] for passage in passages] == [True, False, False, False]
    scores = [passage["reranker"] for passage in passages]
    assert scores == sorted(scores, reverse=True)
    for passage in passages:
        assert {"id", "title", "text", "source"} <= passage.keys()
        assert passage["source"].startswith("passages.jsonl:")
    searched = client.post("/v1/search", json={"query": ASKED, "choices": COLOURS, "k": 4}).json()
    assert [row["id"] for row in searched["passages"]] == [row["id"] for row in passages]
    by_retriever = client.post(
        "/v1/search", json={"query": ASKED, "choices": COLOURS, "model": "kard_bm25", "k": 20}
    ).json()
    order = {row["id"]: row["rank"] for row in by_retriever["passages"]}
    assert [row["retriever_rank"] for row in passages] == [order[row["id"]] for row in passages]


def test_without_passages_the_same_student_reads_the_question_alone(client, kard):
    reply = client.post("/v1/answer", json={"question": ASKED, "choices": COLOURS, "model": "no_passages"}).json()
    assert reply["passages"] == []
    direct = replace(kard, method=without_passages(kard.method)).answer(ASKED, COLOURS)
    assert reply["text"] == direct.text
    assert "Passage:" not in direct.prompt


def test_an_answer_that_is_not_sure_enough_is_withheld_with_its_passages(unsure, client):
    asked = {"question": ASKED, "choices": COLOURS}
    given = client.post("/v1/answer", json=asked).json()
    assert (given["calibrated"], given["abstained"]) == (False, False)
    chat = {"model": "kard_reranker", "messages": [{"role": "user", "content": ASKED}], "choices": COLOURS}
    with serving(unsure) as url, httpx.Client(base_url=url, timeout=60) as other:
        reply = other.post("/v1/answer", json=asked).json()
        whole = other.post("/v1/chat/completions", json=chat).json()
        streamed = sse(other.post("/v1/chat/completions", json={**chat, "stream": True}))
        unread = other.post("/v1/answer", json={**asked, "model": "no_passages"}).json()
    assert (reply["answer"], reply["choice"], reply["confidence"]) == (None, None, 0.5)
    assert (reply["calibrated"], reply["abstained"]) == (True, True)
    assert [reply["passages"], reply["text"], reply["rationale"]] == [
        given[k] for k in ("passages", "text", "rationale")
    ]
    content = f"{reply['text']}\n\nNot sure enough to answer: 50 % (answers are given from 90 % on)."
    assert whole["choices"][0]["message"]["content"] == content
    assert whole["kard"]["abstained"]
    pieces = [data["choices"][0]["delta"].get("content") or "" for _, data in streamed if data != "[DONE]"]
    assert "".join(pieces) == content
    assert (unread["calibrated"], unread["abstained"]) == (False, False)


def test_an_open_question_has_no_confidence(client):
    reply = client.post("/v1/answer", json={"question": ASKED}).json()
    assert reply["confidence"] is None
    assert reply["choice"] is None


def test_confidence_is_the_share_of_probability_among_the_choices(kard):
    """Held against the model's own probabilities of every choice after what the student wrote before it."""
    import torch

    answer = kard.answer(ASKED, COLOURS)
    tokenizer, model = kard.student.tokenizer, kard.student.model
    front = tokenizer(answer.prompt).input_ids + tokenizer(f" {answer.text}".rpartition(" ")[0]).input_ids
    shares = []
    for colour in COLOURS:
        path = [*tokenizer(f" {colour}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.inference_mode():
            scores = model(torch.tensor([front + path])).logits[0, len(front) - 1 : -1].float()
        shares.append([row[token] for row, token in zip(scores, path, strict=True)])
    paths = [[*tokenizer(f" {c}", add_special_tokens=False).input_ids, tokenizer.eos_token_id] for c in COLOURS]
    expected, chosen = 1.0, paths[COLOURS.index(answer.answer)]
    for place in range(len(chosen)):
        rivals = {p[place]: s[place] for p, s in zip(paths, shares, strict=True) if p[:place] == chosen[:place]}
        weights = torch.stack(list(rivals.values())).softmax(0)
        expected *= float(weights[list(rivals).index(chosen[place])])
    assert answer.confidence == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_what_is_heard_on_the_way_ends_in_the_answer(kind, request, kard):
    """Decoders and T5s: each state of the text begins the next one, and the last one is what was written."""
    import torch

    from kard.student.generation import Student, Writing
    from kard.student.loading import StudentSettings, base_model, base_tokenizer

    folder = str(request.getfixturevalue(kind))
    settings = StudentSettings(folder, False, "text", "float32", 256, 24)
    student = Student(base_model(folder, torch.float32).eval(), base_tokenizer(folder), settings)
    heard: dict[str, list[str]] = {"a question": [], "another": []}
    on_text = {prompt: states.append for prompt, states in heard.items()}
    written = student.write(dict.fromkeys([*heard, "nobody listens"], ()), Writing("rationale", 2), on_text=on_text)
    for prompt, states in heard.items():
        assert len(states) > 3
        assert all(after.startswith(before) for before, after in pairwise(states))
        assert written[prompt].text.startswith(states[-1])


def test_the_stream_brings_passages_then_text_then_the_answer(client):
    events = sse(client.post("/v1/answer", json={"question": ASKED, "choices": COLOURS, "stream": True, "show": 2}))
    names = [name for name, _ in events]
    assert names[0] == "passages"
    assert names[-1] == "answer"
    assert set(names[1:-1]) == {"text"}
    answer = events[-1][1]
    assert events[0][1] == answer["passages"]
    assert len(answer["passages"]) == 2
    assert answer["text"].startswith("".join(data for name, data in events if name == "text"))


def test_two_who_ask_the_same_are_both_told(kard):
    question = Question("q", ASKED, tuple(COLOURS))
    told: list[list[str]] = [[], []]
    listeners = {place: Listener(lambda found: None, states.append) for place, states in enumerate(told)}
    first, second = kard.answer_each([(question, kard.method)] * 2, listeners)
    assert told[0] == told[1] != []
    assert first.text == second.text


def test_a_search_by_a_model_that_reads_nothing_is_refused(client, kard):
    reply = client.post("/v1/search", json={"query": ASKED, "model": "no_passages"})
    assert reply.status_code == 400
    says = "model: no_passages reads no passages. Choose of: kard_reranker, kard_bm25."
    assert reply.json()["error"]["message"] == says


def test_models_share_the_student(client, kard):
    listed = client.get("/v1/models").json()
    assert [row["id"] for row in listed["data"]] == ["kard_reranker", "kard_bm25", "no_passages"]
    assert len(listed["examples"]) == 3
    assert client.get("/v1/models/kard_bm25").json()["reads"] == "bm25"
    alone = replace(kard, finder=Finder(kard.recipe), method=without_passages(kard.method))
    assert list(alone.methods()) == ["no_passages"]
