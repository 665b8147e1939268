"""Prompted methods and the oracle that is told the rationale: one prompt function, examples from training questions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kard.errors import UserError
from kard.kard import Kard
from kard.methods import METHODS as TABLE
from kard.pipeline import run_recipe
from kard.prompt import examples_in
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.students import training_examples, worked_examples
from kard.student.generation import Writing
from tests.conftest import make_project, write_rows

METHODS = ["few_shot", "few_shot_cot", "ka_few_shot", "ka_few_shot_cot", "distill", "teacher_cot"]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory, decoder_folder, encoder_folder) -> Recipe:
    """A finished run of the methods that are prompted, with a model that reads little, and of the rationale oracle."""
    path = make_project(tmp_path_factory.mktemp("prompted") / "p", decoder_folder, encoder_folder)
    recipe = load_recipe(str(path), [f"evaluation.methods={json.dumps(METHODS)}", "evaluation.shots=3"])
    assert recipe.output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kard.stages.students.PROMPT_TOKENS", 220)
        run_recipe(recipe, recipe.output)
    return recipe


def rows(run: Path, path: str) -> list[dict]:
    return [json.loads(line) for line in (run / path).open(encoding="utf-8")]


def predictions(run: Path, method: str) -> list[dict]:
    [path] = run.glob(f"predictions/*/{method}.jsonl")
    return rows(run, str(path.relative_to(run)))


def test_every_method_has_a_result(prompted):
    results = json.loads((prompted.output / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["methods"]] == METHODS
    assert results["skipped_methods"] == []
    assert [row["train_seconds"] > 0 for row in results["methods"]] == [False, False, False, False, True, True]


def test_examples_are_training_questions_in_the_prompts_own_form(prompted):
    train = {row["question"]: row for row in rows(prompted.output, "questions/train.jsonl")}
    examples = worked_examples(Run(prompted.output, prompted))
    assert len(examples) == 3
    for example in examples:
        row = train[example.question]
        assert example.rationale in row["rationales"]
        assert example.answer == row["choices"][row["answer"]]
        assert len(example.passages) == 1
    for method, writes, with_passages in (
        ("few_shot", "answer", False),
        ("few_shot_cot", "rationale", False),
        ("ka_few_shot", "answer", True),
        ("ka_few_shot_cot", "rationale", True),
    ):
        shown = [example.shown(with_passages, writes, "text") for example in examples]
        for row in predictions(prompted.output, method):
            parts = row["prompt"].split("\n\n")
            assert parts[:-1] == shown[: len(parts) - 1]
            assert len(row["passages"]) == with_passages
            assert (
                (f"Passage: {row['passages'][0]['title']}" in parts[-1])
                if with_passages
                else "Passage" not in parts[-1]
            )


def test_examples_that_do_not_fit_are_left_out_and_counted(prompted):
    results = json.loads((prompted.output / "results.json").read_text(encoding="utf-8"))
    shots = {row["name"]: row["shots"] for row in results["methods"]}
    assert shots["few_shot"] == 3
    assert shots["distill"] == shots["teacher_cot"] == 0
    tokenizer = Kard.load(prompted.output, "ka_few_shot_cot").student.tokenizer
    for method in METHODS[:4]:
        written = predictions(prompted.output, method)
        assert sum(examples_in(row["prompt"]) for row in written) / len(written) == shots[method]
        assert all(len(tokenizer(row["prompt"]).input_ids) <= 220 for row in written)
    assert 0 < shots["ka_few_shot_cot"] < 3
    without = {row["name"]: row["without_shots"] for row in results["methods"]}
    assert without["few_shot"] == without["distill"] == 0


def test_no_example_where_some_were_asked_for_is_said_aloud(prompted, capsys, monkeypatch):
    """A prompted student's limit is its own: student.max_input_tokens, for trained ones, is twice as long."""
    path = prompted.output.parent / "recipe.yaml"
    output = prompted.output.parent / "none fits"
    settings = ["evaluation.methods=[few_shot]", "evaluation.shots=3"]
    monkeypatch.setattr("kard.stages.students.PROMPT_TOKENS", 70)
    run_recipe(load_recipe(str(path), [*settings, "student.max_input_tokens=512"]), output)
    said = capsys.readouterr()
    assert re.search(r"few_shot: 0\.\d of 3 worked examples fit .* into \d+ of 12 none\. Lower", said.out + said.err)
    [row] = json.loads((output / "results.json").read_text(encoding="utf-8"))["methods"]
    assert row["without_shots"] > 0
    assert f"none for {row['without_shots']} of 12 questions" in (output / "report" / "index.html").read_text(
        encoding="utf-8"
    )


def test_long_questions_are_cut_counted_and_shown(tmp_path, decoder_folder, encoder_folder, capsys):
    path = make_project(tmp_path / "long", decoder_folder, encoder_folder)
    questions = path.parent / "questions.jsonl"
    rows = [json.loads(line) for line in questions.open(encoding="utf-8")]
    for row in rows[::2]:
        row["question"] = "Once upon a time. " * 40 + row["question"]
    write_rows(questions, rows)
    wanted = ["evaluation.methods=[kard_bm25]", "student.max_input_tokens=120"]
    with pytest.raises(UserError, match=r"questions, id 'q\d+': .*longer than student\.max_input_tokens \(120\)"):
        run_recipe(
            load_recipe(str(path), [*wanted, "student.long_questions=stop"]), tmp_path / "stop", until="questions"
        )
    recipe = load_recipe(str(path), wanted)
    run_recipe(recipe, tmp_path / "cut")
    said = capsys.readouterr()
    assert "questions to learn from do not fit into student.max_input_tokens: cut at the front" in said.out + said.err
    [row] = json.loads((tmp_path / "cut" / "results.json").read_text(encoding="utf-8"))["methods"]
    [file] = (tmp_path / "cut").glob("predictions/*/kard_bm25.jsonl")
    written = [json.loads(line) for line in file.open(encoding="utf-8")]
    assert 0 < row["questions_cut"] == sum(one["question_cut"] for one in written) < 12
    kard = Kard.load(tmp_path / "cut")
    asked = "Once upon a time. " * 40 + "Which colour has the stone of the north?"
    answer = kard.answer(asked, ["red", "blue"])
    assert answer.question_cut
    assert "Which colour has the stone of the north?\nChoices:\n- red\n- blue" in answer.prompt
    assert len(kard.student.tokenizer(answer.prompt).input_ids) <= 120
    assert not kard.answer("Which colour \udce9 <eos>?", ["<eos>", "<pad>"]).question_cut


def test_the_untrained_student_is_the_trimmed_base(prompted):
    import torch

    from kard.student.loading import base_model

    base = base_model(str(prompted.output / "students" / "base"), torch.float32).state_dict()
    student = Kard.load(prompted.output, "few_shot").student.model.state_dict()
    assert all(torch.equal(base[name], weights) for name, weights in student.items())


def test_answering_reads_the_prompt_that_was_measured(prompted):
    questions = {row["id"]: row for row in rows(prompted.output, "questions/test.jsonl")}
    for method in METHODS[:4]:
        row = predictions(prompted.output, method)[0]
        question = questions[row["question"]]
        answer = Kard.load(prompted.output, method).answer(question["question"], question["choices"])
        assert (answer.prompt, answer.text) == (row["prompt"], row["text"])


def test_methods_of_one_student_are_asked_together(prompted):
    from kard.data.question import Question
    from kard.methods import METHODS as TABLE

    kard = Kard.load(prompted.output, "ka_few_shot_cot")
    assert set(kard.methods()) == set(METHODS[:4])
    question = Question("q", "Which colour has the ship of the north?", ("red", "blue"))
    answers = kard.answer_each([(question, TABLE[name]) for name in METHODS[:4]])
    assert [bool(answer.passages) for answer in answers] == [False, False, True, True]
    assert answers[0].text in ("red", "blue")
    assert "Answer: " in answers[1].text


def test_the_teachers_rationale_stands_where_the_student_writes_its_own(prompted):
    rationales: dict[str, str] = {}
    for row in rows(prompted.output, "rationales/rationales.jsonl"):
        if row["status"] == "kept":
            rationales.setdefault(row["question"], row["text"])
    told, own = predictions(prompted.output, "teacher_cot"), predictions(prompted.output, "distill")
    for row, distilled in zip(told, own, strict=True):
        assert row["prompt"] == f"{distilled['prompt']} {rationales[row['question']]}\nAnswer:"
        assert row["rationale"] == rationales[row["question"]]
        assert row["answer"] == row["text"]
        assert 0 < row["confidence"] <= 1


def test_too_few_examples_are_an_error(prompted):
    wanted = load_recipe(str(prompted.output.parent / "recipe.yaml"), ["evaluation.shots=40"])
    with pytest.raises(UserError, match=r"evaluation\.shots: 40 asked for, and 32 training questions"):
        worked_examples(Run(prompted.output, wanted))


def test_the_number_of_examples_remakes_prompted_students_alone(prompted):
    from kard.pipeline import states

    settings = [f"evaluation.methods={json.dumps(METHODS)}", "evaluation.shots=2"]
    changed = load_recipe(str(prompted.output.parent / "recipe.yaml"), settings)
    todo = {row.name for row in states(changed, prompted.output) if row.state != "done"}
    assert todo == {"students/nothing", "predictions/nothing", "report"}


def test_an_export_of_a_prompted_student_shows_the_same_examples(prompted, tmp_path):
    from kard.tools.export import check_export, export_run

    assert export_run(prompted.output, tmp_path / "export", "few_shot_cot") > 0
    check_export(tmp_path / "export")
    assert Kard.load(tmp_path / "export").student.settings.examples == worked_examples(Run(prompted.output, prompted))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory, decoder_folder, encoder_folder) -> Recipe:
    """A finished run of the methods that answer from the reranker's passages without a rationale."""
    path = make_project(tmp_path_factory.mktemp("at once") / "p", decoder_folder, encoder_folder)
    recipe = load_recipe(str(path), ["evaluation.methods=[ka_finetune_reranker, kard_plus]"])
    assert recipe.output
    run_recipe(recipe, recipe.output)
    return recipe


def test_who_answers_at_once_learns_from_silver_passages(at_once):
    run = Run(at_once.output, at_once)
    silver = {row.question: row.silver[0] for row in run.candidates()}
    texts = run.passages().texts
    answers = {question.answer_text for question in run.questions("train")}
    examples = list(training_examples(run, "answers_silver", run.student("answers_silver").tokenizer))
    assert examples
    for one in examples:
        assert one.target.strip() in answers
        assert any(one.prompt.startswith(f"Passage: {texts[place]}\n") for place in silver.values())


@pytest.mark.parametrize("method", ["ka_finetune_reranker", "kard_plus"])
def test_who_answers_at_once_writes_a_choice_and_no_rationale(at_once, method):
    questions = Run(at_once.output, at_once).questions("test")
    measured = {row["question"]: row for row in predictions(at_once.output, method)}
    for question, answer in zip(questions, Kard.load(at_once.output, method).answer_many(questions), strict=True):
        row = measured[question.id]
        assert (answer.answer, answer.rationale, answer.prompt) == (row["answer"], "", row["prompt"])
        assert answer.answer in question.choices
        assert [found.passage.id for found in answer.passages] == [passage["id"] for passage in row["passages"]]
        assert answer.confidence == pytest.approx(row["confidence"], rel=1e-3)


def test_ranked_choices_are_those_of_student_and_reranker_together(at_once):
    """Against both parts, each asked by itself: log p(choice) a token by the student, 2 times the best candidates' scores."""
    run = Run(at_once.output, at_once)
    kard, reranker = Kard.load(at_once.output, "kard_plus"), run.reranker()
    k, places = at_once.evaluation.passages, {one.id: place for place, one in enumerate(run.passages())}
    differs = 0
    for question, row in zip(run.questions("test"), predictions(at_once.output, "kard_plus"), strict=True):
        answer = kard.answer(question.question, question.choices)
        found = [places[one.passage.id] for one in answer.candidates]
        [alone] = kard.student.write(
            {row["prompt"]: question.choices}, Writing("answer", 1, ranks_choices=True)
        ).values()
        by_choice = [
            np.sort(reranker.score([[f"{question.question} {choice}"]], [found])[0])[-k:].mean() / reranker.temperature
            for choice in question.choices
        ]
        scores = np.array(alone.likelihoods) + 2 * np.array(by_choice)
        assert row["answer"] == answer.answer == question.choices[scores.argmax()]
        share = np.exp(scores - scores.max())
        assert row["confidence"] == pytest.approx(1 / share.sum(), rel=1e-2)
        differs += int(scores.argmax() != np.argmax(alone.likelihoods))
    assert differs


def test_ranked_and_written_answers_to_a_prompt_are_not_taken_for_each_other(at_once):
    plain, ranked = (predictions(at_once.output, name) for name in ("ka_finetune_reranker", "kard_plus"))
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in ranked]
    log = predictions(at_once.output, "written")
    assert {(row["prompt"], bool(row["likelihoods"])) for row in log} == {
        (row["prompt"], row is two) for one, two in zip(plain, ranked, strict=True) for row in (one, two)
    }


def test_without_a_query_for_each_choice_the_student_alone_ranks(at_once):
    kard = Kard.load(at_once.output, "kard_plus")
    recipe = kard.recipe.model_copy(update={"reranker": kard.recipe.reranker.model_copy(update={"choices": "none"})})
    alone = replace(kard, finder=replace(kard.finder, recipe=recipe))
    for question in Run(at_once.output, at_once).questions("test"):
        answer = alone.answer(question.question, question.choices)
        [own] = kard.student.write({answer.prompt: question.choices}, Writing("answer", 1, ranks_choices=True)).values()
        assert answer.choice == np.argmax(own.likelihoods)
        assert (
            alone.answer(question.question).text
            == replace(alone, method=TABLE["ka_finetune_reranker"]).answer(question.question).text
        )
