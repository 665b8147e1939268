"""The order of an epoch, and batches in pieces."""

from __future__ import annotations

import pytest
import torch

from kard.student.batching import IGNORED, Collator, EpochOrder, pieces

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


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize(("rows", "tokens"), [(2, None), (8, 80), (3, 64), (1, None), (8, 1)])
def test_pieces_hold_the_batch_and_fit(encoder_decoder, rows, tokens):
    lines = [
        {"input_ids": list(range(10, 10 + 3 * length)), "labels": list(range(20, 20 + max(1, length // 2)))}
        for length in LENGTHS[:8]
    ]
    if not encoder_decoder:  # a question and an answer, and choices in between that are not learned
        lines[0]["labels"] = [20, 21, IGNORED, IGNORED, IGNORED, 22]
    parts = pieces(Collator(0, encoder_decoder)(lines), rows, tokens)
    seen = []
    for part in parts:
        count, width = part["input_ids"].shape
        assert count <= rows
        written = 0 if not encoder_decoder else part["labels"].shape[1]
        assert tokens is None or count == 1 or count * width <= tokens
        assert width % 8 == 0
        assert width - 8 < part["attention_mask"].sum(dim=1).max() <= width  # no padding that nobody needs
        for ids, mask, labels in zip(part["input_ids"], part["attention_mask"], part["labels"], strict=True):
            learned = labels[labels != IGNORED].tolist()
            seen.append({"input_ids": ids[mask.bool()].tolist(), "labels": learned})
            assert written == 0 or len(labels) == written
        assert ("position_ids" in part) == (not encoder_decoder)
    for line in lines:
        line["labels"] = [label for label in line["labels"] if label != IGNORED]
    assert sorted(map(str, seen)) == sorted(map(str, lines))


def test_a_batch_that_fits_is_left_as_it_is():
    batch = Collator(0, False)([{"input_ids": [1, 2, 3], "labels": [3]}, {"input_ids": [1, 2], "labels": [2]}])
    assert batch["input_ids"].shape == (2, 8)
    assert pieces(batch, 2, 16) == [batch]
    assert len(pieces(batch, 2, 15)) == 2
