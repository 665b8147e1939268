"""What a run shows before any training: how well passages are found by the question, and by an explanation of its answer."""

from __future__ import annotations

from collections.abc import Iterator

from kard.evaluation.relevant import first_silver, relevant_passages
from kard.evaluation.retrieval import hits_at
from kard.run import Run

_QUESTIONS, _DEPTHS = 300, (1, 3, 10)


def first_look(run: Run) -> Iterator[str]:
    """Lines to print once the candidates are there: a small table, and one question with what it finds.

    Test questions where they have explanations, training questions elsewhere; gold passages where the data names any, silver
    ones (which explanations find by themselves) elsewhere.
    """
    recipe, by_rationale = run.recipe, first_silver(run)
    where, questions = str(recipe.evaluation.split), run.evaluated()
    if not any(question.id in by_rationale for question in questions):
        where, questions = "training", run.questions("train")
    asked = [question for question in questions if question.id in by_rationale][:_QUESTIONS]
    relevant = relevant_passages(run, asked)
    if not relevant:
        return
    kind = "gold" if "gold" in relevant else "silver"
    queries = [question.query(recipe.retriever.query) for question in asked]
    found = run.retriever().search(queries, max(_DEPTHS))
    by = {
        "question": [hits.positions.tolist() for hits in found],
        "explanation": [by_rationale[question.id] for question in asked],
    }
    yield f"  First result: {len(asked)} {where} questions, how often the {kind} passage is among the first"
    yield "    found by     " + "".join(f"{depth:>8}" for depth in _DEPTHS)
    for name, rankings in by.items() if kind == "gold" else [("question", by["question"])]:
        pairs = [(row, right) for row, right in zip(rankings, relevant[kind], strict=True) if right]
        shares = (sum(hits_at(row, right, depth) for row, right in pairs) / len(pairs) for depth in _DEPTHS)
        yield f"    {name:<13}" + "".join(f"{share:>8.0%}" for share in shares)
    passages = run.passages()
    missed = [place for place, row in enumerate(by["question"]) if row and row[0] not in relevant[kind][place]]
    place = (missed or [0])[0]
    yield f"  For example: {asked[place].question}"
    for name, rankings in by.items():
        for passage in (passages[position] for position in rankings[place][:1]):
            yield f"    by {name + ':':<13} {passage.title + ': ' if passage.title else ''}{passage.text[:100]}"
