"""The page at /docs: the OpenAPI description as plain HTML, without scripts or assets from elsewhere."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def reference_page(openapi: dict[str, Any]) -> str:
    """Render an OpenAPI description."""
    environment = Environment(
        loader=PackageLoader("kard", "serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kind": _kind, "name": lambda reference: reference.rpartition("/")[2]}
    operations = [
        (method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {name: part for name, part in openapi["components"]["schemas"].items() if "properties" in part}
    return environment.get_template("reference.html.jinja").render(api=openapi, operations=operations, schemas=schemas)


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
    limits = [f"from {least}"] * (least is not None) + [f"to {most}"] * (most is not None)
    unit = ["characters"] * ("maxLength" in part)
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return " ".join([words.get(part.get("type", ""), part.get("type", "anything")), *limits, *unit])
