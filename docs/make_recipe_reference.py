"""Print docs/recipe.md: every key of a recipe with its default and meaning, read off the models in kard.recipe.

Usage: python docs/make_recipe_reference.py > docs/recipe.md
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from kard.recipe.base import Section
from kard.recipe.recipe import Recipe

INTRODUCTION = """\
<!-- Written by docs/make_recipe_reference.py: change the text there or in src/kard/recipe/, and run it again. -->

# Recipe reference

A recipe is one YAML file that says everything about a run. `kard init my-project` writes a commented one; every key
that you leave out has the default below. An unknown key or a value out of range is an error that names the key.

- A relative path is meant from the recipe's own folder.
- `--set section.key=value` overrides a key for one command: `kard run recipe.yaml --set student.epochs=3`.
- The run folder's `recipe.yaml` holds the recipe with every default written out.
- κ*, κ1, κ2, k, l, τ1, τ2 are the paper's symbols; see [how it works](how-it-works.md).
- What runs again after a change: see the [table in the FAQ](faq.md#what-runs-again-when-i-change-a-key).
"""

# Meanings of the keys that carry no description in kard.recipe.
MEANINGS = {
    "questions.kind": "`jsonl`: your own files; `table`, `chat`, `squad`, `hotpotqa`, `beir`, `msmarco`: files in "
    "[other formats](your-own-data.md#questions-in-other-formats); `generated`: [made by the teacher](generated-questions.md) "
    "from the documents; "
    "`wikivital`: questions made from the text in the extra `demo`; the others: the paper's datasets (and ARC, PubMedQA) from "
    "the dataset hub, with the extra `hub`",
    "questions.dev": "jsonl: questions kept aside for your own choices of settings",
    "questions.test": "jsonl: test questions",
    "questions.dev_size": "null: the whole file `dev`, or a tenth of all questions; generated: none",
    "questions.test_size": "null: the whole file `test`, or a fifth of all questions; generated: how many are asked for",
    "knowledge.kind": "`jsonl`, `csv`, `parquet`: rows with id, title, text; `mediawiki`: XML dumps; `files`: text, Markdown, "
    "HTML, PDF, DOCX, one document each; `squad`, `hotpotqa`, `strategyqa`, `beir`, `msmarco`: the documents that "
    "[these formats](your-own-data.md#questions-in-other-formats) bring; `wikivital`: the article summaries in the extra `demo`; "
    "`wikipedia`: all of it, streamed from the dataset hub, with the extra `hub`",
    "retriever.kind": "`bm25`: words; `dense`: vectors of an encoder; `hybrid`: both",
    "retriever.k1": "BM25's k1: how soon repeating a word stops counting",
    "retriever.b": "BM25's b: how much long passages are held back",
    "teacher.kind": "`recorded`: rationales that came with the questions; `extractive`: sentences of the gold passages "
    "(no LLM is asked); `openai`: any OpenAI-compatible endpoint; `llama_cpp`: a GGUF file, served here; `transformers`: a model "
    "in this process",
    "teacher.max_tokens": "LLM: longest reply; one that is cut off is rejected as truncated",
    "teacher.resources.concurrency": "openai, llama_cpp: requests under way at once; transformers: how many are written in one "
    "batch",
    "reranker.epochs": "passes over the candidate sets",
    "reranker.lr": "peak learning rate",
    "reranker.question_tokens": "longer questions are cut",
    "reranker.passage_tokens": "longer passages are cut, for the reranker only",
    "student.method": "`lora`: adapters; `full`: all weights",
    "student.lora_rank": "lora: rank of the adapters, which are scaled by 2",
    "student.epochs": "passes over the training examples",
    "student.lr": "peak learning rate",
    "student.max_input_tokens": "longest prompt; passages are shortened to fit, then the question (`long_questions`)",
    "student.max_output_tokens": "longest continuation; where there are choices, room for the answer is kept in it",
    "evaluation.methods": "rows of the [methods table](how-it-works.md#methods)",
    "name": "shown in tables and reports; empty: the recipe file's name",
    "seed": "decides splits, shuffling, training order, first adapters, and the teacher's request seeds",
}


def reference() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema()
    models = {name: field.annotation for name, field in Recipe.model_fields.items()}
    sections = {name: model for name, model in models.items() if isinstance(model, type) and issubclass(model, Section)}
    top = {name: spec for name, spec in schema["properties"].items() if name not in sections}
    parts = [INTRODUCTION, "## Top level\n", _table(top, prefix="")]
    for name, model in sections.items():
        parts += [f"## {name}\n", f"{_linked(model)}\n", _table(_properties(schema, model.__name__), f"{name}.")]
    return "\n".join(parts)


def _properties(schema: dict[str, Any], model: str) -> dict[str, Any]:
    """The keys of a section; those of a section inside it with its name in front."""
    found: dict[str, Any] = {}
    for key, spec in schema["$defs"][model]["properties"].items():
        inner = _properties(schema, spec["$ref"].rpartition("/")[2]) if "$ref" in spec else None
        found |= {key: spec} if inner is None else {f"{key}.{name}": own for name, own in inner.items()}
    return found


def _linked(model: type[Section]) -> str:
    return re.sub(r"KARD equation (\d)", r"[equation \1](how-it-works.md#equations)", model.__doc__ or "")


def _table(properties: dict[str, Any], prefix: str) -> str:
    rows = [
        f"| `{key}` | {_default(spec)} | {_values(spec)} | {_meaning(prefix + key, spec)} |"
        for key, spec in properties.items()
    ]
    return "\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *rows, ""])


def _default(spec: dict[str, Any]) -> str:
    default = spec["default"]
    if default == "":
        return "empty"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _values(spec: dict[str, Any]) -> str:
    if "anyOf" in spec:
        return " or ".join(_values(choice) for choice in spec["anyOf"])
    if choices := spec.get("enum") or ([spec["const"]] if "const" in spec else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if spec.get("format") == "path":
        return "file"
    names = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text", "null": "null"}
    listed = f"list of {names[spec['items']['type']]}s" if spec["type"] == "array" else "mapping"
    kind = names.get(spec["type"]) or listed
    return " ".join([kind, ", ".join(_bounds(spec))]).strip()


def _bounds(spec: dict[str, Any]) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {spec[name]:g}" for name, sign in signs.items() if name in spec]


def _meaning(key: str, spec: dict[str, Any]) -> str:
    """The model's own description; a key that has one and is explained here as well is explained once too often."""
    described = spec.get("description")
    if (described is None) == (key not in MEANINGS):
        raise SystemExit(f"{key}: describe it once, in kard.recipe or in MEANINGS.")
    return (described or MEANINGS[key]).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    sys.stdout.write(reference())
