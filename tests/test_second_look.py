"""The student's second look: passages that the reranker finds about as good are put in order by p(question | passage)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kard import progress
from kard.data.passage import Passage
from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Finder, Found, QueryLikelihood
from kard.kard import Kard
from kard.methods import METHODS
from kard.pipeline import run_recipe
from kard.preflight.checks import check_models
from kard.prompt import render, target
from kard.recipe.file import load_recipe
from kard.recipe.sections import StudentSection
from kard.report.numbers import retriever
from kard.retrieval.retriever import Hits
from kard.run import Run
from kard.stages import predictions
from kard.stages.plan import plan
from kard.stages.students import training_examples
from kard.student.generation import Student
from kard.student.loading import base_tokenizer
from kard.student.training import Example, train_student
from tests.conftest import THINGS

PASSAGES = [Passage(id=name, document=name, title="", text=f"text of {name}", source="") for name in "abcdef"]
SCORES = [0.9, 0.89, 0.88, 0.7, 0.87, 0.1]


def looking(student, scores, temperature=0.05, weight=0.4) -> Finder:
    """A finder whose retriever finds all passages, and whose reranker gives them these scores."""
    found = Hits(np.arange(len(scores)), np.ones(len(scores)))
    reranker = SimpleNamespace(
        temperature=temperature, score_each=lambda forms, positions: [np.array([scores]) for _ in forms]
    )
    retriever = SimpleNamespace(search=lambda queries, k, allowed: [found for _ in queries])
    second = QueryLikelihood(student, weight, temperature) if student else None
    return Finder(load_recipe("quickstart-full"), PASSAGES, retriever, reranker, second)


class Asked:
    """A student that finds questions as likely after a passage as it was told, and remembers what it was asked."""

    def __init__(self, likelihoods: dict[str, float]) -> None:
        self.likelihoods = likelihoods
        self.pairs: list[tuple[str, str]] = []

    def question_likelihoods(self, pairs):
        self.pairs += pairs
        return [self.likelihoods[passage[-1]] for _, passage in pairs]


def candidates(finder: Finder, choices=("x", "y")) -> list[Found]:
    [row] = finder.candidates(METHODS["kard_reranker"], [Question(id="q", question="Why?", choices=choices)], {})
    return row


def order(finder: Finder) -> str:
    return "".join(item.passage.id for item in candidates(finder))


def test_those_close_to_the_first_are_put_in_order_by_both():
    student = Asked({"a": -30.0, "b": -29.6, "c": -20.0, "e": -40.0})
    finder = looking(student, [0.9, 0.89, 0.88, 0.7, 0.83, 0.1])
    # e^((s - 0.9)/0.05) >= 0.2 holds down to 0.9 - 0.05 ln 5 = 0.82: a, b, c and e.
    # Logarithms of probability, up to a constant: a 18 - 12, b 17.8 - 11.84, c 17.6 - 8, e 16.6 - 16.
    assert order(finder) == "cabedf"
    assert [passage[-1] for _, passage in student.pairs] == list("abce")
    assert {question for question, _ in student.pairs} == {"Why?"}
    row = candidates(finder, ())
    assert [item.likelihood for item in row] == [-20.0, -30.0, -29.6, -40.0, None, None]
    assert [item.reranker for item in row] == [0.88, 0.9, 0.89, 0.83, 0.7, 0.1]


def test_no_more_are_read_than_five_and_one_alone_is_not_read():
    student = Asked(dict(zip("abcde", (-3.0, -1.0, -4.0, -5.0, -2.0), strict=True)))
    assert order(looking(student, [0.5] * 6)) == "beacdf"
    assert [passage[-1] for _, passage in student.pairs] == list("abcde")
    student = Asked({})
    assert order(looking(student, SCORES, temperature=1e-4)) == "abcedf"
    assert not student.pairs


def test_nobody_is_asked_without_a_student():
    assert order(looking(None, SCORES)) == "abcedf"


@pytest.fixture(scope="module")
def looked(tmp_path_factory, decoder_folder, encoder_folder) -> Path:
    """The recipe of a run with a second look."""
    from tests.conftest import make_project

    folder = make_project(tmp_path_factory.mktemp("looked") / "p", decoder_folder, encoder_folder)
    settings = (
        "reranker.likelihood_weight=1",
        "evaluation.methods=[distill, kard_bm25, kard_reranker]",
    )
    recipe = load_recipe(str(folder), list(settings))
    run_recipe(recipe, recipe.output)
    return folder.parent / "run"


def test_a_run_says_how_the_second_look_ranks(looked):
    rows = json.loads((looked / "results.json").read_text(encoding="utf-8"))["retrieval"]
    assert [row["name"] for row in rows if row["against"] == "gold"] == [
        "bm25", "reranker_untrained", "reranker", "reranker_likelihood",
    ]  # fmt: skip
    [last] = [row for row in rows if row["name"] == "reranker_likelihood" and row["against"] == "gold"]
    assert [gain["over"] for gain in last["gains"]] == ["bm25", "reranker"]
    gold = {row["id"]: row["gold_passages"] for row in read(looked / "questions" / "test.jsonl")}
    answered = read(looked / "predictions" / "rationales_silver" / "kard_reranker.jsonl")
    first = [row["passages"][0]["id"] in gold[row["question"]] for row in answered]
    assert last["hits"]["1"] == pytest.approx(sum(first) / len(first))
    assert any(row["passages"][0]["likelihood"] is not None for row in answered)
    page = (looked / "report" / "index.html").read_text(encoding="utf-8")
    assert retriever("reranker_likelihood") in page
    assert "no order can find more. “Second look”: the student orders" in page
    assert "“With priors”" not in page


def test_a_second_look_at_many_questions_shows_how_far_it_is(looked, tmp_path, monkeypatch, capsys):
    again = shutil.copytree(looked, tmp_path / "run")
    before = read(again / "predictions/rationales_silver/kard_reranker.jsonl")
    shutil.rmtree(again / "predictions/rationales_silver")
    monkeypatch.setattr(predictions, "_FOUND_AT_ONCE", 3)
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    run_recipe(Run.open(again).recipe, again)
    assert f"  find passages for kard_reranker: 3/{len(before)} questions, ETA" in capsys.readouterr().err
    after = read(again / "predictions/rationales_silver/kard_reranker.jsonl")
    assert [(row["question"], row["passages"][0]["id"], row["text"]) for row in after] == [
        (row["question"], row["passages"][0]["id"], row["text"]) for row in before
    ]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_who_is_asked_later_sees_what_was_evaluated(looked):
    kard = Kard.load(looked)
    questions = {row["id"]: row for row in read(looked / "questions" / "test.jsonl")}
    for row in read(looked / "predictions" / "rationales_silver" / "kard_reranker.jsonl"):
        question = questions[row["question"]]
        answer = kard.answer(question["question"], question["choices"])
        assert [item.passage.id for item in answer.passages] == [passage["id"] for passage in row["passages"]]


def test_only_the_student_that_has_a_second_look_learns_questions(looked):
    recipe = load_recipe(str(looked.parent / "recipe.yaml"), ["reranker.likelihood_weight=1"])
    without = load_recipe(str(looked.parent / "recipe.yaml"))
    tokenizer = base_tokenizer(str(looked / "students" / "base"))
    for trained_on, learns in (("rationales_silver", True), ("rationales", False), ("answers", False)):
        assert {one.question for one in training_examples(Run(looked, recipe), trained_on, tokenizer)} == {learns}
        assert {one.question for one in training_examples(Run(looked, without), trained_on, tokenizer)} == {False}
    keys, other = ({step.name: step.hash for step in plan(one, looked)} for one in (recipe, without))
    changed = {name for name in keys if keys[name] != other[name]}
    assert changed == {"students/rationales_silver", "predictions/rationales_silver"}


@pytest.mark.parametrize(("taught", "least", "most"), [(True, 6, 8), (False, 0, 4)])
def test_a_student_taught_by_questions_tells_the_passage_that_was_asked_about(
    taught, least, most, decoder_folder, tmp_path
):
    pairs = [(f"Which colour has the {thing}?", f"The {thing} is of the north.") for thing in THINGS[:8]]
    examples = [
        Example(render(question, ("red", "blue"), [passage], "rationale"), target("So.", "red", "rationale"), taught)
        for question, passage in pairs
    ]
    base = str(decoder_folder)
    section = StudentSection(model=base, method="full", dtype="fp32", epochs=60, batch_size=4, lr=4e-3)
    train_student(examples, base, base, section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    first = 0
    for number, (question, _) in enumerate(pairs):
        found = student.question_likelihoods([(question, passage) for _, passage in pairs])
        first += found.index(max(found)) == number
    assert least <= first <= most


def test_a_t5_and_vllm_are_refused_before_anything_is_trained(project, t5_folder):
    recipe = load_recipe(str(project), ["reranker.likelihood_weight=0.4", f"student.model={t5_folder}"])
    with pytest.raises(UserError, match=r"reranker.likelihood_weight: .* encoder-decoder.*null"):
        check_models(recipe, {"students"})
    with pytest.raises(UserError, match=r"likelihood_weight: vLLM"):
        load_recipe(str(project), ["reranker.likelihood_weight=0.4", "evaluation.engine=vllm"])
