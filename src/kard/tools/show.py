"""`kard show`: samples of what a stage wrote, laid out for reading."""

from __future__ import annotations

import random
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kard.artifacts.damage import MANIFEST
from kard.artifacts.files import read_json, read_jsonl
from kard.artifacts.folders import check_stages, finished
from kard.errors import UserError, nearest
from kard.methods import METHODS, preferred
from kard.report.numbers import ranking_gains, reranking


def sample_lines(run: Path, stage: str, count: int, seed: int) -> Iterator[str]:
    """Lines to print for some samples of a stage.

    Args:
        run: The run's folder.
        stage: One of `SHOWN`.
        count: How many samples (of each method for predictions, of each method and class for mistakes).
        seed: Which samples.

    Raises:
        UserError: An unknown stage, or one that is not finished.
    """
    _check(run, stage)
    yield from SHOWN[stage](run, count, seed)


def sample_rows(run: Path, stage: str, count: int, seed: int) -> dict[str, list[Any]]:
    """Some rows of each file of a stage, by the file's path in the run, as they stand there: for programs.

    Raises:
        UserError: As `sample_lines`.
    """
    _check(run, stage)
    folder = run / ("report" if stage == "mistakes" else stage)
    if stage == "rationales":
        folder = _written(run, stage, "rationales.jsonl").parent
    paths = sorted(path for path in folder.rglob("*.jsonl") if not path.name.startswith("written"))
    found = {path: _some(list(read_jsonl(path)), count, seed) for path in paths}
    found |= {path: [read_json(path)] for path in sorted(folder.rglob("training.json"))}
    if not found:
        raise UserError(f"{folder}: nothing there yet. Run the recipe up to this stage.")
    return {path.relative_to(run).as_posix(): rows for path, rows in found.items()}


def _check(run: Path, stage: str) -> None:
    check_stages(run)
    if stage not in SHOWN:
        raise UserError(f"show {stage}: nothing to show{nearest(stage, SHOWN)}. Choose from: {', '.join(SHOWN)}.")


def _questions(run: Path, count: int, seed: int) -> Iterator[str]:
    begun, whole = (run / folder / "generated.jsonl" for folder in ("questions.partial", "questions"))
    if begun.exists() or whole.exists():
        yield from _generated(list(read_jsonl(_written(run, "questions", whole.name))), count, seed)
        return
    for split in ("train", "dev", "test"):
        rows = list(read_jsonl(finished(run, "questions") / f"{split}.jsonl"))
        yield f"{split}: {len(rows):,} questions"
        for row in _some(rows, count, seed):
            yield f"  [{row['id']}] {row['question']}"
            for number, choice in enumerate(row["choices"]):
                yield f"    {'*' if number == row['answer'] else '-'} {choice}"
            if not row["choices"]:
                yield f"    * {row['answer']}"


def _generated(rows: Sequence[dict[str, Any]], count: int, seed: int) -> Iterator[str]:
    statuses = Counter(row["status"] for row in rows)
    yield f"{len(rows):,} questions: " + ", ".join(f"{number:,} {status}" for status, number in statuses.most_common())
    for status, number in statuses.most_common():
        yield f"\n{status}: {number:,}, {number / len(rows):.1%}"
        for row in _some([row for row in rows if row["status"] == status], count, seed):
            yield f"  [{row['id']}, {row['split']}, {', '.join(row['passages'])}] {row['question']}"
            for number, choice in enumerate(row["choices"] or [row["answer"]]):
                yield f"    {'*' if row['answer'] in (number, choice) else '-'} {choice}"
            yield from (f"    {text}" for text in (row["rationale"], row["reason"] and f"({row['reason']})") if text)


def _passages(run: Path, count: int, seed: int) -> Iterator[str]:
    rows = list(read_jsonl(finished(run, "knowledge") / "passages.jsonl"))
    yield f"{len(rows):,} passages"
    yield from (f"  [{row['id']}] {row['title']}\n    {row['text']}" for row in _some(rows, count, seed))


def _written(run: Path, stage: str, name: str) -> Path:
    """A stage's file, of a stage that ended in an error as well: that is when it is read."""
    begun, whole = (run / folder / name for folder in (f"{stage}.partial", stage))
    if begun.exists() and not (whole.exists() and whole.stat().st_mtime > begun.stat().st_mtime):
        return begun
    return finished(run, stage) / whole.name


def _rationales(run: Path, count: int, seed: int) -> Iterator[str]:
    rows = list(read_jsonl(_written(run, "rationales", "rationales.jsonl")))
    questions = _all_questions(run)
    counts = Counter(row["status"] for row in rows)
    yield f"{len(rows):,} rationales: " + ", ".join(f"{number:,} {status}" for status, number in counts.most_common())
    kinds = Counter(row.get("kind", "") for row in rows if row["status"] == "kept")
    if kinds:
        yield "kept: " + ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    words = sorted(len(row["text"].split()) for row in rows if row["status"] == "kept")
    if words:
        yield f"words of the kept ones: {words[0]} to {words[-1]}, median {words[len(words) // 2]}"
    explained = Counter(Counter(row["question"] for row in rows if row["status"] == "kept").values())
    explained[0] = len({row["question"] for row in rows}) - explained.total()
    yield "kept a question: " + ", ".join(
        f"{times} ({number:,} questions)" for times, number in sorted(explained.items())
    )
    for status, number in counts.most_common():
        yield f"\n{status}: {number:,}, {number / len(rows):.1%}"
        for row in _some([row for row in rows if row["status"] == status], count, seed):
            yield from _rationale(row, questions[row["question"]])


def _rationale(row: dict[str, Any], question: dict[str, Any]) -> Iterator[str]:
    answer = question["choices"][question["answer"]] if question["choices"] else question["answer"]
    yield f"  [{row['id']}] {question['question']}  →  {answer}"
    others = [choice for place, choice in enumerate(question["choices"]) if place != question["answer"]]
    if others:
        yield f"    not: {' · '.join(others)}"
    yield f"    {row['kind'] + ': ' if row.get('kind') else ''}{row['text']}"
    if row.get("original"):
        yield f"    before rewriting: {row['original']}"
    if row["reason"]:
        yield f"    ({row['reason']})"


def _candidates(run: Path, count: int, seed: int) -> Iterator[str]:
    rows = list(read_jsonl(finished(run, "candidates") / "candidates.jsonl"))
    passages = list(read_jsonl(finished(run, "knowledge") / "passages.jsonl"))
    texts = {row["id"]: row["text"] for row in read_jsonl(finished(run, "rationales") / "rationales.jsonl")}
    questions = _all_questions(run)
    sizes = [len(row["candidates"]) for row in rows]
    yield f"{len(rows):,} rationales, {sum(sizes) / max(1, len(sizes)):.1f} candidates each"
    for row in _some(rows, count, seed):
        yield f"\n  [{row['rationale']}] {questions[row['question']]['question']}\n    rationale: {texts[row['rationale']]}"
        for position in row["silver"][:1]:
            yield f"    silver: [{passages[position]['id']}] {passages[position]['text']}"
        ranked = sorted(zip(row["scores"], row["candidates"], strict=True), reverse=True)
        yield "    candidates: " + ", ".join(f"{passages[place]['id']} ({score:.1f})" for score, place in ranked[:8])


def _ranking_lines(run: Path, count: int, seed: int) -> Iterator[str]:
    folder = finished(run, "reranker")
    training = read_json(folder / "training.json")
    temperatures = f"τ1 {training['tau_rationale']:.3g}, τ2 {training['tau_question']:.3g}"
    yield f"learned from {training['rationales']:,} rationales, {temperatures}"
    yield from _curve(training["loss"])
    yield from ranking_lines(read_json(folder / "retrieval.json"))


def ranking_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How rankers did, what each gains over those before it, and what that means."""
    yield from map(_ranking_line, rows)
    for row in rows:
        yield from ranking_gains(row)
    if verdict := reranking([row for row in rows if row["against"] == rows[0]["against"]]):
        yield verdict


def _ranking_line(row: dict[str, Any]) -> str:
    shares = "  ".join(f"@{depth} {share:.1%}" for depth, share in row["hits"].items())
    rest = f"MRR {row['mrr']:.1%}  nDCG@10 {row['ndcg']:.1%}  among candidates {row['recall']:.1%}"
    return f"{row['name']:<20} against {row['against']:<7} {shares}  {rest}  (n {row['n']})"


def _student_lines(run: Path, count: int, seed: int) -> Iterator[str]:
    for path in sorted((run / "students").glob("*/training.json")):
        training = read_json(finished(run, f"students/{path.parent.name}") / path.name)
        yield f"{path.parent.name}: {training['examples']:,} examples"
        yield from _curve(training["loss"])


def _curve(loss: Sequence[dict[str, float]]) -> Iterator[str]:
    some = loss[:: max(1, len(loss) // 10)]
    yield "  loss by step: " + "  ".join(f"{row['step']:.0f}: {row['loss']:.3f}" for row in some)


def last_lines(run: Path) -> Iterator[str]:
    """What a finished run ends with: one of its answers, and what can be done with it now."""
    answered = {name: run / "predictions" / one.trained_on / f"{name}.jsonl" for name, one in METHODS.items()}
    best = preferred([name for name, path in answered.items() if path.exists()])
    if best is not None:
        row = next(read_jsonl(answered[best]))
        splits = (run / "questions" / f"{split}.jsonl" for split in ("test", "dev"))
        asked = next(line for path in splits for line in read_jsonl(path) if line["id"] == row["question"])
        yield f"\nA question that no training has seen: {asked['question']}"
        for found in row["passages"][:1]:
            yield f"  it read [{found['id']}] {found['text'][:100]}"
        yield f"  {best} answered: {row['answer']} ({'right' if row['correct'] else 'wrong: ' + str(row['gold'])})"
        options = (f" --choice {shlex.quote(choice)}" for choice in asked.get("choices", []))
        yield f"\nAsk it:   kard answer {shlex.quote(str(run))} {shlex.quote(asked['question'])}{''.join(options)}"
        yield f"Serve it: kard serve {shlex.quote(str(run))}"
        yield f"Mistakes: kard show {shlex.quote(str(run))} mistakes"
    yield f"Report: {run / 'report' / 'index.html'}"


def _mistake_lines(run: Path, count: int, seed: int) -> Iterator[str]:
    mistakes = list(read_jsonl(finished(run, "report") / "mistakes.jsonl"))
    for summary in read_json(run / "results.json")["diagnosis"]:
        method = METHODS[summary["method"]]
        yield f"\n{method.name}: {summary['mistakes']:,} mistakes. {summary['advice']}"
        path = finished(run, f"predictions/{method.trained_on}") / f"{method.name}.jsonl"
        rows = {row["question"]: row for row in read_jsonl(path)}
        for kind in summary["classes"]:
            yield f"\n{method.name}, {kind['what']}: {kind['count']:,}"
            own = [row for row in mistakes if row["method"] == method.name and row["class"] == kind["class"]]
            for mistake in _some(own, count, seed):
                yield from _answer(rows[mistake["question"]])
                if mistake["support"] is not None:
                    yield f"  {mistake['support']:.0%} of the rationale's content words are in the passages"


def _prediction_lines(run: Path, count: int, seed: int) -> Iterator[str]:
    stages = sorted(path.parent.name for path in (run / "predictions").glob(f"*/{MANIFEST}"))
    folders = [finished(run, f"predictions/{name}") for name in stages]
    paths = [
        path for folder in folders for path in sorted(folder.glob("*.jsonl")) if not path.name.startswith("written")
    ]
    if not paths:
        raise UserError(f"{run / 'predictions'}: nothing there yet. Run the recipe to its end.")
    for path in paths:
        rows = list(read_jsonl(path))
        yield f"\n{path.stem}: {len(rows):,} predictions"
        for row in _some(rows, count, seed):
            yield from _answer(row)


def _answer(row: dict[str, Any]) -> Iterator[str]:
    yield f"\n{row['prompt']}\n  wrote: {row['text']}"
    gold = "nothing: the documents do not say" if row["gold"] is None else row["gold"]
    instead = "" if row["correct"] else f", not {gold}"
    yield f"  {'right' if row['correct'] else 'WRONG'}: {row['answer']}{instead}"


def _all_questions(run: Path) -> dict[str, dict[str, Any]]:
    folder = finished(run, "questions")
    return {row["id"]: row for split in ("train", "dev", "test") for row in read_jsonl(folder / f"{split}.jsonl")}


def _some(rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    return random.Random(seed).sample(rows, min(count, len(rows)))


SHOWN = {
    "questions": _questions,
    "knowledge": _passages,
    "rationales": _rationales,
    "candidates": _candidates,
    "reranker": _ranking_lines,
    "students": _student_lines,
    "predictions": _prediction_lines,
    "mistakes": _mistake_lines,
}
"""What can be shown, and the lines of each."""
