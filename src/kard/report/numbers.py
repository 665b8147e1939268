"""Numbers and names as page, card and terminal show them, and the one sentence that sums a run up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kard.methods import METHODS

SIGNIFICANT = 0.05
_NO_BREAK = "\u00a0"
_MINUS = "\u2212"
_ORACLE = " (oracle)"
_RETRIEVERS = {
    "bm25": "BM25",
    "dense": "vectors",
    "hybrid": "BM25 and vectors",
    "reranker_untrained": "reranker, untrained",
    "reranker": "reranker, trained",
    "reranker_features": "reranker, with score features",
    "reranker_likelihood": "reranker, second look",
    "other_rationale": "another rationale of the question",
    "given": "the given order",
}


def label(name: str) -> str:
    """What a method is called in words."""
    return METHODS[name].label


def retriever(name: str) -> str:
    """What a row of the retrieval results is called in words."""
    return _RETRIEVERS.get(name, name)


def short_label(name: str) -> str:
    """The label without the oracle mark, for places that mark oracles in their own way."""
    return label(name).removesuffix(_ORACLE)


def is_oracle(name: str) -> bool:
    """Whether a method is told something that no user could know."""
    return METHODS[name].is_oracle


def percent(fraction: float) -> str:
    """``0.743`` as ``74.3 %``."""
    return f"{100 * fraction:.1f}{_NO_BREAK}%"


def percent_interval(interval: Sequence[float]) -> str:
    """``[0.691, 0.789]`` as ``69.1–78.9 %``."""
    return f"{100 * interval[0]:.1f}–{percent(interval[1])}"


def operations(count: float | None) -> str:
    """A large count, ``2.5e13`` as ``25 T``; a dash where nobody counted."""
    if count is None:
        return "–"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{_NO_BREAK}{letter}"
    return f"{count:.0f}"


def points(difference: float) -> str:
    """A difference of accuracies in percentage points: ``-0.021`` as ``−2.1``."""
    rounded = round(100 * difference, 1) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:+.1f}".replace("-", _MINUS) if rounded else "0.0"


def points_interval(interval: Sequence[float]) -> str:
    """An interval of differences: ``[-0.01, 0.05]`` as ``−1.0 to +5.0``."""
    return f"{points(interval[0])} to {points(interval[1])}"


def p_value(p: float) -> str:
    """``p < 0.001`` or ``p = 0.012``; never rounded across the line between significant and not."""
    if p < 0.001:
        return "p < 0.001"
    digits = 3 if (round(p, 3) < SIGNIFICANT) == (p < SIGNIFICANT) else 6
    return f"p = {p:.{digits}f}"


def verdict(p: float) -> str:
    """A difference that may be chance is called a tie."""
    return "differs" if p < SIGNIFICANT else "tie"


def mean_and_spread(row: dict[str, Any]) -> str:
    """``83.3 ± 0.4``: percent, mean and standard deviation over seeds; one seed has no spread."""
    spread = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
    return f"{100 * row['accuracy']:.1f}{spread}"


def change(row: dict[str, Any]) -> str:
    """``+4.2, p = 0.012`` or ``+0.3, tie (p = 0.700)``."""
    sure = p_value(row["p_value"])
    return f"{points(row['difference'])}, {sure if row['p_value'] < SIGNIFICANT else f'tie ({sure})'}"


def setting(values: dict[str, Any]) -> str:
    """What a setting varies, in words: ``student.rationales = 3, student.passages = evaluation.passages = 2``."""
    parts = (" = ".join([*axis.split(","), value_of(value)]) for axis, value in values.items())
    return ", ".join(parts) or "as the recipe says"


def value_of(value: Any) -> str:
    """A recipe's value as a mark on an axis; what is null takes all there are."""
    return "all" if value is None else shortened(str(value))


def shortened(text: str, most: int = 28) -> str:
    """The end of a long text, which is where names and paths differ."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def plain(value: Any) -> str:
    """A value of the environment as text: ``{"torch": "2.8", "numpy": "2.0"}`` as ``torch 2.8, numpy 2.0``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def best_method(methods: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The most accurate method that a user could use; among oracles alone, the most accurate of these."""
    usable = [method for method in methods if not is_oracle(method["name"])]
    return max(usable or methods, key=lambda method: method["accuracy"])


def headline(results: dict[str, Any]) -> tuple[str, str]:
    """What came out, in two texts: the best method's accuracy, and how sure it is and what it gains over distillation.

    Where distillation was not compared with (or is the best), the next best method that was takes its place.
    """
    best = best_method(results["methods"])
    made = "machine-made " if results.get("generated", {}).get("warning") else ""
    asked = f"{best['n']:,} {made}{results['split']} questions"
    title = f"{percent(best['accuracy'])} of {asked} right with {label(best['name'])}."
    detail = f"The 95{_NO_BREAK}% interval is {percent_interval(best['ci95'])}."
    gain = _gain(best["name"], results)
    if gain is None:
        return title, f"{detail} It was compared with no other method."
    rival, difference, (low, high), p = gain
    verdict = "significant" if p < SIGNIFICANT else "within noise"
    gain_in_words = f"{points(difference).lstrip('+')} points more than {label(rival)}"
    interval = f"95{_NO_BREAK}% interval {points_interval((low, high))}"
    sure = f"{verdict} ({p_value(p)} after Holm’s correction)"
    return title, f"{detail} That is {gain_in_words} ({interval}), which is {sure}."


def reranking(retrieval: Sequence[dict[str, Any]]) -> str:
    """What reranking gains in Hits@1, whether that is more than chance, and what limits it; empty where nothing was measured.

    Args:
        retrieval: The rows of results.json that are measured against the same passages.
    """
    rows = {row["name"]: row for row in retrieval if row.get("gains") is not None}
    first = next(iter(rows), "reranker")
    if first == "reranker" or "reranker" not in rows:
        return ""
    trained, gains = rows["reranker"], {gain["over"]: gain for gain in rows["reranker"]["gains"]}
    gain = gains[first]
    change = f"{points(gain['difference'])} points in the first place against {retriever(first)} ({p_value(gain['p_value'])})"
    chance = "Reranking does not help here beyond chance"
    verdict = f"{_certainly(gain, 'Reranking helps', 'Reranking harms here', chance)}: {change}."
    if over_untrained := gains.get("reranker_untrained"):
        nothing = " Training adds nothing certain to the untrained model."
        verdict += _certainly(over_untrained, "", " Training makes the untrained model worse.", nothing)
    return f"{verdict} {_limit(trained, rows[first])}"


def _certainly(gain: dict[str, Any], better: str, worse: str, neither: str) -> str:
    if gain["p_value"] >= SIGNIFICANT:
        return neither
    return better if gain["difference"] > 0 else worse


def ranking_gains(row: dict[str, Any]) -> list[str]:
    """What a ranker gains in Hits@1 over each one before, with interval and p, one line each."""
    return [
        f"{retriever(row['name'])} over {retriever(gain['over'])}, against {row['against']}: {points(gain['difference'])} points "
        f"in the first place ({points_interval(gain['ci95'])}; {p_value(gain['p_value'])})"
        for gain in row["gains"]
    ]


def _limit(trained: dict[str, Any], found: dict[str, Any]) -> str:
    """Where the questions are lost whose first passage is wrong."""
    lacking, wrong = 1 - trained["recall"], 1 - trained["hits"]["1"]
    held = f"The candidates hold the passage for {percent(trained['recall'])} of the questions"
    if wrong <= 0:
        return f"{held}, and it is always put first."
    cause = f"{held}; that explains {percent(lacking / wrong)} of the wrong first places, which no order could mend"
    if lacking >= wrong / 2:
        more = "give more candidates" if found["name"] == "given" else "raise retriever.candidates"
        return f"{cause}: {more}, or find other documents."
    if trained["recall"] - found["hits"]["1"] < 0.05:
        return f"{cause}; {retriever(found['name'])} puts nearly all of the others first already."
    return f"{cause}. The others are there, but the question does not tell them apart."


def _gain(best: str, results: dict[str, Any]) -> tuple[str, float, tuple[float, float], float] | None:
    """The comparison to speak of, turned so that it says best minus rival."""
    usable = [m for m in results["methods"] if m["name"] != best and not is_oracle(m["name"])]
    usable.sort(key=lambda method: (method["name"] != "distill", -method["accuracy"]))
    for rival in (method["name"] for method in usable):
        for row in results["comparisons"]:
            low, high = row["ci95"]
            if (row["a"], row["b"]) == (best, rival):
                return rival, row["difference"], (low, high), row["p_value"]
            if (row["a"], row["b"]) == (rival, best):
                return rival, -row["difference"], (-high, -low), row["p_value"]
    return None
