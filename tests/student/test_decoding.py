"""Reading prompts in groups and attending by group change the time, not what is computed."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from kard.student import attention, decoding
from kard.student.attention import attend_by_group
from kard.student.guide import AnswerGuide
from kard.student.sampling import Sampling
from tests.conftest import byte_level_tokenizer
from tests.student.test_drafts import LIMIT, MODELS, SMALL, prompts, write

ROWS = 9


def capped():
    """Scores far from their cap would not show it: the weights are large."""
    config = Gemma2Config(**SMALL, query_pre_attn_scalar=8, attn_logit_softcapping=0.5, initializer_range=0.3)
    return Gemma2ForCausalLM._from_config(config, attn_implementation="eager")


def read_apart(monkeypatch):
    """Prompts are read in groups of two or three."""
    monkeypatch.setattr(decoding, "_READ_AT_ONCE", 80)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_read_in_groups_are_continued_the_same(monkeypatch, name):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, ROWS)
    pick = Sampling(1, 1.0, seed=4).pick([str(row) for row in range(ROWS)], LIMIT)
    together, _ = write(model, inputs, mask, guide_with=pick)
    shapes = []
    reads = model.get_encoder() if model.config.is_encoder_decoder else model
    reads.register_forward_hook(
        lambda module, given, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    read_apart(monkeypatch)
    apart, _ = write(model, inputs, mask, guide_with=pick)
    assert apart == together
    groups = [shape for shape in shapes if shape[1] >= 20]
    assert sum(rows for rows, _ in groups) == ROWS
    assert len(groups) > 2
    assert all(rows * width <= 80 for rows, width in groups)
    assert len({width for _, width in groups}) > 1  # short prompts without the padding of long ones


@pytest.mark.parametrize("name", ["llama", "a wide window", "t5"])
def test_the_first_scores_are_each_rows_own(monkeypatch, name):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, ROWS)
    found = []
    for apart in (False, True):
        if apart:
            read_apart(monkeypatch)
        with torch.inference_mode():
            reader = decoding._reader(model, inputs, mask)
            first = reader.read(reader.first)[:, -1:]
            found.append(torch.cat([first, reader.read(torch.arange(2, 2 + 3 * ROWS).view(ROWS, 3))], dim=1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "a narrow window", "a wide window", "capped scores"])
@pytest.mark.parametrize("most", [1, 2**25])
def test_attention_by_group_is_attention(monkeypatch, name, most):
    monkeypatch.setattr(attention, "_SCORES", most)
    torch.manual_seed(3)
    model = (MODELS | {"capped scores": capped})[name]().eval()
    inputs, mask = prompts(model, 4)
    found = []
    for grouped in (False, True):
        if grouped:
            attend_by_group(model)
            assert model.config._attn_implementation == "kard_grouped"
        with torch.inference_mode():
            reader = decoding._reader(model, inputs, mask)
            scores = [reader.read(reader.first)[:, -1:]]
            scores += [reader.read(torch.arange(2, 2 + 4 * width).view(4, width)) for width in (1, 3, 12)]
        found.append(torch.cat(scores, dim=1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_heads_that_share_nothing_keep_pytorchs_attention():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))
    before = model.config._attn_implementation
    attend_by_group(model)
    assert model.config._attn_implementation == before == "sdpa"
    t5 = MODELS["t5"]()
    attend_by_group(t5)
    assert t5.config._attn_implementation != "kard_grouped"


def test_a_cue_costs_one_step():
    """Once a text has begun with it, the answer's cue is read as a whole."""
    tokenizer = byte_level_tokenizer()
    guide = AnswerGuide(tokenizer, [[]], "rationale", LIMIT)
    script = [7, *guide.cue, 9]
    model = MODELS["llama"]().eval()
    model.resize_token_embeddings(len(tokenizer))

    def scripted(rows, places, scores):
        return torch.tensor([(script + [0] * LIMIT)[place] for place in places])

    inputs, mask = torch.full((1, 4), 40), torch.ones(1, 4, dtype=torch.long)
    texts, widths = write(model, inputs, mask, guide_with=scripted)
    assert texts == [script]
    assert len(guide.cue) in widths
    assert len(widths) < len(script) + 1
