"""What a recipe asks of its models, of disk and of memory, looked at before hours of other work. ``python benchmarks/room.py``
prints what is assumed of a passage here, measured."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from kard.data.passages import passages_of
from kard.data.question import Question
from kard.data.readers.documents import Document, LeftOut, cleaned_document
from kard.data.readers.kinds import documents_of
from kard.data.readers.wikipedia import DATASET
from kard.errors import UserError
from kard.methods import methods_named
from kard.models.weights import check_model, model_config, model_location, most_tokens
from kard.preflight.launcher import check_sharded
from kard.recipe.recipe import Recipe
from kard.recipe.sections import KnowledgeSection, StudentSection
from kard.recipe.teacher import TeacherSection

# Rows of a file that are looked at, and what stands around a document's texts in one.
SAMPLE, ROW_BYTES = 1000, 40
# A passage's own bytes: a word in the file of passages, all around it there, and a word in the index and in the runs that are
# there until they are merged. A duplicate's key, and a word's token.
WORD_BYTES, PASSAGE_BYTES = 6.3, 155
INDEX_WORD_BYTES, RUN_WORD_BYTES = 6.0, 6.1
KEY_BYTES = 128
TOKENS_PER_WORD = 1.4
# A passage's share of the build's memory: lengths, ids and keys of duplicates, the vocabulary.
MEMORY_BYTES = 60
# Of the words that a passage may have, as most paragraphs end sooner.
FULL = 0.85
_WIKIPEDIA = 36_000_000  # passages of at most 100 words, of English articles in 2023
_DIMENSION = 768  # of an encoder that is not here yet
# Less than this is not judged: a guess this coarse must not keep a small run from starting.
_FLOOR = 1e9
# How many questions the sets of the hub evaluate.
_EVALUATED = {"medqa": 1273, "strategyqa": 687, "openbookqa": 500, "arc": 3548, "pubmedqa": 200}
# What a document in a packed or marked-up format shrinks or grows to as plain text.
_TEXT_SHARE = {
    ".bz2": 2.0,
    ".gz": 1.8,
    ".xml": 0.6,
    ".parquet": 1.7,
    ".pdf": 0.1,
    ".docx": 0.2,
    ".html": 0.4,
    ".htm": 0.4,
}
_PARTS = {  # what a stage writes
    "knowledge": ("passages",),
    "index": ("index", "index being built", "index's vectors"),
    "reranker": ("passage vectors",),
}


def check_before(recipe: Recipe, folder: Path, to_do: set[str]) -> None:
    """Look whether disk, memory, teacher and models are what the stages that are to be done need.

    Raises:
        UserError: Names the key of the first that is not, and what to do.
    """
    check_room(recipe, folder, to_do)
    # Where replies are there, the stages before are done: what is still to be asked is found out at once.
    if recipe.teacher.kind == "openai" and _asks(recipe, to_do) and not (folder / "teacher.sqlite").exists():
        from kard.teacher.endpoint import check_endpoint

        check_endpoint(recipe.teacher)
    check_models(recipe, to_do)
    if recipe.tracker is not None and find_spec(recipe.tracker) is None:
        raise UserError(f"tracker: {recipe.tracker} is not installed. Run: pip install {recipe.tracker}.")


def _asks(recipe: Recipe, to_do: set[str]) -> bool:
    """Whether the teacher will be asked."""
    return "rationales" in to_do or ("questions" in to_do and recipe.questions.kind == "generated")


def check_models(recipe: Recipe, to_do: set[str]) -> None:
    """Look whether the models of the stages that are to be done are there, and can do what the recipe asks of them.

    Raises:
        UserError: Names the key of the first that is not there, or cannot.
    """
    if recipe.teacher.verifier is not None and "rationales" in to_do:
        _check_verifier(_check_writer(recipe.teacher.verifier, "teacher.verifier"), recipe.teacher)
    if recipe.teacher.kind == "transformers" and recipe.teacher.model is not None and _asks(recipe, to_do):
        _check_writer(recipe.teacher.model, "teacher.model")
    if recipe.retriever.kind in ("dense", "hybrid") and "index" in to_do:
        check_model(recipe.retriever.encoder, "retriever.encoder")
    if "reranker" in to_do:
        check_model(recipe.reranker.model, "reranker.model")
    if to_do & {"students", "predictions"}:
        from kard.models.precision import compute_dtype

        config = _check_writer(recipe.student.model, "student.model")
        check_sharded(config, "student.model")
        _check_positions(config, recipe.student)
        compute_dtype(recipe.student.dtype, config.model_type)
        if recipe.student.quantized and "students" in to_do and find_spec("bitsandbytes") is None:
            raise UserError("student.quantized: bitsandbytes is not installed. Run: pip install 'kard[qlora]'.")
        if config.is_encoder_decoder and recipe.reranker.likelihood_weight:
            raise UserError(
                f"reranker.likelihood_weight: '{recipe.student.model}' is an encoder-decoder, and only decoders learn how "
                "likely a question is. Set it to null, or choose another student.model."
            )
        if recipe.evaluation.engine == "vllm" and "predictions" in to_do:
            from kard.student.vllm import check_vllm

            check_vllm(config)
            if ranked := [one.name for one in methods_named(recipe.evaluation.methods) if one.ranks_choices]:
                raise UserError(
                    f"evaluation.methods: {ranked[0]} compares whole choices, which needs evaluation.engine: transformers. "
                    "Set it, or leave the method out."
                )


def _check_verifier(config: Any, section: TeacherSection) -> None:
    from kard.teacher.limits import CHARACTERS_PER_TOKEN
    from kard.teacher.verifier import example_prompt

    reads = most_tokens(config)
    prompt = example_prompt(Question("", "", ("", "")), section)
    needed = len(prompt) // CHARACTERS_PER_TOKEN + section.max_tokens
    if reads is not None and needed > reads:
        raise UserError(
            f"teacher.verifier: '{section.verifier}' reads {reads:,} tokens; its worked examples and a rationale take about "
            f"{needed:,}, the question not counted. Choose one that reads more, or set it to null."
        )


def _check_writer(name: str, key: str) -> Any:
    """As `check_model`, of a model that writes: its tokenizer must know an end, and it must go on from what it has read."""
    config = check_model(name, key)
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    from kard.models.names import cache_argument
    from kard.student.loading import base_tokenizer

    base_tokenizer(model_location(name, key), key)
    if not config.is_encoder_decoder:
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if known else None
        takes = set(signature(kind.forward).parameters) if kind else set()
        takes |= {"cache"} if kind and cache_argument(kind) else set()
        if missing := sorted({"attention_mask", "cache", "logits_to_keep"} - takes):
            raise UserError(
                f"{key}: '{name}' is a model of type '{config.model_type}', which "
                f"{'takes no ' + ' and no '.join(missing) if known else 'writes no text'}. Choose another model."
            )
    return config


def _check_positions(config: Any, section: StudentSection) -> None:
    reads = most_tokens(config)
    # A decoder's positions hold what it reads and what it writes, an encoder-decoder has as many for each.
    both = (section.max_input_tokens, section.max_output_tokens)
    needed = max(both) if config.is_encoder_decoder else sum(both)
    if reads is not None and needed > reads:
        raise UserError(
            f"student.max_input_tokens and max_output_tokens: {needed:,} tokens asked for, '{section.model}' has positions for "
            f"{reads:,}. Lower one of them."
        )


@dataclass(frozen=True)
class Extent:
    """About how many passages documents are cut into, and how many words each has on average."""

    passages: int
    words: float


def extent_of(section: KnowledgeSection) -> Extent:
    """The extent of a knowledge base before it is read: by the size of its files and its first documents.

    Raises:
        UserError: There are no such files.
    """
    full = FULL * section.passage_words
    path = Path(DATASET) if section.kind == "wikipedia" and Path(DATASET).is_dir() else section.path
    if section.kind == "wikipedia" and path is None:
        return Extent(_WIKIPEDIA * 100 // section.passage_words, full)
    if path is None:  # Wikipedia's vital articles, their summaries
        return Extent(max(10_033, 1_140_000 // section.passage_words), full)
    if not path.exists():
        raise UserError(f"{path}: no such file (knowledge.path). Mend the path.")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    text = sum(file.stat().st_size * _TEXT_SHARE.get(file.suffix.lower(), 1.0) for file in files)
    first = first_documents(section)
    passages = [passage for document in first for passage in passages_of(document, section.passage_words)]
    if not passages:
        return Extent(max(1, round(text / (WORD_BYTES * full))), full)
    row = mean(
        [
            len(f"{document.id}{document.title}{document.text}{document.metadata}".encode()) + ROW_BYTES
            for document in first
        ]
    )
    words = mean([len(passage.full_text.encode()) for passage in passages]) / WORD_BYTES
    return Extent(max(1, round(text / row * len(passages) / len(first))), words)


def first_documents(section: KnowledgeSection) -> list[Document]:
    """A file's first documents, where it is read row by row; none of other kinds, or where it cannot be read (the stage says
    why)."""
    if section.kind not in ("jsonl", "csv", "parquet"):
        return []
    try:
        return [cleaned_document(one, Counter()) for one in islice(documents_of(section, LeftOut()), SAMPLE)]
    except UserError:
        return []


def rooms(recipe: Recipe, extent: Extent) -> dict[str, float]:
    """Bytes of disk by part: the passages, the index and what is there only while it is built, the passages' vectors."""
    section, retriever = recipe.knowledge, recipe.retriever
    passages, words = extent.passages, extent.passages * extent.words
    parts = {"passages": words * WORD_BYTES + passages * (PASSAGE_BYTES + KEY_BYTES * (section.duplicates is not None))}
    if retriever.kind in ("bm25", "hybrid"):
        parts |= {"index": words * INDEX_WORD_BYTES, "index being built": words * RUN_WORD_BYTES}
    if retriever.kind in ("dense", "hybrid"):
        parts["index's vectors"] = 2.0 * passages * 2 * _dimension(retriever.encoder)
    if any(method.reads == "reranker" for method in methods_named(recipe.evaluation.methods)):
        parts["passage vectors"] = _vectors(recipe, extent)
    return parts


def peak(parts: Mapping[str, float]) -> float:
    """The most bytes that are there at one time: the index's runs are gone before there are vectors of candidates."""
    one, other = parts.get("index being built", 0.0), parts.get("passage vectors", 0.0)
    return sum(parts.values()) - min(one, other)


def _vectors(recipe: Recipe, extent: Extent) -> float:
    """Of the candidates of the questions that are evaluated, by the untrained and by the trained encoder where both sides are
    trained, and of the candidates that are trained on where only one is."""
    reranker = recipe.reranker
    if reranker.kind == "cross_encoder":
        return 0.0
    questions = recipe.evaluated_size or _EVALUATED.get(recipe.questions.kind, 0)
    kept = min(extent.passages, questions * recipe.retriever.candidates)
    if not reranker.learns_passages:
        trained = reranker.train_questions or recipe.questions.train_size or 0
        kept = min(extent.passages, kept + trained * (reranker.rationale_candidates + reranker.question_candidates))
    tokens = min(reranker.passage_tokens, extent.words * TOKENS_PER_WORD)
    numbers = _dimension(reranker.model) * (2 if reranker.vectors == "fp16" else 1)
    return kept * tokens * numbers * (2 if reranker.learns_passages else 1)


def _dimension(encoder: str) -> int:
    config = model_config(encoder) if encoder else None
    return int(config.get_text_config().hidden_size) if config is not None else _DIMENSION


def memory_of(recipe: Recipe, extent: Extent) -> float:
    """Bytes of memory that passages and index take while they are made, beside what any run takes."""
    vectors = 2 * _dimension(recipe.retriever.encoder) if recipe.retriever.kind in ("dense", "hybrid") else 0
    return extent.passages * (MEMORY_BYTES + vectors)


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or is going to be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def free_memory() -> int:
    """Bytes that a new process can have: files that are cached for speed make room for it."""
    return int(psutil.virtual_memory().available)


def check_room(recipe: Recipe, folder: Path, to_do: set[str]) -> None:
    """Look whether disk and memory suffice for what is to be done.

    Raises:
        UserError: Says what is needed, what is free, and what to do.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    stages = to_do & _PARTS.keys()
    extent = extent_of(recipe.knowledge)
    parts = {part: size for part, size in rooms(recipe, extent).items() if any(part in _PARTS[one] for one in stages)}
    begun = (*(folder / f"{stage}.partial" for stage in _PARTS), folder / "vectors")
    there = sum(file.stat().st_size for place in begun for file in place.rglob("*") if file.is_file())
    needed, free = peak(parts) - there, free_disk(folder)
    # Offline, something else stands for the hub's set, and may be a small part of it.
    if (needed / 4 if HF_HUB_OFFLINE and recipe.knowledge.kind == "wikipedia" else needed) > max(free, _FLOOR):
        listed = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in parts.items())
        raise UserError(
            f"{folder}: about {needed / 1e9:.1f} GB of disk are needed ({listed}), {free / 1e9:.1f} GB are free. Free some, give "
            "--output on a larger disk, or take fewer passages (knowledge)."
        )
    if to_do & {"knowledge", "index"} and (memory := memory_of(recipe, extent)) > max(free := free_memory(), _FLOOR):
        raise UserError(
            f"knowledge: passages and index need about {memory / 1e9:.1f} GB of memory to be made, {free / 1e9:.1f} GB are free. "
            "Close other programs, or take fewer passages."
        )
