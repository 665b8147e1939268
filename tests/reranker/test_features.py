"""What is known of a candidate before the reranker reads it: the retriever's score, and whether its title is a choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kard.artifacts.files import read_jsonl
from kard.data.passage import Passage
from kard.data.question import Question
from kard.finder import Finder
from kard.kard import Kard
from kard.methods import METHODS
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.sections import RerankerSection
from kard.report.card import render_reranker_card
from kard.report.numbers import retriever
from kard.reranker.features import score_features
from kard.retrieval.retriever import Hits
from kard.stages.plan import plan
from tests.conftest import make_project

PASSAGES = [
    Passage(id=title, document=title, title=title, text="of something", source="")
    for title in ("Jami", "Saadi", "Iran", "")
]


def test_score_features_by_hand():
    questions = [
        Question(id="1", question="Who?", choices=("saadi.", "Rumi", "JAMI")),
        Question(id="2", question="Jami?"),
    ]
    hits = [
        Hits(np.array([2, 1, 0, 3]), np.array([4.0, 3.0, 2.0, 1.0], dtype=np.float32)),
        Hits(np.array([0]), np.array([5.0], dtype=np.float32)),
    ]
    section = RerankerSection(retriever_weight=0.1, title_weight=0.5)
    first, second = score_features(section, questions, hits, PASSAGES)
    np.testing.assert_allclose(first, [0.4, 0.3 + 0.5, 0.2 + 0.5, 0.1], rtol=1e-6)
    np.testing.assert_allclose(second, [0.5], rtol=1e-6)  # it has no choices
    signs = Question(id="3", question="Plus?", choices=("+", "-"))  # nothing is left of these, and of no title
    [third] = score_features(RerankerSection(title_weight=0.5), [signs], hits[:1], PASSAGES)
    assert not third.any()
    assert [row.tolist() for row in score_features(RerankerSection(), questions, hits, PASSAGES)] == [[0.0] * 4, [0.0]]


def test_candidates_are_put_in_order_by_the_sum():
    recipe = load_recipe("quickstart", ["reranker.likelihood_weight=null", "reranker.title_weight=0.15"])
    hit = Hits(np.array([2, 1, 0]), np.array([3.0, 2.0, 1.0], dtype=np.float32))
    scores = np.array([0.5, 0.3, 0.4], dtype=np.float32)
    reranker = SimpleNamespace(temperature=0.05, score_each=lambda forms, positions: [scores[None]])
    retriever = SimpleNamespace(search=lambda queries, k, allowed: [hit])
    finder = Finder(recipe, PASSAGES, retriever, reranker)
    method = METHODS["kard_reranker"]
    question = Question(id="q", question="Who?", choices=("Jami", "Rumi"))
    [row] = finder.candidates(method, [question], {})
    assert [item.passage.title for item in row] == ["Jami", "Iran", "Saadi"]
    assert [item.reranker for item in row] == pytest.approx([0.55, 0.5, 0.3])
    [row] = finder.candidates(method, [replace(question, choices=())], {})
    assert [item.passage.title for item in row] == ["Iran", "Jami", "Saadi"]


@pytest.fixture(scope="module")
def weighed(tmp_path_factory, decoder_folder, encoder_folder) -> Path:
    """The project of a run whose reranker hardly counts beside the retriever."""
    folder = make_project(tmp_path_factory.mktemp("weighed") / "p", decoder_folder, encoder_folder)
    recipe = load_recipe(str(folder), ["reranker.retriever_weight=1000", "evaluation.methods=[kard_reranker]"])
    run_recipe(recipe, recipe.output)
    return folder.parent


def test_a_run_ranks_with_them_and_shows_the_reranker_alone_as_well(weighed):
    rows = json.loads((weighed / "run" / "results.json").read_text(encoding="utf-8"))["retrieval"]
    hits = {row["name"]: (row["hits"], row["mrr"]) for row in rows if row["against"] == "gold"}
    assert list(hits) == ["bm25", "reranker_untrained", "reranker", "reranker_features"]
    assert hits["reranker_features"] == hits["bm25"]
    firsts = [row["first"] for row in read_jsonl(weighed / "run" / "reranker" / "rankings.jsonl")]
    assert any(first["reranker"] != first["bm25"] for first in firsts)
    page = (weighed / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert retriever("reranker_features") in page
    assert "no order can find more. “With score features”: the retriever’s score" in page
    assert "“Second look”" not in page


def test_answers_are_read_from_the_passages_that_come_first_with_them(weighed):
    firsts = {row["question"]: row["first"] for row in read_jsonl(weighed / "run" / "reranker" / "rankings.jsonl")}
    answered = list(read_jsonl(weighed / "run" / "predictions" / "rationales_silver" / "kard_reranker.jsonl"))
    asked = {row["id"]: row for row in read_jsonl(weighed / "run" / "questions" / "test.jsonl")}
    kard = Kard.load(weighed / "run")
    for row in answered:
        read = [passage["id"] for passage in row["passages"]]
        assert read == firsts[row["question"]]["reranker_features"][: len(read)]
        question = asked[row["question"]]
        again = kard.answer(question["question"], question["choices"]).passages
        assert [item.passage.id for item in again] == read


def test_other_weights_judge_again_and_leave_the_students(weighed):
    settings = ([], ["reranker.title_weight=0.1"], ["reranker.retriever_weight=0.1"])
    plain, *others = (
        {step.name: step.hash for step in plan(load_recipe(str(weighed / "recipe.yaml"), one), weighed / "run")}
        for one in settings
    )
    for other in others:
        changed = {name for name in other if other[name] != plain[name]}
        assert changed == {"reranker", "predictions/rationales_silver"}


def test_the_card_says_what_is_added(weighed):
    card = (weighed / "run" / "reranker" / "model" / "README.md").read_text(encoding="utf-8")
    assert "1000.0 times the retriever's score of the passage for the question." in card.replace("\n", "")
    assert "title" not in card
    assert "is added" not in render_reranker_card(RerankerSection(), [])
    both = render_reranker_card(RerankerSection(title_weight=0.1, retriever_weight=0.2), [])
    assert "question and 0.1 where the passage's title is one of the question's choices." in both.replace("\n", "")
