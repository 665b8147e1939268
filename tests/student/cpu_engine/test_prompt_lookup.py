"""Guesses from the prompt: the same texts in fewer steps, whatever is guessed, for every kind of model."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from kard.student.constraint import AnswerConstraint
from kard.student.cpu_engine import prompt_lookup
from kard.student.cpu_engine.engine import CpuEngine
from kard.student.cpu_engine.prompt_lookup import PromptLookup
from kard.student.sampling import Sampling
from kard.student.writer import Task
from tests.conftest import byte_level_tokenizer

WORDS, LIMIT, END = 60, 40, 0
SMALL = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip


def gemma(window):
    config = Gemma3TextConfig(
        **SMALL, sliding_window=window, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8
    )
    return Gemma3ForCausalLM(config)


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=200)),
    "a narrow window": lambda: gemma(16),
    "a window that a few guesses fit into": lambda: gemma(88),
    "a wide window": lambda: gemma(400),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=WORDS, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=1)
    ),
}


def constraint_of(rows, pick=None):
    """Free texts; the end token is the tiny models'."""
    constraint = AnswerConstraint(byte_level_tokenizer(), [[] for _ in range(rows)], "rationale", LIMIT)
    constraint.end = END
    constraint.pick = pick or constraint.pick
    return constraint


def write(model, inputs, mask, samples=1, pick=None):
    """The rows' continuations, and how many tokens each call of the model has read of each row."""
    widths = []
    hook = model.register_forward_hook(lambda module, inputs, output: widths.append(output.logits.shape[1]))
    constraint = constraint_of(len(inputs) * samples, pick)
    texts = CpuEngine(model).write(Task(inputs, mask, constraint, Sampling(samples)))
    hook.remove()
    return texts, widths


def prompts(model, rows):
    """Random prompts of several lengths, padded as the model's kind wants it."""
    draw = random.Random(rows)
    lengths = [draw.randrange(20, 40) for _ in range(rows)]
    width = max(lengths)
    inputs, mask = torch.full((rows, width), END), torch.zeros(rows, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(0, length) if model.config.is_encoder_decoder else slice(width - length, width)
        inputs[row, place] = torch.tensor([draw.randrange(2, WORDS) for _ in range(length)])
        mask[row, place] = 1
    return inputs, mask


def guess_from(monkeypatch, texts):
    """Guess what will be written, right up to somewhere and wrong from there on, and sometimes nothing."""

    def guess(self, row, written):
        draw = random.Random(1000 * row + len(written))
        right = texts[row][len(written) : len(written) + draw.randrange(9)]
        guess = [*right, draw.randrange(2, WORDS)] if draw.random() < 0.8 else []
        return guess, draw.randrange(1, 5)

    monkeypatch.setattr(PromptLookup, "_guess", guess)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_texts_are_the_same_whatever_is_guessed(monkeypatch, name, rows):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, rows)
    # Pure greed would soon repeat itself; drawn tokens depend on row and place alone and leave nothing to repeat.
    pick = Sampling(1, 1.0, seed=4).pick([str(row) for row in range(rows)], LIMIT)
    monkeypatch.setattr(prompt_lookup, "_MOST", 0)
    plain, widths = write(model, inputs, mask, pick=pick)
    assert set(widths) <= {1, inputs.shape[1]}
    monkeypatch.setattr(prompt_lookup, "_MOST", 8)
    guess_from(monkeypatch, plain)
    looked_up, wide = write(model, inputs, mask, pick=pick)
    assert looked_up == plain
    rows_differ = rows > 1 and name in ("t5", "a narrow window")
    assert len(wide) == len(widths) if rows_differ else len(wide) < len(widths)


def test_samples_of_a_prompt_are_the_same_with_guesses(monkeypatch):
    torch.manual_seed(3)
    model = MODELS["llama"]().eval()
    inputs, mask = prompts(model, 2)
    pick = Sampling(3, 1.0, seed=4).pick(["a", "b"], LIMIT)
    monkeypatch.setattr(prompt_lookup, "_MOST", 0)
    plain, widths = write(model, inputs, mask, samples=3, pick=pick)
    assert plain[0] != plain[1]
    monkeypatch.setattr(prompt_lookup, "_MOST", 8)
    guess_from(monkeypatch, plain)
    looked_up, wide = write(model, inputs, mask, samples=3, pick=pick)
    assert (looked_up, len(wide) < len(widths)) == (plain, True)


def test_what_followed_the_last_words_first_is_guessed():
    one = PromptLookup([[5, 6, 7, 8, 9, 5, 6, 1, 2, 6, 3]])
    assert one.guesses({0: [5, 6]}, 3) == [[7, 8, 9]]  # both words, the first time
    assert one.guesses({0: [1, 2, 6]}, 8) == [[3]]  # the longest run of words, up to the prompt's end
    assert one.guesses({0: [4, 6]}, 2) == [[7, 8]]  # one word where no more fit
    assert one.guesses({0: [4]}, 8) == [[]]
    assert one.guesses({0: [5, 6]}, 0) == [[]]
    assert PromptLookup([[5, 3, 7, 8, 1, 3]]).guesses({0: []}, 2) == [
        [7, 8]
    ]  # nothing written: the prompt's own last words


def test_guesses_grow_shorter_in_large_batches_and_where_they_are_wrong():
    prompt = list(range(2, 40))
    assert len(PromptLookup([prompt]).guesses({0: [3, 4, 5]}, 20)[0]) == 8
    many = PromptLookup([prompt] * 60)
    after_one, after_three = ({row: list(range(3, 3 + same)) for row in range(60)} for same in (1, 3))
    one, three = (max(map(len, many.guesses(written, 20))) for written in (after_one, after_three))
    assert 0 < one < three < 8
    many.guesses(after_one, 20)
    for _ in range(200):
        many.learn(0, [4, 5, 6], 0)
    assert many.guesses(after_one, 20) == [[]] * 60
    # What is learned of short matches says nothing of long ones.
    assert max(map(len, many.guesses(after_three, 20))) == three


def test_a_cue_that_has_begun_goes_on():
    one = PromptLookup([[5, 6, 7, 8, 9]], cue=[6, 1, 2])
    assert one.guesses({0: [5, 6]}, 8) == [[1, 2]]  # not what follows in the prompt
    assert one.guesses({0: [6, 1]}, 8) == [[2]]
    assert one.guesses({0: [6, 1, 2]}, 8) == [[]]
    assert one.guesses({0: [5]}, 2) == [[6, 7]]


def test_a_batch_does_not_wait_for_the_few_that_quote():
    found = PromptLookup([list(range(2, 40))] * 60).guesses({row: [3] if row == 0 else [50] for row in range(60)}, 20)
    assert found == [[]] * 60
