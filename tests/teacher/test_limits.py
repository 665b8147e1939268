"""Speed and money: no minute holds more than allowed, no budget is ever exceeded, counted by the server."""

import random

import pytest
from fault_server import completion, digest, good_answer, no_passages

from kard.errors import UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher.collect import collect_rationales
from kard.teacher.limits import Spent, most_of

PRICES = {"input_price": 3.0, "output_price": 12.0}


def usd(tokens_in, tokens_out):
    return (tokens_in * 3.0 + tokens_out * 12.0) / 1e6


def dear_answer(body, attempt):
    """Costs differ by request; some attempts fail, and a reset or broken JSON is charged all the same."""
    chance = random.Random(f"{digest(body)}{attempt}")
    tokens = chance.randrange(300, 900), chance.randrange(1, body["max_tokens"] + 1)
    answer = {
        "body": completion(f"The fact {digest(body)} decides it.", tokens=tokens),
        "delay": 0.01,
        "tokens": tokens,
    }
    fault = chance.choice([""] * 20 + ["reset", "broken", "unpaid"])
    if fault == "unpaid":
        return {"status": 503, "body": "busy", "tokens": (0, 0)}
    if fault == "broken":
        return {"body": "{", "tokens": tokens}
    return answer | ({"fault": "reset"} if fault else {})


@pytest.fixture
def bill(server):
    """What the server charges, in tokens."""
    charged = []

    def answer(body, attempt):
        found = dear_answer(body, attempt)
        charged.append(found["tokens"])
        return found

    server.answer = answer
    return charged


def run(section, questions, path):
    return collect_rationales(questions(300), no_passages, section, 7, path)


def test_a_budget_in_money_is_never_exceeded_and_the_work_goes_on_when_it_is_raised(
    server, bill, asking, questions, tmp_path
):
    path = tmp_path / "c.sqlite"
    for cap in (0.05, 0.12):
        section = asking(concurrency=32, max_usd=cap, **PRICES)
        with pytest.raises(UserError, match=rf"teacher.resources.max_usd \({cap}\).*raise the limit"):
            run(section, questions, path)
        spent = sum(usd(*tokens) for tokens in bill)
        assert spent <= cap
        assert spent > cap / 2, "the budget is used, not only guarded"
    assert set(server.answered.values()) == {1}


def test_a_budget_in_tokens_is_never_exceeded(server, bill, asking, questions, tmp_path):
    section = asking(concurrency=32, max_total_tokens=60_000)
    with pytest.raises(UserError, match=r"teacher.resources.max_total_tokens \(60,000\)"):
        run(section, questions, tmp_path / "c.sqlite")
    assert 30_000 < sum(map(sum, bill)) <= 60_000


def test_a_budget_that_is_enough_stops_nothing(server, asking, questions, tmp_path):
    section = asking(concurrency=32, max_total_tokens=200_000, max_usd=1.0, **PRICES)
    rationales = collect_rationales(questions(40), no_passages, section, 7, tmp_path / "c.sqlite")
    assert {rationale.status for rationale in rationales} == {"kept"}


def test_a_reply_without_usage_counts_with_the_most_it_can_have_cost(server, asking, questions, tmp_path):
    server.answer = lambda body, attempt: {"body": {"choices": good_answer(body, attempt)["body"]["choices"]}}
    (rationale,) = collect_rationales(questions(1), no_passages, asking(max_tokens=50), 7, tmp_path / "c.sqlite")
    most = most_of(server.bodies[0], asking(max_tokens=50))
    assert rationale.usage["prompt_tokens"] == most.prompt_tokens > 1000
    assert rationale.usage["completion_tokens"] == most.completion_tokens == 50


def test_the_most_a_request_can_cost_is_counted_in_bytes():
    body = {"messages": [{"role": "user", "content": "ä" * 100}], "max_tokens": 9}
    section = TeacherSection()
    assert most_of(body, section).prompt_tokens > 200
    assert most_of(body | {"max_completion_tokens": 70}, section).completion_tokens == 70
    assert Spent(1, 10, 5) + -Spent(1, 10, 5) == Spent()
