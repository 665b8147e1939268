"""The tables of ``kard status`` and ``--dry-run``: stages, sizes, what is done, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.pipeline import StepState, states, timetable
from kard.preflight.estimate import estimates
from kard.preflight.timetable import rounded
from kard.progress import duration
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.plan import plan
from kard.tools.sweep import Sweep, sweep_states

if TYPE_CHECKING:
    from rich.table import Table

    from kard.teacher.limits import Spent


def teacher_lines(recipe: Recipe, folder: Path) -> list[str]:
    """What asking the teacher would take: requests, tokens, money; nothing where no language model is asked."""
    from kard.artifacts.folders import manifest_of

    if not recipe.teacher.asks:
        return []
    lines = []
    made = manifest_of(folder / "questions") is not None
    if manifest_of(folder / "knowledge") is None or not (made or recipe.questions.kind == "generated"):
        return ["Teacher: run '--until knowledge' first, then the dry run counts requests, tokens and money."]
    if recipe.questions.kind == "generated":
        lines.append(_questions_line(recipe, folder))
    if made:
        lines += _rationales_line(recipe, folder)
    elif recipe.explainer.asks:
        lines.append("Teacher, explanations: run '--until questions' first, then the dry run counts them as well.")
    return lines


def _questions_line(recipe: Recipe, folder: Path) -> str:
    from kard.stages.generated import generation_of
    from kard.teacher.generate import estimate_questions

    generation, _ = generation_of(Run(folder, recipe, online=True))
    answered, cost = estimate_questions(generation, folder / "teacher.sqlite")
    note = "replies as long as the worked examples', each question answered by the teacher as well"
    return f"Teacher, questions: {_counted(answered, cost, recipe, note)}"


def _counted(answered: int, cost: Spent, recipe: Recipe, note: str) -> str:
    from kard.teacher.limits import CHARACTERS_PER_TOKEN

    resources = recipe.teacher.resources
    money = f"{cost.usd(resources):.2f} USD" if resources.has_prices else "no prices in the recipe"
    counts = f"{cost.requests:,} requests ({answered:,} are answered), {cost.prompt_tokens:,} tokens in"
    return f"{counts}, {cost.completion_tokens:,} out, {money} (estimated: {CHARACTERS_PER_TOKEN} characters a token in, {note})"


def _rationales_line(recipe: Recipe, folder: Path) -> Iterator[str]:
    from kard.stages.rationales import questions_to_ask
    from kard.teacher.collect import estimate

    run = Run(folder, recipe, online=True)
    questions = questions_to_ask(run)
    if not questions:
        return
    passages, gold = run.passages(), run.named(questions)
    answered, cost = estimate(
        questions,
        lambda question: [passages[p] for name in question.gold_passages for p in gold.get(name, [])],
        recipe.teacher,
        recipe.seed_of_data,
        folder / "teacher.sqlite",
    )
    note = "at most teacher.max_tokens a reply out"
    if recipe.teacher.rewrite == "ask":
        note += "; teacher.rewrite: ask comes on top, at most as many requests again"
    yield f"Teacher: {_counted(answered, cost, recipe, note)}"


def state_rows(recipe: Recipe, folder: Path, until: str | None = None) -> list[dict[str, Any]]:
    """Stages with their ``state`` and ``seconds``: measured where they are done, estimated (``is_estimate``) where they are not;
    None where nobody knows. `until` is the last stage that is asked for."""
    left = timetable(recipe, folder, plan(recipe, folder, until), until).seconds
    return [_row(row, left) for row in states(recipe, folder, until)]


def _row(row: StepState, left: dict[str, float | None]) -> dict[str, Any]:
    is_done = row.state == "done"
    seconds = row.seconds if is_done else left.get(row.name)
    return {"stage": row.name, "state": row.state, "about": row.about, "seconds": seconds, "is_estimate": not is_done}


def states_table(recipe: Recipe, folder: Path, rows: Sequence[dict[str, Any]]) -> Table:
    """What `state_rows` returned, for people."""
    from rich.table import Table

    left = [row["seconds"] for row in rows if row["is_estimate"]]
    table = Table(title=f"{recipe.name} in {folder}", caption=_still_to_do(left), caption_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("about", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["stage"], row["state"], row["about"], _shown(row["seconds"], row["is_estimate"]))
    return table


def sweep_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Runs of a sweep with the stages that are ``there``, that are ``shared`` with runs before, and ``to_make``, with the
    seconds that each of these may take (None where nobody knows)."""
    rows = []
    for row in sweep_states(sweep):
        names = [step.name for step in row.to_make]
        seconds = estimates(row.cell.recipe, row.cell.folder, names) if names else {}
        parts = {"there": [step.name for step in row.there], "shared": [step.name for step in row.shared]}
        rows.append({"run": row.cell.folder.name, **parts, "to_make": seconds})
    return rows


def sweep_table(folder: Path, rows: Sequence[dict[str, Any]]) -> Table:
    """What `sweep_rows` returned, for people."""
    from rich.table import Table

    table = Table(title=f"{len(rows)} runs in {folder}", caption_justify="left")
    for column in ("run", "there", "shared", "to make", "time"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for row in rows:
        times = row["to_make"].values()
        counts = [str(len(row[part])) for part in ("there", "shared", "to_make")]
        table.add_row(row["run"], *counts, _shown(sum(filter(None, times)), True) if times else "–")
    table.caption = _still_to_do([seconds for row in rows for seconds in row["to_make"].values()])
    return table


def _still_to_do(left: Sequence[float | None]) -> str:
    if not left:
        return "Everything is there."
    unknown = sum(seconds is None for seconds in left)
    more = f" and stages whose time is not known yet ({unknown})" if unknown else ""
    known = rounded(sum(filter(None, left)))
    return f"Still to do: about {known} on this machine{more}. ~ is estimated: work counted, speed tried just now."


def _shown(seconds: float | None, is_estimate: bool) -> str:
    if seconds is None:
        return "?"
    return f"~{rounded(seconds)}" if is_estimate else duration(max(1.0, seconds))
