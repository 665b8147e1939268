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
from kard.prompt import extract, shown_answer
from kard.questions import Question
from kard.recipe import Recipe, recipe_from_run

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
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


@dataclass(frozen=True)
class Kard:
    """A student with what it needs to find passages.

    Load one with `Kard.load`, or put one together from parts; parts that the method does not use may be None.
    """

    method: Method
    student: Student
    passages: list[Passage]
    retriever: Bm25 | None
    reranker: Reranker | CrossReranker | None
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
        from kard.student.generation import Student

        return cls(chosen, Student.load(finished(folder, f"students/{chosen.trained_on}")), *parts, recipe)

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

    def read(self, questions: Sequence[Question]) -> list[list[Found]]:
        """Find the passages that go into each question's prompt, best first (KARD equation 5: BM25 top κ*, reranker, top k)."""
        wanted = self.recipe.evaluation.passages
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
    ) -> dict[str, Written]:
        """What the student writes after each distinct prompt; see `Student.write`."""
        answers = [self._answers(question) for question in questions]
        distinct = dict(zip(prompts, answers, strict=True))
        return self.student.write(distinct, self.method.writes, self.recipe.evaluation.batch_size, done, known)

    def _answers(self, question: Question) -> list[str]:
        """The answers that may be written, in the form that the student learned; none where any may."""
        if self.recipe.student.answer_by == "generate":
            return []
        form = self.student.settings.answer_as
        return [shown_answer(question.choices, index, form) for index in range(len(question.choices))]

    def parse(self, question: Question, found: Sequence[Found], written: Written) -> Answer:
        """Read rationale and answer off what the student wrote."""
        read = extract(written.text, question.choices, self.method.writes, self.student.settings.answer_as)
        choice = read.answer if isinstance(read.answer, int) else None
        answer = question.choices[choice] if choice is not None else read.answer
        assert answer is None or isinstance(answer, str)
        return Answer(
            question=question.id,
            answer=answer,
            choice=choice,
            rationale=read.rationale,
            passages=tuple(found),
            prompt=written.prompt,
            text=written.text,
            cut=written.cut,
            seconds=written.seconds,
        )

    def with_method(self, method: Method) -> Kard:
        """The same parts under another method of the same student."""
        return replace(self, method=method)

    def _reranked(self, hit: Any, scores: Any, wanted: int) -> list[Found]:
        # Equal scores keep BM25's order: Python's sort is stable.
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:wanted]
        return [Found(self.passages[hit.positions[i]], float(hit.scores[i]), float(scores[i])) for i in order]


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


def load_readers(
    folder: Path, recipe: Recipe, methods: Sequence[Method]
) -> tuple[list[Passage], Bm25 | None, Reranker | CrossReranker | None]:
    """Passages, retriever and reranker of a run, as far as the methods read them."""
    reads = {method.reads for method in methods}
    if reads == {"nothing"}:
        return [], None, None
    from kard.retrieval.bm25 import Bm25

    passages = read_passages(finished(folder, "knowledge") / "passages.jsonl")
    retriever = Bm25.load(finished(folder, "index"))
    reranker = load_reranker(folder, recipe, passages) if "reranker" in reads else None
    return passages, retriever, reranker


def load_reranker(folder: Path, recipe: Recipe, passages: Sequence[Passage]) -> Reranker | CrossReranker:
    """The trained reranker of a run, with the passage vectors that the run has computed so far."""
    from kard.reranker import open_reranker

    trained = finished(folder, "reranker")
    store = trained / "vectors" if recipe.reranker.train == "both" else passage_store(folder, recipe)
    texts = [passage.full_text for passage in passages]
    return open_reranker(str(trained / "model"), recipe.reranker, store, texts)


def passage_store(folder: Path, recipe: Recipe) -> Path:
    """Where the passage vectors of a run lie; another encoder or another knowledge base has another folder.

    A passage side that is trained as well is an encoder of its own: its vectors lie in the reranker's folder.
    """
    from kard.reranker.vectors import vectors_folder
    from kard.weights import model_identity

    manifest = manifest_of(finished(folder, "knowledge"))
    assert manifest is not None
    section = recipe.reranker
    identity = model_identity(section.model)
    return vectors_folder(folder, identity, section.passage_tokens, manifest["key"], section.vectors)


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
