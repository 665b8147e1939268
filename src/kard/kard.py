"""`Kard`: the one answering path. Predictions, `kard answer`, `kard batch` and any server go through it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kard.artifacts import check_run, hash_of, manifest_of
from kard.data.passage import Passage
from kard.data.question import Question, check_asked
from kard.data.textfile import cleaned
from kard.errors import UserError
from kard.methods import Method, Writes, check_no_oracle, methods_named, without_passages
from kard.parts import finished, load_readers, load_student
from kard.prompt import check_letters, extract, holds_question, same_answer, shown_answer
from kard.recipe import Recipe
from kard.recipe_file import recipe_from_run
from kard.reranker.features import priors

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker
    from kard.retrieval.retriever import Retriever
    from kard.student.generation import Hear, Student, Written

PREFERRED = (
    "kard_reranker",
    "kard_bm25",
    "distill",
    "finetune",
    "ka_finetune",
    "ka_few_shot_cot",
    "ka_few_shot",
    "few_shot_cot",
    "few_shot",
)


@dataclass(frozen=True)
class Found:
    """A passage that was read for a question, with the scores that brought it there (None where there is none).

    `reranker` has the priors in it; `likelihood` is log p(question | passage) by the student, of those it looked at again.
    """

    passage: Passage
    retriever: float | None = None
    reranker: float | None = None
    likelihood: float | None = None


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
        confidence: How probable the student finds its answer among the choices, after its own explanation (0 to 1; None for
            open questions and where no answer was read off). Of several samples, the share that came to this one.
        question_cut: The question did not fit into ``student.max_input_tokens``: only its end was read.
        candidates: All that was considered, best first; `passages` are its first ones.
        steps: Seconds that finding, reranking and writing took, for all questions that were answered together.
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
    question_cut: bool = False
    candidates: tuple[Found, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """The answer as notebooks show it: what it is, how sure, why, and what was read."""
        from kard.notebook import answer_html

        return answer_html(self)


@dataclass(frozen=True)
class Listener:
    """Who wants to know what happens to a question before its answer is whole: what was found, and each state of the text."""

    found: Callable[[list[Found]], None]
    text: Hear


@dataclass(frozen=True)
class Kard:
    """A student with what it needs to find passages.

    Load one with `Kard.load`, or put one together from parts; parts that the method does not use may be None.
    """

    method: Method
    student: Student
    passages: Sequence[Passage]
    retriever: Retriever | None
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
        return cls(chosen, load_student(folder, recipe, chosen.trained_on), *parts, recipe)

    def answer(self, question: str, choices: Sequence[str] | None = None) -> Answer:
        """Answer one question, with choices or without."""
        return self.answer_many([Question(id="question", question=question, choices=tuple(choices or ()))])[0]

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions in batches; the order of the results is that of the questions."""
        return self.answer_each([(question, self.method) for question in questions])

    def answer_each(
        self, asked: Sequence[tuple[Question, Method]], listeners: Mapping[int, Listener] = MappingProxyType({})
    ) -> list[Answer]:
        """Answer questions, each under its own method; what has to be written is written together.

        Args:
            asked: Questions and methods, of those that `methods` names.
            listeners: By place in `asked`.
        """
        asked = [(_whole(question), method) for question, method in asked]
        for question, _ in asked:
            check_asked(question)
        steps = {"search": 0.0, "rerank": 0.0}
        candidates: list[list[Found]] = [[] for _ in asked]
        for method in dict.fromkeys(method for _, method in asked):
            places = [place for place, (_, wanted) in enumerate(asked) if wanted == method]
            found = self.with_method(method).candidates([asked[place][0] for place in places], steps)
            for place, row in zip(places, found, strict=True):
                candidates[place] = row
        read = [row[: self.recipe.evaluation.passages] for row in candidates]
        prompts = [
            self.with_method(method).prompts([question], [passages])[0]
            for (question, method), passages in zip(asked, read, strict=True)
        ]
        hear: dict[str, Hear] = {}
        for place, listener in listeners.items():
            listener.found(candidates[place])
            hear[prompts[place]] = _both(hear.get(prompts[place]), listener.text)
        start = monotonic()
        written = self.write(asked, prompts, hear=hear)
        steps["write"] = monotonic() - start
        rows = zip(asked, read, prompts, candidates, strict=True)
        return [
            replace(
                self.with_method(method).parse(question, passages, written[prompt]),
                candidates=tuple(considered),
                steps=steps,
            )
            for (question, method), passages, prompt, considered in rows
        ]

    def methods(self) -> dict[str, Method]:
        """What this student can be asked under, by name: the run's methods that share it and need no oracle, and one
        that reads nothing."""
        own = [self.method, *methods_named(self.recipe.evaluation.methods)]
        there = {
            method.name: method
            for method in own
            if method.trained_on == self.method.trained_on
            and not method.is_oracle
            and (not method.reads_passages or self.retriever is not None)
            and (method.reads != "reranker" or self.reranker is not None)
        }
        reads_nothing = any(method.reads == "nothing" for method in there.values())
        return there if reads_nothing else there | {"no_passages": without_passages(self.method)}

    def check(self, question: Question) -> None:
        """Raise UserError where a question cannot be put to this student: too long, say, or without the choices it needs."""
        check_asked(question)
        check_letters(question.choices, self.student.settings.answer_as, "question")
        self.prompts([question], [[]])

    def read(self, questions: Sequence[Question], wanted: int | None = None) -> list[list[Found]]:
        """Find the passages that go into each question's prompt, best first (KARD equation 5: BM25 top κ*, reranker, top k).

        Args:
            questions: Whose choices may be a part of the query.
            wanted: k; None: ``evaluation.passages``.
        """
        wanted = wanted or self.recipe.evaluation.passages
        return [row[:wanted] for row in self.candidates(questions, {}, wanted)]

    def candidates(
        self, questions: Sequence[Question], steps: dict[str, float], wanted: int | None = None
    ) -> list[list[Found]]:
        """All passages that are considered for each question, at least `wanted` (None: ``evaluation.passages``), best first;
        the seconds of ``search`` and ``rerank`` are added to `steps`."""
        if self.method.reads == "nothing":
            return [[] for _ in questions]
        check_no_oracle(self.method)
        assert self.retriever is not None
        queries = [question.query(self.recipe.retriever.query) for question in questions]
        start = monotonic()
        considered, read = self.recipe.retriever.candidates, wanted or self.recipe.evaluation.passages
        hits = self.retriever.search(queries, considered if self.method.reads == "reranker" else max(considered, read))
        found = monotonic()
        steps["search"] = steps.get("search", 0.0) + found - start
        if self.method.reads == "bm25":
            return [
                [Found(self.passages[p], float(score)) for p, score in zip(hit.positions, hit.scores, strict=True)]
                for hit in hits
            ]
        rows = [self._reranked(hit, scores) for hit, scores in zip(hits, self.rerank(questions, hits), strict=True)]
        rows = self._second_look(questions, rows)
        steps["rerank"] = steps.get("rerank", 0.0) + monotonic() - found
        return rows

    def rerank(self, questions: Sequence[Question], hits: Sequence[Any]) -> list[Any]:
        """The reranker's scores of each question's BM25 hits, in their order, with what is added to them."""
        assert self.reranker is not None
        section = self.recipe.reranker
        forms = [reranker_queries(question, section.choices) for question in questions]
        scores = self.reranker.score(forms, [hit.positions for hit in hits])
        known = priors(section, questions, hits, self.passages)
        return [row + prior for row, prior in zip(scores, known, strict=True)]

    def _second_look(self, questions: Sequence[Question], rows: list[list[Found]]) -> list[list[Found]]:
        """The first passages of each question in the order of exp(f(d, x)/τ2) · p(x | d)^λ, where the student is asked: those
        that the reranker finds about as probable as its first one. All others keep their places."""
        section = self.recipe.reranker
        if section.likelihood_weight is None or self.student is None or self.reranker is None:
            return rows
        weight, temperature = section.likelihood_weight, self.reranker.temperature
        margin = -temperature * math.log(section.likelihood_near)
        close = [[item for item in row if _score(row[0]) - _score(item) <= margin] for row in rows]
        close = [row[: section.likelihood_passages] if len(row) > 1 else [] for row in close]
        pairs = [(q.question, item.passage.full_text) for q, row in zip(questions, close, strict=True) for item in row]
        likely = iter(self.student.question_likelihoods(pairs))
        looked = [[replace(item, likelihood=next(likely)) for item in row] for row in close]

        def first(item: Found) -> float:
            return -(_score(item) / temperature + weight * (item.likelihood or 0.0))

        return [[*sorted(some, key=first), *row[len(some) :]] for some, row in zip(looked, rows, strict=True)]

    def prompts(self, questions: Sequence[Question], found: Sequence[Sequence[Found]]) -> list[str]:
        """The text that the student reads for each question; to that of teacher_cot a rationale must be added
        (`prompt.with_rationale`)."""
        method = self.method
        return [
            self.student.prompt(
                question.question,
                question.choices,
                [item.passage.full_text for item in passages],
                "rationale" if method.reads == "teacher_rationale" else method.writes,
                method.reads_passages,
            )
            for question, passages in zip(questions, found, strict=True)
        ]

    def write(
        self,
        asked: Sequence[tuple[Question, Method]],
        prompts: Sequence[str],
        done: Callable[[list[Written]], None] = lambda written: None,
        known: Mapping[str, Written] = MappingProxyType({}),
        share: tuple[int, int] = (0, 1),
        hear: Mapping[str, Hear] = MappingProxyType({}),
    ) -> dict[str, Written]:
        """What the student writes after each distinct prompt of a question under a method; see `Student.write`."""
        from kard.student.generation import Writing
        from kard.student.sampling import Sampling

        section = self.recipe.evaluation
        drawn = Sampling(section.samples, section.temperature, section.top_k, section.top_p, self.recipe.seed)
        form = self.student.settings.answer_as
        answers: dict[Writes, dict[str, list[str]]] = {}
        for (question, method), prompt in zip(asked, prompts, strict=True):
            shown = [shown_answer(question.choices, index, form) for index in range(len(question.choices))]
            answers.setdefault(method.writes, {})[prompt] = shown
        written: dict[str, Written] = {}
        for writes, by_prompt in answers.items():
            how = Writing(
                writes,
                section.batch_size,
                section.batch_tokens,
                self.recipe.student.answer_by,
                drawn if section.samples > 1 else None,
                share,
            )
            written |= self.student.write(by_prompt, how, done, known, hear)
        return written

    def parse(self, question: Question, found: Sequence[Found], written: Written) -> Answer:
        """Read rationale and answer off what the student wrote; of several samples the majority decides."""
        form = self.student.settings.answer_as
        texts = written.samples or [written.text]
        read = [extract(text, question.choices, self.method.writes, form) for text in texts]
        place, votes = majority([item.answer for item in read])
        best = read[place]
        choice = best.answer if isinstance(best.answer, int) else None
        answer = question.choices[choice] if choice is not None else best.answer
        assert answer is None or isinstance(answer, str)
        return Answer(
            question=question.id,
            answer=answer,
            choice=choice,
            rationale=best.rationale,
            passages=tuple(found),
            prompt=written.prompt,
            text=texts[place],
            cut=written.cut,
            question_cut=not holds_question(written.prompt, question.question),
            seconds=written.seconds,
            confidence=votes / len(texts) if written.samples else written.confidence if choice is not None else None,
        )

    def with_method(self, method: Method) -> Kard:
        """The same parts under another method of the same student."""
        return replace(self, method=method)

    def _reranked(self, hit: Any, scores: Any) -> list[Found]:
        # Equal scores keep BM25's order: Python's sort is stable.
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return [Found(self.passages[hit.positions[i]], float(hit.scores[i]), float(scores[i])) for i in order]


def _whole(question: Question) -> Question:
    """The question as a text that any tokenizer takes: a command line may hand over bytes that are none."""
    asked, *choices = cleaned([question.question, *question.choices], Counter())
    return replace(question, question=asked, choices=tuple(choices))


def _score(item: Found) -> float:
    assert item.reranker is not None
    return item.reranker


def _both(first: Hear | None, second: Hear) -> Hear:
    """Two questions may have the same prompt, which is written once."""
    if first is None:
        return second

    def tell(text: str) -> None:
        first(text)
        second(text)

    return tell


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
    return {**shown, "retriever": item.retriever, "reranker": item.reranker, "likelihood": item.likelihood}


def reranker_queries(question: Question, form: str) -> tuple[str, ...]:
    """How the reranker reads a question (``reranker.choices``)."""
    if not question.choices or form == "none":
        return (question.question,)
    if form == "together":
        return (question.query("question_and_choices"),)
    return tuple(f"{question.question} {choice}" for choice in question.choices)


def answerer(run: Path, name: str | None) -> dict[str, str]:
    """Who answers: the method that `Kard.load` would choose, and a hash of all in the run that its answers depend on; an export
    has that of its run.

    Raises:
        UserError: As `Kard.load`.
    """
    check_run(run)
    recipe = recipe_from_run(run)
    method = _method_for(recipe, name)
    stages = ["knowledge", "index"] if method.reads_passages else []
    stages += ["reranker"] if method.reads == "reranker" else []
    keys = [
        (manifest_of(finished(run, stage)) or {}).get("key") for stage in (*stages, f"students/{method.trained_on}")
    ]
    evaluation = recipe.evaluation.model_dump(
        mode="json", include={"passages", "samples", "temperature", "top_k", "top_p"}
    )
    retriever, reranker = recipe.retriever, recipe.reranker
    searched = [retriever.query, retriever.candidates, retriever.fusion, reranker.choices, *reranker.second_look]
    settings = [evaluation, recipe.student.answer_by, searched if method.reads_passages else None, recipe.seed]
    return {"method": method.name, "run": hash_of([method.name, keys, settings])[:16]}


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
