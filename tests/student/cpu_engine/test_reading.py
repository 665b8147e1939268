"""Reading prompts in groups and attending by group change the time, not what is computed."""

from __future__ import annotations

import threading

import pytest
import torch

from kard.student.batching import WIDTH
from kard.student.cpu_engine import reading
from kard.student.sampling import Sampling
from kard.student.tokens import cue_tokens
from tests.conftest import byte_level_tokenizer
from tests.student.cpu_engine.test_prompt_lookup import LIMIT, MODELS, prompts, write

ROWS = 9


def read_apart(monkeypatch):
    """Prompts are read in groups of two or three."""
    monkeypatch.setattr(reading, "_READ_AT_ONCE", 80)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_read_in_groups_are_continued_the_same(monkeypatch, name):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, ROWS)
    pick = Sampling(1, 1.0, seed=4).pick([str(row) for row in range(ROWS)], LIMIT)
    together, _ = write(model, inputs, mask, pick=pick)
    shapes = []
    reads = model.get_encoder() if model.config.is_encoder_decoder else model
    reads.register_forward_hook(
        lambda module, given, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    read_apart(monkeypatch)
    apart, _ = write(model, inputs, mask, pick=pick)
    assert apart == together
    groups = [shape for shape in shapes if shape[1] >= 20]
    assert sum(rows for rows, _ in groups) == ROWS
    assert len(groups) > 2
    assert all(rows * width <= 80 + max(width for _, width in groups) for rows, width in groups)
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
            reader = reading.reader_of(model, inputs, mask)
            first = reader.read(reader.first)[:, -1:]
            found.append(torch.cat([first, reader.read(torch.arange(2, 2 + 3 * ROWS).view(ROWS, 3))], dim=1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("rows", [9, 20, 25, 64])
def test_cores_get_as_many_groups_of_as_many_tokens(monkeypatch, cores, rows):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    lengths = torch.randint(90, 150, (rows,), generator=torch.Generator().manual_seed(rows))
    groups = reading._read_together(torch.arange(152) >= 152 - lengths[:, None])
    assert sorted(row for members, _ in groups for row in members.tolist()) == list(range(rows))
    assert len(groups) % min(cores, len(groups)) == 0
    tokens = [len(members) * width for members, width in groups]
    assert max(tokens) - min(tokens) <= 2 * 152
    for members, width in groups:
        assert max(lengths[members]) <= width < max(lengths[members]) + WIDTH


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_groups_are_read_by_threads_with_a_core_each(monkeypatch, name):
    read_apart(monkeypatch)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, ROWS)
    threads = torch.get_num_threads()
    seen = []
    reads = model.get_encoder() if model.config.is_encoder_decoder else model
    hook = reads.register_forward_hook(
        lambda *_: seen.append((threading.current_thread().name.startswith("kard-core"), torch.get_num_threads()))
    )
    found = []
    for cores in (1, 2):
        torch.set_num_threads(cores)
        try:
            with torch.inference_mode():
                reader = reading.reader_of(model, inputs, mask)
                found.append(reader.read(reader.first)[:, -1:])
            assert torch.get_num_threads() == cores
        finally:
            torch.set_num_threads(threads)
    hook.remove()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert (False, 1) in seen
    assert (True, 1) in seen
    assert not any(by_reader and cores > 1 for by_reader, cores in seen)


def test_a_cue_costs_one_step():
    """Once a text has begun with it, the answer's cue is read as a whole."""
    tokenizer = byte_level_tokenizer()
    cue = cue_tokens(tokenizer)
    script = [7, *cue, 9]
    model = MODELS["llama"]().eval()
    model.resize_token_embeddings(len(tokenizer))

    def scripted(rows, places, scores):
        return torch.tensor([(script + [0] * LIMIT)[place] for place in places])

    inputs, mask = torch.full((1, 4), 40), torch.ones(1, 4, dtype=torch.long)
    texts, widths = write(model, inputs, mask, pick=scripted)
    assert texts == [script]
    assert len(cue) in widths
    assert len(widths) < len(script) + 1
