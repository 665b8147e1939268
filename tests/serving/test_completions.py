"""`/v1/completions`: answers in OpenAI's older protocol, and how likely the answers in prompts are."""

from __future__ import annotations

import math

import openai
import pytest

from kard.data.question import Question
from kard.kard import Kard
from kard.serving.completions import CompletionRequest, prompts_of
from tests.serving.conftest import ASKED, COLOURS

LISTED = f"Question: {ASKED}\nChoices:\n" + "".join(f"- {colour}\n" for colour in COLOURS)
MODEL = "kard_reranker"


@pytest.fixture
def official(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def scored(official, prompt, **more):
    asked = {"model": MODEL, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    return official.completions.create(prompt=prompt, **asked | more)


def test_a_prompt_is_answered_and_behind_answer_with_the_answer_alone(official, kard):
    expected = kard.answer(ASKED, COLOURS)
    whole, answer = official.completions.create(model=MODEL, prompt=[LISTED, f"{LISTED}Answer:"]).choices
    assert (whole.index, whole.text, whole.finish_reason) == (0, expected.text, "stop")
    assert (answer.index, answer.text) == (1, f" {expected.answer}")
    assert answer.kard["passages"][0]["id"] == expected.passages[0].passage.id
    [cut] = official.completions.create(model=MODEL, prompt=LISTED, max_tokens=2).choices
    assert expected.text.startswith(cut.text)
    assert cut.finish_reason == "length"
    [stopped] = official.completions.create(model=MODEL, prompt=LISTED, stop=["Answer:"]).choices
    assert stopped.text == expected.text.partition("Answer:")[0]


def test_answers_are_scored_after_passages_and_explanation(official, kard):
    answer = kard.answer(ASKED, COLOURS)
    tokenizer = kard.student.tokenizer
    for colour in COLOURS:
        path = tokenizer(f" {colour}", add_special_tokens=False).input_ids
        scores = kard.student.following(answer.prompt, answer.rationale, "rationale", path)
        expected = [float(scores[place, token]) for place, token in enumerate(path)]
        prompt = f"{LISTED}Answer: {colour}"
        [choice] = scored(official, prompt).choices
        found = choice.logprobs
        begin = len(found.tokens) - len(path) - 1
        assert found.token_logprobs[begin:-1] == pytest.approx(expected, abs=1e-3)
        assert found.token_logprobs[:begin] == [None] * begin
        assert "".join(found.tokens[:-1]) == prompt
        assert found.text_offset[begin] == len(f"{LISTED}Answer:")
        best = scores.max(dim=-1).values.tolist()
        assert [max(top.values()) for top in found.top_logprobs[begin:]] == pytest.approx(best, abs=1e-3)
    # The explanation is the student's own: with it the answer that it gives is the likeliest one.
    sums = {colour: total(scored(official, f"{LISTED}Answer: {colour}"), len(LISTED)) for colour in COLOURS}
    assert max(sums, key=sums.get) == answer.answer


def total(reply, begin):
    rows = zip(reply.choices[0].logprobs.text_offset, reply.choices[0].logprobs.token_logprobs, strict=True)
    return sum(score for offset, score in list(rows)[:-1] if score is not None and offset > begin)


def test_tokens_and_several_prompts_are_taken_as_well(official, kard):
    prompts = [f"{LISTED}Answer: {colour}" for colour in COLOURS]
    tokens = [kard.student.tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    by_text, by_tokens = scored(official, prompts), scored(official, tokens)
    assert [c.logprobs for c in by_tokens.choices] == [c.logprobs for c in by_text.choices]
    assert scored(official, tokens[0]).choices[0].logprobs == by_text.choices[0].logprobs
    none = scored(official, prompts[0], max_tokens=0, logprobs=3).choices[0].logprobs
    assert none.tokens == by_text.choices[0].logprobs.tokens[:-1]
    assert len(none.top_logprobs[-1]) == 3
    assert all(score <= 0 and not math.isnan(score) for score in none.token_logprobs if score is not None)


def test_what_stands_before_the_last_question_is_not_read(kard):
    more = f"Question: What is it?\nAnswer: blue\n\n{LISTED}Answer: red"
    [prompt] = prompts_of(CompletionRequest(model=MODEL, prompt=more), kard.student.tokenizer)
    assert (prompt.question.question, prompt.question.choices) == (ASKED, COLOURS)
    assert kard.student.tokenizer.decode(prompt.tokens[prompt.answered :]) == " red"
    [plain] = prompts_of(CompletionRequest(model=MODEL, prompt=ASKED), kard.student.tokenizer)
    assert (plain.question.question, plain.question.choices, plain.answered) == (ASKED, [], None)


def test_an_encoder_decoder_scores_too(t5_folder):
    import torch

    from kard.student.generation import Student, Writing
    from kard.student.loading import StudentSettings, base_model, base_tokenizer

    model, tokenizer = base_model(str(t5_folder), torch.float32).eval(), base_tokenizer(str(t5_folder))
    student = Student(model, tokenizer, StudentSettings("", False, "text", "float32", 64, 24))
    path = tokenizer(" red", add_special_tokens=False).input_ids
    scores = student.following("Question: x\nExplanation:", "It is so.", "rationale", path)
    assert scores.shape == (len(path) + 1, model.config.vocab_size)
    end = tokenizer.eos_token_id
    own = sum(float(scores[place, token]) for place, token in enumerate([*path, end]))
    written = student.write({"Question: x\nAnswer:": ["red", "blue"]}, Writing("answer", 1, answer_by="likelihood"))
    direct = student.following("Question: x\nAnswer:", "", "answer", path)
    other = student.following(
        "Question: x\nAnswer:", "", "answer", tokenizer(" blue", add_special_tokens=False).input_ids
    )
    assert math.isfinite(own)
    assert written["Question: x\nAnswer:"].text in ("red", "blue")
    assert torch.allclose(direct[0], other[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": LISTED}, "no answer to score behind 'Answer:'"),
        ({"prompt": f"{LISTED}Answer:"}, "no answer to score behind 'Answer:'"),
        ({"prompt": "Answer: red"}, "no answer to score"),
        ({"logprobs": None}, "one needs the other"),
        ({"echo": False}, "one needs the other"),
        ({"max_tokens": 5}, "max_tokens: at most 1 with echo"),
        ({"n": 2}, "n: a student writes one"),
        ({"stream": True}, "stream: a student writes one"),
        ({"prompt": [10**6]}, "has the token 1000000"),
        ({"model": "nope"}, "no model of this name"),
    ],
)
def test_what_cannot_be_done_is_refused(official, changes, says):
    with pytest.raises(openai.APIStatusError, match=says) as error:
        scored(official, **{"prompt": f"{LISTED}Answer: red"} | changes)
    assert error.value.status_code in (400, 404)


def test_who_scores_gets_what_the_run_is_asked(kard: Kard):
    """An open question, whose prompt names no choices, is answered openly."""
    request = CompletionRequest(model=MODEL, prompt=f"Question: {ASKED}\nAnswer: red", echo=True, logprobs=1)
    [prompt] = prompts_of(request, kard.student.tokenizer)
    assert kard.answer_many([Question("q", prompt.question.question, tuple(prompt.question.choices))])[0].choice is None
