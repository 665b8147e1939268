"""How long the stages of a run will take on this machine: their work is counted, and timed by a trial of the real shapes.

What the stages before have written is counted as it is; before that, the recipe and the data say how much it will be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, sqrt
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from kard.artifacts.files import read_json, read_jsonl
from kard.artifacts.folders import manifest_of
from kard.calibration import MOST_ABSENT
from kard.data.passage import read_passages
from kard.data.passages import passages_of
from kard.data.question import Question, read_questions
from kard.data.questions import load_splits
from kard.data.readers.kinds import SIZES, SPLIT_BY_SIZE
from kard.errors import UserError
from kard.methods import TRAINING_SETS, Method, TrainingSet, methods_named
from kard.models.weights import PACKAGE, downloaded_folder, model_config
from kard.preflight.checks import SAMPLE, extent_of, first_documents
from kard.progress import say, unsaid
from kard.recipe.recipe import Recipe
from kard.recipe.teacher import TeacherSection

if TYPE_CHECKING:
    from kard.preflight.trial import StudentSpeed

# Seconds that are about the same for all models, seen on two cores: libraries are loaded, and a little is done.
_IMPORTS, _LITTLE, _REPORT = 4.0, 1.5, 3.0
_CONVERSION = 90.0  # seconds, of a GGUF file of 270M parameters
_PER_PASSAGE = {"knowledge": 0.0002, "index": 0.0003, "students/base": 0.0004}
_PER_RATIONALE = {"rationales": 0.0005, "candidates": 0.001}
_AGAIN = 0.4  # of the candidates of all questions, those that are no other's
_A_SECOND = 3e10  # operations that take no longer anywhere: they are not worth a trial
_HEAPS = 44  # distinct tokens of a text are about this times the root of its length
_DISTINCT = 0.3  # share of a method's prompts that no other method of the same student has
_LONGEST = 1.8  # the longest of a batch's texts, in multiples of their mean
_SAID = 60  # tokens of a rationale that has not been written yet
_LOOKED_AT = 2  # passages a question that the student has a second look at
# Settings that leave a step's time as it is: one trial serves all of their values.
_ANY = {"epochs": 1.0, "lr": 1.0, "train_questions": None}


@dataclass(frozen=True)
class Work:
    """How much a run has to do.

    Attributes:
        questions: How many there are in train, dev and test; empty where that is not known.
        choices: Of a question, on average.
        rationales: A training question's.
        passages: Of the knowledge base.
        question, query, answer, rationale, passage: Tokens, on average; a query is a question with one of its choices.
    """

    questions: dict[str, int]
    choices: float
    rationales: float
    passages: int
    question: int
    query: int
    answer: int
    rationale: int
    passage: int


def estimates(recipe: Recipe, folder: Path, names: Sequence[str]) -> dict[str, float | None]:
    """Seconds that stages will take here.

    Args:
        recipe: What is run.
        folder: The run's folder; what it holds already is counted exactly.
        names: Stages as `kard status` shows them, e.g. ``students/rationales``.

    Returns:
        By name; None where it cannot be known yet: a model of the hub that is not here, a teacher that has to be tried first, a
        model of a kind that cannot be had with fewer layers.
    """
    with unsaid():
        work = counted(recipe, folder)
    found: dict[str, float | None] = {}
    for name in names:
        try:
            found[name] = _seconds(name, recipe, folder, work)
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ImportError) as error:
            say(f"  {name}: no estimate, for a trial of its model failed ({type(error).__name__}: {str(error)[:80]})")
            found[name] = None
    return found


def tokens(text: str) -> float:
    """About how many tokens a text has, by any model's tokenizer: words and signs, or by its bytes where there are no spaces."""
    return max(1.15 * len(re.findall(r"\w+|[^\w\s]", text)), len(text.encode("utf-8", "replace")) / 6)


def counted(recipe: Recipe, folder: Path) -> Work:
    """What there is to do."""
    sizes, sample = _questions(recipe, folder)
    kept = _rows(folder / "rationales", "rationales.jsonl")
    texts = [row["text"] for row in kept if row["status"] == "kept"] or [text for q in sample for text in q.rationales]
    section, limit = recipe.explainer, recipe.teacher.rationales
    each = 1.0 if section.kind == "extractive" else float(limit or 1)
    if section.kind == "recorded" and sample:
        each = mean(min(len(question.rationales), limit or len(question.rationales)) for question in sample)
    if kept:
        each = len(texts) / len({row["question"] for row in kept})
    knowledge = recipe.knowledge
    passages = _rows(folder / "knowledge", "passages.jsonl")
    read = [f"{row['title']} {row['text']}" for row in passages] or [
        one.full_text
        for document in first_documents(knowledge)
        for one in passages_of(document, knowledge.passage_words)
    ]
    hub = SIZES.get(recipe.questions.kind)
    asked = [tokens(question.query("question_and_choices")) for question in sample] or [float(hub[3] if hub else 60)]
    said = min(_SAID, section.max_tokens) if section.asks else 30 * section.sentences
    return Work(
        questions=sizes,
        choices=mean([len(question.choices) for question in sample] or [4]),
        rationales=each,
        passages=len(read_passages(folder / "knowledge" / "passages.jsonl"))
        if passages
        else extent_of(knowledge).passages,
        question=round(mean(asked)) + 20,  # what stands around a question in the prompt
        query=round(mean([tokens(f"{q.question} {q.answer_text}") for q in sample] or [0.75 * asked[0]])),
        answer=round(mean([tokens(question.answer_text) for question in sample if question.answer is not None] or [4]))
        + 4,
        rationale=round(mean(map(tokens, texts)) if texts else said),
        passage=round(max(1.0, mean(map(tokens, read))) if read else 1.2 * knowledge.passage_words),
    )


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Some rows of a finished stage's file; none of one that is not there."""
    return list(islice(read_jsonl(folder / name), SAMPLE)) if manifest_of(folder) is not None else []


def _questions(recipe: Recipe, folder: Path) -> tuple[dict[str, int], list[Question]]:
    """How many there are in train, dev and test, and some of them; nothing where they cannot be read (the stage says why)."""
    section, done = recipe.questions, folder / "questions"
    if manifest_of(done) is not None:
        splits = {name: read_questions(done / f"{name}.jsonl") for name in ("train", "dev", "test")}
    elif section.kind == "generated":
        return {name: size or 0 for name, size in section.sizes.items()}, []
    elif not section.has_files and section.kind in SIZES:
        wanted = (section.train_size, section.dev_size, section.test_size)
        there = list(SIZES[section.kind])
        if section.kind in SPLIT_BY_SIZE:
            there[0] = sum(there[:3]) - sum(size or known for size, known in zip(wanted[1:], there[1:3], strict=True))
        names = zip(("train", "dev", "test"), wanted, there, strict=False)
        return {name: size or known for name, size, known in names}, []
    else:
        try:
            splits = load_splits(section, recipe.seed_of_data)
        except UserError:
            return {}, []
    return {name: len(rows) for name, rows in splits.items()}, splits["train"][:SAMPLE]


def _seconds(name: str, recipe: Recipe, folder: Path, work: Work) -> float | None:
    stage, _, part = name.partition("/")
    if name in _PER_PASSAGE:
        model = recipe.student.model
        converts = name == "students/base" and model.startswith(PACKAGE) and downloaded_folder(model) is None
        return _LITTLE + _PER_PASSAGE[name] * work.passages + converts * _CONVERSION
    if not work.questions:
        return None
    if stage == "questions" and recipe.questions.kind == "generated":
        return _asked(recipe.teacher, (3 - recipe.questions.keep_known) * sum(work.questions.values()))
    if stage in _PER_RATIONALE:
        return _rationales(stage, recipe, work)
    if stage == "reranker":
        return _reranker(recipe, work)
    if stage == "students" and part != "nothing":
        [of] = {
            TRAINING_SETS[one.trained_on] for one in methods_named(recipe.evaluation.methods) if one.trained_on == part
        }
        return _student(recipe, folder, work, of)
    if stage == "predictions":
        trained_on, over, _ = part.partition("_over_")
        methods = [one for one in methods_named(recipe.evaluation.methods) if one.trained_on == trained_on]
        methods = [one for one in methods if not over or (one.reads_passages and not one.is_oracle)]
        return _predictions(recipe, folder, work, methods)
    return _REPORT if stage == "report" else _LITTLE


def _rationales(stage: str, recipe: Recipe, work: Work) -> float | None:
    section = recipe.explainer
    explained = min(recipe.explained_count or work.questions["train"], work.questions["train"])
    if stage == "candidates" or not section.asks:
        evaluated = work.questions[recipe.evaluation.split]
        return _LITTLE + _PER_RATIONALE[stage] * (explained + evaluated) * work.rationales
    return _asked(section, explained * section.asked_for)


def _asked(section: TeacherSection, requests: int) -> float | None:
    if section.kind != "openai" or section.mode == "batch":
        return None
    return requests * 2.0 / section.resources.concurrency


def _reranker(recipe: Recipe, work: Work) -> float | None:
    from kard.preflight.trial import reranker_speed

    section, candidates = recipe.reranker, recipe.retriever.candidates
    queries = max(1, round(work.choices)) if section.choices == "each" else 1
    asked = min(work.question if section.choices == "together" else work.query, section.question_tokens)
    read = min(work.passage, section.passage_tokens)
    learned = min(section.train_questions or work.questions["train"], work.questions["train"])
    evaluated = work.questions[recipe.evaluation.split]
    steps = section.epochs * learned * work.rationales / section.batch_size
    drawn = learned * (section.rationale_candidates + section.question_candidates)
    drawn = drawn * (not section.learns_passages) + evaluated * candidates
    # Some passages come again and again: fewer are encoded than draws by chance would find.
    encoded = work.passages * (1 - exp(-_AGAIN * drawn / max(1, work.passages))) * (2 if section.learns_passages else 1)
    judged = 2 * evaluated * queries * (candidates if section.kind == "cross_encoder" else 1)
    if _is_little(section.model, (steps * section.batch_size * queries + encoded) * read):
        return _LITTLE
    speed = reranker_speed(section.model_copy(update=_ANY), asked, read, queries)
    if speed is None:
        return None
    return _IMPORTS + steps * speed.step + encoded * speed.passage + judged * speed.query


def _is_little(model: str, tokens: float) -> bool:
    """Whether reading and learning so many tokens takes a model about a second."""
    config = model_config(model)
    if config is None:
        return False
    config = config.get_text_config()
    return float(72 * config.num_hidden_layers * config.hidden_size**2 * tokens) < _A_SECOND


def _read(recipe: Recipe, work: Work, passages: int, shown: int = 1) -> int:
    """Tokens of a prompt."""
    return min(shown * (work.question + passages * work.passage), recipe.student.max_input_tokens)


def _speed(recipe: Recipe, folder: Path, work: Work) -> StudentSpeed | None:
    """Of the student, by one trial of its longest texts."""
    from kard.preflight.trial import student_speed

    section, base = recipe.student, folder / "students" / "base"
    vocabulary = None
    if section.trim_vocabulary and manifest_of(base) is not None:
        vocabulary = int(read_json(base / "config.json")["vocab_size"])
    elif section.trim_vocabulary and (config := model_config(section.model)) is not None:
        seen = _HEAPS * sqrt(work.passages * work.passage)
        vocabulary = min(int(config.get_text_config().vocab_size), round(seen))
    tried = section.model_copy(update={**_ANY, "rationales": None})
    read, written = _read(recipe, work, section.passages), work.answer + work.rationale
    return student_speed(tried, read, written, vocabulary, recipe.evaluation.engine == "int8")


def _student(recipe: Recipe, folder: Path, work: Work, of: TrainingSet) -> float | None:
    section = recipe.student
    read = _read(recipe, work, section.passages if of.reads != "nothing" else 0)
    written = work.answer + (of.writes != "answer") * work.rationale
    each = min(work.rationales, section.rationales or work.rationales) if of.from_rationales else 1.0
    questions = min(section.train_questions or work.questions["train"], work.questions["train"])
    examples = section.epochs * questions * each
    if _is_little(section.model, examples * (read + written)):
        return _LITTLE
    speed = _speed(recipe, folder, work)
    if speed is None:
        return None
    return _LITTLE * 2 + examples * ((read + written) * speed.token_learned + written * speed.target_learned)


def _predictions(recipe: Recipe, folder: Path, work: Work, methods: Sequence[Method]) -> float | None:
    section = recipe.evaluation
    if section.engine == "vllm":
        return None
    dev = work.questions["dev"] if section.abstain.risk is not None else 0
    looks = any(method.reads == "reranker" for method in methods)
    total = _LITTLE * 2 + _IMPORTS * looks
    shown = 1 + section.shots * any(method.trained_on == "nothing" for method in methods)
    seen: set[tuple[str, int, bool]] = set()
    for method in methods:
        passages = section.passages if method.reads_passages else 0
        written = work.answer + (method.writes == "rationale") * work.rationale
        on_dev = dev + min(dev, MOST_ABSENT) * method.reads_passages
        evaluated = work.questions[section.split] + on_dev * (not method.is_oracle)
        kind = (method.writes, passages, method.ranks_choices)
        prompts = evaluated * (_DISTINCT if kind in seen else 1.0)
        seen.add(kind)
        read, texts = _read(recipe, work, passages, shown), prompts * (1 if method.ranks_choices else section.samples)
        if _is_little(recipe.student.model, texts * (read + written)):
            continue
        speed = _speed(recipe, folder, work)
        if speed is None:
            return None
        longest = min(_LONGEST * written, recipe.student.max_output_tokens)
        total += prompts * read * speed.token_read + texts * written * speed.token_written
        total += max(1.0, texts / section.resources.batch_size) * longest * speed.token_step
        if method.reads == "reranker" and recipe.reranker.likelihood_weight is not None:
            total += evaluated * _LOOKED_AT * (work.question / 2 + work.passage) * speed.token_read
    return total
