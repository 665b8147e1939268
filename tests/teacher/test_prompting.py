"""Prompts and requests: what the teacher sees, and when two requests are the same one."""

import pytest
from fault_server import no_passages

from kard.artifacts.files import hash_of
from kard.data.question import Question
from kard.errors import UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher.filter import judge
from kard.teacher.prompting import read_prompts, requests_of

CHOICE = Question("c", "Which costs $5 \\1?", ("a pen", "a car"), 1)
YES_NO = Question("y", "Can birds fly?", ("yes", "no"), 0)
OPEN = Question("o", "Where was Chopin born?", (), "Poland")


def section(**settings):
    return TeacherSection(kind="openai", model="m", **settings)


def render_prompt(question, passages, section):
    return read_prompts(section).render(question, passages)


def requests(section, seed=1):
    ((_, group),) = requests_of([CHOICE], no_passages, section, seed)
    return group


@pytest.mark.parametrize(
    ("question", "ending"),
    [
        (CHOICE, "\n\nQuestion: Which costs $5 \\1?\nChoices:\n(A) a pen\n(B) a car\nAnswer: (B) a car\nExplanation:"),
        (YES_NO, "\n\nQuestion: Can birds fly?\nAnswer: yes\nExplanation:"),
        (OPEN, "\n\nQuestion: Where was Chopin born?\nAnswer: Poland\nExplanation:"),
    ],
)
def test_each_kind_of_question_ends_with_the_question_and_the_cue(question, ending):
    prompt = render_prompt(question, [], section())
    assert prompt.endswith(ending)
    assert prompt.count("Explanation:") == prompt.count("Answer:") == 6
    assert "$" not in prompt.removesuffix(ending)


@pytest.mark.parametrize("question", [CHOICE, YES_NO, OPEN])
def test_without_the_answer_the_examples_state_theirs_at_the_end(question):
    prompt = render_prompt(question, [], section(sees_answer=False))
    assert "Answer:" not in prompt
    assert prompt.count("So the answer is ") == 5
    assert question.answer_text not in prompt[prompt.rindex("Question:") :].replace("(B) a car", "")


def test_gold_passages_are_shown_only_where_asked_for(passage):
    passages = [passage("A car costs\n$5.", "Car")]
    assert "Passage: Car. A car costs $5.\nQuestion: Which" in render_prompt(
        CHOICE, passages, section(sees_gold_passages=True)
    )
    assert "Passage:" not in render_prompt(CHOICE, passages, section())


def test_the_worked_examples_pass_the_filter_themselves():
    for question in (CHOICE, YES_NO, OPEN):
        blocks = render_prompt(question, [], section()).split("\n\n")[1:-1]
        assert len(blocks) == 5
        for block in blocks:
            assert judge(Question("e", "?"), block.partition("Explanation: ")[2], "stop", section()) == ("kept", "")


def test_requests_differ_by_number_and_seed_only_and_stay_when_more_are_asked():
    three = requests(section(rationales=3))
    five = requests(section(rationales=5))
    other = requests(section(rationales=3), seed=2)
    assert five[:3] == three
    assert len({request.key for request in five + other}) == 8
    assert {json_seed(request) for request in three} & {json_seed(request) for request in other} == set()
    assert all(0 <= json_seed(request) < 2**31 for request in five)


def json_seed(request):
    return request.body["seed"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"temperature": 0.1},
        {"max_tokens": 9},
        {"base_url": "http://x/v1"},
        {"extra_body": {"top_k": 5}},
        {"sees_answer": False},
    ],
)
def test_the_key_covers_the_endpoint_and_the_body(change):
    changed = TeacherSection(**{"kind": "openai", "model": "m"} | change)
    assert requests(section())[0].key != requests(changed)[0].key


@pytest.mark.parametrize(
    "change", [{"resources": {"concurrency": 3, "timeout": 9}}, {"base_url": "https://api.openai.com/v1/"}]
)
def test_the_key_covers_nothing_else(change):
    assert requests(section())[0].key == requests(section(**change))[0].key


def test_every_setting_reaches_the_body():
    extra = {"top_p": 0.9, "stop": ["\n\n"], "top_k": 5, "seed": None}
    body = requests(section(temperature=0.3, max_tokens=77, extra_body=extra))[0].body
    [message] = body["messages"]
    assert message["role"] == "user"
    assert message["content"].endswith("Explanation:")
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "m",
        "temperature": 0.3,
        "top_p": 0.9,
        "max_completion_tokens": 77,
        "stop": ["\n\n"],
        "top_k": 5,
    }
    other = requests(section(base_url="http://localhost/v1"))[0].body
    assert set(other) == {"model", "messages", "temperature", "max_tokens", "seed"}
    reasoning = requests(section(temperature=None, extra_body={"reasoning_effort": "none"}))[0].body
    assert set(reasoning) == {"model", "messages", "max_completion_tokens", "reasoning_effort", "seed"}


def test_openais_own_endpoint_gets_the_newer_name_and_keeps_its_replies():
    """Every chat model there takes max_completion_tokens, those that reason nothing else; what was paid stays paid."""
    sent = requests(section())[0]
    older = {"max_tokens": sent.body["max_completion_tokens"], **sent.body}
    del older["max_completion_tokens"]
    assert sent.key == hash_of({"base_url": "https://api.openai.com/v1", "body": older})


def test_without_a_seed_the_rationales_of_a_question_are_still_asked_one_by_one():
    asked = requests(section(rationales=3, extra_body={"seed": None}))
    assert len({request.key for request in asked}) == 3
    assert all("seed" not in request.body for request in asked)


@pytest.mark.parametrize(
    ("settings", "at_once"),
    [
        ({}, True),
        ({"mode": "batch"}, False),
        ({"base_url": "http://localhost/v1"}, False),
    ],
)
def test_the_prompt_is_paid_once_where_the_endpoint_is_known_to_have_n(settings, at_once):
    assert section(**settings).at_once == at_once


def test_an_own_prompt_file_is_used_for_every_kind_of_question(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Costs $$1. ${passages}$question [$choices] {$answer}\nBecause:\n", encoding="utf-8")
    own = section(prompt=path)
    assert render_prompt(YES_NO, [], own) == "Costs $1. Can birds fly? [(A) yes\n(B) no] {yes}\nBecause:"
    assert render_prompt(OPEN, [], own) == "Costs $1. Where was Chopin born? [] {Poland}\nBecause:"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"$question \xff", "not UTF-8"),
        (b"$question $wrong", r"has \$wrong"),
        (b"costs $5: $question", r"a lone \$"),
        (b"What is it?", r"\$question is needed"),
    ],
)
def test_a_bad_prompt_file_is_named(tmp_path, content, message):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(section(prompt=path))
    assert str(path) in str(caught.value)


def test_a_slash_at_the_end_of_the_endpoint_is_no_other_endpoint():
    assert requests(section(base_url="http://x/v1/")) == requests(section(base_url="http://x/v1"))


def test_more_choices_than_letters_are_an_error():
    question = Question("q", "Which?", tuple(map(str, range(27))), 26)
    with pytest.raises(UserError, match=r"question q: has 27 choices.*"):
        render_prompt(question, [], section())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "needs a model"),
        ({"temperature": 0, "rationales": 2}, "same rationale"),
        ({"base_url": "localhost:80"}, "http://"),
        ({"resources": {"max_usd": 1.0}}, "input_price"),
        ({"extra_body": {"n": 4, "stream": True}}, "cannot set n, stream"),
        ({"extra_body": {"max_tokens": None}}, "max_completion_tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherSection(**({"kind": "openai", "model": "m"} | settings))


@pytest.mark.parametrize(
    "settings", [{"resources": {"api_key_env": "sk_planted"}}, {"base_url": "https://me:sk_planted@host/v1"}]
)
def test_a_secret_in_the_recipe_is_refused_without_showing_it(settings):
    with pytest.raises(UserError) as caught:
        TeacherSection(kind="openai", model="m", **settings)
    assert "sk_planted" not in str(caught.value)
