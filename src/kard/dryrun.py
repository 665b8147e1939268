"""The tables of ``kard status`` and ``--dry-run``: stages, sizes, what is done, and how long the rest may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from kard.pipeline import Step, StepState, states
from kard.progress import duration
from kard.recipe import Recipe
from kard.sweep import Sweep, manifests, sweep_states

if TYPE_CHECKING:
    from rich.table import Table

    from kard.precision import Dtype

# Tokens of an average example (prompt with a passage, target), for sizing up work that has not been tokenized yet.
TOKENS_TRAINED, TOKENS_READ, TOKENS_WRITTEN = 220, 180, 45
# What a real model reaches of the speed of a bare matrix product, seen on CPUs; writing reads all weights for each token.
SHARE_TRAINING, SHARE_WRITING = 0.5, 0.25
# Forward and backward pass with frozen weights, in multiples of a forward pass; all weights trained: 3.
PASSES_LORA, PASSES_FULL = 2.2, 3.0


def teacher_lines(recipe: Recipe, folder: Path) -> list[str]:
    """What asking the teacher would take: requests, tokens, money; nothing where no language model is asked."""
    from kard.artifacts import manifest_of
    from kard.evaluation.relevant import gold_positions
    from kard.knowledge import read_passages
    from kard.methods import methods_named
    from kard.stages import explained_questions
    from kard.teacher.collect import estimate

    if not recipe.teacher.asks:
        return []
    if manifest_of(folder / "knowledge") is None or manifest_of(folder / "questions") is None:
        return ["Teacher: run '--until knowledge' first, then the dry run counts requests, tokens and money."]
    with_test = any(method.needs_test_rationales for method in methods_named(recipe.evaluation.methods))
    questions = explained_questions(recipe, folder, with_test)
    passages = read_passages(folder / "knowledge" / "passages.jsonl")
    gold = gold_positions(folder, questions)
    cost = estimate(
        questions,
        lambda question: [passages[p] for name in question.gold_passages for p in gold.get(name, [])],
        recipe.teacher,
        recipe.seed_of_data,
        folder / "teacher.sqlite",
    )
    money = f", {cost['usd']:.2f} USD" if cost["usd"] is not None else ", no prices in the recipe"
    counts = f"{cost['requests']:,} requests ({cost['answered']:,} are answered), {cost['input_tokens']:,} tokens in"
    return [f"Teacher: {counts}, {cost['output_tokens']:,} out{money} ({cost['note']})"]


@dataclass(frozen=True)
class Estimate:
    """Seconds, and what they rest on."""

    seconds: float | None
    basis: str


def states_table(recipe: Recipe, folder: Path) -> Table:
    """Stages with their state and time: measured where they ran before, estimated where they did not."""
    from rich.table import Table

    rows = states(recipe, folder)
    flops = (
        matmul_flops(recipe.student.dtype) if any(row.state != "done" and row.seconds is None for row in rows) else 0.0
    )
    estimates = [
        Estimate(row.seconds, "measured") if row.seconds is not None else _guess(row, recipe, flops) for row in rows
    ]
    table = Table(title=f"{recipe.name} in {folder}", caption=_caption(rows, estimates), caption_justify="left")
    for column in ("stage", "state", "about", "time"):
        table.add_column(column, justify="right" if column == "time" else "left")
    for row, estimate in zip(rows, estimates, strict=True):
        table.add_row(row.name, row.state, row.about, _shown(estimate))
    return table


def sweep_table(sweep: Sweep) -> Table:
    """Runs of a sweep with the stages that they have, share and still need, and the time that these may take."""
    from rich.table import Table

    rows = list(sweep_states(sweep))
    found = (manifest for row in rows for manifest in manifests(sweep.folder, row.to_make))
    measured = {manifest["name"]: float(manifest["seconds"]) for manifest in found}
    flops = matmul_flops(sweep.cells[0].recipe.student.dtype) if any(row.to_make for row in rows) else 0.0
    table = Table(title=f"{len(rows)} runs in {sweep.folder}", caption_justify="left")
    for column in ("run", "there", "shared", "to make", "time"):
        table.add_column(column, justify="left" if column == "run" else "right")
    every: list[Estimate] = []
    for row in rows:
        times = [_time_of(step, row.cell.recipe, measured, flops) for step in row.to_make]
        every += times
        counts = [str(len(part)) for part in (row.there, row.shared, row.to_make)]
        table.add_row(row.cell.folder.name, *counts, duration(sum(time.seconds or 0.0 for time in times)))
    table.caption = _still_to_do(every)
    return table


def _time_of(step: Step, recipe: Recipe, measured: dict[str, float], flops: float) -> Estimate:
    """As long as the same stage took in another run of the sweep; estimated where none has come to it."""
    if step.name in measured:
        return Estimate(measured[step.name], "measured")
    return _guess(StepState(step.name, "to do", step.about, None), recipe, flops)


def _caption(rows: list[StepState], estimates: list[Estimate]) -> str:
    return _still_to_do([estimate for row, estimate in zip(rows, estimates, strict=True) if row.state != "done"])


def _still_to_do(left: list[Estimate]) -> str:
    if not left:
        return "Everything is there."
    known = sum(estimate.seconds for estimate in left if estimate.seconds is not None)
    unknown = sum(estimate.seconds is None for estimate in left)
    more = f" and {unknown} stages whose time is not known before the model is there" if unknown else ""
    return f"Still to do: about {duration(known)}{more}. ~ is estimated from a matrix product timed just now, not measured."


def _shown(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "?"
    return f"{'~' if estimate.basis != 'measured' else ''}{duration(max(1.0, estimate.seconds))}"


def _guess(row: StepState, recipe: Recipe, flops: float) -> Estimate:
    stage, _, part = row.name.partition("/")
    questions = recipe.student.train_questions or recipe.questions.train_size
    parameters = _parameters(recipe)
    if stage == "reranker":
        count = recipe.reranker.train_questions or recipe.questions.train_size or 1000
        return Estimate(60 + count * recipe.reranker.epochs * 2.5e10 / (flops * SHARE_WRITING), "estimated")
    if stage == "students" and part not in ("base", "nothing"):
        if parameters is None or questions is None:
            return Estimate(None, "unknown")
        examples = (
            questions * recipe.student.epochs * (1 if part.startswith("answers") else recipe.student.rationales or 1)
        )
        passes = PASSES_LORA if recipe.student.method == "lora" else PASSES_FULL
        return Estimate(examples * TOKENS_TRAINED * 2 * parameters * passes / (flops * SHARE_TRAINING), "estimated")
    if stage == "predictions":
        if parameters is None or recipe.evaluated_size is None:
            return Estimate(None, "unknown")
        tokens = TOKENS_READ / SHARE_TRAINING + TOKENS_WRITTEN / SHARE_WRITING
        prompts = recipe.evaluated_size * (1.6 if part == "rationales_silver" else 1.0)
        return Estimate(prompts * tokens * 2 * parameters / flops, "estimated")
    return Estimate(20.0 if part == "base" else 5.0, "estimated")


def _parameters(recipe: Recipe) -> float | None:
    """Parameters that take part in a token's computation, from the size of the weights on disk, if they are there."""
    from kard.weights import downloaded_folder

    folder = downloaded_folder(recipe.student.model)
    if folder is None:
        return None
    import json

    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2
    looked_up = config.get("vocab_size", 0) * (config.get("hidden_size") or config.get("d_model") or 0)
    return max(weights - looked_up, weights * 0.1)


def matmul_flops(dtype: Dtype) -> float:
    """Floating-point operations a second of a matrix product of the size that training does, in a number format."""
    import torch

    from kard.precision import compute_dtype

    left = torch.randn(1024, 1024).to(compute_dtype(dtype))
    for _ in range(3):
        left @ left
    start, rounds = perf_counter(), 0
    while perf_counter() - start < 0.3:
        left @ left
        rounds += 1
    return rounds * 2 * 1024**3 / (perf_counter() - start)
