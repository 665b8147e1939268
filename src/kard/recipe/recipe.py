"""The whole recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kard.recipe.base import PathIn, Section, Seed
from kard.recipe.sections import (
    EvaluationSection,
    KnowledgeSection,
    QuestionsSection,
    RerankerSection,
    RetrieverSection,
    StudentSection,
)
from kard.recipe.teacher import TeacherSection


class Recipe(Section):
    """All that a run is made from."""

    name: str = ""
    questions: QuestionsSection
    knowledge: KnowledgeSection
    retriever: RetrieverSection = RetrieverSection()
    teacher: TeacherSection = TeacherSection()
    reranker: RerankerSection = RerankerSection()
    student: StudentSection = StudentSection()
    evaluation: EvaluationSection = EvaluationSection()
    seed: Seed = 0
    data_seed: Seed | None = Field(
        None,
        description="decides the split, the order of choices and the teacher's requests in place of seed, so that "
        "runs with other seeds have the same questions and rationales; null: seed",
    )
    tracker: Literal["trackio", "tensorboard", "wandb", "mlflow"] | None = Field(
        None,
        description="hand the finished run to this experiment tracker: losses, measures, recipe, report; it must be "
        "installed, and stays offline unless its own environment variables say otherwise; null: none",
    )
    output: PathIn | None = Field(None, description="run folder; null: runs/NAME in the current folder")

    @model_validator(mode="after")
    def _replies_fit(self) -> Recipe:
        if self.teacher.replies is not None and self.questions.kind not in (
            "jsonl",
            "medqa",
            "strategyqa",
            "openbookqa",
        ):
            raise ValueError(
                f"teacher.replies are by row of one file of questions, and kind {self.questions.kind} has none"
            )
        if self.teacher.replies is not None and self.questions.shuffle_choices:
            raise ValueError("teacher.replies name choices by their letters: set questions.shuffle_choices: false")
        return self

    @model_validator(mode="after")
    def _generation_fits(self) -> Recipe:
        if self.questions.kind != "generated":
            return self
        if not self.teacher.asks:
            raise ValueError(
                f"questions.kind generated needs a teacher that can be asked, kind {self.teacher.kind} cannot: set teacher.kind: "
                "openai, llama_cpp or transformers"
            )
        if self.questions.rationales and self.teacher.rewrite == "ask":
            raise ValueError(
                "teacher.rewrite: ask needs explanations that are asked for: set questions.rationales: false"
            )
        if self.student.answer_as != "text" and "short" in self.questions.kinds:
            raise ValueError(
                "student.answer_as: letters need choices: take short out of questions.kinds, or set it to text"
            )
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> Recipe:
        if self.evaluation.vllm and self.evaluation.engine != "vllm":
            raise ValueError(
                "evaluation.vllm: only vLLM takes its options. Set evaluation.engine: vllm, or leave them out"
            )
        if self.evaluation.engine == "vllm" and self.reranker.likelihood_weight:
            raise ValueError(
                "reranker.likelihood_weight: vLLM writes only. Set it to null, or evaluation.engine: transformers"
            )
        if self.evaluation.engine == "vllm" and self.student.answer_by == "likelihood":
            raise ValueError("student.answer_by: likelihood needs evaluation.engine: transformers. Set one of the two")
        return self

    @property
    def seed_of_data(self) -> int:
        """What decides questions and rationales; ``seed`` alone decides what training draws."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def explainer(self) -> TeacherSection:
        """The teacher as it explains answers: not asked where explanations came with generated questions."""
        came_along = self.questions.kind == "generated" and self.questions.rationales
        return self.teacher.model_copy(update={"kind": "recorded"}) if came_along else self.teacher

    @property
    def evaluated_size(self) -> int | None:
        """How many questions are answered to measure the methods, where the recipe says."""
        return self.questions.test_size if self.evaluation.split == "test" else self.questions.dev_size

    @property
    def explained_count(self) -> int | None:
        """How many training questions need rationales; None means all."""
        wanted = (self.student.train_questions, self.reranker.train_questions)
        return None if None in wanted else max(size for size in wanted if size is not None)
