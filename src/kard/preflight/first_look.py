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
    tested = [question for question in run.evaluated() if question.id in by_rationale]
    where, asked = str(recipe.evaluation.split), tested[:_QUESTIONS]
    if not asked:
        learned = run.questions("train")
        where, asked = "training", [question for question in learned if question.id in by_rationale][:_QUESTIONS]
    relevant = relevant_passages(run, asked)
    if not relevant:
        return
    kind = "gold" if "gold" in relevant else "silver"
    queries = [question.query(recipe.retriever.query) for question in asked]
    found = run.retriever().search(queries, max(_DEPTHS))
    rankings = {"question": [hits.positions.tolist() for hits in found]}
    if kind == "gold":
        rankings["explanation"] = [by_rationale[question.id] for question in asked]
    yield f"  First result: {len(asked)} {where} questions, how often the {kind} passage is among the first"
    yield "    found by     " + "".join(f"{depth:>8}" for depth in _DEPTHS)
    for name, ranking in rankings.items():
        pairs = [(row, right) for row, right in zip(ranking, relevant[kind], strict=True) if right]
        shares = (sum(hits_at(row, right, depth) for row, right in pairs) / len(pairs) for depth in _DEPTHS)
        yield f"    {name:<13}" + "".join(f"{share:>8.0%}" for share in shares)
    passages = run.passages()
    missed = [place for place, row in enumerate(rankings["question"]) if row and row[0] not in relevant[kind][place]]
    place = (missed or [0])[0]
    yield f"  For example: {asked[place].question}"
    for name, position in (
        ("question", rankings["question"][place][:1]),
        ("explanation", by_rationale[asked[place].id][:1]),
    ):
        if position:
            passage = passages[position[0]]
            yield f"    by {name + ':':<13} {passage.title + ': ' if passage.title else ''}{passage.text[:100]}"
