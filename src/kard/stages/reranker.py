"""reranker: trained on the candidate sets of kept rationales, and how it ranks the evaluated questions' before and after."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts.files import read_json, write_json, write_jsonl
from kard.evaluation.ranking import Judged, agreement, ranking_rows
from kard.evaluation.retrieval import evaluate_ranking
from kard.machine.processes import alone, process_count
from kard.machine.sharing import led
from kard.report.card import write_reranker_card
from kard.reranker.candidates import CandidateSet
from kard.reranker.features import queries_of
from kard.run import Run

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker

Work = Callable[[Any], Sequence[Any]]
"""What takes long of a reranker's work: from texts to vectors, or from pairs to scores."""


def make_reranker(run: Run, folder: Path) -> None:
    """Train it, and judge its rankings. All processes do its `Work`, the first one does the rest."""
    from kard.reranker.load import new_reranker, open_reranker

    section, texts = run.recipe.reranker, run.passages().texts
    reranker = new_reranker(section, run.passage_vectors(), texts, run.recipe.seed)
    first: list[Reranker | CrossReranker] = []
    judged = cache(lambda: Judged.of(run, run.evaluated()))
    led(_work_of(reranker), lambda work: first.append(_trained(run, judged(), reranker, work, folder)))

    @cache
    def trained() -> tuple[Reranker | CrossReranker, Work]:
        found = first[0] if first else open_reranker(folder / "model", section, folder / "vectors", texts)
        return found, _work_of(found)  # its own work, before it is shared out

    led(
        lambda some: trained()[1](some),
        lambda work: _judge(run, judged(), _sharing(trained()[0], work), folder),
    )


def _work_of(reranker: Reranker | CrossReranker) -> Work:
    from kard.reranker.model import Reranker

    return reranker.vectors.encode if isinstance(reranker, Reranker) else reranker.read


def _sharing(reranker: Reranker | CrossReranker, work: Work) -> Reranker | CrossReranker:
    """The reranker, with its work done by `work`."""
    from kard.reranker.model import Reranker
    from kard.reranker.vectors import BATCH

    if isinstance(reranker, Reranker):
        reranker.vectors.encode, reranker.vectors.at_once = work, BATCH * process_count()
    else:
        reranker.read = work
    return reranker


def _trained(
    run: Run, judged: Judged, reranker: Reranker | CrossReranker, work: Work, folder: Path
) -> Reranker | CrossReranker:
    """The trained reranker; how it ranked before is in ``untrained.json``."""
    from kard.reranker.model import Reranker
    from kard.reranker.training import train_reranker

    section, ranked, own = run.recipe.reranker, folder / "untrained.json", _work_of(reranker)
    sets = candidate_sets(run)
    _sharing(reranker, work).prepare([p for row in sets for p in row.positions] if not section.learns_passages else [])
    if not ranked.exists():
        write_json(ranked, judged.ranked(reranker))
    _sharing(reranker, own)
    with alone():
        trained = train_reranker(reranker, sets, section, run.recipe.seed, folder)
    if isinstance(reranker, Reranker) and reranker is not trained:
        # Its own vectors will lie beside it: these are not read again.
        shutil.rmtree(reranker.vectors.folder, ignore_errors=True)
    return trained


def _judge(run: Run, judged: Judged, trained: Reranker | CrossReranker, folder: Path) -> None:
    from kard.reranker.training import remove_checkpoints

    recipe, section, untrained = run.recipe, run.recipe.reranker, folder / "untrained.json"
    scores = trained.score(judged.queries, judged.found)
    rankings = {
        recipe.retriever.kind: judged.found,
        "reranker_untrained": read_json(untrained),
        "reranker": judged.in_order(scores),
    }
    if section.has_score_features:
        rankings["reranker_features"] = judged.in_order([a + b for a, b in zip(scores, judged.features, strict=True)])
    rows = evaluate_ranking(rankings, judged.relevant, recipe.seed) + agreement(run, judged)
    write_json(folder / "retrieval.json", rows)
    write_jsonl(folder / "rankings.jsonl", ranking_rows(run, judged, rankings))
    write_reranker_card(folder / "model", section, rows)
    remove_checkpoints(folder)
    untrained.unlink()


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
