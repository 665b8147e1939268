"""Asking an endpoint that fails in every way: all requests accounted for, none answered twice, no key anywhere."""

import email.utils
import random
import sqlite3
import time
import traceback
from collections import Counter
from dataclasses import replace

import pytest
from fault_server import FaultServer, completion, digest, good_answer, no_passages

from kard.data.question import Question
from kard.errors import UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher import client
from kard.teacher.cache import ReplyCache
from kard.teacher.collect import collect_rationales
from kard.teacher.endpoint import api_key
from kard.teacher.prompting import requests_of
from kard.teacher.rationale import write_rationales
from tests import forks

FAULTS = {
    "429 with Retry-After": {
        "status": 429,
        "headers": {"Retry-After": "0"},
        "body": {"error": {"message": "slow down"}},
    },
    "429": {"status": 429, "body": {"error": {"message": "slow down"}}},
    "500": {"status": 500, "body": "<html>oops</html>"},
    "503": {"status": 503, "body": {"error": {"message": "overloaded"}}},
    "hang": {"fault": "hang", "body": completion("too late")},
    "reset": {"fault": "reset", "body": completion("cut off in the middle")},
    "invalid JSON": {"body": '{"choices": [{"mess'},
    "no choices": {"body": {"choices": []}},
    "no message": {"body": {"choices": [{}]}},
    "no object": {"body": [1, 2]},
}


def mixed_answer(body, attempt):
    """Refusals, truncated texts, repetitions: what a healthy endpoint answers as well, the same for every attempt."""
    kind = int(digest(body), 16) % 10
    if kind == 0:
        return {"body": completion("I'm sorry, but I cannot help with that.")}
    if kind == 1:
        return {"body": completion(f"The fact {digest(body)} leads to", "length")}
    if kind == 2:
        return {"body": completion("Every question has this explanation.")}
    if kind == 3:
        return {"body": completion(None, "stop", refusal="This is against the rules.")}
    if kind == 4:
        whole = good_answer(body, attempt)["body"]
        return {"body": whole | {"choices": whole["choices"] + completion("Nobody asked for this one.")["choices"]}}
    return good_answer(body, attempt)


def faulty_answer(body, attempt):
    """Two of three requests fail once or twice before they are answered."""
    chance = random.Random(digest(body))
    faults = chance.choices(list(FAULTS), k=chance.randrange(3))
    return FAULTS[faults[attempt - 1]] if attempt <= len(faults) else mixed_answer(body, attempt)


def statuses(rationales):
    return Counter(rationale.status for rationale in rationales)


def without_seconds(rationales):
    return [(r.id, r.text, r.status, r.reason, r.usage.get("completion_tokens")) for r in rationales]


def test_the_same_rationales_come_from_a_faulty_and_a_healthy_server(server, asking, questions, tmp_path, capsys):
    section = asking(rationales=4, concurrency=32, timeout=4.0)  # on a busy machine 2 s are not enough
    server.answer = faulty_answer
    faulty = collect_rationales(questions(200), no_passages, section, 7, tmp_path / "faulty.sqlite")
    assert server.received.total() > 1200
    assert set(server.answered.values()) == {1}
    assert "texts came that were not asked for" in capsys.readouterr().err
    with FaultServer(mixed_answer) as healthy_server:
        section = asking(rationales=4, concurrency=16, base_url=healthy_server.url)
        healthy = collect_rationales(questions(200), no_passages, section, 7, tmp_path / "healthy.sqlite")
        assert healthy_server.received.total() == 800
    assert without_seconds(faulty) == without_seconds(healthy)
    assert set(statuses(faulty)) == {"kept", "refused", "truncated", "duplicate"}
    assert [r.id for r in faulty] == [f"q{i}/{j}" for i in range(200) for j in range(4)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_becomes_an_error_row_with_its_reason(
    server, asking, questions, tmp_path, monkeypatch, fault
):
    def answer(body, attempt):
        return FAULTS[fault] if "number 3?" in str(body) else good_answer(body, attempt)

    server.answer = answer
    monkeypatch.setattr(client, "RETRIES", 2)
    section = asking(timeout=0.2)
    rationales = collect_rationales(questions(10), no_passages, section, 7, tmp_path / "c.sqlite")
    assert statuses(rationales) == {"kept": 9, "error": 1}
    assert rationales[3].status == "error"
    assert "(3 tries)" in rationales[3].reason
    assert server.received.total() == 12


def test_a_failed_request_is_asked_again_by_the_next_run_and_nothing_else(
    server, asking, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(client, "RETRIES", 0)
    server.answer = lambda body, attempt: FAULTS["503"] if "number 3?" in str(body) else good_answer(body, attempt)
    collect_rationales(questions(10), no_passages, asking(), 7, tmp_path / "c.sqlite")
    server.answer = good_answer
    rationales = collect_rationales(questions(10), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert statuses(rationales) == {"kept": 10}
    assert server.received.total() == 11


def test_a_second_run_asks_nothing(server, asking, questions, tmp_path):
    first = collect_rationales(questions(5), no_passages, asking(rationales=2), 7, tmp_path / "c.sqlite")
    again = collect_rationales(questions(5), no_passages, asking(rationales=2, concurrency=1), 7, tmp_path / "c.sqlite")
    assert again == first
    assert server.received.total() == 10


def test_two_questions_with_the_same_words_are_one_request(server, asking, questions, tmp_path):
    [one] = questions(1)
    twice = [one, replace(one, id="again"), replace(one, id="and again")]
    server.answer = lambda body, attempt: good_answer(body, attempt) | {"delay": 0.05}
    assert statuses(collect_rationales(twice, no_passages, asking(), 7, tmp_path / "c.sqlite")) == {"kept": 3}
    assert server.received.total() == 1


def test_no_more_than_concurrency_requests_are_in_flight(server, asking, questions, tmp_path):
    server.answer = lambda body, attempt: good_answer(body, attempt) | {"delay": 0.02}
    collect_rationales(questions(30), no_passages, asking(concurrency=5), 7, tmp_path / "c.sqlite")
    assert server.most_at_once == 5


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_retry_after_is_obeyed_by_all_workers(server, asking, questions, tmp_path, monkeypatch, form):
    def answer(body, attempt):
        if len(server.times) > 1:
            return good_answer(body, attempt)
        headers = {
            "seconds": {"Retry-After": "1"},
            "milliseconds": {"Retry-After-Ms": "700", "Retry-After": "90"},
            "date": {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)},
        }
        return {"status": 429, "headers": headers[form], "body": {"error": {"message": "slow down"}}}

    server.answer = answer
    section = asking(concurrency=1)
    monkeypatch.setattr(client, "LONGEST_WAIT", 5.0)
    collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    waited = server.times[1] - server.times[0]
    assert 0.69 <= waited <= 3.0
    assert len(server.times) == 4


def test_waiting_is_said_once_in_a_while(server, asking, questions, tmp_path, capsys):
    server.answer = lambda body, attempt: FAULTS["429"] if attempt == 1 else good_answer(body, attempt)
    collect_rationales(questions(20), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert capsys.readouterr().err.count("waiting 0 s: 429") == 1


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, {"message": "Incorrect API key provided"}, "environment variable TEACHER_KEY"),
        (403, {"message": "No access to this model"}, "environment variable TEACHER_KEY"),
        (404, {"message": "The model `tester` does not exist"}, "teacher.model"),
        (400, {"message": "maximum context length is 512 tokens", "code": "context_length_exceeded"}, "Mend"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
    ],
)
def test_a_clients_mistake_stops_at_once_in_the_servers_words(
    server, asking, questions, tmp_path, status, error, words
):
    server.answer = lambda body, attempt: {"status": status, "body": {"error": error}}
    section = asking(concurrency=4, api_key_env="TEACHER_KEY")
    with pytest.raises(UserError) as caught:
        collect_rationales(questions(100), no_passages, section, 7, tmp_path / "c.sqlite")
    assert error["message"] in str(caught.value)
    assert words in str(caught.value)
    assert server.received.total() < 8, "each worker asks twice at most"


def test_what_is_in_flight_when_the_work_stops_is_stored(server, asking, questions, tmp_path):
    def answer(body, attempt):
        if "number 1?" in str(body):
            return {"status": 401, "body": {"error": {"message": "key expired"}}}
        return good_answer(body, attempt) | {"delay": 0.2}

    server.answer = answer
    with pytest.raises(UserError, match="key expired"):
        collect_rationales(questions(100), no_passages, asking(concurrency=4), 7, tmp_path / "c.sqlite")
    server.answer = good_answer
    collect_rationales(questions(100), no_passages, asking(concurrency=4), 7, tmp_path / "c.sqlite")
    assert set(server.answered.values()) == {1}


def test_a_prompt_that_the_endpoint_filters_is_refused_and_the_others_go_on(server, asking, questions, tmp_path):
    def answer(body, attempt):
        if "number 1?" in str(body):
            return {"status": 400, "body": {"error": {"message": "filtered", "code": "content_filter"}}}
        return good_answer(body, attempt)

    server.answer = answer
    rationales = collect_rationales(questions(4), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert [r.status for r in rationales] == ["kept", "refused", "kept", "kept"]


def test_too_many_failures_stop_with_a_summary(server, asking, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "RETRIES", 1)
    server.answer = lambda body, attempt: FAULTS["503"] if attempt < 3 else good_answer(body, attempt)
    with pytest.raises(UserError, match=r"(?s)failed, more than a share of 0\.2.*503 overloaded"):
        collect_rationales(questions(1000), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert server.received.total() < 60
    server.answer = good_answer
    rationales = collect_rationales(questions(20), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert statuses(rationales) == {"kept": 20}


def test_an_endpoint_that_is_not_there_is_named(asking, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "RETRIES", 1)
    section = asking(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="no connection"):
        collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")


def test_the_key_is_sent_and_kept_nowhere(server, asking, questions, tmp_path, monkeypatch, capsys, caplog):
    planted = "sk-planted-4711"
    monkeypatch.setenv("TEACHER_KEY", f" {planted}\n")
    caplog.set_level("DEBUG")
    section = asking(api_key_env="TEACHER_KEY")
    echo = {"error": {"message": f"bad key {planted}"}}
    server.answer = lambda body, attempt: (
        {"body": completion(f"An endpoint that repeats {planted}, the key.")}
        if attempt > 1
        else {"status": 500, "body": echo}
    )
    rationales = collect_rationales(questions(5), no_passages, section, 7, tmp_path / "c.sqlite")
    write_rationales(tmp_path / "rationales.jsonl", rationales)
    server.answer = lambda body, attempt: {"status": 401, "body": echo}
    with pytest.raises(UserError, match=r"bad key \[key\]") as caught:
        collect_rationales(questions(6), no_passages, section, 7, tmp_path / "c.sqlite")
    assert server.authorizations == {f"Bearer {planted}"}
    written = "".join(file.read_bytes().decode("utf-8", "replace") for file in tmp_path.iterdir())
    said = "".join(capsys.readouterr())
    shown = "".join(traceback.format_exception(caught.value))
    for text in (written, said, shown, caplog.text, str(section)):
        assert planted not in text


def test_openais_own_endpoint_needs_a_key_and_a_local_one_does_not(asking, monkeypatch):
    assert api_key(asking()) == ""
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        api_key(asking(base_url=None))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-päö")
    with pytest.raises(UserError, match="blanks or accents") as caught:
        api_key(asking())
    assert "sk-" not in str(caught.value)


def test_no_key_is_needed_where_all_replies_are_there(server, asking, at_openai, questions, tmp_path, monkeypatch):
    section = asking(base_url=None)
    first = collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite") == first
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        collect_rationales(questions(4), no_passages, section, 7, tmp_path / "c.sqlite")
    assert ReplyCache(tmp_path / "c.sqlite").spent().requests == 3


def numbered_answer(body, attempt):
    """The text of number `i` of a request is that of its seed and `i`; each choice is there."""
    choices = [completion(f"The fact {digest(body)}-{i} leads on.")["choices"][0] for i in range(body.get("n", 1))]
    return {"body": {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 20 * len(choices)}}}


def test_all_rationales_of_a_question_come_from_one_request_where_the_endpoint_has_n(
    server, asking, at_openai, questions, tmp_path
):
    server.answer = numbered_answer
    section = asking(base_url=None, rationales=4)
    collected = collect_rationales(questions(5), no_passages, section, 7, tmp_path / "c.sqlite")
    assert statuses(collected) == {"kept": 20}
    assert len({r.text for r in collected}) == 20
    assert server.received.total() == 5
    assert [bool(r.usage) for r in collected[:4]] == [True, False, False, False]
    assert ReplyCache(tmp_path / "c.sqlite").spent().completion_tokens == 400
    more = collect_rationales(questions(5), no_passages, asking(rationales=6), 7, tmp_path / "c.sqlite")
    assert server.received.total() == 15, "two more of each question, one by one where n is not known"
    assert [r.text for r in more if r.id[-1] in "0123"] == [r.text for r in collected]


@pytest.mark.parametrize("texts", [1, 3])
def test_an_endpoint_that_gives_fewer_or_more_than_n_is_asked_until_all_are_there(
    server, asking, at_openai, questions, tmp_path, texts
):
    def answer(body, attempt):
        return numbered_answer(body | {"n": texts}, attempt)

    server.answer = answer
    section = asking(base_url=None, rationales=4)
    collected = collect_rationales(questions(5), no_passages, section, 7, tmp_path / "c.sqlite")
    assert statuses(collected) == {"kept": 20}
    assert server.received.total() == {1: 20, 3: 10}[texts]


def test_the_plain_completions_endpoint(server, asking, questions, tmp_path):
    text = "The fact of the matter leads on."
    server.answer = lambda body, attempt: {
        "body": {"choices": [{"text": f" {text}", "index": 0, "finish_reason": "stop"}]}
    }
    section = asking(endpoint="completions", extra_body={"stop": ["\n\n"]})
    [rationale] = collect_rationales(questions(1), no_passages, section, 7, tmp_path / "c.sqlite")
    assert rationale.text == text
    [body] = server.bodies
    assert server.paths == {"/v1/completions"}
    assert "messages" not in body
    assert body["prompt"].startswith("Explain the answer")
    assert body["prompt"].endswith("Explanation:")
    assert body["stop"] == ["\n\n"]


def test_the_teacher_is_asked_for_the_sentences_that_lead_to_the_answer(server, asking, questions, tmp_path):
    def answer(body, attempt):
        prompt = body["messages"][0]["content"]
        if prompt.startswith("Rewrite"):
            return {"body": completion("Grass takes in light. So it is green.")}
        if "number 1?" in prompt.rpartition("Question:")[2]:
            return {"body": completion("Option (A) is wrong. Option (C) is wrong as well.")}
        return good_answer(body, attempt)

    server.answer = answer
    section = asking(rewrite="ask")
    collected = collect_rationales(questions(2), no_passages, section, 7, tmp_path / "c.sqlite")
    assert [(r.text, r.kind) for r in collected][1] == ("Grass takes in light. So it is green.", "constructive")
    assert collected[1].original == "Option (A) is wrong. Option (C) is wrong as well."
    assert server.received.total() == 4
    assert collect_rationales(questions(2), no_passages, section, 7, tmp_path / "c.sqlite") == collected
    assert server.received.total() == 4


def asking_process(url, path):
    """The teacher in a process of its own, to be killed."""
    section = TeacherSection(kind="openai", model="tester", base_url=url, rationales=4, resources={"concurrency": 16})
    questions = [Question(f"q{i}", f"What is thing number {i}?", ("red", "green", "blue"), i % 3) for i in range(100)]
    collect_rationales(questions, no_passages, section, 7, path)


def test_twenty_kills_at_random_moments_ask_nothing_twice_that_had_arrived(server, tmp_path):
    server.answer = lambda body, attempt: good_answer(body, attempt) | {"delay": 0.05}
    path = tmp_path / "c.sqlite"
    chance = random.Random(0)
    before_kill = []
    for _ in range(20):
        process = forks.start(asking_process, server.url, path)
        before = len(texts_in(path))
        while len(texts_in(path)) == before:  # it is at work
            assert process.is_alive(), "it was to be killed before its end"
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.04))
        process.kill()
        process.join()
        arrived, received = texts_in(path), Counter(server.received)
        assert len(arrived) < 400
        time.sleep(0.1)  # what the dead process had sent is worked off
        before_kill.append((arrived, received))
    asking_process(server.url, path)
    for arrived, received in before_kill:
        assert not {f"The fact {key} leads to what was asked." for key in server.received - received} & arrived
    assert len(texts_in(path)) == len(server.received) == 400


def texts_in(path):
    if not path.exists():
        return set()
    connection = sqlite3.connect(path, timeout=10)
    try:
        return {row[0] for row in connection.execute("SELECT text FROM replies")}
    except sqlite3.OperationalError:  # the table is about to be made
        return set()
    finally:
        connection.close()


def test_requests_are_made_only_when_a_worker_is_free(server, asking, questions, tmp_path):
    """Memory does not grow with the number of questions: the iterator of requests is never far ahead of the server."""
    ahead = []

    def counted():
        for number, (_, group) in enumerate(requests_of(questions(60), no_passages, asking(), 7)):
            ahead.append(number - len(server.times))
            yield group

    client.ask(counted(), 60, asking(concurrency=4), ReplyCache(tmp_path / "c.sqlite"))
    assert len(ahead) == 60
    assert max(ahead) <= 4


def test_an_unexpected_error_in_a_worker_is_not_swallowed(server, asking, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(ReplyCache, "finish", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        collect_rationales(questions(5), no_passages, asking(), 7, tmp_path / "c.sqlite")
