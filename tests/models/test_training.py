"""The order of an epoch."""

from __future__ import annotations

import torch

from kard.models.training import EpochOrder

LENGTHS = [5, 9, 3, 7, 7, 2, 8, 4, 6, 1, 9]


def order(epoch, groups=None, seed=0, filler=None):
    sampler = EpochOrder(LENGTHS, groups or [[row] for row in range(len(LENGTHS))], 4, seed, filler)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def test_seed_and_epoch_decide_the_order():
    assert order(0) == order(0)
    torch.manual_seed(5)
    assert order(1) == order(1)
    assert order(0) != order(1) != order(1, seed=1)
    assert sorted(order(3)) == list(range(len(LENGTHS)))


def test_one_of_a_questions_rationales_is_drawn_each_epoch():
    groups = [[0, 1, 2], [3], [4, 5]]
    epochs = [sorted(order(epoch, groups)) for epoch in range(20)]
    assert all(
        len(epoch) == 3 and [sum(row in group for row in epoch) for group in groups] == [1, 1, 1] for epoch in epochs
    )
    assert {row for epoch in epochs for row in epoch} == {0, 1, 2, 3, 4, 5}


def test_a_filler_makes_the_last_batch_whole():
    assert order(0, filler=99) == [*order(0), 99]


def test_batches_hold_similar_lengths():
    lengths = [place * 37 % 64 for place in range(640)]
    drawn = list(EpochOrder(lengths, [[place] for place in range(640)], 8, 0))

    def padding(order):
        batches = [[lengths[place] for place in order[begin : begin + 8]] for begin in range(0, 640, 8)]
        return sum(8 * max(batch) - sum(batch) for batch in batches)

    assert padding(drawn) < padding(range(640)) / 4
