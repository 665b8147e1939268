"""Why answers are wrong: every mistake in one class, found by machine, and what would mend the largest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kard.evaluation.relevant import relevant_passages
from kard.methods import METHODS, PREFERRED, Method
from kard.retrieval.retriever import Retriever
from kard.run import Run

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
    "in_prompt": (
        "the silver passage stood in the prompt",
        "train on more questions or rationales, for more epochs, or take a larger student",
    ),
    "wrong_with_silver": (
        "not in the prompt, and wrong with the silver passage too",
        "train on more questions or rationales, for more epochs, or take a larger student",
    ),
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
    mistakes = []
    for name, rows in predictions.items():
        silver_too = wrong_with_silver if METHODS[name].trained_on == "rationales_silver" else set()
        mistakes += [
            {
                "method": name,
                "question": row["question"],
                "class": _class_of(METHODS[name], row, wanted, candidates, silver_too),
                "support": support,
            }
            for row, support in zip(rows, supports[name], strict=True)
            if not row["correct"]
        ]
    return [_summary(name, predictions, supports[name], mistakes) for name in predictions], mistakes


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
    name: str, predictions: Predictions, supports: Sequence[float | None], mistakes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    counts = Counter(row["class"] for row in mistakes if row["method"] == name)
    known = [
        (row["correct"], share) for row, share in zip(predictions[name], supports, strict=True) if share is not None
    ]
    parts = {
        "all": [share for _, share in known],
        "right": [share for correct, share in known if correct],
        "wrong": [share for correct, share in known if not correct],
    }
    means = {part: sum(shares) / len(shares) if shares else None for part, shares in parts.items()}
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
    n = sum(counts.values())
    if not n:
        return "It made no mistakes."
    groups = {"retrieval": RETRIEVAL, "the student": STUDENT}
    sums = {whose: sum(counts.get(label, 0) for label in labels) for whose, labels in groups.items()}
    whose = max(sums, key=sums.__getitem__)
    alone = max(("unparsed", "unknown"), key=lambda label: counts.get(label, 0))
    if counts.get(alone, 0) > sums[whose]:
        what, mend = CLASSES[alone]
        return f"{_share(counts[alone], n)}: {what}. To mend it, {mend}."
    labels = sorted(groups[whose], key=lambda label: -counts.get(label, 0))
    parts = ", ".join(f"{CLASSES[label][0]} ({counts[label]:,})" for label in labels if counts.get(label))
    return f"{_share(sums[whose], n)} are lost by {whose}: {parts}. To mend it, {CLASSES[labels[0]][1]}."


def _with_passages(name: str, predictions: Predictions) -> str:
    """What a method that reads no passages could gain from them: how many of its mistakes the best usable reader makes not."""
    reader = next((other for other in PREFERRED if other in predictions and METHODS[other].reads_passages), None)
    pairs = zip(predictions[name], predictions[reader] if reader else (), strict=bool(reader))
    mended = sum(not row["correct"] and other["correct"] for row, other in pairs)
    n = sum(not row["correct"] for row in predictions[name])
    told = "the teacher's rationale in its prompt" if METHODS[name].is_oracle else "no passages"
    return f"All its mistakes ({n:,}) were made with {told}" + (
        f"; {reader} answers {mended:,} of them right." if reader else "."
    )


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.0f} % of its mistakes ({count:,} of {n:,})"
