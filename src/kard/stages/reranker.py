"""reranker: trained on the candidate sets of kept rationales, and how it ranks the evaluated questions' before and after."""

from __future__ import annotations

import shutil
from pathlib import Path

from kard.artifacts.files import write_json, write_jsonl
from kard.evaluation.ranking import Judged, agreement, ranking_rows
from kard.evaluation.retrieval import evaluate_ranking
from kard.report.card import write_reranker_card
from kard.reranker.candidates import CandidateSet
from kard.reranker.features import queries_of
from kard.run import Run


def make_reranker(run: Run, folder: Path) -> None:
    """Train it, and judge its rankings."""
    from kard.reranker.load import new_reranker
    from kard.reranker.model import Reranker
    from kard.reranker.training import remove_checkpoints, train_reranker

    recipe, section = run.recipe, run.recipe.reranker
    reranker = new_reranker(section, run.passage_vectors(), run.passages().texts, recipe.seed)
    sets = candidate_sets(run)
    judged = Judged.of(run, run.evaluated())
    in_sets = [p for row in sets for p in row.positions] if section.train == "question" else []
    reranker.prepare([*in_sets, *judged.positions])
    untrained = judged.ranked(reranker)
    trained = train_reranker(reranker, sets, section, recipe.seed, folder)
    scores = trained.score(judged.queries, judged.found)
    rankings = {
        recipe.retriever.kind: judged.found,
        "reranker_untrained": untrained,
        "reranker": judged.in_order(scores),
    }
    if section.has_score_features:
        rankings["reranker_features"] = judged.in_order([a + b for a, b in zip(scores, judged.features, strict=True)])
    rows = evaluate_ranking(rankings, judged.relevant, recipe.seed) + agreement(run, judged)
    write_json(folder / "retrieval.json", rows)
    write_jsonl(folder / "rankings.jsonl", ranking_rows(run, judged, rankings))
    write_reranker_card(folder / "model", section, rows)
    remove_checkpoints(folder)
    if (
        isinstance(reranker, Reranker) and reranker is not trained
    ):  # its own vectors lie beside it: these are not read again
        shutil.rmtree(reranker.vectors.folder)


def candidate_sets(run: Run) -> list[CandidateSet]:
    """What the reranker learns from: the candidate sets of the training questions' kept rationales."""
    section = run.recipe.reranker
    questions = {question.id: question for question in run.questions("train")[: section.train_questions]}
    return [
        CandidateSet(
            queries_of(questions[row.question], section.choices),
            tuple(row.candidates),
            tuple(row.scores),
            min(section.rationale_candidates, len(row.silver)),
        )
        for row in run.candidates()
        if row.status == "kept" and row.question in questions
    ]
