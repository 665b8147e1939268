"""The order of an epoch."""

from __future__ import annotations

import torch

from kard.models.training import EpochOrder

LENGTHS = [5, 9, 3, 7, 7, 2, 8, 4, 6, 1, 9]


def order(epoch, seed=0, filler=False):
    sampler = EpochOrder(LENGTHS, 4, seed, filler)
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


def test_a_filler_makes_the_last_batch_whole():
    assert order(0, filler=True) == [*order(0), len(LENGTHS)]


def test_batches_hold_similar_lengths():
    lengths = [place * 37 % 64 for place in range(640)]
    drawn = list(EpochOrder(lengths, 8, 0))

    def padding(order):
        batches = [[lengths[place] for place in order[begin : begin + 8]] for begin in range(0, 640, 8)]
        return sum(8 * max(batch) - sum(batch) for batch in batches)

    assert padding(drawn) < padding(range(640)) / 4
