"""The parts of kard_plus alone, and together as the method has them."""

from __future__ import annotations

import json

import pytest

from experiments.choices import main
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.run import Run
from tests.conftest import make_project


@pytest.fixture(scope="module")
def run(tmp_path_factory, decoder_folder, encoder_folder):
    path = make_project(tmp_path_factory.mktemp("choices") / "p", decoder_folder, encoder_folder)
    recipe = load_recipe(str(path), ["evaluation.methods=[kard_plus]"])
    run_recipe(recipe, recipe.output)
    return recipe.output


def test_together_they_are_right_as_often_as_the_method(run, capsys):
    main([str(run), "--split", "test"])
    found = json.loads(capsys.readouterr().out)
    lines = (run / "predictions" / "answers_silver" / "kard_plus.jsonl").read_text(encoding="utf-8").splitlines()
    correct = [json.loads(line)["correct"] for line in lines]
    assert (found["n"], found["together"]["2"]) == (len(correct), sum(correct) / len(correct))
    assert found["student"] != found["reranker"]


def test_without_questions_it_says_so(run, capsys):
    path = run / "questions" / "dev.jsonl"
    assert len(Run.open(run).questions("dev")) == 4
    path.write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="no dev question has choices"):
        main([str(run)])
