"""A finished run as the trackers themselves give it back; each is asked where it is installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kard.artifacts.files import read_json
from kard.errors import UserError
from kard.preflight.checks import check_before
from kard.recipe.file import load_recipe
from kard.report.tracking import losses, measures, track
from kard.run import Run


@pytest.fixture
def finished(answering_run, tmp_path, monkeypatch) -> tuple[Run, dict]:
    """A copy of a run, and a folder of its own for what a tracker keeps."""
    monkeypatch.chdir(tmp_path)
    opened = Run.open(shutil.copytree(answering_run, tmp_path / "runs" / "run"))
    return opened, read_json(opened.folder / "results.json")


def tracked_by(name: str, finished: tuple[Run, dict]) -> tuple[dict[str, float], list]:
    run, results = finished
    track(Run(run.folder, run.recipe.model_copy(update={"tracker": name})), results)
    return measures(results), list(losses(run))


def test_what_is_tracked(finished):
    run, results = finished
    numbers = measures(results | {"confidence": [{"method": "distill", "ece": 0.1, "aurc": 0.2}]})
    assert numbers["accuracy/kard_reranker"] == next(
        row["accuracy"] for row in results["methods"] if row["name"] == "kard_reranker"
    )
    assert {"hits_1/reranker/gold", "ece/distill", "aurc/distill"} <= numbers.keys()
    curve = [row for row in losses(run) if "students/rationales_silver/loss" in row[0]]
    assert [step for _, step in curve] == sorted(step for _, step in curve)
    assert any("reranker/loss" in values for values, _ in losses(run))


def test_tensorboard(finished):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    numbers, curve = tracked_by("tensorboard", finished)
    kept = EventAccumulator(str(finished[0].folder / "tensorboard"))
    kept.Reload()
    assert kept.Scalars("accuracy/kard_bm25")[0].value == pytest.approx(numbers["accuracy/kard_bm25"])
    assert len(kept.Scalars("reranker/loss")) == sum("reranker/loss" in values for values, _ in curve)


def test_mlflow(finished):
    mlflow = pytest.importorskip("mlflow")
    numbers, curve = tracked_by("mlflow", finished)
    [kept] = mlflow.search_runs(experiment_names=[finished[0].recipe.name], output_format="list")
    assert kept.data.metrics["accuracy/kard_bm25"] == pytest.approx(numbers["accuracy/kard_bm25"])
    history = mlflow.MlflowClient().get_metric_history(kept.info.run_id, "reranker/loss")
    assert len(history) == sum("reranker/loss" in values for values, _ in curve)
    assert {file.path for file in mlflow.MlflowClient().list_artifacts(kept.info.run_id)} == {
        "results.json",
        "index.html",
        "recipe.yaml",
    }


def test_wandb_offline(finished, tmp_path):
    pytest.importorskip("wandb")
    tracked_by("wandb", finished)
    [kept] = (tmp_path / "wandb").glob("offline-run-*")
    assert any(path.suffix == ".wandb" and path.stat().st_size > 1000 for path in kept.iterdir())


def test_trackio(finished, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    tracked_by("trackio", finished)
    assert capsys.readouterr().out == ""
    [kept] = trackio.Api().runs(finished[0].recipe.name)
    assert kept.name == finished[0].folder.name
    assert list((tmp_path / "trackio").iterdir())


def test_a_tracker_that_fails_or_is_not_there_is_one_sentence(finished, monkeypatch, project, tmp_path):
    def fail(**arguments):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=fail))
    with pytest.raises(
        UserError, match=r"tracker: wandb could not take the run \(ConnectionError: no network\)\. The run is"
    ):
        tracked_by("wandb", finished)
    recipe = load_recipe(str(project), ["tracker=mlflow"])
    monkeypatch.setattr("kard.preflight.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracker: mlflow is not installed\. Run: pip install mlflow\."):
        check_before(recipe, Path(tmp_path), set())
