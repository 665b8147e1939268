"""Why answers are wrong: every mistake in one class, found by machine, and what would mend the largest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kard.evaluation.relevant import relevant_passages
from kard.methods import METHODS, PREFERRED, Method
from kard.retrieval.retriever import Retriever
from kard.run import Run

_LEARN_MORE = "train on more questions or rationales, for more epochs, or take a larger student"
# Class: what is meant, and what mends it. A mistake is in the first class that fits.
CLASSES = {
    "unparsed": (
        "no answer could be read off the text",
        "raise student.max_output_tokens, or set student.answer_by: choices",
    ),
    "no_passages": ("the method read no passages", "compare it with a method that reads some"),
    "unknown": (
        "no silver passage is known for the question",
        "give the test questions rationales, or gold passages that are in the knowledge base",
    ),
    "in_prompt": ("the silver passage stood in the prompt", _LEARN_MORE),
    "wrong_with_silver": ("not in the prompt, and wrong with the silver passage too", _LEARN_MORE),
    "not_in_top_k": (
        "among the candidates, but not in the prompt",
        "train the reranker on more questions, or raise student.passages and evaluation.passages together",
    ),
    "not_in_candidates": (
        "not among the candidates",
        "raise retriever.candidates, try retriever.kind: hybrid, or look whether the documents hold it",
    ),
}
RETRIEVAL, STUDENT = ("not_in_top_k", "not_in_candidates"), ("in_prompt", "wrong_with_silver")

Predictions = Mapping[str, Sequence[dict[str, Any]]]


def diagnose(run: Run, predictions: Predictions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put each mistake of each method into a class of `CLASSES`.

    The passage that should have been found is the question's silver one, which kard_silver reads; where it has no rationale,
    its gold ones. `support` is word overlap: the share of the rationale's content words (stems, as the index takes them, stop
    words aside) that the passages of the prompt hold.

    Args:
        run: The run.
        predictions: By method, its rows in the questions' order.

    Returns:
        One object a method (``method, mistakes, classes`` (``class, what, count``), ``advice, support``: its mean over all, right
        and wrong answers, None where it writes no rationale or reads no passages), and one a mistake (``method, question,
        class, support``).
    """
    if not any(METHODS[name].reads_passages for name in predictions):
        return classify(predictions, {}, {}, {name: [None] * len(rows) for name, rows in predictions.items()})
    wanted = _wanted(run)
    retriever = run.retriever()
    supports = {name: _supports(retriever, METHODS[name], rows) for name, rows in predictions.items()}
    unread = [
        row["question"]
        for name, rows in predictions.items()
        if METHODS[name].reads_passages and not METHODS[name].is_oracle
        for row in rows
        if not row["correct"] and wanted.get(row["question"]) and not _read(row) & wanted[row["question"]]
    ]
    return classify(predictions, wanted, _candidates(run, retriever, set(unread)), supports)


def classify(
    predictions: Predictions,
    wanted: Mapping[str, set[str]],
    candidates: Mapping[str, set[str]],
    supports: Mapping[str, Sequence[float | None]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What `diagnose` returns, from passage ids.

    Args:
        predictions: As there.
        wanted: By question, the passages that should have been found; nothing where none is known.
        candidates: By question, what the retriever found, for those whose prompt lacks a wanted passage.
        supports: By method, of each row.
    """
    wrong_with_silver = {row["question"] for row in predictions.get("kard_silver", ()) if not row["correct"]}
    summaries, mistakes = [], []
    for name, rows in predictions.items():
        method = METHODS[name]
        silver_too = wrong_with_silver if method.trained_on == "rationales_silver" else set()
        own = [
            {
                "method": name,
                "question": row["question"],
                "class": _class_of(method, row, wanted, candidates, silver_too),
                "support": share,
            }
            for row, share in zip(rows, supports[name], strict=True)
            if not row["correct"]
        ]
        summaries.append(_summary(name, predictions, supports[name], Counter(row["class"] for row in own)))
        mistakes += own
    return summaries, mistakes


def _class_of(
    method: Method,
    row: dict[str, Any],
    wanted: Mapping[str, set[str]],
    candidates: Mapping[str, set[str]],
    wrong_with_silver: set[str],
) -> str:
    question = row["question"]
    right = wanted.get(question)
    if not row["parsed"]:
        return "unparsed"
    if not method.reads_passages:
        return "no_passages"
    if method.is_oracle:
        return "in_prompt" if row["passages"] else "unknown"
    if not right:
        return "unknown"
    if _read(row) & right:
        return "in_prompt"
    if question in wrong_with_silver:
        return "wrong_with_silver"
    return "not_in_top_k" if candidates[question] & right else "not_in_candidates"


def _read(row: dict[str, Any]) -> set[str]:
    return {passage["id"] for passage in row["passages"]}


def _wanted(run: Run) -> dict[str, set[str]]:
    """Ids of the passages that should be found, for each question that has any."""
    questions = run.evaluated()
    sets = relevant_passages(run, questions)
    none: list[set[int]] = [set() for _ in questions]
    rows = zip(questions, sets.get("silver", none), sets.get("gold", none), strict=True)
    passages = run.passages()
    return {question.id: {passages[p].id for p in silver or gold} for question, silver, gold in rows if silver or gold}


def _candidates(run: Run, retriever: Retriever, names: set[str]) -> dict[str, set[str]]:
    """Ids of the κ* passages that the retriever finds for some questions."""
    questions = [question for question in run.evaluated() if question.id in names]
    queries = [question.query(run.recipe.retriever.query) for question in questions]
    hits = retriever.search(queries, run.recipe.retriever.candidates) if queries else []
    passages = run.passages()
    return {q.id: {passages[p].id for p in hit.positions} for q, hit in zip(questions, hits, strict=True)}


def _supports(retriever: Retriever, method: Method, rows: Sequence[dict[str, Any]]) -> list[float | None]:
    if not method.reads_passages or method.writes != "rationale":
        return [None for _ in rows]

    def terms(text: str) -> set[int]:
        return set(retriever.analysis.terms([text])[0].tolist())

    return [support(terms, row["rationale"], [f"{p['title']} {p['text']}" for p in row["passages"]]) for row in rows]


def support(terms: Callable[[str], set[int]], rationale: str, passages: Sequence[str]) -> float | None:
    """Share of a rationale's content words that passages hold; None where it has none. `terms` are a text's content words."""
    said = terms(rationale)
    return len(said & terms(" ".join(passages))) / len(said) if said else None


def _summary(
    name: str, predictions: Predictions, supports: Sequence[float | None], counts: Counter[str]
) -> dict[str, Any]:
    rows = zip(predictions[name], supports, strict=True)
    known = [(row["correct"], share) for row, share in rows if share is not None]
    parts = {
        "all": known,
        "right": [pair for pair in known if pair[0]],
        "wrong": [pair for pair in known if not pair[0]],
    }
    means = {part: sum(share for _, share in pairs) / len(pairs) if pairs else None for part, pairs in parts.items()}
    return {
        "method": name,
        "mistakes": counts.total(),
        "classes": [
            {"class": label, "what": what, "count": counts[label]}
            for label, (what, _) in CLASSES.items()
            if counts[label]
        ],
        "support": means if known else None,
        "advice": _with_passages(name, predictions) if counts["no_passages"] > counts["unparsed"] else advice(counts),
    }


def advice(counts: Mapping[str, int]) -> str:
    """A sentence about where most of a method's mistakes come from, and what would mend them."""
    counts = Counter(counts)
    n = counts.total()
    if not n:
        return "It made no mistakes."
    groups = {"retrieval": RETRIEVAL, "the student": STUDENT}
    sums = {whose: sum(counts[label] for label in labels) for whose, labels in groups.items()}
    whose = max(sums, key=sums.__getitem__)
    alone = max(("unparsed", "unknown"), key=counts.__getitem__)
    if counts[alone] > sums[whose]:
        what, mend = CLASSES[alone]
        return f"{_share(counts[alone], n)}: {what}. To mend it, {mend}."
    labels = sorted(groups[whose], key=lambda label: -counts[label])
    parts = ", ".join(f"{CLASSES[label][0]} ({counts[label]:,})" for label in labels if counts[label])
    return f"{_share(sums[whose], n)} are lost by {whose}: {parts}. To mend it, {CLASSES[labels[0]][1]}."


def _with_passages(name: str, predictions: Predictions) -> str:
    """What a method that reads no passages could gain from them: how many of its mistakes the best usable reader makes not."""
    wrong = {row["question"] for row in predictions[name] if not row["correct"]}
    given = "the teacher's rationale in its prompt" if METHODS[name].is_oracle else "no passages"
    sentence = f"All its mistakes ({len(wrong):,}) were made with {given}"
    reader = next((other for other in PREFERRED if other in predictions and METHODS[other].reads_passages), None)
    if reader is None:
        return f"{sentence}."
    mended = sum(row["correct"] and row["question"] in wrong for row in predictions[reader])
    return f"{sentence}; {reader} answers {mended:,} of them right."


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.0f} % of its mistakes ({count:,} of {n:,})"
