"""What each method costs, so that accuracy can be read against price: operations, tokens, seconds, and the teacher's money.

A forward pass takes 2·N operations a token and training 6·N (Kaplan et al. 2020), N being the parameters that take part: all but
looked-up embeddings, and the output layer for written tokens alone. With frozen weights and adapters, training takes 4·N,
because no gradients of N are computed, and 6 for each parameter of the adapters. Attention over earlier tokens, padding,
search and reranking are not counted in operations; the reranker's training is in the seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts.files import read_json
from kard.artifacts.folders import manifest_of
from kard.methods import METHODS, TRAINING_SETS, Method
from kard.run import Run
from kard.teacher.limits import Spent

if TYPE_CHECKING:
    from kard.student.loading import StudentSize


def costs(run: Run, predictions: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The price of each method.

    Args:
        run: The run.
        predictions: By method, its rows.

    Returns:
        One object a method: ``train_flops``, ``train_tokens`` (all epochs together; both None where the student's folder does
        not say), ``train_seconds`` (student, and reranker where it is read), ``answer_flops``, ``read_tokens``,
        ``written_tokens``, ``answer_seconds`` (means over questions), ``teacher_tokens`` and ``teacher_usd`` (of all
        rationales that it learned from or was told, rejected ones too; None without prices).
    """
    return [_cost(run, METHODS[name], rows) for name, rows in predictions.items()]


def _cost(run: Run, method: Method, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from kard.student.loading import student_size

    recipe, folder = run.recipe, run.folder / "students" / method.trained_on
    size, n = student_size(folder), len(rows)
    read, written = answer_tokens(folder, rows, recipe.evaluation.samples)
    spent = teacher_spent(run, method)
    resources = recipe.teacher.resources
    return {
        "method": method.name,
        **_training(folder, size, recipe.student.method == "lora"),
        "train_seconds": sum(_seconds(run.folder / name) for name in _trained(method)),
        "answer_flops": forward_flops(size, read, written) / n,
        "read_tokens": read / n,
        "written_tokens": written / n,
        "answer_seconds": sum(row["seconds"] for row in rows) / n,
        "teacher_tokens": spent.prompt_tokens + spent.completion_tokens,
        "teacher_usd": spent.usd(resources) if resources.has_prices else None,
    }


def forward_flops(size: StudentSize, read: float, written: float) -> float:
    """Operations of reading and writing so many tokens."""
    return 2 * (size.reading * read + size.writing * written)


def training_flops(size: StudentSize, read: float, written: float, frozen: bool) -> float:
    """Operations of training on so many tokens of prompts and targets; `frozen`: adapters alone are trained."""
    passes = 2 if frozen else 3
    return passes * forward_flops(size, read, written) + 6 * size.adapters * (read + written)


def answer_tokens(folder: Path, rows: Sequence[dict[str, Any]], samples: int) -> tuple[int, int]:
    """How many tokens a student read and wrote for some predictions, end tokens included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    prompts = tokenizer.encode_batch_fast([row["prompt"] for row in rows])
    texts = tokenizer.encode_batch_fast([row["text"] for row in rows], add_special_tokens=False)
    return sum(map(len, prompts)), samples * sum(len(text) + 1 for text in texts)


def teacher_spent(run: Run, method: Method) -> Spent:
    """Tokens of the rationales that a method's student learned from, and of those that it is told at test time; and of the
    training questions, where the teacher made them.

    Worked examples of prompted methods are a handful, and not counted.
    """
    splits = ["train"] if TRAINING_SETS[method.trained_on].from_rationales and method.trained_on != "nothing" else []
    splits += [run.recipe.evaluation.split] if method.needs_test_rationales else []
    of = {question.id for split in splits for question in run.questions(split)}
    usages = [one.usage for one in run.rationales() if one.question in of]
    tokens = [sum(usage.get(name) or 0 for usage in usages) for name in ("prompt_tokens", "completion_tokens")]
    own = [one.usage for one in run.generated() if one.split == "train" and method.trained_on != "nothing"]
    asked = [sum(usage.get(name) or 0 for usage in own) for name in ("requests", "prompt_tokens", "completion_tokens")]
    return Spent(len(usages), *tokens) + Spent(*asked)


def _training(folder: Path, size: StudentSize, frozen: bool) -> dict[str, Any]:
    path = folder / "training.json"
    if not path.exists():  # prompted
        return {"train_tokens": 0, "train_flops": 0}
    tokens = read_json(path).get("tokens")
    if tokens is None:  # trained before it was written down
        return {"train_tokens": None, "train_flops": None}
    read, written = tokens["read"], tokens["written"]
    return {"train_tokens": read + written, "train_flops": training_flops(size, read, written, frozen)}


def _trained(method: Method) -> list[str]:
    student = [f"students/{method.trained_on}"] if method.trained_on != "nothing" else []
    return student + (["reranker"] if method.reads == "reranker" else [])


def _seconds(folder: Path) -> float:
    manifest = manifest_of(folder)
    return float(manifest["seconds"]) if manifest else 0.0
