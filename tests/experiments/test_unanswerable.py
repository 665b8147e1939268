"""Documents are removed and come back, and who refuses what is counted right."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from experiments.unanswerable import Asked, by_threshold, counted, main
from kard.artifacts.versions import current_version


def test_refused_and_withheld_answers_are_counted_apart():
    asked = Asked(np.array([0.9, 0.2, 0.8, 0.1]), np.array([True, True, False, False]))
    found = counted(asked, np.array([True, True, False, False]), 0.5)
    assert {name: (row["count"], row["n"]) for name, row in found.items()} == {
        "refused": (1, 2),
        "right": (2, 2),
        "withheld": (1, 2),
        "right_withheld": (1, 2),
    }
    assert set(counted(asked, np.ones(4, dtype=bool), 0.5)) == {"right", "withheld", "right_withheld"}
    assert set(counted(asked, np.zeros(4, dtype=bool), 0.5)) == {"refused"}


def test_thresholds_that_withhold_so_many_right_answers():
    before = Asked(np.arange(100) / 100, np.ones(100, dtype=bool))
    rows = by_threshold(before, Asked(np.array([0.05, 0.15, 0.99]), np.zeros(3, dtype=bool)))
    assert [row["right_withheld"]["count"] for row in rows] == [2, 5, 10, 15, 20]
    assert [row["refused"]["count"] for row in rows] == [0, 0, 1, 1, 2]


def test_a_run_without_abstaining_is_refused(answering_run):
    with pytest.raises(SystemExit, match=r"was made without evaluation\.abstain"):
        main([str(answering_run)])


def test_documents_go_in_steps_and_come_back(answering_run, tmp_path, capsys):
    run = calibrated(answering_run, tmp_path / "run")
    main([str(run), "--asked", "6"])
    found = json.loads(capsys.readouterr().out)
    assert found["threshold"] == 0.5
    assert [row.get("removed") for row in found["steps"]] == [None, 3, 6]
    first, half, last = found["steps"]
    assert "refused" not in first
    assert (half["refused"]["n"], half["right"]["n"]) == (3, 3)
    assert last["refused"]["n"] == 6
    assert "right" not in last
    assert current_version(run) == 0


def calibrated(run, folder):
    """A copy of a run, with a recipe that withholds and a calibration by hand."""
    import yaml

    from kard.calibration import Calibration, write_calibrations

    shutil.copytree(run, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["evaluation"]["abstain"] = {"risk": 0.5}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    calibration = Calibration({"student": 1.0}, 0.0, [0.5] * 20, [True] * 20)
    write_calibrations(folder / "predictions" / "rationales_silver", {"kard_reranker": calibration})
    return folder
