"""The whole chain with tiny models: what it leaves, what it skips, and that being killed changes no number."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from kard.errors import UserError
from kard.pipeline import run_recipe, states
from kard.recipe.file import load_recipe
from kard.stages.plan import STAGES, plan


def numbers(run: Path) -> dict:
    """results.json without what a clock says."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in results["methods"]:
        row.pop("train_seconds")
        row.pop("predict_seconds")
    for row in results["costs"]:
        row.pop("train_seconds")
        row.pop("answer_seconds")
    results.pop("stages")
    return results


@pytest.fixture(scope="module")
def finished(tmp_path_factory, decoder_folder, encoder_folder) -> Path:
    """A run that was never interrupted."""
    from tests.conftest import make_project

    recipe = make_project(tmp_path_factory.mktemp("finished") / "ein Ordner é", decoder_folder, encoder_folder)
    loaded = load_recipe(str(recipe))
    run_recipe(loaded, loaded.output)
    return recipe


def test_a_run_leaves_results_for_every_method(finished):
    run = finished.parent / "run"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["methods"]] == [
        "finetune", "ka_finetune", "distill", "kard_bm25", "kard_reranker", "kard_silver", "kard_gold",
    ]  # fmt: skip
    for row in results["methods"]:
        assert row["n"] == 12
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1]
        assert row["train_seconds"] > 0
    assert [(row["name"], row["against"]) for row in results["retrieval"]] == [
        ("bm25", "gold"), ("reranker_untrained", "gold"), ("reranker", "gold"),
        ("bm25", "silver"), ("reranker_untrained", "silver"), ("reranker", "silver"), ("other_rationale", "silver"),
        ("bm25", "silver_top_3"), ("reranker_untrained", "silver_top_3"), ("reranker", "silver_top_3"),
    ]  # fmt: skip
    assert {row["against"] for row in results["retrieval"]} == {"gold", "silver", "silver_top_3"}
    pairs = {(row["a"], row["b"]) for row in results["comparisons"]}
    assert ("kard_reranker", "distill") in pairs
    assert ("distill", "finetune") in pairs
    assert results["stages"][0]["name"] == "questions"
    assert (run / "report" / "index.html").stat().st_size > 10_000


def test_predictions_agree_with_results(finished):
    run = finished.parent / "run"
    for row in json.loads((run / "results.json").read_text(encoding="utf-8"))["methods"]:
        written = predictions(run, row["name"])
        assert sum(p["correct"] for p in written) / len(written) == row["accuracy"]
        assert sum(not p["parsed"] for p in written) == row["unparsed"]
        for prediction in written:
            assert len(prediction["passages"]) == (0 if row["name"] in ("finetune", "distill") else 1)
            for passage in prediction["passages"]:
                assert f"Passage: {passage['title']}. {passage['text']}\n" in prediction["prompt"]


def predictions(run: Path, method: str) -> list[dict]:
    [path] = run.glob(f"predictions/*/{method}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_questions_ranks_make_up_the_hits(finished):
    run = finished.parent / "run" / "reranker"
    rows = [json.loads(line) for line in (run / "rankings.jsonl").open(encoding="utf-8")]
    assert len(rows) == 12
    silver = {row["question"]: row["passages"][0]["id"] for row in predictions(run.parent, "kard_silver")}
    assert {row["question"]: row["silver"][0] for row in rows} == silver  # what the oracle reads
    *totals, agreement = json.loads((run / "retrieval.json").read_text(encoding="utf-8"))
    found = [json.loads(line) for line in (run.parent / "candidates" / "candidates.jsonl").open(encoding="utf-8")]
    by_question = {question: [row["silver"] for row in found if row["question"] == question] for question in silver}
    assert agreement["n"] == len(by_question) == 12
    for depth, share in agreement["hits"].items():
        assert share == sum(first[0] in other[: int(depth)] for first, other in by_question.values()) / 12
    for total in totals:
        ranks = [row["ranks"][total["against"]][total["name"]] for row in rows]
        assert sum(rank == 1 for rank in ranks) / 12 == pytest.approx(total["hits"]["1"])
        assert sum(rank is not None for rank in ranks) / 12 == pytest.approx(total["recall"])
        for row, rank in zip(rows, ranks, strict=True):
            first = row["first"][total["name"]]
            assert (rank == 1) == (first[0] in row[total["against"]])


def test_mistakes_are_where_the_rankings_say(finished):
    run = finished.parent / "run"
    rankings = {
        row["question"]: row for row in map(json.loads, (run / "reranker" / "rankings.jsonl").open(encoding="utf-8"))
    }
    mistakes = [json.loads(line) for line in (run / "report" / "mistakes.jsonl").open(encoding="utf-8")]
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    silver_wrong = {row["question"] for row in mistakes if row["method"] == "kard_silver"}
    for row in mistakes:
        ranks = rankings[row["question"]]["ranks"]["silver"]
        ranker = {"kard_reranker": "reranker", "kard_bm25": "bm25", "ka_finetune": "bm25"}.get(row["method"])
        if ranker is None:
            assert row["class"] == ("no_passages" if row["method"] in ("finetune", "distill") else "in_prompt")
        elif ranks[ranker] == 1:
            assert row["class"] == "in_prompt"
        elif row["method"] != "ka_finetune" and row["question"] in silver_wrong:
            assert row["class"] == "wrong_with_silver"
        else:
            assert row["class"] == ("not_in_candidates" if ranks["bm25"] is None else "not_in_top_k")
    assert len({row["class"] for row in mistakes}) > 1
    wrong = {row["name"]: round(row["n"] * (1 - row["accuracy"])) for row in results["methods"]}
    assert {row["method"]: row["mistakes"] for row in results["diagnosis"]} == wrong
    reading = ("kard_bm25", "kard_reranker", "kard_silver", "kard_gold")
    assert all(row["support"] is None for row in results["diagnosis"] if row["method"] not in reading)


def test_costs_are_those_of_the_prompts(finished):
    from kard.run import Run
    from kard.stages.students import training_examples
    from kard.student.loading import base_tokenizer

    recipe, run = load_recipe(str(finished)), finished.parent / "run"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    costs = {row["method"]: row for row in results["costs"]}
    tokenizer = base_tokenizer(str(run / "students" / "rationales_silver" / "tokenizer"))
    examples = list(training_examples(Run(run, recipe), "rationales_silver", tokenizer))
    texts = [len(tokenizer(one.prompt).input_ids) + len(tokenizer(one.target).input_ids) + 1 for one in examples]
    assert costs["kard_bm25"]["train_tokens"] == sum(texts)
    assert costs["kard_reranker"]["train_seconds"] > costs["kard_bm25"]["train_seconds"]
    read = [len(tokenizer(row["prompt"]).input_ids) for row in predictions(run, "kard_bm25")]
    assert costs["kard_bm25"]["read_tokens"] == pytest.approx(sum(read) / 12)
    assert costs["distill"]["read_tokens"] < costs["kard_bm25"]["read_tokens"]
    assert results["leaks"]["questions"] == 12


def test_silver_reads_the_rationales_passage(finished):
    run = finished.parent / "run"
    rows = [
        json.loads(line) for line in (run / "predictions/rationales_silver/kard_silver.jsonl").open(encoding="utf-8")
    ]
    gold = [row["passages"][0]["id"].replace("p", "q") == row["question"] for row in rows]
    assert sum(gold) >= 11


def test_second_run_does_nothing_and_gives_the_same(finished):
    recipe = load_recipe(str(finished))
    before = {
        path: path.stat().st_mtime_ns
        for path in recipe.output.rglob("*")
        if path.is_file() and path.name != "recipe.yaml"
    }
    results = run_recipe(recipe, recipe.output)
    after = {
        path: path.stat().st_mtime_ns
        for path in recipe.output.rglob("*")
        if path.is_file() and path.name != "recipe.yaml"
    }
    assert after == before
    assert results == json.loads((recipe.output / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        ("student.lr=0.001", {"students", "predictions", "report"}),
        ("reranker.lr=0.01", {"reranker", "predictions", "report"}),
        ("evaluation.passages=2", {"predictions", "report"}),
        ("retriever.k1=1.2", {"index", "candidates", "reranker", "students", "predictions", "report"}),
        ("teacher.max_words=150", {"rationales", "candidates", "reranker", "students", "predictions", "report"}),
        ("student.resources.gradient_checkpointing=true", set()),
        ("student.train_questions=9", {"students", "predictions", "report"}),
        ("student.answer_by=generate", {"predictions", "report"}),
        ("seed=1", set(STAGES) - {"knowledge", "index"}),
    ],
)
def test_a_change_reruns_only_what_depends_on_it(finished, change, remade):
    recipe = load_recipe(str(finished), [change])
    changed = {row.name.split("/")[0] for row in states(recipe, recipe.output) if row.state != "done"}
    assert changed == remade


def test_a_learning_rate_leaves_the_trimmed_base(finished):
    recipe = load_recipe(str(finished), ["student.lr=0.001"])
    done = {row.name for row in states(recipe, recipe.output) if row.state == "done"}
    assert "students/base" in done


def test_moving_the_project_changes_nothing(finished, tmp_path):
    """Keys hold contents, not places."""
    import shutil

    moved = tmp_path / "anderswo"
    shutil.copytree(finished.parent, moved)
    recipe = load_recipe(str(moved / "recipe.yaml"))
    assert all(row.state == "done" for row in states(recipe, recipe.output))


def test_changed_data_is_noticed(finished, tmp_path):
    import shutil

    moved = tmp_path / "copy"
    shutil.copytree(finished.parent, moved)
    path = moved / "passages.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("p0", "p00"), encoding="utf-8")
    recipe = load_recipe(str(moved / "recipe.yaml"))
    state = {row.name: row.state for row in states(recipe, recipe.output)}
    assert state["questions"] == "done"
    assert state["knowledge"] == state["index"] == "outdated"


@pytest.mark.parametrize(
    "changes",
    [
        ["reranker.interaction=paper"],
        ["reranker.kind=cross_encoder", "reranker.passage_tokens=32", "reranker.question_tokens=32"],
        ["reranker.vectors=int8"],
    ],
)
def test_every_kind_of_reranker_is_read_as_it_was_measured(project, changes):
    from kard.evaluation.ranking import Judged
    from kard.run import Run

    recipe = load_recipe(str(project), changes)
    run_recipe(recipe, recipe.output, until="reranker")
    run = Run(recipe.output, recipe)
    passages, judged = run.passages(), Judged.of(run, run.evaluated())
    ranked = judged.ranked(run.reranker())
    rows = [json.loads(line) for line in (recipe.output / "reranker" / "rankings.jsonl").open(encoding="utf-8")]
    assert [[passages[p].id for p in order[:10]] for order in ranked] == [row["first"]["reranker"] for row in rows]


def test_passage_vectors_that_are_gone_are_not_made_again_in_silence(project, capsys):
    from kard.run import Run

    recipe = load_recipe(str(project))
    run_recipe(recipe, recipe.output, until="reranker")
    Run(recipe.output, recipe).reranker()
    assert "no passage vectors" not in capsys.readouterr().err
    (recipe.output / "vectors").rename(recipe.output / "elsewhere")
    Run(recipe.output, recipe).reranker()
    assert "no passage vectors here (was reranker.model moved or changed?)" in capsys.readouterr().err


def test_what_only_later_stages_need_is_not_looked_at(project):
    """A recipe without models has questions, passages and candidates."""
    settings = ["reranker.model=''", "student.model=package:not-installed"]
    recipe = load_recipe(str(project), settings)
    assert run_recipe(recipe, recipe.output, until="candidates") is None
    assert {row.state for row in states(recipe, recipe.output, until="candidates")} == {"done"}
    with pytest.raises(UserError, match=r"reranker\.model: no model is named"):
        run_recipe(recipe, recipe.output, until="reranker")


def test_until_stops_after_the_stage(project):
    recipe = load_recipe(str(project))
    assert run_recipe(recipe, recipe.output, until="index") is None
    assert (recipe.output / "index" / "manifest.json").exists()
    assert not (recipe.output / "rationales").exists()


def test_unknown_stage_names_the_nearest(project):
    recipe = load_recipe(str(project))
    with pytest.raises(UserError, match="did you mean 'index'"):
        run_recipe(recipe, recipe.output, until="indx")


def test_every_step_has_its_own_key(project):
    recipe = load_recipe(str(project))
    hashes = [step.hash for step in plan(recipe, recipe.output)]
    assert len(set(hashes)) == len(hashes)


def test_killed_in_every_stage_the_numbers_are_the_same(finished, tmp_path, decoder_folder, encoder_folder):
    """One run, killed with SIGKILL once in the middle of each stage and begun again each time."""
    from tests import forks
    from tests.conftest import make_project
    from tests.kills import KILLS, run_and_die

    recipe = make_project(tmp_path / "ein Ordner é", decoder_folder, encoder_folder)
    for stage in [*KILLS, None]:
        assert forks.run(run_and_die, str(recipe), stage) == [-signal.SIGKILL if stage else 0], stage
    assert numbers(recipe.parent / "run") == numbers(finished.parent / "run")
    assert {stage.split("/")[0] for stage in KILLS} == set(STAGES)
