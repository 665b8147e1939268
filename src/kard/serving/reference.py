"""The pages at /docs and /glossary: plain HTML, without scripts or assets from elsewhere."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kard.report.glossary import GLOSSARY, anchor, marked

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
    return _render("reference.html.jinja", api=openapi, operations=operations, schemas=schemas, calls=calls)


def glossary_page() -> str:
    """The words of answers and reports."""
    return _render("glossary.html.jinja", glossary=GLOSSARY)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("kard", "serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named: dict[str, Any] = {
        "kind": _kind,
        "name": lambda reference: reference.rpartition("/")[2],
        "anchor": anchor,
        "marked": marked,
    }
    environment.filters |= named
    return environment.get_template(template).render(values)


def _curl(openapi: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """A command that asks the route, as one types it."""
    call = f"curl {_ADDRESS}{path.replace('{model}', 'kard_reranker')}"
    if "requestBody" not in operation:
        return call
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    [example] = openapi["components"]["schemas"][reference.rpartition("/")[2]]["examples"]
    return f"{call} -H 'Content-Type: application/json' \\\n  -d '{json.dumps(example, ensure_ascii=False)}'"


def _kind(part: dict[str, Any]) -> str:
    """A schema in a few words: ``text of 1–8000``, ``list of Passage``, ``number or null``."""
    if "$ref" in part:
        return str(part["$ref"].rpartition("/")[2])
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
