"""A sweep: one recipe run under several settings and seeds, in one folder, where stages that agree are made once."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from kard.artifacts.files import hash_of, read_marker, write_json
from kard.artifacts.folders import disk_full_explained, locked, manifest_of, open_run
from kard.errors import UserError
from kard.machine.processes import rank
from kard.pipeline import run_recipe
from kard.progress import duration, say
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.stages.plan import Step, plan

SWEEP_FORMAT = 1
SWEEP_FILE = "sweep.json"
_NOT_VARIED = {
    "seed": "use --seeds",
    "data_seed": "every run must answer the same questions",
    "output": "use --output",
    "name": "it changes nothing",
}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the values that it varies, by recipe key, and its seed."""

    values: dict[str, Any]
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class Sweep:
    """What is varied, and the runs that this makes: a grid of all axes, each point under every seed.

    Attributes:
        folder: Holds a run folder for each cell, ``sweep.json`` and ``index.html``.
        axes: Recipe keys (of several with one value: with commas between them) and their values, in the order given.
        seeds: The first is the recipe's own.
        cells: All seeds of the first setting, then those of the second, and so on; the last axis changes fastest.
        command: What was typed, to do it again.
    """

    folder: Path
    axes: dict[str, list[Any]]
    seeds: list[int]
    cells: list[Cell]
    command: str


def plan_sweep(
    recipe: str,
    vary: Sequence[str],
    seeds: int,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    command: str = "",
) -> Sweep:
    """Read a recipe once for every setting and seed; nothing is run.

    Args:
        recipe: A YAML file, or the name of a shipped recipe.
        vary: ``section.key=value,value``: an axis each; values are YAML. Several axes make a grid; several keys before the
            equals sign, with commas between them, have the same value.
        seeds: How many seeds: the recipe's own and the numbers after it.
        overrides: ``section.key=value``, the same in all runs.
        folder: The sweep's; by default ``sweeps/NAME`` in the current folder.
        command: What was typed.

    Raises:
        UserError: An axis is not understood, or a setting is no valid recipe.
    """
    base = load_recipe(recipe, list(overrides))
    varied = [_axis(text) for text in vary]
    axes = dict(varied)
    keys = [key for axis, _ in varied for key in axis.split(",")]
    if len(set(keys)) < len(keys):
        raise UserError("--vary: a key is there twice. Give all of its values at once, as key=1,2,3.")
    folder = folder or Path("sweeps") / base.name
    numbers = list(range(base.seed, base.seed + seeds))
    cells = []
    for point in product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        own = [
            f"{key}={json.dumps(value, ensure_ascii=False, default=str)}"
            for axis, value in values.items()
            for key in axis.split(",")
        ]
        for seed in numbers:
            # The questions, and what explains them, are those of the first seed in every run: only so are runs comparable.
            settings = [*overrides, f"data_seed={base.seed_of_data}", *own, f"seed={seed}", "output=null"]
            cells.append(Cell(values, load_recipe(recipe, settings), folder / run_name(values, seed)))
    return Sweep(folder, axes, numbers, cells, command)


def _axis(text: str) -> tuple[str, list[Any]]:
    axis, equals, values = text.partition("=")
    keys = [key.strip() for key in axis.split(",")]
    if not equals or not all(keys) or not values.strip():
        raise UserError(f"--vary {text}: write it as section.key=value,value.")
    for key in keys:
        if why := _NOT_VARIED.get(key):
            raise UserError(f"--vary {text}: {key} is not varied: {why}.")
    try:
        found = yaml.safe_load(f"[{values}]")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--vary {text}: the values are not valid YAML. Quote them, as key='\"a, b\", c'.") from error
    if len({hash_of(value) for value in found}) < len(found):
        raise UserError(f"--vary {text}: a value is there twice. Remove one.")
    return ",".join(keys), found


def sweep_command(recipe: str, vary: Sequence[str], seeds: int, overrides: Sequence[str], folder: Path | None) -> str:
    """What to type to do a sweep again."""
    options = [("--vary", text) for text in vary] + [("--set", text) for text in overrides]
    parts = ["kard", "sweep", recipe, *(part for option in options for part in option), "--seeds", str(seeds)]
    return shlex.join(parts + (["--output", str(folder)] if folder else []))


def run_name(values: dict[str, Any], seed: int) -> str:
    """The folder of a run: readable, and another one for every setting, however odd its value."""
    return "_".join(
        [*(f"{key.replace(',', '+')}-{_in_a_name(value)}" for key, value in values.items()), f"seed-{seed}"]
    )


def _in_a_name(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    plain = re.sub(r"[^\w.+-]+", "-", text)[-40:]
    # The text "null" is another value than null.
    return plain if plain == text and yaml.safe_load(text) == value else f"{plain}-{hash_of(value)[:6]}"


def run_sweep(sweep: Sweep) -> dict[str, Any] | None:
    """Make all runs of a sweep, or go on where an earlier attempt stopped, then its page.

    Returns:
        The content of ``sweep.json``; None in all processes but the first.

    Raises:
        UserError: Something that the user can mend; it names the run.
    """
    if rank() > 0:
        for cell in sweep.cells:
            run_recipe(cell.recipe, cell.folder)
        return None
    _open(sweep)
    with locked(sweep.folder):
        spent: list[float] = []
        for number, cell in enumerate(sweep.cells, start=1):
            left = mean(spent) * (len(sweep.cells) - number + 1) if spent else None
            eta = f", about {duration(left)} left" if left is not None else ""
            say(f"run {number} of {len(sweep.cells)}{eta}: {cell.folder.name}")
            start = time.monotonic()
            try:
                made = _run(cell)
            except UserError as error:
                raise type(error)(f"{cell.folder.name}: {error}") from error
            spent += [time.monotonic() - start] if made else []
        return _finish(sweep)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / SWEEP_FILE).exists()


def read_sweep(folder: Path) -> dict[str, Any]:
    """What `run_sweep` returned.

    Raises:
        UserError: The sweep is not finished.
    """
    results = read_marker(folder / SWEEP_FILE, SWEEP_FORMAT)
    if "settings" not in results:
        raise UserError(f"{folder}: the sweep is not finished. Give its command again, then it goes on.")
    return results


def _open(sweep: Sweep) -> None:
    folder, marker = sweep.folder, sweep.folder / SWEEP_FILE
    if is_sweep(folder):
        if read_marker(marker, SWEEP_FORMAT)["format"] != SWEEP_FORMAT:
            raise UserError(f"{marker}: written by another version of kard. Choose another folder with --output.")
        return
    if folder.is_file() or (folder.is_dir() and any(item.name != f"{SWEEP_FILE}.tmp" for item in folder.iterdir())):
        raise UserError(f"{folder}: exists and is no kard sweep. Choose another folder with --output.")
    with disk_full_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, {"format": SWEEP_FORMAT})


def _run(cell: Cell) -> bool:
    """Make one run; returns whether there was anything to make."""
    folder, replies = cell.folder, cell.folder / "teacher.sqlite"
    open_run(folder)
    with locked(folder), disk_full_explained(folder):
        todo = [step for step in plan(cell.recipe, folder) if not _has(folder, step)]
        others = [path.parent for path in sorted(folder.parent.glob("*/run.json")) if path.parent != folder]
        shared = share(todo, folder, others)
        _share_vectors(folder, others)
        if cell.recipe.teacher.asks and not os.path.lexists(replies):
            replies.symlink_to(Path("..") / replies.name)  # one budget, no reply paid twice
    if shared:
        say(f"  from other runs: {', '.join(shared)}")
    run_recipe(cell.recipe, folder)
    return len(shared) < len(todo)


def _has(folder: Path, step: Step) -> bool:
    found = manifest_of(folder / step.name)
    return found is not None and found.get("key") == step.hash


def share(steps: Sequence[Step], folder: Path, others: Sequence[Path]) -> list[str]:
    """Take finished folders of other runs over: same key, same content.

    Args:
        steps: Those that `folder` lacks.
        folder: The run to come.
        others: Runs to take them from.

    Returns:
        Names of the steps that are there now.
    """
    shared = []
    for step in steps:
        source = next((other / step.name for other in others if _has(other, step)), None)
        if source is not None:
            _link(source, folder / step.name)
            shared.append(step.name)
    return shared


def _share_vectors(folder: Path, others: Sequence[Path]) -> None:
    """Passage vectors are appended to as they are asked for: linked files grow in all runs at once, under one lock."""
    for other in others:
        for store in sorted(other.glob("vectors/*-*")):
            if "." not in store.name and not (folder / "vectors" / store.name).exists():
                _link(store, folder / "vectors" / store.name)


def _link(source: Path, target: Path) -> None:
    """A copy of a folder that takes no room: hard links, under another name until all are there."""
    begun, given_up = (target.with_name(target.name + suffix) for suffix in (".linking", ".partial"))
    for old in (begun, given_up, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, begun, copy_function=_hard_link)
    begun.replace(target)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _finish(sweep: Sweep) -> dict[str, Any]:
    from kard.evaluation.several import sweep_results
    from kard.report.sweep import render_sweep

    settings = [(cell.values, cell.folder) for cell in sweep.cells]
    results = {"format": SWEEP_FORMAT, "command": sweep.command, **sweep_results(sweep.axes, sweep.seeds, settings)}
    with disk_full_explained(sweep.folder):
        (sweep.folder / "index.html").write_text(render_sweep(results), encoding="utf-8", newline="\n")
        write_json(sweep.folder / SWEEP_FILE, results)
    return results


@dataclass(frozen=True)
class CellState:
    """A line of the dry run: a run, and which of its steps are there, come from another run, or have to be made."""

    cell: Cell
    there: list[Step]
    shared: list[Step]
    to_make: list[Step]


def sweep_states(sweep: Sweep) -> Iterator[CellState]:
    """What a sweep would do, run by run."""
    known: set[str] = set()
    for cell in sweep.cells:
        steps = plan(cell.recipe, cell.folder)
        known |= {found["key"] for found in manifests(sweep.folder, steps)}
        there = [step for step in steps if _has(cell.folder, step)]
        shared = [step for step in steps if step not in there and step.hash in known]
        known |= {step.hash for step in steps}
        yield CellState(cell, there, shared, [step for step in steps if step not in there and step not in shared])


def manifests(folder: Path, steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """Manifests of these steps in every run of a sweep's folder, whatever their key."""
    for run in sorted(folder.glob("*/run.json")):
        found = (manifest_of(run.parent / step.name) for step in steps)
        yield from (manifest for manifest in found if manifest is not None)
