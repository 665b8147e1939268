"""`Kard`: the one answering path. Predictions, `kard answer`, `kard batch` and any server go through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kard.artifacts import check_run, manifest_of
from kard.errors import UserError
from kard.knowledge import Passage, read_passages
from kard.methods import Method, methods_named
from kard.prompt import extract, same_answer, shown_answer
from kard.questions import Question
from kard.recipe import Recipe, recipe_from_run

if TYPE_CHECKING:
    from kard.reranker.model import Reranker
    from kard.retrieval.bm25 import Bm25
    from kard.student.generation import Student, Written

PREFERRED = ("kard_reranker", "kard_bm25", "distill", "finetune")


@dataclass(frozen=True)
class Found:
    """A passage that was read for a question, with the scores that brought it there (None where there is none)."""

    passage: Passage
    bm25: float | None = None
    reranker: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a student said.

    Attributes:
        question: The question's id.
        answer: The answer in words, or None where no choice could be read off the text.
        choice: Its index into the choices, or None.
        rationale: The explanation that it wrote.
        passages: What it read, best first.
        prompt: The whole text that it read.
        text: The whole text that it wrote.
        cut: The explanation ended without ``Answer:``, which was written for it.
        seconds: Its share of the time of writing.
        confidence: The share of the samples that came to this answer (0 where none came to one), or its probability among
            the choices (``answer_by: likelihood``); None where neither was asked for.
    """

    question: str
    answer: str | None
    choice: int | None
    rationale: str
    passages: tuple[Found, ...]
    prompt: str
    text: str
    cut: bool
    seconds: float
    confidence: float | None = None


@dataclass(frozen=True)
class Kard:
    """A student with what it needs to find passages.

    Load one with `Kard.load`, or put one together from parts; parts that the method does not use may be None.
    """

    method: Method
    student: Student
    passages: list[Passage]
    retriever: Bm25 | None
    reranker: Reranker | None
    recipe: Recipe

    @classmethod
    def load(cls, run: str | Path, method: str | None = None) -> Kard:
        """Load a finished run.

        Args:
            run: The run's folder.
            method: One of the run's methods; by default its best one that needs no oracle.

        Raises:
            UserError: The folder is no run, or the run did not get that far.
        """
        folder = Path(run)
        check_run(folder)
        recipe = recipe_from_run(folder)
        chosen = _method_for(recipe, method)
        parts = load_readers(folder, recipe, [chosen])
        return cls(chosen, load_student(folder, recipe, chosen.trained_on), *parts, recipe)

    def answer(self, question: str, choices: Sequence[str] | None = None) -> Answer:
        """Answer one question, with choices or without."""
        return self.answer_many([Question(id="question", question=question, choices=tuple(choices or ()))])[0]

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions in batches; the order of the results is that of the questions."""
        found = self.read(questions)
        prompts = self.prompts(questions, found)
        written = self.write(questions, prompts)
        return [
            self.parse(question, passages, written[prompt])
            for question, passages, prompt in zip(questions, found, prompts, strict=True)
        ]

    def read(self, questions: Sequence[Question], wanted: int | None = None) -> list[list[Found]]:
        """Find the passages that go into each question's prompt, best first (KARD equation 5: BM25 top κ*, reranker, top k).

        Args:
            questions: Whose choices may be a part of the query.
            wanted: k; None: ``evaluation.passages``.
        """
        wanted = wanted or self.recipe.evaluation.passages
        if self.method.reads == "nothing":
            return [[] for _ in questions]
        if self.method.is_oracle:
            raise UserError(
                f"{self.method.name}: an oracle reads what no question brings. Choose a method that is none."
            )
        assert self.retriever is not None
        queries = [question.query(self.recipe.retriever.query) for question in questions]
        if self.method.reads == "bm25":
            hits = self.retriever.search(queries, wanted)
            return [
                [Found(self.passages[p], float(score)) for p, score in zip(hit.positions, hit.scores, strict=True)]
                for hit in hits
            ]
        hits = self.retriever.search(queries, self.recipe.retriever.candidates)
        return [
            self._reranked(hit, scores, wanted) for hit, scores in zip(hits, self.rerank(questions, hits), strict=True)
        ]

    def rerank(self, questions: Sequence[Question], hits: Sequence[Any]) -> list[Any]:
        """The reranker's scores of each question's BM25 hits, in their order."""
        assert self.reranker is not None
        forms = [reranker_queries(question, self.recipe.reranker.choices) for question in questions]
        return self.reranker.score(forms, [hit.positions for hit in hits])

    def prompts(self, questions: Sequence[Question], found: Sequence[Sequence[Found]]) -> list[str]:
        """The text that the student reads for each question."""
        return [
            self.student.prompt(
                question.question,
                question.choices,
                [item.passage.full_text for item in passages],
                self.method.writes,
            )
            for question, passages in zip(questions, found, strict=True)
        ]

    def write(
        self,
        questions: Sequence[Question],
        prompts: Sequence[str],
        done: Callable[[list[Written]], None] = lambda written: None,
        known: Mapping[str, Written] = MappingProxyType({}),
        share: tuple[int, int] = (0, 1),
    ) -> dict[str, Written]:
        """What the student writes after each distinct prompt; see `Student.write`."""
        from kard.student.generation import Writing
        from kard.student.sampling import Sampling

        section = self.recipe.evaluation
        drawn = Sampling(section.samples, section.temperature, section.top_k, section.top_p, self.recipe.seed)
        how = Writing(
            self.method.writes,
            section.batch_size,
            section.batch_tokens,
            self.recipe.student.answer_by,
            drawn if section.samples > 1 else None,
            share,
        )
        form = self.student.settings.answer_as
        answers = [[shown_answer(q.choices, index, form) for index in range(len(q.choices))] for q in questions]
        return self.student.write(dict(zip(prompts, answers, strict=True)), how, done, known)

    def parse(self, question: Question, found: Sequence[Found], written: Written) -> Answer:
        """Read rationale and answer off what the student wrote; of several samples the majority decides."""
        form = self.student.settings.answer_as
        texts = written.samples or [written.text]
        read = [extract(text, question.choices, self.method.writes, form) for text in texts]
        place, votes = majority([item.answer for item in read])
        stated = read[place].answer
        choice = stated if isinstance(stated, int) else None
        answer = question.choices[choice] if choice is not None else stated
        assert answer is None or isinstance(answer, str)
        return Answer(
            question=question.id,
            answer=answer,
            choice=choice,
            rationale=read[place].rationale,
            passages=tuple(found),
            prompt=written.prompt,
            text=texts[place],
            cut=written.cut,
            seconds=written.seconds,
            confidence=votes / len(texts) if written.samples else written.confidence,
        )

    def with_method(self, method: Method) -> Kard:
        """The same parts under another method of the same student."""
        return replace(self, method=method)

    def _reranked(self, hit: Any, scores: Any, wanted: int) -> list[Found]:
        # Equal scores keep BM25's order: Python's sort is stable.
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:wanted]
        return [Found(self.passages[hit.positions[i]], float(hit.scores[i]), float(scores[i])) for i in order]


def majority(answers: Sequence[int | str | None]) -> tuple[int, int]:
    """The first place of the most frequent answer, and how often it is there; None is no answer, the earliest wins a tie."""
    same = [
        [place for place, other in enumerate(answers) if other is not None and same_answer(answer, other)]
        for answer in answers
    ]
    best = max(range(len(answers)), key=lambda place: (len(same[place]), -place))
    return best, len(same[best])


def found_row(item: Found) -> dict[str, Any]:
    """A passage with its scores, as predictions, reports and the command line show it."""
    passage = item.passage
    shown = {"id": passage.id, "title": passage.title, "text": passage.text, "source": passage.source}
    return {**shown, "bm25": item.bm25, "reranker": item.reranker}


def reranker_queries(question: Question, form: str) -> tuple[str, ...]:
    """How the reranker reads a question (``reranker.choices``)."""
    if not question.choices or form == "none":
        return (question.question,)
    if form == "together":
        return (question.query("question_and_choices"),)
    return tuple(f"{question.question} {choice}" for choice in question.choices)


def load_student(folder: Path, recipe: Recipe, trained_on: str) -> Student:
    """A trained student of a run, ready to write with the engine that the recipe names."""
    student = finished(folder, f"students/{trained_on}")
    if recipe.evaluation.engine == "vllm":
        from kard.student.vllm import VllmStudent

        return VllmStudent.load(student)
    from kard.student.generation import Student

    return Student.load(student)


def load_readers(
    folder: Path, recipe: Recipe, methods: Sequence[Method]
) -> tuple[list[Passage], Bm25 | None, Reranker | None]:
    """Passages, retriever and reranker of a run, as far as the methods read them."""
    reads = {method.reads for method in methods}
    if reads == {"nothing"}:
        return [], None, None
    from kard.retrieval.bm25 import Bm25

    passages = read_passages(finished(folder, "knowledge") / "passages.jsonl")
    retriever = Bm25.load(finished(folder, "index"))
    reranker = load_reranker(folder, recipe, passages) if "reranker" in reads else None
    return passages, retriever, reranker


def load_reranker(folder: Path, recipe: Recipe, passages: Sequence[Passage]) -> Reranker:
    """The trained reranker of a run, with the passage vectors that the run has computed so far."""
    from kard.reranker.model import Reranker

    store = passage_store(folder, recipe)
    return Reranker.load(finished(folder, "reranker") / "model", store, [passage.full_text for passage in passages])


def passage_store(folder: Path, recipe: Recipe) -> Path:
    """Where the passage vectors of a run lie; another encoder or another knowledge base has another folder."""
    from kard.reranker.vectors import vectors_folder
    from kard.weights import model_identity

    manifest = manifest_of(finished(folder, "knowledge"))
    assert manifest is not None
    identity = model_identity(recipe.reranker.model)
    return vectors_folder(folder, identity, recipe.reranker.passage_tokens, manifest["key"])


def finished(folder: Path, stage: str) -> Path:
    """The folder of a stage that is complete.

    Raises:
        UserError: The run did not get that far.
    """
    path = folder / stage
    if manifest_of(path) is None:
        raise UserError(f"{path}: this stage is not finished. Run 'kard run RECIPE --output {folder}' to its end.")
    return path


def _method_for(recipe: Recipe, name: str | None) -> Method:
    methods = methods_named(recipe.evaluation.methods)
    if name is not None:
        chosen = next((method for method in methods if method.name == name), None)
        if chosen is None:
            raise UserError(
                f"method '{name}' is not in this run. It has: {', '.join(method.name for method in methods)}."
            )
        return chosen
    for preferred in PREFERRED:
        for method in methods:
            if method.name == preferred:
                return method
    raise UserError(
        "this run has only oracle methods, which cannot answer new questions. Add kard_bm25 to evaluation.methods."
    )
