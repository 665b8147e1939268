"""How well rankings find what they should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEPTHS = (1, 3, 5, 10)


def hits_at(ranking: Sequence[int], relevant: set[int], depth: int) -> bool:
    """Whether one of the first `depth` places holds a relevant passage."""
    return not relevant.isdisjoint(ranking[:depth])


def evaluate_ranking(
    rankings: Mapping[str, Sequence[Sequence[int]]], relevant: Mapping[str, Sequence[set[int]]]
) -> list[dict[str, Any]]:
    """Hits@1/3/5/10 of several rankers on the same questions.

    Args:
        rankings: A ranker's name, and its ranking of passages for each question.
        relevant: What counts (``gold``, ``silver``), and the right passages for each question; questions with none are
            left out, and `n` says how many are left.

    Returns:
        One object a ranker and kind: ``name, against, hits, n``; hits are shares.
    """
    rows = []
    for against, sets in relevant.items():
        for name, ranking in rankings.items():
            judged = [(order, right) for order, right in zip(ranking, sets, strict=True) if right]
            hits = {
                str(depth): sum(hits_at(order, right, depth) for order, right in judged) / len(judged)
                for depth in DEPTHS
            }
            rows.append({"name": name, "against": against, "hits": hits, "n": len(judged)})
    return rows
