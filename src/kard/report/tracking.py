"""A finished run for an experiment tracker: losses, measures, the recipe and the report. Offline, unless the tracker's own
environment variables say otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_json
from kard.errors import UserError
from kard.recipe.file import dump_recipe
from kard.run import Run

Row = tuple[dict[str, float], int]
"""Values by name, and the training step that they belong to."""


def track(run: Run, results: dict[str, Any]) -> None:
    """Hand a finished run to the tracker that its recipe names.

    Args:
        run: With all of its stages.
        results: The content of results.json.

    Raises:
        UserError: The tracker cannot take it. The run itself is complete by then.
    """
    send, rows = _SEND[run.recipe.tracker or ""], [*losses(run), (measures(results), 0)]
    files = [run.folder / "results.json", run.folder / "report" / "index.html", run.folder / "recipe.yaml"]
    try:
        with redirect_stdout(sys.stderr):  # what they say is no result
            send(run, rows, files)
    except Exception as error:  # of libraries, services and networks that are not ours
        raise UserError(
            f"tracker: {run.recipe.tracker} could not take the run ({type(error).__name__}: {error}). The run is complete: see "
            f"{run.folder / 'report' / 'index.html'}."
        ) from error


def losses(run: Run) -> Iterator[Row]:
    """The training losses of students and reranker."""
    for path in sorted([*run.folder.glob("students/*/training.json"), *run.folder.glob("reranker/training.json")]):
        name = path.parent.relative_to(run.folder).as_posix()
        yield from (({f"{name}/loss": row["loss"]}, int(row["step"])) for row in read_json(path)["loss"])


def measures(results: dict[str, Any]) -> dict[str, float]:
    """Accuracies, Hits@k and calibration errors by name."""
    found = {f"accuracy/{row['name']}": row["accuracy"] for row in results["methods"]}
    for row in results["retrieval"]:
        found |= {f"hits_{k}/{row['name']}/{row['against']}": share for k, share in row["hits"].items()}
    for row in results.get("confidence", []):
        found |= {f"{name}/{row['method']}": row[name] for name in ("ece", "aurc")}
    return found


def _trackio(run: Run, rows: Sequence[Row], files: Sequence[Path]) -> None:
    import trackio

    trackio.init(project=run.recipe.name, name=run.folder.name, config=run.recipe.model_dump(mode="json"))
    for values, step in rows:
        trackio.log(values, step=step)
    for path in files:
        trackio.log_artifact(path, name=f"{run.folder.name}-{path.stem}", type="kard")
    trackio.finish()


def _wandb(run: Run, rows: Sequence[Row], files: Sequence[Path]) -> None:
    import wandb

    config, mode = run.recipe.model_dump(mode="json"), os.environ.get("WANDB_MODE", "offline")
    with wandb.init(project=run.recipe.name, name=run.folder.name, config=config, mode=mode) as tracked:
        tracked.define_metric("*", step_metric="step")
        for values, step in rows:
            tracked.log(values | {"step": step})
        for path in files:
            tracked.log_artifact(str(path), name=f"{run.folder.name}-{path.stem}", type="kard")


def _mlflow(run: Run, rows: Sequence[Row], files: Sequence[Path]) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_experiment(run.recipe.name)
    with mlflow.start_run(run_name=run.folder.name):
        mlflow.log_params({name: str(section)[:6000] for name, section in run.recipe})
        for values, step in rows:
            mlflow.log_metrics(values, step=step)
        for path in files:
            mlflow.log_artifact(str(path))


def _tensorboard(run: Run, rows: Sequence[Row], files: Sequence[Path]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.folder / "tensorboard")) as writer:
        for values, step in rows:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.add_text("recipe", f"```yaml\n{dump_recipe(run.recipe)}```")


_SEND: dict[str, Callable[[Run, Sequence[Row], Sequence[Path]], None]] = {
    "trackio": _trackio,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
