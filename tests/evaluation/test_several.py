"""Several runs: seeds together, settings beside each other, and no test where it would not be fair."""

from __future__ import annotations

import json

import pytest

from kard.artifacts.folders import RUN_FORMAT
from kard.errors import UserError
from kard.evaluation.several import group_by_recipe, read_outcome, side_by_side, summarise
from kard.evaluation.statistics import mcnemar, seeds_difference
from kard.methods import METHODS
from kard.recipe.file import dump_recipe
from kard.recipe.recipe import Recipe

N = 40


def write_run(folder, right, first=0, hits=0.5, **changes):
    """A finished run in which a method is right where it is said to be; questions are numbered from `first`."""
    recipe = {"questions": {"kind": "wikivital"}, "knowledge": {"kind": "wikivital"}, **changes}
    recipe["evaluation"] = {"methods": list(right)}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": RUN_FORMAT}), encoding="utf-8")
    (folder / "recipe.yaml").write_text(dump_recipe(Recipe.model_validate(recipe)), encoding="utf-8")
    methods = []
    for name, answers in right.items():
        path = folder / "predictions" / METHODS[name].trained_on / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"q{first + n}", "correct": bool(answer)} for n, answer in enumerate(answers)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        share = sum(answers) / len(answers)
        methods.append({"name": name, "n": len(answers), "accuracy": share, "unparsed": 2, "cut": 1})
    results = {"recipe": "r", "dataset": "d", "split": "test", "methods": methods, "knowledge": {"passages": 9}}
    results["environment"] = {"torch": "2", "dtype": "float32", "batch_size": {"train": 8}}
    results["retrieval"] = [{"name": "bm25", "against": "gold", "n": N, "hits": {"1": hits}}]
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def pattern(share, turn=0):
    """Right answers spread over the questions."""
    return [(7 * n + turn) % N < share * N for n in range(N)]


def test_seeds_give_mean_spread_and_one_test(tmp_path):
    runs = [
        write_run(tmp_path / f"s{seed}", {"distill": pattern(0.3, seed), "kard_bm25": pattern(share, seed)}, seed=seed)
        for seed, share in enumerate((0.7, 0.8, 0.9))
    ]
    outcomes = [read_outcome(run) for run in runs]
    row = summarise(outcomes)
    distill, bm25 = row["methods"]
    assert bm25["by_seed"] == pytest.approx([0.7, 0.8, 0.9])
    assert (bm25["accuracy"], bm25["sd"]) == pytest.approx((0.8, 0.1))
    assert distill["sd"] == pytest.approx(0)
    assert (bm25["unparsed"], bm25["answers"]) == (6, 3 * N)
    [pair] = row["comparisons"]
    a, b = ([outcome.right[name] for outcome in outcomes] for name in ("distill", "kard_bm25"))
    assert (pair["a"], pair["b"]) == ("distill", "kard_bm25")
    assert pair["difference"] == pytest.approx(-0.5)
    assert pair["p_value"] == seeds_difference(a, b)[2]
    assert (pair["ahead"], pair["seeds"]) == (0, 3)
    assert row["retrieval"][0] | {"sd": 0} == {
        "name": "retriever", "against": "gold", "n": N, "hits": {"1": 0.5}, "sd": 0,
    }  # fmt: skip


def test_one_run_has_no_spread(tmp_path):
    row = summarise([read_outcome(write_run(tmp_path / "a", {"distill": pattern(0.5)}))])
    assert row["methods"][0]["sd"] is None
    assert row["methods"][0]["ci95"][0] < 0.5 < row["methods"][0]["ci95"][1]


def test_settings_stand_beside_each_other_and_are_tested_against_the_first(tmp_path):
    one, two = pattern(0.4), pattern(0.9)
    a = write_run(tmp_path / "a", {"distill": one})
    b = write_run(tmp_path / "b", {"distill": two}, student={"lr": 0.5, "epochs": 2})
    both = side_by_side([a, b])
    assert [setting["values"] for setting in both["settings"]] == [
        {"student.epochs": 1.0, "student.lr": 5e-4},
        {"student.epochs": 2.0, "student.lr": 0.5},
    ]
    [change] = both["changes"]
    assert (change["setting"], change["method"]) == (1, "distill")
    assert change["difference"] == pytest.approx(0.5)
    assert change["p_value"] == pytest.approx(mcnemar(two, one))
    assert both["notes"] == []


def test_changes_are_corrected_for_their_number(tmp_path):
    base, other = pattern(0.5), pattern(0.75)
    runs = [write_run(tmp_path / "a", {"distill": base})]
    runs += [write_run(tmp_path / f"b{n}", {"distill": other}, student={"epochs": 2 + n}) for n in range(3)]
    changes = side_by_side(runs)["changes"]
    assert [row["p_value"] for row in changes] == pytest.approx([min(1, 3 * mcnemar(other, base))] * 3)


def test_seeds_of_one_recipe_are_one_setting(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", {"distill": pattern(0.5, seed)}, seed=seed) for seed in (0, 1)]
    other = write_run(tmp_path / "lr", {"distill": pattern(0.5)}, student={"lr": 1.0})
    groups = group_by_recipe([read_outcome(run) for run in [runs[0], other, runs[1]]])
    assert [[outcome.folder.name for outcome in group] for group in groups] == [["s0", "s1"], ["lr"]]


def test_the_same_seed_twice_makes_no_spread(tmp_path):
    run = write_run(tmp_path / "a", {"distill": pattern(0.5)})
    assert [len(setting["seeds"]) for setting in side_by_side([run, run])["settings"]] == [1, 1]


def test_other_test_questions_are_not_compared_and_it_is_said(tmp_path):
    a = write_run(tmp_path / "a", {"distill": pattern(0.4)})
    b = write_run(tmp_path / "b", {"distill": pattern(0.9)}, first=7, student={"lr": 0.5})
    both = side_by_side([a, b])
    assert both["changes"] == []
    assert both["notes"] == ["b and a: other test questions, so no test between them."]


def test_seeds_with_other_questions_have_a_spread_and_no_test(tmp_path):
    rows = {"distill": pattern(0.4), "kard_bm25": pattern(0.9)}
    both = side_by_side([write_run(tmp_path / f"s{seed}", rows, first=seed, seed=seed) for seed in (0, 1)])
    [setting] = both["settings"]
    assert setting["methods"][0]["sd"] == 0
    assert setting["methods"][0]["ci95"] is None
    assert setting["comparisons"] == []
    assert "Set data_seed" in both["notes"][0]


def test_settings_without_a_common_seed_are_not_compared(tmp_path):
    a = write_run(tmp_path / "a", {"distill": pattern(0.4)})
    b = write_run(tmp_path / "b", {"distill": pattern(0.9)}, seed=1, student={"lr": 0.5})
    assert side_by_side([a, b])["notes"] == ["b and a: no seed in common, so no test between them."]


def test_another_environment_is_noticed(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", {"distill": pattern(0.5)}, seed=seed) for seed in (0, 1)]
    assert not side_by_side(runs)["settings"][0]["environment_differs"]
    results = json.loads((runs[1] / "results.json").read_text(encoding="utf-8"))
    results["environment"]["torch"] = "3"
    (runs[1] / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert side_by_side(runs)["settings"][0]["environment_differs"]


def test_an_unfinished_run_is_named(tmp_path):
    run = write_run(tmp_path / "a", {"distill": pattern(0.5)})
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="a: no results"):
        side_by_side([run])
