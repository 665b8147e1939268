"""How well rankings find what they should."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from kard.evaluation.statistics import paired_tests

DEPTHS = (1, 3, 5, 10)
NDCG_DEPTH = 10
GAIN = ("difference", "ci95", "p_value")


def hits_at(ranking: Sequence[int], relevant: set[int], depth: int) -> bool:
    """Whether one of the first `depth` places holds a relevant passage."""
    return not relevant.isdisjoint(ranking[:depth])


def first_rank(ranking: Sequence[int], relevant: set[int]) -> int | None:
    """The place of the first relevant passage, from 1; None where the ranking has none."""
    return next((place for place, position in enumerate(ranking, start=1) if position in relevant), None)


def ndcg(ranking: Sequence[int], relevant: set[int]) -> float:
    """nDCG@10 with two grades, relevant or not (Järvelin and Kekäläinen 2002).

    Passages that the ranking lacks count in the ideal order, so that poor candidates lower it.
    """
    gains = [1 / math.log2(place + 2) for place in range(NDCG_DEPTH)]
    found = sum(gain for gain, position in zip(gains, ranking, strict=False) if position in relevant)
    return found / sum(gains[: len(relevant)])


def evaluate_ranking(
    rankings: Mapping[str, Sequence[Sequence[int]]], relevant: Mapping[str, Sequence[set[int]]], seed: int = 0
) -> list[dict[str, Any]]:
    """Hits@1/3/5/10, MRR, nDCG@10 and recall of several rankers on the same questions, and their differences in Hits@1.

    Args:
        rankings: A ranker's name, and its ranking of passages for each question.
        relevant: What counts (``gold``, ``silver``), and the right passages for each question; questions with none are
            left out, and `n` says how many are left.
        seed: Of the bootstrap.

    Returns:
        One object a ranker and kind: ``name, against, hits, mrr, ndcg, recall, gains, n``. Hits are shares; ``recall`` is the
        share of questions whose ranking holds a relevant passage anywhere: no other order of it can find more. ``gains`` has
        the paired difference in Hits@1 to every ranker before, with interval and McNemar's p, Holm-corrected within the kind.
    """
    rows = []
    for against, sets in relevant.items():
        judged = {
            name: [(order, right) for order, right in zip(ranking, sets, strict=True) if right]
            for name, ranking in rankings.items()
        }
        first = {name: [hits_at(order, right, 1) for order, right in pairs] for name, pairs in judged.items()}
        gains = paired_tests(first, [(later, earlier) for earlier, later in combinations(first, 2)], seed)
        for name, pairs in judged.items():
            own = [{"over": row["b"]} | {key: row[key] for key in GAIN} for row in gains if row["a"] == name]
            rows.append({"name": name, "against": against, **_measures(pairs), "gains": own})
    return rows


def _measures(judged: Sequence[tuple[Sequence[int], set[int]]]) -> dict[str, Any]:
    n = len(judged)
    ranks = [first_rank(order, right) for order, right in judged]
    return {
        "hits": {str(depth): sum(hits_at(order, right, depth) for order, right in judged) / n for depth in DEPTHS},
        "mrr": sum(1 / rank for rank in ranks if rank) / n,
        "ndcg": sum(ndcg(order, right) for order, right in judged) / n,
        "recall": sum(rank is not None for rank in ranks) / n,
        "n": n,
    }
