"""The whole chain with `evaluation.abstain`: dev questions calibrate, and what is not sure enough is withheld everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from kard import Kard, Run, UserError
from kard.artifacts.files import read_jsonl
from kard.kard import answerer
from kard.pipeline import run_recipe, states
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from tests.conftest import make_project, write_rows

METHODS = "[distill, kard_bm25, kard_reranker, kard_silver]"
SETTINGS = (
    f"evaluation.methods={METHODS}",
    "questions.dev_size=16",
    "student.epochs=6",
    "student.max_output_tokens=40",
    "reranker.likelihood_weight=0.4",
    "evaluation.knowledge={other: {kind: jsonl, path: other.jsonl}}",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, decoder_folder, encoder_folder) -> Recipe:
    """A finished run in which answers may be withheld; do not change it."""
    path = make_project(tmp_path_factory.mktemp("abstain") / "p", decoder_folder, encoder_folder)
    write_rows(path.parent / "other.jsonl", [{"id": name, "text": f"Nothing of the kind, {name}."} for name in "abc"])
    loaded = load_recipe(str(path), [*SETTINGS, "evaluation.abstain.risk=0.9"])
    run_recipe(loaded, loaded.output)
    return loaded


def with_risk(run: Path, folder: Path, risk: float) -> Path:
    """A copy of the run whose recipe asks for another risk."""
    shutil.copytree(run, folder)
    written = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    written["evaluation"]["abstain"]["risk"] = risk
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder


def test_results_say_what_confidence_is_worth(recipe):
    results = json.loads((recipe.output / "results.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in results["confidence"]}
    assert set(rows) == {"distill", "kard_bm25", "kard_reranker"}  # an oracle answers no new question
    run = Run.open(recipe.output)
    for name, row in rows.items():
        predicted = run.predictions(name)
        assert (row["n"], row["right"]) == (12, sum(one["correct"] for one in predicted))
        sure = np.array([one["calibrated_confidence"] for one in predicted])
        given = sure >= row["abstain"]["threshold"]
        assert row["abstain"]["given"] == given.sum()
        assert row["abstain"]["wrong"] == sum(g and not one["correct"] for g, one in zip(given, predicted, strict=True))
        assert row["abstain"]["dev"]["n"] == 16
        assert row["abstain"]["dev"]["bound"] <= 0.9
    assert set(run.predictions("kard_reranker")[0]["signals"]) == {"student", "score", "lead", "information"}
    assert set(run.predictions("distill")[0]["signals"]) == {"student"}


def test_dev_questions_are_asked_without_their_documents_as_well(recipe):
    run = Run.open(recipe.output)
    questions = {question.id: question for question in run.questions("dev")}
    folder = recipe.output / "predictions" / "rationales_silver"
    for name in ("kard_bm25", "kard_reranker"):
        rows, on_dev = (list(read_jsonl(folder / f"{name}.{part}.jsonl")) for part in ("absent", "dev"))
        assert [row["question"] for row in rows] == [row["question"] for row in on_dev]
        gold = {q.id: {passage.partition("#")[0] for passage in q.gold_passages} for q in questions.values()}
        read = {row["question"]: {one["id"].partition("#")[0] for one in row["passages"]} for row in rows}
        assert all(read.values())
        assert all(read[name].isdisjoint(gold[name]) for name in read)
        signals = set(run.predictions(name)[0]["signals"])
        assert all(set(row["signals"]) == signals for row in rows)
        before = {row["question"]: row["signals"]["score"] for row in on_dev}
        assert all(row["signals"]["score"] <= before[row["question"]] for row in rows if name == "kard_bm25")
    assert not (recipe.output / "predictions" / "rationales" / "distill.absent.jsonl").exists()
    assert not list(folder.glob("kard_silver.*.jsonl"))


def test_it_is_counted_over_other_documents_by_the_runs_own_calibration(recipe):
    results = json.loads((recipe.output / "results.json").read_text(encoding="utf-8"))
    own, other = ({row["name"]: row for row in base["methods"]} for base in results["knowledge_bases"])
    for row in results["confidence"]:
        if row["method"] in own:
            assert {key: own[row["method"]][key] for key in ("given", "wrong")} == {
                key: row["abstain"][key] for key in ("given", "wrong")
            }
    folder = recipe.output / "predictions" / "rationales_silver_over_other"
    assert not list(folder.glob("*.dev.jsonl"))
    rows = [json.loads(line) for line in (folder / "kard_reranker.jsonl").open(encoding="utf-8")]
    calibration = Kard.load(recipe.output).calibrations["kard_reranker"]
    sure = [calibration.confidence(row["signals"]) for row in rows]
    assert [row["calibrated_confidence"] for row in rows] == pytest.approx(sure)
    assert other["kard_reranker"]["given"] == sum(one >= calibration.threshold.confidence for one in sure)


def test_page_and_card_show_it(recipe):
    page = (recipe.output / "report" / "index.html").read_text(encoding="utf-8")
    assert "Wrong of these" in page
    assert "How sure an answer is, and when none is given" in page
    assert "at most\n    90.0\u00a0% of the given answers" in page
    card = (recipe.output / "report" / "model_card.md").read_text(encoding="utf-8")
    assert "is calibrated on dev questions" in card
    assert "the answer was withheld as too unsure" in card


def test_answers_have_the_confidence_that_was_measured(recipe):
    run = Run.open(recipe.output)
    questions = {question.id: question for question in run.questions("test")}
    for name in ("kard_reranker", "distill"):
        kard = Kard.load(recipe.output, name)
        rows = run.predictions(name)
        answers = kard.answer_many([questions[row["question"]] for row in rows])
        for answer, row in zip(answers, rows, strict=True):
            assert answer.confidence == pytest.approx(row["calibrated_confidence"], rel=1e-3)
            assert answer.abstained == (row["calibrated_confidence"] < kard.calibrations[name].threshold.confidence)
            assert answer.answer == (None if answer.abstained else row["answer"])


def test_a_risk_that_nothing_keeps_withholds_every_answer_and_shows_its_passages(recipe, tmp_path):
    strict = with_risk(recipe.output, tmp_path / "strict", 0.01)
    answer = Kard.load(strict).answer("Which colour has the ship of the north?", ["red", "blue"])
    assert answer.abstained
    assert (answer.answer, answer.choice) == (None, None)
    assert len(answer.passages) == 1
    assert "Answer: " in answer.text
    assert answerer(strict, None) != answerer(recipe.output, None)
    assert Kard.load(with_risk(recipe.output, tmp_path / "any", 1.0)).answer("Which?", ["red", "blue"]).answer


def test_what_reads_nothing_is_not_calibrated(recipe):
    kard = Kard.load(recipe.output)
    question = Run.open(recipe.output).questions("test")[0]
    [answer] = kard.answer_each([(question, kard.methods()["no_passages"])])
    assert answer.threshold is None
    assert not answer.abstained


def test_an_export_withholds_the_same(recipe, tmp_path):
    from kard.tools.export import export_run

    strict = with_risk(recipe.output, tmp_path / "strict", 0.01)
    export_run(strict, tmp_path / "export")
    assert answerer(tmp_path / "export", None) == answerer(strict, None)
    assert {path.name for path in (tmp_path / "export" / "predictions" / "rationales_silver").iterdir()} == {
        "calibration.json",
        "manifest.json",
    }
    answers = [
        Kard.load(path).answer("Which colour has the ship of the north?", ["red", "blue"])
        for path in (strict, tmp_path / "export")
    ]
    assert [answer.abstained for answer in answers] == [True, True]
    assert answers[0].confidence == pytest.approx(answers[1].confidence, rel=1e-3)


def test_another_risk_makes_the_report_alone_again_and_none_asks_for_the_predictions(recipe):
    def to_do(*settings: str) -> set[str]:
        path = recipe.output.parent / "recipe.yaml"
        loaded = load_recipe(str(path), [*SETTINGS, *settings])
        return {row.name for row in states(loaded, recipe.output) if row.state != "done"}

    assert to_do("evaluation.abstain.risk=0.5") <= {"report"}
    assert to_do() == {
        "predictions/rationales",
        "predictions/rationales_silver",
        "predictions/rationales_silver_over_other",
        "report",
    }


def test_a_run_that_was_made_without_says_so(recipe, tmp_path):
    copy = with_risk(recipe.output, tmp_path / "copy", 0.5)
    (copy / "predictions" / "rationales_silver" / "calibration.json").unlink()
    manifest = copy / "predictions" / "rationales_silver" / "manifest.json"
    written = json.loads(manifest.read_text(encoding="utf-8"))
    del written["files"]["calibration.json"]
    manifest.write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(UserError, match=r"was made before evaluation\.abstain was asked for\. Run the recipe again"):
        Kard.load(copy)


def test_dev_must_be_there_and_not_be_what_is_measured(recipe, tmp_path):
    path = str(recipe.output.parent / "recipe.yaml")
    with pytest.raises(
        UserError, match=r"abstain learns from the dev questions, which split: dev measures\. Take split: test"
    ):
        load_recipe(path, ["evaluation.abstain.risk=0.5", "evaluation.split=dev"])
    with pytest.raises(UserError, match=r"risk: 0\.1 takes 29 dev questions at least, and there are 4\. Raise"):
        run_recipe(load_recipe(path, ["evaluation.abstain.risk=0.1"]), tmp_path / "few", until="questions")
    with pytest.raises(UserError, match=r"unknown key 'evaluation\.abstain\.rsk' \(did you mean 'risk'\?\)"):
        load_recipe(path, ["evaluation.abstain.rsk=0.1"])
