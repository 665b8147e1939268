"""What each stage does: plain functions from recipe sections and finished folders to a new folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts import Log, read_json, write_json, write_jsonl
from kard.data.passage import read_passages
from kard.data.passages import described, make_passages
from kard.data.question import Question, read_questions, write_questions
from kard.data.questions import load_splits
from kard.data.sources import remember_sources
from kard.data.splits import SPLITS
from kard.errors import UserError
from kard.evaluation.relevant import evaluation_questions, first_rationales, first_silver, gold_positions
from kard.kard import Found, Kard, found_row
from kard.lessons import explained_count, training_examples, worked_examples
from kard.machine.processes import process_count, rank, wait_until
from kard.methods import Method, TrainedOn
from kard.parts import load_readers, load_student
from kard.progress import say
from kard.prompt import check_letters, examples_in, holds_question, same_answer, target, with_rationale
from kard.recipe import Recipe
from kard.reranking import judge_second_look
from kard.retrieval.index import build_retriever, load_retriever
from kard.teacher.rationale import read_rationales, write_rationales

if TYPE_CHECKING:
    from kard.student.prompted import PromptedModel
    from kard.teacher.collect import Models

SILVER_DEPTH = 10
PROMPT_TOKENS = 4096  # a prompted student may read, unless the recipe says more


def make_questions(recipe: Recipe, folder: Path) -> None:
    """questions: train, dev and test as JSONL."""
    splits = load_splits(recipe.questions, recipe.seed_of_data)
    for name in SPLITS:
        for question in splits[name]:
            check_letters(question.choices, recipe.student.answer_as, f"question '{question.id}' ({name})")
        write_questions(folder / f"{name}.jsonl", splits[name])
    if recipe.student.long_questions == "stop":
        _check_lengths(recipe, [question for name in SPLITS for question in splits[name]])
    remember_sources(recipe.questions, folder)
    if not splits[recipe.evaluation.split]:
        raise UserError(
            "evaluation.split: dev asked for, and there is no dev question. Give questions.dev or dev_size."
        )
    say("  " + ", ".join(f"{name} {len(splits[name]):,}" for name in SPLITS))


def _check_lengths(recipe: Recipe, questions: Sequence[Question]) -> None:
    """Raise UserError where a question cannot be read as a whole, before anything is paid for or learned."""
    from kard.models.weights import model_location
    from kard.student.generation import fitting_prompt
    from kard.student.loading import KEY, base_tokenizer

    section = recipe.student
    tokenizer = base_tokenizer(model_location(section.model, KEY))
    limit, form = section.max_input_tokens, section.answer_as
    for question in questions:
        try:
            fitting_prompt(tokenizer, limit, question.question, question.choices, (), "rationale", form, (), "stop")
        except UserError as error:
            raise UserError(f"questions, id '{question.id}': {error}") from error


def make_knowledge(recipe: Recipe, run: Path, folder: Path) -> None:
    """knowledge: passages as JSONL, and what was left out."""
    gold: set[str] = set()
    if recipe.knowledge.distractors == "rest":
        files = (run / "questions" / f"{name}.jsonl" for name in SPLITS)
        gold = {name for path in files for question in read_questions(path) for name in question.gold_passages}
    report = make_passages(recipe.knowledge, folder, gold, recipe.seed_of_data)
    remember_sources(recipe.knowledge, folder)
    say(f"  {report['passages']:,} passages from {report['documents']:,} documents")
    for line in described(report):
        say(f"  {line}")
    if drawn := report.get("distractors"):
        say(f"  {drawn['drawn']:,} of {drawn['of']:,} distractors behind {drawn['base']:,} passages")


def make_index(recipe: Recipe, run: Path, folder: Path) -> None:
    """index: the retriever's, over the passages' titles and texts."""
    build_retriever(recipe.retriever, read_passages(run / "knowledge" / "passages.jsonl").texts, folder)


def explained_questions(recipe: Recipe, run: Path, with_test: bool) -> list[Question]:
    """Questions that need rationales: the training questions that student or reranker learn from, those that are
    evaluated where rationales cost nothing or an oracle method reads them, and dev questions for early stopping."""
    train = read_questions(run / "questions" / "train.jsonl")[: explained_count(recipe)]
    asked = [*train, *(evaluation_questions(recipe, run) if with_test else []), *stopping_questions(recipe, run)]
    if recipe.reranker.early_stopping is not None:  # judged by silver passages where no gold ones are named
        asked += [one for one in read_questions(run / "questions" / "dev.jsonl") if not one.gold_passages]
    return list({question.id: question for question in asked}.values())


def stopping_questions(recipe: Recipe, run: Path) -> list[Question]:
    """The dev questions whose loss stops the training; none where the recipe does not ask for it."""
    return read_questions(run / "questions" / "dev.jsonl") if recipe.student.early_stopping is not None else []


def make_rationales(recipe: Recipe, run: Path, with_test: bool, folder: Path) -> None:
    """rationales: every rationale with its status."""
    from kard.teacher.collect import collect_rationales, why_none_is_kept

    questions = explained_questions(recipe, run, with_test)
    passages = read_passages(run / "knowledge" / "passages.jsonl")
    gold = gold_positions(run, questions)
    rationales = collect_rationales(
        questions,
        lambda question: [passages[p] for name in question.gold_passages for p in gold.get(name, [])],
        recipe.teacher,
        recipe.seed_of_data,
        run / "teacher.sqlite",
        teacher_models(recipe),
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
    unknown = unknown_gold(run, questions, gold)
    if unknown:
        say(f"  {unknown}")
    if not kept:
        why = (
            unknown if recipe.teacher.kind == "extractive" and unknown else why_none_is_kept(rationales, recipe.teacher)
        )
        raise UserError(f"rationales: none was kept. {why}")


def unknown_gold(run: Path, questions: Sequence[Question], gold: Mapping[str, Sequence[int]]) -> str:
    """Which ids in ``gold_passages`` name no document, and what ids look like; nothing where all do."""
    named = list(dict.fromkeys(name for question in questions for name in question.gold_passages))
    missing = [name for name in named if not gold.get(name)]
    if not missing:
        return ""
    passages = read_passages(run / "knowledge" / "passages.jsonl")
    like = ", ".join(f"'{passages[place].document}'" for place in range(min(3, len(passages))))
    return (
        f"gold_passages: '{missing[0]}' is no id of a document ({len(missing):,} of {len(named):,} ids are none); ids look "
        f"like {like}. Mend the ids in your questions, or those of your documents."
    )


def teacher_models(recipe: Recipe) -> Models:
    """The language models that the teacher needs in this process; each is loaded when it is first asked."""
    from kard.teacher.collect import Models

    @cache
    def loaded(name: str, key: str) -> PromptedModel:
        from kard.student.prompted import PromptedModel

        say(f"  load {name} ({key})")
        return PromptedModel.load(name, key)

    section = recipe.teacher
    return Models(
        lambda prompts, answers: loaded(section.verifier or "", "teacher.verifier").rank(prompts, answers),
        lambda bodies: loaded(section.model or "", "teacher.model").write(bodies),
    )


def make_candidates(recipe: Recipe, run: Path, folder: Path) -> None:
    """candidates: for each rationale its silver passages, and D̃ with the rationale's scores (KARD equations 3 and 4)."""
    retriever = load_retriever(recipe.retriever, run / "index")
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
        sets = [
            candidate_positions(
                hits.positions[: section.rationale_candidates], by_question[rationale.question].positions
            )
            for rationale, hits in zip(rationales, by_rationale, strict=True)
        ]
        every = retriever.scores([rationale.text for rationale in rationales], sets)
        for rationale, hits, chosen, scores in zip(rationales, by_rationale, sets, every, strict=True):
            yield {
                "rationale": rationale.id,
                "question": rationale.question,
                "status": rationale.status,
                "silver": hits.positions.tolist(),
                "candidates": chosen,
                "scores": [float(f"{score:.6g}") for score in scores],
            }

    write_jsonl(folder / "candidates.jsonl", rows())


def candidate_positions(by_rationale: Iterable[int], by_question: Iterable[int]) -> list[int]:
    """D̃ = top-κ1 by rationale ∪ top-κ2 by question, without duplicates (KARD equation 4)."""
    return list(dict.fromkeys([*map(int, by_rationale), *map(int, by_question)]))


def silver_depth(recipe: Recipe) -> int:
    """How many passages by rationale are kept: enough for silver passages, candidates and Hits@10."""
    return max(SILVER_DEPTH, recipe.reranker.rationale_candidates, recipe.student.passages, recipe.evaluation.passages)


def make_base(recipe: Recipe, run: Path, folder: Path) -> None:
    """students/base: the model with its vocabulary trimmed to passages, training questions and rationales."""
    from kard.machine.precision import compute_dtype
    from kard.models.weights import model_location
    from kard.prompt import render, with_examples
    from kard.student.loading import KEY, base_model, base_tokenizer
    from kard.student.vocabulary import trim

    location = model_location(recipe.student.model, KEY)
    tokenizer = base_tokenizer(location)
    dtype = compute_dtype(recipe.student.dtype) if recipe.student.method == "lora" else compute_dtype("fp32")
    model = base_model(location, dtype)

    def texts() -> Iterator[str]:
        yield with_examples(["- (A) (B) (C) (D) (E)", "Passage:"], "Question:")
        for passage in read_passages(run / "knowledge" / "passages.jsonl"):
            yield render("", (), [passage.full_text], "rationale")
        for row in read_rationales(run / "rationales" / "rationales.jsonl"):
            yield target(row.text, "", "rationale")
        for question in read_questions(run / "questions" / "train.jsonl"):
            answers = (target("", choice, "rationale") for choice in question.choices or (question.answer_text,))
            yield render(question.question, question.choices, (), "rationale") + "".join(answers)

    before = model.config.vocab_size
    smaller = trim(model, tokenizer, texts())
    model.save_pretrained(folder)
    smaller.save_pretrained(folder)
    say(f"  vocabulary {before:,} → {model.config.vocab_size:,} tokens")


def make_student(recipe: Recipe, run: Path, trained_on: TrainedOn, folder: Path) -> None:
    """students/…: one student for each distinct training set."""
    from kard.student.loading import base_tokenizer
    from kard.student.training import train_student

    base, saved_as = base_student(recipe, run)
    tokenizer = base_tokenizer(base)
    examples = list(training_examples(recipe, run, trained_on, tokenizer))
    dev_questions = stopping_questions(recipe, run)
    dev = list(training_examples(recipe, run, trained_on, tokenizer, dev_questions))
    if recipe.student.early_stopping is not None and not dev:
        raise UserError(
            "student.early_stopping: no dev question has an example to look at. Give questions.dev or dev_size, and dev "
            "questions what a rationale needs, or set student.early_stopping: null."
        )
    label = f"train student on {trained_on}"
    train_student(examples, base, saved_as, recipe.student, recipe.seed, folder, label, dev)


def base_student(recipe: Recipe, run: Path) -> tuple[str, str]:
    """The model that students are made from: where it lies, and how a student's folder names it."""
    from kard.models.weights import model_location
    from kard.student.loading import KEY

    if recipe.student.trim_vocabulary:
        return str(run / "students" / "base"), "../base"
    return model_location(recipe.student.model, KEY), recipe.student.model


def make_prompted(recipe: Recipe, run: Path, folder: Path) -> None:
    """students/nothing: the model as it is, with worked examples to show in front of a question."""
    from kard.machine.precision import compute_dtype
    from kard.student.loading import StudentSettings, base_tokenizer

    base, saved_as = base_student(recipe, run)
    base_tokenizer(base).save_pretrained(folder / "tokenizer")
    section = recipe.student
    settings = StudentSettings(
        base=saved_as,
        adapters=False,
        answer_as=section.answer_as,
        dtype=str(compute_dtype(section.dtype)).removeprefix("torch."),
        max_input_tokens=prompt_tokens(recipe, base),
        max_output_tokens=section.max_output_tokens,
        long_questions=section.long_questions,
        examples=worked_examples(recipe, run),
    )
    write_json(folder / "student.json", asdict(settings))


def prompt_tokens(recipe: Recipe, base: str) -> int:
    """How many tokens a prompted student may read (``evaluation.prompt_tokens``)."""
    from transformers import AutoConfig

    from kard.models.weights import most_tokens

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    written = 0 if config.is_encoder_decoder else recipe.student.max_output_tokens
    reads = (most_tokens(config) or sys.maxsize) - written
    wanted = recipe.evaluation.prompt_tokens
    if wanted is not None and wanted > reads:
        raise UserError(f"evaluation.prompt_tokens: {wanted:,} asked for, the model can read {reads:,}. Lower it.")
    return wanted or min(reads, PROMPT_TOKENS)


def make_predictions(recipe: Recipe, run: Path, trained_on: TrainedOn, methods: Sequence[Method], folder: Path) -> None:
    """predictions/…: what one student answers under each of its methods, one JSONL a method.

    Prompts that are the same under several methods are written once. The batches depend on the prompts alone, and each is
    logged: a run that was killed goes on with the same batches.
    """
    from kard.progress import progress
    from kard.student.generation import Written

    if rank() > 0 and _is_written(folder, rank()):  # by an earlier attempt: the first process may be done at any moment
        return
    questions = evaluation_questions(recipe, run)
    student = load_student(run, recipe, trained_on, online=True)
    if alike := sum(student.takes_for_one(question.choices) for question in questions):
        say(
            f"  {alike:,} questions have choices that are the same to the student. Set student.answer_as: letter or both"
        )
    kard = Kard(methods[0], student, *load_readers(run, recipe, methods, online=True), recipe)
    considered = {method.name: _considered(kard.with_method(method), run, questions) for method in methods}
    found = {name: [row[: recipe.evaluation.passages] for row in rows] for name, rows in considered.items()}
    if recipe.reranker.second_look and "kard_reranker" in considered and rank() == 0:
        judge_second_look(recipe, run, questions, considered["kard_reranker"], folder)
    # An oracle that has nothing to read for any question cannot be run; results.json says so.
    told = first_rationales(run) if any(method.reads == "teacher_rationale" for method in methods) else {}
    told = {question.id: told[question.id] for question in questions if question.id in told}
    read = {method.name: told if method.reads == "teacher_rationale" else found[method.name] for method in methods}
    methods = [method for method in methods if not method.is_oracle or any(read[method.name])]
    prompts = {
        method.name: _prompts(kard.with_method(method), questions, found[method.name], told) for method in methods
    }
    _say_what_is_left_out(recipe, questions, prompts, trained_on)
    log = Log(_written_log(folder, rank()))
    known = {row["prompt"]: Written(**row) for row in log.read()}
    asked = [(question, method) for method in methods for question in questions]
    texts = [prompt for method in methods for prompt in prompts[method.name]]
    distinct = set(texts)
    with progress(f"answer as {trained_on}", -(-len(distinct) // process_count()), "prompts") as advance:

        def keep(batch: list[Written]) -> None:
            log.append(asdict(item) for item in batch if item.prompt not in known)
            advance(len(batch))

        share = (rank(), process_count())
        written = kard.write(asked, texts, keep, known, share)
    log.close()
    if rank() > 0:
        write_json(_share_done(folder, rank()), {"processes": process_count()})
        return
    for other in range(1, process_count()):
        wait_until(partial(_is_written, folder, other))
        written |= {row["prompt"]: Written(**row) for row in Log(_written_log(folder, other)).read()}
    for method in methods:
        answering = kard.with_method(method)
        rows = zip(questions, found[method.name], prompts[method.name], strict=True)
        given = told if method.reads == "teacher_rationale" else {}
        answers = (_prediction(answering, q, p, written[prompt], given.get(q.id, "")) for q, p, prompt in rows)
        write_jsonl(folder / f"{method.name}.jsonl", answers)


def _say_what_is_left_out(
    recipe: Recipe, questions: Sequence[Question], prompts: Mapping[str, Sequence[str]], trained_on: TrainedOn
) -> None:
    for name, texts in prompts.items():
        if cut := sum(not holds_question(text, q.question) for q, text in zip(questions, texts, strict=True)):
            say(
                f"  {name}: {cut:,} of {len(texts):,} questions do not fit into student.max_input_tokens: cut at the front"
            )
        shown, wanted = [examples_in(text) for text in texts], recipe.evaluation.shots
        if trained_on == "nothing" and min(shown) < wanted:
            say(
                f"  {name}: {sum(shown) / len(shown):.1f} of {wanted} worked examples fit into a prompt on average, into "
                f"{shown.count(0):,} of {len(shown):,} none. Raise evaluation.prompt_tokens"
            )


def _written_log(folder: Path, process: int) -> Path:
    return folder / ("written.jsonl" if process == 0 else f"written-{process}.jsonl")


def _share_done(folder: Path, process: int) -> Path:
    return folder / f"written-{process}.done.json"


def _is_written(folder: Path, process: int) -> bool:
    """Whether another process has written all of its batches (they are others with another number of processes)."""
    done = _share_done(folder, process)
    return done.exists() and read_json(done)["processes"] == process_count()


def _prompts(
    kard: Kard, questions: Sequence[Question], found: Sequence[Sequence[Found]], told: Mapping[str, str]
) -> list[str]:
    prompts = kard.prompts(questions, found)
    if kard.method.reads != "teacher_rationale":
        return prompts
    return [with_rationale(prompt, told.get(q.id, "")) for q, prompt in zip(questions, prompts, strict=True)]


def _considered(kard: Kard, run: Path, questions: Sequence[Question]) -> list[list[Found]]:
    if not kard.method.is_oracle:
        return kard.candidates(questions, {})
    if not kard.method.reads_passages:
        return [[] for _ in questions]
    if kard.method.reads == "gold":
        names = gold_positions(run, questions)
        positions = [[p for name in q.gold_passages for p in names.get(name, [])] for q in questions]
    else:
        silver = first_silver(run)
        positions = [silver.get(question.id, []) for question in questions]
    return [[Found(kard.passages[p]) for p in row] for row in positions]


def _prediction(kard: Kard, question: Question, found: Sequence[Found], written: Any, told: str) -> dict[str, Any]:
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
        "rationale": answer.rationale or told,
        "passages": [found_row(item) for item in answer.passages],
        "prompt": answer.prompt,
        "text": answer.text,
        "cut": answer.cut,
        "question_cut": answer.question_cut,
        "confidence": answer.confidence,
        "seconds": round(answer.seconds, 4),
    }
