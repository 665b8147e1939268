"""The pages at /docs and /glossary: plain HTML, without scripts or assets from elsewhere."""

from __future__ import annotations

import json
from typing import Any

from kard.report.templates import render

_ADDRESS = "localhost:8000"


def reference_page(openapi: dict[str, Any]) -> str:
    """Render an OpenAPI description."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {name: part for name, part in openapi["components"]["schemas"].items() if "properties" in part}
    calls = {(method, path): _curl(openapi, method, path, operation) for method, path, operation in operations}
    return render(
        "reference.html.jinja", api=openapi, operations=operations, schemas=schemas, calls=calls, kind=_kind, name=_name
    )


def glossary_page() -> str:
    """The words of answers and reports."""
    return render("glossary.html.jinja")


def _curl(openapi: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """A command that asks the route, as one types it."""
    call = f"curl {_ADDRESS}{path.replace('{model}', 'kard_reranker').replace('{document}', 'price%20list')}"
    if "requestBody" not in operation:
        return call
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    [example] = openapi["components"]["schemas"][_name(reference)]["examples"]
    return f"{call} -H 'Content-Type: application/json' \\\n  -d '{json.dumps(example, ensure_ascii=False)}'"


def _name(reference: str) -> str:
    """The name of the schema that a reference leads to."""
    return reference.rpartition("/")[2]


def _kind(part: dict[str, Any]) -> str:
    """A schema in a few words: ``text of 1–8000``, ``list of Passage``, ``number or null``."""
    if "$ref" in part:
        return _name(part["$ref"])
    if "anyOf" in part:
        return " or ".join(_kind(option) for option in part["anyOf"])
    if "const" in part:
        return json.dumps(part["const"])
    if part.get("type") == "array":
        length = f" (at most {part['maxItems']})" if "maxItems" in part else ""
        return f"list of {_kind(part['items'])}{length}"
    least, most = (
        part.get(key, part.get(other)) for key, other in (("minimum", "minLength"), ("maximum", "maxLength"))
    )
    limits = [f"{word} {limit:g}" for word, limit in (("from", least), ("to", most)) if limit is not None]
    unit = ["characters"] * ("maxLength" in part)
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return " ".join([words.get(part.get("type", ""), part.get("type", "anything")), *limits, *unit])
