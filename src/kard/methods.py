"""The methods of the paper's tables as data: how each is trained, what it reads, what it writes.

Rows with the same `trained_on` share one student; `reads` names where the passages of a test prompt come from.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from kard.errors import UserError, nearest

TrainedOn = Literal["nothing", "answers", "answers_passages", "answers_silver", "rationales", "rationales_silver"]
Reads = Literal["nothing", "bm25", "reranker", "silver", "gold", "teacher_rationale"]
Writes = Literal["answer", "rationale"]


@dataclass(frozen=True)
class TrainingSet:
    """What the examples of a student look like: `writes` is the form of their targets, `reads` what finds their passages."""

    writes: Writes
    reads: Literal["nothing", "question", "silver"]
    from_rationales: bool


TRAINING_SETS: dict[TrainedOn, TrainingSet] = {
    "nothing": TrainingSet("rationale", "silver", True),  # worked examples
    "answers": TrainingSet("answer", "nothing", False),
    "answers_passages": TrainingSet("answer", "question", False),
    "answers_silver": TrainingSet("answer", "silver", True),
    "rationales": TrainingSet("rationale", "nothing", True),
    "rationales_silver": TrainingSet("rationale", "silver", True),
}


@dataclass(frozen=True)
class Method:
    """One row: `trained_on` picks the student, `reads` the passages at test time, `writes` the form of its output.

    One that `ranks_choices` takes the choice that student and reranker together find the likeliest.
    """

    name: str
    trained_on: TrainedOn
    reads: Reads
    writes: Writes
    label: str
    ranks_choices: bool = False

    @property
    def is_oracle(self) -> bool:
        """Whether it is told something at test time that no user could know (a rationale or passage for the answer)."""
        return self.reads in ("silver", "gold", "teacher_rationale")

    @property
    def needs_test_rationales(self) -> bool:
        """Whether the questions that it answers must have been explained."""
        return self.reads in ("silver", "teacher_rationale")

    @property
    def reads_passages(self) -> bool:
        """Whether passages stand in its prompts."""
        return self.reads not in ("nothing", "teacher_rationale")


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("few_shot", "nothing", "nothing", "answer", "few-shot prompt"),
        Method("few_shot_cot", "nothing", "nothing", "rationale", "few-shot prompt, chain of thought"),
        Method("ka_few_shot", "nothing", "bm25", "answer", "few-shot prompt with BM25 passages (plain RAG)"),
        Method(
            "ka_few_shot_cot", "nothing", "bm25", "rationale", "few-shot prompt with BM25 passages, chain of thought"
        ),
        Method("finetune", "answers", "nothing", "answer", "fine-tuning on answers"),
        Method("ka_finetune", "answers_passages", "bm25", "answer", "fine-tuning on answers with BM25 passages"),
        Method(
            "ka_finetune_reranker",
            "answers_silver",
            "reranker",
            "answer",
            "fine-tuning on answers with silver passages, passages by reranker",
        ),
        Method(
            "kard_plus",
            "answers_silver",
            "reranker",
            "answer",
            "KARD plus: student and reranker answer together",
            ranks_choices=True,
        ),
        Method("distill", "rationales", "nothing", "rationale", "reasoning distillation"),
        Method("kard_bm25", "rationales_silver", "bm25", "rationale", "KARD, passages by BM25"),
        Method("kard_reranker", "rationales_silver", "reranker", "rationale", "KARD, passages by reranker"),
        Method("kard_silver", "rationales_silver", "silver", "rationale", "KARD, silver passages (oracle)"),
        Method("kard_gold", "rationales_silver", "gold", "rationale", "KARD, gold passages (oracle)"),
        Method(
            "teacher_cot", "rationales", "teacher_rationale", "answer", "teacher's rationale in the prompt (oracle)"
        ),
    )
}


# Which of a run's methods answers where none is named: the first of these.
PREFERRED = (
    "kard_reranker",
    "kard_bm25",
    "kard_plus",
    "ka_finetune_reranker",
    "distill",
    "finetune",
    "ka_finetune",
    "ka_few_shot_cot",
    "ka_few_shot",
    "few_shot_cot",
    "few_shot",
)


def preferred(names: Collection[str]) -> str | None:
    """The method to answer by, of some; None where all are oracles."""
    return next((name for name in PREFERRED if name in names), None)


def without_passages(method: Method) -> Method:
    """The same student reading the question alone: what would it say without the passages? It is no row of the paper's tables
    (there, `distill` is trained for this), and no run evaluates it."""
    label = "the same student, without passages"
    return replace(method, name="no_passages", reads="nothing", label=label, ranks_choices=False)


def methods_named(names: tuple[str, ...]) -> list[Method]:
    """The methods that a recipe asks for, in the table's order.

    Raises:
        UserError: An unknown name.
    """
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"evaluation.methods: unknown method '{name}'{nearest(name, METHODS)}. Choose from: {', '.join(METHODS)}."
            )
    return [method for method in METHODS.values() if method.name in names]


def check_no_oracle(method: Method) -> None:
    """Raise UserError where a method needs more than a question brings."""
    if method.is_oracle:
        raise UserError(f"{method.name}: an oracle reads what no question brings. Choose a method that is none.")
