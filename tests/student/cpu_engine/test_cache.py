"""Memory of keys and values: a batch's goes to the next one, and never shows."""

from __future__ import annotations

import pytest
import torch

from kard.student.cpu_engine import attention, cache, reading
from kard.student.cpu_engine.cache import Buffers
from kard.student.cpu_engine.engine import CpuEngine
from kard.student.sampling import Sampling
from kard.student.writer import Task
from tests.student.cpu_engine.test_prompt_lookup import MODELS, constraint_of, prompts


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_what_is_given_back_is_taken_again():
    buffers, like = Buffers(), torch.zeros(1)
    first = buffers.take((4, 1, 10, 8), like)
    second = buffers.take((4, 1, 10, 8), like)
    assert address(first) != address(second)
    places = {address(first), address(second)}
    buffers.give(first[:, :, :3])
    buffers.give(second)
    taken = buffers.take((3, 1, 9, 8), like), buffers.take((4, 1, 10, 8), like)
    assert {address(tensor) for tensor in taken} == places
    assert [tensor.shape for tensor in taken] == [(3, 1, 9, 8), (4, 1, 10, 8)]
    assert address(buffers.take((4, 1, 10, 8), like)) not in places


def test_what_is_too_small_or_of_another_format_is_not_taken():
    buffers = Buffers()
    small = buffers.take((8,), torch.zeros(1))
    buffers.give(small)
    assert buffers.take((8,), torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert buffers.take((9,), torch.zeros(1)).shape == (9,)
    # The small one has made room for the larger one.
    assert not buffers._free


def test_cleared_buffers_are_new():
    buffers = Buffers()
    buffers.give(buffers.take((8,), torch.zeros(1)))
    buffers.clear()
    assert not buffers._free


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_leaves_its_memory_to_the_next_and_nothing_else(monkeypatch, name):
    monkeypatch.setattr(attention, "MANY", 4)
    monkeypatch.setattr(cache, "MANY", 4)
    monkeypatch.setattr(reading, "_READ_AT_ONCE", 80)
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    engine = CpuEngine(model)
    shared = engine.buffers

    def write(rows, buffers, samples=1):
        inputs, mask = prompts(model, rows)
        engine.buffers = buffers or Buffers()
        return engine.write(Task(inputs, mask, constraint_of(rows * samples), Sampling(samples)))

    for rows, samples in ((9, 1), (3, 2), (9, 1)):
        assert write(rows, shared, samples) == write(rows, None, samples)
        for kept in shared._free:  # what is read of it unwritten would be seen
            with torch.inference_mode():
                kept.fill_(torch.nan)
    places = {address(kept) for kept in shared._free}
    assert places
    write(3, shared)
    assert {address(kept) for kept in shared._free} == places
