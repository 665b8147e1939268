"""A prompted model: likelihoods against a plain forward pass, sampling that its seed decides."""

import pytest
import torch

from kard.errors import UserError
from kard.student.likelihood import likelihoods
from kard.student.prompted import PromptedModel

PROMPTS = ["Question: Which colour has the stone? Explanation: The stone is red. So the answer is", "The bird is"]
ANSWERS = [[" red", " green and blue", " white"], [" black", " grey bird"]]


@pytest.fixture(scope="module", params=["decoder_folder", "t5_folder"])
def model(request):
    return PromptedModel.load(str(request.getfixturevalue(request.param)), "teacher.model")


def plain_score(model, prompt, answer):
    """Mean log-probability by one forward pass over this pair alone."""
    tokenizer = model.tokenizer
    read = tokenizer(prompt, return_tensors="pt").input_ids
    after = tokenizer(answer, return_tensors="pt", add_special_tokens=False).input_ids
    if model.model.config.is_encoder_decoder:
        logits = model.model(input_ids=read, labels=after).logits
    else:
        logits = model.model(input_ids=torch.cat([read, after], dim=1)).logits[:, read.shape[1] - 1 : -1]
    return logits.float().log_softmax(-1).gather(-1, after[..., None]).mean().item()


def test_likelihoods_are_those_of_each_pair_alone(model):
    model.model.float()
    with torch.inference_mode():
        for found, prompt, answers in zip(model._scores(PROMPTS, ANSWERS), PROMPTS, ANSWERS, strict=True):
            assert found == pytest.approx([plain_score(model, prompt, answer) for answer in answers], abs=1e-4)


def test_many_prompts_are_ranked_together_as_one_at_a_time(model, monkeypatch):
    """Whatever their lengths, in few passes over the model."""
    model.model.float()
    prompts = [f"{'The bird of the north is grey. ' * (number * 7 % 11)}{PROMPTS[number % 2]}" for number in range(37)]
    answers = [[*(some := ANSWERS[number % 2])[number % 3 :], *some[: number % 3]] for number in range(37)]
    alone = [model.rank([prompt], [some])[0] for prompt, some in zip(prompts, answers, strict=True)]
    passes = []
    monkeypatch.setattr("kard.student.prompted.likelihoods", lambda *rest: passes.append(1) or likelihoods(*rest))
    assert model.rank(prompts, answers) == alone
    assert len(passes) == 3
    assert set(alone) > {alone[0]}


def body(seed, **settings):
    return {"messages": [{"role": "user", "content": "The stone is"}], "max_tokens": 8, "seed": seed} | settings


def test_the_seed_decides_what_is_written(model):
    first = model.write([body(1), body(2)])
    assert model.write([body(1), body(2)]) == first
    assert first[0] != first[1]
    assert model.write([body(3)])[0] != first[0]
    for text, reason, tokens_in, tokens_out in first:
        assert isinstance(text, str)
        assert reason == ("length" if tokens_out == 8 else "stop")
        assert tokens_in >= 3


def test_temperature_zero_is_greedy_and_a_stop_text_ends(model):
    [(greedy, *_)] = model.write([body(1, temperature=0)])
    [(again, *_)] = model.write([body(2, temperature=0)])
    assert greedy == again
    if len(greedy) > 2:
        [(cut, reason, *_)] = model.write([body(1, temperature=0, stop=[greedy[1]])])
        assert (cut, reason) == (greedy.partition(greedy[1])[0].strip(), "stop")


def test_a_model_that_is_not_there_names_its_key():
    with pytest.raises(UserError, match=r"teacher\.verifier"):
        PromptedModel.load("/nowhere/at/all", "teacher.verifier")
