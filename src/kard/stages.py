"""What each stage does: plain functions from recipe sections and finished folders to a new folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kard.artifacts import Log, read_jsonl, write_json, write_jsonl
from kard.errors import UserError
from kard.knowledge import Passage, load_passages, read_passages, write_passages
from kard.methods import Method, TrainedOn
from kard.model import Found, Kard, found_row, load_readers, passage_store, reranker_queries
from kard.progress import say
from kard.prompt import check_letters, same_answer, shown_answer, target
from kard.questions import SPLITS, Question, load_splits, read_questions, write_questions
from kard.recipe import Recipe, RerankerSection
from kard.teacher import Rationale, read_rationales, write_rationales

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.learners import CandidateSet
    from kard.reranker.model import Reranker

SILVER_DEPTH = 10


def make_questions(recipe: Recipe, folder: Path) -> None:
    """questions: train, dev and test as JSONL."""
    splits = load_splits(recipe.questions, recipe.seed)
    for name in SPLITS:
        for question in splits[name]:
            check_letters(question.choices, recipe.student.answer_as, f"question '{question.id}' ({name})")
        write_questions(folder / f"{name}.jsonl", splits[name])
    if not splits[recipe.evaluation.split]:
        raise UserError(
            "evaluation.split: dev asked for, and there is no dev question. Give questions.dev or dev_size."
        )
    say("  " + ", ".join(f"{name} {len(splits[name]):,}" for name in SPLITS))


def make_knowledge(recipe: Recipe, folder: Path) -> None:
    """knowledge: passages as JSONL."""
    passages = load_passages(recipe.knowledge)
    write_passages(folder / "passages.jsonl", passages)
    say(f"  {len(passages):,} passages from {len({passage.document for passage in passages}):,} documents")


def make_index(recipe: Recipe, run: Path, folder: Path) -> None:
    """index: BM25 over the passages' titles and texts."""
    from kard.retrieval.bm25 import Bm25

    texts = [passage.full_text for passage in read_passages(run / "knowledge" / "passages.jsonl")]
    Bm25.build(texts, recipe.retriever).save(folder)


def explained_questions(recipe: Recipe, run: Path, with_test: bool) -> list[Question]:
    """Questions that need rationales: the training questions that student or reranker learn from, and those that are
    evaluated where rationales cost nothing or an oracle method reads them."""
    train = read_questions(run / "questions" / "train.jsonl")[: explained_count(recipe)]
    return [*train, *(evaluation_questions(recipe, run) if with_test else [])]


def evaluation_questions(recipe: Recipe, run: Path) -> list[Question]:
    """The questions that are answered to measure the methods: test, or dev where the recipe says so."""
    return read_questions(run / "questions" / f"{recipe.evaluation.split}.jsonl")


def explained_count(recipe: Recipe) -> int | None:
    """How many training questions need rationales; None means all."""
    wanted = (recipe.student.train_questions, recipe.reranker.train_questions)
    return None if None in wanted else max(size for size in wanted if size is not None)


def make_rationales(recipe: Recipe, run: Path, with_test: bool, folder: Path) -> None:
    """rationales: every rationale with its status."""
    from kard.teacher.collect import collect_rationales

    questions = explained_questions(recipe, run, with_test)
    gold = gold_passages(read_passages(run / "knowledge" / "passages.jsonl"))
    rationales = collect_rationales(
        questions,
        lambda question: [passage for name in question.gold_passages for passage in gold.get(name, [])],
        recipe.teacher,
        recipe.seed,
        run / "teacher.sqlite",
    )
    write_rationales(folder / "rationales.jsonl", rationales)
    kept = sum(rationale.status == "kept" for rationale in rationales)
    explained = {rationale.question for rationale in rationales if rationale.status == "kept"}
    train = {question.id for question in read_questions(run / "questions" / "train.jsonl")}
    without = [question.id in train for question in questions if question.id not in explained]
    missing = (
        f"; none for {sum(without):,} training and {len(without) - sum(without):,} {recipe.evaluation.split} questions"
    )
    say(f"  {kept:,} of {len(rationales):,} rationales kept{missing if without else ''}")
    if not kept:
        raise UserError(
            "rationales: none was kept. Give the questions 'rationales' (teacher.kind: recorded), 'gold_passages' "
            "(extractive), or ask a language model (openai)."
        )


def gold_passages(passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    """Passages by their own id and by the id of their document."""
    found: dict[str, list[Passage]] = {}
    for passage in passages:
        for name in {passage.id, passage.document}:
            found.setdefault(name, []).append(passage)
    return found


def make_candidates(recipe: Recipe, run: Path, folder: Path) -> None:
    """candidates: for each rationale its silver passages, and D̃ with the rationale's scores (KARD equations 3 and 4)."""
    from kard.retrieval.bm25 import Bm25

    retriever = Bm25.load(run / "index")
    questions = {q.id: q for name in SPLITS for q in read_questions(run / "questions" / f"{name}.jsonl")}
    rationales = [row for row in read_rationales(run / "rationales" / "rationales.jsonl") if row.text]
    depth = silver_depth(recipe)
    section = recipe.reranker
    by_rationale = retriever.search([rationale.text for rationale in rationales], depth)
    asked = list(dict.fromkeys(rationale.question for rationale in rationales))
    found = retriever.search(
        [questions[name].query(recipe.retriever.query) for name in asked], section.question_candidates
    )
    by_question = dict(zip(asked, found, strict=True))

    def rows() -> Iterator[dict[str, Any]]:
        for rationale, hits in zip(rationales, by_rationale, strict=True):
            chosen = candidate_positions(
                hits.positions[: section.rationale_candidates], by_question[rationale.question].positions
            )
            scores = retriever.scores(rationale.text)
            yield {
                "rationale": rationale.id,
                "question": rationale.question,
                "status": rationale.status,
                "silver": hits.positions.tolist(),
                "candidates": chosen,
                "scores": [round(float(scores[position]), 4) for position in chosen],
            }

    write_jsonl(folder / "candidates.jsonl", rows())


def candidate_positions(by_rationale: Iterable[int], by_question: Iterable[int]) -> list[int]:
    """D̃ = top-κ1 by rationale ∪ top-κ2 by question, without duplicates (KARD equation 4)."""
    return list(dict.fromkeys([*map(int, by_rationale), *map(int, by_question)]))


def silver_depth(recipe: Recipe) -> int:
    """How many passages by rationale are kept: enough for silver passages, candidates and Hits@10."""
    return max(SILVER_DEPTH, recipe.reranker.rationale_candidates, recipe.student.passages, recipe.evaluation.passages)


def make_reranker(recipe: Recipe, run: Path, folder: Path) -> None:
    """reranker: trained on the candidate sets of kept rationales; also how it ranks evaluation questions before and after."""
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.reranker import new_reranker
    from kard.reranker.training import train_reranker

    section = recipe.reranker
    texts = [passage.full_text for passage in read_passages(run / "knowledge" / "passages.jsonl")]
    reranker = new_reranker(section, passage_store(run, recipe), texts, recipe.seed)
    sets = candidate_sets(recipe, run)
    judged = Judged.of(recipe, run, evaluation_questions(recipe, run))
    dev = Judged.of(recipe, run, read_questions(run / "questions" / "dev.jsonl")) if section.early_stopping else None
    if section.encode_ahead and not encode_ahead(reranker, section.encode_ahead):
        say("  the knowledge base's vectors do not fit into reranker.encode_ahead: only what is asked for is encoded")
    in_sets = [p for row in sets for p in row.positions] if section.train == "question" else []
    reranker.prepare([*in_sets, *judged.positions, *(dev.positions if dev else [])])
    untrained = judged.ranked(reranker)
    dev_hits = (lambda: dev.hits(reranker)) if dev else None
    trained = train_reranker(reranker, sets, section, recipe.seed, folder, dev_hits)
    if section.encode_ahead and trained is not reranker:
        encode_ahead(trained, section.encode_ahead)
    rankings = {"bm25": judged.found, "reranker_untrained": untrained, "reranker": judged.ranked(trained)}
    rows = evaluate_ranking(rankings, judged.relevant, recipe.seed)
    write_json(folder / "retrieval.json", rows)
    write_jsonl(folder / "rankings.jsonl", ranking_rows(run, judged.questions, rankings, judged.relevant))
    write_reranker_card(folder / "model", section, rows)


def candidate_sets(recipe: Recipe, run: Path) -> list[CandidateSet]:
    """What the reranker learns from: the candidate sets of the training questions' kept rationales."""
    from kard.reranker.learners import CandidateSet

    section = recipe.reranker
    questions = {q.id: q for q in read_questions(run / "questions" / "train.jsonl")[: section.train_questions]}
    return [
        CandidateSet(
            reranker_queries(questions[row["question"]], section.choices),
            tuple(row["candidates"]),
            tuple(row["scores"]),
        )
        for row in read_jsonl(run / "candidates" / "candidates.jsonl")
        if row["status"] == "kept" and row["question"] in questions
    ]


def encode_ahead(reranker: Reranker | CrossReranker, megabytes: float) -> bool:
    """Encode the whole knowledge base if it fits; a cross-encoder has nothing to encode."""
    from kard.reranker.model import Reranker

    return isinstance(reranker, Reranker) and reranker.vectors.ensure_all(megabytes)


@dataclass(frozen=True)
class Judged:
    """Questions with their candidates by BM25, and what should be found.

    Attributes:
        questions: In the order of everything else here.
        queries: As the reranker reads them.
        found: Positions of the candidates, best first.
        relevant: See `relevant_passages`.
    """

    questions: list[Question]
    queries: list[tuple[str, ...]]
    found: list[list[int]]
    relevant: dict[str, list[set[int]]]

    @classmethod
    def of(cls, recipe: Recipe, run: Path, questions: list[Question]) -> Judged:
        """Search candidates for questions of a run."""
        from kard.retrieval.bm25 import Bm25

        queries = [question.query(recipe.retriever.query) for question in questions]
        hits = Bm25.load(run / "index").search(queries, recipe.retriever.candidates)
        forms = [reranker_queries(question, recipe.reranker.choices) for question in questions]
        return cls(questions, forms, [hit.positions.tolist() for hit in hits], relevant_passages(run, questions))

    @property
    def positions(self) -> list[int]:
        """All candidates."""
        return [position for row in self.found for position in row]

    def ranked(self, reranker: Reranker | CrossReranker) -> list[list[int]]:
        """The candidates in the reranker's order; equal scores keep BM25's."""
        scores = reranker.score(self.queries, self.found)
        return [
            np.array(row, dtype=np.int64)[np.argsort(-of_row, kind="stable")].tolist()
            for row, of_row in zip(self.found, scores, strict=True)
        ]

    def hits(self, reranker: Reranker | CrossReranker) -> float:
        """Hits@1 against gold passages, or silver ones where no gold is named."""
        from kard.evaluation.retrieval import evaluate_ranking

        if not self.relevant:
            raise UserError(
                "reranker.early_stopping: no dev question names gold passages or has a rationale. Set it to null."
            )
        return float(evaluate_ranking({"now": self.ranked(reranker)}, self.relevant)[0]["hits"]["1"])


def write_reranker_card(folder: Path, section: RerankerSection, rows: Sequence[dict[str, Any]]) -> None:
    """The model card beside the reranker's weights."""
    from kard.report.card import render_reranker_card

    (folder / "README.md").write_text(render_reranker_card(section, rows), encoding="utf-8")


def ranking_rows(
    run: Path,
    questions: Sequence[Question],
    rankings: Mapping[str, Sequence[Sequence[int]]],
    relevant: Mapping[str, Sequence[set[int]]],
) -> Iterator[dict[str, Any]]:
    """What each question's candidates look like in each order: the first passages, and the places of gold and silver ones."""
    from kard.evaluation.retrieval import first_rank

    names = [row["id"] for row in read_jsonl(run / "knowledge" / "passages.jsonl")]
    for number, question in enumerate(questions):
        orders = {name: ranking[number] for name, ranking in rankings.items()}
        yield {
            "question": question.id,
            "candidates": len(orders["bm25"]),
            **{kind: sorted(names[p] for p in sets[number]) for kind, sets in relevant.items()},
            "ranks": {
                kind: {name: first_rank(order, sets[number]) for name, order in orders.items()}
                for kind, sets in relevant.items()
                if sets[number]
            },
            "first": {name: [names[p] for p in order[:SILVER_DEPTH]] for name, order in orders.items()},
        }


def relevant_passages(run: Path, questions: Sequence[Question]) -> dict[str, list[set[int]]]:
    """What should be found for each question: ``gold`` where the data names passages, ``silver`` where there are
    rationales: the passage that the method kard_silver reads, found by the question's first kept one."""
    names = gold_positions(run)
    gold = [{p for name in question.gold_passages for p in names.get(name, [])} for question in questions]
    by_rationale = test_silver(run)
    silver = [set(by_rationale.get(question.id, [])[:1]) for question in questions]
    return {name: sets for name, sets in (("gold", gold), ("silver", silver)) if any(sets)}


def gold_positions(run: Path) -> dict[str, list[int]]:
    """Positions of passages by their id and by their document's id."""
    found: dict[str, list[int]] = {}
    for position, row in enumerate(read_jsonl(run / "knowledge" / "passages.jsonl")):
        for name in {row["id"], row["document"]}:
            found.setdefault(name, []).append(position)
    return found


def make_base(recipe: Recipe, run: Path, folder: Path) -> None:
    """students/base: the model with its vocabulary trimmed to passages, training questions and rationales."""
    from kard.prompt import ANSWER_CUE, RATIONALE_CUE
    from kard.student.loading import KEY, base_model, base_tokenizer
    from kard.student.vocabulary import trim
    from kard.training import compute_dtype
    from kard.weights import model_location

    location = model_location(recipe.student.model, KEY)
    tokenizer = base_tokenizer(location)
    dtype = compute_dtype(recipe.student.dtype) if recipe.student.method == "lora" else compute_dtype("fp32")
    model = base_model(location, dtype)

    def texts() -> Iterator[str]:
        yield f"\nPassage: Question: Choices:\n- {RATIONALE_CUE} {ANSWER_CUE} (A) (B) (C) (D) (E)"
        yield from (passage.full_text for passage in read_passages(run / "knowledge" / "passages.jsonl"))
        for row in read_rationales(run / "rationales" / "rationales.jsonl"):
            yield f" {row.text}\n"
        for question in read_questions(run / "questions" / "train.jsonl"):
            yield "\n".join([question.question, *(f"- {choice}" for choice in question.choices)])
            yield from (f"{ANSWER_CUE} {choice}" for choice in question.choices or (question.answer_text,))

    before = model.config.vocab_size
    smaller = trim(model, tokenizer, texts())
    model.save_pretrained(folder)
    smaller.save_pretrained(folder)
    say(f"  vocabulary {before:,} → {model.config.vocab_size:,} tokens")


def make_student(recipe: Recipe, run: Path, trained_on: TrainedOn, folder: Path) -> None:
    """students/…: one student for each distinct training set."""
    from kard.student.loading import KEY, base_tokenizer
    from kard.student.training import train_student
    from kard.weights import model_location

    trimmed = run / "students" / "base"
    base, saved_as = (
        (str(trimmed), "../base")
        if recipe.student.trim_vocabulary
        else (model_location(recipe.student.model, KEY), recipe.student.model)
    )
    tokenizer = base_tokenizer(base)
    examples = list(training_examples(recipe, run, trained_on, tokenizer))
    train_student(examples, base, saved_as, recipe.student, recipe.seed, folder, f"train student on {trained_on}")


@dataclass(frozen=True)
class Lesson:
    """One training example before it is rendered."""

    question: Question
    passages: list[str]
    rationale: str


def training_examples(recipe: Recipe, run: Path, trained_on: TrainedOn, tokenizer: Any) -> Iterator[Any]:
    """Prompts and targets of a training set, rendered as they will be at test time."""
    from kard.student.generation import fitting_prompt
    from kard.student.training import Example

    section = recipe.student
    writes = "answer" if trained_on.startswith("answers") else "rationale"
    for lesson in lessons(recipe, run, trained_on):
        question = lesson.question
        assert question.answer is not None
        prompt = fitting_prompt(
            tokenizer,
            section.max_input_tokens,
            question.question,
            question.choices,
            lesson.passages,
            writes,  # type: ignore[arg-type]
            section.answer_as,
        )
        answer = shown_answer(question.choices, question.answer, section.answer_as)
        yield Example(prompt, target(lesson.rationale, answer, writes))  # type: ignore[arg-type]


def lessons(recipe: Recipe, run: Path, trained_on: TrainedOn) -> Iterator[Lesson]:
    """What a student learns from: questions alone, with passages by question, with rationales, or with their silver passages."""
    questions = read_questions(run / "questions" / "train.jsonl")[: recipe.student.train_questions]
    if trained_on == "answers":
        yield from (Lesson(question, [], "") for question in questions)
        return
    texts = [passage.full_text for passage in read_passages(run / "knowledge" / "passages.jsonl")]
    if trained_on == "answers_passages":
        from kard.retrieval.bm25 import Bm25

        queries = [question.query(recipe.retriever.query) for question in questions]
        found = Bm25.load(run / "index").search(queries, recipe.student.passages)
        for question, hits in zip(questions, found, strict=True):
            yield Lesson(question, [texts[p] for p in hits.positions], "")
        return
    silver = {row["rationale"]: row["silver"] for row in read_jsonl(run / "candidates" / "candidates.jsonl")}
    kept: dict[str, list[Rationale]] = {}
    for rationale in read_rationales(run / "rationales" / "rationales.jsonl"):
        if rationale.status == "kept":
            kept.setdefault(rationale.question, []).append(rationale)
    depth = recipe.student.passages if trained_on == "rationales_silver" else 0
    for question in questions:
        for rationale in kept.get(question.id, [])[: recipe.student.rationales]:
            yield Lesson(question, [texts[p] for p in silver[rationale.id][:depth]], rationale.text)


def make_predictions(recipe: Recipe, run: Path, trained_on: TrainedOn, methods: Sequence[Method], folder: Path) -> None:
    """predictions/…: what one student answers under each of its methods, one JSONL a method.

    Prompts that are the same under several methods are written once. The batches depend on the prompts alone, and each is
    logged: a run that was killed goes on with the same batches.
    """
    from kard.progress import progress
    from kard.student.generation import Student, Written

    questions = evaluation_questions(recipe, run)
    student = Student.load(run / "students" / trained_on)
    kard = Kard(methods[0], student, *load_readers(run, recipe, methods), recipe)
    found = {method.name: _read(kard.with_method(method), run, questions) for method in methods}
    # An oracle that has nothing to read for any question cannot be run; results.json says so.
    methods = [method for method in methods if not method.is_oracle or any(found[method.name])]
    prompts = {method.name: kard.with_method(method).prompts(questions, found[method.name]) for method in methods}
    log = Log(folder / "written.jsonl")
    known = {row["prompt"]: Written(**row) for row in log.read()}
    asked = [pair for method in methods for pair in zip(questions, prompts[method.name], strict=True)]
    distinct = {prompt for _, prompt in asked}
    with progress(f"answer as {trained_on}", len(distinct), "prompts") as advance:

        def keep(batch: list[Written]) -> None:
            log.append(asdict(item) for item in batch if item.prompt not in known)
            advance(len(batch))

        written = kard.write([question for question, _ in asked], [prompt for _, prompt in asked], keep, known)
    log.close()
    for method in methods:
        answering = kard.with_method(method)
        rows = zip(questions, found[method.name], prompts[method.name], strict=True)
        answers = (_prediction(answering, q, passages, written[prompt]) for q, passages, prompt in rows)
        write_jsonl(folder / f"{method.name}.jsonl", answers)


def _read(kard: Kard, run: Path, questions: Sequence[Question]) -> list[list[Found]]:
    if not kard.method.is_oracle:
        return kard.read(questions)
    wanted = kard.recipe.evaluation.passages
    if kard.method.reads == "gold":
        names = gold_positions(run)
        positions = [[p for name in q.gold_passages for p in names.get(name, [])] for q in questions]
    else:
        silver = test_silver(run)
        positions = [silver.get(question.id, []) for question in questions]
    return [[Found(kard.passages[p]) for p in row[:wanted]] for row in positions]


def test_silver(run: Path) -> dict[str, list[int]]:
    """Silver passages of each question's first rationale, a kept one if there is any (an oracle reads no answers off them)."""
    found: dict[str, list[int]] = {}
    rows = list(read_jsonl(run / "candidates" / "candidates.jsonl"))
    for row in sorted(rows, key=lambda row: row["status"] != "kept"):
        found.setdefault(row["question"], row["silver"])
    return found


def _prediction(kard: Kard, question: Question, found: Sequence[Found], written: Any) -> dict[str, Any]:
    answer = kard.parse(question, found, written)
    assert question.answer is not None
    given = answer.choice if question.choices else answer.answer
    return {
        "question": question.id,
        "method": kard.method.name,
        "correct": same_answer(given, question.answer),
        "parsed": answer.answer is not None,
        "gold": question.answer_text,
        "answer": answer.answer,
        "rationale": answer.rationale,
        "passages": [found_row(item) for item in answer.passages],
        "prompt": answer.prompt,
        "text": answer.text,
        "cut": answer.cut,
        "seconds": round(answer.seconds, 4),
    }
