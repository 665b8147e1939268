"""A recipe is run: what is there is skipped, what is missing or outdated is made (see `kard.stages.plan` for the order)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from kard.artifacts.files import read_json
from kard.artifacts.folders import (
    Artifact,
    build,
    check_whole,
    disk_full_explained,
    locked,
    manifest_of,
    open_run,
    partial_key,
    seconds_so_far,
)
from kard.machine.memory import release_memory
from kard.machine.processes import (
    alone,
    local_process_count,
    rank,
    share_cores,
    wait_until,
    whole_models,
)
from kard.preflight.checks import check_before
from kard.preflight.estimate import estimates
from kard.preflight.first_look import first_look
from kard.preflight.launcher import check_launcher
from kard.preflight.timetable import Timetable
from kard.progress import say
from kard.recipe.file import dump_recipe
from kard.recipe.recipe import Recipe
from kard.report.tracking import track
from kard.run import Run
from kard.stages.plan import STAGES, VERSIONS, Step, check_stage, passage_steps, plan
from kard.stages.report import make_report


def run_recipe(recipe: Recipe, folder: Path, until: str | None = None) -> dict[str, Any] | None:
    """Run a recipe into a folder, or go on where an earlier run stopped.

    Args:
        recipe: What to do.
        folder: The run's folder; made if it is not there.
        until: Name of the last stage to run.

    Returns:
        The content of results.json, or None where the run ended before the report, and in all processes but the first.

    Raises:
        UserError: Something that the user can mend.
    """
    check_stage(until)
    check_launcher()
    steps = plan(recipe, folder, until)
    if rank() > 0:
        for step in steps:
            _join(step, folder)
        return None
    open_run(folder)
    read, trained = recipe.evaluation.passages, recipe.student.passages
    if read > trained:
        say(
            f"evaluation.passages ({read}) is more than student.passages ({trained}): a student that was never shown so many is "
            "easily misled by them. Give both the same number."
        )
    with locked(folder):
        to_do = set()
        for step in steps:
            if _state(step, folder) == "done":
                check_whole(folder / step.name)  # before hours go into what is made of it
            else:
                to_do.add(step.stage)
        check_before(recipe, folder, to_do)
        table = _begin(recipe, folder, steps, until)
        done: list[Artifact] = []
        for step in steps:
            done.append(_run_step(step, folder, table))
            if step.name == "candidates" and not done[-1].skipped:
                for line in first_look(Run(folder, recipe, online=True)):
                    say(line)
        return _report(recipe, folder, done, table) if until in (None, STAGES[-1]) else None


def index_recipe(recipe: Recipe, folder: Path) -> Path:
    """Build passages and index alone; a later run finds them there.

    Returns:
        The index's folder.
    """
    open_run(folder)
    with locked(folder):
        steps = passage_steps(recipe, folder)
        table = _begin(recipe, folder, steps, None)
        for step in steps:
            _run_step(step, folder, table)
    return folder / "index"


def _begin(recipe: Recipe, folder: Path, steps: Sequence[Step], until: str | None) -> Timetable:
    with disk_full_explained(folder):
        (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    table = timetable(recipe, folder, steps, until)
    table.begin(recipe.name, folder)
    return table


def timetable(recipe: Recipe, folder: Path, steps: Sequence[Step], until: str | None = None) -> Timetable:
    """The time that the steps, and the report where it is behind them, will take here; of those that are not done."""
    names = [step.name for step in steps]
    to_do = [step.name for step in steps if _state(step, folder) != "done"]
    if steps[-1].stage == "predictions" and until in (None, STAGES[-1]):
        names.append("report")
        to_do += ["report"] if to_do or manifest_of(folder / "report") is None else []
    begun = {name: seconds_so_far(folder / name) for name in to_do}
    found = estimates(recipe, folder, to_do) if to_do else {}
    left = {name: None if all_ is None else max(all_ - begun[name], 0.1 * all_) for name, all_ in found.items()}
    return Timetable(names, left)


def _run_step(step: Step, folder: Path, table: Timetable) -> Artifact:
    path = folder / step.name
    if _state(step, folder) != "done":
        table.at(step.name)
    with _with_others(step):
        start = monotonic()
        artifact = build(step.name, path, step.key, step.make)
    if not artifact.skipped:
        release_memory()
    table.over(step.name, monotonic() - start, artifact.skipped)
    return artifact


@contextmanager
def _with_others(step: Step) -> Iterator[None]:
    """What a step sees of the other processes, and its share of the cores."""
    share_cores(local_process_count() if step.shared else 1)
    with nullcontext() if step.stage == "students" and step.shared else whole_models() if step.shared else alone():
        yield


def _join(step: Step, folder: Path) -> None:
    """What a process other than the first does: it takes part in what is shared, and waits for the rest."""
    partial = folder / f"{step.name}.partial"

    def state() -> str:
        try:
            found = _state(step, folder)
            return "done" if found == "begun" and manifest_of(partial) is not None else found
        except FileNotFoundError:  # the first process is renaming the folder
            return "to do"

    wait_until(lambda: state() in (("begun", "done") if step.shared else ("done",)))
    if state() == "begun":
        with _with_others(step):
            step.make(partial)
        release_memory()
    wait_until(lambda: not partial.exists() and state() == "done")


def _report(recipe: Recipe, folder: Path, done: list[Artifact], table: Timetable) -> dict[str, Any]:
    key = {
        "stage": "report",
        "version": VERSIONS["report"],
        "inputs": {artifact.name: artifact.key for artifact in done},
        "recipe": recipe.name,
        "seed": recipe.seed,
        **({"risk": risk} if (risk := recipe.evaluation.abstain.risk) is not None else {}),
    }
    results_path = folder / "results.json"
    run = Run(folder, recipe, online=True)
    table.at("report")
    artifact = build("report", folder / "report", key, lambda target: make_report(run, done, target), results_path)
    table.over("report", artifact.seconds, artifact.skipped)
    results: dict[str, Any] = read_json(results_path)
    if recipe.tracker is not None and not artifact.skipped:
        track(run, results)
    return results


def _state(step: Step, folder: Path) -> str:
    found = manifest_of(folder / step.name)
    if found is not None and found.get("key") == step.hash:
        return "done"
    if partial_key(folder / step.name) == step.hash:
        return "begun"
    return "outdated" if found is not None else "to do"


@dataclass(frozen=True)
class StepState:
    """A line of ``kard status`` and of the dry run; seconds are those of the last time, None where it never ran."""

    name: str
    state: str
    about: str
    seconds: float | None


def states(recipe: Recipe, folder: Path, until: str | None = None) -> list[StepState]:
    """What is done, begun, outdated or to do, up to a stage."""
    rows = []
    for step in plan(recipe, folder, until):
        found = manifest_of(folder / step.name)
        check_whole(folder / step.name)
        rows.append(StepState(step.name, _state(step, folder), step.about, float(found["seconds"]) if found else None))
    if until not in (None, STAGES[-1]):
        return rows
    report = manifest_of(folder / "report")
    check_whole(folder / "report")
    done = report is not None and all(row.state == "done" for row in rows)
    seconds = float(report["seconds"]) if report else None
    rows.append(StepState("report", "done" if done else "to do", ", ".join(recipe.evaluation.methods), seconds))
    return rows
