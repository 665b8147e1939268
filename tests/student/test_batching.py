"""Batches in pieces."""

from __future__ import annotations

import pytest

from kard.student.batching import IGNORED, Collator, pieces

LENGTHS = [5, 9, 3, 7, 7, 2, 8, 4, 6, 1, 9]


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_pieces_hold_the_batch_and_fit(encoder_decoder, rows):
    lines = [
        {"input_ids": list(range(10, 10 + 3 * length)), "labels": list(range(20, 20 + max(1, length // 2)))}
        for length in LENGTHS[:8]
    ]
    if not encoder_decoder:  # a question and an answer, and choices in between that are not learned
        lines[0]["labels"] = [20, 21, IGNORED, IGNORED, IGNORED, 22]
    parts = pieces(Collator(0, encoder_decoder)(lines), rows)
    seen = []
    for part in parts:
        count, width = part["input_ids"].shape
        assert count <= rows
        written = 0 if not encoder_decoder else part["labels"].shape[1]
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
    assert pieces(batch, 2) == [batch]
    assert len(pieces(batch, 1)) == 2
