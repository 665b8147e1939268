"""predictions: what one student answers under each of its methods, one JSONL a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kard.artifacts.files import Log, write_json, write_jsonl
from kard.calibration import MOST_ABSENT, Calibration, check_dev, fit, read_calibrations, write_calibrations
from kard.data.passage import read_passages
from kard.data.passages import make_passages
from kard.data.question import Question
from kard.evaluation.ranking import ranked_by_likelihood
from kard.evaluation.relevant import first_rationales, first_silver
from kard.finder import Finder, Found
from kard.kard import Kard, is_ranked
from kard.machine.processes import process_count, rank
from kard.machine.sharing import from_all, shared_out
from kard.methods import Method, TrainedOn
from kard.progress import Advance, progress, say
from kard.prompt import examples_in, holds_question, same_answer, with_rationale
from kard.recipe.sections import KnowledgeSection
from kard.retrieval.index import build_retriever
from kard.run import Run

Rows = Sequence[dict[str, Any]]

_FOUND_AT_ONCE = 100  # questions; a second look at all of them can take half an hour


def make_predictions(run: Run, trained_on: TrainedOn, methods: Sequence[Method], folder: Path) -> None:
    """Answer the evaluated questions, and where confidences are to be calibrated the dev questions and those without an answer.

    Prompts that are the same under several methods are written once. The batches depend on the prompts alone, and each is
    logged: a run that was killed goes on with the same batches.
    """
    from kard.student.generation import Written

    recipe, questions, dev = run.recipe, run.evaluated(), _dev_questions(run)
    absent = _absent(run, dev) if dev and any(method.reads_passages for method in methods) else []
    parts = {
        "": questions,
        "dev": dev,
        "unanswerable": _unanswerable(run),
        "absent": [one for one, _ in absent],
    }
    student = run.student(trained_on)
    if alike := sum(student.takes_for_one(question.choices) for question in questions):
        say(
            f"  {alike:,} questions have choices that are the same to the student. Set student.answer_as: letter or both"
        )
    kard = Kard(methods[0], student, Finder.of(run, methods, student))
    asked = {method.name: [one for part in _parts_of(method, parts) for one in parts[part]] for method in methods}
    considered = _considered(kard, methods, run, asked, absent)
    if kard.finder.query_likelihood is not None and rank() == 0 and not run.over:
        measured = considered["kard_reranker"][: len(questions)]
        write_json(folder / "retrieval.json", ranked_by_likelihood(run, questions, measured))
    found = {name: [row[: recipe.evaluation.passages] for row in rows] for name, rows in considered.items()}
    # An oracle that has nothing to read for any question cannot be run; results.json says so.
    given = first_rationales(run) if any(method.reads == "teacher_rationale" for method in methods) else {}
    given = {question.id: given[question.id] for question in questions if question.id in given}
    read = {method.name: given if method.reads == "teacher_rationale" else found[method.name] for method in methods}
    methods = [method for method in methods if not method.is_oracle or any(read[method.name])]
    prompts = {m.name: _prompts(kard, m, asked[m.name], found[m.name], given) for m in methods}
    _say_what_is_left_out(recipe.evaluation.shots, asked, prompts, trained_on)
    log = Log(_written_log(folder, rank()))
    known = {one.key: one for one in (Written(**row) for row in log.read())}
    pairs = [(question, method) for method in methods for question in asked[method.name]]
    texts = [prompt for method in methods for prompt in prompts[method.name]]
    distinct = {(text, is_ranked(*pair)) for text, pair in zip(texts, pairs, strict=True)}
    with progress(f"answer as {trained_on}", -(-len(distinct) // process_count()), "prompts") as advance:

        def keep(batch: list[Written]) -> None:
            log.append(asdict(item) for item in batch if item.key not in known)
            advance(len(batch))

        written = kard.write(pairs, texts, keep, known, (rank(), process_count()))
    student.close()
    log.close()
    for part in from_all(written):
        written |= part
    if rank() > 0:
        return

    def answers_of(method: Method) -> list[dict[str, Any]]:
        rows = zip(asked[method.name], considered[method.name], prompts[method.name], strict=True)
        shown = given if method.reads == "teacher_rationale" else {}
        return [
            _prediction(kard, method, q, p, written[prompt, is_ranked(q, method)], shown.get(q.id, ""))
            for q, p, prompt in rows
        ]

    answers = {method.name: answers_of(method) for method in methods}
    rows = {m.name: _apart(answers[m.name], {part: len(parts[part]) for part in _parts_of(m, parts)}) for m in methods}
    _write_answers(run, trained_on, rows, folder)


def _parts_of(method: Method, parts: Mapping[str, object]) -> list[str]:
    """What a method is asked: an oracle can answer no new question, and where nothing is read no document can be absent."""
    if method.is_oracle:
        return [""]
    return [part for part in parts if part != "absent" or method.reads_passages]


def _apart(rows: Sequence[dict[str, Any]], counts: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    left = iter(rows)
    return {part: list(islice(left, count)) for part, count in counts.items()}


def _dev_questions(run: Run) -> list[Question]:
    """The questions that confidences are calibrated on, where they are; not again over another knowledge base."""
    risk = run.recipe.evaluation.abstain.risk
    if risk is None or run.over:
        return []
    questions = run.questions("dev")
    check_dev(len(questions), risk)
    return questions


def _unanswerable(run: Run) -> list[Question]:
    """The kept questions that were made to have no answer in the documents, where what is unsure is withheld."""
    section = run.recipe.evaluation
    if section.abstain.risk is None or run.over:
        return []
    made = (one for one in run.generated() if one.kind == "unanswerable" and one.split == section.split)
    kept = [one.as_question() for one in made if one.status == "kept"]
    if kept and run.recipe.student.answer_as != "text":
        say(
            f"  {len(kept):,} unanswerable questions are not asked: they have no choices, and student.answer_as is not text"
        )
        return []
    return kept


def _absent(run: Run, dev: Sequence[Question]) -> list[tuple[Question, frozenset[str]]]:
    """Dev questions that are asked without the documents of their gold passages as well, and these documents."""
    passages, positions = run.passages(), run.named(dev)
    found = [
        (q, frozenset(passages[p].document for name in q.gold_passages for p in positions.get(name, ()))) for q in dev
    ]
    return [pair for pair in found if pair[1]][:MOST_ABSENT]


def _write_answers(
    run: Run, trained_on: TrainedOn, answers: Mapping[str, Mapping[str, list[dict[str, Any]]]], folder: Path
) -> None:
    """Write each method's answers to each part of its questions, with calibrated confidences where there are any."""
    risk = run.recipe.evaluation.abstain.risk
    over_own = read_calibrations(run.finished(f"predictions/{trained_on}"), risk) if run.over and risk else {}
    learned: dict[str, Calibration] = {}
    for name, parts in answers.items():
        if parts.get("dev"):
            learned[name] = _learned(name, parts["dev"], parts.get("absent", ()), risk or 1.0)
        if calibration := learned.get(name) or over_own.get(name):
            for row in (row for part, rows in parts.items() if part != "dev" for row in rows):
                row["calibrated_confidence"] = calibration.confidence(row["signals"]) if row["parsed"] else None
        for part, rows in parts.items():
            if rows or not part:
                write_jsonl(folder / f"{name}{part and '.'}{part}.jsonl", rows)
    if learned:
        write_calibrations(folder, learned)


def _learned(name: str, on_dev: Rows, absent: Rows, risk: float) -> Calibration:
    """Learn from the dev answers, and put each one's confidence into its row; what could not be read off is no answer, and has
    none."""
    parsed = [row for row in on_dev if row["parsed"]]
    gone = [row["signals"] for row in absent if row["parsed"]]
    found = fit([row["signals"] for row in parsed], [row["correct"] for row in parsed], gone)
    confidences = iter(found.confidences)
    for row in on_dev:
        row["calibrated_confidence"] = next(confidences) if row["parsed"] else None
    if replace(found, risk=risk).threshold.given == 0:
        say(f"  {name}: no confidence on dev keeps the risk of {risk:g}, so it will give no answer. Raise the risk")
    return found


def make_other_knowledge(run: Run, section: KnowledgeSection, folder: Path) -> None:
    """Cut and index another knowledge base, over which the same questions are answered."""
    for part in ("knowledge", "index"):
        (folder / part).mkdir(exist_ok=True)
    report = make_passages(section, folder / "knowledge")
    say(f"  {report['passages']:,} passages from {report['documents']:,} documents")
    texts = read_passages(folder / "knowledge" / "passages.jsonl").texts
    build_retriever(run.recipe.retriever, texts, folder / "index")


def _say_what_is_left_out(
    shots: int,
    asked: Mapping[str, Sequence[Question]],
    prompts: Mapping[str, Sequence[str]],
    trained_on: TrainedOn,
) -> None:
    for name, texts in prompts.items():
        if cut := sum(not holds_question(text, q.question) for q, text in zip(asked[name], texts, strict=True)):
            say(
                f"  {name}: {cut:,} of {len(texts):,} questions do not fit into student.max_input_tokens: cut at the front"
            )
        shown = [examples_in(text) for text in texts]
        if trained_on == "nothing" and min(shown) < shots:
            say(
                f"  {name}: {sum(shown) / len(shown):.1f} of {shots} worked examples fit into a prompt on average, into "
                f"{shown.count(0):,} of {len(shown):,} none. Lower evaluation.shots, or take a student that reads more"
            )


def _written_log(folder: Path, process: int) -> Path:
    return folder / ("written.jsonl" if process == 0 else f"written-{process}.jsonl")


def _prompts(
    kard: Kard,
    method: Method,
    questions: Sequence[Question],
    found: Sequence[Sequence[Found]],
    given: Mapping[str, str],
) -> list[str]:
    prompts = [kard.prompt(question, method, passages) for question, passages in zip(questions, found, strict=True)]
    if method.reads != "teacher_rationale":
        return prompts
    return [with_rationale(prompt, given.get(q.id, "")) for q, prompt in zip(questions, prompts, strict=True)]


def _considered(
    kard: Kard,
    methods: Sequence[Method],
    run: Run,
    asked: Mapping[str, Sequence[Question]],
    absent: Sequence[tuple[Question, frozenset[str]]],
) -> dict[str, Sequence[list[Found]]]:
    """By method the passages that are considered for each of its questions, the last of which are asked without some documents;
    each process finds those of some questions."""

    def found(method: Method) -> Sequence[list[Found]]:
        if method.is_oracle:
            return _given(kard, method, run, asked[method.name])
        gone = absent if method.reads_passages else []
        own = asked[method.name][: len(asked[method.name]) - len(gone)]
        slow = method.reads == "reranker" and kard.finder.query_likelihood is not None
        with progress(
            f"find passages for {method.name}", slow * -(-len(own) // process_count()), "questions"
        ) as advance:
            rows = shared_out(lambda some: _in_parts(kard, method, some, advance), own)
        row_of = {question.id: row for question, row in zip(own, rows, strict=True)}

        def without(some: Sequence[tuple[Question, frozenset[str]]]) -> list[list[Found]]:
            lists = [row_of[question.id] for question, _ in some]
            return kard.finder.without(
                method, [question for question, _ in some], lists, [documents for _, documents in some]
            )

        return [*rows, *shared_out(without, gone)]

    return {method.name: found(method) for method in methods}


def _in_parts(kard: Kard, method: Method, questions: Sequence[Question], advance: Advance) -> list[list[Found]]:
    found: list[list[Found]] = []
    for begin in range(0, len(questions), _FOUND_AT_ONCE):
        some = questions[begin : begin + _FOUND_AT_ONCE]
        found += kard.finder.candidates(method, some, {})
        advance(len(some))
    return found


def _given(kard: Kard, method: Method, run: Run, questions: Sequence[Question]) -> list[list[Found]]:
    """The passages that an oracle is given."""
    if not method.reads_passages:
        return [[] for _ in questions]
    if method.reads == "gold":
        names = run.named(questions)
        positions = [[p for name in q.gold_passages for p in names.get(name, [])] for q in questions]
    else:
        silver = first_silver(run)
        positions = [silver.get(question.id, []) for question in questions]
    return [[Found(kard.finder.passages[p]) for p in row] for row in positions]


def _prediction(
    kard: Kard, method: Method, question: Question, considered: Sequence[Found], written: Any, given: str
) -> dict[str, Any]:
    section = kard.recipe.evaluation
    answer = kard.parse(question, method, considered, written)
    signals = {} if section.abstain.risk is None or method.is_oracle else {"signals": kard.signals(answer)}
    said, right = answer.choice if question.choices else answer.answer, question.answer
    return {
        "question": question.id,
        "method": method.name,
        "correct": right is not None and same_answer(said, right),
        "parsed": answer.answer is not None,
        "gold": question.answer_text if right is not None else None,
        "answer": answer.answer,
        "rationale": answer.rationale or given,
        "passages": [item.row() for item in answer.passages],
        "prompt": answer.prompt,
        "text": answer.text,
        "cut": answer.cut,
        "question_cut": answer.question_cut,
        "confidence": answer.confidence,
        "seconds": round(answer.seconds, 4),
        **signals,
    }
